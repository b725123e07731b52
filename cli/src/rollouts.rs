//! `sweetops rollout`: looks at rollouts, and tells the one under way what to do.

use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Registry, RolloutRecord};
use rollout::{Command, CommandKind, State};
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::{Followed, Summary, event_line, follow};
use crate::output::{Report, printable, table};
use crate::release::short;

/// The life of the lock if this command dies with it.
const LOCK_TTL: Duration = Duration::from_secs(8);

/// Look at rollouts, and tell the one under way what to do.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    sweetops rollout\n  \
    sweetops rollout watch\n  \
    sweetops rollout pause --reason 'looking at the logs'\n  \
    sweetops rollout history"
)]
pub(crate) struct RolloutArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show how far the rollout under way is
    Status,
    /// Look on until the rollout under way is over; ends with its exit code
    Watch,
    /// Hold the weight as it is; guards and the judge stay armed
    Pause(Reason),
    /// End a pause
    Resume(Reason),
    /// Skip what is left to be judged and give the new release all calls; guards stay armed
    Promote(Reason),
    /// Return to the stable release
    Abort(Reason),
    /// List the rollouts that are over, newest first
    History,
    /// Drop a rollout that cannot be gone on with; instances and traffic stay as they are
    Forget,
}

#[derive(Debug, clap::Args)]
struct Reason {
    /// Why, for whoever reads the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Shows, or asks.
pub(crate) async fn run(ctx: &Context, args: RolloutArgs) -> Result<Exit> {
    let registry = ctx.registry().await?;
    let (kind, reason) = match args.what {
        None | Some(What::Status) => return status(ctx, &registry).await,
        Some(What::Watch) => return watch(ctx, &registry).await,
        Some(What::History) => return history(ctx, &registry).await,
        Some(What::Forget) => return forget(ctx, &registry).await,
        Some(What::Pause(asked)) => (CommandKind::Pause, asked.reason),
        Some(What::Resume(asked)) => (CommandKind::Resume, asked.reason),
        Some(What::Promote(asked)) => (CommandKind::Promote, asked.reason),
        Some(What::Abort(asked)) => (CommandKind::Abort, asked.reason),
    };
    let command = Command {
        kind,
        by: operator(),
        reason,
    };
    ask(&registry, &command).await?;
    ctx.out.report(&Asked { asked: kind }, Exit::DONE)
}

/// Who asks, for the history.
pub(crate) fn operator() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("SUDO_USER")
        .or_else(|| set("USER"))
        .or_else(|| set("LOGNAME"))
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// Asks something of the rollout under way.
pub(crate) async fn ask(registry: &Registry, command: &Command) -> Result<()> {
    let asked = registry.ask_rollout(&serde_json::to_value(command)?).await;
    match asked {
        Err(registry::Error::Conflict { .. }) => Err(none_under_way().into()),
        other => other.context("cannot ask the rollout"),
    }
}

fn none_under_way() -> Failure {
    Failure::new("no rollout is under way")
        .hint("`sweetops deploy` begins one, `sweetops rollout history` lists those that are over")
        .exit(Exit::REFUSED)
}

#[derive(Debug, Serialize)]
struct Asked {
    asked: CommandKind,
}

impl Report for Asked {
    fn text(&self, _color: bool) -> String {
        let word = format!("{:?}", self.asked).to_lowercase();
        format!("asked for: {word}; `sweetops rollout watch` shows what comes of it\n")
    }
}

async fn current(registry: &Registry) -> Result<RolloutRecord> {
    let found = registry
        .rollout()
        .await
        .context("cannot read the rollout")?;
    Ok(found.ok_or_else(none_under_way)?.value)
}

async fn watch(ctx: &Context, registry: &Registry) -> Result<Exit> {
    let id = current(registry).await?.id;
    match follow(ctx, &id, None).await? {
        Followed::Ended(summary) => {
            let exit = summary.exit();
            ctx.out.report(&*summary, exit)
        }
        Followed::Left(exit) => Ok(exit),
    }
}

/// The rollout under way.
#[derive(Debug, Serialize)]
struct Standing {
    rollout: Option<String>,
    author: Option<String>,
    phase: Option<String>,
    from: Option<String>,
    to: Option<String>,
    /// In basis points.
    weight: Option<u16>,
    waiting: Option<String>,
    paused: Option<String>,
    state: Option<Value>,
    #[serde(skip)]
    lines: Vec<String>,
}

async fn status(ctx: &Context, registry: &Registry) -> Result<Exit> {
    let found = registry
        .rollout()
        .await
        .context("cannot read the rollout")?;
    let standing = match found {
        Some(found) => standing(found.value),
        None => Standing {
            rollout: None,
            author: None,
            phase: None,
            from: None,
            to: None,
            weight: None,
            waiting: None,
            paused: None,
            state: None,
            lines: vec!["no rollout is under way".to_owned()],
        },
    };
    ctx.out.report(&standing, Exit::DONE)
}

fn standing(record: RolloutRecord) -> Standing {
    let text = serde_json::to_vec(&record.state).unwrap_or_default();
    let state = State::from_json(&text);
    let known = state.as_ref().ok();
    let mut lines = vec![format!(
        "rollout {} by {}",
        record.id,
        printable(&record.author)
    )];
    match &state {
        Ok(state) => {
            let from = state
                .plan()
                .stable()
                .map_or("nothing", |release| short(&release.id));
            let to = short(&state.plan().candidate().id);
            lines.push(format!(
                "  {from} -> {to}, {}, weight {}",
                state.phase(),
                state.weight()
            ));
            lines.extend(
                state
                    .pause()
                    .map(|p| format!("  paused {}", printable(&p.reason))),
            );
            lines.extend(
                state
                    .waiting()
                    .map(|w| format!("  waiting {}", printable(w))),
            );
            lines.extend(
                state
                    .analysis()
                    .map(|a| format!("  {}", a.judgement().brief())),
            );
        }
        Err(error) => lines.push(format!(
            "  its journal cannot be read ({error}); `sweetops rollout forget` drops it"
        )),
    }
    let recent = record.events.iter().rev().take(5).rev();
    lines.extend(recent.map(|event| format!("  {}", event_line(event))));
    Standing {
        rollout: Some(record.id),
        author: Some(record.author),
        phase: known.map(|state| state.phase().to_string()),
        from: known.and_then(|s| s.plan().stable().map(|release| release.id.clone())),
        to: known.map(|state| state.plan().candidate().id.clone()),
        weight: known.map(|state| state.weight().get()),
        waiting: known.and_then(|state| state.waiting().map(str::to_owned)),
        paused: known.and_then(|state| state.pause().map(|pause| pause.reason.clone())),
        state: Some(record.state),
        lines,
    }
}

impl Report for Standing {
    fn text(&self, _color: bool) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// The rollouts that are over.
#[derive(Debug, Serialize)]
struct History {
    rollouts: Vec<Summary>,
}

async fn history(ctx: &Context, registry: &Registry) -> Result<Exit> {
    let records = registry
        .rollout_history()
        .await
        .context("cannot read the history")?;
    let rollouts = records
        .iter()
        .filter_map(|record| Summary::of(record).ok())
        .collect();
    ctx.out.report(&History { rollouts }, Exit::DONE)
}

impl Report for History {
    fn text(&self, color: bool) -> String {
        let row = |rollout: &Summary| {
            let from = rollout.from.as_deref().map_or("nothing", short);
            let cause = rollout.cause.clone().unwrap_or_default();
            [
                rollout.rollout.clone(),
                from.to_owned(),
                short(&rollout.to).to_owned(),
                rollout.outcome.to_string(),
                cause,
            ]
            .map(|cell| (None, cell))
            .to_vec()
        };
        let rows: Vec<_> = self.rollouts.iter().map(row).collect();
        table(color, &["ROLLOUT", "FROM", "TO", "OUTCOME", "CAUSE"], &rows)
    }
}

/// What was dropped.
#[derive(Debug, Serialize)]
struct Forgotten {
    forgotten: String,
}

/// Only a rollout that nobody can drive: one that is well is ended by `rollback`.
async fn forget(ctx: &Context, registry: &Registry) -> Result<Exit> {
    let record = current(registry).await?;
    let text = serde_json::to_vec(&record.state)?;
    if State::from_json(&text).is_ok() {
        return Err(
            Failure::new(format!("rollout {} can be gone on with", record.id))
                .hint("`sweetops rollback` ends it and returns to the stable release")
                .exit(Exit::REFUSED)
                .into(),
        );
    }
    let lock = registry
        .lock_deploy("sweetops rollout forget", LOCK_TTL)
        .await;
    let lock = lock.map_err(crate::traffic::locked)?;
    let archived = registry.archive_rollout(&record, &lock.fence()).await;
    lock.release()
        .await
        .context("cannot let rollouts in again")?;
    archived.context("cannot file the rollout")?;
    let forgotten = Forgotten {
        forgotten: record.id,
    };
    ctx.out.report(&forgotten, Exit::DONE)
}

impl Report for Forgotten {
    fn text(&self, _color: bool) -> String {
        format!(
            "dropped rollout {}; `sweetops traffic` shows who gets which calls\n",
            self.forgotten
        )
    }
}
