//! Telemetry against what is real: a process's own standard error, a collector, and promtool.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod collector;
mod logs;
mod promtool;
mod tools;
