//! Many calls over one connection, whatever carries its messages.
//!
//! Every request gets a fresh id of ours, so ids of different clients never meet; the same number is its progress token. A
//! [`Carrier`] sends what is sent, and hands each message of the server to the call that it belongs to. An [`Exchange`] that
//! is dropped takes its entry with it and tells the server (`notifications/cancelled`, or by the end of its stream).
//!
//! A question or log message that did not come on the stream of a request does not say which call it belongs to, save those of
//! a task, which name it. Any other is handed over only while one client's call is under way: one client's words must never
//! reach another. Once a server has asked in that way, calls take turns ([`Connection::turn`]).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use mcp::{
    Id, Method, Revision, envelope,
    era::tasks::{params, related_to},
    incoming::Incoming,
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Abandon, Lost, Wire};
use crate::plugin::{
    Answer, Client,
    hub::{Change, Hub},
    notices::{Level, Notices},
};

/// Questions of one call that wait to be put to its client.
const QUESTIONS_MAX: usize = 8;
/// The largest question, in bytes: it is kept until it is answered.
const QUESTION_BYTES_MAX: usize = 256 << 10;
/// Calls that were given up and are remembered.
const GHOSTS_MAX: usize = 1024;
/// How long a call that was given up may still cause questions and log messages.
const GHOST: Duration = Duration::from_secs(30);
/// How long a call waits for its turn at most.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// And which part of its time: whoever sent it shares that out over three attempts.
const TURN_SHARE: u32 = 4;
/// How long a server may take to set the level of its log messages.
const LEVEL_TIMEOUT: Duration = Duration::from_secs(5);
/// After this many messages that are not MCP, in one connection, they are no longer logged.
const GARBAGE_LOGGED_MAX: usize = 20;
/// The level of log messages that no server has been asked for yet.
const NO_LEVEL: u8 = u8::MAX;

/// What carries the messages of one connection.
pub(crate) trait Carrier: std::fmt::Debug + Send + Sync {
    /// Sends a request. What comes of it is handed to `connection`; what is returned is dropped with its [`Exchange`].
    fn begin<'a>(
        &'a self,
        connection: &'a Connection,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Sending, Lost>>;

    /// Sends a message that has no answer, as soon as there is room.
    fn send<'a>(&'a self, message: Vec<u8>) -> BoxFuture<'a, Result<(), Lost>>;

    /// Sends it if there is room now: a server that does not read would not see it either. Tells whether there was.
    fn try_send(&self, message: Vec<u8>) -> bool;

    /// Learns the revision that was agreed on.
    fn agreed(&self, _revision: Revision) {}

    /// Tells whether a server learns that a request was given up by its end on the wire, and by nothing else.
    fn cancels_by_closing(&self) -> bool {
        false
    }
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Its id.
    pub(crate) id: u64,
    /// Its method.
    pub(crate) method: &'a str,
    /// Its parameters.
    pub(crate) params: &'a RawValue,
}

impl Request<'_> {
    /// Returns it as a JSON-RPC message.
    pub(crate) fn message(&self) -> Vec<u8> {
        envelope::write_request(Some(&Id::from_number(self.id)), self.method, self.params)
    }
}

/// The task that a request has to itself, if it has one.
pub(crate) type Sending = Option<AbortOnDropHandle<()>>;

/// A question of the server to the client of a call.
#[derive(Debug)]
pub(crate) struct Question {
    /// To be sent back as it is.
    pub(crate) id: Id,
    /// `sampling/createMessage`, `elicitation/create` or `roots/list`.
    pub(crate) method: String,
    /// Its parameters.
    pub(crate) params: Option<Box<RawValue>>,
}

/// What comes of a request.
#[derive(Debug)]
pub(crate) enum Event {
    /// The child answered: the exchange is over.
    Answer(Answer),
    /// The child wants to know something first.
    Question(Question),
}

/// Whom a server's questions and log messages are for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asker {
    /// The client.
    pub(crate) client: Arc<Client>,
    /// The way to it.
    pub(crate) notices: Notices,
    /// The child's task that alone may ask and tell.
    pub(crate) task: Option<Arc<str>>,
}

