//! What principals are told beside the answers to their calls, for the streams of `/mcp/v1/events`.
//!
//! There is a ring of events for each principal that has, or lately had, a stream, and one for what everybody
//! may know. Streams hold no queue: each has its place in both rings and reads on from there, so a stream that
//! is not read costs nothing and one that falls too far behind is cut. Calls of a principal without a
//! stream cost one look into a map for each thing they tell.

mod ring;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mcp::envelope::{self, Body};
use mcp::notification::{self, List, Notification};
use mcp::{Cause, Failure, Message};
use policy::admission::{Gate, Permit};
use tokio::sync::Notify;
use tokio::time::Instant;

use ring::Ring;
pub use ring::{Missed, Place};

use crate::edge::Edge;
use crate::identity::Caller;

/// How often rings that nobody comes back to are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// When to come back after a refusal for want of room.
const COME_BACK: Duration = Duration::from_secs(5);

/// Whose events these are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Principal {
    tenant: String,
    subject: String,
}

impl Principal {
    fn of(caller: &Caller) -> Principal {
        Principal {
            tenant: caller.tenant.clone(),
            subject: caller.subject.clone(),
        }
    }
}

/// One ring and those who wait for what comes.
#[derive(Debug)]
pub struct Channel {
    ring: Mutex<Ring>,
    told: Notify,
    readers: AtomicUsize,
    left_at: Mutex<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl Channel {
    fn new() -> Arc<Channel> {
        Arc::new(Channel {
            ring: Mutex::new(Ring::new(unix_ms())),
            told: Notify::new(),
            readers: AtomicUsize::new(0),
            left_at: Mutex::new(Instant::now()),
        })
    }

    fn push(&self, message: Bytes) {
        lock(&self.ring).push(unix_ms(), message);
        self.told.notify_waiters();
    }

    /// Takes what a call tells, if it is something for a stream: progress or a log message.
    pub fn told(&self, message: &Bytes) {
        if let Ok(Body::One(Ok(Message::Notification { method, params }))) = envelope::read(message)
            && matches!(
                Notification::read(&method, params),
                Ok(Notification::Progress { .. } | Notification::Log { .. })
            )
        {
            self.push(message.clone());
        }
    }

    fn is_left(&self, keep: Duration) -> bool {
        self.readers.load(Ordering::Acquire) == 0 && lock(&self.left_at).elapsed() >= keep
    }
}

/// The rings of one edge.
pub struct Events {
    /// Names this life of this process: places of another say nothing here.
    epoch: String,
    everybody: Arc<Channel>,
    principals: Mutex<HashMap<Principal, Arc<Channel>>>,
    streams: Gate,
    rules: settings::EdgeEvents,
}

impl Events {
    /// No streams yet.
    pub fn new(rules: &settings::EdgeEvents) -> Events {
        Events {
            epoch: format!("{:08x}", rand::random::<u32>()),
            everybody: Channel::new(),
            principals: Mutex::default(),
            streams: Gate::new(rules.streams_max),
            rules: rules.clone(),
        }
    }

    /// Where a caller's events go, if anybody reads them.
    pub fn of(&self, caller: &Caller) -> Option<Arc<Channel>> {
        let principals = lock(&self.principals);
        if principals.is_empty() {
            return None;
        }
        principals.get(&Principal::of(caller)).cloned()
    }

    /// Tells everybody that all lists may have changed.
    pub fn lists_changed(&self) {
        for list in [List::Tools, List::Prompts, List::Resources] {
            self.everybody.push(notification::list_changed(list).into());
        }
    }

