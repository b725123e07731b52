//! HTTP of the older revisions: what a request must look like, and what answers it.
//!
//! | request | answer |
//! |---|---|
//! | POST `initialize` | 200 with `Mcp-Session-Id` |
//! | POST without session | 400; with an unknown, ended or foreign one 404 |
//! | POST of a notification or a response | 202 |
//! | POST of a request | 200: JSON if the answer comes at once and alone, else an event stream |
//! | POST of an array | 2025-03-26 alone, else 400 |
//! | GET | the session's stream, in place of one that it has already; with `Last-Event-ID` of a call, the rest of that call |
//! | DELETE | ends the session: 204 |
//!
//! A connection that breaks cancels nothing; `notifications/cancelled` does.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, Method as HttpMethod, StatusCode};
use mcp::call::ClientMeta;
use mcp::envelope::{self, Body as Read, Message};
use mcp::era::{self, OldClientCall, old_client};
use mcp::headers::{PROTOCOL_VERSION, SESSION_ID};
use mcp::members::Members;
use mcp::notification::{self, Level, Notification};
use mcp::session::{KeyRing, NONCE_BYTES, Session};
use mcp::{Call, Cause, Failure, Id, Method, Refused, Revision};
use rand::RngExt;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::board::{Board, Facts, hex};
use crate::listen;
use crate::names::{self, Names};
use crate::tape::{self, Frame, Placed, Tape};
use crate::tasks::{self, Notes};
use crate::{call, random_name};

/// How long an answer may take to be sent as JSON; after that the event stream begins.
pub const JSON_WITHIN: Duration = Duration::from_millis(200);
/// What is logged for a client that has not said what it wants.
pub const LEVEL_UNASKED: Level = Level::Info;
/// How long a session may last.
const SESSION_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Frames that wait for a slow client.
const FRAMES: usize = 64;

const LAST_EVENT_ID: &str = "last-event-id";

/// A server of 2026-07-28.
pub trait Backend: Send + Sync + 'static {
    /// What the host knows of who asks, handed through.
    type Caller: Clone + Send + Sync + 'static;

    /// Calls the server: the messages of its answer, the response last. Dropping the stream cancels.
    fn call(&self, caller: &Self::Caller, call: Call)
    -> BoxStream<'static, Result<Bytes, Failure>>;

    /// Whether the caller may have done now what takes no call of the server: an answer of the host's own, a
    /// message for a call that runs.
    fn admit<'a>(&'a self, _caller: &'a Self::Caller) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asker<C> {
    /// Whose sessions these are.
    pub principal: String,
    /// The principal's tenant.
    pub tenant: String,
    /// Named in errors.
    pub request_id: String,
    /// How long a call may take.
    pub deadline: Duration,
    /// Handed to the backend.
    pub caller: C,
}

/// A request, as far as the head and a bounded body go.
#[derive(Debug)]
pub struct Request {
    /// POST, GET or DELETE.
    pub method: HttpMethod,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// An answer.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers, without `Content-Length`.
    pub headers: Vec<(HeaderName, String)>,
    /// The body.
    pub body: Body,
    /// Why the request was refused, for logs; what a call came to stands in the body alone.
    pub cause: Option<Cause>,
}

/// What an answer holds.
pub enum Body {
    /// Nothing.
    Empty,
    /// One JSON text.
    Json(Bytes),
    /// An event stream; each item is a whole event or comment, to be flushed.
    Events(BoxStream<'static, Bytes>),
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Response {
    fn empty(status: StatusCode) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: Body::Empty,
            cause: None,
        }
    }

    fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
        Response {
            status,
            headers: vec![(CONTENT_TYPE, "application/json".into())],
            body: Body::Json(body.into()),
            cause: None,
        }
    }

    pub(crate) fn events(events: BoxStream<'static, Bytes>) -> Response {
        Response {
            status: StatusCode::OK,
            headers: vec![
                (CONTENT_TYPE, "text/event-stream".into()),
                (CACHE_CONTROL, "no-cache".into()),
                (HeaderName::from_static("x-accel-buffering"), "no".into()),
            ],
            body: Body::Events(events),
            cause: None,
        }
    }

    fn failure(failure: &Failure, id: Option<&Id>, request_id: &str) -> Response {
        let retry_after = failure.retry_after_seconds();
        // Errors of the protocol travel with 200 in the older era; those of the HTTP request do not.
        let status = match (failure.cause, id) {
            (Cause::MethodNotFound | Cause::InvalidParams | Cause::Internal, Some(_)) => {
                StatusCode::OK
            }
            (cause, _) => {
                StatusCode::from_u16(cause.http_status()).unwrap_or(StatusCode::BAD_REQUEST)
            }
        };
        let mut response = Response::json(status, failure.to_json_rpc(id, request_id));
        response.cause = Some(failure.cause);
        if let Some(seconds) = retry_after {
            response.headers.push((RETRY_AFTER, seconds.to_string()));
        }
        response
    }
}

