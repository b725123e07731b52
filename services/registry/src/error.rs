//! What can go wrong with records.

use crate::TrafficError;

/// Result of a registry operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of a registry operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error("{attempt} failed")]
    Store {
        /// What was being attempted.
        attempt: &'static str,
        /// Why.
        source: store::Error,
    },
    /// A record under `key` is not what it should be.
    #[error("record `{key}` cannot be read")]
    Unreadable {
        /// The record's key.
        key: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A record could not be turned into JSON.
    #[error("record `{key}` cannot be written")]
    Unwritable {
        /// The record's key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A name that is part of a key has to be short and plain.
    #[error(
        "name {found:?} refused: 1 to {} of a-z A-Z 0-9 . _ - beginning with a letter or digit",
        crate::NAME_BYTES_MAX
    )]
    Name {
        /// What was found.
        found: String,
    },
    /// The traffic split contradicts itself.
    #[error("traffic split refused")]
    Traffic(#[from] TrafficError),
    /// The record was changed by somebody else since it was read, or the lock under which it was to be written is lost.
    #[error("{what} was not written: {why}")]
    Conflict {
        /// Which record.
        what: &'static str,
        /// Which condition failed.
        why: &'static str,
    },
}

/// Adapter for `map_err`: names what was being attempted.
pub(crate) fn attempting(attempt: &'static str) -> impl Fn(store::Error) -> Error {
    move |source| Error::Store { attempt, source }
}
