//! The thread that writes: waiting writes share one immediate transaction and its fsync.
//!
//! Each write stands in its own savepoint, so one that fails takes nothing of the others with it. Answers are given
//! after the commit. Between writes the thread wakes when a lease ends, and at least every second, since leases of
//! processes that died end as well. It then gives pages back that have long been free.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::change::LogBounds;
use super::clock::{Clock, Moment};
use super::rows::sql_error;
use super::wake::Wake;
use super::{QUEUE_MAX, SqliteOptions, leases, rows};
use crate::{Error, Result};

/// Most writes that share a transaction.
const BATCH_MAX: usize = 64;
/// Longest time between two looks for ended leases.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Shortest, so that clocks that round differently cannot make us spin.
const SWEEP_REST: Duration = Duration::from_millis(5);
/// Free pages that the file keeps for the next writes.
const FREE_PAGES_KEPT: u64 = 1024;
/// Most pages that are given back at a time: 4 MiB, a short hold of the write lock.
const PAGES_BACK_MAX: u64 = 1024;

/// What a write works with: an immediate transaction, and the time since it has the write lock.
pub(super) struct Writing<'c> {
    pub(super) conn: &'c Connection,
    pub(super) now: Moment,
    pub(super) bounds: LogBounds,
}

/// The caller's side of the thread.
pub(super) struct Writer {
    /// In a mutex only because `Sender` is to be shared by reference; held for a push.
    queue: Mutex<Sender<Queued>>,
    places: Arc<Semaphore>,
}

struct Queued {
    job: Box<dyn Job>,
    _place: OwnedSemaphorePermit,
}

/// A write and whoever waits for it.
trait Job: Send {
    fn run(&mut self, writing: &Writing<'_>);
    fn answer(self: Box<Self>, committed: Result<()>);
}

struct Write<F, T> {
    work: Option<F>,
    outcome: Result<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Job for Write<F, T>
where
    F: FnOnce(&Writing<'_>) -> Result<T> + Send,
    T: Send,
{
    fn run(&mut self, writing: &Writing<'_>) {
        if let Some(work) = self.work.take() {
            self.outcome = apart(writing, work);
        }
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        // Nobody listens when the caller has gone.
        drop(self.reply.send(committed.and(self.outcome)));
    }
}

/// Runs `work` so that its failure undoes its own changes alone.
fn apart<T>(writing: &Writing<'_>, work: impl FnOnce(&Writing<'_>) -> Result<T>) -> Result<T> {
    let run = |sql: &str| {
        writing
            .conn
            .execute_batch(sql)
            .map_err(sql_error("keeping writes apart"))
    };
    run("SAVEPOINT one")?;
    let outcome = work(writing);
    match &outcome {
        Ok(_) => run("RELEASE one")?,
        // A full disk may have ended the whole transaction; the batch sees that.
        Err(_) if writing.conn.is_autocommit() => {}
        Err(_) => run("ROLLBACK TO one; RELEASE one")?,
    }
    outcome
}

impl Writer {
    pub(super) fn start(
        conn: Connection,
        clock: Arc<dyn Clock>,
        wake: Wake,
        options: &SqliteOptions,
    ) -> Result<Self> {
        let (queue, queued) = channel();
        let bounds = LogBounds::of(options);
        let thread = Thread {
            conn,
            clock,
            wake,
            bounds,
            busy_timeout: options.busy_timeout,
        };
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || thread.run(&queued))
            .map_err(|error| Error::backend("starting the store's writer", error))?;
        Ok(Self {
            queue: Mutex::new(queue),
            places: Arc::new(Semaphore::new(QUEUE_MAX)),
        })
    }

    /// Does `work` in a transaction and answers when it is durable.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Writing<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Write {
            work: Some(work),
            outcome: Err(Error::Closed),
            reply,
        });
        self.push(Queued { job, _place: place })?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    fn push(&self, queued: Queued) -> Result<()> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.send(queued).map_err(|_| Error::Closed)
    }
}

struct Thread {
    conn: Connection,
    clock: Arc<dyn Clock>,
    wake: Wake,
    bounds: LogBounds,
    busy_timeout: Duration,
}

impl Thread {
    fn run(mut self, queued: &Receiver<Queued>) {
        let mut rest = self.until_next_end();
        loop {
            match queued.recv_timeout(rest) {
                Ok(first) => {
                    let batch = std::iter::once(first)
                        .chain(queued.try_iter())
                        .take(BATCH_MAX)
                        .collect();
                    self.answer(batch);
                    rest = self.until_next_end();
                }
                Err(RecvTimeoutError::Timeout) => {
                    rest = self.sweep_if_due();
                    self.give_pages_back();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn answer(&mut self, mut batch: Vec<Queued>) {
        let committed = self.commit(&mut batch);
        for queued in batch {
            queued.job.answer(committed.clone());
        }
    }

    /// Commits what can be; an error means that nothing of the batch was done.
    fn commit(&mut self, batch: &mut [Queued]) -> Result<()> {
        let busy_timeout = self.busy_timeout;
        let begin = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy(busy_timeout),
            _ => sql_error("beginning to write")(error),
        };
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(begin)?;
        let before = rows::revision(&tx).map_err(sql_error("reading the revision"))?;
        let writing = Writing {
            conn: &tx,
            now: self.clock.now(),
            bounds: self.bounds,
        };
        leases::sweep(&writing).map_err(sql_error("deleting what ended leases held"))?;
        for queued in batch {
            queued.job.run(&writing);
            if tx.is_autocommit() {
                return Err(Error::Full {
                    attempt: "writing a transaction",
                });
            }
        }
        let after = rows::revision(&tx).map_err(sql_error("reading the revision"))?;
        commit(tx)?;
        if after != before {
            self.wake.wake();
        }
        Ok(())
    }

    fn sweep_if_due(&mut self) -> Duration {
        let due = leases::is_any_over(&self.conn, &self.clock.now());
        let swept = match due {
            Ok(false) => Ok(()),
            Ok(true) => self.commit(&mut []),
            Err(error) => Err(sql_error("looking for ended leases")(error)),
        };
        match swept {
            Ok(()) => self.until_next_end(),
            Err(error) => {
                tracing::warn!(error = %error, "could not delete what ended leases held; trying again");
                SWEEP_EVERY
            }
        }
    }

    /// After a burst the file would stay as large as it ever was.
    fn give_pages_back(&self) {
        let shrink = || {
            let mut free = self.conn.prepare_cached("PRAGMA freelist_count")?;
            let free = free.query_row([], |row| rows::number(row, 0))?;
            let back = free.saturating_sub(FREE_PAGES_KEPT).min(PAGES_BACK_MAX);
            if back == 0 {
                return Ok(());
            }
            let sql = format!("PRAGMA incremental_vacuum({back})");
            let mut vacuum = self.conn.prepare(&sql)?;
            let mut pages = vacuum.query([])?;
            // Each step is a page.
            while pages.next()?.is_some() {}
            Ok(())
        };
        // Somebody else writes, then; there is a next time.
        if let Err(error) = shrink() {
            let error: rusqlite::Error = error;
            tracing::debug!(%error, "free pages stay in the store's file");
        }
    }

    fn until_next_end(&self) -> Duration {
        let left = leases::next_end(&self.conn, &self.clock.now())
            .ok()
            .flatten();
        left.map_or(SWEEP_EVERY, |left| left.clamp(SWEEP_REST, SWEEP_EVERY))
    }
}

fn commit(tx: Transaction<'_>) -> Result<()> {
    tx.commit().map_err(sql_error("committing"))
}
