//! `sweetops deploy`: brings a new release of the app in by steps, and takes it back when it is worse.
//!
//! This command makes the release and writes the plan down; the agent does the rest. It then tells what
//! happens until the end, and may be interrupted without harm.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Registry, Role, RolloutRecord};
use rollout::quantity::{QuantityError, parse_duration};
use rollout::{Assumptions, BasisPoints, Plan, State, Step, Strategy};
use serde::Serialize;

use crate::agent::{self, Lock};
use crate::binaries::{find, program_name};
use crate::context::{Context, settings_environment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::{Followed, follow};
use crate::output::Report;
use crate::release::{Release, Source, prepare, short};
use crate::up::{config_digest, ensure_agent};

/// The author of splits that rollouts of this command write.
pub(crate) const AUTHOR: &str = "sweetops deploy";
/// The life of the lock if this command dies with it.
const LOCK_TTL: Duration = Duration::from_secs(8);
/// What a step's duration is divided by for its tick, when the step is shorter than ten usual ticks.
const TICKS_IN_SHORT_STEP: u32 = 10;
/// The configuration's name in a release's folder.
const CONFIG_NAME: &str = "sweetmcp.toml";

/// Bring a new release in by steps, judged against the one that runs.
///
/// A release is a program and a configuration, named by the hash of its content. Its instances are started and
/// checked, then get a share of the calls. Statistics on errors and latency decide at each step whether it goes on
/// or rolls back; a crash loop, a failed check or a refused start rolls back at once. The agent drives the rollout,
/// so this command can be interrupted or killed: `sweetops rollout watch` looks on again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops deploy --canary 5%                    # what is built and configured now\n  \
    sweetops deploy --release ./v2 --canary 5%     # a folder with sweetmcp.toml, plugins, perhaps sweetmcp-app\n  \
    sweetops deploy --release ./sweetmcp-app --steps 1%:5m,10%:10m,50%:10m\n  \
    sweetops deploy --strategy deployment/strategies/demo.toml\n  \
    sweetops deploy --dry-run                      # show the plan and what it would see\n\n\
    Exit codes: 0 promoted or nothing to do, 4 rolled back, 5 no verdict (rolled back), 6 refused, 7 not rolled back,\n\
    124 --timeout ran out and the rollout goes on.")]
pub(crate) struct DeployArgs {
    /// The release: a folder, or a program [default: the program beside sweetops]
    #[arg(long, value_name = "PATH")]
    release: Option<PathBuf>,
    /// The configuration [default: that of the release's folder, else the fleet's]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// First share of the calls; 25%, 50% and all follow
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["steps", "strategy"])]
    canary: Option<BasisPoints>,
    /// The shares one after the other, each with its duration
    #[arg(
        long,
        value_name = "PERCENT[:DURATION]",
        value_delimiter = ',',
        conflicts_with = "strategy"
    )]
    steps: Vec<StepArg>,
    /// File with everything about steps, judge and limits (TOML)
    #[arg(long, value_name = "FILE")]
    strategy: Option<PathBuf>,
    /// How long each step is judged
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    step_duration: Option<Duration>,
    /// Calls to the new release without which no step passes
    #[arg(long, value_name = "CALLS")]
    min_samples: Option<u64>,
    /// Instances in the end [default: as many as run now]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    replicas: Option<u32>,
    /// Show the plan and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Begin, and do not wait for the end
    #[arg(long, conflicts_with = "timeout")]
    detach: bool,
    /// Stop waiting after this time; the rollout goes on
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

/// A duration as strategies write it.
fn duration(text: &str) -> Result<Duration, QuantityError> {
    parse_duration(text)
}

/// A share with its duration, if one is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StepArg {
    weight: BasisPoints,
    duration: Option<Duration>,
}

impl FromStr for StepArg {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (weight, duration) = match text.split_once(':') {
            Some((weight, duration)) => (weight, Some(parse_duration(duration)?)),
            None => (text, None),
        };
        Ok(Self {
            weight: weight.parse()?,
            duration,
        })
    }
}

/// What is said when there is nothing to wait for.
#[derive(Debug, Serialize)]
struct Begun {
    /// The rollout; absent when there is nothing to do.
    rollout: Option<String>,
    /// The release that would come.
    release: String,
    /// The plan's hash; absent when there is nothing to do.
    plan: Option<String>,
    #[serde(skip)]
    text: String,
}

