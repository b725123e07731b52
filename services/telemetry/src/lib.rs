//! Logs, metrics and traces of one process: start-up, shapes and limits.
//!
//! Three promises hold for all of it:
//!
//! - A request never waits for telemetry. Log lines and spans go to bounded queues that threads of
//!   their own empty; what does not fit is dropped and counted.
//! - A client cannot shape it. Text of clients is escaped and cut before it is logged, and becomes a
//!   metric label only within a fixed number of values.
//! - One request is one story. Request id and trace id are in the access line, in every event logged
//!   inside [`request_span`], in every span and in the headers passed on.
//!
//! This crate knows nothing of MCP, of routing or of configuration files: it is told what happened.

mod access;
mod error_chain;
mod events;
mod labels;
mod line;
mod metrics;
mod redact;
mod request_id;
mod runtime;
mod sink;
mod start;
pub mod trace;

pub use access::AccessLine;
pub use error_chain::error_chain;
pub use events::request_span;
pub use labels::{BoundedLabels, OVERFLOW_LABEL};
pub use metrics::{
    CounterFamily, Family, GaugeFamily, HistogramFamily, LATENCY_BUCKETS_SECONDS,
    METRICS_CONTENT_TYPE, MetricError, Metrics,
};
pub use prometheus::{Counter, Gauge, Histogram, IntCounter, IntGauge};
pub use redact::{Detail, Redaction};
pub use request_id::{REQUEST_ID_CHARS_MAX, RequestId};
pub use runtime::{Stuck, Watchdog, WatchdogError};
pub use start::{Guard, LogFormat, StartError, TelemetryOptions, start};
