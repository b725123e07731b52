//! `sweetops down`: drains the fleet and leaves nothing running.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::agent::{self, Agent, Lock, Order};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Report;

/// Stop the fleet: edges finish their requests, then apps.
///
/// Keys, releases, logs and the store stay, and the next `up` goes on with them.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sweetops down\n  sweetops down --purge    # and forget everything"
)]
pub(crate) struct DownArgs {
    /// Also remove the fleet's keys, store, releases, logs and default configuration
    #[arg(long)]
    purge: bool,
    /// How long to wait for the fleet to stop
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = crate::token::duration)]
    timeout: Duration,
}

/// What was stopped.
#[derive(Debug, Serialize)]
struct Stopped {
    /// The instances that ran.
    stopped: Vec<String>,
    /// Whether the state folder was emptied.
    purged: bool,
}

/// Stops, and purges if asked to.
pub(crate) async fn run(ctx: &Context, args: DownArgs) -> Result<Exit> {
    if !ctx.state.exists() {
        return ctx.out.report(
            &Stopped {
                stopped: Vec::new(),
                purged: false,
            },
            Exit::DONE,
        );
    }
    let working = Lock::try_take(&ctx.state.command_lock())?.ok_or_else(busy)?;
    let stopped = agent::survivors(&ctx.state)?;
    tell_of_rollout(ctx).await?;
    stop(ctx, &stopped, args.timeout).await?;
    if args.purge {
        ctx.state.purge()?;
    }
    drop(working);
    ctx.out.report(
        &Stopped {
            stopped,
            purged: args.purge,
        },
        Exit::DONE,
    )
}

/// A rollout that is under way stands still until the next `up`.
async fn tell_of_rollout(ctx: &Context) -> Result<()> {
    let registry = ctx.registry().await?;
    let rollout = registry
        .rollout()
        .await
        .context("cannot read the rollout")?;
    if let Some(rollout) = rollout {
        let id = rollout.value.id;
        ctx.out.warn(&format!(
            "rollout {id} is under way; it stands still until the next `sweetops up`"
        ));
    }
    Ok(())
}

/// What is said when another command that changes the fleet is at work already.
pub(crate) fn busy() -> Failure {
    Failure::new("another `sweetops up`, `down`, `deploy` or `rollback` is at work on this fleet")
        .hint("wait for it to end, then try again")
        .exit(Exit::REFUSED)
}

async fn stop(ctx: &Context, running: &[String], patience: Duration) -> Result<()> {
    if !running.is_empty() {
        ctx.out.progress(&format!(
            "waiting for {} to finish their requests",
            running.join(", ")
        ));
    }
    match agent::find(&ctx.state)? {
        Some(agent) => agent::end(&agent, Order::Stop, patience).await,
        // The agent is gone but its children are not: be their agent for the time it takes to stop them.
        None if !running.is_empty() => {
            let (orders, inbox) = mpsc::channel(1);
            orders.send(Order::Stop).await?;
            let agent = Agent::begin(&ctx.state).await?;
            tokio::time::timeout(patience, agent.run(inbox))
                .await
                .map_err(|_| {
                    Failure::new(format!("the fleet did not stop within {patience:?}"))
                        .exit(Exit::TIMEOUT)
                })??;
            Ok(())
        }
        None => Ok(()),
    }
}

impl Report for Stopped {
    fn text(&self, _color: bool) -> String {
        let what = if self.stopped.is_empty() {
            "nothing was running".to_owned()
        } else {
            format!("stopped {}", self.stopped.join(", "))
        };
        let purged = if self.purged {
            "; its state is removed"
        } else {
            ""
        };
        format!("{what}{purged}\n")
    }
}
