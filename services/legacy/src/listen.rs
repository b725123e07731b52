//! The stream that a session reads with GET, fed by a `subscriptions/listen` at the server.
//!
//! A session has one such stream in the whole fleet: the newest. Its events are not kept. A client that
//! comes back after a break is told that everything it watches may have changed, which is what it would do
//! well to assume.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use mcp::envelope::{self, Body as Read};
use mcp::era::OldClientStream;
use mcp::era::listen::{Heard, ServerTells};
use mcp::members::Members;
use mcp::notification::{self, List};
use mcp::sse::{Event, KEEP_ALIVE};
use mcp::{Call, Cause, Failure, Id, Method, Revision};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::host::{Asker, Backend, Host, Opened, Response};
use crate::random_name;
use crate::tape::KEEP_ALIVE_EVERY;

/// Begins the names of these streams, and so their event ids.
pub const PREFIX: &str = "g";
/// Events that wait for a slow client.
const EVENTS: usize = 32;
/// Shortest pause before the server is asked again after it failed.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause before the server is asked again after it failed.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Whether the client had a stream before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// This is its first.
    Nothing,
    /// It comes back.
    Something,
}

/// Opens the stream.
///
/// # Errors
/// When the server cannot be asked what it tells, or the store fails.
pub(crate) async fn open<B: Backend>(
    host: &Host<B>,
    asker: Asker<B::Caller>,
    opened: Opened,
    rest: Duration,
    missed: Missed,
) -> Result<Response, Failure> {
    let tells = match host.discover(&asker, &opened.session.client).await? {
        Ok(discover) => Members::parse(&discover)
            .ok()
            .and_then(|d| d.get("capabilities").map(ServerTells::read))
            .unwrap_or_default(),
        Err(_) => return Err(Failure::new(Cause::UpstreamInvalid)),
    };
    let name = format!("{PREFIX}{}", random_name());
    host.board.set_stream(&opened.name, &name, rest).await?;
    let (events, reader) = mpsc::channel(EVENTS);
    let feed = Feed {
        backend: host.backend.clone(),
        board: host.board.clone(),
        asker,
        opened,
        tells,
        name,
        events,
        seq: 0,
        until: Instant::now() + rest,
    };
    tokio::spawn(feed.run(missed));
    Ok(Response::events(written(reader)))
}

/// The bytes of the stream, with comments while nothing happens.
fn written(reader: mpsc::Receiver<Bytes>) -> BoxStream<'static, Bytes> {
    stream::unfold(reader, |mut reader| async move {
        match tokio::time::timeout(KEEP_ALIVE_EVERY, reader.recv()).await {
            Err(_) => Some((Bytes::from_static(KEEP_ALIVE.as_bytes()), reader)),
            Ok(event) => event.map(|event| (event, reader)),
        }
    })
    .boxed()
}

struct Feed<B: Backend> {
    backend: std::sync::Arc<B>,
    board: std::sync::Arc<crate::board::Board>,
    asker: Asker<B::Caller>,
    opened: Opened,
    tells: ServerTells,
    name: String,
    events: mpsc::Sender<Bytes>,
    seq: u64,
    until: Instant,
}

/// Why one listening ended.
enum Ended {
    /// The stream is over: the client left, another took its place, or the session ended.
    Stream,
    /// What is listened for changed.
    Changed,
    /// The server ended it.
    Server,
}

impl<B: Backend> Feed<B> {
    async fn run(mut self, missed: Missed) {
        let session = self.opened.name.clone();
        let wake = self.board.wake(&session);
        if self.begin(missed).await.is_ok() {
            self.listen_on(&wake).await;
        }
        drop(wake);
        self.board.tidy(&session);
    }

