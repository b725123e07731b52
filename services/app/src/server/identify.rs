//! Layer: gives the request its ID and its place in a trace, and opens its story.

use std::sync::Arc;

use axum::{extract::Request, middleware::Next, response::Response};
use http::HeaderValue;
use mcp::headers::REQUEST_ID;
use telemetry::RequestId;
use tracing::Instrument;

use super::{Story, trace_of};

/// Opens the story; everything that is logged below carries the request's ID and its trace's.
pub(crate) async fn identify(mut request: Request, next: Next) -> Response {
    let request_id =
        RequestId::accept(request.headers().get(REQUEST_ID).map(HeaderValue::as_bytes));
    let trace = trace_of(request.headers());
    let span = telemetry::request_span(request_id.as_str(), &trace);
    let header = HeaderValue::from_str(request_id.as_str());
    request
        .extensions_mut()
        .insert(Arc::new(Story::new(request_id, trace)));
    let mut response = next.run(request).instrument(span).await;
    if let Ok(header) = header {
        response.headers_mut().insert(REQUEST_ID, header);
    }
    response
}
