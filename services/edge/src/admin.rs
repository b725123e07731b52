//! The operators' port: health probes and metrics for anybody on it, the rest for tokens with the scope
//! `admin`.

use admin_api::{EdgeStatus, TrafficReport};
use bytes::Bytes;
use http::{Method, StatusCode};
use mcp::{Cause, Failure, FrontDoor};
use serde::Serialize;

use crate::edge::Edge;
use crate::egress;
use crate::exchange::{Exchange, Response, set_header};
use crate::ingress;

/// The scope that the admin interface wants.
pub const ADMIN_SCOPE: &str = "admin";

/// Serves one request on the operators' port.
pub async fn serve(edge: &Edge, exchange: &mut Exchange<'_>) -> Response {
    let mut response = answer(edge, exchange).unwrap_or_else(|failure| {
        egress::failure(FrontDoor::JsonRpc, &failure, exchange.request_id.as_str())
    });
    egress::finish(&mut response, exchange);
    response
}

fn answer(edge: &Edge, exchange: &Exchange<'_>) -> Result<Response, Failure> {
    if exchange.method() != Method::GET {
        return Err(Failure::new(Cause::HttpMethod));
    }
    if let Some(response) = probe(edge, exchange.path()) {
        return Ok(response);
    }
    match exchange.path() {
        "/metrics" => Ok(metrics(edge)),
        path @ ("/admin/v1/traffic" | "/admin/v1/status") => {
            let caller = edge
                .identity
                .verify_header(ingress::authorization(exchange))?;
            if !caller.has_scope(ADMIN_SCOPE) {
                return Err(Failure::say(Cause::Forbidden, "the scope admin is needed"));
            }
            if path == "/admin/v1/traffic" {
                json(&traffic(edge))
            } else {
                json(&status(edge))
            }
        }
        _ => Err(Failure::new(Cause::NoSuchPath)),
    }
}

/// A health probe, if `path` is one. Probes need no token and tell no detail.
pub fn probe(edge: &Edge, path: &str) -> Option<Response> {
    let well = match path {
        "/health/live" => edge.is_alive(),
        "/health/ready" => edge.life.is_ready(),
        "/health/startup" => edge.life.is_ready() || edge.life.is_draining(),
        _ => return None,
    };
    let (status, text) = if well {
        (StatusCode::OK, "{\"status\":\"ok\"}")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"unavailable\"}",
        )
    };
    let mut response = Response::new(Bytes::from_static(text.as_bytes()).into());
    *response.status_mut() = status;
    set_header(&mut response, "content-type", "application/json");
    Some(response)
}

fn metrics(edge: &Edge) -> Response {
    edge.metrics.observe(edge);
    let mut response = Response::new(Bytes::from(edge.metrics.registry().encode()).into());
    set_header(
        &mut response,
        "content-type",
        telemetry::METRICS_CONTENT_TYPE,
    );
    response
}

fn json(value: &impl Serialize) -> Result<Response, Failure> {
    let body = serde_json::to_vec(value).map_err(|_| Failure::new(Cause::Internal))?;
    let mut response = Response::new(body.into());
    set_header(&mut response, "content-type", "application/json");
    Ok(response)
}

fn traffic(edge: &Edge) -> TrafficReport {
    TrafficReport {
        edge: edge.name.instance.clone(),
        started_unix_ms: edge.name.started_unix_ms,
        generation: edge.fleet.view().generation(),
        releases: edge.counters.releases(),
        unix_ms: registry::unix_ms(),
    }
}

fn status(edge: &Edge) -> EdgeStatus {
    let usage = crate::usage::now();
    EdgeStatus {
        name: edge.name.instance.clone(),
        release: edge.name.release.clone(),
        config_digest: edge.name.config_digest.clone(),
        in_flight: edge.admission.figures().in_flight as u64,
        rss_bytes: usage.rss_bytes,
        cpu_ms: usage.cpu_ms,
        tools: edge.counters.tools(),
        backends: edge.fleet.view().backend_status(),
        protocols: edge.counters.protocols(),
        rate_limited: edge.counters.rate_limited_total(),
        unauthorized: edge.counters.unauthorized_total(),
    }
}
