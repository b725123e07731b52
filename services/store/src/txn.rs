//! Transactions: all comparisons hold and all operations are done, or nothing is.

use bytes::Bytes;

use crate::{LeaseId, Revision};

/// A condition on the store's present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last changed at `revision`; 0 means that the key does not exist.
    ModRevision {
        /// The key.
        key: String,
        /// The revision expected.
        revision: Revision,
    },
    /// The key was made at `revision` and has existed since; 0 means that the key does not exist.
    CreateRevision {
        /// The key.
        key: String,
        /// The revision expected.
        revision: Revision,
    },
    /// The lease has not ended.
    LeaseAlive {
        /// The lease.
        lease: LeaseId,
    },
}

impl Compare {
    /// The key does not exist.
    pub fn absent(key: impl Into<String>) -> Self {
        Self::ModRevision {
            key: key.into(),
            revision: 0,
        }
    }

    /// Nobody has changed the key since `revision`.
    pub fn unchanged(key: impl Into<String>, revision: Revision) -> Self {
        Self::ModRevision {
            key: key.into(),
            revision,
        }
    }
}

/// A change to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets the value, and the lease: a put without one makes the key permanent.
    Put {
        /// The key.
        key: String,
        /// The new value.
        value: Bytes,
        /// The lease that the key ends with from now on.
        lease: Option<LeaseId>,
    },
    /// Removes the key, if it exists.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// A put without a lease.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        }
    }

    /// A put that ends with `lease`.
    pub fn put_leased(key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        }
    }

    /// A deletion.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The key that is changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Bytes of key and value together.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
        }
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a transaction that lost its comparison changed nothing"]
pub enum TxnOutcome {
    /// All comparisons held and the operations are durable.
    Committed {
        /// The `mod_revision` of everything put; the store's revision if nothing changed.
        revision: Revision,
        /// How many keys the deletions found.
        deleted: usize,
    },
    /// A comparison did not hold and nothing was changed.
    Conflict {
        /// Index of the first comparison that failed.
        compare: usize,
        /// The store's revision at that time.
        revision: Revision,
    },
}

impl TxnOutcome {
    /// The revision, if the transaction was committed.
    #[must_use]
    pub fn committed(&self) -> Option<Revision> {
        match *self {
            Self::Committed { revision, .. } => Some(revision),
            Self::Conflict { .. } => None,
        }
    }
}
