//! MCP servers as child processes, of either era.
//!
//! - [`process`]: a child that cannot outlive us, by its [`guard`]; [`sandbox`], [`calls`]: walls around it
//! - [`census`], [`limits`]: what a child and all that it starts take, and may take
//! - [`pipes`]: messages over a pair of pipes
//! - [`tasks`]: calls that outlive their request
//! - [`pool`]: as many children as are needed; [`worker`]: one of them, kept alive
//! - [`stderr`]: what a child writes for people

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mcp::{Cause, Failure};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{
    Answer, Ask, Listing, Scope, State,
    failing::{Failing, Failures},
    hub::Hub,
    pins::FilePins,
    signature::SignedBy,
    upstream::{
        Lost, NoAnswer,
        call::{self, Terms},
        connection::patience,
        watches::Watches,
    },
};

mod calls;
mod census;
pub mod guard;
pub mod limits;
mod pipes;
mod pool;
pub mod process;
pub mod sandbox;
pub mod stderr;
mod tasks;
mod worker;

use limits::Limits;
pub use pool::Instances;
use pool::{Place, Pool};
use process::{Program, Spawner};
use stderr::Stderr;
use worker::{Common, Link};

/// How to run a stdio plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StdioSpec {
    /// What to start.
    pub program: Program,
    /// How many children serve at once.
    pub instances: Instances,
    /// What each child may take.
    pub limits: Limits,
    /// What becomes of what each child writes for people.
    pub stderr: Stderr,
    /// Whose signature the program, or other files, must have.
    pub signed_by: Option<SignedBy>,
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
    pool: Arc<Pool>,
    watches: Watches,
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
        let (watches, call_timeout) = (Watches::default(), spec.call_timeout);
        let instances = spec.instances;
        let common = Common {
            name: Arc::clone(&name),
            spec: Arc::new(spec),
            pins: pins.map(Arc::new),
            spawner: spawner.clone(),
            changed: Arc::clone(changed),
            hub: Arc::clone(hub),
            watches: watches.clone(),
            asks: Arc::default(),
            failures: Failures::default(),
            came: Notify::new(),
        };
        Self {
            name,
            call_timeout,
            pool: Pool::start(Arc::new(common), instances),
            watches,
        }
    }

    /// Returns what is offered, or was when a child was last in service.
    pub fn listing(&self) -> Arc<Listing> {
        let workers = self.pool.workers();
        let in_service = workers.iter().find(|worker| worker.link().is_some());
        let known = || {
            workers
                .iter()
                .find(|worker| !worker.listing().tools.is_empty())
        };
        let best = in_service.or_else(known).or(workers.first());
        best.map(|worker| worker.listing()).unwrap_or_default()
    }

    /// Returns the best state of its children.
    pub fn state(&self) -> State {
        let workers = self.pool.workers();
        let states: Vec<State> = workers.iter().map(|worker| worker.state()).collect();
        let ready = states.iter().find(|state| **state == State::Ready);
        ready.or(states.first()).cloned().unwrap_or(State::Stopped)
    }

    /// Returns how many children there are.
    pub fn instances(&self) -> usize {
        self.pool.workers().len()
    }

    /// Returns how often a child was started again.
    pub fn restarts(&self) -> u64 {
        self.pool.restarts()
    }

    /// Returns how often a child failed for a reason since the plugin was started.
    pub fn failures(&self, why: Failing) -> u64 {
        self.pool.failures(why)
    }

    /// Returns how many calls are under way.
    pub fn in_flight(&self) -> usize {
        let workers = self.pool.workers();
        let links = workers.iter().filter_map(|worker| worker.link());
        links.map(|link| link.busy()).sum()
    }

    /// Asks the child with the fewest calls under way.
    ///
    /// # Errors
    /// [`mcp::Cause::NoBackend`] when no child is in service (nothing was sent), [`mcp::Cause::UpstreamBroken`] when it
    /// ended in mid-call, or what else [`Lost::failure`] says.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        let end = ask.context.deadline;
        let deadline = |begun| end.min(begun + self.call_timeout);
        if ask.method.name_member() == Some("taskId") {
            let unknown = || Failure::say(Cause::InvalidParams, "no such task");
            let (child, id) = tasks::place(ask.key).ok_or_else(unknown)?;
            let worker = self.pool.child(child).ok_or_else(unknown)?;
            let link = worker.link().ok_or_else(|| self.failure(Lost::NotSent))?;
            let ask = Ask { key: id, ..ask };
            let deadline = deadline(Instant::now());
            return self.ask_child(child, &link, None, &ask, deadline).await;
        }
        let placed = self.pool.place(patience(Instant::now(), end)).await;
        let Place { child, link, turn } = placed.map_err(|lost| self.failure(lost))?;
        let deadline = deadline(Instant::now());
        let answer = self.ask_child(child, &link, turn, &ask, deadline).await?;
        Ok(tasks::placed(answer, child))
    }

    async fn ask_child(
        &self,
        child: usize,
        link: &Link,
        turn: Option<OwnedSemaphorePermit>,
        ask: &Ask<'_>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let worker = self.pool.child(child);
        let terms = Terms {
            plugin: Arc::clone(&self.name),
            call_timeout: self.call_timeout,
            scope: Scope::Public,
            listing: worker.map(|worker| worker.listing()).unwrap_or_default(),
        };
        let (connection, errands) = (&link.connection, &link.errands);
        let asked = call::ask(
            connection,
            &link.agreement,
            errands,
            terms,
            turn,
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
        self.pool.has_capability(pointer)
    }

    /// Wants to know of a resource's changes from now on. False if no child can tell.
    pub fn watch(&self, uri: &str) -> bool {
        self.has_capability("/resources/subscribe") && self.watches.add(uri)
    }

    /// Takes one [`Stdio::watch`] back.
    pub fn unwatch(&self, uri: &str) {
        self.watches.remove(uri);
    }

    fn failure(&self, lost: Lost) -> Failure {
        lost.failure(&self.name, &self.state())
    }

    /// Stops the children: input closed, SIGTERM, SIGKILL. Returns when they are gone.
    pub async fn stop(&self) {
        self.pool.cancel();
        self.pool.gone().await;
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        self.pool.cancel();
    }
}
