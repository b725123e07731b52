//! Hosts driven in process: a scripted server behind, one set of shared records between, time on hold.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod};
use mcp::sse::{Decoder, Event};
use mcp::{Call, Cause, Failure};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Asker, Backend, Board, Body, Host, Memory, Request, Response, Shared};

/// What the scripted server does with a `tools/call` of a name.
type Script = fn(&Value) -> Vec<Value>;

/// A server of 2026-07-28 that answers from a script and notes what it was asked.
#[derive(Default)]
struct Server {
    asked: Mutex<Vec<Value>>,
    cancelled: Arc<Mutex<Vec<String>>>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<Value>>>,
    /// No more is admitted that the host does by itself.
    is_strict: AtomicBool,
}

/// Notes that a stream was dropped before its end.
struct Watched(Arc<Mutex<Vec<String>>>, String, bool);

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.2 {
            self.0.lock().unwrap().push(self.1.clone());
        }
    }
}

fn script(name: &str) -> Option<Script> {
    Some(match name {
        "plain" => |_| {
            vec![
                json!({"result": {"resultType": "complete", "content": [], "structuredContent": {"n": 1}}}),
            ]
        },
        "slow" => |_| vec![json!({"wait": 60}), json!({"result": {"content": []}})],
        "talks" => |_| {
            vec![
                json!({"method": "notifications/message", "params": {"level": "info", "data": "one"}}),
                json!({"method": "notifications/message", "params": {"level": "debug", "data": "never"}}),
                json!({"wait": 5}),
                json!({"method": "notifications/message", "params": {"level": "error", "data": "two"}}),
                json!({"result": {"content": []}}),
            ]
        },
        "asks" => |params| match params.get("inputResponses") {
            None => vec![
                json!({"result": {"resultType": "input_required", "requestState": "s",
                "inputRequests": {"name": {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}}}}}),
            ],
            Some(answers) => {
                let text = format!(
                    "{} {}",
                    params["requestState"], answers["name"]["content"]["n"]
                );
                vec![json!({"result": {"content": [{"type": "text", "text": text}]}})]
            }
        },
        _ => return None,
    })
}

impl Server {
    fn count(&self, method: &str) -> usize {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|m| m["method"] == method)
            .count()
    }

    fn tell(&self, message: Value) {
        self.listeners
            .lock()
            .unwrap()
            .retain(|l| l.send(message.clone()).is_ok());
    }
}

impl Backend for Server {
    type Caller = ();

    fn admit<'a>(&'a self, (): &'a ()) -> BoxFuture<'a, Result<(), Failure>> {
        let failure = Failure::new(Cause::RateLimited).retry_after(Duration::from_millis(1500));
        let admitted = match self.is_strict.load(Ordering::Relaxed) {
            true => Err(failure),
            false => Ok(()),
        };
        Box::pin(std::future::ready(admitted))
    }

    fn call(&self, (): &(), call: Call) -> BoxStream<'static, Result<Bytes, Failure>> {
        let asked: Value = serde_json::from_slice(&call.body).unwrap();
        self.asked.lock().unwrap().push(asked.clone());
        let id = asked["id"].clone();
        let steps = match asked["method"].as_str().unwrap() {
            "server/discover" => vec![json!({"result": {
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true}},
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "s", "version": "1"}},
            }})],
            "tools/call" => match script(asked["params"]["name"].as_str().unwrap()) {
                Some(script) => script(&asked["params"]),
                None => vec![json!({"error": {"code": -32602, "message": "no such tool"}})],
            },
            "subscriptions/listen" => {
                let (sender, told) = mpsc::unbounded_channel();
                self.listeners.lock().unwrap().push(sender);
                let messages =
                    stream::unfold(
                        told,
                        |mut told| async move { Some((told.recv().await?, told)) },
                    );
                return messages
                    .map(|message| Ok(wire(message, &Value::Null)))
                    .boxed();
            }
            other => vec![json!({"result": {"echo": other}})],
        };
        let watched = Watched(self.cancelled.clone(), call.name.unwrap_or_default(), false);
        let state = (VecDeque::from(steps), id, watched);
        stream::unfold(state, |(mut steps, id, mut watched)| async move {
            loop {
                let step = steps.pop_front()?;
                if let Some(seconds) = step["wait"].as_u64() {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    continue;
                }
                watched.2 = steps.is_empty();
                return Some((Ok(wire(step, &id)), (steps, id, watched)));
            }
        })
        .boxed()
    }
}

