//! `sweetops up`: brings the fleet of a folder up, or brings it up to date.
//!
//! The same command starts a fleet, adopts one whose agent has died, and applies an edited configuration to
//! the edges. What would change running apps is for `sweetops deploy`.

mod ready;
mod reconcile;
mod report;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Desired, Pool, ProcessState, Registry, Role, Traffic};
use settings::Settings;
use store::Revision;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::agent::{self, Agent, Announcement, Lock, Order, request_restart};
use crate::binaries::{find, program_name};
use crate::context::{Context, settings_environment, settings_of};
use crate::deploy;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::keys::{self, Minted};
use crate::release::{Release, Source, changes, prepare};
use crate::rollback;
use crate::state::write_atomic;
pub(crate) use ready::harmless_tool;
use ready::{Goal, wait};
use reconcile::{Existing, Reconciled, Wanted, reconcile};
use report::Up;

/// How long an agent may take to step aside for another.
const HANDOVER_MAX: Duration = Duration::from_secs(10);
/// The author of records that `up` writes.
const AUTHOR: &str = "sweetops up";
/// The configuration that a fleet begins with.
const DEFAULT_CONFIG: &str = include_str!("up/sweetmcp.toml");

/// Bring the fleet up, or up to date.
///
/// The first start makes keys and a configuration, copies the programs into the state folder, starts the
/// edge and the apps in the background, and waits until a tool answers. Run again, it leaves what runs
/// alone, takes over a fleet whose agent has died, and applies changed edge settings without losing a
/// request. It listens on loopback unless the configuration says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops up\n  \
    sweetops up --config ./sweetmcp.toml\n  \
    SWEETOPS_STATE=/tmp/second SWEETMCP__EDGE__LISTEN=127.0.0.1:0 sweetops up\n  \
    sweetops up --foreground          # in a container; Ctrl-C drains and stops")]
pub(crate) struct UpArgs {
    /// The fleet's configuration [default: the one last given, else sweetmcp.toml in the state folder]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Stay and look after the fleet; end it with this command
    #[arg(long)]
    pub(crate) foreground: bool,
    /// How long to wait until the fleet answers
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = crate::token::duration)]
    timeout: Duration,
}

/// Brings the fleet up.
pub(crate) async fn run(ctx: &Context, args: UpArgs) -> Result<Exit> {
    ctx.state.create()?;
    let working = Lock::try_take(&ctx.state.command_lock())?.ok_or_else(crate::down::busy)?;
    if keys::ensure(&ctx.state)? == Minted::New {
        ctx.out
            .step(&format!("made keys in {}", ctx.state.keys().display()));
    }
    let config = choose_config(ctx, args.config.as_deref())?;
    let settings = ctx.settings(&config)?.settings;
    if args.config.is_some() {
        remember(ctx, &config)?;
    }
    let releases = make_releases(ctx, &config).await?;
    let registry = ctx.registry().await?;
    let decided = decide(ctx, &registry, &settings, &releases).await?;
    apply(ctx, &registry, &decided).await?;

    let goal = Goal {
        desired: decided.desired.clone(),
        edge_settings: settings_of(&releases.edge)?,
    };
    if args.foreground {
        return foreground(ctx, goal, decided, args.timeout, working).await;
    }
    ensure_agent(ctx).await?;
    retry_failed(&registry).await?;
    match wait(ctx, &goal, args.timeout).await {
        Ok(first_tool) => finish(ctx, &goal, &decided, &first_tool).await,
        Err(error) => roll_back(ctx, &registry, &decided, error).await,
    }
}

async fn finish(
    ctx: &Context,
    goal: &Goal,
    decided: &Decided,
    first_tool: &ready::Tool,
) -> Result<Exit> {
    let instances = ctx
        .registry()
        .await?
        .instances()
        .await
        .context("cannot read the instances")?;
    for missing in ready::missing_plugins(&instances) {
        ctx.out.warn(&missing);
    }
    let up = Up::new(
        ctx,
        &goal.edge_settings,
        &decided.desired,
        decided.changed.clone(),
        first_tool,
    )?;
    ctx.out.report(&up, Exit::DONE)
}

/// The configuration to use; the default one is written if there is none.
fn choose_config(ctx: &Context, given: Option<&Path>) -> Result<PathBuf> {
    let path = ctx.config(given)?;
    if path == ctx.state.default_config() && !path.exists() {
        write_atomic(&path, DEFAULT_CONFIG.as_bytes())?;
        ctx.out
            .step(&format!("wrote the configuration {}", path.display()));
    }
    Ok(path)
}

/// The next `up` uses this configuration too. One that is wrong is not remembered.
fn remember(ctx: &Context, config: &Path) -> Result<()> {
    let bytes = config.as_os_str().as_encoded_bytes();
    write_atomic(&ctx.state.config_pointer(), bytes)
}

/// The releases that the configuration and the programs make.
#[derive(Debug)]
struct Releases {
    edge: Release,
    app: Release,
}