    /// Opens a stream: after `last`, or from now on.
    ///
    /// # Errors
    /// [`Cause::Overloaded`] past the streams of one principal or of all.
    pub fn open(&self, caller: &Caller, last: Option<&str>) -> Result<(Reader, Begins), Failure> {
        let full = || Failure::new(Cause::Overloaded).retry_after(COME_BACK);
        let place = self.streams.enter().map_err(|_| full())?;
        let own = {
            let mut principals = lock(&self.principals);
            let principal = Principal::of(caller);
            if principals.len() >= self.rules.streams_max && !principals.contains_key(&principal) {
                principals.retain(|_, channel| channel.readers.load(Ordering::Acquire) > 0);
            }
            let channel = principals.entry(principal).or_insert_with(Channel::new);
            // Under the lock, so that no ring is taken away while somebody comes.
            if channel.readers.fetch_add(1, Ordering::AcqRel) >= self.rules.streams_max_principal {
                channel.readers.fetch_sub(1, Ordering::AcqRel);
                return Err(full());
            }
            Arc::clone(channel)
        };
        let at = Position {
            everybody: lock(&self.everybody.ring).last(),
            own: lock(&own.ring).last(),
        };
        let mut reader = Reader {
            at,
            epoch: self.epoch.clone(),
            everybody: Arc::clone(&self.everybody),
            own,
            _place: place,
        };
        let begins = match last {
            None => Begins::Now,
            Some(last) => match reader.known(last) {
                Some(at) => {
                    reader.at = at;
                    Begins::After
                }
                None => Begins::AfterGap,
            },
        };
        Ok((reader, begins))
    }

    fn tidy(&self) {
        let keep = self.rules.keep;
        lock(&self.principals).retain(|_, channel| !channel.is_left(keep));
    }
}

/// Lets go of rings that nobody comes back to, for as long as the process runs.
pub async fn follow(edge: Arc<Edge>) {
    let mut ticks = tokio::time::interval(TIDY_EVERY);
    loop {
        ticks.tick().await;
        edge.events.tidy();
    }
}

/// How a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// With what comes.
    Now,
    /// With what came since.
    After,
    /// With what comes; what came since is not kept.
    AfterGap,
}

/// Where a stream stands in both rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    everybody: Place,
    own: Place,
}

/// One stream's place. Whoever reads waits for nobody and keeps nothing.
pub struct Reader {
    epoch: String,
    everybody: Arc<Channel>,
    own: Arc<Channel>,
    at: Position,
    _place: Permit,
}

impl Reader {
    /// The event id of the place: what comes next comes after it.
    pub fn id(&self) -> String {
        format!("{}_{}_{}", self.epoch, self.at.everybody, self.at.own)
    }

    /// The position that an event id names, if all that came since is here.
    fn known(&self, id: &str) -> Option<Position> {
        let (epoch, places) = id.split_once('_')?;
        let (everybody, own) = places.split_once('_')?;
        let at = Position {
            everybody: Place::parse(everybody)?,
            own: Place::parse(own)?,
        };
        let is_kept = epoch == self.epoch
            && lock(&self.everybody.ring).after(at.everybody).is_ok()
            && lock(&self.own.ring).after(at.own).is_ok();
        is_kept.then_some(at)
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`Missed`] when the stream has fallen too far behind.
    pub async fn next(&mut self) -> Result<Bytes, Missed> {
        loop {
            let (own, everybody) = (Arc::clone(&self.own), Arc::clone(&self.everybody));
            let (own_told, all_told) = (own.told.notified(), everybody.told.notified());
            tokio::pin!(own_told, all_told);
            // Before the rings are looked at, so that nothing is told in between.
            own_told.as_mut().enable();
            all_told.as_mut().enable();
            if let Some(message) = self.ready()? {
                return Ok(message);
            }
            tokio::select! {
                () = &mut own_told => {}
                () = &mut all_told => {}
            }
        }
    }