fn wire(mut message: Value, id: &Value) -> Bytes {
    message["jsonrpc"] = json!("2.0");
    if message.get("method").is_none() {
        message["id"] = id.clone();
    }
    Bytes::from(message.to_string())
}

/// Some hosts of one fleet.
struct Fleet {
    server: Arc<Server>,
    shared: Arc<dyn Shared>,
}

impl Fleet {
    fn new() -> Fleet {
        Fleet::over(Arc::new(Memory::default()))
    }

    fn over(shared: Arc<dyn Shared>) -> Fleet {
        Fleet {
            server: Arc::default(),
            shared,
        }
    }

    async fn host(&self) -> TestHost {
        let keys = mcp::session::KeyRing::new(&[[7; 32]]).unwrap();
        let board = Arc::new(Board::new(self.shared.clone()));
        // Lets the board hear what there is.
        tokio::task::yield_now().await;
        TestHost(Host::new(
            self.server.clone(),
            board,
            keys,
            Duration::from_secs(3600),
        ))
    }
}

struct TestHost(Host<Server>);

/// A session as its client sees it.
#[derive(Clone)]
struct Client {
    headers: Vec<(&'static str, String)>,
    principal: &'static str,
}

impl Client {
    fn with(&self, name: &'static str, value: &str) -> Client {
        let mut client = self.clone();
        client.headers.retain(|(n, _)| *n != name);
        client.headers.push((name, value.to_owned()));
        client
    }

    fn stranger() -> Client {
        Client {
            headers: vec![
                ("content-type", "application/json".into()),
                ("accept", "application/json, text/event-stream".into()),
            ],
            principal: "ana",
        }
    }
}

impl TestHost {
    async fn send(&self, client: &Client, method: HttpMethod, body: &str) -> Response {
        let mut headers = HeaderMap::new();
        for (name, value) in &client.headers {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let asker = Asker {
            principal: client.principal.into(),
            tenant: "acme".into(),
            request_id: "r-1".into(),
            deadline: Duration::from_secs(120),
            caller: (),
        };
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.0
            .serve(
                asker,
                Request {
                    method,
                    headers,
                    body,
                },
            )
            .await
    }

    async fn post(&self, client: &Client, body: Value) -> Response {
        self.send(client, HttpMethod::POST, &body.to_string()).await
    }

    async fn open(&self, revision: &str) -> Client {
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": revision, "capabilities": {"elicitation": {}}, "clientInfo": {"name": "c", "version": "1"}}});
        let response = self.post(&Client::stranger(), initialize).await;
        assert_eq!(response.status, 200);
        let token = response
            .headers
            .iter()
            .find(|(n, _)| n == "mcp-session-id")
            .unwrap()
            .1
            .clone();
        let answer = json_of(response);
        assert_eq!(answer["result"]["protocolVersion"], revision);
        Client::stranger().with("mcp-session-id", &token)
    }
}

fn tool(id: u64, name: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name}})
}

