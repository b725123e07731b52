//! Checks a candidate before any user meets it: each instance is called directly, past the edges.
//!
//! An instance passes when it lists tools and answers a call of a harmless one, and has every plugin that the
//! stable release has working. A plugin may need longer than its instance, so one that does not work is looked at
//! again until the rollout loses patience.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mcp::{Revision, headers};
use registry::{Instance, PluginPhase, Role};
use rollout::Verification;
use serde_json::{Value, json};

use crate::up::harmless_tool;

/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(5);

/// Calls every ready instance of `release`.
pub(super) async fn verify(
    release: &str,
    stable: Option<&str>,
    instances: &[Instance],
) -> Verification {
    let candidates = ready(instances, release);
    if candidates.is_empty() {
        return Verification::Unreachable {
            reason: "no candidate is ready".to_owned(),
        };
    }
    let expected = stable.map_or_else(BTreeSet::new, |stable| working(&ready(instances, stable)));
    for candidate in candidates {
        let found = working(&[candidate]);
        // A plugin that the candidate does not have was taken out on purpose.
        let broken: Vec<&str> = candidate
            .plugins
            .iter()
            .map(|plugin| plugin.name.as_str())
            .filter(|name| expected.contains(name) && !found.contains(name))
            .collect();
        if !broken.is_empty() {
            return Verification::Unreachable {
                reason: format!(
                    "{}: plugin {} does not work",
                    candidate.name,
                    broken.join(", ")
                ),
            };
        }
        match call(candidate).await {
            Ok(()) => {}
            Err(Trouble::Failed(reason)) => {
                let reason = format!("{}: {reason}", candidate.name);
                return Verification::Failed { reason };
            }
            Err(Trouble::Unreachable(error)) => {
                let reason = format!("{}: {error:#}", candidate.name);
                return Verification::Unreachable { reason };
            }
        }
    }
    Verification::Passed
}

fn ready<'a>(instances: &'a [Instance], release: &str) -> Vec<&'a Instance> {
    let ours = |i: &&Instance| i.role == Role::App && i.release == release && i.is_ready();
    instances.iter().filter(ours).collect()
}

/// Plugins that work in any of these.
fn working<'a>(instances: &[&'a Instance]) -> BTreeSet<&'a str> {
    instances
        .iter()
        .flat_map(|instance| &instance.plugins)
        .filter(|plugin| plugin.state == PluginPhase::Ready)
        .map(|plugin| plugin.name.as_str())
        .collect()
}

enum Trouble {
    /// It answered, and wrongly.
    Failed(String),
    /// It could not be asked.
    Unreachable(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Unreachable(error)
    }
}

/// Lists the tools of one instance and calls a harmless one.
async fn call(instance: &Instance) -> Result<(), Trouble> {
    let http = reqwest::Client::builder()
        .timeout(CALL_MAX)
        .no_proxy()
        .build()
        .context("cannot start an HTTP client")?;
    let list = ask(&http, instance, "tools/list", None, json!({})).await?;
    let Some(tools) = list["result"]["tools"].as_array() else {
        return Err(Trouble::Failed(format!(
            "tools/list answered {}",
            message(&list)
        )));
    };
    if let Some(tool) = harmless_tool(tools) {
        let params = json!({"name": tool, "arguments": {}});
        let answer = ask(&http, instance, "tools/call", Some(tool), params).await?;
        if answer["result"].is_null() || answer["result"]["isError"] == true {
            return Err(Trouble::Failed(format!(
                "{tool} answered {}",
                message(&answer)
            )));
        }
    }
    Ok(())
}

async fn ask(
    http: &reqwest::Client,
    instance: &Instance,
    method: &str,
    name: Option<&str>,
    mut params: Value,
) -> Result<Value> {
    params["_meta"] = json!({
        mcp::call::META_VERSION: Revision::LATEST.as_str(),
        mcp::call::META_CLIENT_CAPABILITIES: {},
        mcp::call::META_CLIENT_INFO: {"name": "sweetops", "version": env!("CARGO_PKG_VERSION")},
    });
    let mut request = http
        .post(format!("http://{}/mcp", instance.address))
        .header("accept", "application/json, text/event-stream")
        .header(headers::PROTOCOL_VERSION, Revision::LATEST.as_str())
        .header(headers::METHOD, method);
    if let Some(name) = name {
        request = request.header(headers::NAME, headers::encode(name).as_ref());
    }
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer = request.json(&body).send().await;
    let answer = answer.with_context(|| format!("{method} was not answered"))?;
    let is_json = answer
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !is_json {
        bail!(
            "{method} was answered with status {} and no JSON",
            answer.status()
        );
    }
    answer
        .json()
        .await
        .with_context(|| format!("{method} was not answered with JSON"))
}

/// The error in an answer, in short.
fn message(answer: &Value) -> String {
    let text = answer["error"]["message"]
        .as_str()
        .or_else(|| answer["result"]["content"][0]["text"].as_str())
        .unwrap_or("something else");
    crate::output::printable(&text.chars().take(200).collect::<String>())
}

#[cfg(test)]
mod tests {
    use registry::PluginState;

    use super::*;

    #[tokio::test]
    async fn a_plugin_that_works_in_the_stable_release_must_work_in_the_candidate() {
        let instance = |name: &str, release: &str, state| {
            let mut instance = Instance::new(Role::App, name, release, "127.0.0.1:1");
            instance.plugins = vec![PluginState {
                name: "files".into(),
                state,
                ..PluginState::default()
            }];
            instance
        };
        let stable = instance("app-s-1", "s", PluginPhase::Ready);
        let broken = instance("app-c-1", "c", PluginPhase::Failed);
        let found = verify("c", Some("s"), &[stable.clone(), broken.clone()]).await;
        let reason = "app-c-1: plugin files does not work".to_owned();
        assert_eq!(found, Verification::Unreachable { reason });
        // One that has never worked is not the candidate's fault; nobody listens there, though.
        let found = verify("c", None, &[broken]).await;
        assert!(
            matches!(found, Verification::Unreachable { .. }),
            "{found:?}"
        );
        let found = verify("c", Some("s"), &[stable]).await;
        assert!(
            matches!(found, Verification::Unreachable { .. }),
            "{found:?}"
        );
    }
}
