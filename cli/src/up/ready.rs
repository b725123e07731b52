//! Waiting until the fleet answers: every instance that should run is registered and ready, and a tool can be
//! called through the edge.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Desired, Instance, PluginPhase, Process, ProcessState, Role};
use serde_json::{Value, json};
use settings::Settings;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// How often the fleet is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Lines of a failing instance's log that are shown.
const LINES_SHOWN: usize = 8;
/// Lines of it that are looked through for them.
const LINES_READ: usize = 1000;
/// How long one trial call may take.
const CALL_MAX: Duration = Duration::from_secs(5);

/// What is waited for.
#[derive(Debug)]
pub(crate) struct Goal {
    /// What should run.
    pub(crate) desired: Desired,
    /// The settings of the edge that should run.
    pub(crate) edge_settings: Settings,
}

/// A tool that answers, with arguments that it takes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    /// Its name.
    pub(crate) name: String,
    /// A JSON object.
    pub(crate) arguments: Value,
}

/// Waits; the tool that can be tried first.
pub(crate) async fn wait(ctx: &Context, goal: &Goal, patience: Duration) -> Result<Tool> {
    let mut waiting = String::from("the agent");
    let looking = async {
        loop {
            match look(ctx, goal).await? {
                Seen::Ready(tool) => return Ok(tool),
                Seen::Waiting(what) => waiting = what,
                Seen::Failed(process) => return Err(failed(ctx, &process)),
            }
            ctx.out.progress(&format!("waiting for {waiting}"));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let looked = tokio::time::timeout(patience, looking).await;
    ctx.out.clear_progress();
    looked.unwrap_or_else(|_| {
        Err(Failure::new(format!("not ready within {patience:?}: still waiting for {waiting}"))
            .hint("`sweetops status` shows how far it is, `sweetops logs INSTANCE` why it may hang; the agent goes on")
            .exit(Exit::TIMEOUT)
            .into())
    })
}

enum Seen {
    Ready(Tool),
    Waiting(String),
    Failed(Box<Process>),
}

async fn look(ctx: &Context, goal: &Goal) -> Result<Seen> {
    let registry = ctx.registry().await?;
    let instances = registry
        .instances()
        .await
        .context("cannot read the instances")?;
    let processes = registry
        .processes()
        .await
        .context("cannot read the processes")?;
    // A rollout may change what should run while this waits.
    let desired = registry
        .desired()
        .await
        .context("cannot read what should run")?;
    let desired = desired.map_or_else(|| goal.desired.clone(), |found| found.value);
    let verdict = judge(&desired, &instances, &processes);
    if !matches!(verdict, Seen::Ready(_)) {
        return Ok(verdict);
    }
    Ok(match first_call(ctx, &goal.edge_settings).await {
        Ok(tool) => Seen::Ready(tool),
        Err(error) => Seen::Waiting(format!("a first tool call ({error:#})")),
    })
}

/// Whether all that should run is ready. A ready fleet is shown with no tool yet.
fn judge(desired: &Desired, instances: &[Instance], processes: &[Process]) -> Seen {
    for pool in &desired.pools {
        let of_pool = |role: Role, release: &str| role == pool.role && release == pool.release;
        if let Some(failed) = processes
            .iter()
            .find(|p| of_pool(p.role, &p.release) && p.state == ProcessState::Failed)
        {
            return Seen::Failed(Box::new(failed.clone()));
        }
        let ready = instances
            .iter()
            .filter(|i| of_pool(i.role, &i.release) && i.is_ready())
            .count();
        let wanted = pool.replicas as usize;
        if ready < wanted {
            return Seen::Waiting(format!("{} ({ready} of {wanted} ready)", pool.role));
        }
    }
    Seen::Ready(Tool {
        name: String::new(),
        arguments: json!({}),
    })
}

/// Says how an instance ended, and what it last wrote about it.
fn failed(ctx: &Context, process: &Process) -> anyhow::Error {
    let name = &process.name;
    let mut message = format!("{name} does not start");
    if let Some(exit) = &process.last_exit {
        message.push_str(&format!(": {exit}"));
    }
    let (lines, _) = crate::logs::tail(&ctx.state.log(name), LINES_READ).unwrap_or_default();
    for line in last_words(&lines, &process.release) {
        message.push_str(&format!(
            "\n  {}",
            crate::logs::for_people(false, name, line)
        ));
    }
    Failure::new(message)
        .hint(format!(
            "mend what the log names, then `sweetops up` again; `sweetops logs {name}` shows more"
        ))
        .into()
}

/// The last lines that tell of a start of this release: an earlier process of the same name wrote to the
/// same log, and calls that were answered explain nothing.
fn last_words<'a>(lines: &'a [String], release: &str) -> Vec<&'a String> {
    let tells = |line: &&String| match serde_json::from_str::<Value>(line) {
        Ok(value) => {
            value["kind"] != "access" && value["release"].as_str().is_none_or(|r| r == release)
        }
        // A panic, or a word before the log began.
        Err(_) => true,
    };
    let told: Vec<&String> = lines.iter().filter(tells).collect();
    told[told.len().saturating_sub(LINES_SHOWN)..].to_vec()
}