fn asked(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn json_of(response: Response) -> Value {
    match response.body {
        Body::Json(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Body::Empty => Value::Null,
        Body::Events(_) => panic!("a stream where JSON was expected"),
    }
}

/// The events of a stream, one after another.
struct Events(BoxStream<'static, Bytes>, Decoder, VecDeque<Event>);

impl Events {
    fn of(response: Response) -> Events {
        assert_eq!(response.status, 200);
        match response.body {
            Body::Events(events) => Events(events, Decoder::default(), VecDeque::new()),
            _ => panic!("no stream"),
        }
    }

    async fn next(&mut self) -> Option<Event> {
        while self.2.is_empty() {
            let chunk = self.0.next().await?;
            self.2.extend(self.1.push(&chunk).unwrap());
        }
        self.2.pop_front()
    }

    async fn message(&mut self) -> Value {
        loop {
            let event = self.next().await.expect("the stream ended");
            if !event.data.is_empty() {
                return serde_json::from_str(&event.data).unwrap();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_quick_answer_is_json_in_the_form_of_the_session() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    for (revision, structured) in [
        ("2024-11-05", false),
        ("2025-03-26", false),
        ("2025-06-18", true),
        ("2025-11-25", true),
    ] {
        let client = host.open(revision).await;
        let answer = json_of(host.post(&client, tool(7, "plain")).await);
        assert_eq!(answer["id"], 7);
        assert!(answer["result"].get("resultType").is_none());
        assert_eq!(
            answer["result"].get("structuredContent").is_some(),
            structured,
            "{revision}"
        );
        let missing = json_of(host.post(&client, tool(8, "none")).await);
        assert_eq!(missing["error"]["code"], -32602);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_held_to_the_rules_of_http() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let client = host.open("2025-06-18").await;
    let ping = asked(1, "ping", json!({}));
    for (who, body, status) in [
        (client.clone(), ping.clone(), 200),
        (Client::stranger(), ping.clone(), 400),
        (client.with("mcp-session-id", "s2.AAAA"), ping.clone(), 404),
        (
            Client {
                principal: "bob",
                ..client.clone()
            },
            ping.clone(),
            404,
        ),
        (
            client.with("mcp-protocol-version", "2025-06-18"),
            ping.clone(),
            200,
        ),
        (
            client.with("mcp-protocol-version", "2025-03-26"),
            ping.clone(),
            200,
        ),
        // What was negotiated counts, so this header brings no batches.
        (
            client.with("mcp-protocol-version", "2025-03-26"),
            json!([ping]),
            400,
        ),
        (
            client.with("mcp-protocol-version", "2026-07-28"),
            ping.clone(),
            400,
        ),
        (
            client.with("mcp-protocol-version", "soon"),
            ping.clone(),
            400,
        ),
        (client.with("content-type", "text/plain"), ping.clone(), 415),
        (client.with("accept", "text/html"), ping.clone(), 406),
        (client.with("accept", "application/json"), ping.clone(), 200),
        (client.clone(), json!([ping]), 400),
        (client.clone(), json!({"jsonrpc": "2.0", "id": 1}), 400),
        (
            client.clone(),
            json!({"jsonrpc": "2.0", "id": 1.5, "method": "tools/list"}),
            400,
        ),
        (
            client.clone(),
            json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
            202,
        ),
        (
            client.clone(),
            json!({"jsonrpc": "2.0", "id": "x.1", "result": {}}),
            202,
        ),
        (client.clone(), asked(1, "server/discover", json!({})), 200),
        (client.clone(), asked(1, "initialize", json!({})), 200),
    ] {
        let response = host.post(&who, body.clone()).await;
        assert_eq!(response.status, status, "{body}");
    }
    let put = host.send(&client, HttpMethod::PUT, "").await;
    assert_eq!(put.status, 405);
    let broken = host.send(&client, HttpMethod::POST, "{").await;
    assert_eq!(
        (
            broken.status.as_u16(),
            json_of(broken)["error"]["code"].clone()
        ),
        (400, json!(-32700))
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_ended_is_unknown_at_every_host() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.host().await, fleet.host().await);
    let client = a.open("2025-11-25").await;
    assert_eq!(a.send(&client, HttpMethod::DELETE, "").await.status, 204);
    tokio::task::yield_now().await;
    for host in [&a, &b, &fleet.host().await] {
        let ping = host.post(&client, asked(1, "ping", json!({}))).await;
        assert_eq!(ping.status, 404);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_talks_is_a_stream() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let client = host.open("2025-11-25").await;
    let mut events = Events::of(host.post(&client, tool(7, "talks")).await);
    let primer = events.next().await.unwrap();
    assert!(primer.data.is_empty() && primer.id.is_some() && primer.retry_ms.is_some());
    assert_eq!(events.message().await["params"]["data"], "one");
    assert_eq!(events.message().await["params"]["data"], "two");
    assert_eq!(events.message().await["id"], 7);
    assert!(events.next().await.is_none());
    let older = host.open("2025-06-18").await;
    let mut events = Events::of(host.post(&older, tool(7, "talks")).await);
    assert!(
        !events.next().await.unwrap().data.is_empty(),
        "only 2025-11-25 knows primers"
    );
}

#[tokio::test(start_paused = true)]
async fn the_level_is_the_sessions_at_every_host() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.host().await, fleet.host().await);
    let client = a.open("2025-11-25").await;
    let set = a
        .post(
            &client,
            asked(1, "logging/setLevel", json!({"level": "error"})),
        )
        .await;
    assert_eq!(json_of(set)["result"], json!({}));
    tokio::task::yield_now().await;
    let mut events = Events::of(b.post(&client, tool(7, "talks")).await);
    assert_eq!(events.message().await["params"]["data"], "two");
    let wrong = a
        .post(
            &client,
            asked(1, "logging/setLevel", json!({"level": "loud"})),
        )
        .await;
    assert_eq!(json_of(wrong)["error"]["code"], -32602);
}

/// Asks at one host and answers at another.
async fn answers_elsewhere(fleet: Fleet) {
    let (a, b) = (fleet.host().await, fleet.host().await);
    let client = a.open("2025-11-25").await;
    let mut events = Events::of(a.post(&client, tool(7, "asks")).await);
    let question = events.message().await;
    assert_eq!(question["method"], "elicitation/create");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"n": "Ana"}}});
    assert_eq!(b.post(&client, answer).await.status, 202);
    let last = events.message().await;
    assert_eq!(last["id"], 7);
    assert_eq!(last["result"]["content"][0]["text"], r#""s" "Ana""#);
    assert_eq!(fleet.server.count("tools/call"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_posted_to_another_host_reaches_the_call() {
    answers_elsewhere(Fleet::new()).await;
}

#[tokio::test]
async fn an_answer_posted_to_another_host_reaches_the_call_over_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::Store::open_sqlite(&folder.path().join("s"))
        .await
        .unwrap();
    answers_elsewhere(Fleet::over(Arc::new(crate::Records::new(store)))).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_answers_for_another_session() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let (client, other) = (host.open("2025-11-25").await, host.open("2025-11-25").await);
    let mut events = Events::of(host.post(&client, tool(7, "asks")).await);
    let question = events.message().await;
    let answer = |n: &str| json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"n": n}}});
    assert_eq!(host.post(&other, answer("Eve")).await.status, 202);
    assert_eq!(host.post(&client, answer("Ana")).await.status, 202);
    assert_eq!(
        events.message().await["result"]["content"][0]["text"],
        r#""s" "Ana""#
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_what_nobody_asked_is_kept_for_nobody() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let (client, other) = (host.open("2025-11-25").await, host.open("2025-11-25").await);
    let mut events = Events::of(host.post(&other, tool(7, "asks")).await);
    let others = events.message().await["id"].clone();
    for id in [json!(1), json!("x"), json!("x.1"), others] {
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": {}});
        assert_eq!(host.post(&client, answer).await.status, 202, "{id}");
    }
    assert_eq!(fleet.shared.list("legacy/mail/").await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_principal_has_so_much_mail_that_waits_whatever_its_sessions() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99, "reason": "x".repeat(100_000)}});
    let (most, _) = crate::budget::Kind::Mail.most();
    for _ in 0..most / 2 {
        let client = host.open("2025-11-25").await;
        for _ in 0..2 {
            assert_eq!(host.post(&client, cancel.clone()).await.status, 202);
        }
    }
    let client = host.open("2025-11-25").await;
    let refused = host.post(&client, cancel.clone()).await;
    assert_eq!(refused.status, 429);
    let waiting = fleet.shared.list("legacy/mail/").await.unwrap();
    assert_eq!(waiting.len(), most);
    assert!(waiting.iter().all(|(_, mail)| mail.len() < 200));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(host.post(&client, cancel).await.status, 202);
}

