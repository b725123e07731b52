//! What clients cost that only listen: memory of the process that they listen to, for each of many idle streams.
//!
//! The clients are bare sockets of this process. What the kernel keeps for a socket is no process's memory and comes on top.
//! The whole of it, on a release build:
//! `cargo build --release --bins && cargo nextest run --release -p tests --run-ignored only idle_streams`

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::{Fleet, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
/// Most memory that one idle stream may take, in bytes.
const STREAM_BYTES_MAX: usize = 12_000;
/// Streams that are opened before it is measured: what is made once is made by then.
const FIRST: usize = 200;

/// A stream, as its client opens it.
struct Kind {
    name: &'static str,
    /// Whom it is opened at.
    role: &'static str,
    request: String,
    /// What its answer has when it has begun.
    begins: &'static str,
}

fn events(token: &str) -> Kind {
    Kind {
        name: "/mcp/v1/events at an edge",
        role: "edge",
        request: format!(
            "GET /mcp/v1/events HTTP/1.1\r\nHost: edge\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n"
        ),
        begins: "\nid: ",
    }
}

/// As an edge listens at an app, or a client at either.
fn listening(role: &'static str, token: &str) -> Kind {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {
        "notifications": {"toolsListChanged": true},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}}})
    .to_string();
    Kind {
        name: if role == "app" {
            "subscriptions/listen at an app"
        } else {
            "subscriptions/listen at an edge"
        },
        role,
        request: format!(
            "POST /mcp HTTP/1.1\r\nHost: app\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        begins: "acknowledged",
    }
}

/// Opens one more; returned when it has begun.
fn open(address: &str, kind: &Kind) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(kind.request.as_bytes())?;
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(kind.begins) {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk)?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(count > 0, "{}: {text}", kind.name);
        answer.extend_from_slice(&chunk[..count]);
    }
    Ok(stream)
}

/// Memory that a process holds and shares with nobody, in bytes.
fn held(pid: u32) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no RssAnon")?.parse::<usize>()? * 1024)
}

async fn measure(count: usize) -> Result<()> {
    let fleet = Fleet::up(
        "[edge.events]\nstreams_max_principal = 16384\n[edge.rate]\nper_second = 100000\nburst = 100000\n[fleet]\napps = 1\n",
    )
    .await?;
    let status = fleet
        .sweetops(&["status", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    for kind in [events(&fleet.token), listening("app", &fleet.token)] {
        let instances = status["instances"].as_array().context("no instances")?;
        let instance = instances.iter().find(|one| one["role"] == kind.role);
        let instance = instance.with_context(|| status.to_string())?;
        let address = instance["address"].as_str().context("no address")?;
        let pid = u32::try_from(instance["pid"].as_u64().context("no pid")?)?;
        let mut streams = (0..FIRST)
            .map(|_| open(address, &kind))
            .collect::<Result<Vec<_>>>()?;
        let before = held(pid)?;
        for _ in 0..count {
            streams.push(open(address, &kind)?);
        }
        let each = held(pid)?.saturating_sub(before) / count;
        eprintln!("{}: {each} bytes a stream, of {count}", kind.name);
        assert!(
            each <= STREAM_BYTES_MAX,
            "{}: {each} bytes a stream",
            kind.name
        );
        // Others are served meanwhile, and when the streams are gone there is room for others.
        fleet.call_tool("time_now", json!({})).await?;
        drop(streams);
        eventually(PATIENCE, async || open(address, &kind).map(drop)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_idle_streams_take_little_memory() -> Result<()> {
    measure(1000).await
}

#[tokio::test]
#[ignore = "long: run it on a release build with --run-ignored only"]
async fn ten_thousand_idle_streams_take_little_memory() -> Result<()> {
    measure(10_000).await
}
