//! `sweetops drift`: whether what runs is what should run.
//!
//! [`compare`] decides on facts that are gathered here: the wanted pools, the releases as they were made and
//! as they lie on disk, the configuration file, and what every instance and the agent say.

mod compare;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use registry::{Desired, Pool, Process, Registry, Role};
use serde::Serialize;
use settings::{KeyDiff, Settings};

use crate::agent::{self, digest_file, request_restart};
use crate::context::{Context, settings_of};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Format, Report, Tone, paint, printable, table};
use crate::release::Release;
use compare::{Facts, Finding, Known, Remedy, compare};

/// Something differs. `drift` alone has this code, as its users expect of a checker.
const DRIFT: Exit = Exit {
    code: 2,
    reason: "drift",
};
/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// How often the fleet is looked at while it is put right.
const FIX_LOOK_EVERY: Duration = Duration::from_millis(500);
/// Clears the screen and goes to its corner.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Compare what runs with what should run.
///
/// Looks at the number of instances, their releases, configuration, programs and plugins, at the copies of
/// releases in the state folder, and at edits of the configuration that nobody has applied. Exits with 0
/// when nothing differs, 2 when something does, 1 when it cannot tell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops drift\n  \
    sweetops drift --fix\n  \
    sweetops drift --watch -o json | jq -c .findings")]
pub(crate) struct DriftArgs {
    /// Look again every 5 seconds until interrupted; one JSON object a line with `-o json`
    #[arg(long, conflicts_with = "fix")]
    watch: bool,
    /// Start or restart what differs, and say what that cannot put right
    #[arg(long)]
    fix: bool,
    /// How long to wait for what `--fix` has started
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = crate::token::duration)]
    timeout: Duration,
}

/// What differs.
#[derive(Debug, Serialize)]
struct Drift {
    /// When this was seen, in milliseconds of Unix time.
    unix_ms: u64,
    /// What differs now.
    findings: Vec<Finding>,
    /// What `--fix` has done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    done: Vec<String>,
}

impl Drift {
    fn exit(&self) -> Exit {
        if self.findings.is_empty() {
            Exit::DONE
        } else {
            DRIFT
        }
    }
}

/// Looks once, looks on, or puts right.
pub(crate) async fn run(ctx: &Context, args: DriftArgs) -> Result<Exit> {
    if args.watch {
        return watch(ctx).await;
    }
    let mut drift = look(ctx).await?;
    if args.fix && !drift.findings.is_empty() {
        drift = fix(ctx, drift, args.timeout).await?;
    }
    let exit = drift.exit();
    ctx.out.report(&drift, exit)
}

async fn look(ctx: &Context) -> Result<Drift> {
    Ok(Drift {
        unix_ms: registry::unix_ms(),
        findings: compare(&gather(ctx).await?),
        done: Vec::new(),
    })
}

/// Looks until interrupted: a screen that is redrawn, or one report after another.
async fn watch(ctx: &Context) -> Result<Exit> {
    let terminal = ctx.out.terminal();
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    loop {
        ticks.tick().await;
        let drift = look(ctx).await?;
        let shown = match ctx.out.format() {
            Format::Json => format!("{}\n", serde_json::to_string(&drift)?),
            Format::Text => {
                let clear = if terminal.stdout { CLEAR } else { "" };
                let at = jiff::Timestamp::from_millisecond(i64::try_from(drift.unix_ms)?)?;
                format!("{clear}{at:.0}\n{}", drift.text(terminal.color))
            }
        };
        ctx.out.result(&shown)?;
    }
}

/// Does what can be done and waits until it has worked or the time is up. An agent that was just started may
/// make more possible, so every look may ask for more.
async fn fix(ctx: &Context, mut drift: Drift, patience: Duration) -> Result<Drift> {
    let registry = ctx.registry().await?;
    let began = Instant::now();
    let mut done: Vec<String> = Vec::new();
    let mut asked: BTreeSet<String> = BTreeSet::new();
    loop {
        let starts = |f: &Finding| f.remedy == Remedy::StartAgent;
        if done.is_empty() && drift.findings.iter().any(starts) {
            crate::up::ensure_agent(ctx).await?;
            done.push("started the agent".to_owned());
        }
        for instance in drift.findings.iter().filter_map(Finding::restart) {
            if asked.insert(instance.to_owned()) {
                request_restart(registry.store(), instance).await?;
                done.push(format!("asked for a restart of {instance}"));
            }
        }
        let waits = drift.findings.iter().filter(|f| !f.needs_operator());
        let waits = waits.count();
        if waits == 0 || began.elapsed() >= patience {
            return Ok(Drift { done, ..drift });
        }
        ctx.out
            .progress(&format!("waiting for {waits} to be put right"));
        tokio::time::sleep(FIX_LOOK_EVERY).await;
        drift = look(ctx).await?;
    }
}