/// One line per plugin that does not answer yet. A fleet is ready without it, so that one broken plugin does
/// not take the others' tools away; but whoever has just started it wants to know.
pub(crate) fn missing_plugins(instances: &[Instance]) -> Vec<String> {
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for instance in instances {
        for plugin in instance
            .plugins
            .iter()
            .filter(|p| p.state != PluginPhase::Ready)
        {
            missing
                .entry(&plugin.name)
                .or_default()
                .push(&instance.name);
        }
    }
    let line = |(plugin, on): (&str, Vec<&str>)| {
        format!(
            "the plugin `{plugin}` does not answer yet, so its tools are missing; `sweetops logs {}` shows why",
            on[0],
        )
    };
    missing.into_iter().map(line).collect()
}

/// Lists the tools through the edge and calls one, unless calls must be signed.
async fn first_call(ctx: &Context, settings: &Settings) -> Result<Tool> {
    let url = ctx
        .endpoints()?
        .jsonrpc
        .context("the edge has no address yet")?;
    let token = ctx.own_token(settings, "mcp")?;
    let http = reqwest::Client::builder()
        .timeout(CALL_MAX)
        .no_proxy()
        .build()?;
    let ask = async |method: &str, params: Value| -> Result<Option<Value>> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = http
            .post(&url)
            .bearer_auth(&token.token)
            .json(&body)
            .send()
            .await?;
        if answer.headers().contains_key("accept-signature") {
            return Ok(None);
        }
        let mut answer: Value = answer.json().await?;
        if let Some(message) = answer["error"]["message"].as_str() {
            anyhow::bail!("{message}");
        }
        Ok(Some(answer["result"].take()))
    };
    let Some(list) = ask("tools/list", json!({})).await? else {
        // The edge answers, and wants calls signed, which only those can who have a key.
        return Ok(Tool {
            name: "time_now".to_owned(),
            arguments: json!({}),
        });
    };
    let tool =
        choose(list["tools"].as_array().map_or(&[], Vec::as_slice)).context("no tool is listed")?;
    if tool.name == "time_now" {
        ask(
            "tools/call",
            json!({"name": tool.name, "arguments": tool.arguments}),
        )
        .await?;
    }
    Ok(tool)
}

/// The tool to try first: one that needs no arguments and changes nothing, if there is one.
fn choose(tools: &[Value]) -> Option<Tool> {
    let name = harmless_tool(tools).or_else(|| tools.first()?["name"].as_str())?;
    Some(Tool {
        name: name.to_owned(),
        arguments: json!({}),
    })
}

/// A tool that can be called without arguments and without consequences.
pub(crate) fn harmless_tool(tools: &[Value]) -> Option<&str> {
    let harmless = |tool: &&Value| {
        tool["annotations"]["readOnlyHint"] == true
            && tool["inputSchema"]["required"]
                .as_array()
                .is_none_or(Vec::is_empty)
    };
    let named = tools.iter().find(|tool| tool["name"] == "time_now");
    let tool = named.or_else(|| tools.iter().find(harmless))?;
    tool["name"].as_str()
}

#[cfg(test)]
mod tests {
    use registry::{PluginState, Pool};

    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let desired = Desired {
            pools: vec![Pool {
                role: Role::App,
                release: "r".into(),
                replicas: 2,
            }],
        };
        let ready = Instance::new(Role::App, "app-1", "r", "127.0.0.1:1");
        let other = Instance::new(Role::App, "app-2", "another", "127.0.0.1:2");
        match judge(&desired, &[ready.clone(), other], &[]) {
            Seen::Waiting(what) => assert_eq!(what, "app (1 of 2 ready)"),
            _ => panic!("two should run"),
        }
        let second = Instance::new(Role::App, "app-2", "r", "127.0.0.1:2");
        assert!(matches!(
            judge(&desired, &[ready, second], &[]),
            Seen::Ready(_)
        ));
    }

    #[test]
    fn the_last_words_are_of_the_release_that_fails() {
        let line = |kind: &str, release: &str, msg: &str| {
            json!({"kind": kind, "release": release, "msg": msg}).to_string()
        };
        let mut lines = vec![
            line("event", "old", "stopped"),
            line("access", "new", "call"),
        ];
        lines.push("Error: no such file".to_owned());
        lines.push(line("event", "new", "bad"));
        let shown = last_words(&lines, "new");
        assert_eq!(shown, [&lines[2], &lines[3]]);
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(last_words(&many, "new").len(), LINES_SHOWN);
    }

    #[test]
    fn a_plugin_that_does_not_answer_is_named_once() {
        let plugin = |name: &str, state| PluginState {
            name: name.into(),
            kind: "stdio".into(),
            state,
            ..PluginState::default()
        };
        let mut one = Instance::new(Role::App, "app-1", "r", "127.0.0.1:1");
        one.plugins = vec![
            plugin("good", PluginPhase::Ready),
            plugin("bad", PluginPhase::Failed),
        ];
        let two = Instance {
            name: "app-2".into(),
            ..one.clone()
        };
        insta::assert_snapshot!(missing_plugins(&[one, two]).join("\n"), @"the plugin `bad` does not answer yet, so its tools are missing; `sweetops logs app-1` shows why");
    }

    #[test]
    fn a_harmless_tool_is_tried_first() {
        let tools = [
            json!({"name": "files_write", "inputSchema": {}}),
            json!({"name": "files_list", "inputSchema": {}, "annotations": {"readOnlyHint": true}}),
            json!({"name": "time_now", "inputSchema": {}}),
        ];
        assert_eq!(choose(&tools).unwrap().name, "time_now");
        assert_eq!(choose(&tools[..2]).unwrap().name, "files_list");
        assert_eq!(choose(&[]), None);
    }
}
