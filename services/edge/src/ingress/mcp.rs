//! `/mcp`: streamable HTTP for both eras on one endpoint.
//!
//! | the request has | and is |
//! |---|---|
//! | `MCP-Protocol-Version: 2026-07-28` | modern: forwarded as it came, on the word of its mirrored headers, which the app checks against the body |
//! | `initialize` in its body, or `Mcp-Session-Id` | of the older era: [`super::sessions`] |
//! | neither | refused: 400 |
//!
//! When a modern client goes away its call is cancelled, as the revision demands; a legacy client that
//! goes away has its call run to the end, as its revisions demand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use http::{Method as HttpMethod, StatusCode};
use mcp::call::{META_SUBSCRIPTION_ID, META_VERSION};
use mcp::envelope::{self, Body};
use mcp::headers::{METHOD, NAME, PARAM_PREFIX, PROTOCOL_VERSION, SESSION_ID};
use mcp::members::Members;
use mcp::sse::{Event, KEEP_ALIVE};
use mcp::{
    Call, Cause, Era, Failure, Id, Message, Method, ParamHeaders, Refused, Revision, headers,
};
use serde_json::value::RawValue;

use super::{accepts_events, body_bounds, check_json_post, empty, json, sessions};
use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::Body::{Endless, Pieces};
use crate::exchange::{self, Exchange, Response, set_header};
use crate::identity::Caller;
use crate::stream::{self, Part};
use crate::{admission, egress, gateway, record};

/// How often an idle stream says that it lives.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Serves one HTTP request.
pub(super) async fn serve(
    edge: &Arc<Edge>,
    exchange: &mut Exchange<'_>,
    mut context: Context,
    caller: Arc<Caller>,
) -> Option<Response> {
    let (era, body) = match read(edge, exchange).await {
        Ok(read) => read,
        Err(Refused { id, failure }) => {
            let refused = record::refused_request(edge, exchange, &failure, id.as_ref());
            return Some(refused);
        }
    };
    match era {
        Spoken::Modern(head) => {
            context.revision = Some(Revision::LATEST);
            let answer = modern(edge, &context, &caller, &head, &body);
            tokio::select! {
                response = answer => Some(response),
                () = exchange.gone() => None,
            }
        }
        Spoken::Legacy => {
            let request = legacy::Request {
                method: exchange.method().clone(),
                headers: exchange.headers().clone(),
                body,
            };
            Some(sessions::serve(edge, context, caller, request).await)
        }
    }
}

/// Which era a request speaks, with what its head says.
enum Spoken {
    Modern(Head),
    Legacy,
}

/// The mirrored headers of a modern request.
struct Head {
    method: Option<String>,
    name: Option<String>,
    params: Vec<(String, String)>,
    /// The client takes an event stream.
    takes_events: bool,
}

async fn read(edge: &Edge, exchange: &mut Exchange<'_>) -> Result<(Spoken, Bytes), Refused> {
    let before_body = |failure| Refused { id: None, failure };
    if exchange.method() != HttpMethod::POST {
        version(exchange).map_err(before_body)?;
        return Ok((Spoken::Legacy, Bytes::new()));
    }
    check_json_post(exchange).map_err(before_body)?;
    let head = modern_head(exchange);
    let bounds = body_bounds(edge, edge.settings.http.body_limit_mcp);
    let body = exchange.body(bounds).await.map_err(before_body)?;
    // What is wrong with the head is said of the request in the body.
    let refuse = |failure| Refused {
        id: request_id(&body),
        failure,
    };
    if let Some(head) = head.map_err(refuse)? {
        return Ok((Spoken::Modern(head), body));
    }
    if exchange.headers().contains_key(SESSION_ID) || is_initialize(&body) {
        return Ok((Spoken::Legacy, body));
    }
    Err(refuse(no_session(&body)))
}

/// The head of a request that says it is modern.
fn modern_head(exchange: &Exchange<'_>) -> Result<Option<Head>, Failure> {
    match version(exchange)?.map(Revision::era) {
        Some(Era::Modern) => read_head(exchange).map(Some),
        _ => Ok(None),
    }
}

fn request_id(body: &[u8]) -> Option<Id> {
    match envelope::read(body) {
        Ok(Body::One(Ok(Message::Request { id, .. }))) => Some(id),
        Err(refused) | Ok(Body::One(Err(refused))) => refused.id,
        _ => None,
    }
}

