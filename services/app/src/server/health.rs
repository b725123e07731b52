//! Probes and metrics. Liveness asks only whether the runtime runs; readiness, whether calls are wanted here now.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::Server;
use crate::{
    life::Phase,
    plugin::{Plugin, State as PluginState},
};

/// `/health/live`: 503 when the runtime is stuck.
pub(crate) async fn live(State(server): State<Server>) -> Response {
    match server.watchdog.check() {
        Ok(()) => say(StatusCode::OK, json!({"status": "ok"})),
        Err(stuck) => say(
            StatusCode::SERVICE_UNAVAILABLE,
            json!({"status": "stuck", "detail": stuck.to_string()}),
        ),
    }
}

/// `/health/ready`: 503 while starting, draining or full.
pub(crate) async fn ready(State(server): State<Server>) -> Response {
    let (status, word) = readiness(&server);
    say(status, json!({"status": word}))
}

fn readiness(server: &Server) -> (StatusCode, &'static str) {
    match server.life.phase() {
        Phase::Ready if server.places.available_permits() == 0 => {
            (StatusCode::SERVICE_UNAVAILABLE, "overloaded")
        }
        Phase::Ready => (StatusCode::OK, "ok"),
        other => (StatusCode::SERVICE_UNAVAILABLE, other.as_str()),
    }
}

/// `/health/startup`: 503 until the start-up is done, with what it waits for.
pub(crate) async fn startup(State(server): State<Server>) -> Response {
    match server.life.phase() {
        Phase::Starting => say(
            StatusCode::SERVICE_UNAVAILABLE,
            json!({"status": "starting", "waiting_for": server.life.awaited()}),
        ),
        Phase::Ready | Phase::Draining => say(StatusCode::OK, json!({"status": "ok"})),
    }
}

/// `/health`: every subsystem.
pub(crate) async fn report(State(server): State<Server>) -> Response {
    let (status, word) = readiness(&server);
    let catalogue = server.mounts.catalogue();
    let plugins: Vec<Value> = server
        .mounts
        .mounted()
        .iter()
        .enumerate()
        .map(|(index, one)| {
            let state = one.plugin.state();
            let mut plugin = json!({
                "name": &*one.name,
                "kind": one.plugin.kind(),
                "status": state.as_str(),
                "tools": catalogue.tools_of(index).count(),
            });
            if let PluginState::Restarting { failing, reason } = &state {
                plugin["failing"] = json!(failing.as_str());
                plugin["last_error"] = json!(reason);
            }
            if let Plugin::Stdio(stdio) = &one.plugin {
                plugin["restarts"] = json!(stdio.restarts());
                plugin["in_flight"] = json!(stdio.in_flight());
            }
            plugin
        })
        .collect();
    let runtime = server
        .watchdog
        .check()
        .map_or_else(|stuck| stuck.to_string(), |()| "ok".to_owned());
    say(
        status,
        json!({
            "status": word,
            "release": server.release,
            "in_flight": server.in_flight(),
            "subsystems": {
                "runtime": {"status": runtime},
                "plugins": plugins,
                "catalogue": {"digest": catalogue.digest(), "missing": catalogue.missing()},
            },
        }),
    )
}

/// `/metrics`: the Prometheus text format.
pub(crate) async fn metrics(State(server): State<Server>) -> Response {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    server.metrics.parked.set(count(server.lot.len()));
    server
        .metrics
        .listeners
        .set(count(server.mounts.listeners()));
    (
        [(CONTENT_TYPE, telemetry::METRICS_CONTENT_TYPE)],
        server.metrics.encode(&server.mounts),
    )
        .into_response()
}

fn say(status: StatusCode, body: Value) -> Response {
    (status, Json(body)).into_response()
}
