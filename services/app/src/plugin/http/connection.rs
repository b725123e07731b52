//! One agreement with one remote server: every message its own POST, answers as JSON or as a stream of events.
//!
//! A connection of the older era has a session, whose end ends the connection: whoever keeps it makes a new one.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method as Verb, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use mcp::{Era, Id, Method, Mirror, Revision, envelope, headers, members::Members, mirror};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::sse::EventReader;
use crate::plugin::{
    Answer,
    credential::Badge,
    notices::Notices,
    outgoing::{self, BodyError},
    stdio::{
        lines::Line,
        wire::{Incoming, decode},
    },
    upstream::{Abandon, Lost, Wire, handshake},
};

/// Requests under way at once on one connection.
const PENDING_MAX: usize = 256;
/// The longest session id that is taken, in bytes.
const SESSION_BYTES_MAX: usize = 1024;
/// How much of a refusal's body is read, in bytes.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// How long what nobody waits for may take: cancellations, answers to questions, the end of a session.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stream of changes lasts before it is opened again.
const LISTEN_LONGEST: Duration = Duration::from_secs(300);

/// Where a server is and how it is spoken to.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) plugin: Arc<str>,
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) badge: Arc<Badge>,
    pub(super) answer_bytes_max: usize,
}

/// The arguments that go into heads, by the server's own name of the tool; only tools that have any.
pub(super) type Mirrored = HashMap<String, Vec<Mirror>>;

/// A connection. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    revision: OnceLock<Revision>,
    session: OnceLock<HeaderValue>,
    mirrored: Arc<ArcSwap<Mirrored>>,
    next_id: AtomicU64,
    heard: AtomicU64,
    room: Arc<Semaphore>,
    closed: CancellationToken,
    lists_changed: Arc<Notify>,
}

impl Connection {
    /// Begins without agreement. `mirrored` says which arguments go into heads; `lists_changed` is told when the server says that
    /// a list changed.
    pub(super) fn new(
        endpoint: Endpoint,
        mirrored: Arc<ArcSwap<Mirrored>>,
        lists_changed: Arc<Notify>,
    ) -> Self {
        Self(Arc::new(Shared {
            endpoint,
            revision: OnceLock::new(),
            session: OnceLock::new(),
            mirrored,
            next_id: AtomicU64::new(1),
            heard: AtomicU64::new(0),
            room: Arc::new(Semaphore::new(PENDING_MAX)),
            closed: CancellationToken::new(),
            lists_changed,
        }))
    }

    /// Returns how many answers came so far.
    pub(super) fn heard(&self) -> u64 {
        self.0.heard.load(Ordering::Relaxed)
    }

    /// Gives the connection up: calls from now on are not sent.
    pub(super) fn close(&self) {
        self.0.closed.cancel();
    }

    /// Tells whether it was given up.
    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Resolves when it was given up.
    pub(super) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Tells the server that its session ends, if there is one.
    pub(super) async fn end(&self) {
        self.close();
        if self.0.session.get().is_some() {
            let deadline = Instant::now() + ASIDE_TIMEOUT;
            // A server may refuse to end sessions; there is nothing more to do about it.
            drop(
                self.send(Verb::DELETE, HeaderMap::new(), None, deadline)
                    .await,
            );
        }
    }

