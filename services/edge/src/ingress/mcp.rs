//! `/mcp`: streamable HTTP for both eras on one endpoint.
//!
//! | the request has | and is |
//! |---|---|
//! | `MCP-Protocol-Version: 2026-07-28` | modern: forwarded as it came, on the word of its mirrored headers, which the app checks against the body |
//! | `initialize` in its body | the handshake of the older era: answered with a sealed session |
//! | `Mcp-Session-Id` | legacy: the session says who the client is, the body becomes a modern call |
//! | neither | refused: 400 |
//!
//! When a modern client goes away its call is cancelled, as the revision demands; a legacy client that
//! goes away has its call run to the end, as its revisions demand.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use mcp::call::{ClientMeta, META_VERSION};
use mcp::envelope::{self, Body};
use mcp::headers::{METHOD, NAME, PARAM_PREFIX, PROTOCOL_VERSION, SESSION_ID};
use mcp::members::Members;
use mcp::session::{NONCE_BYTES, Session};
use mcp::{Call, Cause, Era, Failure, Id, Message, Method, Refused, Reply, Revision, era, headers};
use rand::RngExt;
use serde_json::value::RawValue;

use super::{body_bounds, check_json_post, empty, json};
use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::{Exchange, Response, set_header};
use crate::identity::{Caller, first_u64, unix_seconds};
use crate::{egress, gateway, record};

/// Serves one HTTP request.
pub(super) async fn serve(
    edge: &Arc<Edge>,
    exchange: &mut Exchange<'_>,
    mut context: Context,
    caller: Arc<Caller>,
) -> Option<Response> {
    let (era, body) = match read(edge, exchange, &caller).await {
        Ok(read) => read,
        Err(failure) => return Some(record::refused(edge, exchange, context.protocol, &failure)),
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
        Spoken::Handshake => Some(handshake(edge, &context, &caller, &body).await),
        Spoken::Legacy(session) => {
            context.sticky = Some(first_u64(&session.id));
            context.revision = Some(session.revision);
            Some(legacy(edge, &context, &caller, &session, &body).await)
        }
    }
}

/// Which era a request speaks, with what its head says.
enum Spoken {
    Modern(Head),
    Handshake,
    Legacy(Box<Session>),
}

/// The mirrored headers of a modern request.
struct Head {
    method: Option<String>,
    name: Option<String>,
    params: Vec<(String, String)>,
}

