//! The thread that reads, and listens for commits of other processes.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{Stream, unfold};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::clock::{Clock, Moment};
use super::rows::sql_error;
use super::wake::{Wake, Watcher};
use super::{QUEUE_MAX, rows};
use crate::backend::Batch;
use crate::{Error, Result, Revision};

/// How often the file is asked, while there are watchers, whether another process has committed.
const POLL_EVERY: Duration = Duration::from_millis(50);

type Job = Box<dyn FnOnce(&Connection, &Moment) + Send>;

enum Request {
    Read {
        job: Job,
        _place: OwnedSemaphorePermit,
    },
    /// There is a watcher now.
    Listen,
}

/// The caller's side of the thread.
pub(super) struct Reader {
    /// In a mutex only because `Sender` is to be shared by reference; held for a push.
    queue: Mutex<Sender<Request>>,
    places: Arc<Semaphore>,
    wake: Wake,
}

impl Reader {
    pub(super) fn start(conn: Connection, clock: Arc<dyn Clock>, wake: Wake) -> Result<Self> {
        let (queue, queued) = channel();
        let thread = Thread {
            conn,
            clock,
            wake: wake.clone(),
            version: None,
        };
        std::thread::Builder::new()
            .name("store-reader".to_owned())
            .spawn(move || thread.run(&queued))
            .map_err(|error| Error::backend("starting the store's reader", error))?;
        Ok(Self {
            queue: Mutex::new(queue),
            places: Arc::new(Semaphore::new(QUEUE_MAX)),
            wake,
        })
    }

    /// Reads within one snapshot.
    pub(super) async fn read<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Connection, &Moment) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |conn, now| {
            let outcome = snapshot(conn, |conn| work(conn, now));
            // Nobody listens when the caller has gone.
            drop(reply.send(outcome));
        });
        self.push(Request::Read { job, _place: place })?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    fn push(&self, request: Request) -> Result<()> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.send(request).map_err(|_| Error::Closed)
    }
}

fn snapshot<T>(conn: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    // Rolled back when dropped: nothing was written.
    let _tx = conn
        .unchecked_transaction()
        .map_err(sql_error("beginning to read"))?;
    work(conn)
}

struct Thread {
    conn: Connection,
    clock: Arc<dyn Clock>,
    wake: Wake,
    /// What the file said last about others' commits.
    version: Option<i64>,
}

impl Thread {
    fn run(mut self, queued: &Receiver<Request>) {
        let mut poll_at = Instant::now();
        loop {
            let request = if self.wake.has_watchers() {
                let left = poll_at.saturating_duration_since(Instant::now());
                match queued.recv_timeout(left) {
                    Ok(request) => Some(request),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match queued.recv() {
                    Ok(request) => Some(request),
                    Err(_) => return,
                }
            };
            match request {
                Some(Request::Read { job, .. }) => job(&self.conn, &self.clock.now()),
                Some(Request::Listen) | None => {}
            }
            if self.wake.has_watchers() && Instant::now() >= poll_at {
                self.poll();
                poll_at = Instant::now() + POLL_EVERY;
            }
        }
    }

    /// Wakes the watchers if somebody has committed, or if that cannot be told (they then meet the error).
    fn poll(&mut self) {
        let version = self
            .conn
            .query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0))
            .ok();
        if version.is_none() || version != self.version {
            self.version = version;
            self.wake.wake();
        }
    }
}

struct Watching {
    reader: Arc<Reader>,
    watcher: Watcher,
    prefix: String,
    after: Revision,
}

/// The events after a revision, in batches, until the first error.
pub(super) fn batches(
    reader: Arc<Reader>,
    prefix: String,
    after: Revision,
) -> impl Stream<Item = Result<Batch>> + Send + 'static {
    let watcher = reader.wake.watcher();
    // A closed reader is met by the first read.
    drop(reader.push(Request::Listen));
    unfold(
        Some(Watching {
            reader,
            watcher,
            prefix,
            after,
        }),
        async |watching| {
            let mut watching = watching?;
            match watching.next().await {
                Ok(batch) => Some((Ok(batch), Some(watching))),
                Err(error) => Some((Err(error), None)),
            }
        },
    )
}

impl Watching {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            self.watcher.mark_seen();
            let (prefix, after) = (self.prefix.clone(), self.after);
            let batch = self
                .reader
                .read(move |conn, _| rows::events(conn, &prefix, after))
                .await?;
            self.after = batch.through;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
            if !self.watcher.changed().await {
                return Err(Error::Closed);
            }
        }
    }
}