/// What the client takes as an answer to a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Both,
    /// It can be sent nothing but the answer, so nothing is asked of it.
    JsonAlone,
    EventsAlone,
}

/// One session, opened and checked.
#[derive(Debug)]
pub(crate) struct Opened {
    pub name: String,
    pub session: Session,
    pub facts: Facts,
}

impl Opened {
    /// How long the session still lasts: no longer than one that we begin, whatever its token says.
    pub(crate) fn rest(&self) -> Duration {
        let left = self.session.expires_unix_s.saturating_sub(unix_seconds());
        Duration::from_secs(left.max(1)).min(SESSION_TTL_MAX)
    }
}

/// Serves clients of the older era over a backend.
pub struct Host<B: Backend> {
    pub(crate) backend: Arc<B>,
    pub(crate) board: Arc<Board>,
    keys: KeyRing,
    names: Names,
    session_ttl: Duration,
}

impl<B: Backend> Host<B> {
    /// A host. `session_ttl` is how long a session lasts, at most a day.
    pub fn new(
        backend: Arc<B>,
        board: Arc<Board>,
        keys: KeyRing,
        session_ttl: Duration,
    ) -> Host<B> {
        Host {
            backend,
            board,
            names: Names::new(keys.clone()),
            keys,
            session_ttl: session_ttl.min(SESSION_TTL_MAX),
        }
    }

    /// Serves one request.
    pub async fn serve(&self, asker: Asker<B::Caller>, request: Request) -> Response {
        let request_id = asker.request_id.clone();
        let served = match request.method {
            HttpMethod::POST => self.post(asker, &request).await,
            HttpMethod::GET => self.get(asker, &request).await,
            HttpMethod::DELETE => self.delete(&asker, &request).await,
            _ => {
                let mut response = Response::empty(StatusCode::METHOD_NOT_ALLOWED);
                response.headers.push((ALLOW, "GET, POST, DELETE".into()));
                return response;
            }
        };
        served.unwrap_or_else(|refused| {
            Response::failure(&refused.failure, refused.id.as_ref(), &request_id)
        })
    }

    async fn post(&self, asker: Asker<B::Caller>, request: &Request) -> Result<Response, Refused> {
        check_json(&request.headers)?;
        let takes = takes(&request.headers)?;
        let read = envelope::read(&request.body)?;
        if let Read::One(Ok(Message::Request { id, method, params })) = &read
            && method == Method::Initialize.as_str()
        {
            let answer = self.initialize(&asker, id, *params).await;
            return answer.map_err(|failure| refused(Some(id.clone()), failure));
        }
        let opened = self.open(&asker, &request.headers).await?;
        match read {
            Read::One(Err(refused)) => Err(refused),
            Read::One(Ok(Message::Request { id, method, params })) => {
                let asked = [(id, &*method, params)];
                self.requests(asker, &opened, &asked, Vec::new(), takes, false)
                    .await
            }
            Read::One(Ok(told)) => {
                self.told(&asker, &opened, &told, &request.body).await?;
                Ok(Response::empty(StatusCode::ACCEPTED))
            }
            Read::Batch(_) if !opened.session.revision.takes_batches() => {
                let text = format!("{} takes no batches", opened.session.revision);
                Err(Failure::say(Cause::InvalidRequest, text).into_refused())
            }
            Read::Batch(entries) => self.batch(asker, &opened, entries, takes).await,
        }
    }

