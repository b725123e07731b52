//! MCP servers as child processes, of either era.
//!
//! - [`process`]: a child that cannot outlive us
//! - [`lines`], [`wire`]: bytes to messages
//! - [`connection`]: many calls over one pair of pipes
//! - [`worker`]: one child, kept alive
//! - [`stderr`]: what a child writes for people

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mcp::Failure;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Answer, Ask, Listing, State,
    upstream::{self, Lost, NoAnswer},
};

mod connection;
pub mod lines;
pub mod process;
mod stderr;
pub mod wire;
mod worker;

use process::{Program, Spawner};
use worker::{Link, Worker};

/// How to run a stdio plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StdioSpec {
    /// What to start.
    pub program: Program,
    /// How many children serve at once; at least 1.
    pub instances: usize,
    /// How long a child may take from its start until its lists are known.
    pub start_timeout: Duration,
    /// How long one call may take, if its client gives it that long.
    pub call_timeout: Duration,
}

/// A plugin of one or more children of the same program.
#[derive(Debug)]
pub struct Stdio {
    name: Arc<str>,
    call_timeout: Duration,
    workers: Vec<Arc<Worker>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Stdio {
    /// Starts the children in the background. `changed` is told of every change of state or lists.
    pub fn start(name: &str, spec: StdioSpec, spawner: &Spawner, changed: &Arc<Notify>) -> Self {
        let name: Arc<str> = name.into();
        let (spec, stop, tasks) = (Arc::new(spec), CancellationToken::new(), TaskTracker::new());
        let workers: Vec<_> = (0..spec.instances.max(1))
            .map(|_| {
                Worker::new(
                    Arc::clone(&name),
                    Arc::clone(&spec),
                    spawner.clone(),
                    Arc::clone(changed),
                )
            })
            .collect();
        for worker in &workers {
            tasks.spawn(Arc::clone(worker).supervise(stop.clone()));
        }
        tasks.close();
        Self {
            name,
            call_timeout: spec.call_timeout,
            workers,
            tasks,
            stop,
        }
    }

    /// Returns what is offered, or was when a child was last in service.
    pub fn listing(&self) -> Arc<Listing> {
        let in_service = self.workers.iter().find(|worker| worker.link().is_some());
        let known = || {
            self.workers
                .iter()
                .find(|worker| !worker.listing().tools.is_empty())
        };
        in_service
            .or_else(known)
            .unwrap_or(&self.workers[0])
            .listing()
    }

    /// Returns the best state of its children.
    pub fn state(&self) -> State {
        let states: Vec<State> = self.workers.iter().map(|worker| worker.state()).collect();
        let ready = states.iter().find(|state| **state == State::Ready);
        ready.or(states.first()).cloned().unwrap_or(State::Stopped)
    }

    /// Returns how often a child was started again.
    pub fn restarts(&self) -> u64 {
        self.workers
            .iter()
            .map(|worker| worker.restarts.load(std::sync::atomic::Ordering::Relaxed))
            .sum()
    }

    /// Returns how many calls are under way.
    pub fn in_flight(&self) -> usize {
        self.workers
            .iter()
            .filter_map(|worker| worker.link())
            .map(|link| link.connection.in_flight())
            .sum()
    }

    /// Asks the child with the fewest calls under way.
    ///
    /// # Errors
    /// [`mcp::Cause::NoBackend`] when no child is in service (nothing was sent), [`mcp::Cause::UpstreamBroken`] when it
    /// ended in mid-call, or what else [`Lost::failure`] says.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        let link = self.link()?;
        let deadline = ask.context.deadline.min(Instant::now() + self.call_timeout);
        upstream::ask(&link.connection, &link.agreement, &ask, deadline)
            .await
            .map_err(|none| match none {
                NoAnswer::Lost(lost) => self.failure(lost),
                NoAnswer::Failed(failure) => failure,
            })
    }

    fn link(&self) -> Result<Arc<Link>, Failure> {
        self.workers
            .iter()
            .filter_map(|worker| worker.link())
            .min_by_key(|link| link.connection.in_flight())
            .ok_or_else(|| self.failure(Lost::NotSent))
    }

    fn failure(&self, lost: Lost) -> Failure {
        lost.failure(&self.name, &self.state())
    }

    /// Stops the children: input closed, SIGTERM, SIGKILL. Returns when they are gone.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