    /// Listens for changes until the server ends the stream or has none. Returns whether there was one.
    pub(super) async fn listen(&self) -> bool {
        let deadline = Instant::now() + LISTEN_LONGEST;
        let opened = match self.0.revision.get().map(|revision| revision.era()) {
            Some(Era::Legacy) => self.send(Verb::GET, HeaderMap::new(), None, deadline).await,
            Some(Era::Modern) => {
                let wanted = json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true});
                let params =
                    object(&json!({"_meta": handshake::own_meta(), "notifications": wanted}));
                let id = self.fresh_id();
                let message = envelope::write_request(
                    Some(&Id::from_number(id)),
                    "subscriptions/listen",
                    &params,
                );
                let head = self.head("subscriptions/listen", &params);
                self.send(Verb::POST, head, Some(message), deadline).await
            }
            None => return false,
        };
        match opened {
            Ok(response) if response.status().is_success() && is_events(&response) => {
                // What changed before the stream began was not told.
                self.0.lists_changed.notify_one();
                let ended = self.events(response, None).await;
                tracing::debug!(plugin = %self.0.endpoint.plugin, ended = ?ended.err(), "the stream of changes ended");
                true
            }
            _ => false,
        }
    }

    /// Returns an id for a request, which is its progress token too.
    pub(super) fn fresh_id(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks for a client under a fresh id, and waits until `deadline`. `notices` gets what the server tells before its answer,
    /// on the answer's own stream.
    ///
    /// # Errors
    /// [`Lost`] when there is no answer.
    pub(super) async fn call(
        &self,
        id: u64,
        method: &str,
        params: &RawValue,
        notices: &Notices,
        deadline: Instant,
    ) -> Result<Answer, Lost> {
        let exchange = self.exchange(id, method, params, notices, deadline);
        self.wait(id, exchange, deadline, Abandon::Cancel).await
    }

    async fn wait(
        &self,
        id: u64,
        exchange: impl Future<Output = Result<Answer, Lost>>,
        deadline: Instant,
        abandon: Abandon,
    ) -> Result<Answer, Lost> {
        if self.0.closed.is_cancelled() {
            return Err(Lost::NotSent);
        }
        let _room = self.0.room.try_acquire().map_err(|_| Lost::Busy)?;
        let mut waiting = Waiting {
            connection: self,
            id,
            abandon,
        };
        let answer = tokio::time::timeout_at(deadline.into(), exchange)
            .await
            .unwrap_or(Err(Lost::Late));
        if !matches!(answer, Err(Lost::Late)) {
            waiting.abandon = Abandon::Ignore;
        }
        answer
    }

    /// Returns what the head repeats of the body, as the agreed revision has it.
    fn head(&self, method: &str, params: &RawValue) -> HeaderMap {
        let mut head = HeaderMap::new();
        let known = self.0.revision.get().copied();
        let revision = known.or((method == "server/discover").then_some(Revision::LATEST));
        if revision.is_none_or(|revision| revision.era() == Era::Legacy) {
            return head;
        }
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(&headers::encode(value)) {
                head.insert(name, value);
            }
        };
        if known.is_none() {
            set(headers::PROTOCOL_VERSION, Revision::LATEST.as_str());
        }
        set(headers::METHOD, method);
        let members = Members::parse(params).unwrap_or_default();
        let name = Method::parse(method)
            .name_member()
            .and_then(|member| members.get_str(member));
        if let Some(name) = name {
            set(headers::NAME, &name);
            if let (Some(mirrors), Some(arguments)) =
                (self.0.mirrored.load().get(&name), members.get("arguments"))
            {
                let arguments: Value = serde_json::from_str(arguments.get()).unwrap_or_default();
                let fields = mirror::write(mirrors, &arguments);
                head.extend(fields.iter().filter_map(|(name, value)| {
                    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                    Some((name, HeaderValue::from_str(value).ok()?))
                }));
            }
        }
        head
    }

    async fn send(
        &self,
        verb: Verb,
        head: HeaderMap,
        message: Option<Vec<u8>>,
        deadline: Instant,
    ) -> Result<Response, Lost> {
        let endpoint = &self.0.endpoint;
        let credential = endpoint.badge.fields().await.map_err(|error| {
            outgoing::no_credential(&endpoint.plugin, &error);
            Lost::NotSent
        })?;
        let accept = match verb {
            Verb::GET => "text/event-stream",
            _ => "application/json, text/event-stream",
        };
        let mut request = endpoint
            .client
            .request(verb, endpoint.url.clone())
            .timeout(deadline.saturating_duration_since(Instant::now()))
            .header(ACCEPT, accept)
            .headers(head);
        if let Some(revision) = self.0.revision.get() {
            request = request.header(headers::PROTOCOL_VERSION, revision.as_str());
        }
        if let Some(session) = self.0.session.get() {
            request = request.header(headers::SESSION_ID, session);
        }
        if let Some(message) = message {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(message);
        }
        let sent = request.headers(credential).send().await;
        sent.map_err(|error| self.lost(error))
    }

    fn lost(&self, error: reqwest::Error) -> Lost {
        let lost = if error.is_builder() || error.is_connect() {
            Lost::NotSent
        } else if error.is_timeout() {
            Lost::Late
        } else {
            Lost::Broken
        };
        let error = telemetry::error_chain(&error.without_url());
        tracing::debug!(plugin = %self.0.endpoint.plugin, error, "a request to the plugin's server failed");
        lost
    }

    async fn exchange(
        &self,
        id: u64,
        method: &str,
        params: &RawValue,
        notices: &Notices,
        deadline: Instant,
    ) -> Result<Answer, Lost> {
        let message = envelope::write_request(Some(&Id::from_number(id)), method, params);
        let head = self.head(method, params);
        let response = self.send(Verb::POST, head, Some(message), deadline).await?;
        if !response.status().is_success() {
            return self.refusal(response).await;
        }
        if method == "initialize"
            && let Some(session) = response.headers().get(headers::SESSION_ID)
            && session.len() <= SESSION_BYTES_MAX
        {
            // The first answer to `initialize` is the only one.
            drop(self.0.session.set(session.clone()));
        }
        if is_events(&response) {
            return self.events(response, Some((id, notices))).await;
        }
        let body = outgoing::body(response, self.0.endpoint.answer_bytes_max).await;
        let body = body.map_err(|error| self.unread(error))?;
        match decode(&Line::Whole(&body)) {
            Incoming::Answer(answered, answer) if answered == id => {
                self.0.heard.fetch_add(1, Ordering::Relaxed);
                Ok(answer)
            }
            _ => Err(Lost::Garbage),
        }
    }

    fn unread(&self, error: BodyError) -> Lost {
        match error {
            BodyError::TooLong => Lost::TooLong,
            BodyError::Broken(error) => match self.lost(error) {
                Lost::NotSent => Lost::Broken,
                lost => lost,
            },
        }
    }

    /// Reads an answer that is no success: an error of the protocol, or a reason why there is none.
    async fn refusal(&self, response: Response) -> Result<Answer, Lost> {
        let status = response.status();
        let has_session = self.0.session.get().is_some();
        let body = outgoing::body(response, REFUSAL_BYTES_MAX).await.ok();
        let error = body.and_then(|body| {
            let members: Members<'_> = serde_json::from_slice(&body).ok()?;
            members.get("error").map(ToOwned::to_owned)
        });
        let code = error.as_ref().and_then(|error| {
            let members = Members::parse(error).ok()?;
            members.get("code")?.get().parse::<i64>().ok()
        });
        // Some servers answer 400 to a session that they do not know.
        let gone = status == StatusCode::NOT_FOUND
            || (status == StatusCode::BAD_REQUEST && code == Some(-32000));
        if has_session && gone {
            self.close();
            return Err(Lost::SessionGone);
        }
        match (status, error) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                tracing::warn!(plugin = %self.0.endpoint.plugin, status = status.as_u16(), "the plugin's server does not take its credential");
                Err(Lost::Denied)
            }
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => Err(Lost::Busy),
            (_, Some(error)) if code.is_some() => Ok(Answer::Error(error)),
            (status, _) if status.is_server_error() => Err(Lost::Broken),
            _ => Err(Lost::Garbage),
        }
    }

    /// Reads events until one answers the request of this id, and tells of it what comes before; without one, until the
    /// stream ends.
    async fn events(
        &self,
        mut response: Response,
        call: Option<(u64, &Notices)>,
    ) -> Result<Answer, Lost> {
        let id = call.map(|(id, _)| id);
        let mut reader = EventReader::new(self.0.endpoint.answer_bytes_max);
        let mut events = Vec::new();
        loop {
            let chunk = tokio::select! {
                chunk = response.chunk() => chunk.map_err(|error| self.unread(BodyError::Broken(error)))?,
                () = self.0.closed.cancelled(), if id.is_none() => return Err(Lost::Broken),
            };
            let Some(chunk) = chunk else {
                return Err(Lost::Broken);
            };
            reader
                .feed(&chunk, |data| events.push(data))
                .map_err(|_| Lost::TooLong)?;
            for data in events.drain(..) {
                self.0.heard.fetch_add(1, Ordering::Relaxed);
                match decode(&Line::Whole(&data)) {
                    Incoming::Answer(answered, answer) if Some(answered) == id => {
                        return Ok(answer);
                    }
                    Incoming::Question { id, method, .. } => self.answer(&id, &method),
                    Incoming::Notice { method, .. } if method.ends_with("/list_changed") => {
                        self.0.lists_changed.notify_one();
                    }
                    Incoming::Notice {
                        method,
                        params: Some(params),
                    } => {
                        if let Some((id, notices)) = call {
                            pass(id, notices, &method, &params);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Answers what a server may ask of its client: `ping`, and nothing else, as we declare no capability.
    fn answer(&self, id: &Id, method: &str) {
        let message = if method == "ping" {
            envelope::write_result(id, &object(&json!({})))
        } else {
            let text = "this client declares no such capability";
            envelope::write_error(id, &object(&json!({"code": -32601, "message": text})))
        };
        self.aside(message);
    }

    /// Sends what nobody waits for, if there is room.
    fn aside(&self, message: Vec<u8>) {
        let Ok(permit) = Arc::clone(&self.0.room).try_acquire_owned() else {
            return;
        };
        let connection = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let deadline = Instant::now() + ASIDE_TIMEOUT;
            let sent = connection.send(Verb::POST, HeaderMap::new(), Some(message), deadline);
            drop(sent.await);
        });
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
        let (id, nowhere) = (self.fresh_id(), Notices::default());
        let exchange = self.exchange(id, method, params, &nowhere, deadline);
        self.wait(id, exchange, deadline, abandon).await
    }

    async fn notify(&self, method: &str, params: &RawValue, deadline: Instant) -> Result<(), Lost> {
        let message = envelope::write_request(None, method, params);
        let head = self.head(method, params);
        let response = self.send(Verb::POST, head, Some(message), deadline).await?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(Lost::Garbage)
        }
    }

    fn agreed(&self, revision: Revision) {
        // There is one agreement in a connection's life.
        let _first = self.0.revision.set(revision);
    }
}

/// A request under way. A server of the older era is told when nobody waits for it any more; one of the newer sees its
/// stream close.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u64,
    abandon: Abandon,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let revision = self.connection.0.revision.get();
        let legacy = revision.is_some_and(|revision| revision.era() == Era::Legacy);
        if self.abandon == Abandon::Cancel && legacy {
            let params =
                json!({"requestId": self.id, "reason": "nobody waits for the answer any more"});
            let message =
                envelope::write_request(None, "notifications/cancelled", &object(&params));
            self.connection.aside(message);
        }
    }
}

/// Tells a client what came on the stream of its own call, `id`.
fn pass(id: u64, notices: &Notices, method: &str, params: &RawValue) {
    #[derive(Deserialize)]
    struct Progress {
        #[serde(rename = "progressToken")]
        token: u64,
    }
    match method {
        "notifications/progress" => {
            let progress = serde_json::from_str(params.get());
            if progress.is_ok_and(|progress: Progress| progress.token == id) {
                notices.pass_progress(params);
            }
        }
        "notifications/message" => notices.pass_log(params),
        _ => {}
    }
}

fn is_events(response: &Response) -> bool {
    let media = response.headers().get(CONTENT_TYPE);
    let media = media.and_then(|value| value.to_str().ok());
    media.is_some_and(|media| media.to_ascii_lowercase().starts_with("text/event-stream"))
}

fn object(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
