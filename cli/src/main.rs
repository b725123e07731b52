//! `sweetops`: brings a fleet up, looks after it, changes it.
//!
//! One file per verb; [`args`] is the contents page. Results go to standard output, everything else to
//! standard error; how a verb ended is its exit code ([`exit`]).

mod args;

mod config;
mod deploy;
mod down;
mod drift;
mod loadtest;
mod logs;
mod plugins;
mod restart;
mod rollback;
mod rollouts;
mod status;
mod token;
mod top;
mod traffic;
mod up;
mod usage;

mod agent;
mod tui;

mod binaries;
mod context;
mod exit;
mod failure;
mod follow;
mod keys;
mod output;
mod release;
mod state;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use telemetry::TelemetryOptions;

use crate::args::{Cli, Verb};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Output, Terminal};
use crate::state::StateDir;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return args::refuse(&refused),
    };
    let out = Output::new(cli.output, Terminal::detect());
    let usage = args::usage_exit(cli.verb.name());
    let ended = StateDir::locate(cli.state.as_deref(), |name| std::env::var_os(name))
        .map(|state| Context::new(state, out))
        .map_err(|error| (Output::new(cli.output, Terminal::detect()), error))
        .and_then(|ctx| perform(&ctx, cli.verb).map_err(|error| (ctx.out, error)));
    match ended {
        Ok(exit) => exit.into(),
        Err((out, error)) => {
            let mut told = failure::tell(&error);
            if told.exit == Exit::USAGE {
                told.exit = usage;
            }
            out.fail(&told);
            told.exit.into()
        }
    }
}

/// Prepares the process for its verb, runs it, and lets telemetry finish.
fn perform(ctx: &Context, verb: Verb) -> Result<Exit> {
    if verb.is_agent() {
        // Away from the terminal and the process group of whoever started it.
        rustix::process::setsid().context("cannot leave the session of the starter")?;
    }
    let telemetry = verb.supervises().then(start_telemetry).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(args::run(ctx, verb));
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Some(guard) = telemetry {
        guard.shutdown();
    }
    ended
}

fn start_telemetry() -> Result<telemetry::Guard> {
    telemetry::start(&TelemetryOptions {
        service: "sweetops-agent",
        instance: "agent".to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        log_format: telemetry::LogFormat::Auto,
        log_filter: "info".to_owned(),
        otlp_endpoint: None,
        sample_ratio: 0.0,
    })
    .context("cannot start the log")
}