async fn make_releases(ctx: &Context, config: &Path) -> Result<Releases> {
    let make = |role| {
        let source = Source {
            role,
            program: find(program_name(role))?,
            config: config.to_owned(),
            folder: None,
            environment: settings_environment(),
        };
        prepare(&ctx.state, &source)
    };
    ctx.out.progress("preparing the releases");
    let releases = Releases {
        edge: make(Role::Edge)?,
        app: make(Role::App)?,
    };
    let registry = ctx.registry().await?;
    for release in [&releases.edge, &releases.app] {
        let digest = config_digest(release)?;
        registry
            .put_release(&release.record(&digest), &[])
            .await
            .with_context(|| format!("cannot make release {} known", release.short()))?;
    }
    Ok(releases)
}

/// The digest of the part of the configuration that the release's instances read, as they report it.
pub(crate) fn config_digest(release: &Release) -> Result<String> {
    let settings = settings_of(release)?;
    Ok(match release.role {
        Role::Edge => settings.edge_digest(),
        Role::App => settings.app_digest(),
    })
}

/// What is to be written, and what to say about it.
#[derive(Debug)]
struct Decided {
    desired: Desired,
    traffic: Option<Traffic>,
    before: Option<Desired>,
    /// That of `before`; 0 if nobody had said anything.
    revision: Revision,
    changed: Vec<String>,
}

async fn decide(
    ctx: &Context,
    registry: &Registry,
    settings: &Settings,
    releases: &Releases,
) -> Result<Decided> {
    let reading = "cannot read what runs";
    let found = registry.desired().await.context(reading)?;
    let revision = found.as_ref().map_or(0, |found| found.revision);
    let before = found.map(|found| found.value);
    let traffic = registry.traffic().await.context(reading)?.map(|t| t.value);
    let by_rollout = |t: &Traffic| [deploy::AUTHOR, rollback::AUTHOR].contains(&t.author.as_str());
    let existing = Existing {
        desired: before.clone(),
        deployed: traffic.as_ref().is_some_and(by_rollout),
        traffic,
        running: !agent::survivors(&ctx.state)?.is_empty(),
        rollout: registry.rollout().await.context(reading)?.is_some(),
    };
    let wanted = Wanted {
        edge: releases.edge.id.clone(),
        app: releases.app.id.clone(),
        edges: settings.fleet.edges,
        apps: settings.fleet.apps,
    };
    let Reconciled {
        desired,
        traffic,
        edge_from,
        app_waiting,
        notes,
    } = reconcile(&existing, &wanted);
    let mut changed = notes;
    if let Some(from) = edge_from {
        changed.extend(describe(
            ctx,
            &from,
            &releases.edge,
            "edge settings applied",
        ));
    }
    if let Some(stable) = app_waiting {
        changed.extend(describe(
            ctx,
            &stable,
            &releases.app,
            "app changes NOT applied; `sweetops deploy` brings them in by steps",
        ));
    }
    Ok(Decided {
        desired,
        traffic,
        before,
        revision,
        changed,
    })
}

fn describe(ctx: &Context, from: &str, to: &Release, heading: &str) -> Vec<String> {
    let lines = Release::load(&ctx.state, from).and_then(|from| changes(&from, to));
    let lines = lines.unwrap_or_else(|_| {
        vec![format!(
            "~ release {} → {}",
            crate::release::short(from),
            to.short()
        )]
    });
    std::iter::once(format!("{heading}:"))
        .chain(lines.into_iter().map(|l| format!("  {l}")))
        .collect()
}

async fn apply(ctx: &Context, registry: &Registry, decided: &Decided) -> Result<()> {
    if let Some(traffic) = &decided.traffic {
        registry
            .set_traffic(traffic, &[])
            .await
            .context("cannot write how calls are split")?;
    }
    if decided.before.as_ref() != Some(&decided.desired) {
        // A rollout may have changed it since; its pools must not be lost.
        let under = [Registry::desired_unchanged(decided.revision)];
        let written = registry.set_desired(&decided.desired, &under).await;
        if let Err(registry::Error::Conflict { .. }) = &written {
            return Err(Failure::new("a rollout has just changed what should run")
                .hint("run `sweetops up` again")
                .exit(Exit::REFUSED)
                .into());
        }
        written.context("cannot write what should run")?;
    }
    for line in &decided.changed {
        ctx.out.step(line);
    }
    Ok(())
}

/// Makes sure that an agent of this very program runs.
pub(crate) async fn ensure_agent(ctx: &Context) -> Result<()> {
    if let Some(running) = agent::find(&ctx.state)? {
        let own = std::env::current_exe().context("cannot tell where sweetops lies")?;
        if running.identity.exe_digest == agent::digest_file(&own)? {
            return Ok(());
        }
        ctx.out
            .step("replacing the agent of another version; the fleet goes on");
        agent::end(&running, Order::StepAside, HANDOVER_MAX).await?;
    }
    let survivors = agent::survivors(&ctx.state)?;
    if !survivors.is_empty() {
        ctx.out
            .step(&format!("taking over {}", survivors.join(", ")));
    }
    start_agent(ctx).await
}

