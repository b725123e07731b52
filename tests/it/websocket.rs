//! MCP over WebSocket, by clients that nobody here wrote.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Fleet, python, workspace};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::clients::{in_node, in_python};
use crate::eras::everything;

/// Bounds that the test can reach, and room for all that it does at once.
const BOUNDS: &str = "[edge.websocket]\nmessage_limit = \"64KiB\"\n[fleet]\napps = 1\n";
const PATIENCE: Duration = Duration::from_secs(30);

fn address(fleet: &Fleet) -> String {
    let mcp = fleet.status.endpoints.mcp.replacen("http", "ws", 1);
    format!("{mcp}/v1/ws")
}

#[tokio::test]
async fn clients_of_every_revision_talk_both_ways_and_bounds_hold() -> Result<()> {
    let fleet = Fleet::up(&format!("{BOUNDS}{}", everything()?)).await?;
    let (url, token) = (address(&fleet), fleet.token.as_str());
    let said = in_python("ws_client.py", &[&url, token]).await?;
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let legacy = &said["legacy"][revision];
        assert_eq!(legacy["revision"], revision, "{legacy}");
        assert_eq!(legacy["early"], -32600, "{legacy}");
        assert_eq!(legacy["progress"], json!([1, 2, 3]), "{legacy}");
        assert_eq!(legacy["level"], json!({}), "{legacy}");
        assert_eq!(legacy["subprotocol"], "mcp", "{legacy}");
        assert_eq!(legacy["failed"], json!({}), "{legacy}");
        assert!(
            legacy["sampled"].to_string().contains("sampled-9"),
            "{legacy}"
        );
        assert!(legacy["roots"].to_string().contains("root-9"), "{legacy}");
        assert!(legacy["tools"].as_u64() > Some(5), "{legacy}");
        // Older revisions have no questions of this kind.
        let is_asked = revision >= "2025-06-18";
        let text = legacy["text"].as_str().unwrap_or_default();
        assert_eq!(text.contains("Name: Ana"), is_asked, "{revision}: {legacy}");
    }
    let modern = &said["modern"];
    assert_eq!(modern["first"], "input_required", "{modern}");
    assert!(modern["text"].to_string().contains("Name: Ana"), "{modern}");
    assert_eq!(modern["progress"], json!([1, 2, 3]), "{modern}");
    assert_eq!(
        (&modern["twice"], &modern["future"], &modern["unknown"]),
        (&json!(-32600), &json!(-32022), &json!(-32601)),
        "{modern}"
    );
    assert_eq!(
        said["fragments"],
        json!({"jsonrpc": "2.0", "id": 1, "result": {}})
    );
    for (case, expect) in [
        ("broken", json!(-32700)),
        ("empty", json!(-32600)),
        (
            "busy",
            json!([-31503, -31503, -31503, -31503, -31503, -31503]),
        ),
        ("binary", json!(1003)),
        ("large", json!(1009)),
        ("utf8", json!(1007)),
        ("protocol", json!(1002)),
        ("nobody", json!(401)),
        ("page", json!(403)),
        ("own page", json!(101)),
    ] {
        assert_eq!(said[case], expect, "{case}: {said}");
    }

    let said = in_node("asked_v1.mjs", &[&url, token]).await?;
    assert_eq!(
        said["questions"].as_array().map(Vec::len),
        Some(1),
        "{said}"
    );
    assert!(said["text"].to_string().contains("Name: Ana"), "{said}");
    assert_eq!(said["progress"], json!([1, 2, 3]), "{said}");

    // Whoever does not speak WebSocket is told what is spoken here.
    let plain = fleet.client().get(url.replacen("ws", "http", 1).as_str());
    let plain = fleet.client().send(plain).await?;
    assert_eq!((plain.status, plain.header("upgrade")), (426, "websocket"));
    Ok(())
}

#[tokio::test]
async fn a_drain_and_a_token_that_ends_close_connections_after_what_is_under_way() -> Result<()> {
    let fleet = Fleet::up(&format!("[edge.auth]\nleeway = \"0s\"\n{}", everything()?)).await?;
    let brief = fleet.mint(&["--ttl", "4s"]).await?;
    let url = address(&fleet);
    let mut expiring = Speaker::start(&url, &brief).await?;
    let mut lasting = Speaker::start(&url, &fleet.token).await?;
    // Each has a call under way that its connection outlives.
    expiring.call(6).await?;
    let (told, code) = expiring.end().await?;
    assert!(told.to_string().contains("completed"), "{told}");
    assert_eq!(code, 1008);

    lasting.call(3).await?;
    let (down, ended) = tokio::join!(fleet.sweetops(&["down"]), lasting.end());
    down?.ok()?;
    let (told, code) = ended?;
    assert!(told.to_string().contains("completed"), "{told}");
    assert_eq!(code, 1001);
    Ok(())
}

/// A client that sends lines and prints messages, then the close code.
struct Speaker {
    process: tokio::process::Child,
    said: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Speaker {
    async fn start(url: &str, token: &str) -> Result<Speaker> {
        let script = workspace().join("tests/clients/ws_lines.py");
        let mut process = Command::new(python("python")?)
            .arg(script)
            .args([url, token])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let said = process.stdout.take().context("no output")?;
        let said = BufReader::new(said).lines();
        let mut speaker = Speaker { process, said };
        ensure!(speaker.line().await? == json!("open"), "not open");
        Ok(speaker)
    }

    async fn line(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(PATIENCE, self.said.next_line()).await??;
        Ok(serde_json::from_str(&line.context("it has ended")?)?)
    }

    /// Begins a call that takes so many seconds, and waits until it is under way.
    async fn call(&mut self, seconds: u64) -> Result<()> {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "everything_trigger-long-running-operation",
            "arguments": {"duration": seconds, "steps": seconds * 4},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
                "progressToken": "p",
            },
        }});
        let stdin = self.process.stdin.as_mut().context("no input")?;
        stdin.write_all(format!("{message}\n").as_bytes()).await?;
        let first = self.line().await?;
        ensure!(first["method"] == "notifications/progress", "{first}");
        Ok(())
    }

    /// The last message, and the code of the close after it.
    async fn end(&mut self) -> Result<(Value, u64)> {
        let mut last = Value::Null;
        loop {
            let line = self.line().await?;
            match line["close"].as_u64() {
                Some(code) => return Ok((last, code)),
                None => last = line,
            }
        }
    }
}
