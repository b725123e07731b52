//! A client that goes away, cancels, or runs out of time ends its call's work: down to a child's process and to a remote
//! server, of either era.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Fleet, eventually, workspace};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::eras::{Session, modern};

const PATIENCE: Duration = Duration::from_secs(20);
/// The longest that a call is waited for.
const STREAM_TIME: Duration = Duration::from_secs(60);
/// The servers, by the names of their plugins.
const SERVERS: [&str; 4] = ["oldchild", "newchild", "oldremote", "newremote"];

struct Remote {
    url: String,
    _process: Child,
}

async fn remote(era: &str) -> Result<Remote> {
    let mut process = Command::new("python3")
        .arg(workspace().join("tests/clients/hanging_server.py"))
        .arg(era)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut said = BufReader::new(process.stdout.take().context("no output")?).lines();
    let url = said.next_line().await?.context("it says nothing")?;
    Ok(Remote {
        url,
        _process: process,
    })
}

async fn fleet(old: &Remote, new: &Remote) -> Result<Fleet> {
    let rude = workspace().join("services/app/tests/it/rude_server.py");
    let child = |name: &str, mood: &str| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nkind = \"stdio\"\ncommand = \"python3\"\nargs = [\"{}\", \"{mood}\"]\n",
            rude.display()
        )
    };
    let http = |name: &str, at: &Remote| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nkind = \"http\"\nurl = \"{}\"\n",
            at.url
        )
    };
    Fleet::up(&format!(
        "[edge.rate]\nper_second = 1000\nburst = 1000\n[fleet]\napps = 1\n{}{}{}{}",
        child("oldchild", "legacy"),
        child("newchild", "modern"),
        http("oldremote", old),
        http("newremote", new),
    ))
    .await
}

/// How many calls a server has hung, or was told to give up.
async fn count(fleet: &Fleet, server: &str, what: &str) -> Result<u64> {
    let answer = fleet
        .call_tool(&format!("{server}_{what}"), json!({}))
        .await?;
    let said: Value =
        serde_json::from_str(answer["content"][0]["text"].as_str().context("no text")?)?;
    let number = said
        .as_u64()
        .or_else(|| said.as_array().map(|list| list.len() as u64));
    number.with_context(|| said.to_string())
}

/// How a call is given up.
const WAYS: [&str; 4] = [
    "its stream is closed",
    "its connection is closed",
    "its session cancels it",
    "its time is over",
];

/// Begins a call that hangs, gives it up when the server works on it, and waits until the server knows.
async fn gives_up(fleet: &Fleet, server: &str, way: &str) -> Result<()> {
    let hung = count(fleet, server, "hung").await?;
    let cancelled = count(fleet, server, "cancelled").await?;
    let params = json!({"name": format!("{server}_hang"), "arguments": {}});
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    let ends = &fleet.status.endpoints;
    let plain = fleet.client().post(&ends.jsonrpc).json(&body);
    let session = Session::open(fleet).await?;
    let request = match way {
        "its stream is closed" => modern(fleet, "tools/call", params, "leaves"),
        "its connection is closed" => plain,
        "its session cancels it" => session.with(fleet.client().post(&ends.mcp).json(&body)),
        _ => plain.header("sweetmcp-deadline-ms", "2000"),
    };
    let call = tokio::spawn(request.timeout(STREAM_TIME).send());
    eventually(PATIENCE, || async {
        ensure!(count(fleet, server, "hung").await? > hung, "not begun");
        Ok(())
    })
    .await?;
    match way {
        "its time is over" => {}
        "its session cancels it" => {
            let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}});
            let told = session.with(fleet.client().post(&ends.mcp).json(&cancel));
            ensure!(fleet.client().send(told).await?.status == 202);
        }
        _ => call.abort(),
    }
    eventually(PATIENCE, || async {
        let now = count(fleet, server, "cancelled").await?;
        ensure!(now == cancelled + 1, "{now} calls were given up");
        Ok(())
    })
    .await?;
    match way {
        "its time is over" => {
            let answer = call.await??.text().await?;
            ensure!(answer.contains("-31504"), "{answer}");
        }
        // A session's stream outlives its call.
        _ => call.abort(),
    }
    Ok(())
}

#[tokio::test]
async fn whoever_gives_up_ends_the_work_down_to_child_and_remote_server() -> Result<()> {
    let (old, new) = (remote("legacy").await?, remote("modern").await?);
    let fleet = fleet(&old, &new).await?;
    for server in SERVERS {
        for way in WAYS {
            let given_up = gives_up(&fleet, server, way).await;
            given_up.with_context(|| format!("{server}: {way}"))?;
        }
    }
    Ok(())
}
