//! Many calls over one pair of pipes.
//!
//! Every request gets a fresh id of ours, so ids of different clients never meet. Two tasks serve a connection: one writes
//! what is queued, one reads and hands each answer to whoever waits for it. A future that is dropped takes its entry with it
//! and tells the child (`notifications/cancelled`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mcp::{Id, envelope};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    lines::LineSplitter,
    wire::{Incoming, decode},
};
use crate::plugin::{
    Answer,
    upstream::{Abandon, Lost, Wire},
};

/// The longest line that is taken from a child, in bytes.
pub const LINE_BYTES_MAX: usize = 10 << 20;
/// Calls under way at once on one connection.
const PENDING_MAX: usize = 1024;
/// Messages that wait to be written.
const OUTGOING_MAX: usize = 64;
/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// After this many lines that are not MCP, in one connection, they are no longer logged.
const GARBAGE_LOGGED_MAX: usize = 20;

/// A connection to one child. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    plugin: Arc<str>,
    outgoing: mpsc::Sender<Vec<u8>>,
    pending: Mutex<Pending>,
    next_id: AtomicU64,
    in_flight: AtomicUsize,
    /// Lines that were read, to tell a silent child from a slow call.
    heard: AtomicU64,
    garbage: AtomicUsize,
    closed: CancellationToken,
    lists_changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Pending {
    closed: bool,
    calls: HashMap<u64, oneshot::Sender<Result<Answer, Lost>>>,
}

impl Connection {
    /// Starts the two tasks over a child's pipes. `lists_changed` is told when the child says that a list changed.
    pub(crate) fn start<W, R>(
        plugin: Arc<str>,
        stdin: W,
        stdout: R,
        lists_changed: Arc<Notify>,
    ) -> Self
    where
        W: AsyncWrite + Send + Unpin + 'static,
        R: AsyncRead + Send + Unpin + 'static,
    {
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let connection = Self(Arc::new(Shared {
            plugin,
            outgoing,
            pending: Mutex::default(),
            next_id: AtomicU64::new(1),
            in_flight: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
            garbage: AtomicUsize::new(0),
            closed: CancellationToken::new(),
            lists_changed,
        }));
        tokio::spawn(write_all(stdin, queue, connection.0.closed.clone()));
        tokio::spawn(connection.clone().read_all(stdout));
        connection
    }

    /// Returns how many calls are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// Returns how many lines came so far.
    pub(crate) fn heard(&self) -> u64 {
        self.0.heard.load(Ordering::Relaxed)
    }

    /// Closes our end: the child's input ends once what is queued is written, calls under way fail.
    pub(crate) fn close(&self) {
        self.0.closed.cancel();
        let calls = {
            let mut pending = self.pending();
            pending.closed = true;
            std::mem::take(&mut pending.calls)
        };
        for (_, waiting) in calls {
            // Whoever no longer waits needs no answer.
            drop(waiting.send(Err(Lost::Broken)));
        }
    }

    /// Resolves when either side closed.
    pub(crate) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    async fn send(&self, mut message: Vec<u8>) -> Result<(), Lost> {
        message.push(b'\n');
        tokio::select! {
            sent = self.0.outgoing.send(message) => sent.map_err(|_| Lost::NotSent),
            () = self.0.closed.cancelled() => Err(Lost::NotSent),
        }
    }

