//! Clients of the older era, served by the app alone.

use std::time::Duration;

use app::{plugin::builtin::Set, server::Limits};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::harness::{App, Events, PATIENCE, builtin, rude, sessions, until};

const BOTH: &str = "application/json, text/event-stream";

/// A client with a session, or before it has one.
pub struct Older {
    url: String,
    session: Option<String>,
    principal: &'static str,
}

impl Older {
    pub async fn initialize(app: &App, revision: &str) -> Self {
        let mut client = Self {
            url: format!("{}/mcp", app.url),
            session: None,
            principal: "ana",
        };
        let response = client
            .post(
                json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
                    "protocolVersion": revision,
                    "capabilities": {"elicitation": {}, "roots": {}},
                    "clientInfo": {"name": "test", "version": "0"},
                }}),
            )
            .await;
        assert_eq!(response.status(), 200);
        let session = response.headers()["mcp-session-id"].to_str().unwrap();
        client.session = Some(session.to_owned());
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["result"]["protocolVersion"], revision);
        assert_eq!(answer["result"]["serverInfo"]["name"], "sweetmcp");
        client
    }

    async fn send(
        &self,
        method: Method,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Response {
        // A client of its own: its connection closes with the stream.
        let mut request = reqwest::Client::new()
            .request(method, &self.url)
            .header("accept", BOTH)
            .header("sweetmcp-principal", self.principal);
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    pub async fn post(&self, body: Value) -> Response {
        self.send(Method::POST, &[], Some(body)).await
    }

    /// Opens the session's stream, or reads one on after an event.
    pub async fn get(&self, after: Option<&str>) -> Events {
        let headers: Vec<_> = after.map(|id| ("last-event-id", id)).into_iter().collect();
        let response = self.send(Method::GET, &headers, None).await;
        assert_eq!(response.status(), 200);
        Events::of(response)
    }

    /// The same client, talking to another app.
    fn at(&self, app: &App) -> Self {
        Self {
            url: format!("{}/mcp", app.url),
            session: self.session.clone(),
            ..*self
        }
    }
}

fn call(id: u64, tool: &str, meta: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": tool, "arguments": {}, "_meta": meta}})
}

async fn app() -> App {
    App::start(vec![builtin("time", Set::Time), rude("legacy")]).await
}

#[tokio::test]
async fn a_session_lives_from_initialize_to_delete_and_is_its_owners() {
    let app = app().await;
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let client = Older::initialize(&app, revision).await;
        let told = client
            .post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await;
        assert_eq!(told.status(), 202);
        let answer = client.post(call(1, "time_now", json!({}))).await;
        assert_eq!(answer.headers()["content-type"], "application/json");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["id"], 1);
        assert!(answer["result"]["content"].is_array(), "{answer}");
        assert!(answer["result"].get("resultType").is_none(), "{answer}");
        // No head mirrors an argument in this era.
        let strict = client.post(call(2, "rude_strict", json!({}))).await;
        assert!(strict.json::<Value>().await.unwrap()["result"].is_object());

        let ping = json!({"jsonrpc": "2.0", "id": 3, "method": "ping"});
        let batch = client
            .post(json!([ping, call(4, "time_now", json!({}))]))
            .await;
        if revision == "2025-03-26" {
            let answers: Vec<Value> = batch.json().await.unwrap();
            let mut ids: Vec<u64> = answers.iter().filter_map(|a| a["id"].as_u64()).collect();
            ids.sort_unstable();
            assert_eq!(ids, [3, 4]);
        } else {
            assert_eq!(batch.status(), 400);
        }

        let bob = Older {
            principal: "bob",
            ..client.at(&app)
        };
        let stranger = Older {
            session: None,
            ..client.at(&app)
        };
        for (who, status) in [(&client, 200), (&bob, 404), (&stranger, 400)] {
            assert_eq!(who.post(ping.clone()).await.status(), status);
        }
        assert_eq!(client.send(Method::DELETE, &[], None).await.status(), 204);
        assert_eq!(client.post(ping.clone()).await.status(), 404);
        assert_eq!(client.send(Method::GET, &[], None).await.status(), 404);
        assert_eq!(stranger.send(Method::DELETE, &[], None).await.status(), 405);
        let page = client.send(
            Method::POST,
            &[("origin", "https://evil.example")],
            Some(ping),
        );
        assert_eq!(page.await.status(), 403);
    }
    let metrics = app.get("/metrics").await.1;
    assert!(metrics.contains("initialize"), "{metrics}");
}

