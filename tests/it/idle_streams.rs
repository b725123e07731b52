//! What clients cost that only listen: memory of the process that they listen to, for each of many idle streams.
//!
//! The clients are bare sockets of this process. What the kernel keeps for a socket is no process's memory and comes on top.
//! The whole of it: `cargo nextest run --workspace --run-ignored only -E 'test(ten_thousand_idle_streams)'`, on a release build
//! with `--release` after `cargo build --release --workspace --bins`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Fleet, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
/// Most memory that one idle stream may take, in bytes.
const STREAM_BYTES_MAX: usize = 12_000;
/// Streams that are opened before it is measured: what is made once is made by then.
const FIRST: usize = 200;

/// A stream, as its client opens it.
struct Kind {
    name: String,
    /// Whom it is opened at.
    role: &'static str,
    request: Request,
    /// What its answer has when it has begun.
    begins: &'static str,
}

enum Request {
    Same(String),
    /// In a session of its own, to be begun before with the other request.
    OfSession {
        begin: String,
        request: String,
    },
}

fn events(token: &str) -> Kind {
    Kind {
        name: "/mcp/v1/events at an edge".to_owned(),
        role: "edge",
        request: Request::Same(get("/mcp/v1/events", token, "")),
        begins: "\nid: ",
    }
}

fn get(path: &str, token: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: fleet\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
    )
}

fn post(token: &str, more: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /mcp HTTP/1.1\r\nHost: fleet\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nAuthorization: Bearer {token}\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The stream of a session of the older era.
fn of_session(token: &str) -> Kind {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    Kind {
        name: "a session's GET at an edge".to_owned(),
        role: "edge",
        request: Request::OfSession {
            begin: post(token, "", &body),
            request: get("/mcp", token, "Mcp-Session-Id: SESSION\r\n"),
        },
        begins: "\nretry: ",
    }
}

/// As an edge listens at an app, or a client at either.
fn listening(role: &'static str, token: &str) -> Kind {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {
        "notifications": {"toolsListChanged": true},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}}});
    let head = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n";
    Kind {
        name: format!("subscriptions/listen at an {role}"),
        role,
        request: Request::Same(post(token, head, &body)),
        begins: "acknowledged",
    }
}

/// Opens one more; returned when it has begun.
fn open(address: &str, kind: &Kind) -> Result<TcpStream> {
    let request = match &kind.request {
        Request::Same(request) => request.clone(),
        Request::OfSession { begin, request } => {
            let (_, answer) = ask(address, begin, "\r\n\r\n")?;
            let token = answer.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("mcp-session-id").then_some(value)
            });
            request.replace("SESSION", token.context("no session")?)
        }
    };
    let (stream, _) = ask(address, &request, kind.begins).with_context(|| kind.name.clone())?;
    Ok(stream)
}

/// Sends a request on a connection of its own and reads its answer up to `until`.
fn ask(address: &str, request: &str, until: &str) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    while !answer.contains(until) {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&chunk[..count])?);
    }
    Ok((stream, answer))
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

/// Opens so many streams of one kind at a fleet of its own, which has no memory that was used before.
#[expect(clippy::print_stderr, reason = "figures are for whoever measures")]
async fn measure(kind: impl Fn(&str) -> Kind, count: usize) -> Result<()> {
    let fleet = Fleet::up(
        "[edge.http]\nstreams_max_principal = 16384\n[edge.events]\nstreams_max_principal = 16384\n[edge.rate]\nper_second = 100000\nburst = 100000\n[fleet]\napps = 1\n",
    )
    .await?;
    let kind = kind(&fleet.token);
    let status = fleet.sweetops(&["status", "-o", "json"]).await?.ok()?;
    let status = status.json()?;
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
    eventually(PATIENCE, async || open(address, &kind).map(drop)).await
}

async fn measure_all(count: usize) -> Result<()> {
    measure(events, count).await?;
    measure(|token| listening("app", token), count).await?;
    measure(|token| listening("edge", token), count).await?;
    // Each is a session of its own, and has a record in the fleet's store: a thousand of them show what they take.
    measure(of_session, count.min(1000)).await
}

#[tokio::test]
async fn a_thousand_idle_streams_take_little_memory() -> Result<()> {
    measure_all(1000).await
}

#[tokio::test]
#[ignore = "long: run it with --run-ignored only"]
async fn ten_thousand_idle_streams_take_little_memory() -> Result<()> {
    measure_all(10_000).await
}
