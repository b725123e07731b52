//! What can go wrong, and what the caller can do about it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{LeaseId, Revision};

/// Result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of a store operation. Cheap to clone: one failed commit answers everyone who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request breaks a bound; trying again cannot help.
    #[error("{what} refused: {detail}")]
    Invalid {
        /// What was refused, such as `key`.
        what: &'static str,
        /// What was found and what is allowed.
        detail: String,
    },
    /// The lease has ended, and all its keys with it: take a new one.
    #[error("lease {0} has ended")]
    LeaseExpired(LeaseId),
    /// The events asked for are no longer kept: range again, then watch from the revision of that range.
    #[error(
        "events after revision {after} are compacted away (kept: after {compacted}); range again and watch from there"
    )]
    Compacted {
        /// Where the watch wanted to begin.
        after: Revision,
        /// The last revision that was dropped.
        compacted: Revision,
    },
    /// Somebody else holds the lock.
    #[error("lock `{name}` is held by {holder}")]
    Held {
        /// Name of the lock.
        name: String,
        /// Who holds it.
        holder: String,
        /// Since when, in milliseconds of Unix time on the holder's clock.
        since_unix_ms: u64,
    },
    /// Other writers did not let us in for the whole busy timeout; nothing was changed.
    #[error("store is busy: could not begin writing to it within {0:?}")]
    Busy(std::time::Duration),
    /// No room: the disk, the store's own size bound, or the number of leases.
    #[error("store is full while {attempt}")]
    Full {
        /// What was being attempted.
        attempt: &'static str,
    },
    /// The engine below failed. A write that ends so may have happened or not.
    #[error("{attempt} failed")]
    Backend {
        /// What was being attempted.
        attempt: &'static str,
        /// What the engine said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not a store, or one of another version.
    #[error("{} is not a store that this version can open: {detail}", path.display())]
    Incompatible {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        detail: String,
    },
    /// The store's threads have ended.
    #[error("store is closed")]
    Closed,
}

impl Error {
    pub(crate) fn backend(
        attempt: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Backend {
            attempt,
            source: Arc::new(source),
        }
    }

    /// Whether the same call can succeed later without any change by the caller.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Busy(_) | Self::Full { .. } | Self::Backend { .. } | Self::Held { .. }
        )
    }
}