#[tokio::test]
async fn a_question_may_be_answered_at_another_app_of_the_fleet() {
    let shared = sessions();
    let one = App::start_in(vec![rude("legacy")], Limits::default(), shared.clone()).await;
    let other = App::start_in(vec![rude("legacy")], Limits::default(), shared).await;
    let client = Older::initialize(&one, "2025-06-18").await;
    // So that the other knows the session, and watches.
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(client.at(&other).post(ping).await.status(), 200);
    let mut events = Events::of(client.post(call(2, "rude_elicit", json!({}))).await);
    let asked = events.next().await.unwrap();
    assert_eq!(asked["method"], "elicitation/create");
    let reply = json!({"action": "accept", "content": {"name": "Ana"}});
    let answered = client
        .at(&other)
        .post(json!({"jsonrpc": "2.0", "id": asked["id"], "result": reply}))
        .await;
    assert_eq!(answered.status(), 202);
    let result = events.next().await.unwrap();
    assert_eq!(result["id"], 2);
    let text = result["result"]["content"][0]["text"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), json!([reply]));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_call_outlives_its_connection_and_is_read_on_at_another_app() {
    let shared = sessions();
    let one = App::start_in(vec![rude("legacy")], Limits::default(), shared.clone()).await;
    let other = App::start_in(vec![rude("legacy")], Limits::default(), shared).await;
    let client = Older::initialize(&one, "2025-11-25").await;
    let mut events = Events::of(client.post(call(1, "rude_elicit", json!({}))).await);
    let asked = events.next().await.unwrap();
    let seen = events.last_id.clone().unwrap();
    drop(events);
    let reply = json!({"action": "decline"});
    client
        .post(json!({"jsonrpc": "2.0", "id": asked["id"], "result": reply}))
        .await;
    let mut rest = client.at(&other).get(Some(&seen)).await;
    let result = rest.next().await.unwrap();
    assert_eq!(
        (&result["id"], result["result"].is_object()),
        (&json!(1), true),
        "{result}"
    );
    assert!(rest.next().await.is_none());
    one.life.drain();
    assert_eq!(one.listening.drain(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_down_to_the_child() {
    let app = app().await;
    let client = Older::initialize(&app, "2025-06-18").await;
    let mut hang = call(7, "rude_hang", json!({"progressToken": "p"}));
    hang["params"]["arguments"] = json!({"begin": true});
    let mut events = Events::of(client.post(hang).await);
    assert_eq!(events.next().await.unwrap()["params"]["progressToken"], "p");
    client
        .post(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}))
        .await;
    assert!(events.next().await.is_none(), "no answer follows");
    until("the child knows", async || {
        let cancelled = app.call("rude_cancelled", json!({})).await.said();
        (!cancelled.as_array()?.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_sessions_stream_tells_of_changes_and_ends_with_its_app() {
    let app = app().await;
    let client = Older::initialize(&app, "2025-06-18").await;
    let mut stream = client.get(None).await;
    let subscribe = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe",
        "params": {"uri": "x://watched"}});
    assert_eq!(client.post(subscribe).await.status(), 200);
    until("the child has the subscription", async || {
        let uris = app.call("rude_subscribed", json!({})).await.said();
        (uris == json!(["x://watched"])).then_some(())
    })
    .await;
    app.call("rude_touch", json!({})).await;
    let told = stream.next().await.unwrap();
    assert_eq!(told["method"], "notifications/resources/updated");
    assert_eq!(told["params"], json!({"uri": "x://watched"}));
    app.call("rude_grow", json!({})).await;
    let told = stream.next().await.unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed");
    app.life.drain();
    assert!(stream.next().await.is_none());
    assert_eq!(app.listening.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn places_are_held_for_as_long_as_a_call_goes_on() {
    let limits = Limits {
        in_flight: 1,
        ..Limits::default()
    };
    let app = App::start_with(vec![rude("legacy")], limits).await;
    let client = Older::initialize(&app, "2025-06-18").await;
    let mut events = Events::of(client.post(call(1, "rude_elicit", json!({}))).await);
    events.next().await.unwrap();
    drop(events);
    let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping"});
    assert_eq!(client.post(ping).await.status(), 503);
    app.life.drain();
    let began = tokio::time::Instant::now();
    app.listening.drain(Duration::from_millis(200)).await;
    assert!(
        began.elapsed() >= Duration::from_millis(200),
        "the call was waited for"
    );
}