/// The revision that the head names, if it names one that there is.
fn version(exchange: &Exchange<'_>) -> Result<Option<Revision>, Failure> {
    if exchange.is_repeated(PROTOCOL_VERSION) {
        let text = "MCP-Protocol-Version stands more than once";
        return Err(Failure::say(Cause::HeaderMismatch, text));
    }
    let Some(value) = exchange.headers().get(PROTOCOL_VERSION) else {
        return Ok(None);
    };
    let requested = value.to_str().unwrap_or_default();
    Revision::parse(requested)
        .map(Some)
        .ok_or_else(|| unsupported(requested))
}

pub(super) fn unsupported(requested: &str) -> Failure {
    // Only what a stateless request may ask for; the others begin with `initialize`.
    Failure::new(Cause::UnsupportedVersion).with_data(&serde_json::json!({
        "supported": [Revision::LATEST.as_str()],
        "requested": requested.chars().take(64).collect::<String>(),
    }))
}

fn read_head(exchange: &Exchange<'_>) -> Result<Head, Failure> {
    let mismatch = |text: String| Failure::say(Cause::HeaderMismatch, text);
    let single = |name: &'static str| -> Result<Option<String>, Failure> {
        if exchange.is_repeated(name) {
            return Err(mismatch(format!("{name} stands more than once")));
        }
        match exchange.headers().get(name) {
            None => Ok(None),
            Some(value) => value
                .to_str()
                .ok()
                .and_then(headers::decode)
                .map(|text| Some(text.into_owned()))
                .ok_or_else(|| mismatch(format!("{name} cannot be decoded"))),
        }
    };
    let params = exchange
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with(PARAM_PREFIX))
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        })
        .collect();
    Ok(Head {
        method: single(METHOD)?,
        name: single(NAME)?,
        params,
        takes_events: accepts_events(exchange),
    })
}

fn is_initialize(body: &[u8]) -> bool {
    matches!(
        envelope::read(body),
        Ok(Body::One(Ok(Message::Request { method, .. }))) if method == "initialize"
    )
}

/// Why a request without session and without version is refused: a modern one that lacks its header, or
/// a legacy one that never began.
fn no_session(body: &[u8]) -> Failure {
    let params = match envelope::read(body) {
        Err(refused) | Ok(Body::One(Err(refused))) => return refused.failure,
        Ok(Body::One(Ok(
            Message::Request { params, .. } | Message::Notification { params, .. },
        ))) => params,
        _ => None,
    };
    let says_version = params
        .and_then(|raw| Members::parse(raw).ok())
        .and_then(|members| {
            members
                .get("_meta")
                .map(|meta| meta.get().contains(META_VERSION))
        });
    if says_version == Some(true) {
        let text = "MCP-Protocol-Version must repeat the version in params._meta";
        return Failure::say(Cause::HeaderMismatch, text);
    }
    Failure::say(
        Cause::InvalidRequest,
        "begin with initialize and send its Mcp-Session-Id, or send MCP-Protocol-Version: 2026-07-28",
    )
}

/// One stateless request, forwarded as it came.
async fn modern(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    head: &Head,
    body: &Bytes,
) -> Response {
    let refuse = |id: Option<Id>, failure: Failure| {
        record::undecoded(edge, context, &failure);
        egress::json_rpc_failure(&failure, id.as_ref(), context.request_id.as_str())
    };
    let (id, method) = match envelope::read(body) {
        Err(Refused { id, failure }) | Ok(Body::One(Err(Refused { id, failure }))) => {
            return refuse(id, failure);
        }
        Ok(Body::Batch(_)) => {
            return refuse(
                None,
                Failure::say(Cause::InvalidRequest, "this revision takes no batches"),
            );
        }
        Ok(Body::One(Ok(Message::Response { .. }))) => {
            return refuse(
                None,
                Failure::say(
                    Cause::InvalidRequest,
                    "clients send no responses in this revision",
                ),
            );
        }
        Ok(Body::One(Ok(Message::Request { id, method, .. }))) => (Some(id), method),
        Ok(Body::One(Ok(Message::Notification { method, .. }))) => (None, method),
    };
    if head.method.as_deref() != Some(&*method) {
        return refuse(
            id,
            Failure::say(
                Cause::HeaderMismatch,
                "Mcp-Method must repeat the body's method",
            ),
        );
    }
    let method = Method::parse(&method);
    if !method.is_modern() {
        return refuse(id, Failure::new(Cause::MethodNotFound));
    }
    if method.name_member().is_some() && head.name.is_none() {
        return refuse(
            id,
            Failure::say(Cause::HeaderMismatch, "Mcp-Name is missing"),
        );
    }
    if id.is_none() {
        if let Err(failure) = admission::charge(edge, caller).await {
            return refuse(None, failure);
        }
        record::answered_here(edge, context, caller, method.label(), 202);
        // Notifications of a stateless client tell nothing that outlives their POST.
        return empty(StatusCode::ACCEPTED);
    }
    let call = Call {
        name: head.name.clone(),
        id: id.clone(),
        body: body.clone(),
        param_headers: ParamHeaders::Sent(head.params.clone()),
        method,
    };
    if !head.takes_events {
        return match gateway::run(edge, context, caller, call).await {
            Ok(reply) => json(reply.status, reply.body),
            Err(failure) => {
                egress::json_rpc_failure(&failure, id.as_ref(), context.request_id.as_str())
            }
        };
    }
    answer(edge, context, caller, call).await
}

