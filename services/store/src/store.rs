//! The store as its users see it: bounds are checked here, the backend does the rest.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::backend::{Backend, Keys};
use crate::limits::{check_key, check_prefix, check_ttl, check_txn};
use crate::sqlite::{Sqlite, SqliteOptions};
use crate::{Compare, Entry, LeaseId, Op, Range, Result, Revision, TxnOutcome, Watch};

/// Handle on the shared state. Cheap to clone; all clones share one connection.
///
/// Dropping the future of a write neither cancels it nor tells whether it happened.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store kept in one SQLite file, made with mode 0600 if it does not exist.
    ///
    /// Any number of processes of one machine may have it open. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// If the file cannot be opened, or is not a store of this version.
    pub async fn open_sqlite(path: &Path) -> Result<Self> {
        Self::open_sqlite_with(path, SqliteOptions::default()).await
    }

    /// Opens a store kept in one SQLite file, with other bounds than the default ones.
    ///
    /// # Errors
    /// As [`Store::open_sqlite`].
    pub async fn open_sqlite_with(path: &Path, options: SqliteOptions) -> Result<Self> {
        Ok(Self::over(Sqlite::open(path, options).await?))
    }

    /// Opens a store kept in a cluster's etcd.
    ///
    /// # Errors
    /// If no member answers, or the prefix is out of bounds.
    #[cfg(feature = "etcd")]
    pub async fn open_etcd(options: &crate::EtcdOptions) -> Result<Self> {
        Ok(Self::over(crate::etcd::Etcd::open(options).await?))
    }

    pub(crate) fn over(backend: impl Backend) -> Self {
        Self {
            backend: Arc::new(backend),
        }
    }

    /// Reads one key.
    ///
    /// # Errors
    /// If the key is out of bounds or the backend fails.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>> {
        check_key(key)?;
        let range = self.backend.range(Keys::One(key.to_owned())).await?;
        Ok(range.entries.into_iter().next())
    }

    /// Reads all keys that begin with `prefix`, as of one revision.
    ///
    /// # Errors
    /// If there are more than [`crate::RANGE_ENTRIES_MAX`] entries or [`crate::RANGE_BYTES_MAX`] bytes, or the backend fails.
    pub async fn range(&self, prefix: &str) -> Result<Range> {
        check_prefix(prefix)?;
        self.backend.range(Keys::Prefix(prefix.to_owned())).await
    }

    /// Sets a key. With a lease the key ends with it; without one the key becomes permanent.
    ///
    /// # Errors
    /// [`crate::Error::LeaseExpired`] if the lease has ended; otherwise if out of bounds or the backend fails.
    pub async fn put(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        lease: Option<LeaseId>,
    ) -> Result<Revision> {
        let op = Op::Put {
            key: key.to_owned(),
            value: value.into(),
            lease,
        };
        match self.txn(&[], &[op]).await? {
            TxnOutcome::Committed { revision, .. } | TxnOutcome::Conflict { revision, .. } => {
                Ok(revision)
            }
        }
    }

    /// Removes a key; tells whether it existed.
    ///
    /// # Errors
    /// If the key is out of bounds or the backend fails.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        match self.txn(&[], &[Op::delete(key)]).await? {
            TxnOutcome::Committed { deleted, .. } => Ok(deleted > 0),
            TxnOutcome::Conflict { .. } => Ok(false),
        }
    }

    /// Does all operations in one revision if all comparisons hold.
    ///
    /// # Errors
    /// [`crate::Error::LeaseExpired`] if a put names a lease that has ended; otherwise if out of bounds or the backend
    /// fails. A comparison that does not hold is no error but [`TxnOutcome::Conflict`].
    pub async fn txn(&self, compares: &[Compare], ops: &[Op]) -> Result<TxnOutcome> {
        check_txn(compares, ops)?;
        self.backend.txn(compares.to_vec(), ops.to_vec()).await
    }

    /// Makes a lease that ends `ttl` from now unless kept alive.
    ///
    /// # Errors
    /// If `ttl` is out of bounds or the backend fails.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        check_ttl(ttl)?;
        self.backend.grant(ttl).await
    }

    /// Gives a lease its full time again.
    ///
    /// # Errors
    /// [`crate::Error::LeaseExpired`] if it has ended; otherwise if the backend fails.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.backend.keep_alive(lease).await
    }

    /// Ends a lease now and deletes its keys. No error if it has ended.
    ///
    /// # Errors
    /// If the backend fails.
    pub async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.backend.revoke(lease).await
    }

    /// Tells every change after revision `after` to keys that begin with `prefix`, in order, without a gap.
    ///
    /// The bounds of the prefix are those of [`Store::range`], whose revision is where to begin.
    pub fn watch(&self, prefix: &str, after: Revision) -> Watch {
        match check_prefix(prefix) {
            Ok(()) => Watch::new(self.backend.watch(prefix.to_owned(), after), after),
            Err(error) => Watch::refused(error, after),
        }
    }
}
