// graphql-http's audit of servers, every entry of it: graphql_audit.mjs URL TOKEN
import { serverAudits } from "graphql-http";

const [url, token] = process.argv.slice(2);
const withToken = (input, init = {}) => {
  const headers = new Headers(init.headers);
  headers.set("authorization", `Bearer ${token}`);
  return fetch(input, { ...init, headers });
};
const broken = [];
const audits = serverAudits({ url, fetchFn: withToken });
for (const audit of audits) {
  const result = await audit.fn();
  if (result.status !== "ok") broken.push({ name: audit.name, status: result.status, reason: result.reason });
}
console.log(JSON.stringify({ audits: audits.length, broken }));