    /// Listens again and again until the stream is over.
    async fn listen_on(&mut self, wake: &tokio::sync::Notify) {
        let mut pause = PAUSE_MIN;
        loop {
            let began_at = Instant::now();
            match self.listen(wake).await {
                Ended::Stream => return,
                Ended::Changed => pause = PAUSE_MIN,
                Ended::Server => {
                    // What held for a while is tried again soon.
                    if began_at.elapsed() > PAUSE_MAX {
                        pause = PAUSE_MIN;
                    }
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.events.closed() => return,
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                    // Changes may have gone by in between.
                    if self.all_changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn begin(&mut self, missed: Missed) -> Result<(), Gone> {
        if self.opened.session.revision >= Revision::V2025_11_25 {
            let primer = Event {
                retry_ms: Some(1000),
                ..Event::message("").with_id(format!("{}-0", self.name))
            };
            self.events
                .send(primer.encode().into())
                .await
                .map_err(|_| Gone)?;
        }
        match missed {
            Missed::Nothing => Ok(()),
            Missed::Something => self.all_changed().await,
        }
    }

    /// Tells the client of everything that it may have missed.
    async fn all_changed(&mut self) -> Result<(), Gone> {
        let lists = [
            (self.tells.tools, List::Tools),
            (self.tells.prompts, List::Prompts),
            (self.tells.resources, List::Resources),
        ];
        for (_, list) in lists.into_iter().filter(|(told, _)| *told) {
            self.send(notification::list_changed(list)).await?;
        }
        if self.tells.updates {
            let facts = self
                .board
                .facts(&self.opened.name)
                .await
                .map_err(|_| Gone)?;
            for uri in facts.uris.values() {
                self.send(notification::resource_updated(uri)).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, message: Vec<u8>) -> Result<(), Gone> {
        self.seq += 1;
        let text = String::from_utf8_lossy(&message);
        let event = Event::message(text).with_id(format!("{}-{}", self.name, self.seq));
        self.events
            .send(event.encode().into())
            .await
            .map_err(|_| Gone)
    }

    /// Listens until something ends it.
    async fn listen(&mut self, wake: &tokio::sync::Notify) -> Ended {
        // Before the facts are read, so that no change is missed.
        let mut changed = std::pin::pin!(wake.notified());
        changed.as_mut().enable();
        let Ok(facts) = self.board.facts(&self.opened.name).await else {
            return Ended::Server;
        };
        if facts.ended
            || facts
                .stream
                .as_deref()
                .is_some_and(|stream| stream != self.name)
        {
            return Ended::Stream;
        }
        let uris = facts.uris.values().cloned().collect();
        let filter = OldClientStream::new(self.opened.session.revision, self.tells, uris);
        let mut messages = match self.call(&filter) {
            Ok(Some(messages)) => messages,
            Ok(None) => stream::pending().boxed(),
            Err(_) => return Ended::Server,
        };
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = changed.as_mut() => {
                    changed.set(wake.notified());
                    changed.as_mut().enable();
                    let now = self.board.facts(&self.opened.name).await;
                    match now {
                        // Something else of the session changed.
                        Ok(now) if now == facts => continue,
                        _ => return Ended::Changed,
                    }
                }
                () = self.events.closed() => return Ended::Stream,
                () = sleep_until(self.until) => return Ended::Stream,
            };
            let Some(Ok(message)) = message else {
                return Ended::Server;
            };
            let Ok(Read::One(Ok(read))) = envelope::read(&message) else {
                return Ended::Server;
            };
            match filter.hear(&read) {
                Heard::Nothing => {}
                Heard::Ended => return Ended::Server,
                Heard::Send(message) => {
                    if self.send(message).await.is_err() {
                        return Ended::Stream;
                    }
                }
            }
        }
    }

    fn call(
        &self,
        filter: &OldClientStream,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, Failure>>>, Failure> {
        let Some(params) = filter.params() else {
            return Ok(None);
        };
        let id = Id::from_text(&self.name);
        let client = &self.opened.session.client;
        let call = Call::new(Some(id), Method::SubscriptionsListen, Some(&params), client)?;
        Ok(Some(self.backend.call(&self.asker.caller, call)))
    }
}

/// The client is gone.
struct Gone;