/// The answer of a client that takes both forms: JSON when the response comes alone, else its messages as
/// they come.
async fn answer(edge: &Arc<Edge>, context: &Context, caller: &Arc<Caller>, call: Call) -> Response {
    let listens = call.method == Method::SubscriptionsListen;
    let id = call.id.clone();
    let request_id = context.request_id.as_str().to_owned();
    let mut parts = stream::run(
        Arc::clone(edge),
        Arc::new(context.clone()),
        Arc::clone(caller),
        call,
    );
    let first = match parts.next().await {
        Some(Ok(Part::Told(first))) => first,
        Some(Ok(Part::Reply(reply))) => return json(reply.status, reply.body),
        Some(Err(failure)) => return egress::json_rpc_failure(&failure, id.as_ref(), &request_id),
        None => {
            let failure = Failure::new(Cause::Internal);
            return egress::json_rpc_failure(&failure, id.as_ref(), &request_id);
        }
    };
    // Listening would hold up a drain for as long as its client likes.
    let (drained, farewell) = match id.clone().filter(|_| listens) {
        Some(id) => (edge.life.clone().draining().boxed(), farewell(&id)),
        None => (std::future::pending().boxed(), Bytes::new()),
    };
    let rest = parts.map(move |part| match part {
        Ok(Part::Told(message)) => message,
        Ok(Part::Reply(reply)) => reply.body,
        Err(failure) => failure.to_json_rpc(id.as_ref(), &request_id).into(),
    });
    let messages = Messages {
        messages: futures::stream::iter([first]).chain(rest).boxed(),
        drained,
        farewell,
        is_over: false,
    };
    let pieces = pieces(messages);
    events(if listens {
        Endless(pieces)
    } else {
        Pieces(pieces)
    })
}

/// The result of a listening that this edge ends.
pub(super) fn farewell(id: &Id) -> Bytes {
    let mut members = Members::default();
    let meta = format!(r#"{{"{META_SUBSCRIPTION_ID}":{}}}"#, id.as_json());
    for (name, value) in [("resultType", r#""complete""#.to_owned()), ("_meta", meta)] {
        members.set(name, RawValue::from_string(value).unwrap_or_default());
    }
    envelope::write_result(id, &members.to_raw()).into()
}

/// Messages for an event stream.
struct Messages {
    messages: BoxStream<'static, Bytes>,
    drained: BoxFuture<'static, ()>,
    farewell: Bytes,
    is_over: bool,
}

impl Messages {
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let message = tokio::select! {
            biased;
            message = self.messages.next() => message?,
            () = &mut self.drained => {
                self.is_over = true;
                self.farewell.clone()
            }
            () = tokio::time::sleep(KEEP_ALIVE_EVERY) => {
                return Some(Bytes::from_static(KEEP_ALIVE.as_bytes()));
            }
        };
        let text = String::from_utf8_lossy(&message);
        Some(Event::message(text).encode().into())
    }
}

/// Messages as they come, each an event.
fn pieces(messages: Messages) -> BoxStream<'static, Bytes> {
    // On the heap once: `unfold` moves it to and fro.
    futures::stream::unfold(Box::new(messages), |mut messages| async move {
        let piece = messages.next().await?;
        Some((piece, messages))
    })
    .boxed()
}

/// An answer of events, to be passed on by whatever stands between as they come.
fn events(body: exchange::Body) -> Response {
    let mut response = Response::new(body);
    set_header(&mut response, "content-type", "text/event-stream");
    set_header(&mut response, "x-accel-buffering", "no");
    response
}
