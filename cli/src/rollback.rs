//! `sweetops rollback`: returns to a release that has served before, without steps.

use std::collections::BTreeSet;
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
    let history = registry
        .rollout_history()
        .await
        .context("cannot read the history")?;
    let lineage = Lineage::of(&history);
    let target = target(args.release.as_deref(), &stable.id, &lineage)?;
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

/// What has served all calls, as the history tells it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lineage {
    /// Everything that was ever stable; a release that was taken back never was.
    served: BTreeSet<String>,
    /// What is stable, below what it was built upon: a deploy goes on top, a rollback takes off.
    stack: Vec<String>,
}

impl Lineage {
    /// Reads the history, which has the newest first.
    fn of(history: &[RolloutRecord]) -> Self {
        let mut lineage = Self::default();
        for record in history.iter().rev() {
            let text = serde_json::to_vec(&record.state).unwrap_or_default();
            let Ok(state) = State::from_json(&text) else {
                continue;
            };
            if let Some(stable) = state.plan().stable() {
                lineage.became_stable(&stable.id, false);
            }
            if state.outcome() == Some(Outcome::Succeeded) {
                let back = record.author == AUTHOR;
                lineage.became_stable(&state.plan().candidate().id, back);
            }
        }
        lineage
    }

    fn became_stable(&mut self, release: &str, back: bool) {
        self.served.insert(release.to_owned());
        if self.stack.last().is_some_and(|top| top == release) {
            return;
        }
        let below = self.stack.iter().rposition(|known| known == release);
        match below.filter(|_| back) {
            Some(position) => self.stack.truncate(position + 1),
            None => self.stack.push(release.to_owned()),
        }
    }

    /// What `stable` was built upon.
    fn before(&self, stable: &str) -> Option<&str> {
        match self.stack.as_slice() {
            [.., before, top] if top == stable => Some(before),
            _ => None,
        }
    }
}

/// The release asked for, else the one that the stable release was built upon.
fn target(asked: Option<&str>, stable: &str, lineage: &Lineage) -> Result<String> {
    let refuse = |message: String, hint: &str| {
        Err(Failure::new(message).hint(hint).exit(Exit::REFUSED).into())
    };
    let Some(prefix) = asked else {
        return match lineage.before(stable) {
            Some(before) => Ok(before.to_owned()),
            None => refuse(
                format!("nothing is known to have served before {}", short(stable)),
                "name a release; `sweetops rollout history` lists what was deployed",
            ),
        };
    };
    let mut found = lineage.served.iter().filter(|id| id.starts_with(prefix));
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
            format!("no release that has served begins with {prefix:?}"),
            "`sweetops rollout history` lists what was deployed; `sweetops deploy` brings in what has not served yet",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_has_served_before() {
        let mut lineage = Lineage::default();
        for release in ["aa1", "aa2", "bb1"] {
            lineage.became_stable(release, false);
        }
        let ask = |asked: Option<&str>| target(asked, "bb1", &lineage);
        assert_eq!(ask(None).unwrap(), "aa2");
        assert_eq!(ask(Some("aa1")).unwrap(), "aa1");
        for refused in ["a", "b", "x"] {
            let told = crate::failure::tell(&ask(Some(refused)).unwrap_err());
            assert_eq!(told.exit, Exit::REFUSED, "{refused:?}");
            assert!(told.hint.is_some(), "{refused:?}");
        }
        assert!(target(None, "aa1", &Lineage::default()).is_err());
    }

    #[test]
    fn going_back_twice_goes_further_back() {
        let mut lineage = Lineage::default();
        for release in ["a", "b", "c"] {
            lineage.became_stable(release, false);
        }
        lineage.became_stable("b", true);
        assert_eq!(lineage.before("b"), Some("a"));
        lineage.became_stable("a", true);
        assert_eq!(lineage.before("a"), None);
        lineage.became_stable("c", false);
        assert_eq!(lineage.before("c"), Some("a"));
    }
}