async fn gather(ctx: &Context) -> Result<Facts> {
    let registry = ctx.registry().await?;
    let reading = "cannot read what runs";
    let desired = registry.desired().await.context(reading)?.ok_or_else(|| {
        Failure::new("nobody has said yet what should run").hint("`sweetops up` does")
    })?;
    let desired = desired.value;
    let traffic = registry.traffic().await.context(reading)?;
    let mut processes = registry.processes().await.context(reading)?;
    let agent = agent::pid(&ctx.state)?.is_some();
    let recorded = agent::survivors(&ctx.state)?;
    // Without an agent, or with one that cannot write, nobody has noted who has died since.
    let lives = |p: &Process| agent::exists(p.pid) && (agent || recorded.contains(&p.name));
    for process in processes.iter_mut().filter(|process| !lives(process)) {
        process.pid = 0;
    }
    Ok(Facts {
        releases: releases(ctx, &registry, &desired).await?,
        edits: edits(ctx, &desired)?,
        traffic: traffic.map(|found| found.value),
        instances: registry.instances().await.context(reading)?,
        processes,
        agent,
        desired,
    })
}

/// What is known of the wanted releases, and what lies in their folders.
async fn releases(
    ctx: &Context,
    registry: &Registry,
    desired: &Desired,
) -> Result<BTreeMap<String, Known>> {
    let mut found = BTreeMap::new();
    for pool in &desired.pools {
        let record = registry.release(&pool.release).await;
        let Some(record) = record.context("cannot read a release")? else {
            continue;
        };
        let on_disk = Release::load(&ctx.state, &pool.release);
        let told = |error: anyhow::Error| printable(&format!("{error:#}"));
        let (config, binary, plugins) = match on_disk {
            Err(error) => (Err(told(error)), None, BTreeSet::new()),
            Ok(release) => {
                let settings = settings_of(&release);
                let plugins = settings.as_ref().map(plugins).unwrap_or_default();
                let digest = settings.map(|s| digest(pool.role, &s));
                let binary = digest_file(&release.program());
                (digest.map_err(told), Some(binary.map_err(told)), plugins)
            }
        };
        let known = Known {
            config_digest: record.config_digest,
            binary_digest: record.binary_digest,
            config_on_disk: Some(config),
            binary_on_disk: binary,
            plugins,
        };
        found.insert(pool.release.clone(), known);
    }
    Ok(found)
}

fn plugins(settings: &Settings) -> BTreeSet<String> {
    settings.plugins.iter().map(|p| p.name.clone()).collect()
}

fn digest(role: Role, settings: &Settings) -> String {
    match role {
        Role::Edge => settings.edge_digest(),
        Role::App => settings.app_digest(),
    }
}

/// Edits of the configuration file since each pool's release was made, and since the pools were sized. While
/// more than one release of the apps is wanted, a rollout is between two configurations and none is compared.
fn edits(ctx: &Context, desired: &Desired) -> Result<Vec<(Role, KeyDiff)>> {
    let mut found = Vec::new();
    for role in [Role::Edge, Role::App] {
        let mut pools = desired.pools.iter().filter(|p| p.role == role);
        let (Some(pool), None) = (pools.next(), pools.next()) else {
            continue;
        };
        let Ok(release) = Release::load(&ctx.state, &pool.release) else {
            // Told as a damaged release.
            continue;
        };
        let Ok(runs) = settings_of(&release) else {
            continue;
        };
        let Some(file) = file_of(ctx, &release)? else {
            // What was deployed from a file that is gone is what should run.
            continue;
        };
        let environment = release.environment.iter().cloned();
        let wanted = Settings::load(Some(&file), environment).map_err(|errors| {
            Failure::new(errors.to_string().trim_end())
                .hint(format!("correct {} and try again", file.display()))
        })?;
        let differs = settings::diff(&runs, &wanted.settings).into_iter();
        found.extend(differs.filter(|d| reads(role, &d.key)).map(|d| (role, d)));
        // A release does not know how many run it; what `up` would do with this environment counts.
        let sized = ctx.settings(&ctx.config(None)?)?.settings;
        found.extend(size(pool, &sized).map(|d| (role, d)));
    }
    Ok(found)
}

