//! The embedded backend: one SQLite file in WAL mode, opened by several processes at once.
//!
//! Each handle has two threads, so that no caller blocks on the disk or on another process's write lock. The `writer`
//! gathers waiting writes into one immediate transaction (one fsync), and deletes what expired leases leave behind.
//! The `reader` answers reads from its own snapshot, and while there are watchers it asks every 50 ms whether another
//! process has committed. Writes of this process wake its watchers at once.
//!
//! Leases end by CLOCK_BOOTTIME together with the boot's id: setting the wall clock does nothing to them, sleep of the
//! machine counts, and after a reboot all are over.

mod clock;
mod open;

mod change;
mod leases;
mod rows;
mod transact;

mod reader;
mod wake;
mod writer;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};

use crate::backend::{Backend, Batch, Keys};
use crate::{Compare, Error, LeaseId, Op, Range, Result, Revision, TxnOutcome};

use self::clock::{Clock, SystemClock};
use self::reader::Reader;
use self::wake::Wake;
use self::writer::Writer;

/// Requests that may wait for each of the two threads; further callers wait for their turn asynchronously.
const QUEUE_MAX: usize = 256;

/// Bounds of an SQLite store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// How long a write waits for the writers of other processes.
    pub busy_timeout: Duration,
    /// How many events are kept for watchers that lag.
    pub log_events_max: u64,
    /// How many bytes of events are kept for watchers that lag.
    pub log_bytes_max: u64,
    /// How large the file may grow, in pages of 4 KiB.
    pub pages_max: u32,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(5),
            log_events_max: 20_000,
            log_bytes_max: 64 << 20,
            pages_max: (1 << 30) / 4096,
        }
    }
}

impl SqliteOptions {
    /// Sets how long a write waits for the writers of other processes.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets how many events are kept for watchers that lag.
    #[must_use]
    pub fn log_events_max(mut self, events: u64) -> Self {
        self.log_events_max = events;
        self
    }

    /// Sets how many bytes of events are kept for watchers that lag.
    #[must_use]
    pub fn log_bytes_max(mut self, bytes: u64) -> Self {
        self.log_bytes_max = bytes;
        self
    }
}

/// A store in a file.
pub(crate) struct Sqlite {
    writer: Writer,
    reader: Arc<Reader>,
}

impl Sqlite {
    pub(crate) async fn open(path: &Path, options: SqliteOptions) -> Result<Self> {
        Self::open_at(path, options, Arc::new(SystemClock::read()?)).await
    }

    async fn open_at(path: &Path, options: SqliteOptions, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = path.to_owned();
        let open = move || {
            let wake = Wake::default();
            let write_to = open::writable(&path, &options)?;
            let read_from = open::readable(&path, &options)?;
            let writer = Writer::start(write_to, Arc::clone(&clock), wake.clone(), &options)?;
            let reader = Arc::new(Reader::start(read_from, clock, wake)?);
            Ok(Self { writer, reader })
        };
        tokio::task::spawn_blocking(open)
            .await
            .map_err(|error| Error::backend("opening the store", error))?
    }
}

impl Backend for Sqlite {
    fn range(&self, keys: Keys) -> BoxFuture<'_, Result<Range>> {
        self.reader
            .read(move |conn, now| rows::range(conn, now, &keys))
            .boxed()
    }

    fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> BoxFuture<'_, Result<TxnOutcome>> {
        self.writer
            .write(move |writing| transact::apply(writing, &compares, &ops))
            .boxed()
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>> {
        self.writer
            .write(move |writing| leases::grant(writing, ttl))
            .boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        self.writer
            .write(move |writing| leases::keep_alive(writing, lease))
            .boxed()
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        self.writer
            .write(move |writing| leases::revoke(writing, lease))
            .boxed()
    }

    fn watch(&self, prefix: String, after: Revision) -> BoxStream<'static, Result<Batch>> {
        reader::batches(Arc::clone(&self.reader), prefix, after).boxed()
    }
}
