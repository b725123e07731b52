//! `/mcp/v1/ws`: MCP's messages both ways over a WebSocket (RFC 6455), each in a text message.
//!
//! | the client's message | is |
//! |---|---|
//! | a request that says 2026-07-28 in `params._meta` | a stateless call, as on `/mcp` |
//! | `notifications/cancelled` of such a call | its end |
//! | anything else | of the older era: the connection is a session that begins with `initialize` |
//!
//! The handshake proves who calls, for as long as the token holds. Each request is judged, limited and
//! charged alone by the gateway's stages; none can be told by its connection.
//!
//! Connections end with 1001 when the edge drains, 1008 when the token has ended, 1003 for a binary message,
//! 1009 for one that is too large, 1007 and 1002 for what is no UTF-8 or no WebSocket. Before 1001 and 1008
//! whatever is under way is answered, so a request that has no answer then was never begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::FutureExt;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, StatusCode};
use legacy::talk::Took;
use legacy::tape::Frame;
use legacy::{Board, Host, Memory, Talk};
use mcp::call::META_VERSION;
use mcp::envelope::{self, Body};
use mcp::members::Members;
use mcp::notification::Notification;
use mcp::{Call, Cause, Failure, Id, Message, Method, Refused, Revision};
use pingora::protocols::Stream;
use policy::admission::{Gate, Permit};
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Utf8Bytes};

use super::mcp::{farewell, unsupported};
use super::sessions::{Sessions, Stages, asker, label};
use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::{self, Exchange, Response, set_header};
use crate::identity::{Caller, first_u64};
use crate::record;
use crate::stream::{self, Part};

/// The subprotocol that is chosen if the client offers it.
const SUBPROTOCOL: &str = "mcp";
/// The version of the WebSocket protocol.
const VERSION: &str = "13";
/// Bytes of a handshake's key.
const KEY_BYTES: usize = 16;
/// Messages that wait for a slow client.
const WAITING_MAX: usize = 64;
/// Streams of changes that one connection has at once.
const LISTENS_MAX: usize = 16;
/// How long a client may take to read one message.
const WRITE_MAX: Duration = Duration::from_secs(60);
/// How long a client may take to answer a close.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// Bytes that are read from a connection at a time.
const READ_BYTES: usize = 8 * 1024;

/// What all connections share.
pub struct Sockets {
    /// Speaks with the sessions. They end with their connections, so nothing of them leaves this process.
    host: Sessions,
    connections: Gate,
}

impl Sockets {
    /// None yet. Must be called within a Tokio runtime.
    #[must_use]
    pub fn new(edge: &Edge) -> Sockets {
        let board = Arc::new(Board::new(Arc::new(Memory::default())));
        let ttl = edge.settings.session.ttl;
        Sockets {
            host: Host::new(Arc::new(Stages), board, edge.sessions.clone(), ttl),
            connections: Gate::new(edge.settings.websocket.connections_max),
        }
    }
}

/// Answers a handshake; the connection is served when the answer has been written.
pub(super) fn serve(
    edge: &Arc<Edge>,
    exchange: &Exchange<'_>,
    context: Context,
    caller: Arc<Caller>,
) -> Response {
    let refuse = |failure: &Failure| record::refused(edge, exchange, context.protocol, failure);
    let accept = match handshake(exchange.headers()) {
        Ok(accept) => accept,
        Err(Unfit::NoHandshake) => {
            let text = "this endpoint speaks WebSocket alone, over HTTP/1.1";
            let mut response = refuse(&Failure::say(Cause::InvalidRequest, text));
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            set_header(&mut response, "upgrade", "websocket");
            set_header(&mut response, "sec-websocket-version", VERSION);
            return response;
        }
        Err(Unfit::Key) => {
            let text = "Sec-WebSocket-Key must be 16 bytes in Base64";
            return refuse(&Failure::say(Cause::InvalidRequest, text));
        }
    };
    let Some(sockets) = edge.sockets.get() else {
        return refuse(&Failure::new(Cause::NoBackend));
    };
    let Ok(place) = sockets.connections.enter() else {
        return refuse(&Failure::new(Cause::Overloaded).retry_after(Duration::from_secs(1)));
    };
    record::answered_here(edge, &context, &caller, "", 101);
    let connection = Connection {
        edge: Arc::clone(edge),
        context,
        caller,
        _place: place,
    };
    let served = |stream| connection.serve(stream).boxed();
    let mut response = Response::new(exchange::Body::Upgraded(Box::new(served)));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    for (name, value) in [(UPGRADE, "websocket"), (CONNECTION, "upgrade")] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    if lists(exchange.headers(), &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        let value = http::HeaderValue::from_static(SUBPROTOCOL);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    set_header(&mut response, SEC_WEBSOCKET_ACCEPT.as_str(), &accept);
    response
}

/// Why a request is no handshake.
#[derive(Debug, PartialEq, Eq)]
enum Unfit {
    NoHandshake,
    Key,
}

/// Checks a handshake's headers; the value of `Sec-WebSocket-Accept`. HTTP/2 has none of them.
fn handshake(headers: &HeaderMap) -> Result<String, Unfit> {
    let is = |name, value| {
        let found = headers.get(name).and_then(|v| v.to_str().ok());
        found.is_some_and(|found| found.trim().eq_ignore_ascii_case(value))
    };
    if !lists(headers, &CONNECTION, "upgrade")
        || !lists(headers, &UPGRADE, "websocket")
        || !is(SEC_WEBSOCKET_VERSION, VERSION)
    {
        return Err(Unfit::NoHandshake);
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(Unfit::Key);
    };
    match STANDARD.decode(key.as_bytes()) {
        Ok(bytes) if bytes.len() == KEY_BYTES => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Unfit::Key),
    }
}

