//! What clients cost that only listen.

use std::time::Duration;

use app::{plugin::builtin::Set, server::Limits};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{App, builtin, until};

/// The most that one idle listener may cost, in bytes, with its connection. Here each costs a client's socket as well.
const COST_BYTES_MAX: usize = 12_000;

/// Bytes of memory that this process holds.
fn held() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

async fn listen(address: &str) -> TcpStream {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {
        "notifications": {"toolsListChanged": true},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}}})
    .to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("acknowledged") {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&chunk[..count]);
    }
    stream
}

async fn measure(count: usize) {
    let limits = Limits {
        // Places of requests: far fewer than those who listen.
        in_flight: 100,
        ..Limits::default()
    };
    let app = App::start_with(vec![builtin("time", Set::Time)], limits).await;
    let address = app.url.trim_start_matches("http://").to_owned();
    let mut streams = vec![listen(&address).await];
    let before = held();
    while streams.len() < count {
        streams.push(listen(&address).await);
    }
    let each = held().saturating_sub(before) / count;
    assert!(
        each < COST_BYTES_MAX,
        "{count} listeners cost {each} bytes each"
    );
    assert_eq!(app.call("time_now", json!({})).await.outcome, "ok");
    drop(streams);
    until("all have left", async || {
        let metrics = app.get("/metrics").await.1;
        metrics.contains("sweetmcp_app_listeners 0\n").then_some(())
    })
    .await;
    app.life.drain();
    assert_eq!(app.listening.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn five_hundred_idle_listeners_are_cheap() {
    measure(500).await;
}

#[tokio::test]
#[ignore = "long: 20,000 descriptors in this process; run it with --run-ignored only"]
async fn nine_thousand_idle_listeners_are_cheap() {
    measure(9_000).await;
}
