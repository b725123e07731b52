//! `/mcp/v1/jsonrpc` and `/mcp/v1/batch`: plain JSON-RPC 2.0 to the methods of MCP.
//!
//! No handshake, no session, no special headers: each request stands alone. A batch is split before
//! anything is judged, so each entry is authorised, limited and answered on its own; entries run side by
//! side and are answered in the order they came. Errors of single entries travel with HTTP 200, as the
//! protocol has it; only what concerns the whole HTTP request has a status of its own.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt};
use http::StatusCode;
use mcp::call::ClientMeta;
use mcp::envelope::{self, Body};
use mcp::{Call, Cause, Failure, Id, Message, Method, Refused, Reply, era};
use serde_json::value::RawValue;

use super::{body_bounds, check_json_post, empty, json};
use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::{Exchange, Response};
use crate::identity::Caller;
use crate::{admission, egress, gateway, record};

/// Entries of one batch that run at the same time.
const BATCH_CONCURRENCY: usize = 16;

/// What a path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// One request, or an array.
    OneOrMany,
    /// An array only.
    Many,
}

/// Serves one HTTP request.
pub(super) async fn serve(
    edge: &Arc<Edge>,
    exchange: &mut Exchange<'_>,
    context: Context,
    caller: Arc<Caller>,
    takes: Takes,
) -> Option<Response> {
    let body = match read(edge, exchange, takes).await {
        Ok(body) => body,
        Err(failure) => return Some(record::refused(edge, exchange, context.protocol, &failure)),
    };
    let answer = async {
        match envelope::read(&body) {
            Err(refused) => whole(edge, &context, refused),
            Ok(Body::One(Err(refused))) => whole(edge, &context, refused),
            Ok(Body::One(Ok(_))) if takes == Takes::Many => {
                let failure = Failure::say(
                    Cause::InvalidRequest,
                    "this endpoint takes an array; one request goes to /mcp/v1/jsonrpc",
                );
                whole(edge, &context, Refused { id: None, failure })
            }
            Ok(Body::One(Ok(message))) => one(edge, &context, &caller, message).await,
            Ok(Body::Batch(entries)) => many(edge, &context, &caller, entries).await,
        }
    };
    tokio::select! {
        response = answer => Some(response),
        () = exchange.gone() => None,
    }
}

async fn read(
    edge: &Edge,
    exchange: &mut Exchange<'_>,
    takes: Takes,
) -> Result<bytes::Bytes, Failure> {
    check_json_post(exchange)?;
    let http = &edge.settings.http;
    let own_limit = match takes {
        Takes::OneOrMany => http.body_limit_jsonrpc,
        Takes::Many => http.body_limit_batch,
    };
    exchange.body(body_bounds(edge, own_limit)).await
}

/// The HTTP body as a whole cannot be served.
fn whole(edge: &Edge, context: &Context, refused: Refused) -> Response {
    record::undecoded(edge, context, &refused.failure);
    egress::json_rpc_failure(
        &refused.failure,
        refused.id.as_ref(),
        context.request_id.as_str(),
    )
}

async fn one(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    message: Message<'_>,
) -> Response {
    match message {
        Message::Request { id, method, params } => {
            match request(edge, context, caller, &id, &method, params).await {
                Ok(body) => json(200, body),
                Err(failure) if concerns_http(&failure) => {
                    egress::json_rpc_failure(&failure, Some(&id), context.request_id.as_str())
                }
                Err(failure) => json(
                    200,
                    failure.to_json_rpc(Some(&id), context.request_id.as_str()),
                ),
            }
        }
        Message::Notification { method, .. } => told(edge, context, caller, &method).await,
        Message::Response { .. } => told(edge, context, caller, "").await,
    }
}

/// Answers what wants no answer.
async fn told(edge: &Edge, context: &Context, caller: &Caller, method: &str) -> Response {
    match notified(edge, context, caller, method).await {
        Ok(()) => empty(StatusCode::ACCEPTED),
        Err(failure) => whole(edge, context, Refused { id: None, failure }),
    }
}

/// Whether HTTP clients and proxies should see the failure too: to come back later, or elsewhere.
fn concerns_http(failure: &Failure) -> bool {
    matches!(failure.cause.http_status(), 401 | 403 | 429 | 502..=504)
}

