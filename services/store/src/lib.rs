//! Shared state of a fleet, with etcd's semantics: one revision counter over all keys, compare-and-set transactions,
//! leases, watches from a revision, and locks with a fence.
//!
//! The embedded backend is one SQLite file that several processes of one machine open at once; with the feature `etcd`
//! several machines share a cluster's etcd. Everything above the private `Backend` trait (bounds, watches as streams, locks) is the same for every backend, and
//! `conformance` (feature `conformance`) is the suite a new backend has to pass.
//!
//! Promises:
//! - An acknowledged write survives `kill -9` of any process and loss of power.
//! - Keys of a lease vanish for every reader when its time is over, and watchers see their deletion.
//! - Of two transactions that compare the same revision, one wins.
//! - Lock holders that were paused past their lease cannot write: their fence no longer holds.
//!
//! What it does not know: what the keys mean (that is `registry`).

mod entry;
mod txn;

mod lock;
mod store;
mod watch;

mod error;
mod limits;

mod backend;
#[cfg(feature = "etcd")]
mod etcd;
mod sqlite;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

pub use entry::{Entry, Event, EventKind, LeaseId, Range, Revision};
pub use error::{Error, Result};
#[cfg(feature = "etcd")]
pub use etcd::EtcdOptions;
pub use limits::{
    KEY_BYTES_MAX, LEASE_TTL_MAX, LEASE_TTL_MIN, RANGE_BYTES_MAX, RANGE_ENTRIES_MAX, TXN_BYTES_MAX,
    TXN_OPS_MAX, VALUE_BYTES_MAX,
};
pub use lock::{LOCK_PREFIX, LockGuard, LockHolder};
pub use sqlite::SqliteOptions;
pub use store::Store;
pub use txn::{Compare, Op, TxnOutcome};
pub use watch::Watch;
