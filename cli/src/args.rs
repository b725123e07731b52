//! The command line: every verb in the order in which one meets them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::context::Context;
use crate::exit::Exit;
use crate::output::Format;
use crate::{
    agent, config, deploy, down, drift, loadtest, logs, plugins, restart, rollback, rollouts,
    status, token, top, traffic, up, usage,
};

/// Runs a fleet of MCP gateways and apps: start it, watch it, change it.
#[derive(Debug, Parser)]
#[command(
    name = "sweetops",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 error, 2 usage, 3 verdict bad, 4 rolled back, 5 inconclusive, 6 refused,\n\
                  7 not rolled back, 8 partial, 124 timeout. `drift`: 0 none, 2 drift, 1 anything else."
)]
pub(crate) struct Cli {
    /// Folder that holds everything of one fleet [default: $XDG_STATE_HOME/sweetops or ~/.local/state/sweetops]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SWEETOPS_STATE",
        hide_env_values = true
    )]
    pub(crate) state: Option<PathBuf>,
    /// Form of the result
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = false
    )]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Up(up::UpArgs),
    Deploy(deploy::DeployArgs),
    Rollback(rollback::RollbackArgs),
    Rollout(rollouts::RolloutArgs),
    Top(top::TopArgs),
    Loadtest(loadtest::LoadtestArgs),
    Traffic(traffic::TrafficArgs),
    Drift(drift::DriftArgs),
    Down(down::DownArgs),
    Status(status::StatusArgs),
    Logs(logs::LogsArgs),
    Usage(usage::UsageArgs),
    Token(token::TokenArgs),
    Restart(restart::RestartArgs),
    Plugin(plugins::PluginArgs),
    Config(config::ConfigArgs),
    #[command(hide = true)]
    Agent(agent::AgentArgs),
}

impl Verb {
    /// The verb's word.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Deploy(_) => "deploy",
            Self::Rollback(_) => "rollback",
            Self::Rollout(_) => "rollout",
            Self::Top(_) => "top",
            Self::Loadtest(_) => "loadtest",
            Self::Traffic(_) => "traffic",
            Self::Drift(_) => "drift",
            Self::Down(_) => "down",
            Self::Status(_) => "status",
            Self::Logs(_) => "logs",
            Self::Usage(_) => "usage",
            Self::Token(_) => "token",
            Self::Restart(_) => "restart",
            Self::Plugin(_) => "plugin",
            Self::Config(_) => "config",
            Self::Agent(_) => "agent",
        }
    }

    /// Whether this process is to be the agent in the background.
    pub(crate) fn is_agent(&self) -> bool {
        matches!(self, Self::Agent(_))
    }

    /// Whether this process looks after others, and keeps a log.
    pub(crate) fn supervises(&self) -> bool {
        match self {
            Self::Agent(_) => true,
            Self::Up(args) => args.foreground,
            _ => false,
        }
    }
}

/// Runs the verb.
pub(crate) async fn run(ctx: &Context, verb: Verb) -> Result<Exit> {
    // Boxed, so that the largest verb does not size the others' stack.
    match verb {
        Verb::Up(args) => Box::pin(up::run(ctx, args)).await,
        Verb::Deploy(args) => Box::pin(deploy::run(ctx, args)).await,
        Verb::Rollback(args) => Box::pin(rollback::run(ctx, args)).await,
        Verb::Rollout(args) => Box::pin(rollouts::run(ctx, args)).await,
        Verb::Top(args) => Box::pin(top::run(ctx, args)).await,
        Verb::Loadtest(args) => Box::pin(loadtest::run(ctx, args)).await,
        Verb::Traffic(args) => Box::pin(traffic::run(ctx, args)).await,
        Verb::Drift(args) => Box::pin(drift::run(ctx, args)).await,
        Verb::Down(args) => Box::pin(down::run(ctx, args)).await,
        Verb::Status(args) => Box::pin(status::run(ctx, args)).await,
        Verb::Logs(args) => Box::pin(logs::run(ctx, args)).await,
        Verb::Usage(args) => Box::pin(usage::run(ctx, args)).await,
        Verb::Token(args) => Box::pin(token::run(ctx, args)).await,
        Verb::Restart(args) => Box::pin(restart::run(ctx, args)).await,
        Verb::Plugin(args) => Box::pin(plugins::run(ctx, args)).await,
        Verb::Config(args) => config::run(ctx, args),
        Verb::Agent(args) => Box::pin(agent::run(ctx, args)).await,
    }
}

