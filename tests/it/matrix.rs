//! Every method, between clients of every kind at the oldest and the newest revision that they speak, and servers of
//! both eras, through edge and app.
//!
//! All clients follow one script (`tests/clients/matrix/script.*`) and tell what they saw; [`table`] says what that has
//! to be. What an SDK cannot do stands there with its reason, and a cell that has learnt to do it fails too.

mod rmcp_client;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::{Fleet, eventually, python, test_tools, workspace};
use tokio::process::Command;

use crate::telling::logged;
use table::{CLIENTS, Client, Driver, SERVERS};

const PATIENCE: Duration = Duration::from_secs(20);
/// Clients at work at once.
const AT_ONCE: usize = 3;
/// Calls after which both apps have been called.
const CALLS_MAX: usize = 100;
/// What one client may take for all of its cells.
const CLIENT_TIME: Duration = Duration::from_secs(240);

/// What a client told of one cell.
#[derive(Debug, Deserialize)]
struct Line {
    server: String,
    method: String,
    /// What it saw, if it came to an end.
    saw: Option<String>,
    /// Why it did not.
    failed: Option<String>,
}

#[tokio::test]
async fn every_method_works_between_clients_and_servers_of_both_eras() -> Result<()> {
    let fleet = with_both_servers().await?;
    let told: Vec<(Client, Result<Vec<Line>>)> = stream::iter(CLIENTS)
        .map(|client| {
            let fleet = &fleet;
            async move { (client, drive(&client, fleet).await) }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut wrong = Vec::new();
    let mut used = [false; table::EXCEPTIONS.len()];
    for (client, lines) in &told {
        match lines {
            Ok(lines) => wrong.extend(judge(client, lines, &mut used)),
            Err(error) => wrong.push(format!("{client}: {error:#}")),
        }
    }
    let stale = table::EXCEPTIONS.iter().zip(used).filter(|(_, used)| !used);
    wrong.extend(stale.map(|(exception, _)| format!("no cell needs {exception:?}")));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(fleet);
    std::fs::remove_dir_all(state())?;
    Ok(())
}

/// Holds what a client told against the table. Returns what differs.
fn judge(client: &Client, lines: &[Line], used: &mut [bool]) -> Vec<String> {
    let mut wrong = Vec::new();
    for server in SERVERS {
        for (method, _) in table::METHODS {
            let cell = format!("{client}, {server} server, {method}");
            let of_cell = |line: &&Line| line.server == server && line.method == method;
            let mut told = lines.iter().filter(of_cell);
            let (Some(line), None) = (told.next(), told.next()) else {
                wrong.push(format!("{cell}: not told of once"));
                continue;
            };
            let expected = match table::expected(client, server, method) {
                Ok((expected, exception)) => {
                    exception.into_iter().for_each(|index| used[index] = true);
                    expected
                }
                Err(ambiguous) => {
                    wrong.push(format!("{cell}: {ambiguous}"));
                    continue;
                }
            };
            if !expected.is(line.saw.as_deref(), line.failed.as_deref()) {
                wrong.push(format!(
                    "{cell}: expected {expected:?}, saw {:?}, failed {:?}",
                    line.saw, line.failed
                ));
            }
        }
    }
    wrong
}

/// Runs one client through its script.
async fn drive(client: &Client, fleet: &Fleet) -> Result<Vec<Line>> {
    let (url, token) = (&fleet.status.endpoints.mcp, &fleet.token);
    let (program, script) = match client.driver {
        Driver::Python(script) => (python("python")?, scripts().join(script)),
        Driver::Node(script) => (PathBuf::from("node"), beside_packages().join(script)),
        Driver::Rmcp => return rmcp_client::run(url, token, client.revision).await,
    };
    let run = Command::new(program)
        .arg(script)
        .args([url, token, client.revision, &SERVERS.join(",")])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(CLIENT_TIME, run)
        .await
        .context("it does not end")??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{said}", output.status);
    let told = String::from_utf8(output.stdout)?;
    let (first, lines) = told.split_once('\n').context("it says nothing")?;
    let first: Value = serde_json::from_str(first)?;
    ensure!(first["revision"] == client.revision, "it speaks {first}");
    let lines = lines.lines().map(|line| Ok(serde_json::from_str(line)?));
    lines.collect()
}

fn scripts() -> PathBuf {
    workspace().join("tests/clients/matrix")
}

/// Node finds packages beside scripts, so the scripts are put beside the packages.
fn beside_packages() -> PathBuf {
    test_tools().join("matrix")
}

/// What changes at the servers; when they are configured the fleet has no folder yet.
fn state() -> PathBuf {
    beside_packages().join(format!("state-{}", std::process::id()))
}

fn copy_scripts(to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(scripts())? {
        let path = entry?.path();
        if let (Some("mjs"), Some(name)) =
            (path.extension().and_then(|e| e.to_str()), path.file_name())
        {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// A fleet of two apps, each with a server of either era.
async fn with_both_servers() -> Result<Fleet> {
    copy_scripts(&beside_packages())?;
    let state = state();
    std::fs::create_dir_all(&state)?;
    let plugin = |name: &str, command: &Path, script: &Path| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nkind = \"stdio\"\ncommand = \"{}\"\nargs = [\"{}\", \"{}\"]\n",
            command.display(),
            script.display(),
            state.display()
        )
    };
    let fleet = Fleet::up(&format!(
        "[edge.rate]\nper_second = 1000\nburst = 1000\n[fleet]\napps = 2\n{}{}",
        plugin("new", &python("python")?, &scripts().join("new_server.py")),
        plugin(
            "old",
            Path::new("node"),
            &beside_packages().join("old_server.mjs")
        ),
    ))
    .await?;
    let mut asked = BTreeSet::new();
    for call in 0..CALLS_MAX {
        asked.insert(have_asked(&fleet, call).await?);
        if asked.len() == 2 {
            return Ok(fleet);
        }
    }
    bail!("only {asked:?} of two apps are called")
}

/// Has the older server ask. It does not say whom, so from then on its calls run one after another; before, a question
/// that came while another call was under way would be refused. Returns which app was called.
async fn have_asked(fleet: &Fleet, call: usize) -> Result<String> {
    let id = format!("ask-{call}");
    let params = json!({"name": "old_form", "arguments": {}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let request = fleet.client().post(&fleet.status.endpoints.jsonrpc);
    let request = request.header("x-request-id", &id).json(&body);
    let answer = fleet.client().send(request).await?;
    ensure!(answer.json["result"]["isError"] == true, "{}", answer.text);
    eventually(PATIENCE, || async {
        let lines = logged(fleet, &id)?;
        let line = lines.get("edge").and_then(|l| l.first());
        let backend = line.and_then(|line| line["backend"].as_str());
        backend.map(str::to_owned).context("no line")
    })
    .await
}
