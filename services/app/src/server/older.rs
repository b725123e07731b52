//! Clients of the older era (2024-11-05 to 2025-11-25), over the same answers as everybody's: [`legacy`] keeps their sessions
//! and streams, and calls this process as a server of 2026-07-28, without HTTP in between.
//!
//! A call of theirs outlives its connection. What its request holds (its place, its memory) is held until both are over.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use legacy::{Asker, Backend, Board, Host, Shared};
use mcp::{
    Call, Cause, Failure, Message, Outcome,
    envelope::{self, Body as Read},
    headers,
    seal::KeyRing,
};

use super::{Server, Story, answer, changes, endless::Endless, intake, stream as answers};

/// When a refused client may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What sessions stand on.
#[derive(Clone)]
pub struct Sessions {
    /// The fleet's keys, newest first.
    pub keys: KeyRing,
    /// What the fleet knows together.
    pub shared: Arc<dyn Shared>,
    /// How long a session lasts; at most a day.
    pub life: Duration,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

/// The host of older clients; begins with the first of them, since an app behind edges may never see one.
pub(crate) struct Older {
    server: Server,
    host: OnceLock<Host<InProcess>>,
}

impl Older {
    pub(crate) fn new(server: Server) -> Self {
        Self {
            server,
            host: OnceLock::new(),
        }
    }

    fn host(&self) -> &Host<InProcess> {
        self.host.get_or_init(|| {
            let sessions = self.server.sessions.clone();
            Host::new(
                Arc::new(InProcess(self.server.clone())),
                Arc::new(Board::new(sessions.shared)),
                sessions.keys,
                sessions.life,
            )
        })
    }
}

/// This process, as a server of 2026-07-28.
struct InProcess(Server);

/// Who calls it.
#[derive(Clone)]
struct Caller {
    story: Arc<Story>,
    /// The headers that tell of the principal.
    who: Arc<HeaderMap>,
}

impl Backend for InProcess {
    type Caller = Caller;

    fn call(
        &self,
        caller: &Self::Caller,
        call: Call,
    ) -> BoxStream<'static, Result<Bytes, Failure>> {
        match begin(&self.0, caller, &call) {
            Ok(messages) => messages.map(Ok).boxed(),
            Err(failure) => stream::iter([Err(failure)]).boxed(),
        }
    }
}

fn begin(
    server: &Server,
    caller: &Caller,
    call: &Call,
) -> Result<BoxStream<'static, Bytes>, Failure> {
    let story = Arc::new(caller.story.of_call(Instant::now() + server.limits.request));
    let request = intake::read_own(&call.body).map_err(|refusal| refusal.failure)?;
    answer::note(server, &story, &request);
    if request.method.as_str() == intake::LISTEN {
        let client = answer::client(&caller.who, &request.params)?;
        return changes::messages(server, &story, request, &client).map(StreamExt::boxed);
    }
    let unmirrored = answer::Mirrors::None;
    let begun = answer::begin(server, &story, &caller.who, &call.body, request, unmirrored)?;
    let whole = Arc::clone(&caller.story);
    let messages = answers::messages(server, &story, begun);
    Ok(messages.inspect(move |_| whole.learn(&story)).boxed())
}

/// Serves POST and DELETE.
pub(crate) async fn call(
    server: &Server,
    older: &Older,
    story: &Arc<Story>,
    method: Method,
    head: HeaderMap,
    body: Bytes,
) -> Response {
    story.facts().method = label(&body);
    // Whoever waits no longer says so; anyone else may ask its user in between, as in the newer era.
    let deadline = if head.contains_key(headers::DEADLINE_MS) {
        story.deadline().saturating_duration_since(Instant::now())
    } else {
        server.limits.request + server.limits.parked_for
    };
    let asker = asker(story, &head, deadline);
    let request = legacy::Request {
        method,
        headers: head,
        body,
    };
    let answered = older.host().serve(asker, request).await;
    respond(story, answered)
}

/// Serves GET.
pub(crate) async fn listen(
    server: &Server,
    older: &Older,
    story: &Arc<Story>,
    head: HeaderMap,
) -> Response {
    let Ok(place) = Arc::clone(&server.listeners).try_acquire_owned() else {
        return story.fail(&Failure::new(Cause::Overloaded).retry_after(RETRY_AFTER));
    };
    story.keep(place);
    let asker = asker(story, &head, server.limits.request);
    let request = legacy::Request {
        method: Method::GET,
        headers: head,
        body: Bytes::new(),
    };
    let mut answered = older.host().serve(asker, request).await;
    let is_stream = matches!(answered.body, legacy::Body::Events(_));
    if let legacy::Body::Events(events) = answered.body {
        let mut facts = story.facts();
        facts.outcome = Some(Outcome::Ok);
        facts.listens = true;
        drop(facts);
        // Its client comes back, to another instance.
        let draining = server.life.draining().cancelled_owned();
        answered.body = legacy::Body::Events(events.take_until(draining).boxed());
    }
    let mut response = respond(story, answered);
    if is_stream {
        response.extensions_mut().insert(Endless);
    }
    response
}

fn asker(story: &Arc<Story>, head: &HeaderMap, deadline: Duration) -> Asker<Caller> {
    let mut who = HeaderMap::new();
    let mut said = |name: &'static str| {
        let Some(value) = head.get(name) else {
            return String::new();
        };
        who.insert(name, value.clone());
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    };
    let (principal, tenant) = (said(headers::PRINCIPAL), said(headers::TENANT));
    for other in [
        headers::SCOPES,
        headers::LOCALE,
        headers::FLAGS,
        "accept-language",
    ] {
        said(other);
    }
    Asker {
        principal,
        tenant,
        request_id: story.request_id.as_str().to_owned(),
        deadline,
        caller: Caller {
            story: Arc::clone(story),
            who: Arc::new(who),
        },
    }
}

/// The method's label; none for a batch, which has many.
fn label(body: &[u8]) -> &'static str {
    match envelope::read(body) {
        Ok(Read::One(Ok(
            Message::Request { method, .. } | Message::Notification { method, .. },
        ))) => mcp::Method::parse(&method).label(),
        _ => "",
    }
}

fn respond(story: &Story, answered: legacy::Response) -> Response {
    let mut facts = story.facts();
    if let Some(cause) = answered.cause {
        facts.origin = cause.origin().as_str();
        facts.cause = cause.as_str();
    }
    let outcome = match &answered.body {
        legacy::Body::Json(json) => Some(Outcome::of(json)),
        legacy::Body::Empty if answered.status.is_success() => Some(Outcome::Ok),
        legacy::Body::Empty => Some(Outcome::Error),
        // Not known before the stream's end.
        legacy::Body::Events(_) => None,
    };
    facts.outcome = outcome.or(facts.outcome);
    drop(facts);
    let body = match answered.body {
        legacy::Body::Empty => Body::empty(),
        legacy::Body::Json(json) => Body::from(json),
        legacy::Body::Events(events) => {
            Body::from_stream(events.map(Ok::<_, std::convert::Infallible>))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = answered.status;
    let head = response.headers_mut();
    for (name, value) in answered.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            head.insert(name, value);
        }
    }
    if let Some(outcome) = outcome {
        let value = HeaderValue::from_static(outcome.as_str());
        head.insert(HeaderName::from_static(headers::OUTCOME), value);
    }
    response
}
