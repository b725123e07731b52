//! What is known of one request, told by whoever finds it out and read by whoever logs, counts or answers.

use std::{
    any::Any,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::response::Response;
use http::StatusCode;
use mcp::{Failure, Id, Outcome};
use telemetry::{RequestId, trace::TraceContext};

use super::stream::Finished;

/// One request's story.
pub(crate) struct Story {
    pub(crate) request_id: RequestId,
    pub(crate) trace: TraceContext,
    pub(crate) began: Instant,
    facts: Mutex<Facts>,
    kept: Mutex<Vec<Box<dyn Any + Send>>>,
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
    /// When nobody waits any more.
    pub(crate) until: Option<Instant>,
    /// The answer is a stream of changes, which ends when its client wants.
    pub(crate) listens: bool,
}

impl Story {
    pub(crate) fn new(request_id: RequestId, trace: TraceContext) -> Self {
        Self {
            request_id,
            trace,
            began: Instant::now(),
            facts: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    /// Opens the story of one call within this request, which has its own time. It holds nothing.
    pub(crate) fn of_call(&self, until: Instant) -> Self {
        let call = Self::new(self.request_id.clone(), self.trace.clone());
        call.facts().until = Some(until);
        call
    }

    /// Takes over how a call within this request ended, once it has.
    pub(crate) fn learn(&self, call: &Self) {
        let call = call.facts().clone();
        if call.outcome.is_none() {
            return;
        }
        let mut own = self.facts();
        own.tool = call.tool;
        own.outcome = call.outcome;
        own.origin = call.origin;
        own.cause = call.cause;
        own.detail = call.detail;
    }

    /// Opens the facts to be told or read. Never held across an await.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps something until the request has ended, its body included.
    pub(crate) fn keep(&self, what: impl Any + Send) {
        self.kept().push(Box::new(what));
    }

    /// Gives up what was kept so far.
    pub(crate) fn give_up(&self) {
        let kept = std::mem::take(&mut *self.kept());
        drop(kept);
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Box<dyn Any + Send>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when nobody waits any more.
    pub(crate) fn deadline(&self) -> Instant {
        self.facts().until.unwrap_or_else(Instant::now)
    }

    /// Answers with a failure under its own HTTP status.
    pub(crate) fn fail(&self, failure: &Failure) -> Response {
        self.failed(failure).into_json()
    }

    /// Ends with a failure under its own HTTP status.
    pub(crate) fn failed(&self, failure: &Failure) -> Finished {
        let status = StatusCode::from_u16(failure.cause.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.failed_with(failure, status)
    }

    /// Ends with a failure under `status`.
    pub(crate) fn failed_with(&self, failure: &Failure, status: StatusCode) -> Finished {
        let mut facts = self.facts();
        facts.outcome = Some(Outcome::Error);
        facts.origin = failure.cause.origin().as_str();
        facts.cause = failure.cause.as_str();
        facts.detail.clone_from(&failure.message);
        Finished {
            status,
            outcome: Outcome::Error,
            body: failure.to_json_rpc(facts.id.as_ref(), self.request_id.as_str()),
        }
    }
}
