//! What is known of one request, told by whoever finds it out and read by whoever logs, counts or answers.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use mcp::{Failure, Id, Outcome, headers};
use telemetry::{RequestId, trace::TraceContext};

/// One request's story.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) request_id: RequestId,
    pub(crate) trace: TraceContext,
    pub(crate) began: Instant,
    facts: Mutex<Facts>,
}

/// What is found out on the way.
#[derive(Debug, Default, Clone)]
pub(crate) struct Facts {
    /// The JSON-RPC id, for an answer that is made outside of the handler.
    pub(crate) id: Option<Id>,
    /// The method's label; empty if there is none.
    pub(crate) method: &'static str,
    /// The tool's public name, if the catalogue has it.
    pub(crate) tool: Option<String>,
    /// Bytes of the body.
    pub(crate) bytes_in: u64,
    /// How it ended.
    pub(crate) outcome: Option<Outcome>,
    /// Whose fault it was; empty unless it failed.
    pub(crate) origin: &'static str,
    /// What went wrong; empty unless it failed.
    pub(crate) cause: &'static str,
    /// What the client was told.
    pub(crate) detail: String,
    /// The JSON-RPC answer is for the body's message, not for the HTTP request.
    pub(crate) until: Option<Instant>,
}

impl Story {
    pub(crate) fn new(request_id: RequestId, trace: TraceContext) -> Self {
        Self {
            request_id,
            trace,
            began: Instant::now(),
            facts: Mutex::default(),
        }
    }

    /// Opens the facts to be told or read. Never held across an await.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers with a failure under its own HTTP status.
    pub(crate) fn fail(&self, failure: &Failure) -> Response {
        let status = StatusCode::from_u16(failure.cause.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.fail_with(failure, status)
    }

    /// Answers with a failure under `status`.
    pub(crate) fn fail_with(&self, failure: &Failure, status: StatusCode) -> Response {
        let body = {
            let mut facts = self.facts();
            facts.outcome = Some(Outcome::Error);
            facts.origin = failure.cause.origin().as_str();
            facts.cause = failure.cause.as_str();
            facts.detail.clone_from(&failure.message);
            failure.to_json_rpc(facts.id.as_ref(), self.request_id.as_str())
        };
        json(status, Outcome::Error, body)
    }
}

/// Makes a JSON response that says how the call ended.
pub(crate) fn json(status: StatusCode, outcome: Outcome, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(headers::OUTCOME, HeaderValue::from_static(outcome.as_str()));
    response
}
