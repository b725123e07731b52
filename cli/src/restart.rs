//! `sweetops restart`: replaces instances one at a time, each when its successor is ready.

use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Process, ProcessState, Registry};
use serde::Serialize;

use crate::agent::{self, request_restart};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Report;

/// How often the processes are looked at while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Replace instances without losing a request.
///
/// A successor starts first and takes over when it is ready; then the old one finishes its requests and ends.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sweetops restart edge\n  sweetops restart app\n  sweetops restart app-1a2b3c4d-1"
)]
pub(crate) struct RestartArgs {
    /// `edge`, `app`, or the name of an instance
    #[arg(value_name = "edge|app|NAME")]
    target: String,
    /// How long to wait for the successors
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = crate::token::duration)]
    timeout: Duration,
}

/// What was replaced by what.
#[derive(Debug, Serialize)]
struct Restarted {
    /// The instances that ended.
    replaced: Vec<String>,
    /// The instances that run now, of the same roles.
    running: Vec<String>,
}

/// Asks for the replacement and waits until it is done.
pub(crate) async fn run(ctx: &Context, args: RestartArgs) -> Result<Exit> {
    let registry = ctx.registry().await?;
    if agent::pid(&ctx.state)?.is_none() {
        return Err(
            Failure::new("no agent looks after this fleet, so nothing can be restarted")
                .hint("`sweetops up` starts one and keeps what runs")
                .into(),
        );
    }
    let old = choose(processes(&registry).await?, &args.target)?;
    for process in &old {
        request_restart(registry.store(), &process.name).await?;
    }
    let waited = tokio::time::timeout(args.timeout, wait(ctx, &registry, &old)).await;
    let running = waited.map_err(|_| {
        Failure::new(format!(
            "not done within {:?}; the agent goes on",
            args.timeout
        ))
        .hint("`sweetops status` shows how far it is, `sweetops logs INSTANCE` why it may hang")
        .exit(Exit::TIMEOUT)
    })??;
    let replaced = old.into_iter().map(|p| p.name).collect();
    ctx.out.report(&Restarted { replaced, running }, Exit::DONE)
}

async fn processes(registry: &Registry) -> Result<Vec<Process>> {
    registry
        .processes()
        .await
        .context("cannot read the processes")
}

fn choose(processes: Vec<Process>, target: &str) -> Result<Vec<Process>> {
    let names: Vec<String> = processes.iter().map(|p| p.name.clone()).collect();
    let chosen: Vec<Process> = processes
        .into_iter()
        .filter(|p| p.state != ProcessState::Stopping)
        .filter(|p| p.name == target || p.role.as_str() == target)
        .collect();
    if chosen.is_empty() {
        return Err(
            Failure::new(format!("there is no instance called {target:?}"))
                .hint(format!(
                    "take `edge`, `app`, or one of: {}",
                    names.join(", ")
                ))
                .exit(Exit::USAGE)
                .into(),
        );
    }
    Ok(chosen)
}

/// Waits until none of the old processes is left and every successor is ready.
async fn wait(ctx: &Context, registry: &Registry, old: &[Process]) -> Result<Vec<String>> {
    let is_old = |p: &&Process| old.iter().any(|o| o.name == p.name && o.pid == p.pid);
    loop {
        let mut now = processes(registry).await?;
        // Others are not waited for.
        now.retain(|p| old.iter().any(|o| o.role == p.role));
        let left: Vec<&str> = now.iter().filter(is_old).map(|p| p.name.as_str()).collect();
        if let Some(failed) = now
            .iter()
            .find(|p| p.state == ProcessState::Failed && !is_old(p))
        {
            return Err(Failure::new(format!("{} does not start", failed.name))
                .hint(format!(
                    "`sweetops logs {}` shows why; what ran before goes on",
                    failed.name
                ))
                .into());
        }
        let settled = now.iter().all(|p| p.state == ProcessState::Running);
        if left.is_empty() && settled && !now.is_empty() {
            return Ok(now.into_iter().map(|p| p.name).collect());
        }
        let waiting = if left.is_empty() {
            "the successors to be ready".to_owned()
        } else {
            format!("{} to be replaced", left.join(", "))
        };
        ctx.out.progress(&format!("waiting for {waiting}"));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Report for Restarted {
    fn text(&self, _color: bool) -> String {
        format!(
            "replaced {}; now running {}\n",
            self.replaced.join(", "),
            self.running.join(", ")
        )
    }
}
