//! What the HTTP side promises whatever the plugins are.

use std::time::Duration;

use app::{plugin::builtin::Set, server::Limits};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{App, builtin, rude};

async fn app() -> App {
    App::start(vec![builtin("time", Set::Time)]).await
}

#[tokio::test]
async fn discovery_and_lists_have_the_protocols_form() {
    let app = app().await;
    let discover = app.ask("server/discover", json!({})).await;
    let result = &discover.body["result"];
    assert_eq!(result["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(
        result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"],
        "sweetmcp"
    );
    assert!(result["capabilities"]["tools"].is_object());
    let list = app.ask("tools/list", json!({})).await;
    let result = &list.body["result"];
    assert_eq!(
        (&result["resultType"], &result["cacheScope"]),
        (&json!("complete"), &json!("public"))
    );
    assert!(result["ttlMs"].as_u64().unwrap() > 0);
    let names: Vec<_> = result["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["time_between", "time_convert", "time_now"]);
    for tool in result["tools"].as_array().unwrap() {
        assert_eq!(tool["annotations"]["readOnlyHint"], true);
        assert_eq!(tool["inputSchema"]["type"], "object");
        assert_eq!(tool["outputSchema"]["type"], "object");
    }
}

#[tokio::test]
async fn refusals_have_the_protocols_status_and_code() {
    let app = app().await;
    for (method, params, headers, want) in [
        (
            "tools/call",
            json!({"name": "nothing"}),
            vec![],
            (400, -32602),
        ),
        (
            "tools/call",
            json!({"name": "time_now", "arguments": []}),
            vec![],
            (400, -32602),
        ),
        ("tools/list", json!({"cursor": "?"}), vec![], (400, -32602)),
        (
            "tools/list",
            json!({}),
            vec![("mcp-method", "tools/list")],
            (400, -32020),
        ),
        ("ping", json!({}), vec![], (404, -32601)),
        (
            "resources/read",
            json!({"uri": "x://y"}),
            vec![],
            (400, -32602),
        ),
    ] {
        let answer = app.ask_with(method, params.clone(), &headers).await;
        assert_eq!((answer.status, answer.code()), want, "{method} {params}");
        assert_eq!(answer.outcome, "error");
        assert_eq!(answer.body["id"], 1);
    }
    assert_eq!(app.get("/mcp").await.0, 405);
    assert_eq!(app.get("/nowhere").await.0, 404);
}

#[tokio::test]
async fn request_ids_are_kept_or_made_and_told() {
    let app = app().await;
    let client = reqwest::Client::new();
    for (sent, kept) in [("mine-1", true), ("not\tone", false)] {
        let response = client
            .post(format!("{}/mcp", app.url))
            .header("x-request-id", sent)
            .body("{")
            .send()
            .await
            .unwrap();
        let header = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(response.headers()["sweetmcp-release"], "r-1");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["data"]["requestId"], header.as_str());
        assert_eq!(header == sent, kept);
    }
}

#[tokio::test]
async fn bodies_are_bounded_announced_or_not() {
    let limits = Limits {
        body_bytes: 100_000,
        ..Limits::default()
    };
    let app = App::start_with(vec![builtin("time", Set::Time)], limits).await;
    for head in [
        "Content-Length: 100001\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut stream = TcpStream::connect(app.url.trim_start_matches("http://"))
            .await
            .unwrap();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = [b"2710\r\n".as_slice(), &[b' '; 10_000], b"\r\n"].concat();
        // The server may close before it has read everything: that is what it is for.
        for _ in 0..20 {
            if stream.write_all(&chunk).await.is_err() {
                break;
            }
        }
        let mut answer = vec![0; 4096];
        let count = stream.read(&mut answer).await.unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 413") && answer.contains("-31413"),
            "{head}: {answer:?}"
        );
    }
    assert_eq!(app.call("time_now", json!({})).await.outcome, "ok");
}

#[tokio::test]
async fn slow_heads_and_bodies_are_cut_off_while_others_are_served() {
    let limits = Limits {
        header: Duration::from_millis(300),
        request: Duration::from_millis(600),
        ..Limits::default()
    };
    let app = App::start_with(vec![builtin("time", Set::Time)], limits).await;
    let address = app.url.trim_start_matches("http://").to_owned();
    let mut slow_head = TcpStream::connect(&address).await.unwrap();
    slow_head
        .write_all(b"POST /mcp HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let mut slow_body = TcpStream::connect(&address).await.unwrap();
    slow_body
        .write_all(b"POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        .await
        .unwrap();
    assert_eq!(app.call("time_now", json!({})).await.outcome, "ok");
    let mut answer = String::new();
    slow_head.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
    let mut answer = vec![0; 4096];
    let count = slow_body.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(
        answer.starts_with("HTTP/1.1 504") && answer.contains("-31504"),
        "{answer}"
    );
}

#[tokio::test]
async fn too_many_requests_at_once_are_refused() {
    let limits = Limits {
        in_flight: 1,
        ..Limits::default()
    };
    let app = App::start_with(vec![rude("legacy")], limits).await;
    let hang = app.ask_with(
        "tools/call",
        json!({"name": "rude_hang", "arguments": {}}),
        &[("sweetmcp-deadline-ms", "3000")],
    );
    let other = async {
        crate::harness::until("there is no place left", async || {
            (app.get("/health/ready").await.0 == 503).then_some(())
        })
        .await;
        app.call("rude_pid", json!({})).await
    };
    let (hung, refused) = tokio::join!(hang, other);
    assert_eq!((refused.status, refused.code()), (503, -31503));
    assert_eq!((hung.status, hung.code()), (504, -31504));
}

#[tokio::test]
async fn probes_and_metrics_tell_how_it_stands() {
    let app = app().await;
    app.call("time_now", json!({})).await;
    app.call("time_now", json!({"zone": 7})).await;
    for probe in ["/health/live", "/health/ready", "/health/startup"] {
        assert_eq!(app.get(probe).await.0, 200, "{probe}");
    }
    let (status, report) = app.get("/health").await;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (status, &report["subsystems"]["plugins"][0]["status"]),
        (200, &json!("ready"))
    );
    let (_, metrics) = app.get("/metrics").await;
    for line in [
        r#"sweetmcp_app_tool_calls_total{outcome="ok",tool="time_now"} 1"#,
        r#"sweetmcp_app_tool_calls_total{outcome="tool_error",tool="time_now"} 1"#,
        r#"sweetmcp_app_plugin_up{plugin="time"} 1"#,
        "sweetmcp_app_body_buffer_bytes 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    app.life.drain();
    assert_eq!(app.get("/health/ready").await.0, 503);
    assert_eq!(app.get("/health/live").await.0, 200);
}

#[tokio::test]
async fn a_drain_answers_what_is_under_way() {
    let app = App::start(vec![rude("legacy")]).await;
    let url = app.url.clone();
    let call = tokio::spawn(async move {
        let params = json!({"name": "rude_hang", "arguments": {}});
        crate::harness::ask(
            &reqwest::Client::new(),
            &url,
            "tools/call",
            params,
            &[("sweetmcp-deadline-ms", "2000")],
        )
        .await
    });
    let reading = async || {
        app.get("/health")
            .await
            .1
            .contains(r#""in_flight":2"#)
            .then_some(())
    };
    crate::harness::until("the call is under way", reading).await;
    assert_eq!(app.listening.drain(Duration::from_secs(20)).await, 0);
    assert_eq!(call.await.unwrap().status, 504);
    app.mounts.stop().await;
}