/// Whether a header's list has a token.
fn lists(headers: &HeaderMap, name: &http::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

/// One connection, from its handshake to its end.
struct Connection {
    edge: Arc<Edge>,
    /// That of the handshake.
    context: Context,
    caller: Arc<Caller>,
    _place: Permit,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The client has closed it, or is gone.
    Client,
    /// The edge goes.
    Drain,
    /// The token has ended.
    Expired,
    /// Nothing was said for long.
    Idle,
    /// The client sent what cannot be read.
    Unreadable(CloseCode, &'static str),
}

impl Ending {
    /// What the client is told, if it still can be.
    fn close(self) -> Option<(CloseCode, &'static str)> {
        match self {
            Ending::Client => None,
            Ending::Drain => Some((CloseCode::Away, "this instance goes: connect again")),
            Ending::Expired => Some((CloseCode::Policy, "the token has expired")),
            Ending::Idle => Some((CloseCode::Normal, "nothing was said for long")),
            Ending::Unreadable(code, text) => Some((code, text)),
        }
    }

    /// Of a read that failed.
    fn of(error: &Error) -> Ending {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                Ending::Unreadable(CloseCode::Size, "the message is too large")
            }
            Error::Utf8(_) => Ending::Unreadable(CloseCode::Invalid, "a text is no UTF-8"),
            Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
                Ending::Client
            }
            Error::Protocol(_) => {
                Ending::Unreadable(CloseCode::Protocol, "not a WebSocket's frame")
            }
            _ => Ending::Client,
        }
    }

    /// Whether what is under way is answered first.
    fn waits(self) -> bool {
        matches!(self, Ending::Drain | Ending::Expired)
    }
}

/// What the writer is told beside messages.
enum Control {
    Ping,
    Close(CloseFrame),
}

impl Connection {
    async fn serve(self, stream: Stream) {
        let limits = &self.edge.settings.websocket;
        let message_limit = usize::try_from(limits.message_limit).unwrap_or(usize::MAX);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(message_limit))
            .max_frame_size(Some(message_limit));
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        let (sink, source) = socket.split();
        let (out, frames) = mpsc::channel(WAITING_MAX);
        let (control, controls) = mpsc::channel(4);
        let heard = Heard::default();
        let mut reader = Reader {
            edge: &self.edge,
            base: &self.context,
            caller: &self.caller,
            talk: Talk::new(out.clone()),
            calls: Calls::new(limits.in_flight_max),
            heard: &heard,
            source,
            out,
            control,
        };
        let writing = write(sink, frames, controls, &heard);
        tokio::pin!(writing);
        let ending = tokio::select! {
            ending = reader.run() => ending,
            // A client that does not read is gone.
            Err(Unwritable) = &mut writing => Ending::Client,
        };
        tracing::debug!(?ending, "a WebSocket connection ended");
        let Reader { talk, source, .. } = reader;
        if let Some(sockets) = self.edge.sockets.get() {
            talk.end(&sockets.host).await;
        }
        if matches!(ending, Ending::Unreadable(..)) {
            // What was told of it would be lost if the rest of what came stayed unread.
            let rest = async {
                if let Ok(sink) = writing.await
                    && let Ok(socket) = sink.reunite(source)
                {
                    read_away(socket.into_inner()).await;
                }
            };
            let _ = timeout(CLOSE_MAX, rest).await;
        }
    }
}