async fn read(
    edge: &Edge,
    exchange: &mut Exchange<'_>,
    caller: &Caller,
) -> Result<(Spoken, Bytes), Failure> {
    check_json_post(exchange)?;
    let bounds = body_bounds(edge, edge.settings.http.body_limit_mcp);
    let version = version(exchange)?;
    if version.map(Revision::era) == Some(Era::Modern) {
        let head = read_head(exchange)?;
        let body = exchange.body(bounds).await?;
        return Ok((Spoken::Modern(head), body));
    }
    let token = exchange.header(SESSION_ID).map(str::to_owned);
    let body = exchange.body(bounds).await?;
    if is_initialize(&body) {
        return Ok((Spoken::Handshake, body));
    }
    let Some(token) = token else {
        return Err(no_session(&body));
    };
    let session = open_session(edge, caller, &token)?;
    // Absent before 2025-06-18; where it is sent it must be what was negotiated.
    if version.is_some_and(|v| v != session.revision) {
        let text = format!("this session speaks {}", session.revision);
        return Err(Failure::say(Cause::InvalidRequest, text));
    }
    Ok((Spoken::Legacy(Box::new(session)), body))
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

fn unsupported(requested: &str) -> Failure {
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

fn open_session(edge: &Edge, caller: &Caller, token: &str) -> Result<Session, Failure> {
    let unknown = || Failure::new(Cause::SessionUnknown);
    let session = edge
        .sessions
        .open(token, unix_seconds())
        .map_err(|_| unknown())?;
    // Another principal's session is as unknown as none, so that tokens cannot be probed.
    if session.principal != caller.subject || session.tenant != caller.tenant {
        return Err(unknown());
    }
    Ok(session)
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
        record::answered_here(edge, context, caller, method.label(), 202);
        // Notifications of a stateless client tell nothing that outlives their POST.
        return empty(StatusCode::ACCEPTED);
    }
    let call = Call {
        name: head.name.clone(),
        id: id.clone(),
        body: body.clone(),
        param_headers: head.params.clone(),
        method,
    };
    match gateway::run(edge, context, caller, call).await {
        Ok(reply) => json(reply.status, reply.body),
        Err(failure) => {
            egress::json_rpc_failure(&failure, id.as_ref(), context.request_id.as_str())
        }
    }
}

/// `initialize`: the app is asked who it is, the client is given a session that holds all that is known.
async fn handshake(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    body: &Bytes,
) -> Response {
    let Ok(Body::One(Ok(Message::Request { id, params, .. }))) = envelope::read(body) else {
        return egress::json_rpc_failure(
            &Failure::new(Cause::InvalidRequest),
            None,
            context.request_id.as_str(),
        );
    };
    match open(edge, context, caller, &id, params).await {
        Ok((message, token)) => {
            let mut response = json(200, message);
            if let Some(token) = token {
                set_header(&mut response, SESSION_ID, &token);
            }
            response
        }
        Err(failure) => legacy_failure(&failure, &id, context),
    }
}

async fn open(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    id: &Id,
    params: Option<&RawValue>,
) -> Result<(Vec<u8>, Option<String>), Failure> {
    let asked = era::read_initialize(params)?;
    let call = Call::new(Some(id.clone()), Method::Discover, None, &asked.client)?;
    let reply = gateway::run(edge, context, caller, call).await?;
    let discover = match reply.result()? {
        Ok(discover) => discover,
        Err(error) => return Ok((envelope::write_error(id, error), None)),
    };
    let result = era::initialize_result(discover, asked.revision)?;
    let token = seal(edge, caller, asked.revision, asked.client)?;
    Ok((envelope::write_result(id, &result), Some(token)))
}

fn seal(
    edge: &Edge,
    caller: &Caller,
    revision: Revision,
    client: ClientMeta,
) -> Result<String, Failure> {
    let mut rng = rand::rng();
    let session = Session {
        id: rng.random(),
        revision,
        client,
        principal: caller.subject.clone(),
        tenant: caller.tenant.clone(),
        expires_unix_s: unix_seconds() + edge.settings.session.ttl.as_secs(),
    };
    let nonce: [u8; NONCE_BYTES] = rng.random();
    edge.sessions
        .seal(&session, nonce)
        .map_err(|error| Failure::say(Cause::InvalidParams, error.to_string()))
}

/// One POST of a session: a message, or in 2025-03-26 an array of them.
async fn legacy(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    session: &Session,
    body: &Bytes,
) -> Response {
    let refuse = |refused: Refused| {
        record::undecoded(edge, context, &refused.failure);
        egress::json_rpc_failure(
            &refused.failure,
            refused.id.as_ref(),
            context.request_id.as_str(),
        )
    };
    match envelope::read(body) {
        Err(refused) | Ok(Body::One(Err(refused))) => refuse(refused),
        Ok(Body::One(Ok(Message::Request { id, method, params }))) => {
            match request(edge, context, caller, session, &id, &method, params).await {
                Ok(message) => json(200, message),
                Err(failure) => legacy_failure(&failure, &id, context),
            }
        }
        Ok(Body::One(Ok(Message::Notification { method, .. }))) => {
            super::jsonrpc::notified(edge, context, caller, &method);
            empty(StatusCode::ACCEPTED)
        }
        Ok(Body::One(Ok(Message::Response { .. }))) => empty(StatusCode::ACCEPTED),
        Ok(Body::Batch(_)) if !session.revision.takes_batches() => refuse(Refused {
            id: None,
            failure: Failure::say(
                Cause::InvalidRequest,
                format!("{} takes no batches", session.revision),
            ),
        }),
        Ok(Body::Batch(entries)) => batch(edge, context, caller, session, entries).await,
    }
}

async fn batch(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    session: &Session,
    entries: Vec<Result<Message<'_>, Refused>>,
) -> Response {
    let mut answers = Vec::new();
    for entry in entries {
        match entry {
            Ok(Message::Request { id, method, params }) => {
                let answer = request(edge, context, caller, session, &id, &method, params).await;
                answers.push(
                    answer
                        .unwrap_or_else(|f| f.to_json_rpc(Some(&id), context.request_id.as_str())),
                );
            }
            Ok(Message::Notification { method, .. }) => {
                super::jsonrpc::notified(edge, context, caller, &method);
            }
            Ok(Message::Response { .. }) => {}
            Err(refused) => {
                record::undecoded(edge, context, &refused.failure);
                answers.push(
                    refused
                        .failure
                        .to_json_rpc(refused.id.as_ref(), context.request_id.as_str()),
                );
            }
        }
    }
    match super::jsonrpc::join(answers.into_iter()) {
        Some(body) => json(200, body),
        None => empty(StatusCode::ACCEPTED),
    }
}

/// Runs one request of a session; the response message in the session's revision.
async fn request(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    session: &Session,
    id: &Id,
    method: &str,
    params: Option<&RawValue>,
) -> Result<Vec<u8>, Failure> {
    let method = Method::parse(method);
    match method {
        Method::Ping => {
            let nothing = RawValue::from_string("{}".to_owned())
                .map_err(|_| Failure::new(Cause::Internal))?;
            record::answered_here(edge, context, caller, method.label(), 200);
            return Ok(envelope::write_result(id, &nothing));
        }
        Method::Initialize | Method::Discover => {
            return Err(Failure::new(Cause::MethodNotFound));
        }
        _ if !method.is_modern() => return Err(Failure::new(Cause::MethodNotFound)),
        _ => {}
    }
    let call = match Call::new(Some(id.clone()), method, params, &session.client) {
        Ok(call) => call,
        Err(failure) => {
            record::undecoded(edge, context, &failure);
            return Err(failure);
        }
    };
    let reply: Reply = gateway::run(edge, context, caller, call).await?;
    Ok(match reply.result()? {
        Ok(result) => envelope::write_result(id, &era::legacy_result(result)?),
        Err(error) => envelope::write_error(id, error),
    })
}

/// Protocol errors of the older era travel with HTTP 200; what concerns the HTTP request keeps its status.
fn legacy_failure(failure: &Failure, id: &Id, context: &Context) -> Response {
    match failure.cause {
        Cause::MethodNotFound | Cause::InvalidParams | Cause::Internal => json(
            200,
            failure.to_json_rpc(Some(id), context.request_id.as_str()),
        ),
        _ => egress::json_rpc_failure(failure, Some(id), context.request_id.as_str()),
    }
}
