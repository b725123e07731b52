//! What is told of a request: its ID and its trace, from the client to a plugin, in answers, logs and spans;
//! and what Prometheus makes of the metrics.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Answer, Fleet, eventually, python, workspace};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PATIENCE: Duration = Duration::from_secs(20);

/// A plugin that tells with which `_meta` it was called.
pub(crate) fn meta_plugin() -> String {
    let server = workspace().join("tests/clients/meta_server.py");
    format!(
        "[[plugin]]\nname = \"meta\"\nprefix = \"\"\nkind = \"stdio\"\ncommand = \"python3\"\nargs = [\"{}\"]\n",
        server.display()
    )
}

/// All lines of JSON that the fleet's logs have, by what kind of instance wrote them.
pub(crate) fn logged(
    fleet: &Fleet,
    request_id: &str,
) -> Result<BTreeMap<&'static str, Vec<Value>>> {
    let mut found: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
    for entry in std::fs::read_dir(fleet.state().join("logs"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        let role = match name.split('-').next() {
            Some("edge") => "edge",
            Some("app") => "app",
            _ => continue,
        };
        for line in std::fs::read_to_string(&path)?.lines() {
            let line: Value = serde_json::from_str(line)
                .with_context(|| format!("{name} has a line that is no JSON: {line}"))?;
            if line["request_id"] == request_id {
                found.entry(role).or_default().push(line);
            }
        }
    }
    Ok(found)
}

async fn call(fleet: &Fleet, tool: &str, headers: &[(&'static str, &str)]) -> Result<Answer> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}});
    let mut request = fleet
        .client()
        .post(&fleet.status.endpoints.jsonrpc)
        .json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    fleet.client().send(request).await
}

#[tokio::test]
async fn a_requests_id_is_the_same_everywhere() -> Result<()> {
    let fleet = Fleet::up(&meta_plugin()).await?;
    let answer = call(&fleet, "meta", &[("x-request-id", "my-own-id")]).await?;
    assert_eq!(answer.header("x-request-id"), "my-own-id");
    let meta = answer.json["result"]["content"][0]["text"].as_str();
    let meta: Value = serde_json::from_str(meta.with_context(|| answer.text.clone())?)?;
    assert_eq!(meta["dev.sweetmcp/requestId"], "my-own-id");
    let lines = eventually(PATIENCE, || async {
        let lines = logged(&fleet, "my-own-id")?;
        ensure!(lines.len() == 2, "{lines:?}");
        Ok(lines)
    })
    .await?;
    let [edge] = &lines["edge"][..] else {
        panic!("one line at the edge: {lines:?}")
    };
    for (field, want) in [
        ("kind", "access"),
        ("tenant", "default"),
        ("subject", "developer"),
        ("protocol", "jsonrpc"),
        ("http_method", "POST"),
        ("route", "/mcp/v1/jsonrpc"),
        ("mcp_method", "tools/call"),
        ("tool", "meta"),
        ("outcome", "ok"),
    ] {
        assert_eq!(edge[field], want, "{field}: {edge}");
    }
    assert_eq!(edge["status"], 200);
    for field in ["bytes_in", "bytes_out", "duration_us", "attempts"] {
        assert!(
            edge[field].as_u64().is_some_and(|n| n > 0),
            "{field}: {edge}"
        );
    }
    let [app] = &lines["app"][..] else {
        panic!("one line at the app: {lines:?}")
    };
    assert_eq!(app["trace_id"], edge["trace_id"]);
    assert_eq!(
        (&app["subject"], &app["tool"]),
        (&edge["subject"], &edge["tool"])
    );

    let documented = std::fs::read_to_string(workspace().join("runbooks/reading-logs.md"))?;
    for field in [edge, app]
        .iter()
        .filter_map(|line| line.as_object())
        .flat_map(|l| l.keys())
    {
        assert!(
            documented.contains(&format!("| `{field}` |")),
            "{field} is not documented"
        );
    }

    // What fails, and what the edge answers by itself, is told of as well.
    for (id, body, status, method) in [
        (
            "a-failure",
            json!({"jsonrpc": "2.0", "id": 1, "method": "no/such"}),
            None,
            "other",
        ),
        (
            "a-ping",
            json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}),
            Some(200),
            "ping",
        ),
        (
            "a-notice",
            json!({"jsonrpc": "2.0", "method": "notifications/x"}),
            Some(202),
            "other",
        ),
        ("no-message", json!([]), Some(400), ""),
    ] {
        let request = fleet.client().post(&fleet.status.endpoints.jsonrpc);
        let request = request.header("x-request-id", id).json(&body);
        let answer = fleet.client().send(request).await?;
        assert_eq!(answer.header("x-request-id"), id);
        if !answer.json["error"].is_null() {
            assert_eq!(answer.json["error"]["data"]["requestId"], id);
        }
        eventually(PATIENCE, || async {
            let lines = logged(&fleet, id)?;
            let edge = lines.get("edge").context("no line")?;
            ensure!(edge.len() == 1, "{edge:?}");
            ensure!(status.is_none_or(|s| edge[0]["status"] == s), "{edge:?}");
            ensure!(
                edge[0]["mcp_method"].as_str().unwrap_or_default() == method,
                "{edge:?}"
            );
            Ok(())
        })
        .await?;
    }
    for bad in ["two words", &"x".repeat(129)] {
        let answer = call(&fleet, "meta", &[("x-request-id", bad)]).await?;
        let made = answer.header("x-request-id");
        // The fifteenth character of a UUID is its version.
        assert_eq!(
            (made.len(), made.as_bytes().get(14)),
            (36, Some(&b'7')),
            "{made}"
        );
    }
    Ok(())
}

