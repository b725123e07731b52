//! What the store keeps and tells: entries, events, and the numbers that order them.

use std::fmt;

use bytes::Bytes;

/// A point in the store's history. Counts up by one for each transaction that changed something; 0 is before all.
pub type Revision = u64;

/// Names a lease. Never used twice by one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub(crate) i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A key with its value and history numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value; empty in the event of a deletion.
    pub value: Bytes,
    /// The revision that made the key (0 in the event of a deletion).
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
    /// How many times the key was put since it was made: 1 at first, 0 in the event of a deletion.
    pub version: u64,
    /// The lease that the key ends with.
    pub lease: Option<LeaseId>,
}

/// Entries in the order of their keys, as they were at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The entries, ordered by the bytes of their keys.
    pub entries: Vec<Entry>,
    /// The store's revision at the time of reading: watch after this to miss nothing.
    pub revision: Revision,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Made or changed.
    Put,
    /// Deleted, by somebody or because its lease ended.
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The entry after the change.
    pub entry: Entry,
    /// When it happened; equals the entry's `mod_revision`. Changes of one transaction share it.
    pub revision: Revision,
}
