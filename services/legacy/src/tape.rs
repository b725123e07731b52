//! The event stream that answers one POST, and what of it can be read again.
//!
//! Work goes on when the client's connection breaks. Its events are kept for a while, first here, and as
//! soon as the connection is gone where every host can read them: the client asks for them with
//! `Last-Event-ID`, at any host.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use mcp::sse::{Event, KEEP_ALIVE};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::board::Board;
use crate::shared::{Change, Shared};

/// Most events that are kept of one stream.
pub const EVENTS_MAX: usize = 256;
/// Most bytes that are kept of one stream.
pub const TAPE_BYTES_MAX: usize = 1 << 20;
/// Largest event that another host can replay, in bytes.
pub const REPLAY_BYTES_MAX: usize = 512 << 10;
/// How long events can be read again after the connection broke.
pub const REPLAY_TTL: Duration = Duration::from_secs(300);
/// How often an idle stream says that it lives.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// A message for the client.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The message.
    pub message: Bytes,
    /// It answers a request of the client.
    pub is_response: bool,
}

/// A message with its place in the stream; the first is 1.
#[derive(Debug, Clone)]
pub struct Placed {
    seq: u64,
    /// The message.
    pub frame: Frame,
}

fn key_prefix(session: &str, stream: &str) -> String {
    format!("legacy-replay/{session}/{stream}/")
}

/// An event id: the stream and the place in it.
fn event_id(stream: &str, seq: u64) -> String {
    format!("{stream}-{seq}")
}

/// Reads an event id.
#[must_use]
pub fn parse_event_id(id: &str) -> Option<(&str, u64)> {
    let (stream, seq) = id.rsplit_once('-')?;
    let plain = !stream.is_empty()
        && stream.len() <= 64
        && stream.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then_some((stream, seq.parse().ok()?))
}

/// Carries frames from the calls of one POST to its client, and keeps them.
pub struct Tape {
    /// Where the records go when the connection breaks.
    board: Arc<Board>,
    session: String,
    /// Names the stream.
    stream: String,
    kept: VecDeque<Placed>,
    kept_bytes: usize,
}

impl Tape {
    /// An empty tape.
    pub fn new(board: Arc<Board>, session: String, stream: String) -> Tape {
        Tape {
            board,
            session,
            stream,
            kept: VecDeque::new(),
            kept_bytes: 0,
        }
    }

    /// Runs until the calls have said all and the client has read it, or it is kept for later.
    ///
    /// `read` tells that the client's side was read to its end; dropped before, the connection broke.
    pub async fn run(
        mut self,
        mut calls: mpsc::Receiver<Frame>,
        client: mpsc::Sender<Placed>,
        read: oneshot::Receiver<()>,
    ) {
        let mut client = Some(client);
        let mut seq = 0;
        while let Some(frame) = calls.recv().await {
            seq += 1;
            let placed = Placed { seq, frame };
            self.keep(placed.clone());
            match &client {
                Some(connected) => {
                    if connected.send(placed).await.is_err() {
                        client = None;
                        self.spill().await;
                    }
                }
                None => self.record(&placed).await,
            }
        }
        let unread = match client.take() {
            None => true,
            Some(connected) => {
                drop(connected);
                let unread = read.await.is_err();
                if unread {
                    self.spill().await;
                }
                unread
            }
        };
        if unread {
            // An empty record ends the stream.
            self.put(seq + 1, Bytes::new()).await;
        }
    }

    fn keep(&mut self, placed: Placed) {
        self.kept_bytes += placed.frame.message.len();
        self.kept.push_back(placed);
        while self.kept.len() > EVENTS_MAX
            || (self.kept_bytes > TAPE_BYTES_MAX && self.kept.len() > 1)
        {
            if let Some(dropped) = self.kept.pop_front() {
                self.kept_bytes -= dropped.frame.message.len();
            }
        }
    }

    async fn spill(&mut self) {
        for placed in std::mem::take(&mut self.kept) {
            self.record(&placed).await;
        }
        self.kept_bytes = 0;
    }

    async fn record(&self, placed: &Placed) {
        if placed.frame.message.len() <= REPLAY_BYTES_MAX {
            self.put(placed.seq, placed.frame.message.clone()).await;
        }
    }