#[tokio::test(start_paused = true)]
async fn what_the_host_does_by_itself_has_a_rate() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let client = host.open("2025-11-25").await;
    fleet.server.is_strict.store(true, Ordering::Relaxed);
    let replay = client.with("last-event-id", "abc-1");
    let say = |body: Value| (HttpMethod::POST, body.to_string());
    for (client, (method, body)) in [
        (&client, say(asked(1, "ping", json!({})))),
        (
            &client,
            say(asked(1, "logging/setLevel", json!({"level": "info"}))),
        ),
        (
            &client,
            say(asked(1, "resources/subscribe", json!({"uri": "a:b"}))),
        ),
        (
            &client,
            say(asked(1, "resources/unsubscribe", json!({"uri": "a:b"}))),
        ),
        (
            &client,
            say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})),
        ),
        (
            &client,
            say(json!({"jsonrpc": "2.0", "id": "x.1", "result": {}})),
        ),
        (&replay, (HttpMethod::GET, String::new())),
        (&client, (HttpMethod::DELETE, String::new())),
    ] {
        let refused = host.send(client, method, &body).await;
        assert_eq!(refused.status, 429, "{body}");
        let mut headers = refused.headers.iter();
        assert!(
            headers.any(|(name, value)| name == "retry-after" && value == "2"),
            "{body}"
        );
    }
    assert_eq!(host.post(&client, tool(2, "plain")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_over_leaves_no_record() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let client = host.open("2025-11-25").await;
    let mut events = Events::of(host.send(&client, HttpMethod::GET, "").await);
    events.next().await.unwrap();
    assert_eq!(fleet.shared.list("legacy/fact/").await.unwrap().len(), 1);
    drop(events);
    settle().await;
    assert_eq!(fleet.shared.list("legacy/fact/").await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn cancelling_at_any_host_stops_the_server() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.host().await, fleet.host().await);
    let client = a.open("2025-11-25").await;
    let mut events = Events::of(a.post(&client, tool(7, "slow")).await);
    let cancel = |id: u64| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    b.post(&client, cancel(8)).await;
    b.post(&client, cancel(7)).await;
    events.next().await;
    assert!(events.next().await.is_none(), "no answer follows");
    assert_eq!(*fleet.server.cancelled.lock().unwrap(), ["slow"]);
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_cancels_nothing_and_is_resumed_at_any_host() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.host().await, fleet.host().await);
    let client = a.open("2025-11-25").await;
    let mut events = Events::of(a.post(&client, tool(7, "talks")).await);
    events.next().await;
    let first = events.next().await.unwrap();
    assert!(first.data.contains("one"));
    drop(events);
    let resumed = client.with("last-event-id", &first.id.unwrap());
    let mut rest = Events::of(b.send(&resumed, HttpMethod::GET, "").await);
    assert_eq!(rest.message().await["params"]["data"], "two");
    assert_eq!(rest.message().await["id"], 7);
    assert!(rest.next().await.is_none());
    assert!(fleet.server.cancelled.lock().unwrap().is_empty());
    assert_eq!(fleet.server.count("tools/call"), 1, "nothing ran twice");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_dies_takes_no_session_with_it() {
    let fleet = Fleet::new();
    let a = fleet.host().await;
    let client = a.open("2025-11-25").await;
    a.post(
        &client,
        asked(1, "resources/subscribe", json!({"uri": "a:b"})),
    )
    .await;
    drop(a);
    let b = fleet.host().await;
    assert_eq!(b.post(&client, tool(7, "plain")).await.status, 200);
    let mut events = Events::of(b.send(&client, HttpMethod::GET, "").await);
    events.next().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    fleet
        .server
        .tell(json!({"method": "notifications/resources/updated", "params": {"uri": "a:b"}}));
    assert_eq!(events.message().await["params"]["uri"], "a:b");
}

#[tokio::test(start_paused = true)]
async fn the_stream_follows_what_is_subscribed_to_anywhere() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.host().await, fleet.host().await);
    let client = a.open("2025-06-18").await;
    let mut events = Events::of(a.send(&client, HttpMethod::GET, "").await);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let updated = || json!({"method": "notifications/resources/updated", "params": {"uri": "a:b", "_meta": {"io.modelcontextprotocol/subscriptionId": "x"}}});
    fleet.server.tell(updated());
    b.post(
        &client,
        asked(1, "resources/subscribe", json!({"uri": "a:b"})),
    )
    .await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    fleet.server.tell(updated());
    assert_eq!(
        events.message().await["params"],
        json!({"uri": "a:b"}),
        "and the first was not told"
    );
    b.post(
        &client,
        asked(2, "resources/unsubscribe", json!({"uri": "a:b"})),
    )
    .await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    fleet.server.tell(updated());
    fleet
        .server
        .tell(json!({"method": "notifications/tools/list_changed"}));
    assert_eq!(
        events.message().await["method"],
        "notifications/tools/list_changed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_has_one_stream_and_comes_back_to_what_it_missed() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.host().await, fleet.host().await);
    let client = a.open("2025-11-25").await;
    a.post(
        &client,
        asked(1, "resources/subscribe", json!({"uri": "a:b"})),
    )
    .await;
    let mut first = Events::of(a.send(&client, HttpMethod::GET, "").await);
    let id = first.next().await.unwrap().id.unwrap();
    let again = client.with("last-event-id", &id);
    let mut second = Events::of(b.send(&again, HttpMethod::GET, "").await);
    assert!(first.next().await.is_none(), "the newest takes over");
    assert_eq!(
        second.message().await["method"],
        "notifications/tools/list_changed"
    );
    assert_eq!(second.message().await["params"]["uri"], "a:b");
    a.send(&client, HttpMethod::DELETE, "").await;
    assert!(
        second.next().await.is_none(),
        "a session that ended has none"
    );
}

