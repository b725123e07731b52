//! The front doors: bytes of a client's protocol to calls, and the answers back.
//!
//! Each front door is a module with one `serve`: it reads its body within bounds, turns it into
//! [`mcp::Call`]s, has [`crate::gateway::run`] run each, and writes what its protocol has for an answer.
//! What a front door knows of its protocol stays in it.

pub mod capnp;
mod events;
mod graphql;
mod jsonrpc;
mod mcp;
mod sessions;
mod websocket;

use std::sync::Arc;

use ::mcp::headers::SESSION_ID;
use ::mcp::{Cause, Failure, FrontDoor};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ORIGIN};
use http::{Method, StatusCode};

pub use sessions::{Sessions, host};
pub use websocket::Sockets;

use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::{Body, BodyBounds, Exchange, Response};
use crate::identity::Caller;
use crate::{admin, record};

/// A path that takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// What is spoken there.
    pub protocol: FrontDoor,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mcp,
    JsonRpc,
    Batch,
    GraphQl,
    WebSocket,
    Events,
}

/// What stands at a path.
pub enum Door {
    /// A front door.
    Open(Endpoint),
    /// A health probe, answered at once.
    Probe(Response),
}

/// A request that gets no further than the door.
pub struct RefusedAtDoor {
    protocol: FrontDoor,
    failure: Failure,
    allow: Option<&'static str>,
}

impl RefusedAtDoor {
    /// The answer, recorded.
    pub fn answer(&self, edge: &Edge, exchange: &Exchange<'_>) -> Response {
        let mut response = record::refused(edge, exchange, self.protocol, &self.failure);
        if let Some(methods) = self.allow {
            crate::exchange::set_header(&mut response, "allow", methods);
        }
        response
    }
}

/// The route template of a path, for spans: never a client's own words.
pub fn template(path: &str) -> &'static str {
    [
        "/mcp",
        "/mcp/v1/jsonrpc",
        "/mcp/v1/batch",
        "/mcp/v1/ws",
        "/mcp/v1/events",
        "/graphql",
        "/metrics",
        "/admin/v1/status",
        "/admin/v1/traffic",
    ]
    .into_iter()
    .find(|template| *template == path)
    .unwrap_or("other")
}

/// Finds the front door of a request and checks what can be checked without knowing who calls.
///
/// # Errors
/// No host (400), no such path (404), wrong method (405), an `Origin` that may not call (403).
pub fn door(edge: &Edge, exchange: &Exchange<'_>) -> Result<Door, RefusedAtDoor> {
    if !exchange.names_host() {
        return Err(RefusedAtDoor {
            protocol: FrontDoor::JsonRpc,
            failure: Failure::say(Cause::InvalidRequest, "Host must stand once"),
            allow: None,
        });
    }
    let (kind, protocol, methods): (_, _, &[Method]) = match exchange.path() {
        // A session has a stream to read, and an end.
        "/mcp" if exchange.headers().contains_key(SESSION_ID) => (
            Kind::Mcp,
            FrontDoor::Mcp,
            &[Method::POST, Method::GET, Method::DELETE],
        ),
        "/mcp" => (Kind::Mcp, FrontDoor::Mcp, &[Method::POST]),
        "/mcp/v1/jsonrpc" => (Kind::JsonRpc, FrontDoor::JsonRpc, &[Method::POST]),
        "/mcp/v1/batch" => (Kind::Batch, FrontDoor::JsonRpc, &[Method::POST]),
        "/mcp/v1/ws" => (Kind::WebSocket, FrontDoor::Mcp, &[Method::GET]),
        "/mcp/v1/events" => (Kind::Events, FrontDoor::Mcp, &[Method::GET]),
        "/graphql" => (
            Kind::GraphQl,
            FrontDoor::GraphQl,
            &[Method::GET, Method::POST],
        ),
        path => {
            return match admin::probe(edge, path) {
                Some(response) => Ok(Door::Probe(response)),
                None => Err(RefusedAtDoor {
                    protocol: FrontDoor::JsonRpc,
                    failure: Failure::new(Cause::NoSuchPath),
                    allow: None,
                }),
            };
        }
    };
    let refuse = |cause, allow| RefusedAtDoor {
        protocol,
        failure: Failure::new(cause),
        allow,
    };
    if !methods.contains(exchange.method()) {
        let allow = match methods.len() {
            1 if methods == [Method::GET] => "GET",
            1 => "POST",
            2 => "GET, POST",
            _ => "GET, POST, DELETE",
        };
        return Err(refuse(Cause::HttpMethod, Some(allow)));
    }
    if let Some(origin) = exchange.headers().get(ORIGIN)
        && !origin
            .to_str()
            .is_ok_and(|origin| origin_may_call(origin, &edge.settings.allowed_origins))
    {
        return Err(refuse(Cause::OriginRefused, None));
    }
    Ok(Door::Open(Endpoint { protocol, kind }))
}

