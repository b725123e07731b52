//! Traces: one story of a request over all processes it passes.
//!
//! Contexts are cheap and made for every request, so that logs always have a trace id and the next
//! process always has a parent. Spans are recorded only when the trace is sampled and a collector is
//! configured; otherwise a [`Span`] is nothing at all.
//!
//! The decision to sample is taken once, where a trace begins, and followed everywhere else.

mod context;
mod export;
mod span;
mod state;

pub use context::TraceContext;
pub(crate) use export::{SPANS_EXPORTED, SPANS_LOST, set_tracer};
pub use export::{Tracer, TracerError, TracerOptions, tracer};
pub use opentelemetry::trace::{SpanId, SpanKind, TraceId};
pub use span::{Attempt, ServerRequest, Span};