#[tokio::test(start_paused = true)]
async fn batches_are_answered_in_2025_03_26_alone() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let client = host.open("2025-03-26").await;
    let batch = json!([
        asked(1, "ping", json!({})),
        tool(2, "plain"),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        7,
        asked(3, "initialize", json!({})),
    ]);
    let answers = json_of(host.post(&client, batch).await);
    let mut ids: Vec<String> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["id"].to_string())
        .collect();
    ids.sort();
    assert_eq!(ids, ["1", "2", "3", "null"]);
    let told = host
        .post(
            &client,
            json!([{"jsonrpc": "2.0", "method": "notifications/initialized"}]),
        )
        .await;
    assert_eq!(told.status, 202);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_streams_is_asked_nothing() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let client = host
        .open("2025-11-25")
        .await
        .with("accept", "application/json");
    let answer = json_of(host.post(&client, tool(7, "talks")).await);
    assert_eq!(answer["id"], 7);
    let declined = json_of(host.post(&client, tool(8, "asks")).await);
    assert_eq!(declined["result"]["content"][0]["text"], r#""s" null"#);
    assert_eq!(host.send(&client, HttpMethod::GET, "").await.status, 406);
}

#[tokio::test(start_paused = true)]
async fn calls_and_subscriptions_of_a_session_have_bounds() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let client = host.open("2025-11-25").await;
    let mut running = Vec::new();
    for id in 0..crate::board::RUNNING_MAX as u64 {
        running.push(Events::of(host.post(&client, tool(id, "slow")).await));
    }
    assert_eq!(host.post(&client, tool(999, "slow")).await.status, 503);
    drop(running.pop());
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(
        host.post(&client, tool(0, "plain")).await.status,
        200,
        "they end by themselves"
    );
    for n in 0..crate::board::URIS_MAX {
        host.post(
            &client,
            asked(1, "resources/subscribe", json!({"uri": format!("a:{n}")})),
        )
        .await;
    }
    let more = host
        .post(
            &client,
            asked(1, "resources/subscribe", json!({"uri": "a:more"})),
        )
        .await;
    assert_eq!(json_of(more)["error"]["code"], -32602);
}

