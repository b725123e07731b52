//! Sessions of the older era on `/mcp`: [`legacy::Host`] speaks with the client, and each call that it makes of
//! what the client wants goes through the gateway's stages like any other.
//!
//! The host knows neither tokens nor limits nor logs; what it answers by itself is told of here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use http::HeaderValue;
use legacy::{Asker, Backend, Board, Body, Host, Records, Request};
use mcp::envelope::{self, Message};
use mcp::headers::SESSION_ID;
use mcp::{Call, Cause, Failure, Method};
use policy::deadline::{Deadline, SetBy};
use store::Store;
use tokio::sync::OwnedSemaphorePermit;

use crate::admission;
use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::{self, Response};
use crate::identity::{Caller, first_u64, unix_seconds};
use crate::record;
use crate::stream::{self, Part};

/// How long a call may take in all, with the time that its client takes to answer questions.
const WITH_ANSWERS: Duration = Duration::from_secs(300);

/// The host of the older era over the gateway's stages.
pub type Sessions = Host<Stages>;

/// Makes the host; it shares through the fleet's store.
#[must_use]
pub fn host(edge: &Edge, store: Store) -> Sessions {
    let board = Arc::new(Board::new(Arc::new(Records::new(store))));
    let ttl = edge.settings.session.ttl;
    Host::new(Arc::new(Stages), board, edge.sessions.clone(), ttl)
}

/// The server as sessions see it.
#[derive(Debug, Clone, Copy)]
pub struct Stages;

/// What a session's calls are made with.
#[derive(Clone)]
pub struct Asked {
    edge: Arc<Edge>,
    context: Arc<Context>,
    caller: Arc<Caller>,
    /// Calls made so far.
    calls: Arc<AtomicUsize>,
    /// The place that the request takes up among those of its connection.
    _slot: Option<Arc<OwnedSemaphorePermit>>,
}

/// Who asks with one message. What is cloned of it holds the slot.
pub(super) fn asker(
    edge: &Arc<Edge>,
    context: &Arc<Context>,
    caller: &Arc<Caller>,
    slot: Option<OwnedSemaphorePermit>,
) -> Asker<Asked> {
    let deadline = match context.deadline.set_by() {
        SetBy::Client => context.deadline.left(Instant::now()),
        SetBy::Limit => WITH_ANSWERS.max(edge.settings.http.request_timeout),
    };
    Asker {
        principal: caller.subject.clone(),
        tenant: caller.tenant.clone(),
        request_id: context.request_id.as_str().to_owned(),
        deadline,
        caller: Asked {
            edge: Arc::clone(edge),
            context: Arc::clone(context),
            caller: Arc::clone(caller),
            calls: Arc::default(),
            _slot: slot.map(Arc::new),
        },
    }
}

impl Backend for Stages {
    type Caller = Asked;

    fn call(&self, asked: &Asked, call: Call) -> BoxStream<'static, Result<Bytes, Failure>> {
        let again = asked.calls.fetch_add(1, Ordering::Relaxed) > 0;
        let edge = Arc::clone(&asked.edge);
        let mut context = Arc::clone(&asked.context);
        // The time that a client took to answer is not the server's.
        if again && context.deadline.set_by() == SetBy::Limit {
            let limit = edge.settings.http.request_timeout;
            Arc::make_mut(&mut context).deadline = Deadline::new(None, limit, Instant::now());
        }
        // A call goes on without its connection; what only listens must not hold up a drain.
        let under_way = (call.method != Method::SubscriptionsListen).then(|| edge.life.enter());
        stream::run(edge, context, Arc::clone(&asked.caller), call)
            .map(move |part| {
                let _ = &under_way;
                part.map(|part| match part {
                    Part::Told(message) => message,
                    Part::Reply(reply) => reply.body,
                })
            })
            .boxed()
    }

    fn admit<'a>(&'a self, asked: &'a Asked) -> BoxFuture<'a, Result<(), Failure>> {
        admission::charge(&asked.edge, &asked.caller).boxed()
    }
}

/// Serves one HTTP request.
pub(super) async fn serve(
    edge: &Arc<Edge>,
    mut context: Context,
    caller: Arc<Caller>,
    request: Request,
) -> Response {
    let Some(host) = edge.legacy.get() else {
        return crate::egress::json_rpc_failure(
            &Failure::new(Cause::NoBackend),
            None,
            context.request_id.as_str(),
        );
    };
    let token = request.headers.get(SESSION_ID).map(HeaderValue::as_bytes);
    let token = token.and_then(|token| std::str::from_utf8(token).ok());
    // Whether it is the caller's is the host's to say; here it only names what belongs together.
    if let Some(session) = token.and_then(|t| edge.sessions.open(t, unix_seconds()).ok()) {
        context.sticky = Some(first_u64(&session.id));
        context.revision = Some(session.revision);
    }
    let reads_stream = request.method == http::Method::GET;
    let label = label(&request.body);
    if reads_stream {
        match edge.admission.stream(&caller) {
            Ok(place) => context.stream = Some(place),
            Err(failure) => {
                let status = failure.cause.http_status();
                record::refused_session(edge, &context, &caller, label, status);
                let id = context.request_id.as_str();
                return crate::egress::json_rpc_failure(&failure, None, id);
            }
        }
    }
    let place = context.stream.clone();
    let context = Arc::new(context);
    let asker = asker(edge, &context, &caller, None);
    let calls = Arc::clone(&asker.caller.calls);
    let answer = host.serve(asker, request).await;
    let status = answer.status.as_u16();
    let is_stream = matches!(answer.body, Body::Events(_));
    // A call tells of itself.
    if reads_stream || (!is_stream && calls.load(Ordering::Relaxed) == 0) {
        match status {
            _ if status >= 400 || is_error(&answer.body) => {
                record::refused_session(edge, &context, &caller, label, status)
            }
            _ => record::answered_here(edge, &context, &caller, label, status),
        }
    }
    let until = reads_stream.then(|| {
        let life = edge.life.clone();
        let left = edge.identity.left(&caller);
        async move {
            // Held for as long as the stream is read, whatever feeds it.
            let _place = place;
            _ = tokio::time::timeout(left, life.draining()).await;
        }
    });
    response(answer, until)
}

/// Errors of the protocol travel with 200 in the older era.
fn is_error(body: &Body) -> bool {
    let Body::Json(text) = body else { return false };
    matches!(
        envelope::read(text),
        Ok(envelope::Body::One(Ok(Message::Response {
            result: Err(_),
            ..
        })))
    )
}

/// The label of the method that a body asks for; empty where it asks for none.
pub(super) fn label(body: &[u8]) -> &'static str {
    match envelope::read(body) {
        Ok(envelope::Body::One(Ok(
            Message::Request { method, .. } | Message::Notification { method, .. },
        ))) => Method::parse(&method).label(),
        _ => "",
    }
}

/// The host's answer; a stream without an end of its own ends with `until`.
fn response(
    answer: legacy::Response,
    until: Option<impl Future<Output = ()> + Send + 'static>,
) -> Response {
    let body = match answer.body {
        Body::Empty => Bytes::new().into(),
        Body::Json(text) => text.into(),
        Body::Events(events) => match until {
            None => exchange::Body::Pieces(events),
            Some(until) => exchange::Body::Endless(events.take_until(until.boxed()).boxed()),
        },
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