async fn many(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    entries: Vec<Result<Message<'_>, Refused>>,
) -> Response {
    let waiting: Vec<BoxFuture<'_, Option<Vec<u8>>>> = entries
        .into_iter()
        .map(|entry| entry_answer(edge, context, caller, entry).boxed())
        .collect();
    let answers: Vec<Option<Vec<u8>>> = stream::iter(waiting)
        .buffered(BATCH_CONCURRENCY)
        .collect()
        .await;
    match join(answers.into_iter().flatten()) {
        Some(body) => json(200, body),
        None => empty(StatusCode::ACCEPTED),
    }
}

async fn entry_answer(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    entry: Result<Message<'_>, Refused>,
) -> Option<Vec<u8>> {
    match entry {
        Ok(Message::Request { id, method, params }) => {
            let answer = request(edge, context, caller, &id, &method, params).await;
            Some(answer.unwrap_or_else(|f| f.to_json_rpc(Some(&id), context.request_id.as_str())))
        }
        // It is charged; that it was too much, nobody waits to hear.
        Ok(Message::Notification { method, .. }) => {
            let _ = notified(edge, context, caller, &method).await;
            None
        }
        Ok(Message::Response { .. }) => {
            let _ = notified(edge, context, caller, "").await;
            None
        }
        Err(refused) => {
            record::undecoded(edge, context, &refused.failure);
            Some(
                refused
                    .failure
                    .to_json_rpc(refused.id.as_ref(), context.request_id.as_str()),
            )
        }
    }
}

/// Takes note of a notification or a response, which want no answer.
async fn notified(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    method: &str,
) -> Result<(), Failure> {
    admission::charge(edge, caller).await?;
    let label = match method {
        "" => "",
        method => Method::parse(method).label(),
    };
    record::answered_here(edge, context, caller, label, StatusCode::ACCEPTED.as_u16());
    Ok(())
}

/// Runs one request; the response message with the request's own id.
async fn request(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    id: &Id,
    method: &str,
    params: Option<&RawValue>,
) -> Result<Vec<u8>, Failure> {
    let method = Method::parse(method);
    if method == Method::Ping {
        if let Err(failure) = admission::charge(edge, caller).await {
            record::undecoded(edge, context, &failure);
            return Err(failure);
        }
        let nothing =
            RawValue::from_string("{}".to_owned()).map_err(|_| Failure::new(Cause::Internal))?;
        record::answered_here(edge, context, caller, method.label(), 200);
        return Ok(envelope::write_result(id, &nothing));
    }
    if method == Method::Initialize {
        return initialize(edge, context, caller, id, params).await;
    }
    if !method.is_modern() {
        return Err(Failure::new(Cause::MethodNotFound));
    }
    let client = ClientMeta::plain("json-rpc");
    let reply = match Call::new(Some(id.clone()), method, params, &client) {
        Ok(call) => gateway::run(edge, context, caller, call).await?,
        Err(failure) => {
            record::undecoded(edge, context, &failure);
            return Err(failure);
        }
    };
    Ok(reply.body.to_vec())
}

/// Answers `initialize` as a handshake that leaves nothing behind: there is no session here.
async fn initialize(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    id: &Id,
    params: Option<&RawValue>,
) -> Result<Vec<u8>, Failure> {
    let asked = era::read_initialize(params)?;
    let call = Call::new(Some(id.clone()), Method::Discover, None, &asked.client)?;
    let reply: Reply = gateway::run(edge, context, caller, call).await?;
    Ok(match reply.result()? {
        Ok(discover) => {
            envelope::write_result(id, &era::initialize_result(discover, asked.revision)?)
        }
        Err(error) => envelope::write_error(id, error),
    })
}

/// The answers of a batch as one array; `None` when there is none.
pub(super) fn join(answers: impl Iterator<Item = Vec<u8>>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    for answer in answers {
        body.push(if body.is_empty() { b'[' } else { b',' });
        body.extend_from_slice(&answer);
    }
    if body.is_empty() {
        return None;
    }
    body.push(b']');
    Some(body)
}

#[cfg(test)]
mod tests {
    #[test]
    fn answers_of_a_batch_form_an_array() {
        let join = |parts: &[&str]| {
            super::join(parts.iter().map(|p| p.as_bytes().to_vec()))
                .map(|b| String::from_utf8(b).unwrap())
        };
        assert_eq!(join(&[]), None);
        assert_eq!(join(&["1"]).as_deref(), Some("[1]"));
        assert_eq!(join(&["1", "{}"]).as_deref(), Some("[1,{}]"));
    }
}
