//! Layer: one access line, one set of metrics and one span for each request, however it ended, also when its client left.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use mcp::headers;
use telemetry::{
    AccessLine,
    trace::{ServerRequest, Span, tracer},
};

use super::{Server, Story};

/// Records the request when it has ended.
pub(crate) async fn record(
    State(server): State<Server>,
    Extension(story): Extension<Arc<Story>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = path.map_or_else(String::new, |path| path.as_str().to_owned());
    let span = tracer().server_span(
        &story.trace,
        &ServerRequest {
            method: request.method().as_str(),
            route: &route,
            request_id: story.request_id.as_str(),
            client_addr: "",
            protocol: "mcp",
        },
    );
    let came = request.headers();
    let mut ending = Ending {
        http_method: request.method().to_string(),
        tenant: decoded(came.get(headers::TENANT)),
        subject: decoded(came.get(headers::PRINCIPAL)),
        revision: decoded(came.get(headers::PROTOCOL_VERSION)),
        route,
        status: None,
        bytes_out: 0,
        in_flight: true,
        span: Some(span),
        story,
        server,
    };
    ending.server.metrics.in_flight.inc();
    let mut response = next.run(request).await;
    ending.status = Some(response.status());
    if ending.story.facts().listens {
        // Whoever only listens takes no part in the load.
        ending.server.metrics.in_flight.dec();
        ending.in_flight = false;
    }
    if let Ok(release) = HeaderValue::from_str(&ending.server.release) {
        response.headers_mut().insert(headers::RELEASE, release);
    }
    // Held by the body: the request has ended when its last byte was handed on.
    response.map(|body| {
        axum::body::Body::new(body.map_frame(move |frame| {
            let _until_the_end = &ending;
            frame
        }))
    })
}

fn decoded(value: Option<&HeaderValue>) -> String {
    value
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}

/// What is recorded, on drop.
struct Ending {
    http_method: String,
    route: String,
    tenant: String,
    subject: String,
    revision: String,
    status: Option<StatusCode>,
    bytes_out: u64,
    /// Counted in the gauge.
    in_flight: bool,
    span: Option<Span>,
    story: Arc<Story>,
    server: Server,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let facts = self.story.facts().clone();
        let took = self.story.began.elapsed();
        let metrics = &self.server.metrics;
        if self.in_flight {
            metrics.in_flight.dec();
        }
        let status = self.status.map_or("gone", |status| label(status));
        metrics.http_requests.with(&[&self.route, status]).inc();
        if let Some(outcome) = facts.outcome.filter(|_| !facts.method.is_empty()) {
            metrics.answered(
                facts.method,
                facts.tool.as_deref(),
                outcome,
                took.as_secs_f64(),
            );
        }
        let tool = facts.tool.as_deref().unwrap_or_default();
        if let Some(mut span) = self.span.take() {
            span.set_caller(&self.tenant, &self.subject);
            span.set_mcp(facts.method, tool, &self.revision);
            if !facts.cause.is_empty() {
                span.fail(facts.cause, &facts.detail);
            }
            if let Some(status) = self.status {
                span.set_status(status.as_u16());
            }
            span.end();
        }
        // Probes and scrapes come all day and say nothing.
        if self.route.starts_with("/health") || self.route == "/metrics" {
            return;
        }
        AccessLine {
            request_id: self.story.request_id.as_str(),
            trace_id: &self.story.trace.trace_id().to_string(),
            tenant: &self.tenant,
            subject: &self.subject,
            protocol: "mcp",
            http_method: &self.http_method,
            route: &self.route,
            revision: &self.revision,
            mcp_method: facts.method,
            tool,
            status: self.status.map(|status| status.as_u16()),
            outcome: facts.outcome.map_or("", |outcome| outcome.as_str()),
            origin: facts.origin,
            stage: facts.cause,
            detail: &facts.detail,
            bytes_in: facts.bytes_in,
            bytes_out: self.bytes_out,
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            ..AccessLine::default()
        }
        .emit();
    }
}

/// The status as a label; only those that we answer with get their own.
fn label(status: StatusCode) -> &'static str {
    const OWN: [(u16, &str); 14] = [
        (200, "200"),
        (202, "202"),
        (400, "400"),
        (404, "404"),
        (405, "405"),
        (406, "406"),
        (408, "408"),
        (413, "413"),
        (415, "415"),
        (500, "500"),
        (502, "502"),
        (503, "503"),
        (504, "504"),
        (429, "429"),
    ];
    OWN.iter()
        .find(|(code, _)| *code == status.as_u16())
        .map_or("other", |(_, label)| label)
}