/// A real OTLP receiver that prints each span as a line of JSON.
async fn collector() -> Result<(tokio::process::Child, String, mpsc::Receiver<Value>)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let mut child = Command::new(python("oteltap")?)
        .args(["--port", &port.to_string()])
        .env("PYTHONUNBUFFERED", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    eventually(PATIENCE, || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        Ok(())
    })
    .await?;
    let (tell, spans) = mpsc::channel(1024);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Ok(span) = serde_json::from_str(&line)
                && tell.send(span).await.is_err()
            {
                return;
            }
        }
    });
    Ok((child, format!("http://127.0.0.1:{port}"), spans))
}

#[tokio::test]
async fn a_trace_goes_from_the_client_through_each_attempt_to_the_plugin() -> Result<()> {
    let (_collector, endpoint, mut spans) = collector().await?;
    let telemetry = format!("[telemetry]\notlp_endpoint = \"{endpoint}\"\nsample_ratio = 0.0\n");
    let fleet = Fleet::up(&format!("{telemetry}{}", meta_plugin())).await?;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [
        ("traceparent", &*parent),
        ("tracestate", "vendor=x"),
        ("baggage", "color=blue"),
    ];
    let answer = call(&fleet, "meta", &headers).await?;
    let meta = answer.json["result"]["content"][0]["text"].as_str();
    let meta: Value = serde_json::from_str(meta.with_context(|| answer.text.clone())?)?;
    assert!(
        meta["traceparent"]
            .as_str()
            .is_some_and(|t| t.contains(TRACE)),
        "{meta}"
    );
    assert_eq!(
        (&meta["tracestate"], &meta["baggage"]),
        (&json!("vendor=x"), &json!("color=blue"))
    );

    // Client, request at the edge, call, attempt: each the child of the one before, told in any order.
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    let request = loop {
        let span = tokio::time::timeout(PATIENCE, spans.recv())
            .await
            .with_context(|| format!("only {seen:#?}"))?
            .context("the collector has gone")?;
        if span["traceId"] == TRACE {
            seen.insert(span["spanId"].as_str().unwrap_or_default().to_owned(), span);
        }
        let parent = |span: &Value| seen.get(span["parentSpanId"].as_str().unwrap_or_default());
        let attempt = seen.values().find(|span| span["name"] == "attempt");
        if let Some(request) = attempt.and_then(parent).and_then(parent) {
            break request.clone();
        }
    };
    assert_eq!(request["parentSpanId"], "00f067aa0ba902b7");
    let id = answer.header("x-request-id");
    for span in seen.values() {
        assert!(
            span["attributes"].to_string().contains(id),
            "{span:#} is not of {id}"
        );
    }
    Ok(())
}
