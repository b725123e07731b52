//! The local supervisor: runs one edge and its apps as children that outlive it.
//!
//! `sweetops up` starts it in the background; it takes over what an earlier one left, holds the edge's
//! listening sockets, and keeps the processes that the store says should run. It can be killed at any time:
//! its children go on, and the next `up` starts another that adopts them.
//!
//! Reading order: [`plan`] decides, [`supervise`] does, [`driver`] brings a rollout to its end; the others are
//! their means.

mod plan;
mod supervise;

mod driver;

mod blueprint;
mod launch;
mod lock;
mod logs;
mod owner;
mod process;
mod publish;
mod records;
mod sockets;
mod wishes;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::Registry;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::sync::mpsc;

pub(crate) use launch::{SETTINGS_PREFIX, open_log};
pub(crate) use lock::Lock;
pub(crate) use process::{Handle, digest_file};
pub(crate) use records::load_agent;
pub(crate) use sockets::{Door, endpoints};
pub(crate) use supervise::Order;
pub(crate) use wishes::request_restart;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Told, tell};
use crate::state::StateDir;
use supervise::{Ending, Supervisor};

/// Supervise the fleet of the state folder. `sweetops up` starts it.
#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {}

/// The first and only word of the agent on its standard output: whether it has begun.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Announcement {
    /// The sockets are bound and supervision begins.
    Begun,
    /// It could not begin.
    Failed {
        /// The error and its causes.
        lines: Vec<String>,
        /// The next step.
        hint: Option<String>,
    },
}

/// Runs in the background: announces itself on standard output, then works until told to end.
pub(crate) async fn run(ctx: &Context, _args: AgentArgs) -> Result<Exit> {
    let begun = Agent::begin(&ctx.state).await;
    announce(begun.as_ref().err().map(tell))?;
    match begun {
        Ok(agent) => agent.run(supervise::orders_by_signal()?.1).await,
        // It has been told to whoever started this.
        Err(_) => Ok(Exit::ERROR),
    }
}

fn announce(error: Option<Told>) -> Result<()> {
    let word = match error {
        None => Announcement::Begun,
        Some(told) => Announcement::Failed {
            lines: told.lines,
            hint: told.hint,
        },
    };
    let mut stdout = std::io::stdout().lock();
    let line = serde_json::to_string(&word).context("cannot encode the announcement")?;
    // Whoever started this may be gone; the work goes on.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    // From here on the pipe is closed: nobody reads it any more.
    rustix::stdio::dup2_stdout(std::io::stderr()).context("cannot close standard output")
}

/// An agent that has begun: it holds the lock and the sockets.
pub(crate) struct Agent {
    state: StateDir,
    store: Store,
    first_wishes: wishes::Wishes,
    supervisor: Supervisor,
    lock: Lock,
}

impl Agent {
    /// Takes the lock, takes over what runs, binds the sockets.
    pub(crate) async fn begin(state: &StateDir) -> Result<Self> {
        let lock = Lock::try_take(&state.agent_lock())?.ok_or_else(|| {
            Failure::new("another agent looks after this fleet")
                .hint("`sweetops status` shows it; another fleet needs another state folder: --state DIR")
                .exit(Exit::REFUSED)
        })?;
        let store = Store::open_sqlite(&state.store())
            .await
            .context("cannot open the store")?;
        let registry = Registry::new(store.clone());
        let first_wishes = wishes::read(&registry).await?;
        let blueprints = Arc::new(blueprint::of_release);
        let supervisor = Supervisor::begin(state, registry, blueprints, first_wishes.clone())?;
        records::save_agent(state)?;
        Ok(Self {
            state: state.clone(),
            store,
            first_wishes,
            supervisor,
            lock,
        })
    }

    /// Supervises until an order ends it.
    pub(crate) async fn run(self, mut orders: mpsc::Receiver<Order>) -> Result<Exit> {
        tracing::info!(pid = std::process::id(), "the agent supervises");
        let wishes = wishes::follow(self.store.clone(), self.first_wishes);
        let fleet = registry::watch_fleet(self.store.clone());
        let (pass_on, inbox) = mpsc::channel(1);
        let supervision = self.supervisor.run(wishes, fleet, inbox);
        tokio::pin!(supervision);
        let ending = tokio::select! {
            ending = &mut supervision => ending?,
            never = driver::drive(self.state.clone(), self.store) => match never {},
            // From here on nobody drives: a fleet that is being stopped tells nothing about a candidate.
            order = orders.recv() => {
                pass_on.send(order.unwrap_or(Order::Stop)).await.context("supervision has ended")?;
                let relay = async {
                    while let Some(order) = orders.recv().await {
                        // Supervision takes one order after the other until it has ended.
                        let _ = pass_on.send(order).await;
                    }
                    std::future::pending::<std::convert::Infallible>().await
                };
                tokio::select! {
                    ending = &mut supervision => ending?,
                    never = relay => match never {},
                }
            }
        };
        match ending {
            Ending::Stopped => {
                supervise::clean_up(&self.state)?;
                tracing::info!("everything has stopped");
            }
            Ending::SteppedAside => {
                records::remove_agent(&self.state)?;
                tracing::info!("stepped aside; the fleet goes on");
            }
            Ending::Disowned => tracing::info!("everything has stopped"),
        }
        drop(self.lock);
        Ok(Exit::DONE)
    }
}

/// Signals as orders, for an agent in the foreground.
pub(crate) fn orders_by_signal() -> Result<(mpsc::Sender<Order>, mpsc::Receiver<Order>)> {
    supervise::orders_by_signal()
}

/// The running agent of this folder, if there is one.
pub(crate) fn find(state: &StateDir) -> Result<Option<Handle>> {
    let Some(record) = load_agent(state)? else {
        return Ok(None);
    };
    Ok(process::adopt(&record.identity)?.map(|(_, handle)| handle))
}

/// The running agent's process id: a cheap look.
pub(crate) fn pid(state: &StateDir) -> Result<Option<u32>> {
    Ok(load_agent(state)?
        .filter(|r| process::lives(&r.identity))
        .map(|r| r.identity.pid))
}

/// Whether there is a process of this id on this machine.
pub(crate) fn exists(pid: u32) -> bool {
    pid != 0 && std::path::Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether the last agent of this folder ended without a word: killed, or with its machine.
pub(crate) fn died(state: &StateDir) -> Result<bool> {
    Ok(load_agent(state)?.is_some_and(|r| !process::lives(&r.identity)))
}

/// Recorded processes that still live.
pub(crate) fn survivors(state: &StateDir) -> Result<Vec<String>> {
    if !state.processes().is_dir() {
        return Ok(Vec::new());
    }
    let records = records::load(state)?;
    Ok(records
        .into_iter()
        .filter(|r| process::lives(&r.identity))
        .map(|r| r.name)
        .collect())
}

/// Tells an agent to end, and waits until it has.
pub(crate) async fn end(agent: &Handle, order: Order, patience: Duration) -> Result<()> {
    agent.signal(match order {
        Order::Stop => Signal::TERM,
        Order::StepAside => Signal::HUP,
    })?;
    tokio::time::timeout(patience, agent.wait())
        .await
        .map_err(|_| {
            Failure::new(format!(
                "the agent (pid {}) did not end within {patience:?}",
                agent.identity.pid
            ))
            .hint("`sweetops logs agent` shows what it is doing")
            .exit(Exit::TIMEOUT)
        })?;
    Ok(())
}
