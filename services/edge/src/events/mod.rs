//! What principals are told beside the answers to their calls, for the streams of `/mcp/v1/events`.
//!
//! There is a ring of events for each principal that has, or lately had, a stream, and one for what everybody
//! may know. Streams hold no queue: each has its place in both rings and reads on from there, so a stream that
//! is not read costs nothing and one that falls too far behind is cut. Calls of a principal without a
//! stream cost one look into a map.
//!
//! With Redis, the rings of all edges are one: an event goes there and comes back to each edge, so a stream may
//! be at any edge and come back to any other. While Redis is away each edge tells of its own.

mod redis;
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
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

use ring::Ring;
pub use ring::{Missed, Place};

use crate::edge::Edge;
use crate::identity::Caller;

/// How often rings that nobody comes back to are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// When to come back after a refusal for want of room.
const COME_BACK: Duration = Duration::from_secs(5);

/// Names a ring: a digest of its principal. Everybody's is all zeros, which no digest is.
type Key = [u8; 32];

const EVERYBODY: Key = [0; 32];

fn key(caller: &Caller) -> Key {
    let mut hash = Sha256::new();
    hash.update((caller.tenant.len() as u64).to_le_bytes());
    hash.update(&caller.tenant);
    hash.update(&caller.subject);
    hash.finalize().into()
}

/// One ring and those who wait for what comes.
#[derive(Debug)]
pub struct Channel {
    ring: Mutex<Ring>,
    told: Notify,
    readers: AtomicUsize,
    left_at: Mutex<Instant>,
    /// Set when what other edges keep of it has been read.
    loaded: OnceCell<()>,
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
            loaded: OnceCell::new(),
        })
    }

    fn push(&self, message: Bytes) {
        lock(&self.ring).push(unix_ms(), message);
        self.told.notify_waiters();
    }

    fn is_left(&self, keep: Duration) -> bool {
        self.readers.load(Ordering::Acquire) == 0 && lock(&self.left_at).elapsed() >= keep
    }
}

/// Whether a call's message is something for a stream: progress or a log message.
fn is_event(message: &[u8]) -> bool {
    let Ok(Body::One(Ok(Message::Notification { method, params }))) = envelope::read(message)
    else {
        return false;
    };
    matches!(
        Notification::read(&method, params),
        Ok(Notification::Progress { .. } | Notification::Log { .. })
    )
}

/// Where one principal's events go.
#[derive(Debug, Clone)]
pub enum Teller {
    /// To its streams here.
    Here(Arc<Channel>),
    /// To its streams at any edge.
    Everywhere(Key, redis::Outbox),
}

impl Teller {
    /// Takes what a call tells, if it is something for a stream.
    pub fn told(&self, message: &Bytes) {
        if !is_event(message) {
            return;
        }
        match self {
            Teller::Here(channel) => channel.push(message.clone()),
            Teller::Everywhere(key, outbox) => outbox.send(*key, message.clone()),
        }
    }
}

/// The rings of one edge.
pub struct Events {
    /// Names what places are of: this life of this process, or what all edges share.
    epoch: String,
    everybody: Arc<Channel>,
    principals: Mutex<HashMap<Key, Arc<Channel>>>,
    streams: Gate,
    rules: settings::EdgeEvents,
    shared: Option<redis::Shared>,
}

impl Events {
    /// No streams yet.
    pub fn new(rules: &settings::EdgeEvents, redis: &settings::EdgeRedis) -> Events {
        let shared = redis::Shared::new(redis, rules.keep);
        Events {
            epoch: match &shared {
                Some(_) => "shared".to_owned(),
                None => format!("{:08x}", rand::random::<u32>()),
            },
            everybody: Channel::new(),
            principals: Mutex::default(),
            streams: Gate::new(rules.streams_max),
            rules: rules.clone(),
            shared,
        }
    }

    /// Where a caller's events go, if anybody may read them.
    pub fn of(&self, caller: &Caller) -> Option<Teller> {
        if let Some(shared) = &self.shared {
            return Some(Teller::Everywhere(key(caller), shared.outbox()));
        }
        let principals = lock(&self.principals);
        if principals.is_empty() {
            return None;
        }
        principals.get(&key(caller)).cloned().map(Teller::Here)
    }