    async fn batch(
        &self,
        asker: Asker<B::Caller>,
        opened: &Opened,
        entries: Vec<Result<Message<'_>, Refused>>,
        takes: Takes,
    ) -> Result<Response, Refused> {
        let mut asked = Vec::new();
        let mut answered = Vec::new();
        let mut names = Vec::new();
        for entry in entries {
            match entry {
                Ok(Message::Request { id, method, params }) => {
                    names.push((id, method.into_owned(), params));
                }
                Ok(told) => {
                    let alone = told_alone(&told);
                    self.told(&asker, opened, &told, &alone).await?;
                }
                Err(refused) => answered.push(Bytes::from(
                    refused
                        .failure
                        .to_json_rpc(refused.id.as_ref(), &asker.request_id),
                )),
            }
        }
        for (id, method, params) in &names {
            asked.push((id.clone(), method.as_str(), *params));
        }
        if asked.is_empty() && answered.is_empty() {
            return Ok(Response::empty(StatusCode::ACCEPTED));
        }
        self.requests(asker, opened, &asked, answered, takes, true)
            .await
    }

    /// A notification or a response of the client.
    async fn told(
        &self,
        asker: &Asker<B::Caller>,
        opened: &Opened,
        told: &Message<'_>,
        body: &Bytes,
    ) -> Result<(), Refused> {
        let admitted = self.backend.admit(&asker.caller).await;
        admitted.map_err(Failure::into_refused)?;
        let mail = match told {
            // Nobody waits for an answer to what no call of this session has asked.
            Message::Response { id, .. } => names::call_of(id)
                .filter(|call| self.names.is_ours(&opened.name, call))
                .map(|_| body.clone()),
            Message::Notification { method, params } => {
                match Notification::read(method, *params) {
                    // No more than which: the client may have said much.
                    Ok(Notification::Cancelled { request, .. }) => {
                        Some(notification::cancelled(&request, None).into())
                    }
                    _ => None,
                }
            }
            Message::Request { .. } => None,
        };
        match mail {
            Some(mail) => {
                let sent = self.board.send(&opened.name, mail).await;
                sent.map_err(Failure::into_refused)
            }
            None => Ok(()),
        }
    }

    async fn initialize(
        &self,
        asker: &Asker<B::Caller>,
        id: &Id,
        params: Option<&RawValue>,
    ) -> Result<Response, Failure> {
        let (answer, session) = self.begin(asker, id, params).await?;
        let mut response = Response::json(StatusCode::OK, answer);
        let Some(session) = session else {
            return Ok(response);
        };
        let nonce: [u8; NONCE_BYTES] = rand::rng().random();
        let token = self
            .keys
            .seal(&session, nonce)
            .map_err(|error| Failure::say(Cause::InvalidParams, error.to_string()))?;
        response
            .headers
            .push((HeaderName::from_static(SESSION_ID), token));
        Ok(response)
    }

    /// Answers `initialize`: the message, and the session unless the server refused.
    pub(crate) async fn begin(
        &self,
        asker: &Asker<B::Caller>,
        id: &Id,
        params: Option<&RawValue>,
    ) -> Result<(Bytes, Option<Session>), Failure> {
        let asked = era::read_initialize(params)?;
        let discover = match self.discover(asker, &asked.client).await? {
            Ok(discover) => discover,
            Err(error) => return Ok((envelope::write_error(id, &error).into(), None)),
        };
        let result = era::initialize_result(&discover, asked.revision)?;
        let session = Session {
            id: rand::rng().random(),
            revision: asked.revision,
            client: asked.client,
            principal: asker.principal.clone(),
            tenant: asker.tenant.clone(),
            expires_unix_s: unix_seconds() + self.session_ttl.as_secs(),
        };
        Ok((envelope::write_result(id, &result).into(), Some(session)))
    }

    /// Asks the server who it is: its result, or its error object.
    pub(crate) async fn discover(
        &self,
        asker: &Asker<B::Caller>,
        client: &ClientMeta,
    ) -> Result<Result<Box<RawValue>, Box<RawValue>>, Failure> {
        let call = Call::new(Some(Id::from_number(0)), Method::Discover, None, client)?;
        self.ask(asker, call).await
    }

    /// Asks the server something: its result, or its error object.
    pub(crate) async fn ask(
        &self,
        asker: &Asker<B::Caller>,
        call: Call,
    ) -> Result<Result<Box<RawValue>, Box<RawValue>>, Failure> {
        let mut messages = self.backend.call(&asker.caller, call);
        let answer = async {
            while let Some(message) = messages.next().await {
                let message = message?;
                if let Ok(Read::One(Ok(Message::Response { result, .. }))) =
                    envelope::read(&message)
                {
                    return Ok(result.map(RawValue::to_owned).map_err(RawValue::to_owned));
                }
            }
            Err(Failure::new(Cause::UpstreamBroken))
        };
        tokio::time::timeout(asker.deadline, answer)
            .await
            .unwrap_or_else(|_| Err(Failure::new(Cause::Timeout)))
    }

