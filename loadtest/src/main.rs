//! `sweetmcp-loadtest`: goose personas against a fleet, judged by objectives.
//!
//! `sweetops loadtest` starts this program with the fleet's addresses and a token. It is a process of its
//! own because goose keeps state that lives as long as its process, and because its dependencies are heavy.

mod objectives;
mod personas;
mod summary;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use goose::GooseAttack;
use goose::config::GooseConfiguration;

use crate::objectives::Objectives;
use crate::personas::{Persona, Tool};
use crate::summary::Summary;
use crate::usage::Measured;

/// The run could not be made.
const ERROR: u8 = 1;

/// Load test of a SweetMCP fleet.
///
/// The bearer token is read from SWEETMCP_TOKEN, so that it does not stand in the process list.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Base address of the edge, such as http://127.0.0.1:8700
    #[arg(long)]
    host: String,
    /// Users that call at the same time
    #[arg(long, default_value_t = 10)]
    users: usize,
    /// Requests a second, all users together; as fast as they can when absent
    #[arg(long)]
    rate: Option<usize>,
    /// How long to run, such as 30s or 5m
    #[arg(long, default_value = "30s", value_parser = settings::parse_duration)]
    duration: std::time::Duration,
    /// Who calls; several may be given
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Persona::ALL)]
    personas: Vec<Persona>,
    /// Tool that is called; it should be read-only
    #[arg(long, default_value = "hash_digest")]
    tool: String,
    /// Its arguments, a JSON object
    #[arg(long, default_value = r#"{"text":"sweetmcp"}"#)]
    arguments: String,
    /// File of objectives that decide the exit code
    #[arg(long)]
    slo: Option<PathBuf>,
    /// Write FILE.html and FILE.json
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Processes whose processor time is measured, as NAME=PID; several of one name are added
    #[arg(long, value_parser = usage::parse)]
    measure: Vec<usage::Subject>,
    /// Form of the summary
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Form of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&error);
            ExitCode::from(ERROR)
        }
    }
}

#[expect(clippy::print_stderr, reason = "the rim of a command")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

async fn run(args: Args) -> Result<u8> {
    let objectives = match &args.slo {
        Some(path) => Objectives::read(path)?,
        None => Objectives::default(),
    };
    let token = std::env::var("SWEETMCP_TOKEN").context("SWEETMCP_TOKEN is not set")?;
    let tool = Tool::new(&args.tool, &args.arguments)?;
    let mut attack = GooseAttack::initialize_with_config(configuration(&args))
        .context("goose does not take this configuration")?;
    for persona in &args.personas {
        let scenario = personas::scenario(*persona, &tool, &token);
        attack = attack.register_scenario(scenario.context("a persona cannot be made")?);
    }
    let before = Measured::now(&args.measure);
    // goose has words of its own for standard output, when it is interrupted for one; the result stands there alone.
    let stdout = rustix::io::dup(std::io::stdout()).context("cannot keep standard output")?;
    rustix::stdio::dup2_stdout(std::io::stderr()).context("cannot turn standard output away")?;
    let metrics = attack.execute().await.context("the run failed")?;
    rustix::stdio::dup2_stdout(stdout).context("cannot take standard output back")?;
    let used = before.until_now(&args.measure);
    let summary = Summary::new(&metrics, used, &objectives);
    print(&summary, args.output)?;
    Ok(summary.verdict.code())
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn print(summary: &Summary, output: Output) -> Result<()> {
    match output {
        Output::Text => print!("{summary}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(summary)?),
    }
    Ok(())
}

fn configuration(args: &Args) -> GooseConfiguration {
    let report = args.report.as_deref().map(|path| {
        let with = |extension| path.with_extension(extension).display().to_string();
        vec![with("html"), with("json")]
    });
    let mut configuration = GooseConfiguration::default();
    configuration.host = Some(args.host.clone());
    configuration.users = Some(args.users);
    configuration.increase_time = Some("1s".to_owned());
    configuration.run_time = Some(format!("{}s", args.duration.as_secs().max(1)));
    configuration.throttle_requests = args.rate;
    configuration.report_file = report.unwrap_or_default();
    // goose would open ports for controllers.
    configuration.no_telnet = true;
    // The summary is ours.
    configuration.no_print_metrics = true;
    configuration.no_error_summary = true;
    configuration.quiet = 2;
    configuration
}