    fn ready(&mut self) -> Result<Option<Bytes>, Missed> {
        if let Some((place, message)) = lock(&self.own.ring).after(self.at.own)? {
            self.at.own = place;
            return Ok(Some(message));
        }
        let next = lock(&self.everybody.ring).after(self.at.everybody)?;
        Ok(next.map(|(place, message)| {
            self.at.everybody = place;
            message
        }))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        *lock(&self.own.left_at) = Instant::now();
        self.own.readers.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(principal_max: usize) -> Events {
        Events::new(&settings::EdgeEvents {
            streams_max: 3,
            streams_max_principal: principal_max,
            keep: Duration::from_secs(60),
        })
    }

    fn caller(tenant: &str, subject: &str) -> Caller {
        let mut caller = Caller::edge();
        caller.tenant = tenant.to_owned();
        caller.subject = subject.to_owned();
        caller
    }

    fn progress(n: u32) -> Bytes {
        let token = mcp::Id::from_number(1);
        notification::progress(&token, f64::from(n), None, None).into()
    }

    /// All that a stream can read now.
    fn ready(reader: &mut Reader) -> Vec<Bytes> {
        std::iter::from_fn(|| reader.ready().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_principal_hears_of_its_own_calls_and_of_what_is_for_everybody() {
        let events = events(2);
        let (ana, namesake) = (caller("acme", "ana"), caller("other", "ana"));
        assert!(events.of(&ana).is_none(), "nobody reads");
        let (mut one, begins) = events.open(&ana, None).unwrap();
        let (mut other, _) = events.open(&namesake, None).unwrap();
        assert_eq!(begins, Begins::Now);
        events.of(&ana).unwrap().told(&progress(1));
        // A response and other notifications are none of a stream's.
        for message in [
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged"}"#,
        ] {
            events.of(&ana).unwrap().told(&Bytes::from(message));
        }
        assert_eq!(ready(&mut one), [progress(1)]);
        assert_eq!(ready(&mut other), [""; 0]);
        events.lists_changed();
        assert_eq!(ready(&mut one).len(), 3);
        assert_eq!(ready(&mut other).len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_hears_what_was_missed_or_that_it_is_gone() {
        let events = events(2);
        let ana = caller("acme", "ana");
        let (mut reader, _) = events.open(&ana, None).unwrap();
        events.of(&ana).unwrap().told(&progress(1));
        assert_eq!(ready(&mut reader), [progress(1)]);
        let id = reader.id();
        drop(reader);
        events.of(&ana).unwrap().told(&progress(2));
        events.lists_changed();
        let (mut back, begins) = events.open(&ana, Some(&id)).unwrap();
        assert_eq!(begins, Begins::After);
        let read = ready(&mut back);
        assert_eq!((read.len(), &read[0]), (4, &progress(2)));
        for elsewhere in [
            "",
            "x",
            "0_1-0_1-0",
            &id.replace('_', "-"),
            &id.replace("-", ""),
        ] {
            let (_, begins) = events.open(&ana, Some(elsewhere)).unwrap();
            assert_eq!(begins, Begins::AfterGap, "{elsewhere}");
        }
        drop(back);
        // Nobody came back in time.
        tokio::time::advance(Duration::from_secs(61)).await;
        events.tidy();
        assert!(events.of(&ana).is_none());
        let (_, begins) = events.open(&ana, Some(&id)).unwrap();
        assert_eq!(begins, Begins::AfterGap);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_read_is_cut_and_streams_are_counted() {
        let events = events(2);
        let ana = caller("acme", "ana");
        let (mut slow, _) = events.open(&ana, None).unwrap();
        for n in 0..1000 {
            events.of(&ana).unwrap().told(&progress(n));
        }
        assert_eq!(slow.next().await, Err(Missed));

        let (second, _) = events.open(&ana, None).unwrap();
        assert!(events.open(&ana, None).is_err(), "two of one principal");
        let (_third, _) = events.open(&caller("acme", "ben"), None).unwrap();
        assert!(
            events.open(&caller("acme", "eva"), None).is_err(),
            "three of all"
        );
        drop(second);
        assert!(events.open(&ana, None).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_waits_for_either_ring() {
        let events = Arc::new(events(2));
        let ana = caller("acme", "ana");
        let (mut reader, _) = events.open(&ana, None).unwrap();
        let waits = tokio::spawn(async move { (reader.next().await, reader.next().await) });
        tokio::task::yield_now().await;
        events.of(&ana).unwrap().told(&progress(7));
        tokio::task::yield_now().await;
        events.lists_changed();
        let (own, all) = waits.await.unwrap();
        assert_eq!(own, Ok(progress(7)));
        assert!(all.is_ok());
    }
}