impl Report for Begun {
    fn text(&self, _color: bool) -> String {
        format!("{}\n", self.text)
    }
}

/// Makes the release, begins the rollout, looks on.
pub(crate) async fn run(ctx: &Context, args: DeployArgs) -> Result<Exit> {
    let strategy = strategy(&args)?;
    let registry = ctx.registry().await?;
    let working = Lock::try_take(&ctx.state.command_lock())?.ok_or_else(crate::down::busy)?;
    let stable = standing(ctx, &registry).await?;
    ctx.out.progress("preparing the release");
    let release = prepare(&ctx.state, &source(ctx, &args)?)?;
    if release.id == stable.id {
        return ctx.out.report(&nothing_to_do(&release), Exit::DONE);
    }
    let plan = plan(&registry, &release, &stable, args.replicas, strategy).await?;
    ctx.out.clear_progress();
    for line in plan.explain(&Assumptions::default()).lines() {
        ctx.out.step(line);
    }
    for line in crate::release::changes(&stable, &release)? {
        ctx.out.step(&format!("  {line}"));
    }
    if args.dry_run {
        let text = "nothing was changed (--dry-run)".to_owned();
        return ctx.out.report(&begun(None, &plan, text), Exit::DONE);
    }
    make_known(&registry, &release).await?;
    let id = begin(ctx, &registry, &plan, AUTHOR).await?;
    ensure_agent(ctx).await?;
    drop(working);
    if args.detach {
        let text = format!("rollout {id} goes on; `sweetops rollout watch` looks on");
        return ctx.out.report(&begun(Some(id), &plan, text), Exit::DONE);
    }
    match follow(ctx, &id, args.timeout).await? {
        Followed::Ended(summary) => {
            let exit = summary.exit();
            ctx.out.report(&*summary, exit)
        }
        Followed::Left(exit) => Ok(exit),
    }
}

fn nothing_to_do(release: &Release) -> Begun {
    Begun {
        rollout: None,
        release: release.id.clone(),
        plan: None,
        text: format!("nothing to do: {} is the stable release", release.short()),
    }
}

fn begun(rollout: Option<String>, plan: &Plan, text: String) -> Begun {
    Begun {
        rollout,
        release: plan.candidate().id.clone(),
        plan: Some(plan.hash()),
        text,
    }
}

/// The release that has the traffic now. Refuses a fleet that is not up.
pub(crate) async fn standing(ctx: &Context, registry: &Registry) -> Result<Release> {
    let up = agent::pid(&ctx.state)?.is_some() || !agent::survivors(&ctx.state)?.is_empty();
    let traffic = registry
        .traffic()
        .await
        .context("cannot read how calls are split")?;
    match traffic {
        Some(traffic) if up => Release::load(&ctx.state, &traffic.value.stable),
        _ => Err(
            Failure::new("the fleet is not up, so there is nothing to deploy to")
                .hint("`sweetops up` starts it with what is built and configured now")
                .exit(Exit::REFUSED)
                .into(),
        ),
    }
}

/// What the release is made of.
fn source(ctx: &Context, args: &DeployArgs) -> Result<Source> {
    let name = program_name(Role::App);
    let given = args.release.as_deref();
    let missing = |path: &Path| {
        Failure::new(format!("there is no release at {}", path.display()))
            .hint("name a folder, or a program, with --release PATH")
            .exit(Exit::USAGE)
    };
    if let Some(path) = given.filter(|path| !path.exists()) {
        return Err(missing(path).into());
    }
    let folder = given.filter(|path| path.is_dir()).map(std::path::absolute);
    let folder = folder.transpose().context("cannot resolve the folder")?;
    let own = |file: &str| {
        folder
            .as_ref()
            .map(|f| f.join(file))
            .filter(|f| f.is_file())
    };
    let program = match (own(name), given) {
        (Some(program), _) => program,
        (None, Some(path)) if path.is_file() => program(path)?,
        _ => find(name)?,
    };
    let config = match (&args.config, own(CONFIG_NAME)) {
        (None, Some(config)) => config,
        (given, _) => ctx.config(given.as_deref())?,
    };
    // Refused before anything is started, with all that is wrong.
    ctx.settings(&config)?;
    Ok(Source {
        role: Role::App,
        program,
        config,
        folder,
        environment: settings_environment(),
    })
}

