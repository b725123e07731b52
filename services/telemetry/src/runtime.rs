//! Whether a runtime still runs its tasks, and how late.
//!
//! A task beats and sleeps; a thread, which no blocked runtime can stop, looks at the beats. The
//! lateness of each beat is the runtime's lag: what every request on it waits in addition.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use prometheus::Histogram;
use tokio::runtime::Handle;

use crate::metrics::{MetricError, Metrics};

const BEAT: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(250);

/// A runtime that does not run its tasks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the runtime {runtime:?} has run no task for {silent:?}")]
pub struct Stuck {
    /// The name given to [`Watchdog::watch`].
    pub runtime: String,
    /// Time since its last beat.
    pub silent: Duration,
}

/// Watches runtimes of this process, for the liveness probe and the lag metric. Ends when dropped.
#[derive(Debug)]
pub struct Watchdog(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    epoch: Instant,
    limit: Duration,
    lag: Histogram,
    hearts: Mutex<HashMap<String, Arc<AtomicU64>>>,
    stuck: Mutex<Option<Stuck>>,
}

impl Watchdog {
    /// Registers `sweetmcp_runtime_lag_seconds` and starts the thread. A runtime is stuck after
    /// `limit` (some seconds) without a beat.
    pub fn start(limit: Duration, metrics: &Metrics) -> Result<Self, WatchdogError> {
        let lag = metrics.histogram(
            "sweetmcp_runtime_lag_seconds",
            "How late the runtime runs a task that is due.",
            &[
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ],
        )?;
        let watched = Arc::new(Watched {
            epoch: Instant::now(),
            limit,
            lag,
            hearts: Mutex::default(),
            stuck: Mutex::default(),
        });
        let weak = Arc::downgrade(&watched);
        thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || look(&weak))
            .map_err(WatchdogError::Thread)?;
        Ok(Self(watched))
    }

    /// Starts to watch a runtime under a name of its own, until it or the watchdog ends.
    pub fn watch(&self, runtime: &Handle, name: &str) {
        let heart = Arc::new(AtomicU64::new(self.0.elapsed_ms()));
        self.0.hearts().insert(name.to_owned(), Arc::clone(&heart));
        let pulse = Pulse {
            watched: Arc::downgrade(&self.0),
            name: name.to_owned(),
            heart,
        };
        runtime.spawn(pulse.run());
    }

    /// Whether all watched runtimes run. Safe to ask from any thread; never waits for a runtime.
    pub fn check(&self) -> Result<(), Stuck> {
        self.0
            .stuck
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .map_or(Ok(()), Err)
    }
}

/// Why the watchdog did not start.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// Its metric is registered already: one watchdog watches all runtimes of a process.
    #[error("cannot register the runtime's metric")]
    Metric(#[from] MetricError),
    /// The system gave no thread.
    #[error("cannot start the watchdog's thread")]
    Thread(#[source] io::Error),
}

impl Watched {
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn hearts(&self) -> MutexGuard<'_, HashMap<String, Arc<AtomicU64>>> {
        self.hearts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime silent for longest, if that is too long.
    fn silent(&self, since_look: Duration) -> Option<Stuck> {
        let now = self.elapsed_ms();
        let hearts = self.hearts();
        let silences = hearts.iter().map(|(name, heart)| {
            (
                name,
                Duration::from_millis(now.saturating_sub(heart.load(Ordering::Relaxed))),
            )
        });
        let (name, silent) = silences.max_by_key(|(_, silent)| *silent)?;
        is_stuck(silent, since_look, self.limit).then(|| Stuck {
            runtime: name.clone(),
            silent,
        })
    }
}

/// A silence counts against the runtime unless the whole process was held up (stopped, frozen,
/// starved), which the watchdog sees by its own lateness: then the runtime gets time to beat again.
fn is_stuck(silent: Duration, since_look: Duration, limit: Duration) -> bool {
    silent > limit && since_look < limit.max(LOOK * 4)
}

/// The watchdog's thread: looks until nobody asks any more.
fn look(watched: &Weak<Watched>) {
    let mut last = Instant::now();
    while let Some(watched) = watched.upgrade() {
        let now = watched.silent(last.elapsed());
        last = Instant::now();
        let before = std::mem::replace(
            &mut *watched.stuck.lock().unwrap_or_else(PoisonError::into_inner),
            now.clone(),
        );
        match (before, now) {
            (None, Some(stuck)) => {
                tracing::error!(runtime = stuck.runtime, "the runtime is stuck: {stuck}");
            }
            (Some(stuck), None) => {
                tracing::warn!(runtime = stuck.runtime, "the runtime runs again");
            }
            _ => {}
        }
        drop(watched);
        thread::sleep(LOOK);
    }
}

/// The task that beats. Dropped with its runtime, it leaves the watchdog's list.
struct Pulse {
    watched: Weak<Watched>,
    name: String,
    heart: Arc<AtomicU64>,
}

impl Pulse {
    async fn run(self) {
        loop {
            let due = tokio::time::Instant::now() + BEAT;
            tokio::time::sleep_until(due).await;
            let Some(watched) = self.watched.upgrade() else {
                return;
            };
            watched.lag.observe(due.elapsed().as_secs_f64());
            self.heart.store(watched.elapsed_ms(), Ordering::Relaxed);
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if let Some(watched) = self.watched.upgrade() {
            let mut hearts = watched.hearts();
            // A later runtime of the same name has a heart of its own.
            if hearts
                .get(&self.name)
                .is_some_and(|heart| Arc::ptr_eq(heart, &self.heart))
            {
                hearts.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap()
    }

    fn until(mut reached: impl FnMut() -> bool) {
        let start = Instant::now();
        while !reached() {
            assert!(start.elapsed() < PATIENCE, "not reached in {PATIENCE:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn hlth_01_a_blocked_runtime_is_stuck_until_it_runs_again() {
        let metrics = Metrics::new("test", "1", "1").unwrap();
        let watchdog = Watchdog::start(Duration::from_millis(500), &metrics).unwrap();
        let runtime = runtime();
        watchdog.watch(runtime.handle(), "main");
        until(|| watchdog.0.lag.get_sample_count() > 0);
        let (free, blocked) = mpsc::channel::<()>();
        // The only worker waits without yielding.
        runtime.spawn(async move { blocked.recv() });
        until(|| watchdog.check().is_err_and(|stuck| stuck.runtime == "main"));
        drop(free);
        until(|| watchdog.check().is_ok());
    }

    #[test]
    fn a_runtime_that_ended_is_not_stuck() {
        let metrics = Metrics::new("test", "1", "1").unwrap();
        let watchdog = Watchdog::start(Duration::from_millis(500), &metrics).unwrap();
        let runtime = runtime();
        watchdog.watch(runtime.handle(), "main");
        runtime.shutdown_timeout(PATIENCE);
        until(|| watchdog.0.hearts().is_empty());
        assert_eq!(watchdog.0.silent(LOOK), None);
    }

    #[test]
    fn a_process_that_was_stopped_is_not_blamed() {
        let s = Duration::from_secs;
        for (silent, since_look, stuck) in
            [(1, 1, false), (6, 1, true), (60, 60, false), (61, 1, true)]
        {
            assert_eq!(
                is_stuck(s(silent), s(since_look), s(5)),
                stuck,
                "{silent} {since_look}"
            );
        }
    }
}