/// When a message went by, in milliseconds since the connection began.
struct Heard {
    began: Instant,
    message_ms: AtomicU64,
}

impl Default for Heard {
    fn default() -> Heard {
        Heard {
            began: Instant::now(),
            message_ms: AtomicU64::new(0),
        }
    }
}

impl Heard {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn message(&self) {
        self.message_ms.store(self.now(), Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.now() - self.message_ms.load(Ordering::Relaxed).min(self.now()))
    }
}

/// The client does not take what is written.
struct Unwritable;

/// Writes what is for the client, in order, until the close has been sent.
async fn write(
    mut sink: SplitSink<WebSocketStream<Stream>, tungstenite::Message>,
    mut frames: mpsc::Receiver<Frame>,
    mut controls: mpsc::Receiver<Control>,
    heard: &Heard,
) -> Result<SplitSink<WebSocketStream<Stream>, tungstenite::Message>, Unwritable> {
    let mut closing = None;
    loop {
        let message = tokio::select! {
            biased;
            Some(control) = controls.recv(), if closing.is_none() => match control {
                Control::Ping => tungstenite::Message::Ping(Bytes::new()),
                Control::Close(frame) => {
                    // What has been answered is sent first.
                    frames.close();
                    closing = Some(frame);
                    continue;
                }
            },
            frame = frames.recv() => match (frame, closing.take()) {
                (Some(frame), still_closing) => {
                    closing = still_closing;
                    heard.message();
                    text(frame.message)
                }
                (None, Some(frame)) => tungstenite::Message::Close(Some(frame)),
                (None, None) => return Ok(sink),
            },
        };
        let is_last = message.is_close();
        match timeout(WRITE_MAX, sink.send(message)).await {
            Ok(Ok(())) if is_last => return Ok(sink),
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(Unwritable),
        }
    }
}

/// Ends our side of a connection, and reads what still comes without looking at it.
async fn read_away(mut stream: Stream) {
    // Whatever fails, the connection is over.
    let _ = stream.shutdown().await;
    let mut piece = [0; 4096];
    while let Ok(1..) = stream.read(&mut piece).await {}
}

/// A message of ours; JSON is UTF-8.
fn text(message: Bytes) -> tungstenite::Message {
    let text = Utf8Bytes::try_from(message).unwrap_or_default();
    tungstenite::Message::Text(text)
}

/// Stateless calls under way.
struct Calls {
    /// Places for requests.
    slots: Arc<Semaphore>,
    slots_max: usize,
    /// Places for streams of changes.
    listens: Arc<Semaphore>,
    /// At most as many as there are places; an id is unique among those that run.
    by_id: Vec<(Id, AbortHandle)>,
    /// Dropped with the connection, which cancels them.
    running: JoinSet<()>,
}

impl Calls {
    fn new(slots_max: usize) -> Calls {
        Calls {
            slots: Arc::new(Semaphore::new(slots_max)),
            slots_max,
            listens: Arc::new(Semaphore::new(LISTENS_MAX)),
            by_id: Vec::new(),
            running: JoinSet::new(),
        }
    }

    fn is_running(&self, id: &Id) -> bool {
        let mut running = self.by_id.iter().filter(|(_, call)| !call.is_finished());
        running.any(|(known, _)| known == id)
    }

    fn start(&mut self, id: Id, call: impl Future<Output = ()> + Send + 'static) {
        while self.running.try_join_next().is_some() {}
        self.by_id.retain(|(_, call)| !call.is_finished());
        let handle = self.running.spawn(call);
        self.by_id.push((id, handle));
    }

    /// Ends a call, if there is one.
    fn cancel(&mut self, id: &Id) -> bool {
        let Some(at) = self.by_id.iter().position(|(known, _)| known == id) else {
            return false;
        };
        self.by_id.swap_remove(at).1.abort();
        true
    }

