//! What hosts tell each other: what is known of a session, and mail for calls that wait elsewhere.
//!
//! Every host watches the shared records and keeps what they say of sessions in memory, so that a request
//! costs no look into the store. A message for a call that runs on another host is put where all hosts see
//! it; the one that runs the call takes it away.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use mcp::envelope::{self, Body, Message};
use mcp::notification::{Level, Notification};
use mcp::{Cause, Failure, Id};
use rand::RngExt;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::budget::{Budget, Kind};
use crate::shared::{Change, Shared, SharedError};

/// Most sessions whose facts are kept in memory; of more, the store is asked.
pub const SESSIONS_MAX: usize = 65_536;
/// Most calls of one session at one host.
pub const RUNNING_MAX: usize = 64;
/// Most resources that a session subscribes to.
pub const URIS_MAX: usize = 256;
/// Longest URI that is subscribed to, in bytes.
pub const URI_BYTES_MAX: usize = 4096;
/// Most tasks of a session that are listed and told of.
pub const TASKS_MAX: usize = 64;
/// Longest task id that is, in bytes.
const TASK_BYTES_MAX: usize = 4096;
/// Most mail that waits for one call.
const MAIL_MAX: usize = 64;
/// Largest message that goes from host to host, in bytes.
pub const MAIL_BYTES_MAX: usize = 256 << 10;
/// How long mail waits for the host that runs the call.
const MAIL_TTL: Duration = Duration::from_secs(60);

const FACTS: &str = "legacy/fact/";
const MAIL: &str = "legacy/mail/";
const BOARD: &str = "legacy/";
/// Beside the board, so that hosts do not watch it: outcomes are large, and rarely asked for.
const KEPT: &str = "legacy-task/";

/// What is known of a session beside its token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The client ended it.
    pub ended: bool,
    /// What the client wants logged; `None` until it says.
    pub level: Option<Level>,
    /// Resources that the client subscribed to, by the name of their record.
    pub uris: BTreeMap<String, String>,
    /// Tasks that the session has made, by the name of their record.
    pub tasks: BTreeMap<String, String>,
    /// The stream that the client reads, wherever that is.
    pub stream: Option<String>,
}

impl Facts {
    fn put(&mut self, name: &str, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        match name.split_once('/') {
            Some(("uri", hash)) => {
                if self.uris.len() < URIS_MAX {
                    self.uris.insert(hash.to_owned(), text.into_owned());
                }
            }
            Some(("task", hash)) => {
                if self.tasks.len() < TASKS_MAX {
                    self.tasks.insert(hash.to_owned(), text.into_owned());
                }
            }
            _ => match name {
                "ended" => self.ended = true,
                "level" => self.level = Level::parse(&text),
                "stream" => self.stream = Some(text.into_owned()),
                _ => {}
            },
        }
    }

    fn gone(&mut self, name: &str) {
        match name.split_once('/') {
            Some(("uri", hash)) => {
                self.uris.remove(hash);
            }
            Some(("task", hash)) => {
                self.tasks.remove(hash);
            }
            _ => match name {
                "ended" => self.ended = false,
                "level" => self.level = None,
                "stream" => self.stream = None,
                _ => {}
            },
        }
    }
}

#[derive(Default)]
struct Session {
    facts: Facts,
    running: Vec<Running>,
    /// Streams of this session at this host, to be woken when the facts change.
    wake: Arc<Notify>,
}

impl Session {
    fn is_plain(&self) -> bool {
        self.facts == Facts::default()
            && self.running.is_empty()
            && Arc::strong_count(&self.wake) == 1
    }
}

struct Running {
    request: Id,
    prefix: String,
    mail: mpsc::Sender<Bytes>,
}

#[derive(Default)]
struct Known {
    sessions: HashMap<String, Session>,
    /// The memory holds all that the store holds.
    complete: bool,
}

/// The board of one host; see the module.
pub struct Board {
    shared: Arc<dyn Shared>,
    known: Arc<Mutex<Known>>,
    budget: Arc<Budget>,
    watching: AbortHandle,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: &SharedError) -> Failure {
    tracing::warn!(%error, "a session's record cannot be reached");
    Failure::new(Cause::NoBackend)
}

/// A call that takes mail, until dropped.
pub struct Mailbox {
    known: Arc<Mutex<Known>>,
    session: String,
    prefix: String,
    mail: mpsc::Receiver<Bytes>,
}

impl Mailbox {
    /// Waits for the next message for this call.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.mail.recv().await
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let mut known = lock(&self.known);
        if let Some(session) = known.sessions.get_mut(&self.session) {
            session.running.retain(|r| r.prefix != self.prefix);
            if session.is_plain() {
                known.sessions.remove(&self.session);
            }
        }
    }
}