    fn expect(&self, id: u64) -> Result<oneshot::Receiver<Result<Answer, Lost>>, Lost> {
        let (sender, receiver) = oneshot::channel();
        let mut pending = self.pending();
        if pending.closed {
            return Err(Lost::NotSent);
        }
        if pending.calls.len() >= PENDING_MAX {
            return Err(Lost::Busy);
        }
        pending.calls.insert(id, sender);
        self.0
            .in_flight
            .store(pending.calls.len(), Ordering::Relaxed);
        Ok(receiver)
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Result<Answer, Lost>>> {
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

    async fn read_all<R: AsyncRead + Unpin>(self, mut stdout: R) {
        let mut splitter = LineSplitter::new(LINE_BYTES_MAX);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = tokio::select! {
                read = stdout.read(&mut chunk) => read,
                () = self.0.closed.cancelled() => break,
            };
            match read {
                Ok(0) | Err(_) => break,
                Ok(count) => splitter.feed(&chunk[..count], |line| self.take_in(decode(&line))),
            }
        }
        self.close();
    }

    fn take_in(&self, incoming: Incoming) {
        self.0.heard.fetch_add(1, Ordering::Relaxed);
        match incoming {
            Incoming::Answer(id, answer) => self.hand_over(id, Ok(answer)),
            Incoming::TooLong(id) => self.hand_over(id, Err(Lost::TooLong)),
            Incoming::Question { id, method } => self.answer(&id, &method),
            Incoming::Notice { method } => {
                if method.ends_with("/list_changed") {
                    self.0.lists_changed.notify_one();
                }
            }
            Incoming::Garbage { reason } => self.complain(reason),
            Incoming::Lost => {
                self.complain("is too long, and whom it answers cannot be told");
                self.close();
            }
        }
    }

    fn hand_over(&self, id: u64, answer: Result<Answer, Lost>) {
        match self.take(id) {
            // Whoever no longer waits needs no answer.
            Some(waiting) => drop(waiting.send(answer)),
            None => {
                tracing::debug!(plugin = %self.0.plugin, id, "an answer came that nobody waits for");
            }
        }
    }

    /// Answers what a server may ask of its client: `ping`, and nothing else, as we declare no capability.
    fn answer(&self, id: &Id, method: &str) {
        let mut message = if method == "ping" {
            envelope::write_result(id, &object(&serde_json::json!({})))
        } else {
            let text = "this client declares no such capability";
            envelope::write_error(
                id,
                &object(&serde_json::json!({"code": -32601, "message": text})),
            )
        };
        message.push(b'\n');
        // A child that asks faster than it reads goes without an answer.
        if self.0.outgoing.try_send(message).is_err() {
            self.complain("asks more than it reads");
        }
    }

    fn complain(&self, reason: &'static str) {
        let count = self.0.garbage.fetch_add(1, Ordering::Relaxed);
        if count < GARBAGE_LOGGED_MAX {
            tracing::warn!(plugin = %self.0.plugin, reason, "a line on the plugin's standard output was dropped");
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
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let answer = self.expect(id)?;
        let mut waiting = Waiting {
            connection: self,
            id,
            abandon: Abandon::Ignore,
        };
        let message = envelope::write_request(Some(&Id::from_number(id)), method, params);
        let exchange = async {
            self.send(message).await?;
            waiting.abandon = abandon;
            answer.await.unwrap_or(Err(Lost::Broken))
        };
        match tokio::time::timeout_at(deadline.into(), exchange).await {
            Ok(done) => {
                waiting.abandon = Abandon::Ignore;
                done
            }
            Err(_) => Err(Lost::Late),
        }
    }

    async fn notify(&self, method: &str, params: &RawValue, deadline: Instant) -> Result<(), Lost> {
        let message = envelope::write_request(None, method, params);
        tokio::time::timeout_at(deadline.into(), self.send(message))
            .await
            .unwrap_or(Err(Lost::Late))
    }
}

fn object(value: &serde_json::Value) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A request's place among the pending ones, given up on drop.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u64,
    abandon: Abandon,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.connection.take(self.id);
        if self.abandon == Abandon::Cancel {
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
            let mut message = envelope::write_request(None, "notifications/cancelled", &params);
            message.push(b'\n');
            // A full queue means that the child does not read: it would not see this either.
            drop(self.connection.0.outgoing.try_send(message));
        }
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut stdin: W,
    mut queue: mpsc::Receiver<Vec<u8>>,
    closed: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            biased;
            message = queue.recv() => message,
            () = closed.cancelled() => None,
        };
        let Some(message) = message else { break };
        let written = tokio::select! {
            written = stdin.write_all(&message) => written.is_ok(),
            // A child that does not read must not keep its own end from coming.
            () = give_up(&closed) => false,
        };
        if !written {
            break;
        }
    }
    closed.cancel();
}

async fn give_up(closed: &CancellationToken) {
    closed.cancelled().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
}
