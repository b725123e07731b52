//! What a principal is told on `/mcp/v1/events`, by a standard client and byte by byte.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Fleet, eventually, test_tools, workspace};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::eras::{Reading, SecondEdge, everything};
use crate::tool_search::hundred_tools;

const PATIENCE: Duration = Duration::from_secs(30);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_secs(2);

fn address(fleet: &Fleet) -> String {
    format!("{}/v1/events", fleet.status.endpoints.mcp)
}

/// An EventSource of Node.
struct Source {
    _process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Source {
    async fn open(url: &str, token: &str) -> Result<Source> {
        // Node finds packages beside the script.
        let folder = test_tools().join("clients");
        std::fs::create_dir_all(&folder)?;
        let script = folder.join("events.mjs");
        std::fs::copy(workspace().join("tests/clients/events.mjs"), &script)?;
        let mut process = Command::new("node")
            .arg(script)
            .args([url, token])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let said = BufReader::new(process.stdout.take().context("no output")?).lines();
        let mut source = Source {
            _process: process,
            said,
        };
        ensure!(source.next().await? == json!({"open": true}), "not open");
        Ok(source)
    }

    async fn next(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(PATIENCE, self.said.next_line()).await??;
        Ok(serde_json::from_str(&line.context("it has ended")?)?)
    }

    /// Reads on until a message of this method.
    async fn hear(&mut self, method: &str) -> Result<Value> {
        loop {
            let said = self.next().await?;
            if said["message"]["method"] == method {
                return Ok(said);
            }
        }
    }

    /// Whether nothing of this method is said for a while.
    async fn is_silent_on(&mut self, method: &str) -> Result<bool> {
        match tokio::time::timeout(SILENCE, self.hear(method)).await {
            Err(_) => Ok(true),
            Ok(heard) => heard.map(|_| false),
        }
    }
}

impl Reading {
    /// Reads on to one step of a call, with its event's id.
    async fn hear_progress(&mut self, token: &str, step: u64) -> Result<(String, Value)> {
        loop {
            let (id, heard) = self.next_with_id().await?.context("it has ended")?;
            let params = &heard["params"];
            if params["progressToken"] == token && params["progress"] == step {
                return Ok((id, heard));
            }
        }
    }
}

/// A plain JSON-RPC call that tells of its progress, and can be told of it in no answer.
async fn work(fleet: &Fleet, token: &str) -> Result<()> {
    work_at(fleet, &fleet.status.endpoints.mcp, token).await
}

async fn work_at(fleet: &Fleet, edge: &str, token: &str) -> Result<()> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "everything_trigger-long-running-operation",
        "arguments": {"duration": 1, "steps": 3},
        "_meta": {"progressToken": token}}});
    let answer = fleet
        .client()
        .post_json(&format!("{edge}/v1/jsonrpc"), &body)
        .await?;
    ensure!(answer.text.contains("completed"), "{}", answer.text);
    Ok(())
}

#[tokio::test]
async fn a_principal_hears_of_its_calls_of_lists_and_of_resources_and_nobody_elses() -> Result<()> {
    let plugins = format!("{}{}", everything()?, hundred_tools());
    let fleet = Fleet::up(&format!("[fleet]\napps = 1\n{plugins}")).await?;
    let url = address(&fleet);
    let listed = fleet
        .client()
        .mcp(&fleet.status.endpoints.mcp, "resources/list", json!({}))
        .await?;
    let uri = listed.json["result"]["resources"][0]["uri"].as_str();
    let uri = uri.with_context(|| listed.text.clone())?.to_owned();
    let stranger = fleet.mint(&["--subject", "stranger"]).await?;
    let mut own = Source::open(
        &format!("{url}?resource={}", uri.replace(':', "%3A")),
        &fleet.token,
    )
    .await?;
    let mut other = Source::open(&url, &stranger).await?;

    work(&fleet, "p-1").await?;
    for n in 1..=3 {
        let heard = own.hear("notifications/progress").await?;
        assert_eq!(heard["message"]["params"]["progress"], n, "{heard}");
        assert_eq!(
            heard["message"]["params"]["progressToken"], "p-1",
            "{heard}"
        );
    }
    fleet
        .call_tool("everything_toggle-subscriber-updates", json!({}))
        .await?;
    let updated = own.hear("notifications/resources/updated").await?;
    assert_eq!(updated["message"]["params"]["uri"], *uri, "{updated}");
    assert!(other.is_silent_on("notifications/progress").await?);
    fleet.call_tool("time_now", json!({})).await?;
    fleet
        .call_tool("redis_get", json!({"forget": "redis_set"}))
        .await?;
    for source in [&mut own, &mut other] {
        source.hear("notifications/tools/list_changed").await?;
    }

    // Nobody without a token, and no other method.
    for (request, status) in [
        (reqwest::Client::new().get(&url), 401),
        (reqwest::Client::new().post(&url), 405),
        (fleet.client().get(&format!("{url}?level=loud")), 400),
        (fleet.client().get(&url).header("accept", "text/html"), 406),
        (
            fleet
                .client()
                .get(&url)
                .header("origin", "https://evil.example"),
            403,
        ),
    ] {
        assert_eq!(fleet.client().send(request).await?.status, status);
    }

    // Another life of the edge knows nothing of what was; the client comes back by itself and is told so.
    let edge = fleet.status.instances.iter().find(|i| i.role == "edge");
    fleet.kill_9(edge.context("an edge")?.pid)?;
    while own.next().await?["missed"] != true {}
    own.hear("notifications/tools/list_changed").await?;
    Ok(())
}