    /// Waits until no request is under way; new ones are refused from here on.
    async fn idle(slots: Arc<Semaphore>, slots_max: usize) {
        let all = u32::try_from(slots_max).unwrap_or(u32::MAX);
        // Only a closed semaphore fails, and this one is not.
        if let Ok(all) = slots.acquire_many_owned(all).await {
            all.forget();
        }
    }
}

struct Reader<'a> {
    edge: &'a Arc<Edge>,
    base: &'a Context,
    caller: &'a Arc<Caller>,
    talk: Talk,
    calls: Calls,
    heard: &'a Heard,
    source: SplitStream<WebSocketStream<Stream>>,
    out: mpsc::Sender<Frame>,
    control: mpsc::Sender<Control>,
}

impl Reader<'_> {
    /// Serves the client's messages until something ends the connection.
    async fn run(&mut self) -> Ending {
        let ending = self.read_on().await;
        if ending.waits() {
            self.finish().await;
        }
        if let Some((code, text)) = ending.close() {
            let frame = CloseFrame {
                code,
                reason: Utf8Bytes::from_static(text),
            };
            // The writer has gone if this fails, and the connection with it.
            let _ = self.control.send(Control::Close(frame)).await;
        }
        if matches!(ending, Ending::Unreadable(..)) {
            return ending;
        }
        // The client's close, or the answer to its own; what else comes is not begun any more.
        let closed = async { while let Some(Ok(_)) = self.source.next().await {} };
        let _ = timeout(CLOSE_MAX, closed).await;
        ending
    }

    async fn read_on(&mut self) -> Ending {
        let limits = &self.edge.settings.websocket;
        let mut ticks = tokio::time::interval(limits.ping_interval);
        ticks.reset();
        let mut unanswered = 0;
        let draining = self.edge.life.clone().draining();
        let expired = tokio::time::sleep(self.edge.identity.left(self.caller));
        tokio::pin!(draining, expired);
        loop {
            tokio::select! {
                frame = self.source.next() => {
                    unanswered = 0;
                    if let Some(ending) = self.frame(frame).await {
                        return ending;
                    }
                }
                _ = ticks.tick() => {
                    if unanswered >= 2 {
                        return Ending::Client;
                    }
                    let nothing_runs = self.calls.slots.available_permits() == self.calls.slots_max;
                    if nothing_runs && self.heard.idle() > limits.idle_timeout {
                        return Ending::Idle;
                    }
                    unanswered += 1;
                    // A full queue means that the writer waits for the client.
                    let _ = self.control.try_send(Control::Ping);
                }
                () = &mut draining => return Ending::Drain,
                () = &mut expired => return Ending::Expired,
            }
        }
    }

    /// Reads on until what is under way is answered: answers to the server's questions are part of it.
    async fn finish(&mut self) {
        let idle = Calls::idle(Arc::clone(&self.calls.slots), self.calls.slots_max);
        let bounded = timeout(self.edge.settings.shutdown.drain, idle);
        tokio::pin!(bounded);
        loop {
            tokio::select! {
                biased;
                _ = &mut bounded => return,
                frame = self.source.next() => {
                    if self.frame(frame).await.is_some() {
                        return;
                    }
                }
            }
        }
    }

    /// Serves one frame; whether it ends the connection.
    async fn frame(
        &mut self,
        frame: Option<Result<tungstenite::Message, Error>>,
    ) -> Option<Ending> {
        let message = match frame {
            None => return Some(Ending::Client),
            Some(Err(error)) => return Some(Ending::of(&error)),
            Some(Ok(message)) => message,
        };
        match message {
            tungstenite::Message::Text(text) => {
                self.heard.message();
                self.message(text.into()).await;
                None
            }
            tungstenite::Message::Binary(_) => {
                let text = "messages are text";
                Some(Ending::Unreadable(CloseCode::Unsupported, text))
            }
            tungstenite::Message::Close(_) => Some(Ending::Client),
            _ => None,
        }
    }

    /// Serves one message.
    async fn message(&mut self, message: Bytes) {
        let mut context = self.base.of_message(self.edge);
        if let Err(Refused { id, failure }) = self.serve(&message, &mut context).await {
            record::undecoded(self.edge, &context, &failure);
            let body = failure.to_json_rpc(id.as_ref(), context.request_id.as_str());
            self.send(body.into()).await;
        }
    }

    async fn serve(&mut self, message: &Bytes, context: &mut Context) -> Result<(), Refused> {
        let mut slot = None;
        match envelope::read(message)? {
            Body::One(read) => match read? {
                Message::Request { id, method, params } => {
                    let refuse = |failure| Refused {
                        id: Some(id.clone()),
                        failure,
                    };
                    if let Some(version) = params.and_then(version) {
                        let called = self.modern(context, &id, &method, params, &version, message);
                        return called.map_err(refuse);
                    }
                    slot = Some(self.slot().map_err(refuse)?);
                }
                Message::Notification { method, params } => {
                    if let Ok(Notification::Cancelled { request, .. }) =
                        Notification::read(&method, params)
                        && self.calls.cancel(&request)
                    {
                        self.answered_here(context, message);
                        return Ok(());
                    }
                }
                Message::Response { .. } => {}
            },
            Body::Batch(_) => {
                slot = Some(
                    self.slot()
                        .map_err(|failure| Refused { id: None, failure })?,
                );
            }
        }
        self.legacy(context, message, slot).await
    }

    /// One message of a session of the older era.
    async fn legacy(
        &mut self,
        context: &mut Context,
        message: &Bytes,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Refused> {
        let Some(sockets) = self.edge.sockets.get() else {
            let failure = Failure::new(Cause::NoBackend);
            return Err(Refused { id: None, failure });
        };
        if let Some(session) = self.talk.session() {
            context.sticky = Some(first_u64(&session.id));
            context.revision = Some(session.revision);
        }
        let shared = Arc::new(context.clone());
        let asker = asker(self.edge, &shared, self.caller, slot);
        if self.talk.take(&sockets.host, asker, message).await? == Took::Here {
            self.answered_here(context, message);
        }
        Ok(())
    }

    /// One stateless request; its answer comes when it does.
    fn modern(
        &mut self,
        context: &mut Context,
        id: &Id,
        method: &str,
        params: Option<&RawValue>,
        version: &str,
        message: &Bytes,
    ) -> Result<(), Failure> {
        if Revision::parse(version) != Some(Revision::LATEST) {
            return Err(unsupported(version));
        }
        context.revision = Some(Revision::LATEST);
        let invalid = |text: &str| Failure::say(Cause::InvalidRequest, text);
        if !id.is_mcp() {
            return Err(invalid("a request's id must be a string or an integer"));
        }
        if self.calls.is_running(id) {
            return Err(invalid("a request with this id is under way"));
        }
        let method = Method::parse(method);
        if !method.is_modern() {
            return Err(Failure::new(Cause::MethodNotFound));
        }
        let listens = method == Method::SubscriptionsListen;
        let slot = match listens {
            true => Arc::clone(&self.calls.listens).try_acquire_owned().ok(),
            false => self.slot().ok(),
        };
        let slot = slot.ok_or_else(|| Failure::new(Cause::Overloaded))?;
        let call = Call {
            name: name(&method, params)?,
            method,
            id: Some(id.clone()),
            body: message.clone(),
            param_headers: None,
        };
        let answer = Answer {
            edge: Arc::clone(self.edge),
            context: Arc::new(context.clone()),
            caller: Arc::clone(self.caller),
            out: self.out.clone(),
            _slot: slot,
        };
        self.calls.start(id.clone(), answer.send(call, listens));
        Ok(())
    }

    fn slot(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.calls.slots)
            .try_acquire_owned()
            .map_err(|_| Failure::new(Cause::Overloaded).retry_after(Duration::from_secs(1)))
    }

    fn answered_here(&self, context: &Context, message: &[u8]) {
        record::answered_here(self.edge, context, self.caller, label(message), 200);
    }

    /// Sends to the client; if it is gone, the next read says so.
    async fn send(&self, message: Bytes) {
        let frame = Frame {
            message,
            is_response: true,
        };
        let _ = self.out.send(frame).await;
    }
}

