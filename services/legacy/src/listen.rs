//! The stream that a session reads with GET, fed by a `subscriptions/listen` at the server.
//!
//! A session has one such stream in the whole fleet: the newest. Its events are not kept. A client that
//! comes back after a break is told that everything it watches may have changed, which is what it would do
//! well to assume.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use mcp::envelope::{self, Body as Read, Message};
use mcp::era::OldClientStream;
use mcp::era::listen::{Heard, ServerTells};
use mcp::era::tasks::Task;
use mcp::members::Members;
use mcp::notification::{self, List};
use mcp::sse::{Event, KEEP_ALIVE};
use mcp::{Call, Cause, Failure, Id, Method, Revision};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::host::{Asker, Backend, Host, Opened, Response};
use crate::random_name;
use crate::tape::{Frame, KEEP_ALIVE_EVERY};
use crate::tasks;

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
    let tells = tells(host, &asker, &opened).await?;
    let name = format!("{PREFIX}{}", random_name());
    host.board.set_stream(&opened.name, &name, rest).await?;
    let (events, reader) = mpsc::channel(EVENTS);
    let sink = Sink::Events(events);
    tokio::spawn(Feed::new(host, asker, opened, tells, name, rest, sink).run(missed));
    Ok(Response::events(written(reader)))
}

/// Begins to tell a session of changes on the connection that it has.
///
/// # Errors
/// When the server cannot be asked what it tells.
pub(crate) async fn attach<B: Backend>(
    host: &Host<B>,
    asker: Asker<B::Caller>,
    opened: Opened,
    out: mpsc::Sender<Frame>,
) -> Result<(), Failure> {
    let tells = tells(host, &asker, &opened).await?;
    let name = format!("{PREFIX}{}", random_name());
    let rest = opened.rest();
    let sink = Sink::Connection(out);
    tokio::spawn(Feed::new(host, asker, opened, tells, name, rest, sink).run(Missed::Nothing));
    Ok(())
}

async fn tells<B: Backend>(
    host: &Host<B>,
    asker: &Asker<B::Caller>,
    opened: &Opened,
) -> Result<ServerTells, Failure> {
    match host.discover(asker, &opened.session.client).await? {
        Ok(discover) => Ok(Members::parse(&discover)
            .ok()
            .and_then(|d| d.get("capabilities").map(ServerTells::read))
            .unwrap_or_default()),
        Err(_) => Err(Failure::new(Cause::UpstreamInvalid)),
    }
}

/// Where the messages go.
enum Sink {
    /// To a stream of events of its own.
    Events(mpsc::Sender<Bytes>),
    /// To a connection, among others.
    Connection(mpsc::Sender<Frame>),
}

impl Sink {
    /// Sends a message with its place in the stream.
    async fn send(&self, id: String, message: Vec<u8>) -> Result<(), Gone> {
        match self {
            Sink::Events(events) => {
                let text = String::from_utf8_lossy(&message);
                let event = Event::message(text).with_id(id);
                events.send(event.encode().into()).await.map_err(|_| Gone)
            }
            Sink::Connection(out) => {
                let frame = Frame {
                    message: message.into(),
                    is_response: false,
                };
                out.send(frame).await.map_err(|_| Gone)
            }
        }
    }

    /// Says that the stream has begun, so that a client comes back when it breaks.
    async fn prime(&self, id: String) -> Result<(), Gone> {
        let Sink::Events(events) = self else {
            return Ok(());
        };
        let primer = Event {
            retry_ms: Some(1000),
            ..Event::message("").with_id(id)
        };
        events.send(primer.encode().into()).await.map_err(|_| Gone)
    }

    async fn closed(&self) {
        match self {
            Sink::Events(events) => events.closed().await,
            Sink::Connection(out) => out.closed().await,
        }
    }
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
    sink: Sink,
    seq: u64,
    /// What the client was told last of each of its tasks: at most [`crate::board::TASKS_MAX`].
    told: BTreeMap<String, String>,
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
    fn new(
        host: &Host<B>,
        asker: Asker<B::Caller>,
        opened: Opened,
        tells: ServerTells,
        name: String,
        rest: Duration,
        sink: Sink,
    ) -> Feed<B> {
        Feed {
            backend: host.backend.clone(),
            board: host.board.clone(),
            asker,
            opened,
            tells,
            name,
            sink,
            seq: 0,
            told: BTreeMap::new(),
            until: Instant::now() + rest,
        }
    }

    async fn run(mut self, missed: Missed) {
        let session = self.opened.name.clone();
        let wake = self.board.wake(&session);
        if self.begin(missed).await.is_ok() {
            self.listen_on(&wake).await;
        }
        drop(wake);
        if matches!(self.sink, Sink::Events(_)) {
            self.board.leave_stream(&session, &self.name).await;
        }
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
                        () = self.sink.closed() => return,
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
            self.sink.prime(format!("{}-0", self.name)).await?;
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
        let id = format!("{}-{}", self.name, self.seq);
        self.sink.send(id, message).await
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
        let tasks = facts.tasks.values().cloned().collect();
        let filter = OldClientStream::new(self.opened.session.revision, self.tells, uris, tasks);
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
                () = self.sink.closed() => return Ended::Stream,
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
                    if self.was_told(&read) {
                        continue;
                    }
                    if self.send(message).await.is_err() {
                        return Ended::Stream;
                    }
                }
            }
        }
    }

    /// Whether a message tells what the client was told last of a task: every listening begins with how far
    /// each is.
    fn was_told(&mut self, message: &Message<'_>) -> bool {
        let Message::Notification { params, .. } = message else {
            return false;
        };
        let Some(Ok(task)) = params.map(Task::read) else {
            return false;
        };
        let told = task.legacy().get().to_owned();
        self.told.insert(task.id, told.clone()) == Some(told)
    }

    fn call(
        &self,
        filter: &OldClientStream,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, Failure>>>, Failure> {
        let Some(params) = filter.params() else {
            return Ok(None);
        };
        let id = Id::from_text(&self.name);
        let client = tasks::with_tasks(&self.opened.session.client);
        let call = Call::new(
            Some(id),
            Method::SubscriptionsListen,
            Some(&params),
            &client,
        )?;
        Ok(Some(self.backend.call(&self.asker.caller, call)))
    }
}

/// The client is gone.
struct Gone;