#[tokio::test]
async fn who_comes_back_hears_what_was_missed_and_many_hear_what_comes() -> Result<()> {
    let bounds = "[edge.events]\nstreams_max_principal = 200\n[fleet]\napps = 1\n";
    let fleet = Fleet::up(&format!("{bounds}{}", everything()?)).await?;
    let url = address(&fleet);
    let open = |last: Option<&str>| {
        let request = fleet.client().get(&url);
        let request = match last {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        Reading::open(request)
    };
    let mut first = open(None).await?;
    work(&fleet, "before").await?;
    let (id, heard) = first.next_with_id().await?.context("nothing")?;
    assert_eq!(heard["params"]["progress"], 1, "{heard}");
    drop(first);
    work(&fleet, "meanwhile").await?;
    let mut again = open(Some(&id)).await?;
    let mut heard = Vec::new();
    for _ in 0..5 {
        let message = again.next().await?.context("nothing")?;
        heard.push((
            message["params"]["progressToken"].clone(),
            message["params"]["progress"].clone(),
        ));
    }
    let expect = [
        ("before", 2),
        ("before", 3),
        ("meanwhile", 1),
        ("meanwhile", 2),
        ("meanwhile", 3),
    ];
    assert_eq!(heard, expect.map(|(token, n)| (json!(token), json!(n))));

    // Many, of which none is in another's way.
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(open(None).await?);
    }
    // They all hear, and when they are gone nothing of them is left in the way of others.
    work(&fleet, "all").await?;
    for stream in &mut idle {
        let heard = stream.next().await?.context("nothing")?;
        ensure!(heard["params"]["progressToken"] == "all", "{heard}");
    }
    drop(idle);
    eventually(PATIENCE, || async { open(None).await.map(drop) }).await
}

/// A real Redis on a free port.
async fn redis() -> Result<(Child, String)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let child = Command::new("redis-server")
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("run ./tests/install")?;
    eventually(PATIENCE, || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        Ok(())
    })
    .await?;
    Ok((child, format!("redis://127.0.0.1:{port}")))
}

#[tokio::test]
async fn edges_share_events_through_redis_and_go_on_without_it() -> Result<()> {
    let (mut redis, url) = redis().await?;
    let shared = format!("[edge.redis]\nurl = \"{url}\"\n[fleet]\napps = 1\n");
    let fleet = Fleet::up(&format!("{shared}{}", everything()?)).await?;
    let second = SecondEdge::start(&fleet).await?;
    let first = fleet.status.endpoints.mcp.clone();
    let open = |edge: &str, last: &str| {
        let request = fleet.client().get(&format!("{edge}/v1/events"));
        Reading::open(request.header("last-event-id", last))
    };
    let work_at = async |edge: &str, token: &str| work_at(&fleet, edge, token).await;

    // Both edges hear Redis as soon as a call through one is told at the other.
    let mut stream = eventually(PATIENCE, async || {
        let mut stream = open(&first, "").await?;
        work_at(&second.url, "elsewhere").await?;
        let heard = stream.hear_progress("elsewhere", 1);
        tokio::time::timeout(Duration::from_secs(3), heard).await??;
        Ok(stream)
    })
    .await?;
    let (id, _) = stream.hear_progress("elsewhere", 3).await?;
    drop(stream);

    // Missed at one edge, read at the other, in order and once.
    work_at(&first, "missed").await?;
    let mut stream = open(&second.url, &id).await?;
    let mut heard = Vec::new();
    while heard.len() < 6 {
        heard.push(stream.next().await?.context("it has ended")?);
    }
    let lists = heard
        .iter()
        .filter(|m| m["method"].to_string().contains("list_changed"));
    assert_eq!(lists.count(), 3, "{heard:?}");
    let steps: Vec<&Value> = heard
        .iter()
        .map(|m| &m["params"]["progress"])
        .filter(|n| n.is_number())
        .collect();
    assert_eq!(steps, [&json!(1), &json!(2), &json!(3)], "{heard:?}");
    assert_eq!(heard[5]["params"]["progressToken"], "missed");

    // An edge that is killed takes nothing of it with it: all is read once and in order, at another edge and at its own
    // next life.
    let before = stream.last_id().context("no event had an id")?;
    work_at(&first, "told").await?;
    stream.hear_progress("told", 3).await?;
    drop(stream);
    let edge = fleet.status.instances.iter().find(|i| i.role == "edge");
    fleet.kill_9(edge.context("an edge")?.pid)?;
    work_at(&second.url, "since").await?;
    let missed = ["told", "since"].map(|token| [1, 2, 3].map(|n| (json!(token), json!(n))));
    let hear = async |edge: &str| {
        let mut stream = open(edge, &before).await?;
        let mut heard = Vec::new();
        while heard.len() < 6 {
            let message = stream.next().await?.context("it has ended")?;
            let params = &message["params"];
            if params["progress"].is_number() {
                heard.push((params["progressToken"].clone(), params["progress"].clone()));
            }
        }
        ensure!(heard == missed.concat(), "{heard:?}");
        Ok(())
    };
    hear(&second.url).await?;
    eventually(PATIENCE, || hear(&first)).await?;

    // Without Redis each edge tells of its own calls.
    redis.kill().await?;
    let mut stream = open(&first, "").await?;
    work_at(&first, "alone").await?;
    stream.hear_progress("alone", 3).await?;
    Ok(())
}
