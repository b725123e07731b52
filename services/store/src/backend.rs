//! The seam between the store and an engine.
//!
//! A backend gets requests that are already within bounds. It has to answer with etcd's semantics, which
//! `conformance` spells out; watches as streams of single events and locks are made above it, once for all.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{Compare, Event, LeaseId, Op, Range, Result, Revision, TxnOutcome};

/// Which keys to read.
#[derive(Debug, Clone)]
pub(crate) enum Keys {
    /// Exactly this one.
    One(String),
    /// All that begin so.
    Prefix(String),
}

/// Events of whole revisions, so that watching again after `through` loses nothing.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    pub(crate) through: Revision,
}

/// An engine that keeps the state.
pub(crate) trait Backend: Send + Sync + 'static {
    /// Reads keys as of one revision; keys of ended leases are not seen, even if not yet deleted.
    fn range(&self, keys: Keys) -> BoxFuture<'_, Result<Range>>;

    /// Compares and changes atomically; durable before it answers.
    fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> BoxFuture<'_, Result<TxnOutcome>>;

    /// Makes a lease.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>>;

    /// Sets a lease's remaining time to its full time to live.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>>;

    /// Ends a lease and deletes its keys in one revision. Ending one that has ended is no error.
    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>>;

    /// Tells all changes after a revision; never an empty batch. Ends after its first error.
    fn watch(&self, prefix: String, after: Revision) -> BoxStream<'static, Result<Batch>>;
}