    /// Opens the session that a request names.
    async fn open(&self, asker: &Asker<B::Caller>, headers: &HeaderMap) -> Result<Opened, Refused> {
        let refuse = |failure: Failure| failure.into_refused();
        let token = single(headers, SESSION_ID)
            .map_err(refuse)?
            .ok_or_else(|| {
                refuse(Failure::say(
                    Cause::InvalidRequest,
                    "begin with initialize and send its Mcp-Session-Id",
                ))
            })?;
        let unknown = || refuse(Failure::new(Cause::SessionUnknown));
        let session = self
            .keys
            .open(token, unix_seconds())
            .map_err(|_| unknown())?;
        // Another principal's session is as unknown as none, so that tokens cannot be probed.
        if session.principal != asker.principal || session.tenant != asker.tenant {
            return Err(unknown());
        }
        // What was negotiated counts; clients are known that name another revision of the era.
        if let Some(version) = single(headers, PROTOCOL_VERSION).map_err(refuse)?
            && Revision::parse(version).is_none_or(|named| named > Revision::LATEST_LEGACY)
        {
            let text = format!("this session speaks {}", session.revision);
            return Err(refuse(Failure::say(Cause::InvalidRequest, text)));
        }
        let name = name_of(&session);
        let facts = self.board.facts(&name).await.map_err(refuse)?;
        if facts.ended {
            return Err(unknown());
        }
        Ok(Opened {
            name,
            session,
            facts,
        })
    }

    async fn delete(
        &self,
        asker: &Asker<B::Caller>,
        request: &Request,
    ) -> Result<Response, Refused> {
        let opened = self.open(asker, &request.headers).await?;
        let admitted = self.backend.admit(&asker.caller).await;
        admitted.map_err(Failure::into_refused)?;
        self.board
            .end(&opened.name, opened.rest())
            .await
            .map_err(Failure::into_refused)?;
        Ok(Response::empty(StatusCode::NO_CONTENT))
    }

    async fn get(&self, asker: Asker<B::Caller>, request: &Request) -> Result<Response, Refused> {
        if !accepts(&request.headers, "text/event-stream") {
            let text = "Accept must allow text/event-stream";
            return Err(Failure::say(Cause::NotAcceptable, text).into_refused());
        }
        let opened = self.open(&asker, &request.headers).await?;
        let last = single(&request.headers, LAST_EVENT_ID).map_err(Failure::into_refused)?;
        let resumed = last.and_then(tape::parse_event_id);
        match resumed {
            Some((stream, after)) if !stream.starts_with(listen::PREFIX) => {
                let admitted = self.backend.admit(&asker.caller).await;
                admitted.map_err(Failure::into_refused)?;
                let shared = &**self.board.shared();
                let events = tape::replay(shared, &opened.name, stream, after);
                Ok(Response::events(events))
            }
            resumed => {
                let missed = match resumed {
                    Some(_) => listen::Missed::Something,
                    None => listen::Missed::Nothing,
                };
                let rest = opened.rest();
                listen::open(self, asker, opened, rest, missed)
                    .await
                    .map_err(Failure::into_refused)
            }
        }
    }