/// The exit for wrong usage. `drift` says 2 for drift, so there it is 1.
pub(crate) fn usage_exit(verb: &str) -> Exit {
    if verb == "drift" {
        Exit::ERROR
    } else {
        Exit::USAGE
    }
}

/// Shows help or what is wrong with the command line, as clap words it.
pub(crate) fn refuse(refused: &clap::Error) -> ExitCode {
    // Nothing is left to tell if the stream is gone.
    let _ = refused.print();
    if refused.use_stderr() && wants_json(std::env::args()) {
        let exit = usage_exit(&verb_of(std::env::args()));
        let exit = serde_json::json!({"exit": {"code": exit.code, "reason": exit.reason}});
        let _ = writeln!(std::io::stdout(), "{exit:#}");
    }
    match refused.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::DONE.into(),
        _ => usage_exit(&verb_of(std::env::args())).into(),
    }
}

/// Whether a command line that could not be parsed asks for JSON.
fn wants_json(args: impl Iterator<Item = String>) -> bool {
    let args: Vec<String> = args.collect();
    let one = |arg: &String| ["-ojson", "-o=json", "--output=json"].contains(&arg.as_str());
    let two = |pair: &[String]| ["-o", "--output"].contains(&pair[0].as_str()) && pair[1] == "json";
    args.iter().any(one) || args.windows(2).any(two)
}

/// The verb on a command line that could not be parsed: the first word that is neither an option nor the
/// value of one.
fn verb_of(args: impl Iterator<Item = String>) -> String {
    let mut args = args.skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--state" | "--output" | "-o" => {
                args.next();
            }
            option if option.starts_with('-') => {}
            verb => return verb.to_owned(),
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_verb_is_found_on_a_broken_command_line() {
        let verb = |line: &str| verb_of(line.split(' ').map(str::to_owned));
        assert_eq!(verb("sweetops --state /x -o json drift --bogus"), "drift");
        assert_eq!(verb("sweetops --state=/x drift"), "drift");
        assert_eq!(verb("sweetops --bogus"), "");
        assert_eq!(usage_exit("drift").code, 1);
        assert_eq!(usage_exit("up").code, 2);
    }

    #[test]
    fn a_broken_command_line_may_ask_for_json() {
        let json = |line: &str| wants_json(line.split(' ').map(str::to_owned));
        assert!(json("sweetops -o json up --bogus") && json("sweetops up --output=json"));
        assert!(!json("sweetops up --bogus json"));
    }

    #[test]
    fn help_names_the_verbs() {
        let help = Cli::command().term_width(100).render_help().to_string();
        let verbs: Vec<&str> = help
            .lines()
            .skip_while(|l| *l != "Commands:")
            .skip(1)
            .take_while(|l| !l.is_empty())
            .collect();
        insta::assert_snapshot!(verbs.join("\n"), @r"
        up        Bring the fleet up, or up to date
        deploy    Bring a new release in by steps, judged against the one that runs
        rollback  Return to the release before, at once
        rollout   Look at rollouts, and tell the one under way what to do
        top       Watch the fleet live: calls, latency, errors, tools, instances, releases
        loadtest  Load-test the fleet with personas of four protocols
        traffic   Show or set how calls are split between releases
        drift     Compare what runs with what should run
        down      Stop the fleet: edges finish their requests, then apps
        status    Show the fleet: addresses, instances, traffic
        logs      Show what the instances have written
        usage     Show who has called what, how often, and what it cost
        token     Sign a token that the edges accept
        restart   Replace instances without losing a request
        plugin    Show the fleet's plugins, and approve what has changed in them
        config    Show what can be configured, or check a file
        ");
    }
}