/// The configuration that a release is compared with: for an app, the file that it was made of, or that of its folder,
/// or the fleet's if the folder has none; for an edge, the fleet's, which `up` applies.
fn file_of(ctx: &Context, release: &Release) -> Result<Option<PathBuf>> {
    let source = PathBuf::from(&release.source);
    if release.role == Role::Edge {
        return ctx.config(None).map(Some);
    }
    let own = source.join("sweetmcp.toml");
    if own.is_file() {
        Ok(Some(own))
    } else if source.is_dir() {
        ctx.config(None).map(Some)
    } else {
        Ok(source.is_file().then_some(source))
    }
}

/// Whether a role reads a key.
fn reads(role: Role, key: &str) -> bool {
    let sections: &[&str] = match role {
        Role::Edge => &["edge.", "telemetry.", "fleet.zone"],
        Role::App => &[
            "app.",
            "plugin.",
            "edge.session.",
            "telemetry.",
            "fleet.zone",
        ],
    };
    sections.iter().any(|section| key.starts_with(section))
}

/// The number of instances in the file against the wanted one.
fn size(pool: &Pool, wanted: &Settings) -> Option<KeyDiff> {
    let (key, number) = match pool.role {
        Role::Edge => ("fleet.edges", wanted.fleet.edges),
        Role::App => ("fleet.apps", wanted.fleet.apps),
    };
    (pool.replicas != number).then(|| KeyDiff {
        key: key.to_owned(),
        from: Some(pool.replicas.to_string()),
        to: Some(number.to_string()),
    })
}

impl Report for Drift {
    fn text(&self, color: bool) -> String {
        let mut text: String = self.done.iter().map(|line| format!("{line}\n")).collect();
        if self.findings.is_empty() {
            let word = paint(color, Tone::Good, "no drift");
            text.push_str(&format!("{word}: what runs is what should run\n"));
            return text;
        }
        let cell = |value: &Option<String>| {
            let value = value.as_deref().unwrap_or("-");
            (None, printable(value))
        };
        let row = |finding: &Finding| {
            let tone = if finding.needs_operator() {
                Tone::Bad
            } else {
                Tone::Warn
            };
            vec![
                (Some(tone), finding.instance.clone()),
                (None, finding.key.clone()),
                cell(&finding.should),
                cell(&finding.is),
                (None, finding.remedy.words()),
            ]
        };
        let rows: Vec<_> = self.findings.iter().map(row).collect();
        text.push_str(&table(
            color,
            &["INSTANCE", "KEY", "SHOULD BE", "IS", "REMEDY"],
            &rows,
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_differs_and_who_puts_it_right() {
        let finding = |instance: &str, key: &str, is: Option<&str>, remedy| Finding {
            instance: instance.to_owned(),
            key: key.to_owned(),
            should: Some("ready".to_owned()),
            is: is.map(str::to_owned),
            remedy,
        };
        let restart = Remedy::Restart {
            instance: "app-1".to_owned(),
        };
        let mut drift = Drift {
            unix_ms: 0,
            findings: vec![
                finding("app-1", "plugin.time", Some("failed"), restart),
                finding("edge-1", "state", None, Remedy::Agent),
            ],
            done: Vec::new(),
        };
        assert_eq!(drift.exit().code, 2);
        insta::assert_snapshot!(drift.text(false), @r"
        INSTANCE  KEY          SHOULD BE  IS      REMEDY
        app-1     plugin.time  ready      failed  `--fix` restarts it
        edge-1    state        ready      -       the agent sees to it
        ");
        drift.findings.clear();
        drift.done.push("started the agent".to_owned());
        assert_eq!(drift.exit().code, 0);
        insta::assert_snapshot!(drift.text(false), @r"
        started the agent
        no drift: what runs is what should run
        ");
    }

    #[test]
    fn each_role_is_compared_in_what_it_reads() {
        for (key, edge, app) in [
            ("edge.rate.burst", true, false),
            ("edge.session.ttl", true, true),
            ("app.builtins", false, true),
            ("plugin.time.set", false, true),
            ("telemetry.log_filter", true, true),
            ("fleet.apps", false, false),
        ] {
            assert_eq!((reads(Role::Edge, key), reads(Role::App, key)), (edge, app));
        }
    }
}
