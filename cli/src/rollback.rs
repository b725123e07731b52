//! `sweetops rollback`: returns to a release that has served before, without steps.

use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Registry, RolloutRecord};
use rollout::{BasisPoints, Command, CommandKind, Outcome, State, Strategy};

use crate::agent::Lock;
use crate::context::Context;
use crate::deploy::{begin, plan, standing};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::{Followed, follow};
use crate::release::{Release, short};
use crate::rollouts::{ask, operator};
use crate::up::ensure_agent;

/// The author of splits that rollbacks write.
pub(crate) const AUTHOR: &str = "sweetops rollback";
/// How long the release that is left stays warm.
const KEPT_WARM: Duration = Duration::from_secs(5);
/// The exit when the rollback that was asked for was done.
const RETURNED: Exit = Exit::of(rollout::Exit::Done, "rolled_back");

/// Return to the release before, at once.
///
/// A rollout under way is ended and its calls go back to the stable release. Otherwise the release that was stable
/// before this one is started, checked, and given all calls, without steps or judging.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops rollback\n  \
    sweetops rollback 1a2b3c              # a certain release\n  \
    sweetops rollback --reason 'tickets'")]
pub(crate) struct RollbackArgs {
    /// The release to return to, or enough of its first characters [default: the one before]
    #[arg(value_name = "RELEASE")]
    release: Option<String>,
    /// Why, for whoever reads the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Stop waiting after this time; the rollback goes on
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = crate::token::duration)]
    timeout: Duration,
}

/// Ends the rollout under way, or brings the release before back.
pub(crate) async fn run(ctx: &Context, args: RollbackArgs) -> Result<Exit> {
    let registry = ctx.registry().await?;
    let id = match registry.rollout().await?.map(|found| found.value) {
        Some(current) => end(ctx, &registry, current, &args).await?,
        None => bring_back(ctx, &registry, &args).await?,
    };
    match follow(ctx, &id, Some(args.timeout)).await? {
        Followed::Ended(summary) => {
            let exit = match summary.outcome {
                // Asked for, and done.
                Outcome::RolledBack | Outcome::Succeeded | Outcome::Cancelled => RETURNED,
                _ => summary.exit(),
            };
            ctx.out.report(&*summary, exit)
        }
        Followed::Left(exit) => Ok(exit),
    }
}

async fn end(
    ctx: &Context,
    registry: &Registry,
    current: RolloutRecord,
    args: &RollbackArgs,
) -> Result<String> {
    if args.release.is_some() {
        return Err(Failure::new(format!("rollout {} is under way", current.id))
            .hint("`sweetops rollback` without a release ends it first")
            .exit(Exit::REFUSED)
            .into());
    }
    let command = Command {
        kind: CommandKind::Abort,
        by: operator(),
        reason: args.reason.clone(),
    };
    ask(registry, &command).await?;
    ensure_agent(ctx).await?;
    Ok(current.id)
}

async fn bring_back(ctx: &Context, registry: &Registry, args: &RollbackArgs) -> Result<String> {
    let working = Lock::try_take(&ctx.state.command_lock())?.ok_or_else(crate::down::busy)?;
    let stable = standing(ctx, registry).await?;
    let known: Vec<String> = registry
        .releases()
        .await
        .context("cannot read the releases")?
        .into_iter()
        .map(|release| release.id)
        .collect();
    let history = registry
        .rollout_history()
        .await
        .context("cannot read the history")?;
    let target = target(args.release.as_deref(), &stable.id, &known, &history)?;
    let release = Release::load(&ctx.state, &target)?;
    let mut strategy = Strategy::canary(BasisPoints::FULL);
    strategy.scale_down_delay = KEPT_WARM;
    let plan = plan(registry, &release, &stable, None, strategy).await?;
    ctx.out.step(&format!(
        "returning from {} to {}",
        stable.short(),
        release.short()
    ));
    let id = begin(ctx, registry, &plan, AUTHOR).await?;
    ensure_agent(ctx).await?;
    drop(working);
    Ok(id)
}

/// The release asked for, else the one that the stable release replaced.
fn target(
    asked: Option<&str>,
    stable: &str,
    known: &[String],
    history: &[RolloutRecord],
) -> Result<String> {
    let refuse = |message: String, hint: &str| {
        Err(Failure::new(message).hint(hint).exit(Exit::REFUSED).into())
    };
    let Some(prefix) = asked else {
        return match before(stable, history) {
            Some(before) => Ok(before),
            None => refuse(
                format!("nothing is known to have served before {}", short(stable)),
                "name a release; `sweetops rollout history` lists what was deployed",
            ),
        };
    };
    let mut found = known.iter().filter(|id| id.starts_with(prefix));
    match (found.next(), found.next()) {
        (Some(only), None) if only == stable => refuse(
            format!("{} is the stable release", short(stable)),
            "there is nothing to roll back to it from",
        ),
        (Some(only), None) => Ok(only.clone()),
        (Some(_), Some(_)) => refuse(
            format!("{prefix:?} begins more than one release"),
            "write more of it",
        ),
        (None, _) => refuse(
            format!("no release begins with {prefix:?}"),
            "`sweetops rollout history` lists what was deployed",
        ),
    }
}

/// What the newest rollout that made `stable` stable had replaced.
fn before(stable: &str, history: &[RolloutRecord]) -> Option<String> {
    history.iter().find_map(|record| {
        let text = serde_json::to_vec(&record.state).ok()?;
        let state = State::from_json(&text).ok()?;
        let made_it =
            state.outcome() == Some(Outcome::Succeeded) && state.plan().candidate().id == stable;
        made_it.then(|| state.plan().stable().map(|release| release.id.clone()))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_named_or_the_one_before() {
        let known = ["aa1", "aa2", "bb1"].map(str::to_owned);
        let ask = |asked: Option<&str>| target(asked, "bb1", &known, &[]);
        assert_eq!(ask(Some("aa1")).unwrap(), "aa1");
        for refused in [None, Some("a"), Some("b"), Some("x")] {
            let told = crate::failure::tell(&ask(refused).unwrap_err());
            assert_eq!(told.exit, Exit::REFUSED, "{refused:?}");
            assert!(told.hint.is_some(), "{refused:?}");
        }
    }
}