    /// Answers the requests of one POST.
    async fn requests(
        &self,
        asker: Asker<B::Caller>,
        opened: &Opened,
        asked: &[(Id, &str, Option<&RawValue>)],
        answered: Vec<Bytes>,
        takes: Takes,
        is_batch: bool,
    ) -> Result<Response, Refused> {
        let (frames, calls) = mpsc::channel(FRAMES);
        let mut direct = answered;
        for (id, method, params) in asked {
            match self
                .request(&asker, opened, id, method, *params, takes, &frames)
                .await
            {
                Ok(None) => {}
                Ok(Some(answer)) => direct.push(answer),
                Err(failure) if !is_batch => return Err(refused(Some(id.clone()), failure)),
                Err(failure) => {
                    direct.push(failure.to_json_rpc(Some(id), &asker.request_id).into())
                }
            }
        }
        drop(frames);
        let stream = random_name();
        let tape = Tape::new(self.board.clone(), opened.name.clone(), stream.clone());
        let (client, rest) = mpsc::channel(FRAMES);
        let (read, has_read) = oneshot::channel();
        // Answers that are there already go first.
        let (all, joined) = mpsc::channel(FRAMES);
        tokio::spawn(async move {
            let mut calls = calls;
            for message in direct {
                let frame = Frame {
                    message,
                    is_response: true,
                };
                if all.send(frame).await.is_err() {
                    return;
                }
            }
            while let Some(frame) = calls.recv().await {
                if all.send(frame).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(tape.run(joined, client, has_read));
        let primer =
            (opened.session.revision >= Revision::V2025_11_25).then(|| tape::primer(&stream));
        Ok(answer(takes, is_batch, stream, primer, rest, read).await)
    }

    /// Begins one request; an answer that needs no server comes back at once.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    pub(crate) async fn request(
        &self,
        asker: &Asker<B::Caller>,
        opened: &Opened,
        id: &Id,
        method: &str,
        params: Option<&RawValue>,
        takes: Takes,
        frames: &mpsc::Sender<Frame>,
    ) -> Result<Option<Bytes>, Failure> {
        if !id.is_mcp() {
            let text = "a request's id must be a string or an integer";
            return Err(Failure::say(Cause::InvalidRequest, text));
        }
        let method = Method::parse(method);
        if let Some(result) = self.answer_here(asker, opened, &method, params).await? {
            return Ok(Some(envelope::write_result(id, &result).into()));
        }
        let mut client = opened.session.client.clone();
        let mut level = Some(opened.facts.level.unwrap_or(LEVEL_UNASKED));
        if takes == Takes::JsonAlone {
            client.capabilities = Members::default().to_raw();
            level = None;
        }
        let prefix = self.names.name(&opened.name);
        let (machine, first) = OldClientCall::start(old_client::Setup {
            revision: opened.session.revision,
            client: &client,
            id: id.clone(),
            method,
            params,
            prefix: prefix.clone(),
            level,
            request_id: asker.request_id.clone(),
            now: jiff::Timestamp::now().to_string(),
        })?;
        let mailbox = self.board.open(&opened.name, id, &prefix)?;
        let notes = Notes::new(&self.board, opened, id, &asker.request_id);
        let backend = self.backend.clone();
        let (asker, frames) = (asker.clone(), frames.clone());
        tokio::spawn(call::run(
            backend, asker, machine, first, mailbox, frames, notes,
        ));
        Ok(None)
    }

    /// The result of a request that is the session's own matter; `None` for one that the server answers.
    async fn answer_here(
        &self,
        asker: &Asker<B::Caller>,
        opened: &Opened,
        method: &Method,
        params: Option<&RawValue>,
    ) -> Result<Option<Box<RawValue>>, Failure> {
        let member = |name: &str| {
            params
                .and_then(|raw| Members::parse(raw).ok())
                .and_then(|members| members.get_str(name))
                .ok_or_else(|| {
                    let text = format!("params.{name} must be a string");
                    Failure::say(Cause::InvalidParams, text)
                })
        };
        let (board, name, rest) = (&self.board, &opened.name, opened.rest());
        if matches!(
            method,
            Method::Ping
                | Method::SetLevel
                | Method::ResourcesSubscribe
                | Method::ResourcesUnsubscribe
                | Method::TasksList
        ) {
            self.backend.admit(&asker.caller).await?;
        }
        match method {
            Method::Ping => {}
            Method::SetLevel => {
                let level = Level::parse(&member("level")?)
                    .ok_or_else(|| Failure::say(Cause::InvalidParams, "no such level"))?;
                board.set_level(name, level, rest).await?;
            }
            Method::ResourcesSubscribe => board.subscribe(name, &member("uri")?, rest).await?,
            Method::ResourcesUnsubscribe => board.unsubscribe(name, &member("uri")?).await?,
            _ if !method.is_in(opened.session.revision) => return Ok(None),
            Method::TasksList => return tasks::list(self, asker, opened).await.map(Some),
            Method::TasksGet | Method::TasksResult | Method::TasksCancel => {
                let kept = tasks::kept(board, &opened.session, method, params).await?;
                if kept.is_some() {
                    self.backend.admit(&asker.caller).await?;
                }
                return Ok(kept);
            }
            _ => return Ok(None),
        }
        Ok(Some(Members::default().to_raw()))
    }
}

/// Decides between JSON and an event stream by what comes within [`JSON_WITHIN`].
async fn answer(
    takes: Takes,
    is_batch: bool,
    stream: String,
    primer: Option<mcp::sse::Event>,
    mut rest: mpsc::Receiver<Placed>,
    read: oneshot::Sender<()>,
) -> Response {
    let until = Instant::now() + JSON_WITHIN;
    let mut taken: Vec<Placed> = Vec::new();
    let is_whole = takes != Takes::EventsAlone
        && loop {
            let next = match takes {
                Takes::JsonAlone => Ok(rest.recv().await),
                _ => timeout_at(until, rest.recv()).await,
            };
            match next {
                Err(_) => break false,
                Ok(None) => break true,
                Ok(Some(placed)) if placed.frame.is_response => taken.push(placed),
                // There is no way to tell it.
                Ok(Some(_)) if takes == Takes::JsonAlone => {}
                Ok(Some(placed)) => {
                    taken.push(placed);
                    break false;
                }
            }
        };
    if !is_whole {
        return Response::events(tape::events(stream, primer, taken, rest, read));
    }
    // The tape may have ended for its own reasons.
    let _ = read.send(());
    let mut messages = taken.into_iter().map(|placed| placed.frame.message);
    match (is_batch, messages.len()) {
        // Cancelled before it was answered.
        (_, 0) => Response::empty(StatusCode::ACCEPTED),
        (false, _) => Response::json(StatusCode::OK, messages.next().unwrap_or_default()),
        (true, _) => {
            let mut array = vec![b'['];
            for (at, message) in messages.enumerate() {
                if at > 0 {
                    array.push(b',');
                }
                array.extend_from_slice(&message);
            }
            array.push(b']');
            Response::json(StatusCode::OK, array)
        }
    }
}

pub(crate) fn refused(id: Option<Id>, failure: Failure) -> Refused {
    Refused { id, failure }
}

/// A notification or a response of a batch as a message of its own; a request is none of these.
pub(crate) fn told_alone(read: &Message<'_>) -> Bytes {
    match read {
        Message::Request { .. } => return Bytes::new(),
        Message::Notification { method, params } => envelope::write_notification(method, *params),
        Message::Response { id, result } => match result {
            Ok(result) => envelope::write_result(id, result),
            Err(error) => envelope::write_error(id, error),
        },
    }
    .into()
}

/// What a session is called in shared records: whose it is, and which.
pub(crate) fn name_of(session: &Session) -> String {
    let owner = tasks::owner(&session.tenant, &session.principal);
    format!("{owner}.{}", hex(&session.id))
}

/// A refusal that names no request.
pub(crate) trait IntoRefused {
    fn into_refused(self) -> Refused;
}

impl IntoRefused for Failure {
    fn into_refused(self) -> Refused {
        refused(None, self)
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Failure> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        let text = format!("{name} stands more than once");
        return Err(Failure::say(Cause::InvalidRequest, text));
    }
    Ok(first.map(|value| value.to_str().unwrap_or_default()))
}

fn check_json(headers: &HeaderMap) -> Result<(), Refused> {
    let media = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    match media.trim().eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => Err(Failure::new(Cause::MediaType).into_refused()),
    }
}

fn accepts(headers: &HeaderMap, media: &str) -> bool {
    let family = media.split('/').next().unwrap_or_default();
    let mut listed = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|part| part.split(';').next().unwrap_or_default().trim());
    listed.any(|part| {
        part.eq_ignore_ascii_case(media)
            || part == "*/*"
            || part.eq_ignore_ascii_case(&format!("{family}/*"))
    })
}

/// The revisions want both types; a client that names one is served with that.
fn takes(headers: &HeaderMap) -> Result<Takes, Refused> {
    if !headers.contains_key(ACCEPT) {
        return Ok(Takes::Both);
    }
    match (
        accepts(headers, "application/json"),
        accepts(headers, "text/event-stream"),
    ) {
        (true, true) => Ok(Takes::Both),
        (true, false) => Ok(Takes::JsonAlone),
        (false, true) => Ok(Takes::EventsAlone),
        (false, false) => Err(Failure::new(Cause::NotAcceptable).into_refused()),
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
