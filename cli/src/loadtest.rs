//! `sweetops loadtest`: personas against this fleet, judged by objectives.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use registry::Role;

use crate::binaries::find;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Format;

/// The program that makes the load.
const WORKER: &str = "sweetmcp-loadtest";

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
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    duration: String,
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
    let settings = ctx.edge_settings().await?;
    let mcp = ctx.endpoints()?.mcp.ok_or_else(|| {
        Failure::new("the fleet has no address yet")
            .hint("`sweetops up` starts it, `sweetops status` shows how far it is")
    })?;
    let mut worker = tokio::process::Command::new(find(WORKER)?);
    worker.arg("--host").arg(mcp.trim_end_matches("/mcp"));
    worker.args([
        "--users",
        &args.users.to_string(),
        "--duration",
        &args.duration,
    ]);
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
    worker.env("SWEETMCP_TOKEN", ctx.own_token(&settings, "mcp")?.token);
    ctx.out.step(&format!(
        "calling for {} with {} users",
        args.duration, args.users
    ));
    let status = worker.status().await.context("cannot start the load")?;
    Ok(match status.code() {
        Some(0) => Exit::DONE,
        Some(2) => Exit::USAGE,
        Some(3) => Exit::BAD,
        Some(5) => Exit::of(rollout::Exit::Inconclusive, "inconclusive"),
        _ => Exit::ERROR,
    })
}
