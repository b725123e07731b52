//! What is said before a result, and changes that are told as they happen.

use std::sync::Arc;

use app::plugin::builtin::Set;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{App, alive, builtin, rude, until};

async fn app(mood: &str) -> App {
    App::start(vec![builtin("time", Set::Time), rude(mood)]).await
}

fn work(meta: Value) -> Value {
    json!({"name": "rude_work", "arguments": {}, "_meta": meta})
}

const LEVEL: &str = "io.modelcontextprotocol/logLevel";

#[tokio::test]
async fn progress_and_logs_come_as_wished_and_before_the_result() {
    for mood in ["legacy", "modern"] {
        let app = app(mood).await;
        let mut events = app
            .stream(
                "tools/call",
                work(json!({"progressToken": "mine", LEVEL: "warning"})),
            )
            .await;
        let headers = events.response.headers().clone();
        assert_eq!(headers["x-accel-buffering"], "no");
        let all = events.rest().await;
        let told: Vec<&Value> = all.iter().map(|message| &message["params"]).collect();
        assert_eq!(
            (told[0], told[1]),
            (
                &json!({"progress": 0, "progressToken": "mine"}),
                &json!({"level": "error", "data": 0})
            ),
            "{mood}"
        );
        assert_eq!(all.len(), 5, "{all:?}");
        assert_eq!(all[4]["result"]["content"][0]["text"], "\"done\"");
        app.mounts.stop().await;
    }
}

#[tokio::test]
async fn one_who_wishes_nothing_or_takes_no_events_gets_one_json_answer() {
    let app = app("legacy").await;
    for (meta, accept) in [
        (json!({}), "application/json, text/event-stream"),
        (
            json!({"progressToken": 1, LEVEL: "debug"}),
            "application/json",
        ),
    ] {
        let headers = [("accept", accept)];
        let answer = app.ask_with("tools/call", work(meta), &headers).await;
        assert_eq!(
            (answer.said(), answer.outcome.as_str()),
            (json!("done"), "ok")
        );
    }
    assert_eq!(app.call("rude_level", json!({})).await.said(), "debug");
    let wrong = app.ask("tools/call", work(json!({LEVEL: "loud"}))).await;
    assert_eq!((wrong.status, wrong.code()), (400, -32602));
    let wrong = app
        .ask("tools/call", work(json!({"progressToken": {}})))
        .await;
    assert_eq!((wrong.status, wrong.code()), (400, -32602));
}

