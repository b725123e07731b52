//! MCP servers as child processes, of either era.
//!
//! - [`process`]: a child that cannot outlive us
//! - [`lines`], [`wire`]: bytes to messages
//! - [`pipes`]: messages over a pair of pipes
//! - [`tasks`]: calls that outlive their request
//! - [`worker`]: one child, kept alive; [`watches`]: resources whose changes somebody wants to know
//! - [`stderr`]: what a child writes for people

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mcp::{Cause, Failure};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Answer, Ask, Listing, Scope, State,
    failing::Failing,
    hub::Hub,
    pins::FilePins,
    upstream::{
        Lost, NoAnswer,
        call::{self, Terms},
    },
};

pub mod lines;
mod pipes;
pub mod process;
mod stderr;
mod tasks;
mod watches;
pub mod wire;
mod worker;

use process::{Program, Spawner};
use watches::Watches;
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
    watches: Watches,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Stdio {
    /// Starts the children in the background, whenever `pins` let their files in. `changed` is told of every change of state
    /// or lists, `hub` of every change of a resource.
    pub(crate) fn start(
        name: &str,
        spec: StdioSpec,
        pins: Option<FilePins>,
        spawner: &Spawner,
        changed: &Arc<Notify>,
        hub: &Arc<Hub>,
    ) -> Self {
        let name: Arc<str> = name.into();
        let (watches, pins) = (Watches::default(), pins.map(Arc::new));
        let (spec, stop, tasks) = (Arc::new(spec), CancellationToken::new(), TaskTracker::new());
        let workers: Vec<_> = (0..spec.instances.max(1))
            .map(|_| {
                Worker::new(
                    Arc::clone(&name),
                    Arc::clone(&spec),
                    pins.clone(),
                    spawner.clone(),
                    Arc::clone(changed),
                    Arc::clone(hub),
                    watches.clone(),
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
            watches,
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

    /// Returns how often a child failed for a reason since the plugin was started.
    pub fn failures(&self, why: Failing) -> u64 {
        let workers = self.workers.iter();
        workers.map(|worker| worker.failures(why)).sum()
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
        let deadline = ask.context.deadline.min(Instant::now() + self.call_timeout);
        if ask.method.name_member() == Some("taskId") {
            let unknown = || Failure::say(Cause::InvalidParams, "no such task");
            let (child, id) = tasks::place(ask.key).ok_or_else(unknown)?;
            let worker = self.workers.get(child).ok_or_else(unknown)?;
            let link = worker.link().ok_or_else(|| self.failure(Lost::NotSent))?;
            let ask = Ask { key: id, ..ask };
            return self.ask_child(child, &link, &ask, deadline).await;
        }
        let (child, link) = self.link()?;
        let answer = self.ask_child(child, &link, &ask, deadline).await?;
        Ok(tasks::placed(answer, child))
    }

    async fn ask_child(
        &self,
        child: usize,
        link: &Link,
        ask: &Ask<'_>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let terms = Terms {
            plugin: Arc::clone(&self.name),
            call_timeout: self.call_timeout,
            scope: Scope::Public,
            listing: self.workers[child].listing(),
        };
        let asked = call::ask(
            &link.connection,
            &link.agreement,
            &link.errands,
            terms,
            ask,
            deadline,
        );
        asked.await.map_err(|none| self.unanswered(none))
    }

    fn unanswered(&self, none: NoAnswer) -> Failure {
        none.failure(&self.name, &self.state())
    }

    /// Tells whether a child told, when it was last in service, that it can do this (`tasks` of
    /// `extensions["io.modelcontextprotocol/tasks"]` and so on).
    pub fn has_capability(&self, pointer: &str) -> bool {
        self.workers
            .iter()
            .any(|worker| worker.has_capability(pointer))
    }

    /// Wants to know of a resource's changes from now on. False if no child can tell.
    pub fn watch(&self, uri: &str) -> bool {
        self.has_capability("/resources/subscribe") && self.watches.add(uri)
    }

    /// Takes one [`Stdio::watch`] back.
    pub fn unwatch(&self, uri: &str) {
        self.watches.remove(uri);
    }

    fn link(&self) -> Result<(usize, Arc<Link>), Failure> {
        let workers = self.workers.iter().enumerate();
        workers
            .filter_map(|(at, worker)| Some((at, worker.link()?)))
            .min_by_key(|(_, link)| link.connection.in_flight())
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