async fn start_agent(ctx: &Context) -> Result<()> {
    let own = std::env::current_exe().context("cannot tell where sweetops lies")?;
    let mut agent = tokio::process::Command::new(own)
        .arg("agent")
        .arg("--state")
        .arg(ctx.state.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(agent::open_log(&ctx.state.log("agent"))?)
        .spawn()
        .context("cannot start the agent")?;
    let mut word = String::new();
    if let Some(stdout) = agent.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut word)
            .await
            .context("cannot hear from the agent")?;
    }
    match serde_json::from_str(&word) {
        Ok(Announcement::Begun) => Ok(()),
        Ok(Announcement::Failed { lines, hint }) => {
            // It has said all it had to say, so it is about to end.
            let _ = agent.wait().await;
            if agent::find(&ctx.state)?.is_some() {
                // Somebody else was quicker.
                return Ok(());
            }
            let failure = Failure::new(lines.join(": "));
            Err(match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
            .into())
        }
        Err(_) => {
            let status = agent.wait().await.context("cannot wait for the agent")?;
            let (lines, _) = crate::logs::tail(&ctx.state.log("agent"), 10)?;
            Err(Failure::new(format!(
                "the agent ended before it began ({status})\n{}",
                lines.join("\n")
            ))
            .hint("`sweetops logs agent` shows more")
            .into())
        }
    }
}

/// An instance that was given up gets another chance: the operator is here.
async fn retry_failed(registry: &Registry) -> Result<()> {
    let processes = registry
        .processes()
        .await
        .context("cannot read the processes")?;
    for failed in processes.iter().filter(|p| p.state == ProcessState::Failed) {
        request_restart(registry.store(), &failed.name).await?;
    }
    Ok(())
}

/// Supervises in this process; the result is printed as soon as the fleet answers.
async fn foreground(
    ctx: &Context,
    goal: Goal,
    decided: Decided,
    patience: Duration,
    working: Lock,
) -> Result<Exit> {
    if let Some(pid) = agent::pid(&ctx.state)? {
        return Err(Failure::new(format!(
            "an agent (pid {pid}) already looks after this fleet"
        ))
        .hint("`sweetops down` stops it; without --foreground this command brings it up to date")
        .exit(Exit::REFUSED)
        .into());
    }
    let agent = Agent::begin(&ctx.state).await?;
    let (orders, inbox) = agent::orders_by_signal()?;
    let supervision = agent.run(inbox);
    tokio::pin!(supervision);
    tokio::select! {
        ended = &mut supervision => return ended,
        ready = wait(ctx, &goal, patience) => match ready {
            Ok(first_tool) => finish(ctx, &goal, &decided, &first_tool).await?,
            Err(error) => {
                // Whoever stays to look on would otherwise look on nothing.
                orders.send(Order::Stop).await.context("cannot stop what did not start")?;
                supervision.await?;
                return Err(error);
            }
        }
    };
    drop(working);
    supervision.await
}

/// New edge settings that do not work are taken back; the old edge has served all the while.
async fn roll_back(
    ctx: &Context,
    registry: &Registry,
    decided: &Decided,
    error: anyhow::Error,
) -> Result<Exit> {
    let Some(before) = decided
        .before
        .as_ref()
        .filter(|b| edges(b) != edges(&decided.desired))
    else {
        return Err(error);
    };
    if edges(before).is_empty() || !still_serves(registry, &edges(before)).await? {
        return Err(error);
    }
    let taking_back = "cannot take the new edge settings back";
    let now = registry.desired().await.context(taking_back)?;
    let (revision, now) = now.map_or((0, Desired::default()), |now| (now.revision, now.value));
    // What has happened to the apps meanwhile stays.
    let is_edge = |pool: &&Pool| pool.role == Role::Edge;
    let pools = before.pools.iter().filter(is_edge);
    let pools = pools.chain(now.pools.iter().filter(|pool| !is_edge(pool)));
    let restored = Desired {
        pools: pools.cloned().collect(),
    };
    registry
        .set_desired(&restored, &[Registry::desired_unchanged(revision)])
        .await
        .context(taking_back)?;
    ctx.out.clear_progress();
    Err(Failure::new(
        "the new edge settings do not work and were taken back; the edge before goes on serving",
    )
    .source(format!("{error:#}"))
    .hint("correct the configuration and run `sweetops up` again")
    .exit(Exit::ROLLED_BACK)
    .into())
}

fn edges(desired: &Desired) -> Vec<&str> {
    desired
        .pools
        .iter()
        .filter(|p| p.role == Role::Edge)
        .map(|p| p.release.as_str())
        .collect()
}

async fn still_serves(registry: &Registry, releases: &[&str]) -> Result<bool> {
    let instances = registry
        .instances()
        .await
        .context("cannot read the instances")?;
    Ok(instances
        .iter()
        .any(|i| i.role == Role::Edge && i.is_ready() && releases.contains(&i.release.as_str())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_default_configuration_is_accepted() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("sweetmcp.toml");
        fs::write(&path, DEFAULT_CONFIG).unwrap();
        let loaded = Settings::load(Some(&path), std::iter::empty()).unwrap();
        assert!(loaded.settings.edge.listen.ip().is_loopback());
    }
}
