//! `sweetops loadtest`: personas against this fleet, judged by objectives.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use registry::Role;
use rustix::process::{Pid, Signal};
use settings::Settings;
use settings::quantity::format_duration;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::binaries::find;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::keys::{Token, TokenRequest};
use crate::output::Format;

/// The program that makes the load.
const WORKER: &str = "sweetmcp-loadtest";
/// How many kinds of users there are.
const PERSONAS: usize = 4;
/// Where the worker looks for its token.
const TOKEN: &str = "SWEETMCP_TOKEN";
/// How much longer than the run its token lives.
const TOKEN_SLACK: Duration = Duration::from_secs(600);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Load-test the fleet with personas of four protocols.
///
/// Users of each persona call a tool through the edge as a real client does. Objectives from a file decide
/// the exit code: 0 met, 3 missed, 5 too little measured to tell. Without a file, every request must succeed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops loadtest --duration 30s\n  \
    sweetops loadtest --users 20 --rate 200 --slo loadtest/slo.toml --report /tmp/report\n  \
    sweetops loadtest --personas stateless,graphql --tool time_now --arguments '{}'")]
pub(crate) struct LoadtestArgs {
    /// Users that call at the same time
    #[arg(long, default_value_t = 10)]
    users: usize,
    /// Requests a second, all users together; as fast as they can when absent
    #[arg(long)]
    rate: Option<usize>,
    /// How long to run
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::token::duration)]
    duration: Duration,
    /// Who calls: stateless, session, jsonrpc, graphql; all of them when absent
    #[arg(long, value_delimiter = ',')]
    personas: Vec<String>,
    /// Tool that is called; it should be read-only
    #[arg(long)]
    tool: Option<String>,
    /// Its arguments, a JSON object
    #[arg(long)]
    arguments: Option<String>,
    /// File of objectives
    #[arg(long, value_name = "FILE")]
    slo: Option<PathBuf>,
    /// Write FILE.html and FILE.json
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Starts the worker with the fleet's address and a token, and ends as it does.
pub(crate) async fn run(ctx: &Context, args: LoadtestArgs) -> Result<Exit> {
    check(&args)?;
    let settings = ctx.edge_settings().await?;
    let mcp = ctx.endpoints()?.mcp.ok_or_else(|| {
        Failure::new("the fleet has no address yet")
            .hint("`sweetops up` starts it, `sweetops status` shows how far it is")
    })?;
    let mut worker = Command::new(find(WORKER)?);
    worker.arg("--host").arg(mcp.trim_end_matches("/mcp"));
    let duration = format_duration(args.duration);
    worker.args(["--users", &args.users.to_string()]);
    worker.args(["--duration", &duration]);
    if let Some(rate) = args.rate {
        worker.args(["--rate", &rate.to_string()]);
    }
    if !args.personas.is_empty() {
        worker.args(["--personas", &args.personas.join(",")]);
    }
    for (flag, value) in [("--tool", &args.tool), ("--arguments", &args.arguments)] {
        if let Some(value) = value {
            worker.args([flag, value]);
        }
    }
    for (flag, path) in [("--slo", &args.slo), ("--report", &args.report)] {
        if let Some(path) = path {
            worker.arg(flag).arg(path);
        }
    }
    for instance in ctx
        .registry()
        .await?
        .instances()
        .await
        .context("cannot read the instances")?
    {
        let name = if instance.role == Role::Edge {
            "edge"
        } else {
            "app"
        };
        worker.args(["--measure", &format!("{name}={}", instance.pid)]);
    }
    if ctx.out.format() == Format::Json {
        worker.args(["-o", "json"]);
    }
    // In the environment, where it stands in no process list.
    worker.env(TOKEN, token(ctx, &settings, args.duration)?.token);
    ctx.out
        .step(&format!("calling for {duration} with {} users", args.users));
    follow(ctx, worker, args.duration).await
}

