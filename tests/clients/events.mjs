// A standard EventSource that prints what it is told, and comes back by itself: events.mjs URL TOKEN
import { EventSource } from 'eventsource';

const [url, token] = process.argv.slice(2);
const source = new EventSource(url, {
  fetch: (address, init) =>
    fetch(address, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } }),
});
const say = (what) => console.log(JSON.stringify(what));
source.onopen = () => say({ open: true });
source.onmessage = (event) => say({ id: event.lastEventId, message: JSON.parse(event.data) });
source.addEventListener('missed', (event) => say({ id: event.lastEventId, missed: true }));