/// The revision that a request says it is of, if it says one.
fn version(params: &RawValue) -> Option<String> {
    // Requests of the older era are told apart without being read.
    if !params.get().contains(META_VERSION) {
        return None;
    }
    let params = Members::parse(params).ok()?;
    let meta = Members::parse(params.get("_meta")?).ok()?;
    meta.get(META_VERSION)?;
    Some(meta.get_str(META_VERSION).unwrap_or_default())
}

/// The tool, prompt or resource that a request names.
fn name(method: &Method, params: Option<&RawValue>) -> Result<Option<String>, Failure> {
    let Some(member) = method.name_member() else {
        return Ok(None);
    };
    let name = params
        .and_then(|raw| Members::parse(raw).ok())
        .and_then(|members| members.get_str(member));
    let missing = || {
        Failure::say(
            Cause::InvalidParams,
            format!("params.{member} must be a string"),
        )
    };
    name.map(Some).ok_or_else(missing)
}

/// Where the answer of one stateless call goes.
struct Answer {
    edge: Arc<Edge>,
    context: Arc<Context>,
    caller: Arc<Caller>,
    out: mpsc::Sender<Frame>,
    _slot: OwnedSemaphorePermit,
}

impl Answer {
    /// Runs the call; dropping this cancels it.
    async fn send(self, call: Call, listens: bool) {
        let id = call.id.clone();
        let request_id = self.context.request_id.as_str().to_owned();
        // Listening would hold up a drain for as long as its client likes.
        let mut drained = match listens {
            true => self.edge.life.clone().draining().boxed(),
            false => std::future::pending().boxed(),
        };
        let mut parts = stream::run(self.edge, self.context, self.caller, call);
        loop {
            let part = tokio::select! {
                biased;
                part = parts.next() => part,
                () = &mut drained => None,
            };
            let (message, is_response) = match part {
                Some(Ok(Part::Told(message))) => (message, false),
                Some(Ok(Part::Reply(reply))) => (reply.body, true),
                Some(Err(failure)) => (failure.to_json_rpc(id.as_ref(), &request_id).into(), true),
                None => match &id {
                    Some(id) => (farewell(id), true),
                    None => return,
                },
            };
            let frame = Frame {
                message,
                is_response,
            };
            if self.out.send(frame).await.is_err() || is_response {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn a_handshake_is_that_of_rfc_6455() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        // A header is left out, or has another value.
        for (changed, value, expect) in [
            ("", "", Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned())),
            ("connection", "keep-alive", Err(Unfit::NoHandshake)),
            ("upgrade", "h2c", Err(Unfit::NoHandshake)),
            ("sec-websocket-version", "8", Err(Unfit::NoHandshake)),
            ("sec-websocket-version", "", Err(Unfit::NoHandshake)),
            ("sec-websocket-key", "", Err(Unfit::Key)),
            ("sec-websocket-key", "c2hvcnQ=", Err(Unfit::Key)),
            ("sec-websocket-key", "no base64", Err(Unfit::Key)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, given) in good {
                let given = if name == changed { value } else { given };
                if !given.is_empty() {
                    headers.insert(
                        HeaderName::from_static(name),
                        HeaderValue::from_str(given).unwrap(),
                    );
                }
            }
            assert_eq!(handshake(&headers), expect, "{changed}: {value}");
        }
        let mut twice = HeaderMap::new();
        for (name, value) in good.iter().chain(&good[3..]) {
            twice.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(handshake(&twice), Err(Unfit::Key));
    }

    #[test]
    fn a_request_says_its_revision_in_its_meta_alone() {
        let raw = |text: &str| serde_json::from_str::<Box<RawValue>>(text).unwrap();
        let key = META_VERSION;
        for (params, expect) in [
            (
                format!(r#"{{"_meta":{{"{key}":"2026-07-28"}}}}"#),
                Some("2026-07-28"),
            ),
            (format!(r#"{{"_meta":{{"{key}":5}}}}"#), Some("")),
            (format!(r#"{{"{key}":"2026-07-28"}}"#), None),
            (format!(r#"{{"arguments":{{"_meta":"{key}"}}}}"#), None),
            (format!(r#"["{key}"]"#), None),
            ("{}".to_owned(), None),
        ] {
            assert_eq!(version(&raw(&params)).as_deref(), expect, "{params}");
        }
    }

    #[test]
    fn a_name_stands_where_its_method_has_it() {
        let raw = |text: &str| serde_json::from_str::<Box<RawValue>>(text).unwrap();
        let of = |method, params: &str| name(&method, Some(&raw(params))).map_err(|f| f.cause);
        assert_eq!(of(Method::ToolsList, "{}"), Ok(None));
        let named = of(Method::ToolsCall, r#"{"name":"add"}"#);
        assert_eq!(named, Ok(Some("add".to_owned())));
        assert_eq!(of(Method::ToolsCall, "{}"), Err(Cause::InvalidParams));
    }
}