    /// Tells everybody here that all lists may have changed. Each edge sees that by itself.
    pub fn lists_changed(&self) {
        for list in [List::Tools, List::Prompts, List::Resources] {
            self.everybody.push(notification::list_changed(list).into());
        }
    }

    /// Listens to what becomes of the lists, from now on.
    pub fn lists(&self) -> Lists {
        Lists {
            at: lock(&self.everybody.ring).last(),
            everybody: Arc::clone(&self.everybody),
        }
    }

    /// Opens a stream: after `last`, or from now on.
    ///
    /// # Errors
    /// [`Cause::Overloaded`] past the streams of one principal or of all.
    pub async fn open(
        &self,
        caller: &Caller,
        last: Option<&str>,
    ) -> Result<(Reader, Begins), Failure> {
        let full = || Failure::new(Cause::Overloaded).retry_after(COME_BACK);
        let place = self.streams.enter().map_err(|_| full())?;
        let key = key(caller);
        let own = self.enter(key).ok_or_else(full)?;
        // From here on the reader counts itself out.
        let mut reader = Reader {
            at: Position {
                everybody: lock(&self.everybody.ring).last(),
                own: Place::at(0),
            },
            epoch: self.epoch.clone(),
            everybody: Arc::clone(&self.everybody),
            own: Arc::clone(&own),
            _place: place,
        };
        if let Some(shared) = &self.shared {
            own.loaded
                .get_or_init(|| async {
                    // What cannot be read counts as missed.
                    if let Some((from, kept)) = shared.kept(&key).await {
                        lock(&own.ring).load(from, kept);
                    }
                })
                .await;
        }
        reader.at.own = lock(&own.ring).last();
        let begins = match last {
            None => Begins::Now,
            Some(last) => reader.go_on(last),
        };
        Ok((reader, begins))
    }

    /// Counts a stream in; `None` past the most of one principal.
    fn enter(&self, key: Key) -> Option<Arc<Channel>> {
        let mut principals = lock(&self.principals);
        if principals.len() >= self.rules.streams_max && !principals.contains_key(&key) {
            principals.retain(|_, channel| channel.readers.load(Ordering::Acquire) > 0);
        }
        // Under the lock, so that no ring is taken away while somebody comes.
        let channel = principals.entry(key).or_insert_with(Channel::new);
        if channel.readers.fetch_add(1, Ordering::AcqRel) >= self.rules.streams_max_principal {
            channel.readers.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Arc::clone(channel))
    }

    /// An event that all edges share has come.
    fn heard(&self, key: &Key, place: Place, message: Bytes) {
        let channel = lock(&self.principals).get(key).cloned();
        if let Some(channel) = channel
            && lock(&channel.ring).insert(place, message)
        {
            channel.told.notify_waiters();
        }
    }

    /// An event that could not be shared: it is for the streams here.
    fn unshared(&self, key: &Key, message: Bytes) {
        let channel = lock(&self.principals).get(key).cloned();
        if let Some(channel) = channel {
            channel.push(message);
        }
    }

    /// Events of other edges may have gone by: streams come back and read what is kept.
    fn lose(&self) {
        for (_, channel) in lock(&self.principals).drain() {
            lock(&channel.ring).lose();
            channel.told.notify_waiters();
        }
    }

    fn tidy(&self) {
        let keep = self.rules.keep;
        lock(&self.principals).retain(|_, channel| !channel.is_left(keep));
    }
}

/// Lets go of rings that nobody comes back to and keeps up with other edges, for as long as the process runs.
pub async fn follow(edge: Arc<Edge>) {
    if edge.events.shared.is_some() {
        tokio::spawn(redis::send(Arc::clone(&edge)));
        tokio::spawn(redis::listen(Arc::clone(&edge)));
    }
    let mut ticks = tokio::time::interval(TIDY_EVERY);
    let mut agreements = edge.fleet.agreements();
    let mut agreed = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => edge.events.tidy(),
            // Lists were told of when the first instance had others, and may have been answered by one that was behind.
            Ok(()) = agreements.changed() => {
                let stable = edge.fleet.view().stable().map(str::to_owned);
                let now = stable.and_then(|stable| agreements.borrow_and_update().get(&*stable).cloned());
                if now.is_some() && agreed.replace(now.clone()) != Some(now) {
                    edge.events.lists_changed();
                }
            }
        }
    }
}