/// Refuses what the worker could only fail at.
fn check(args: &LoadtestArgs) -> Result<()> {
    let personas = if args.personas.is_empty() {
        PERSONAS
    } else {
        args.personas.len()
    };
    let refuse = |message: String, hint: &str| {
        Err(Failure::new(message).hint(hint).exit(Exit::USAGE).into())
    };
    if args.users < personas {
        return refuse(
            format!("{} users cannot be {personas} personas", args.users),
            "give --users at least as many, or name fewer with --personas",
        );
    }
    if args.rate == Some(0) {
        return refuse(
            "a rate of 0 calls nothing".to_owned(),
            "leave --rate out to call as fast as possible",
        );
    }
    match &args.slo {
        Some(path) if !path.is_file() => refuse(
            format!("there is no file of objectives at {}", path.display()),
            "loadtest/slo.toml is an example",
        ),
        _ => Ok(()),
    }
}

/// A token that outlives the run.
fn token(ctx: &Context, settings: &Settings, duration: Duration) -> Result<Token> {
    let request = TokenRequest {
        issuer: String::new(),
        audience: String::new(),
        subject: "sweetops-loadtest".to_owned(),
        tenant: None,
        scope: "mcp".to_owned(),
        ttl: duration.saturating_add(TOKEN_SLACK),
    };
    ctx.token(settings, request)
}

/// Waits for the worker and says how far it is. Ctrl-C is passed on to the worker, which then ends with what it
/// has measured; a second one, or SIGTERM, ends it at once.
async fn follow(ctx: &Context, mut worker: Command, duration: Duration) -> Result<Exit> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = worker
        // Out of the terminal's reach: it hears of Ctrl-C from here, once, however this process was told.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the load")?;
    let pid = child
        .id()
        .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let mut interrupted = false;
    let began = Instant::now();
    let mut ticks = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            status = child.wait() => {
                ctx.out.clear_progress();
                let exit = exit_of(status.context("cannot wait for the load")?.code());
                if exit.code == Exit::ERROR.code {
                    return Err(Failure::new("the load test could not be run").hint("the lines above say why").into());
                }
                return Ok(exit);
            }
            _ = interrupt.recv() => {
                if interrupted {
                    child.kill().await.context("cannot end the load")?;
                    return Ok(Exit::of(rollout::Exit::Interrupted, "interrupted"));
                }
                interrupted = true;
                if let Some(pid) = pid {
                    rustix::process::kill_process(pid, Signal::INT).context("cannot end the load")?;
                }
            }
            _ = terminate.recv() => {
                child.kill().await.context("cannot end the load")?;
                return Ok(Exit::of(rollout::Exit::Terminated, "terminated"));
            }
            _ = ticks.tick(), if ctx.out.terminal().redraws => match progress(began.elapsed(), duration) {
                Some(line) => ctx.out.progress(&line),
                // What the worker prints now must not stand behind this line.
                None => ctx.out.clear_progress(),
            }
        }
    }
}

/// How far a run is; nothing once its time is over.
fn progress(elapsed: Duration, total: Duration) -> Option<String> {
    let whole = |duration: Duration| format_duration(Duration::from_secs(duration.as_secs()));
    (elapsed < total).then(|| format!("{} of {}", whole(elapsed), whole(total)))
}

/// The worker's codes are this command's, but for what only a bug can make it say.
fn exit_of(code: Option<i32>) -> Exit {
    match code {
        Some(0) => Exit::DONE,
        Some(2) => Exit::USAGE,
        Some(3) => Exit::BAD,
        Some(5) => Exit::of(rollout::Exit::Inconclusive, "inconclusive"),
        _ => Exit::ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_ends_with_the_time() {
        let minute = Duration::from_secs(60);
        let at = |ms| progress(Duration::from_millis(ms), minute);
        assert_eq!(at(0).as_deref(), Some("0s of 1m"));
        assert_eq!(at(59_900).as_deref(), Some("59s of 1m"));
        assert_eq!(at(60_000), None);
    }

    #[test]
    fn the_verdict_of_the_worker_is_passed_on() {
        let codes = [Some(0), Some(2), Some(3), Some(5), Some(101), None];
        assert_eq!(codes.map(|c| exit_of(c).code), [0, 2, 3, 5, 1, 1]);
    }
}
