//! As many children of one program as calls need: some always, more when all are busy, those again fewer when they are idle.
//!
//! A server that works in tasks keeps them in its memory, so no child of it is started that would end for want of calls.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::future::select_ok;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::worker::{Common, InUse, Life, Worker};
use crate::plugin::{
    State,
    failing::Failing,
    upstream::{Lost, backoff::Backoff},
};

/// Where a server says that it works in tasks, by era.
const TASKS: [&str; 2] = ["/extensions/io.modelcontextprotocol~1tasks", "/tasks"];

/// How many children there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instances {
    /// Always; at least 1.
    pub min: usize,
    /// While calls need them.
    pub max: usize,
    /// How long one that is not needed stays.
    pub idle: Duration,
}

impl Default for Instances {
    fn default() -> Self {
        Self {
            min: 1,
            max: 1,
            idle: Duration::from_secs(60),
        }
    }
}

/// The children of one plugin.
#[derive(Debug)]
pub(super) struct Pool {
    common: Arc<Common>,
    instances: Instances,
    workers: ArcSwap<Vec<Arc<Worker>>>,
    /// Held while children are added and taken away.
    growth: Mutex<Growth>,
    tasks: TaskTracker,
    stop: CancellationToken,
    pub(super) restarts: AtomicU64,
}

/// When one more may be started.
#[derive(Debug, Default)]
struct Growth {
    backoff: Backoff,
    not_before: Option<Instant>,
    /// The number of the last one.
    number: usize,
}

/// A child that takes the call, and its turn if its calls go one after another.
pub(super) struct Place {
    /// Its number.
    pub(super) child: usize,
    pub(super) link: InUse,
    pub(super) turn: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(super) fn start(common: Arc<Common>, instances: Instances) -> Arc<Self> {
        let min = instances.min.max(1);
        let workers = (0..min).map(|number| Worker::new(number, Arc::clone(&common)));
        let pool = Arc::new(Self {
            workers: ArcSwap::from_pointee(workers.collect()),
            common,
            instances,
            growth: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            restarts: AtomicU64::new(0),
        });
        for worker in pool.workers().iter() {
            let (worker, pool) = (Arc::clone(worker), Arc::clone(&pool));
            pool.tasks
                .clone()
                .spawn(async move { worker.supervise(&pool.stop, &pool.restarts).await });
        }
        pool.tasks.close();
        pool
    }

    pub(super) fn workers(&self) -> Arc<Vec<Arc<Worker>>> {
        self.workers.load_full()
    }

    /// Tells whether a child said, when it was last in service, that it can do this.
    pub(super) fn has_capability(&self, pointer: &str) -> bool {
        let workers = self.workers();
        workers.iter().any(|worker| worker.has_capability(pointer))
    }

    /// Finds a child that takes a call: the least busy one, or the first that has a turn. Starts one more if all are busy.
    ///
    /// # Errors
    /// [`Lost::NotSent`] when none is in service, [`Lost::Busy`] when none had a turn before `patience`.
    pub(super) async fn place(self: &Arc<Self>, patience: Instant) -> Result<Place, Lost> {
        loop {
            let come = self.common.came.notified();
            let mut links = self.in_service();
            links.sort_by_key(|(_, link)| link.busy());
            let Some((_, first)) = links.first() else {
                return Err(Lost::NotSent);
            };
            if first.busy() > 0 {
                self.grow();
            }
            let turns = links.into_iter().map(|(child, link)| {
                Box::pin(async move {
                    let turn = link.connection.turn(patience).await?;
                    link.take();
                    Ok(Place { child, link, turn })
                })
            });
            tokio::select! {
                biased;
                placed = select_ok(turns) => return placed.map(|(place, _)| place),
                // One more child is in service.
                () = come => {}
            }
        }
    }

    /// Returns the child with a number.
    pub(super) fn child(&self, number: usize) -> Option<Arc<Worker>> {
        let workers = self.workers();
        workers.iter().find(|one| one.number() == number).cloned()
    }

    fn in_service(&self) -> Vec<(usize, InUse)> {
        let workers = self.workers();
        let in_service = workers
            .iter()
            .filter_map(|worker| Some((worker.number(), worker.link()?)));
        in_service.collect()
    }

    /// Starts one more child, unless there are enough, or one is coming, or the last one did badly a moment ago.
    fn grow(self: &Arc<Self>) {
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = self.workers();
        let coming = |worker: &Arc<Worker>| worker.state() != State::Ready;
        if workers.len() >= self.instances.max
            || workers.iter().any(coming)
            || growth.not_before.is_some_and(|at| Instant::now() < at)
            || self.stop.is_cancelled()
            || TASKS.iter().any(|pointer| self.has_capability(pointer))
        {
            return;
        }
        growth.not_before = None;
        growth.number = growth.number.max(self.instances.min) + 1;
        let worker = Worker::new(growth.number, Arc::clone(&self.common));
        let mut more = Vec::clone(&workers);
        more.push(Arc::clone(&worker));
        self.workers.store(Arc::new(more));
        let pool = Arc::clone(self);
        self.tasks.spawn(async move {
            let began = Instant::now();
            let life = worker
                .live_while_needed(&pool.stop, pool.instances.idle)
                .await;
            pool.take_away(&worker, life, began.elapsed());
        });
    }

    fn take_away(&self, gone: &Arc<Worker>, life: Life, lived: Duration) {
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = Vec::clone(&self.workers());
        left.retain(|worker| !Arc::ptr_eq(worker, gone));
        self.workers.store(Arc::new(left));
        match life {
            Life::Fulfilled => growth.backoff = Backoff::default(),
            Life::Failed => {
                let delay = growth.backoff.next(lived, rand::random());
                growth.not_before = Some(Instant::now() + delay);
            }
        }
    }

    /// Returns how often a child was started again.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Returns how often a child failed for a reason.
    pub(super) fn failures(&self, why: Failing) -> u64 {
        self.common.failures.of(why)
    }

    /// Lets no child live longer.
    pub(super) fn cancel(&self) {
        self.stop.cancel();
    }

    /// Returns when all are gone that were told to.
    pub(super) async fn gone(&self) {
        self.tasks.wait().await;
    }
}