/// A file that the system would run.
fn program(path: &Path) -> Result<PathBuf> {
    let mode = path.metadata().map(|meta| meta.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o111 != 0) {
        return Ok(path.to_owned());
    }
    Err(Failure::new(format!("{} is no program", path.display()))
        .hint("--release takes a folder or a program; a configuration goes with --config FILE")
        .exit(Exit::USAGE)
        .into())
}

fn strategy(args: &DeployArgs) -> Result<Strategy> {
    let mut strategy = match &args.strategy {
        Some(path) => read_strategy(path)?,
        None if !args.steps.is_empty() => of_steps(&args.steps),
        None => Strategy::canary(args.canary.unwrap_or(BasisPoints::percent(5))),
    };
    for step in &mut strategy.steps {
        step.duration = args.step_duration.unwrap_or(step.duration);
        step.min_samples = args.min_samples.unwrap_or(step.min_samples);
    }
    // A short step without a file that says otherwise is judged in short ticks.
    let shortest = strategy.steps.iter().map(|step| step.duration).min();
    if let Some(shortest) = shortest.filter(|_| args.strategy.is_none()) {
        let tick = (shortest / TICKS_IN_SHORT_STEP).max(Duration::from_secs(1));
        strategy.tick = strategy.tick.min(tick);
        strategy.latency.warm_up = strategy.latency.warm_up.min(shortest / 4);
    }
    let problems = strategy.problems();
    if !problems.is_empty() {
        let invalid = rollout::strategy::Invalid { problems };
        return Err(unplannable(invalid));
    }
    Ok(strategy)
}

fn of_steps(steps: &[StepArg]) -> Strategy {
    let weights: Vec<BasisPoints> = steps
        .iter()
        .map(|step| step.weight)
        .filter(|weight| *weight < BasisPoints::FULL)
        .collect();
    let mut strategy = Strategy::canary(BasisPoints::FULL);
    let usual = Strategy::with_weights(&weights, Duration::from_secs(600), 500).steps;
    let timed = |(usual, asked): (Step, &StepArg)| Step {
        duration: asked.duration.unwrap_or(usual.duration),
        ..usual
    };
    strategy.steps = usual.into_iter().zip(steps).map(timed).collect();
    strategy
}

fn read_strategy(path: &Path) -> Result<Strategy> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(format!("cannot read the strategy {}", path.display()))
            .source(error)
            .exit(Exit::USAGE)
    })?;
    Strategy::from_toml(&text).map_err(|invalid| {
        let lines: Vec<String> = invalid
            .problems
            .iter()
            .map(|problem| format!("{}:{problem}", path.display()))
            .collect();
        Failure::new(lines.join("\n"))
            .hint("correct the strategy and try again; keys that are left out keep their defaults")
            .exit(Exit::USAGE)
            .into()
    })
}

/// The plan to replace `stable` by `release`.
pub(crate) async fn plan(
    registry: &Registry,
    release: &Release,
    stable: &Release,
    replicas: Option<u32>,
    strategy: Strategy,
) -> Result<Plan> {
    let desired = registry
        .desired()
        .await
        .context("cannot read what should run")?;
    let running = desired.map_or(0, |d| d.value.replicas(Role::App, &stable.id));
    let replicas = replicas.unwrap_or(running.max(1));
    let planned = |release: &Release| -> Result<rollout::Release> {
        Ok(rollout::Release {
            id: release.id.clone(),
            config_digest: Some(config_digest(release)?),
            binary_digest: Some(release.binary_digest.clone()),
        })
    };
    // The stable release runs whatever its record says.
    let before = rollout::Release::named(&stable.id);
    Plan::new(planned(release)?, Some(before), replicas, strategy).map_err(unplannable)
}

fn unplannable(invalid: rollout::strategy::Invalid) -> anyhow::Error {
    Failure::new("this cannot be planned")
        .source(invalid)
        .exit(Exit::USAGE)
        .into()
}

/// Makes a release known to the whole fleet.
async fn make_known(registry: &Registry, release: &Release) -> Result<()> {
    let record = release.record(&config_digest(release)?);
    registry
        .put_release(&record, &[])
        .await
        .with_context(|| format!("cannot make release {} known", release.short()))?;
    Ok(())
}