#[tokio::test]
async fn equal_tokens_of_two_clients_do_not_meet() {
    let app = Arc::new(app("legacy").await);
    let turns = (0..8).map(|steps| {
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let mut params = work(json!({"progressToken": 1}));
            params["arguments"]["steps"] = json!(steps);
            let mut all = match steps {
                0 => vec![app.ask("tools/call", params).await.body],
                _ => app.stream("tools/call", params).await.rest().await,
            };
            assert!(all.pop().unwrap()["result"].is_object());
            assert_eq!(all.len(), steps, "{all:?}");
        })
    });
    for turn in turns.collect::<Vec<_>>() {
        turn.await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_costs_no_memory_and_nobody_else() {
    let app = app("legacy").await;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "rude_work", "arguments": {"steps": 50_000},
        "_meta": {"progressToken": 1, "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}}})
    .to_string();
    let mut slow = TcpStream::connect(app.url.trim_start_matches("http://"))
        .await
        .unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: rude_work\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    // The child is through with all its steps, although nobody has read them.
    assert_eq!(app.call("rude_level", json!({})).await.outcome, "ok");
    let mut read = String::new();
    let mut chunk = vec![0; 64 << 10];
    while !read.contains(r#""result""#) {
        let count = slow.read(&mut chunk).await.unwrap();
        assert!(count > 0, "the stream broke off");
        read.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    let told = read.matches("notifications/progress").count();
    assert!((1..50_000).contains(&told), "{told} of 50000 were kept");
}

#[tokio::test]
async fn closing_the_stream_cancels_the_work_in_the_child() {
    for mood in ["legacy", "modern"] {
        let app = app(mood).await;
        let client = app.call("rude_pid", json!({})).await.said();
        // A stream that has begun, and then waits.
        let begun = json!({"name": "rude_hang", "arguments": {"begin": true}, "_meta": {"progressToken": 1}});
        let mut events = app.stream("tools/call", begun).await;
        assert_eq!(
            events.next().await.unwrap()["method"],
            "notifications/progress"
        );
        assert_eq!(
            app.call("rude_cancelled", json!({})).await.said(),
            json!([])
        );
        drop(events);
        until("the child is told", async || {
            let told = app.call("rude_cancelled", json!({})).await.said();
            (told.as_array().unwrap().len() == 1).then_some(())
        })
        .await;
        assert!(alive(client.as_i64().unwrap()));
        app.mounts.stop().await;
    }
}

async fn listen(app: &App, filter: Value) -> (crate::harness::Events, Value) {
    let mut events = app
        .stream("subscriptions/listen", json!({"notifications": filter}))
        .await;
    let first = events.next().await.unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    let granted = first["params"]["notifications"].clone();
    (events, granted)
}

#[tokio::test]
async fn listeners_are_told_what_they_asked_for() {
    for mood in ["legacy", "modern"] {
        let app = app(mood).await;
        let wishes = json!({"toolsListChanged": true, "resourceSubscriptions": ["x://watched", "y://nobody"]});
        let (mut both, granted) = listen(&app, wishes).await;
        assert_eq!(
            granted,
            json!({"toolsListChanged": true, "resourceSubscriptions": ["x://watched"]})
        );
        let same = json!({"resourceSubscriptions": ["x://watched"]});
        let (mut updates, _) = listen(&app, same).await;
        let (mut prompts, _) = listen(&app, json!({"promptsListChanged": true})).await;
        until("the child has the subscription", async || {
            let uris = app.call("rude_subscribed", json!({})).await.said();
            (uris == json!(["x://watched"])).then_some(())
        })
        .await;
        app.call("rude_touch", json!({})).await;
        for events in [&mut both, &mut updates] {
            let told = events.next().await.unwrap();
            assert_eq!(told["method"], "notifications/resources/updated");
            assert_eq!(
                told["params"],
                json!({"uri": "x://watched", "_meta": {"io.modelcontextprotocol/subscriptionId": 1}})
            );
        }
        app.call("rude_grow", json!({})).await;
        let told = both.next().await.unwrap();
        assert_eq!(told["method"], "notifications/tools/list_changed");
        let listed = app.ask("tools/list", json!({})).await;
        assert!(listed.body.to_string().contains("rude_grown"));
        drop(both);
        drop(updates);
        until("the subscription is taken back", async || {
            let uris = app.call("rude_subscribed", json!({})).await.said();
            (uris == json!([])).then_some(())
        })
        .await;
        app.life.drain();
        let last = prompts.rest().await;
        assert_eq!(last.len(), 1, "{last:?}");
        assert_eq!(last[0]["result"]["resultType"], "complete");
        app.mounts.stop().await;
    }
}

#[tokio::test]
async fn a_subscription_outlives_the_childs_death() {
    let app = app("legacy").await;
    let (mut events, _) = listen(&app, json!({"resourceSubscriptions": ["x://watched"]})).await;
    app.call("rude_die", json!({})).await;
    app.until_answered("rude_pid").await;
    until("the new child has the subscription", async || {
        let uris = app.call("rude_subscribed", json!({})).await;
        (uris.body.get("result").is_some() && uris.said() == json!(["x://watched"])).then_some(())
    })
    .await;
    app.call("rude_touch", json!({})).await;
    assert_eq!(events.next().await.unwrap()["params"]["uri"], "x://watched");
}

#[tokio::test]
async fn bad_wishes_and_too_many_listeners_are_refused() {
    let limits = app::server::Limits {
        listeners: 1,
        ..app::server::Limits::default()
    };
    let app = App::start_with(vec![builtin("time", Set::Time)], limits).await;
    for (params, headers, want) in [
        (json!({}), vec![], (400, -32602)),
        (
            json!({"notifications": {"toolsListChanged": 1}}),
            vec![],
            (400, -32602),
        ),
        (
            json!({"notifications": {"resourceSubscriptions": "x"}}),
            vec![],
            (400, -32602),
        ),
        (
            json!({"notifications": {}}),
            vec![("accept", "application/json")],
            (406, -31406),
        ),
    ] {
        let answer = app.ask_with("subscriptions/listen", params, &headers).await;
        assert_eq!((answer.status, answer.code()), want);
    }
    let (first, _) = listen(&app, json!({"toolsListChanged": true})).await;
    let second = app
        .ask("subscriptions/listen", json!({"notifications": {}}))
        .await;
    assert_eq!((second.status, second.code()), (503, -31503));
    assert_eq!(
        app.get("/health")
            .await
            .1
            .matches(r#""in_flight":1"#)
            .count(),
        1
    );
    drop(first);
    until("its place is free", async || {
        let metrics = app.get("/metrics").await.1;
        metrics.contains("sweetmcp_app_listeners 0\n").then_some(())
    })
    .await;
    listen(&app, json!({"promptsListChanged": true})).await;
}