/// A connection that carries messages both ways, as its client sees it.
struct Connection<'a> {
    host: &'a TestHost,
    talk: crate::Talk,
    frames: mpsc::Receiver<crate::tape::Frame>,
}

impl Connection<'_> {
    async fn open<'a>(host: &'a TestHost, revision: &str) -> Connection<'a> {
        let (out, frames) = mpsc::channel(16);
        let talk = crate::Talk::new(out);
        let mut connection = Connection { host, talk, frames };
        let params = json!({"protocolVersion": revision, "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "c", "version": "1"}});
        connection
            .say(asked(1, "initialize", params))
            .await
            .unwrap();
        let answer = connection.next().await;
        assert_eq!(answer["result"]["protocolVersion"], revision);
        connection
    }

    async fn say(&mut self, message: Value) -> Result<(), i64> {
        let asker = Asker {
            principal: "ana".into(),
            tenant: "acme".into(),
            request_id: "r-1".into(),
            deadline: Duration::from_secs(120),
            caller: (),
        };
        let message = Bytes::from(message.to_string());
        let taken = self.talk.take(&self.host.0, asker, &message).await;
        taken
            .map(|_| ())
            .map_err(|refused| refused.failure.cause.code())
    }

    async fn next(&mut self) -> Value {
        let frame = self.frames.recv().await.expect("the connection ended");
        serde_json::from_slice(&frame.message).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_both_ways_is_a_session() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let mut connection = Connection::open(&host, "2025-11-25").await;
    let again = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    assert_eq!(
        connection.say(asked(2, "initialize", again)).await,
        Err(-32600)
    );

    // It is told of changes, and of those resources that it names, without asking for a stream.
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    connection.say(initialized).await.unwrap();
    settle().await;
    fleet
        .server
        .tell(json!({"method": "notifications/tools/list_changed"}));
    assert_eq!(
        connection.next().await["method"],
        "notifications/tools/list_changed"
    );
    let subscribe = asked(3, "resources/subscribe", json!({"uri": "file:///a"}));
    connection.say(subscribe).await.unwrap();
    assert_eq!(connection.next().await["id"], 3);
    settle().await;
    assert_eq!(fleet.server.count("subscriptions/listen"), 2);

    // Calls run side by side; the server's questions are messages among others.
    connection.say(tool(4, "slow")).await.unwrap();
    connection.say(tool(5, "asks")).await.unwrap();
    let question = connection.next().await;
    assert_eq!(question["method"], "elicitation/create");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"n": 9}}});
    connection.say(answer).await.unwrap();
    let done = connection.next().await;
    assert_eq!(
        (&done["id"], &done["result"]["content"][0]["text"]),
        (&json!(5), &json!("\"s\" 9"))
    );

    // What is cancelled ends without an answer, and what still runs ends with the connection.
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 4}});
    connection.say(cancel).await.unwrap();
    settle().await;
    assert_eq!(*fleet.server.cancelled.lock().unwrap(), ["slow"]);
    connection.say(tool(6, "slow")).await.unwrap();
    settle().await;
    let Connection { talk, frames, .. } = connection;
    drop(frames);
    talk.end(&host.0).await;
    settle().await;
    assert_eq!(*fleet.server.cancelled.lock().unwrap(), ["slow", "slow"]);
    assert_eq!(
        fleet.shared.list("").await.unwrap(),
        [],
        "nothing stays of the session"
    );
}

/// Lets all tasks go as far as they can.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_begins_with_initialize_and_takes_arrays_of_one_revision_alone() {
    let fleet = Fleet::new();
    let host = fleet.host().await;
    let (out, frames) = mpsc::channel(16);
    let talk = crate::Talk::new(out);
    let mut early = Connection {
        host: &host,
        talk,
        frames,
    };
    assert_eq!(early.say(tool(1, "plain")).await, Err(-32600));
    early.say(asked(2, "ping", json!({}))).await.unwrap();
    assert_eq!(early.next().await["id"], 2);

    let batch = json!([tool(7, "plain"), 5, asked(8, "ping", json!({}))]);
    for (revision, takes) in [
        ("2024-11-05", false),
        ("2025-03-26", true),
        ("2025-11-25", false),
    ] {
        let mut connection = Connection::open(&host, revision).await;
        let taken = connection.say(batch.clone()).await;
        assert_eq!(taken.is_ok(), takes, "{revision}");
        if takes {
            let mut ids = Vec::new();
            for _ in 0..3 {
                ids.push(connection.next().await["id"].clone());
            }
            assert_eq!(ids, [json!(null), json!(8), json!(7)]);
        }
    }
}