/// Writes the plan down for the agent. Another rollout of the very same plan is joined, any other refuses.
pub(crate) async fn begin(
    ctx: &Context,
    registry: &Registry,
    plan: &Plan,
    author: &str,
) -> Result<String> {
    if let Some(current) = registry.rollout().await?.map(|found| found.value) {
        return join(ctx, current, plan);
    }
    let lock = match registry.lock_deploy(author, LOCK_TTL).await {
        Ok(lock) => lock,
        Err(error) => return Err(crate::traffic::locked(error)),
    };
    let now = registry::unix_ms();
    let state = State::new(plan.clone(), now).to_json()?;
    let record = RolloutRecord {
        id: rollout_id(&plan.candidate().id),
        written_unix_ms: now,
        author: author.to_owned(),
        state: serde_json::from_slice(&state).context("the plan is no JSON")?,
        events: Vec::new(),
    };
    let begun = registry.begin_rollout(&record, &lock.fence()).await;
    let released = lock.release().await;
    begun.context("cannot begin the rollout")?;
    released.context("cannot let the agent have the rollout")?;
    Ok(record.id)
}

fn join(ctx: &Context, current: RolloutRecord, plan: &Plan) -> Result<String> {
    let text = serde_json::to_vec(&current.state)?;
    let same = State::from_json(&text).is_ok_and(|state| state.plan().hash() == plan.hash());
    if same {
        ctx.out.step(&format!(
            "rollout {} of this very plan is under way; looking on",
            current.id
        ));
        return Ok(current.id);
    }
    Err(Failure::new(format!("rollout {} is under way", current.id))
        .hint("`sweetops rollout watch` looks on; `sweetops rollback` ends it and returns to the stable release")
        .exit(Exit::REFUSED)
        .into())
}

/// A name that sorts by time and says what it brings.
fn rollout_id(release: &str) -> String {
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    format!("{now}-{}", short(release).get(..8).unwrap_or(release))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rollout::quantity::format_duration;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        deploy: DeployArgs,
    }

    fn steps(line: &str) -> Vec<String> {
        let words = std::iter::once("deploy").chain(line.split_whitespace());
        let args = Line::try_parse_from(words).unwrap().deploy;
        let strategy = strategy(&args).unwrap();
        assert_eq!(strategy.problems(), [], "{line}");
        let step = |step: &Step| {
            let duration = format_duration(step.duration);
            format!(
                "{} {duration} {} {}",
                step.weight, step.min_samples, step.margin
            )
        };
        let mut all: Vec<String> = strategy.steps.iter().map(step).collect();
        all.push(format!("tick {}", format_duration(strategy.tick)));
        all
    }

    #[test]
    fn flags_make_the_steps() {
        let usual = [
            "5% 10m 500 5",
            "25% 10m 500 2",
            "50% 10m 500 1.5",
            "tick 10s",
        ];
        assert_eq!(steps(""), usual);
        assert_eq!(steps("--canary 5%"), usual);
        assert_eq!(
            steps("--canary 30% --step-duration 20s --min-samples 50"),
            ["30% 20s 50 2", "50% 20s 50 1.5", "tick 2s"]
        );
        assert_eq!(
            steps("--steps 1%:5m,10% --min-samples 100"),
            ["1% 5m 100 5", "10% 10m 100 5", "tick 10s"]
        );
    }

    #[test]
    fn a_wrong_strategy_says_where_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        std::fs::write(&path, "tick = \"1ms\"\n").unwrap();
        let error = read_strategy(&path).unwrap_err();
        let told = crate::failure::tell(&error);
        assert_eq!(told.exit, Exit::USAGE);
        let line = told.lines[0].replace(&path.display().to_string(), "s.toml");
        insta::assert_snapshot!(line, @"s.toml:1:8: tick is 1ms, allowed: 100ms to 5m");
    }

    #[test]
    fn the_example_strategies_are_good_and_the_one_for_production_is_the_default() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deployment/strategies");
        read_strategy(&folder.join("demo.toml")).unwrap();
        let mut production = read_strategy(&folder.join("production.toml")).unwrap();
        // It watches and keeps longer than a command that somebody may be waiting for.
        let usual = Strategy::canary(BasisPoints::percent(5));
        (production.soak, production.scale_down_delay) = (usual.soak, usual.scale_down_delay);
        assert_eq!(production, usual);
    }
}
