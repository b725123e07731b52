//! What operators' tools and edges say to each other: the wire types of `/admin/v1/…` and the one client.
//!
//! An edge reports counters that only grow since its start; whoever asks keeps two reports and
//! subtracts. That way no reader needs to be remembered by the edge, several may watch at once, and
//! a lost answer loses nothing. A report names its edge's start, so that a restart is seen as one.
//!
//! Reports of one release are read by tools of another: unknown fields are ignored, and a new state
//! reads as [`BackendState::Unknown`].

mod client;
mod latency;
mod report;

pub use client::{AdminClient, AdminError};
pub use latency::{
    LATENCY_BOUNDS_US, LATENCY_BUCKETS, LatencyCounts, WrongBucketCount, bucket_index,
};
pub use report::{
    BackendState, BackendStatus, EdgeStatus, ProtocolCounters, ReleaseCounters, ToolCounters,
    TrafficReport,
};

/// Path of [`TrafficReport`].
pub const TRAFFIC_PATH: &str = "/admin/v1/traffic";
/// Path of [`EdgeStatus`].
pub const STATUS_PATH: &str = "/admin/v1/status";