/// The place of one who listens to lists alone.
pub struct Lists {
    everybody: Arc<Channel>,
    at: Place,
}

impl Lists {
    /// Waits for the next change of a list; `None` when changes were missed.
    pub async fn next(&mut self) -> Option<Bytes> {
        let everybody = Arc::clone(&self.everybody);
        loop {
            let told = everybody.told.notified();
            tokio::pin!(told);
            // Before the ring is looked at, so that nothing is told in between.
            told.as_mut().enable();
            let next = lock(&everybody.ring).after(self.at);
            match next {
                Ok(Some((place, message))) => {
                    self.at = place;
                    return Some(message);
                }
                Ok(None) => told.await,
                Err(Missed) => {
                    self.at = lock(&everybody.ring).last();
                    return None;
                }
            }
        }
    }
}

/// How a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// With what comes.
    Now,
    /// With what came since.
    After,
    /// With what came since, but the lists may have changed: the place is of another edge.
    AfterElsewhere,
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

    /// Goes on after the event that an id names, as far as what came since is here.
    fn go_on(&mut self, id: &str) -> Begins {
        let Some((everybody, own)) = self.places(id) else {
            return Begins::AfterGap;
        };
        if lock(&self.own.ring).after(own).is_err() {
            return Begins::AfterGap;
        }
        self.at.own = own;
        // Each edge sees by itself what everybody may know.
        if lock(&self.everybody.ring).after(everybody).is_err() {
            return Begins::AfterElsewhere;
        }
        self.at.everybody = everybody;
        Begins::After
    }

    fn places(&self, id: &str) -> Option<(Place, Place)> {
        let (epoch, places) = id.split_once('_')?;
        let (everybody, own) = places.split_once('_')?;
        let is_ours = epoch == self.epoch;
        is_ours.then_some((Place::parse(everybody)?, Place::parse(own)?))
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
        let rules = settings::EdgeEvents {
            streams_max: 3,
            streams_max_principal: principal_max,
            keep: Duration::from_secs(60),
        };
        let alone = settings::EdgeRedis {
            share: None,
            url: None,
            password_file: None,
            timeout: Duration::from_millis(50),
        };
        Events::new(&rules, &alone)
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
        let (mut one, begins) = events.open(&ana, None).await.unwrap();
        let (mut other, _) = events.open(&namesake, None).await.unwrap();
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
        let (mut reader, _) = events.open(&ana, None).await.unwrap();
        events.of(&ana).unwrap().told(&progress(1));
        assert_eq!(ready(&mut reader), [progress(1)]);
        let id = reader.id();
        drop(reader);
        events.of(&ana).unwrap().told(&progress(2));
        events.lists_changed();
        let (mut back, begins) = events.open(&ana, Some(&id)).await.unwrap();
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
            let (_, begins) = events.open(&ana, Some(elsewhere)).await.unwrap();
            assert_eq!(begins, Begins::AfterGap, "{elsewhere}");
        }
        drop(back);
        // Nobody came back in time. Places have the time of the day, which goes on by itself.
        let before = unix_ms();
        while unix_ms() == before {
            std::hint::spin_loop();
        }
        tokio::time::advance(Duration::from_secs(61)).await;
        events.tidy();
        assert!(events.of(&ana).is_none());
        let (_, begins) = events.open(&ana, Some(&id)).await.unwrap();
        assert_eq!(begins, Begins::AfterGap);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_read_is_cut_and_streams_are_counted() {
        let events = events(2);
        let ana = caller("acme", "ana");
        let (mut slow, _) = events.open(&ana, None).await.unwrap();
        for n in 0..1000 {
            events.of(&ana).unwrap().told(&progress(n));
        }
        assert_eq!(slow.next().await, Err(Missed));

        let (second, _) = events.open(&ana, None).await.unwrap();
        assert!(
            events.open(&ana, None).await.is_err(),
            "two of one principal"
        );
        let (_third, _) = events.open(&caller("acme", "ben"), None).await.unwrap();
        assert!(
            events.open(&caller("acme", "eva"), None).await.is_err(),
            "three of all"
        );
        drop(second);
        assert!(events.open(&ana, None).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_waits_for_either_ring() {
        let events = Arc::new(events(2));
        let ana = caller("acme", "ana");
        let (mut reader, _) = events.open(&ana, None).await.unwrap();
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