    async fn put(&self, seq: u64, value: Bytes) {
        let key = format!("{}{seq:010}", key_prefix(&self.session, &self.stream));
        let put = self.board.put_event(&self.session, &key, value, REPLAY_TTL);
        if let Err(failure) = put.await {
            let cause = failure.cause.as_str();
            tracing::debug!(cause, "an event is not kept for its client");
        }
    }
}

/// The bytes of an event stream: what was taken already, then what comes, with comments while nothing does.
pub fn events(
    stream: String,
    primer: Option<Event>,
    taken: Vec<Placed>,
    rest: mpsc::Receiver<Placed>,
    read: oneshot::Sender<()>,
) -> BoxStream<'static, Bytes> {
    let begin = primer.map(|event| Bytes::from(event.encode()));
    let name = stream.clone();
    let head =
        stream::iter(begin).chain(stream::iter(taken).map(move |placed| write(&name, &placed)));
    let tail = stream::unfold(
        (rest, Some(read), stream),
        |(mut rest, mut read, name)| async move {
            match tokio::time::timeout(KEEP_ALIVE_EVERY, rest.recv()).await {
                Err(_) => Some((
                    Bytes::from_static(KEEP_ALIVE.as_bytes()),
                    (rest, read, name),
                )),
                Ok(Some(placed)) => Some((write(&name, &placed), (rest, read, name))),
                Ok(None) => {
                    if let Some(read) = read.take() {
                        // Nobody waits for this if the tape broke off.
                        let _ = read.send(());
                    }
                    None
                }
            }
        },
    );
    head.chain(tail).boxed()
}

fn write(stream: &str, placed: &Placed) -> Bytes {
    let text = String::from_utf8_lossy(&placed.frame.message);
    let event = Event::message(text).with_id(event_id(stream, placed.seq));
    Bytes::from(event.encode())
}

/// The event that makes a client of 2025-11-25 come back: an id, and nothing more.
#[must_use]
pub fn primer(stream: &str) -> Event {
    Event {
        retry_ms: Some(1000),
        ..Event::message("").with_id(event_id(stream, 0))
    }
}

/// The events of a broken stream after `seq`, until its end or until nothing came for [`REPLAY_TTL`].
pub fn replay(
    shared: &dyn Shared,
    session: &str,
    stream_name: &str,
    after: u64,
) -> BoxStream<'static, Bytes> {
    let prefix = key_prefix(session, stream_name);
    let records = shared.watch(&prefix);
    let until = Instant::now() + REPLAY_TTL;
    let state = (
        records,
        prefix,
        stream_name.to_owned(),
        after,
        Instant::now(),
    );
    stream::unfold(
        state,
        move |(mut records, prefix, name, mut after, mut alive)| async move {
            loop {
                let tick = (alive + KEEP_ALIVE_EVERY).min(until);
                let change = match timeout_at(tick, records.next()).await {
                    Ok(change) => change?,
                    Err(_) if Instant::now() >= until => return None,
                    Err(_) => {
                        alive = Instant::now();
                        let comment = Bytes::from_static(KEEP_ALIVE.as_bytes());
                        return Some((comment, (records, prefix, name, after, alive)));
                    }
                };
                let Ok(Change::Put { key, value }) = change else {
                    continue;
                };
                let Some(seq) = key
                    .strip_prefix(&prefix)
                    .and_then(|text| text.parse::<u64>().ok())
                else {
                    continue;
                };
                if value.is_empty() {
                    return None;
                }
                // A record may be told twice.
                if seq > after {
                    after = seq;
                    let frame = Frame {
                        message: value,
                        is_response: false,
                    };
                    let bytes = write(&name, &Placed { seq, frame });
                    return Some((bytes, (records, prefix, name, after, Instant::now())));
                }
            }
        },
    )
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_are_ours_or_nothing() {
        assert_eq!(parse_event_id(&event_id("ab12", 7)), Some(("ab12", 7)));
        for id in ["", "7", "-7", "a/b-7", "ab-", "ab-x", "a\u{e9}-1"] {
            assert_eq!(parse_event_id(id), None, "{id}");
        }
    }
}