/// What a server tells that belongs to no call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ears {
    /// Told when the server says that a list changed.
    pub(crate) lists_changed: Arc<Notify>,
    /// Told when the server says that a resource changed.
    pub(crate) hub: Arc<Hub>,
    /// The child has asked clients something, in this life or in one before.
    pub(crate) asks: Arc<AtomicBool>,
}

/// A connection to one server. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    plugin: Arc<str>,
    carrier: Box<dyn Carrier>,
    /// Calls under way at once.
    pending_max: usize,
    pending: Mutex<Pending>,
    next_id: AtomicU64,
    in_flight: AtomicUsize,
    /// Messages that came, to tell a silent server from a slow call.
    heard: AtomicU64,
    garbage: AtomicUsize,
    closed: CancellationToken,
    ears: Ears,
    /// Taken by calls to a server that does not say which of them it asks about.
    one_at_a_time: Arc<Semaphore>,
    /// How many calls wait for that.
    turns_wanted: watch::Sender<usize>,
    /// The least grave level that the server was asked to log.
    level: AtomicU8,
}

#[derive(Debug, Default)]
struct Pending {
    closed: bool,
    calls: HashMap<u64, Waiting>,
    /// Calls that were given up: the server may still work on them, and ask.
    ghosts: HashMap<u64, (Arc<Client>, Instant)>,
}

/// Who waits for an answer.
#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<Answer, Lost>>,
    /// Set for a client's call, not for requests of our own.
    asker: Option<(Asker, mpsc::Sender<Question>)>,
}

/// A call that waits for its turn.
struct Wanting<'a>(&'a watch::Sender<usize>);