impl Board {
    /// A board over shared records. Must be called within a Tokio runtime; watches until dropped.
    #[must_use]
    pub fn new(shared: Arc<dyn Shared>) -> Board {
        let known = Arc::new(Mutex::new(Known::default()));
        let budget = Arc::new(Budget::default());
        let watching = watch(shared.clone(), known.clone(), budget.clone());
        let watching = tokio::spawn(watching).abort_handle();
        Board {
            shared,
            known,
            budget,
            watching,
        }
    }

    /// The records that the board stands on.
    #[must_use]
    pub fn shared(&self) -> &Arc<dyn Shared> {
        &self.shared
    }

    /// Puts a record for an owner.
    ///
    /// # Errors
    /// [`Cause::RateLimited`] when the owner has too much of it, [`Cause::NoBackend`] when the store fails.
    async fn put(
        &self,
        kind: Kind,
        owner: &str,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<(), Failure> {
        self.budget
            .take(kind, owner, key, key.len() + value.len(), ttl)?;
        self.shared.put(key, value, ttl).await.map_err(|error| {
            self.budget.free(kind, owner, key);
            unavailable(&error)
        })
    }

    /// Keeps an event of a session for its client to read again.
    ///
    /// # Errors
    /// As for any record: [`Cause::RateLimited`] or [`Cause::NoBackend`].
    pub(crate) async fn put_event(
        &self,
        session: &str,
        key: &str,
        event: Bytes,
        ttl: Duration,
    ) -> Result<(), Failure> {
        self.put(Kind::Replay, owner_of(session), key, event, ttl)
            .await
    }

    /// What is known of a session.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when that is not in memory and the store fails.
    pub async fn facts(&self, session: &str) -> Result<Facts, Failure> {
        {
            let known = lock(&self.known);
            match known.sessions.get(session) {
                Some(known) if known.facts.ended => return Ok(known.facts.clone()),
                known_session if known.complete => {
                    return Ok(known_session.map(|s| s.facts.clone()).unwrap_or_default());
                }
                _ => {}
            }
        }
        let prefix = format!("{FACTS}{session}/");
        let records = self
            .shared
            .list(&prefix)
            .await
            .map_err(|e| unavailable(&e))?;
        let mut facts = Facts::default();
        for (key, value) in records {
            facts.put(key.trim_start_matches(&prefix), &value);
        }
        Ok(facts)
    }

    /// Sets a fact: `ended`, `level`, `stream`, `uri/…` or `task/…`. This host knows it at once, others soon.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when the store fails.
    async fn set(
        &self,
        session: &str,
        name: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<(), Failure> {
        let key = format!("{FACTS}{session}/{name}");
        self.put(kind_of(name), owner_of(session), &key, value.clone(), ttl)
            .await?;
        put_fact(&mut lock(&self.known), session, name, &value);
        Ok(())
    }

    async fn unset(&self, session: &str, name: &str) -> Result<(), SharedError> {
        let key = format!("{FACTS}{session}/{name}");
        self.shared.delete(&key).await?;
        self.budget.free(kind_of(name), owner_of(session), &key);
        drop_fact(&mut lock(&self.known), session, name);
        Ok(())
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when the store fails.
    pub async fn end(&self, session: &str, ttl: Duration) -> Result<(), Failure> {
        self.set(session, "ended", Bytes::from_static(b"1"), ttl)
            .await
    }

    /// Keeps what a session wants logged.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when the store fails.
    pub async fn set_level(
        &self,
        session: &str,
        level: Level,
        ttl: Duration,
    ) -> Result<(), Failure> {
        self.set(session, "level", level.as_str().into(), ttl).await
    }

    /// Keeps which stream a session reads.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when the store fails.
    pub async fn set_stream(
        &self,
        session: &str,
        stream: &str,
        ttl: Duration,
    ) -> Result<(), Failure> {
        self.set(session, "stream", stream.to_owned().into(), ttl)
            .await
    }

    /// A stream of a session is over: unless another took its place, there is none.
    pub async fn leave_stream(&self, session: &str, stream: &str) {
        let facts = self.facts(session).await;
        if facts.is_ok_and(|facts| facts.stream.as_deref() == Some(stream))
            && let Err(error) = self.unset(session, "stream").await
        {
            tracing::debug!(%error, "a session's record stays for its time");
        }
    }

    /// Subscribes a session to a resource.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] past [`URIS_MAX`] resources or [`URI_BYTES_MAX`] bytes,
    /// [`Cause::NoBackend`] when the store fails.
    pub async fn subscribe(&self, session: &str, uri: &str, ttl: Duration) -> Result<(), Failure> {
        let facts = self.facts(session).await?;
        let name = short_name(uri);
        if uri.len() > URI_BYTES_MAX
            || (facts.uris.len() >= URIS_MAX && !facts.uris.contains_key(&name))
        {
            let text = format!(
                "at most {URIS_MAX} resources of {URI_BYTES_MAX} bytes can be subscribed to"
            );
            return Err(Failure::say(Cause::InvalidParams, text));
        }
        self.set(session, &format!("uri/{name}"), uri.to_owned().into(), ttl)
            .await
    }

    /// Lets a resource go.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when the store fails.
    pub async fn unsubscribe(&self, session: &str, uri: &str) -> Result<(), Failure> {
        let name = format!("uri/{}", short_name(uri));
        self.unset(session, &name)
            .await
            .map_err(|e| unavailable(&e))
    }

    /// Notes a task that a session has made. One past [`TASKS_MAX`] is not noted.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when the store fails.
    pub async fn add_task(&self, session: &str, task: &str, ttl: Duration) -> Result<(), Failure> {
        let facts = self.facts(session).await?;
        if task.len() > TASK_BYTES_MAX || facts.tasks.len() >= TASKS_MAX {
            return Ok(());
        }
        let name = format!("task/{}", short_name(task));
        self.set(session, &name, task.to_owned().into(), ttl).await
    }

    /// Keeps the outcome of a task for its owner.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when the store fails.
    pub async fn put_kept(
        &self,
        owner: &str,
        task: &str,
        record: Bytes,
        ttl: Duration,
    ) -> Result<(), Failure> {
        let key = format!("{KEPT}{owner}/{task}");
        self.put(Kind::Kept, owner, &key, record, ttl).await
    }

    /// The outcome of a task that was kept for this owner.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when the store fails.
    pub async fn kept(&self, owner: &str, task: &str) -> Result<Option<Bytes>, Failure> {
        let key = format!("{KEPT}{owner}/{task}");
        let found = self.shared.list(&key).await.map_err(|e| unavailable(&e))?;
        let found = found.into_iter().find(|(found, _)| *found == key);
        Ok(found.map(|(_, record)| record))
    }

    /// What wakes the streams of a session when its facts change.
    #[must_use]
    pub fn wake(&self, session: &str) -> Arc<Notify> {
        let mut known = lock(&self.known);
        known
            .sessions
            .entry(session.to_owned())
            .or_default()
            .wake
            .clone()
    }

    /// Forgets a session of which nothing is known and which nobody uses here.
    pub fn tidy(&self, session: &str) {
        let mut known = lock(&self.known);
        if known.sessions.get(session).is_some_and(Session::is_plain) {
            known.sessions.remove(session);
        }
    }

    /// Registers a call for mail. `prefix` begins the ids of its requests to the client.
    ///
    /// # Errors
    /// [`Cause::Overloaded`] past [`RUNNING_MAX`] calls of the session at this host, and
    /// [`Cause::InvalidRequest`] if one of them has the same id: the older revisions forbid that.
    pub fn open(&self, session: &str, request: &Id, prefix: &str) -> Result<Mailbox, Failure> {
        let mut known = lock(&self.known);
        let entry = known.sessions.entry(session.to_owned()).or_default();
        if entry.running.len() >= RUNNING_MAX {
            return Err(Failure::new(Cause::Overloaded));
        }
        if entry.running.iter().any(|r| r.request == *request) {
            let text = "a request with this id is under way";
            return Err(Failure::say(Cause::InvalidRequest, text));
        }
        let (sender, mail) = mpsc::channel(MAIL_MAX);
        entry.running.push(Running {
            request: request.clone(),
            prefix: prefix.to_owned(),
            mail: sender,
        });
        Ok(Mailbox {
            known: self.known.clone(),
            session: session.to_owned(),
            prefix: prefix.to_owned(),
            mail,
        })
    }

    /// Brings a client's message to the call it is for, if that runs here. A message for no call is dropped.
    pub fn give(&self, session: &str, message: &Bytes) {
        deliver(&lock(&self.known), session, message);
    }

    /// Forgets all that was said of a session. This host does at once; records that cannot be removed end by
    /// themselves.
    pub async fn forget(&self, session: &str) {
        let prefix = format!("{FACTS}{session}/");
        let records = self.shared.list(&prefix).await.unwrap_or_default();
        for (key, _) in records {
            let name = key.trim_start_matches(&prefix);
            if let Err(error) = self.unset(session, name).await {
                tracing::debug!(%error, "a session's record stays for its time");
                drop_fact(&mut lock(&self.known), session, name);
            }
        }
        self.tidy(session);
    }

    /// Brings a client's message (an answer, or that a call is cancelled) to the call it is for, on whatever
    /// host that runs. A message for no call is dropped by all.
    ///
    /// # Errors
    /// [`Cause::TooLarge`] for mail over [`MAIL_BYTES_MAX`] that has to leave this host, [`Cause::RateLimited`]
    /// when much of the owner's waits already, [`Cause::NoBackend`] when the store fails.
    pub async fn send(&self, session: &str, message: Bytes) -> Result<(), Failure> {
        if deliver(&lock(&self.known), session, &message) {
            return Ok(());
        }
        if message.len() > MAIL_BYTES_MAX {
            return Err(Failure::new(Cause::TooLarge));
        }
        let name: u64 = rand::rng().random();
        let key = format!("{MAIL}{session}/{name:016x}");
        self.put(Kind::Mail, owner_of(session), &key, message, MAIL_TTL)
            .await
    }
}

/// Whose a session is: the beginning of its name.
fn owner_of(session: &str) -> &str {
    session.split_once('.').map_or(session, |(owner, _)| owner)
}

/// As what a fact is counted. Where a session's end is not told, it can be used until it ends by itself.
fn kind_of(fact: &str) -> Kind {
    match fact {
        "ended" => Kind::Ended,
        _ => Kind::Fact,
    }
}

/// What a URI or a task is called in keys.
fn short_name(text: &str) -> String {
    hex(&Sha256::digest(text)[..16])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Gives a message to a call that runs here; whether there is one.
fn deliver(known: &Known, session: &str, message: &Bytes) -> bool {
    let Some(session) = known.sessions.get(session) else {
        return false;
    };
    let Ok(Body::One(Ok(read))) = envelope::read(message) else {
        return false;
    };
    let found = match read {
        Message::Response { id, .. } => {
            let id = id.text().unwrap_or_default();
            let prefix = id.rsplit_once('.').map_or("", |(prefix, _)| prefix);
            session.running.iter().find(|r| r.prefix == prefix)
        }
        Message::Notification { method, params } => match Notification::read(&method, params) {
            Ok(Notification::Cancelled { request, .. }) => {
                session.running.iter().find(|r| r.request == request)
            }
            _ => None,
        },
        Message::Request { .. } => None,
    };
    // A call whose mail is full has been told enough.
    found.is_some_and(|running| running.mail.try_send(message.clone()).is_ok())
}

fn put_fact(known: &mut Known, session: &str, name: &str, value: &[u8]) {
    if known.sessions.len() >= SESSIONS_MAX && !known.sessions.contains_key(session) {
        known.complete = false;
        return;
    }
    let session = known.sessions.entry(session.to_owned()).or_default();
    session.facts.put(name, value);
    session.wake.notify_waiters();
}

fn drop_fact(known: &mut Known, session: &str, name: &str) {
    let Some(entry) = known.sessions.get_mut(session) else {
        return;
    };
    entry.facts.gone(name);
    entry.wake.notify_waiters();
    if entry.is_plain() {
        known.sessions.remove(session);
    }
}

/// Keeps a host's memory as the store has it, for as long as the host lives.
async fn watch(shared: Arc<dyn Shared>, known: Arc<Mutex<Known>>, budget: Arc<Budget>) {
    loop {
        let mut changes = shared.watch(BOARD);
        let mut forgotten = false;
        while let Some(change) = changes.next().await {
            if !std::mem::replace(&mut forgotten, true) {
                // Whatever ended while nobody watched is not told any more.
                let mut known = lock(&known);
                for session in known.sessions.values_mut() {
                    session.facts = Facts::default();
                }
            }
            match change {
                Ok(change) => apply(&*shared, &known, &budget, change).await,
                Err(error) => {
                    tracing::warn!(%error, "sessions are not watched for a moment");
                    break;
                }
            }
        }
        lock(&known).complete = false;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn apply(shared: &dyn Shared, known: &Mutex<Known>, budget: &Budget, change: Change) {
    let (key, value) = match change {
        Change::Synced => {
            let mut known = lock(known);
            known.complete = known.sessions.len() < SESSIONS_MAX;
            return;
        }
        Change::Put { key, value } => (key, Some(value)),
        Change::Gone { key } => (key, None),
    };
    if let Some((session, name)) = key
        .strip_prefix(FACTS)
        .and_then(|rest| rest.split_once('/'))
    {
        match value {
            Some(value) => put_fact(&mut lock(known), session, name, &value),
            None => {
                budget.free(kind_of(name), owner_of(session), &key);
                drop_fact(&mut lock(known), session, name);
            }
        }
    } else if let Some((session, _)) = key.strip_prefix(MAIL).and_then(|rest| rest.split_once('/'))
    {
        let Some(value) = value else {
            budget.free(Kind::Mail, owner_of(session), &key);
            return;
        };
        let taken = deliver(&lock(known), session, &value);
        // What is not taken away ends by itself.
        if taken && let Err(error) = shared.delete(&key).await {
            tracing::debug!(%error, "delivered mail stays for its time");
        }
    }
}
