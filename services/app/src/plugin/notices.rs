//! What work tells its client before the result: progress and log messages, on the call's own stream.
//!
//! The way to the client is bounded. Work of our own waits for room ([`Notices::progress`], [`Notices::log`]): a slow reader
//! slows its own work. What an upstream server tells never waits ([`Notices::pass_progress`], [`Notices::pass_log`]), since
//! many clients share its connection: what finds no room is dropped.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mcp::{envelope, members::Members};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::mpsc;

/// Messages that wait for one client.
const WAITING_MAX: usize = 32;
/// The largest message that is passed on from an upstream server, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// How grave a log message is (RFC 5424), least grave first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For finding mistakes.
    Debug,
    /// Plain course of things.
    Info,
    /// Plain but significant.
    Notice,
    /// Something may go wrong.
    Warning,
    /// Something went wrong.
    Error,
    /// A part has failed.
    Critical,
    /// Somebody must act at once.
    Alert,
    /// Nothing works.
    Emergency,
}

impl Level {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Debug, "debug"),
        (Self::Info, "info"),
        (Self::Notice, "notice"),
        (Self::Warning, "warning"),
        (Self::Error, "error"),
        (Self::Critical, "critical"),
        (Self::Alert, "alert"),
        (Self::Emergency, "emergency"),
    ];

    /// Returns the protocol's word.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(level, _)| *level == self)
            .map_or("debug", |(_, word)| word)
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL
            .iter()
            .find(|(_, own)| *own == word)
            .map(|(level, _)| *level)
            .ok_or(())
    }
}

/// What a client wants to be told before the result.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// It wants progress under this token, as it sent it.
    pub progress_token: Option<Box<RawValue>>,
    /// It wants log messages that are at least so grave.
    pub log_level: Option<Level>,
}

/// The way to one call's client. Cheap to clone; the default leads nowhere.
#[derive(Debug, Clone, Default)]
pub struct Notices(Option<Arc<Way>>);

#[derive(Debug)]
struct Way {
    wishes: Wishes,
    queue: mpsc::Sender<Vec<u8>>,
    dropped: AtomicU64,
}

/// The other end: JSON-RPC notifications in the order they were told.
pub type Heard = mpsc::Receiver<Vec<u8>>;

impl Notices {
    /// Opens a way for what the client wishes; `None` if it wishes nothing.
    pub fn open(wishes: Wishes) -> Option<(Self, Heard)> {
        if wishes.progress_token.is_none() && wishes.log_level.is_none() {
            return None;
        }
        let (queue, heard) = mpsc::channel(WAITING_MAX);
        let way = Way {
            wishes,
            queue,
            dropped: AtomicU64::new(0),
        };
        Some((Self(Some(Arc::new(way))), heard))
    }

    /// Tells whether the client wants progress.
    pub fn wants_progress(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|way| way.wishes.progress_token.is_some())
    }

    /// Returns how grave a log message must be for the client; `None` if it wants none.
    pub fn log_level(&self) -> Option<Level> {
        self.0.as_ref()?.wishes.log_level
    }

    /// Returns how many messages found no room.
    pub fn dropped(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |way| way.dropped.load(Ordering::Relaxed))
    }

    /// Tells how far the work is, if the client wants to know. Waits for room.
    pub async fn progress(&self, progress: f64, total: Option<f64>, message: Option<&str>) {
        let mut params = json!({"progress": progress});
        if let Some(total) = total {
            params["total"] = total.into();
        }
        if let Some(message) = message {
            params["message"] = message.into();
        }
        let message = to_raw_value(&params)
            .ok()
            .and_then(|raw| self.as_progress(&raw));
        self.send(message).await;
    }

    /// Tells what happens, if the client wants to know. Waits for room.
    pub async fn log(&self, level: Level, logger: &str, data: Value) {
        let params = json!({"level": level.as_str(), "logger": logger, "data": data});
        let message = to_raw_value(&params).ok().and_then(|raw| self.as_log(&raw));
        self.send(message).await;
    }

    /// Passes on the parameters of an upstream's `notifications/progress`, under the client's own token.
    pub fn pass_progress(&self, params: &RawValue) {
        self.pass(params, self.as_progress(params));
    }

    /// Passes on the parameters of an upstream's `notifications/message`, if the client wants messages so grave.
    pub fn pass_log(&self, params: &RawValue) {
        self.pass(params, self.as_log(params));
    }

    fn as_progress(&self, params: &RawValue) -> Option<Vec<u8>> {
        let token = self.0.as_ref()?.wishes.progress_token.clone()?;
        let mut params = Members::parse(params).ok()?;
        params.set("progressToken", token);
        params.remove("_meta");
        Some(envelope::write_request(
            None,
            "notifications/progress",
            &params.to_raw(),
        ))
    }

    fn as_log(&self, params: &RawValue) -> Option<Vec<u8>> {
        let wanted = self.log_level()?;
        let mut params = Members::parse(params).ok()?;
        let level: Level = params.get_str("level")?.parse().ok()?;
        params.remove("_meta");
        (level >= wanted)
            .then(|| envelope::write_request(None, "notifications/message", &params.to_raw()))
    }

    async fn send(&self, message: Option<Vec<u8>>) {
        if let (Some(way), Some(message)) = (&self.0, message) {
            // A client that is gone needs no word of it: its work is dropped.
            drop(way.queue.send(message).await);
        }
    }

    fn pass(&self, params: &RawValue, message: Option<Vec<u8>>) {
        let (Some(way), Some(message)) = (&self.0, message) else {
            return;
        };
        if params.get().len() > MESSAGE_BYTES_MAX || way.queue.try_send(message).is_err() {
            way.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    fn both(token: Option<&str>, level: Option<Level>) -> Option<(Notices, Heard)> {
        Notices::open(Wishes {
            progress_token: token.map(raw),
            log_level: level,
        })
    }

    #[tokio::test]
    async fn only_what_is_wished_is_heard_under_the_clients_token() {
        assert!(both(None, None).is_none());
        let (notices, mut heard) = both(Some(r#""t\u00e9""#), Some(Level::Warning)).unwrap();
        notices.pass_progress(&raw(r#"{"progressToken":7,"progress":1.50}"#));
        notices.pass_log(&raw(r#"{"level":"notice","data":"quiet"}"#));
        notices.pass_log(&raw(r#"{"level":"error","data":{"a":1.0}}"#));
        notices.pass_log(&raw(r#"{"level":"shout","data":1}"#));
        notices.progress(2.0, Some(3.0), None).await;
        drop(notices);
        let mut all = Vec::new();
        while let Some(message) = heard.recv().await {
            all.push(String::from_utf8(message).unwrap());
        }
        assert_eq!(
            all,
            [
                r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t\u00e9","progress":1.50}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":{"a":1.0}}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":2.0,"total":3.0,"progressToken":"t\u00e9"}}"#,
            ]
        );
    }

    #[tokio::test]
    async fn a_slow_reader_costs_its_own_messages_and_no_more_memory() {
        let (notices, mut heard) = both(Some("1"), None).unwrap();
        for _ in 0..WAITING_MAX + 5 {
            notices.pass_progress(&raw(r#"{"progress":1}"#));
        }
        assert_eq!(notices.dropped(), 5);
        let waits = notices.progress(2.0, None, None);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending(), "there is no room");
        heard.recv().await.unwrap();
        waits.await;
    }
}