impl<'a> Wanting<'a> {
    fn begin(calls: &'a watch::Sender<usize>) -> Self {
        calls.send_modify(|calls| *calls += 1);
        Self(calls)
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

/// Returns until when a call with this deadline waits for its turn: refused early enough, it can still be made elsewhere.
pub(crate) fn patience(now: Instant, deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(now);
    now + (left / TURN_SHARE).min(TURN_WAIT)
}

/// Why it cannot be told which client a server means.
enum Unclear {
    NoCall,
    ManyCalls,
}

impl Pending {
    /// The client's call on whose stream something came, or the one that it can belong to.
    fn asked(&self, of: Option<u64>) -> Result<&(Asker, mpsc::Sender<Question>), Unclear> {
        match of {
            Some(id) => {
                let call = self.calls.get(&id).and_then(|call| call.asker.as_ref());
                call.ok_or(Unclear::NoCall)
            }
            None => self.only_call(),
        }
    }

    /// The one client's call under way, if there is exactly one and nothing is left of another client's.
    fn only_call(&self) -> Result<&(Asker, mpsc::Sender<Question>), Unclear> {
        let now = Instant::now();
        let calls = self.calls.values().filter_map(|call| call.asker.as_ref());
        let mut calls = calls.filter(|(asker, _)| asker.task.is_none());
        let call = calls.next().ok_or(Unclear::NoCall)?;
        let haunted = self
            .ghosts
            .values()
            .any(|(client, until)| *until > now && !client.is_same_caller(&call.0.client));
        if haunted || calls.next().is_some() {
            return Err(Unclear::ManyCalls);
        }
        Ok(call)
    }

    /// The call that waits for what this task comes to.
    fn of_task(&self, task: &str) -> Result<&(Asker, mpsc::Sender<Question>), Unclear> {
        let mut calls = self.calls.values().filter_map(|call| call.asker.as_ref());
        let call = calls.find(|(asker, _)| asker.task.as_deref() == Some(task));
        call.ok_or(Unclear::NoCall)
    }

    fn remember(&mut self, id: u64, client: Arc<Client>) {
        let now = Instant::now();
        self.ghosts.retain(|_, (_, until)| *until > now);
        if self.ghosts.len() < GHOSTS_MAX {
            self.ghosts.insert(id, (client, now + GHOST));
        }
    }
}

impl Connection {
    /// Begins without agreement, with at most `pending_max` requests under way at once. `closed` is cancelled when either side
    /// closes.
    pub(crate) fn new(
        plugin: Arc<str>,
        carrier: Box<dyn Carrier>,
        pending_max: usize,
        ears: Ears,
        closed: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            plugin,
            carrier,
            pending_max,
            pending: Mutex::default(),
            next_id: AtomicU64::new(1),
            in_flight: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
            garbage: AtomicUsize::new(0),
            closed,
            ears,
            one_at_a_time: Arc::new(Semaphore::new(1)),
            turns_wanted: watch::Sender::new(0),
            level: AtomicU8::new(NO_LEVEL),
        }))
    }

    /// Returns an id for a request, which is its progress token too.
    pub(crate) fn fresh_id(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request under a fresh id; waits until `deadline` for room in the queue. `asker` is whom the server may ask and
    /// tell something before it answers.
    ///
    /// # Errors
    /// [`Lost`] when it was not sent.
    pub(crate) async fn begin(
        &self,
        id: u64,
        method: &str,
        params: &RawValue,
        asker: Option<Asker>,
        deadline: Instant,
        abandon: Abandon,
    ) -> Result<Exchange, Lost> {
        let mut exchange = self.expect(id, asker)?;
        let request = Request { id, method, params };
        let begun = self.0.carrier.begin(self, request);
        exchange.sending = tokio::time::timeout_at(deadline.into(), begun)
            .await
            .unwrap_or(Err(Lost::Late))?;
        exchange.abandon = abandon;
        Ok(exchange)
    }

    /// Answers a question of the server; waits until `deadline` for room in the queue.
    ///
    /// # Errors
    /// [`Lost`] when it could not be queued.
    pub(crate) async fn answer(
        &self,
        question: &Question,
        result: &RawValue,
        deadline: Instant,
    ) -> Result<(), Lost> {
        let message = envelope::write_result(&question.id, result);
        self.send(message, deadline).await
    }

    /// Tells whether the server said something that is no message.
    pub(crate) fn said_garbage(&self) -> bool {
        self.0.garbage.load(Ordering::Relaxed) > 0
    }

    /// Tells whether the server asks clients without saying on which call's behalf, so that its calls must not overlap.
    pub(crate) fn asks(&self) -> bool {
        self.0.ears.asks.load(Ordering::Relaxed)
    }

    /// Waits until a client's call may be sent, at most until `patience`: a server that does not say which call its questions
    /// belong to gets one at a time.
    ///
    /// # Errors
    /// [`Lost::Busy`] when others did not end before, [`Lost::NotSent`] when the connection closed.
    pub(crate) async fn turn(
        &self,
        patience: Instant,
    ) -> Result<Option<OwnedSemaphorePermit>, Lost> {
        if !self.asks() {
            return Ok(None);
        }
        let turns = &self.0.one_at_a_time;
        if let Ok(turn) = Arc::clone(turns).try_acquire_owned() {
            return Ok(Some(turn));
        }
        let _wanting = Wanting::begin(&self.0.turns_wanted);
        let turn = Arc::clone(turns).acquire_owned();
        tokio::select! {
            taken = tokio::time::timeout_at(patience.into(), turn) => match taken {
                Ok(Ok(turn)) => Ok(Some(turn)),
                Ok(Err(_)) | Err(_) => Err(Lost::Busy),
            },
            () = self.closed() => Err(Lost::NotSent),
        }
    }

    /// Resolves when a call waits for its [`turn`](Self::turn).
    pub(crate) async fn turn_is_wanted(&self) {
        let mut wanted = self.0.turns_wanted.subscribe();
        // The sender lives as long as the connection.
        drop(wanted.wait_for(|calls| *calls > 0).await);
    }

    /// Asks a legacy server to log what is at least as grave as `level`, unless it was asked for as much before. One that
    /// does not do so logs what it likes.
    pub(crate) async fn log_from(&self, level: Level, deadline: Instant) {
        if self.0.level.fetch_min(level as u8, Ordering::Relaxed) > level as u8 {
            let params = object(&json!({"level": level.as_str()}));
            let until = deadline.min(Instant::now() + LEVEL_TIMEOUT);
            let asked = self.request("logging/setLevel", &params, until, Abandon::Ignore);
            if asked.await.is_err() {
                tracing::debug!(plugin = %self.0.plugin, "the plugin did not answer to logging/setLevel");
            }
        }
    }

    /// Returns how many calls are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// Returns how many messages came so far.
    pub(crate) fn heard(&self) -> u64 {
        self.0.heard.load(Ordering::Relaxed)
    }

    /// Closes the connection: what is sent from now on is not sent, calls under way fail.
    pub(crate) fn close(&self) {
        self.retire();
        let calls = std::mem::take(&mut self.pending().calls);
        for (_, waiting) in calls {
            // Whoever no longer waits needs no answer.
            drop(waiting.answer.send(Err(Lost::Broken)));
        }
    }

    /// Takes no more requests. Those under way go on, if each has a stream of its own.
    pub(crate) fn retire(&self) {
        self.0.closed.cancel();
        self.pending().closed = true;
    }

    /// Tells whether it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Resolves when either side closed.
    pub(crate) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    async fn send(&self, message: Vec<u8>, deadline: Instant) -> Result<(), Lost> {
        tokio::time::timeout_at(deadline.into(), self.0.carrier.send(message))
            .await
            .unwrap_or(Err(Lost::Late))
    }

    fn expect(&self, id: u64, asker: Option<Asker>) -> Result<Exchange, Lost> {
        let (sender, answer) = oneshot::channel();
        let (asks, questions) = asker
            .map(|asker| {
                let (asks, questions) = mpsc::channel(QUESTIONS_MAX);
                ((asker, asks), questions)
            })
            .unzip();
        let mut pending = self.pending();
        if pending.closed {
            return Err(Lost::NotSent);
        }
        if pending.calls.len() >= self.0.pending_max {
            return Err(Lost::Busy);
        }
        let waiting = Waiting {
            answer: sender,
            asker: asks,
        };
        pending.calls.insert(id, waiting);
        self.0
            .in_flight
            .store(pending.calls.len(), Ordering::Relaxed);
        Ok(Exchange {
            connection: self.clone(),
            id,
            answer,
            questions,
            abandon: Abandon::Ignore,
            sending: None,
            task: None,
        })
    }

    fn take(&self, id: u64) -> Option<Waiting> {
        let mut pending = self.pending();
        let waiting = pending.calls.remove(&id);
        self.0
            .in_flight
            .store(pending.calls.len(), Ordering::Relaxed);
        waiting
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.0
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message of the server in. `of` is the request on whose own stream it came, if it came on one.
    pub(crate) fn take_in(&self, incoming: Incoming, of: Option<u64>) {
        self.0.heard.fetch_add(1, Ordering::Relaxed);
        match incoming {
            Incoming::Answer(id, Ok(result)) => self.hand_over(id, Ok(Answer::Result(result))),
            Incoming::Answer(id, Err(error)) => self.hand_over(id, Ok(Answer::Error(error))),
            Incoming::TooLong(id) => self.hand_over(id, Err(Lost::TooLong)),
            Incoming::Question { id, method, params } => {
                self.take_question(Question { id, method, params }, of)
            }
            Incoming::Notice { method, params } => self.take_notice(&method, params.as_deref(), of),
            Incoming::Garbage { reason } => self.complain(reason),
            Incoming::Lost => {
                self.complain("is too long, and whom it answers cannot be told");
                self.close();
            }
        }
    }

    /// Gives a request its answer, or the reason why there is none.
    pub(crate) fn hand_over(&self, id: u64, answer: Result<Answer, Lost>) {
        match self.take(id) {
            // Whoever no longer waits needs no answer.
            Some(waiting) => drop(waiting.answer.send(answer)),
            None => {
                self.pending().ghosts.remove(&id);
                tracing::debug!(plugin = %self.0.plugin, id, "an answer came that nobody waits for");
            }
        }
    }

    /// Hands a question to the call that it belongs to, or says why it cannot be asked.
    fn take_question(&self, question: Question, of: Option<u64>) {
        let id = question.id.clone();
        let refused = match question.method.as_str() {
            "ping" => return self.write_back(envelope::write_result(&id, &object(&json!({})))),
            "sampling/createMessage" | "elicitation/create" | "roots/list" => {
                self.put_to_client(question, of)
            }
            _ => Err((-32601, "no such method")),
        };
        if let Err((code, message)) = refused {
            let error = object(&json!({"code": code, "message": message}));
            self.write_back(envelope::write_error(&id, &error));
        }
    }

    fn put_to_client(
        &self,
        question: Question,
        of: Option<u64>,
    ) -> Result<(), (i64, &'static str)> {
        const NO_CALL: &str = "no client's request is under way that could be asked";
        const UNCLEAR: &str =
            "several clients' requests are under way: it cannot be told which client to ask";
        let pending = self.pending();
        let task = question.params.as_deref().and_then(related_to);
        let takes_turns = || {
            if of.is_none() && task.is_none() {
                self.0.ears.asks.store(true, Ordering::Relaxed);
            }
        };
        let call = match &task {
            Some(task) => pending.of_task(task),
            None => pending.asked(of),
        };
        let (asker, asks) = call.map_err(|unclear| match unclear {
            Unclear::NoCall => (-32601, NO_CALL),
            Unclear::ManyCalls => {
                takes_turns();
                (-32603, UNCLEAR)
            }
        })?;
        let params = question.params.as_deref();
        if asker.client.lacks(&question.method, params).is_some() {
            return Err((-32601, "the client does not declare this capability"));
        }
        if params.is_some_and(|params| params.get().len() > QUESTION_BYTES_MAX) {
            return Err((-32602, "the question is too large"));
        }
        takes_turns();
        asks.try_send(question)
            .map_err(|_| (-32603, "too many questions at once"))
    }

    /// Answers the server at once; one that asks faster than it reads goes without.
    fn write_back(&self, message: Vec<u8>) {
        if !self.0.carrier.try_send(message) {
            self.complain("asks more than it reads");
        }
    }

    fn take_notice(&self, method: &str, params: Option<&RawValue>, of: Option<u64>) {
        #[derive(Deserialize)]
        struct Progress {
            #[serde(rename = "progressToken")]
            token: u64,
        }
        #[derive(Deserialize)]
        struct Updated {
            uri: String,
        }
        let Some(params) =
            params.or_else(|| method.ends_with("/list_changed").then_some(RawValue::NULL))
        else {
            return;
        };
        match method {
            "notifications/progress" => {
                let Ok(Progress { token }) = serde_json::from_str(params.get()) else {
                    return;
                };
                let pending = self.pending();
                if let Some((asker, _)) = pending
                    .calls
                    .get(&token)
                    .and_then(|call| call.asker.as_ref())
                {
                    asker.notices.pass_progress(params);
                }
            }
            "notifications/message" => {
                if let Ok((asker, _)) = self.pending().asked(of) {
                    asker.notices.pass_log(params);
                }
            }
            "notifications/resources/updated" => {
                if let Ok(Updated { uri }) = serde_json::from_str(params.get()) {
                    self.0.ears.hub.announce(&Change::Updated(uri.into()));
                }
            }
            _ if method.ends_with("/list_changed") => self.0.ears.lists_changed.notify_one(),
            _ => {}
        }
    }

    fn complain(&self, reason: &'static str) {
        let count = self.0.garbage.fetch_add(1, Ordering::Relaxed);
        if count < GARBAGE_LOGGED_MAX {
            tracing::warn!(plugin = %self.0.plugin, reason, "what the plugin said was dropped");
        }
    }
}

impl Wire for Connection {
    async fn request(
        &self,
        method: &str,
        params: &RawValue,
        deadline: Instant,
        abandon: Abandon,
    ) -> Result<Answer, Lost> {
        let id = self.fresh_id();
        let mut exchange = self
            .begin(id, method, params, None, deadline, abandon)
            .await?;
        match exchange.next(deadline).await? {
            Event::Answer(answer) => Ok(answer),
            // Questions are handed over to clients' calls only.
            Event::Question(_) => Err(Lost::Broken),
        }
    }

    async fn notify(&self, method: &str, params: &RawValue, deadline: Instant) -> Result<(), Lost> {
        let message = envelope::write_request(None, method, params);
        self.send(message, deadline).await
    }

    fn capabilities(&self) -> Value {
        // What clients behind us may be able to answer; whether the one that calls is, is looked at when it is asked.
        json!({"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {}})
    }

    fn agreed(&self, revision: Revision) {
        self.0.carrier.agreed(revision);
    }
}

fn object(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A request under way, given up on drop.
#[derive(Debug)]
pub(crate) struct Exchange {
    connection: Connection,
    id: u64,
    answer: oneshot::Receiver<Result<Answer, Lost>>,
    questions: Option<mpsc::Receiver<Question>>,
    abandon: Abandon,
    /// Ends with the exchange.
    sending: Sending,
    /// The server's task that is given up with the exchange.
    task: Option<Arc<str>>,
}

impl Exchange {
    /// Returns the connection that it runs over.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits until `deadline` for the answer or for a question that comes before it. May be dropped and called again.
    ///
    /// # Errors
    /// [`Lost`] when there will be no answer; with [`Lost::Late`] the work goes on until the exchange is dropped.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Event, Lost> {
        let answer = &mut self.answer;
        let happens = async {
            match &mut self.questions {
                None => answer.await.map(Happening::Answer),
                Some(questions) => tokio::select! {
                    biased;
                    Some(question) = questions.recv() => Ok(Happening::Question(question)),
                    answer = answer => answer.map(Happening::Answer),
                },
            }
        };
        match tokio::time::timeout_at(deadline.into(), happens).await {
            Err(_) => Err(Lost::Late),
            Ok(Ok(Happening::Question(question))) => Ok(Event::Question(question)),
            Ok(Ok(Happening::Answer(answer))) => {
                self.abandon = Abandon::Ignore;
                answer.map(Event::Answer)
            }
            Ok(Err(_)) => Err(Lost::Broken),
        }
    }

    /// Returns a question that waits already.
    pub(crate) fn waiting_question(&mut self) -> Option<Question> {
        self.questions.as_mut()?.try_recv().ok()
    }

    /// Says whom the server may ask and tell something from now on.
    pub(crate) fn continue_for(&self, client: Arc<Client>, notices: Notices) {
        let mut pending = self.connection.pending();
        let waiting = pending.calls.get_mut(&self.id);
        if let Some((asker, _)) = waiting.and_then(|call| call.asker.as_mut()) {
            asker.client = client;
            asker.notices = notices;
        }
    }

    /// Has the server give up this task when nobody waits for the answer any more.
    pub(crate) fn gives_up(&mut self, task: Arc<str>) {
        self.task = Some(task);
    }

    /// Tells the server that a question stays without an answer.
    pub(crate) fn refuse(&self, question: &Question) {
        let error = object(&json!({"code": -32603, "message": "the client gave no answer"}));
        let message = envelope::write_error(&question.id, &error);
        self.connection.0.carrier.try_send(message);
    }
}

enum Happening {
    Answer(Result<Answer, Lost>),
    Question(Question),
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let left = self.connection.take(self.id);
        if self.abandon == Abandon::Cancel {
            if let Some(task) = &self.task {
                let id = Id::from_number(self.connection.fresh_id());
                let cancel = Method::TasksCancel;
                let request = envelope::write_request(Some(&id), cancel.as_str(), &params(task));
                self.connection.0.carrier.try_send(request);
            }
            if let Some((asker, _)) = left.and_then(|call| call.asker) {
                self.connection.pending().remember(self.id, asker.client);
            }
            let carrier = &self.connection.0.carrier;
            if carrier.cancels_by_closing() {
                return;
            }
            #[derive(Serialize)]
            #[serde(rename_all = "camelCase")]
            struct Cancelled {
                request_id: u64,
                reason: &'static str,
            }
            let Ok(params) = to_raw_value(&Cancelled {
                request_id: self.id,
                reason: "nobody waits for the answer any more",
            }) else {
                return;
            };
            let message = envelope::write_request(None, "notifications/cancelled", &params);
            carrier.try_send(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_refused_its_turn_while_there_is_time_for_another_attempt() {
        let now = Instant::now();
        let seconds = Duration::from_secs_f64;
        for (left, waits) in [(0.0, 0.0), (2.0, 0.5), (20.0, 5.0), (300.0, 5.0)] {
            assert_eq!(
                patience(now, now + seconds(left)),
                now + seconds(waits),
                "{left}"
            );
        }
        assert_eq!(
            patience(now + seconds(1.0), now),
            now + seconds(1.0),
            "it is late"
        );
    }
}