/// Has the front door serve the request. `None` when the client went away.
pub async fn serve(
    edge: &Arc<Edge>,
    exchange: &mut Exchange<'_>,
    door: Endpoint,
    context: Context,
    caller: Arc<Caller>,
) -> Option<Response> {
    match door.kind {
        Kind::Mcp => mcp::serve(edge, exchange, context, caller).await,
        Kind::JsonRpc => {
            jsonrpc::serve(edge, exchange, context, caller, jsonrpc::Takes::OneOrMany).await
        }
        Kind::Batch => jsonrpc::serve(edge, exchange, context, caller, jsonrpc::Takes::Many).await,
        Kind::GraphQl => graphql::serve(edge, exchange, context, caller).await,
        Kind::Events => Some(events::serve(edge, exchange, context, caller).await),
        Kind::WebSocket => Some(websocket::serve(edge, exchange, context, caller)),
    }
}

/// The value of `Authorization` if it stands exactly once.
pub fn authorization<'x>(exchange: &'x Exchange<'_>) -> Option<&'x [u8]> {
    if exchange.is_repeated(AUTHORIZATION.as_str()) {
        return None;
    }
    exchange
        .headers()
        .get(AUTHORIZATION)
        .map(http::HeaderValue::as_bytes)
}

/// Bounds of an endpoint's bodies: its own limit, or that of all.
fn body_bounds(edge: &Edge, own_limit: Option<u64>) -> BodyBounds<'_> {
    let http = &edge.settings.http;
    BodyBounds {
        limit: own_limit.unwrap_or(http.body_limit),
        timeout: http.body_timeout,
        room: &edge.body_room,
    }
}

/// Checks that a POST says its body is JSON and that JSON is acceptable as an answer.
fn check_json_post(exchange: &Exchange<'_>) -> Result<(), Failure> {
    let content_type = exchange.header(CONTENT_TYPE.as_str()).unwrap_or_default();
    if media_type(content_type) != "application/json" {
        return Err(Failure::new(Cause::MediaType));
    }
    let acceptable = exchange.header(ACCEPT.as_str()).is_none_or(|accept| {
        accept.split(',').map(media_type).any(|media| {
            [
                "application/json",
                "text/event-stream",
                "application/*",
                "*/*",
            ]
            .contains(&media.as_str())
        })
    });
    if acceptable {
        Ok(())
    } else {
        Err(Failure::new(Cause::NotAcceptable))
    }
}

/// Whether a client takes an event stream.
fn accepts_events(exchange: &Exchange<'_>) -> bool {
    exchange.header(ACCEPT.as_str()).is_none_or(|accept| {
        let mut listed = accept.split(',').map(media_type);
        listed.any(|media| ["text/event-stream", "text/*", "*/*"].contains(&media.as_str()))
    })
}

fn media_type(value: &str) -> String {
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Whether a web page of this origin may call: one that the settings name, or one of this machine.
fn origin_may_call(origin: &str, allowed: &[String]) -> bool {
    if allowed.iter().any(|a| a == origin) {
        return true;
    }
    let Some(host) = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"))
    else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// An answer with a JSON body.
fn json(status: u16, body: impl Into<bytes::Bytes>) -> Response {
    let mut response = Response::new(Body::Whole(body.into()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    crate::exchange::set_header(&mut response, "content-type", "application/json");
    response
}

/// An answer without a body.
fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(bytes::Bytes::new().into());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_or_local_pages_may_call() {
        let allowed = ["https://app.example".to_owned()];
        for (origin, may) in [
            ("https://app.example", true),
            ("http://localhost", true),
            ("http://localhost:5173", true),
            ("https://127.0.0.1:8700", true),
            ("http://[::1]:80", true),
            ("https://app.example.evil", false),
            ("http://localhost.evil.com", false),
            ("http://localhost:80@evil.com", false),
            ("http://127.0.0.1.nip.io", false),
            ("null", false),
            ("file://", false),
        ] {
            assert_eq!(origin_may_call(origin, &allowed), may, "{origin}");
        }
    }
}
