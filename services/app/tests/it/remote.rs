//! Remote MCP servers: two that nobody here wrote, and one that is rude on request.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use app::plugin::{
    credential::Credential,
    http::{HttpSpec, Transport},
    mounts::{Kind, Spec},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{App, Events, installed, npm, until};

/// A server process that says on a line of its own where it listens; it ends with this value.
pub struct Served {
    child: Child,
    pub url: String,
}

impl Served {
    pub fn start(program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let url = said
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .find(|line| line.starts_with("http://127.0.0.1:"))
            .unwrap();
        // A server whose output nobody takes stops, or fails.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { child, url }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub fn remote(url: &str) -> Spec {
    with(url, Credential::default())
}

fn with(url: &str, credential: Credential) -> Spec {
    Spec {
        name: "remote".to_owned(),
        prefix: "remote_".to_owned(),
        names: Default::default(),
        scopes: Vec::new(),
        telling: app::plugin::Telling::default(),
        trusted: false,
        kind: Kind::Http(http_spec(url, credential)),
    }
}

pub fn http_spec(url: &str, credential: Credential) -> HttpSpec {
    HttpSpec {
        url: url.to_owned(),
        transport: Transport::default(),
        credential,
        start_timeout: Duration::from_secs(20),
        call_timeout: Duration::from_secs(5),
        answer_bytes_max: 1 << 20,
    }
}

/// Calls a tool of server-everything that asks its client, and answers.
async fn asked(app: &App, tool: &str, answer: Value) -> Value {
    let params = json!({"name": tool, "arguments": {}});
    let asked = app.call_as("ana", params.clone()).await;
    let result = &asked.body["result"];
    assert_eq!(result["resultType"], "input_required", "{asked:?}");
    let mut again = params;
    again["requestState"] = result["requestState"].clone();
    again["inputResponses"] = json!({"q1": answer});
    app.call_as("ana", again).await.body
}

/// Listens for changes of a resource.
async fn watch(app: &App, uri: &str) -> Events {
    let wishes = json!({"notifications": {"resourceSubscriptions": [uri]}});
    let mut updates = app.stream("subscriptions/listen", wishes).await;
    let granted = updates.next().await.unwrap();
    let granted = &granted["params"]["notifications"]["resourceSubscriptions"];
    assert_eq!(*granted, json!([uri]));
    updates
}

/// Calls a tool that tells four times how far it is, and returns its answer.
async fn told(app: &App, tool: &str, arguments: Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "mine"}});
    let mut events = app.stream("tools/call", params).await.rest().await;
    let answer = events.pop().unwrap();
    assert_eq!(events.len(), 4, "{events:?}");
    for event in &events {
        assert_eq!(event["params"]["progressToken"], "mine", "{event}");
    }
    answer
}

#[tokio::test]
async fn server_everything_over_either_transport_is_served_as_if_it_were_modern() {
    for (mode, path) in [("streamableHttp", "/mcp"), ("sse", "/sse")] {
        let served = serve_everything(mode);
        everything(&served.url.replace("/mcp", path)).await;
    }
}

/// Starts server-everything, reachable from this machine alone.
pub fn serve_everything(mode: &str) -> Served {
    let script = npm("server-everything");
    let preload = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/loopback.cjs");
    Served::start("node", &["-r", preload, &script, mode])
}

/// Does what server-everything is there for, at this address.
async fn everything(url: &str) {
    let app = App::start(vec![remote(url)]).await;
    let echo = app.call("remote_echo", json!({"message": "häi"})).await;
    assert_eq!(
        echo.body["result"]["content"][0]["text"], "Echo: häi",
        "{echo:?}"
    );
    assert_eq!(echo.body["result"]["resultType"], "complete");
    let slow = json!({"duration": 1, "steps": 4});
    let slow = told(&app, "remote_trigger-long-running-operation", slow).await;
    assert!(slow.to_string().contains("completed"), "{slow}");
    let resources = app.ask("resources/list", json!({})).await.body;
    let uri = &resources["result"]["resources"][0]["uri"];
    let read = app.ask("resources/read", json!({"uri": uri})).await.body;
    assert!(read["result"]["contents"][0].is_object(), "{read}");
    let mut updates = watch(&app, uri.as_str().unwrap()).await;
    app.call("remote_toggle-subscriber-updates", json!({}))
        .await;
    let told = updates.next().await.unwrap();
    assert_eq!(told["params"]["uri"], *uri, "{told}");
    let form = json!({"action": "accept", "content": {"name": "Ana", "check": true}});
    let elicited = asked(&app, "remote_trigger-elicitation-request", form).await;
    assert!(elicited.to_string().contains("Ana"), "{elicited}");
    let roots = json!({"roots": [{"uri": "file:///srv", "name": "srv"}]});
    let listed = asked(&app, "remote_get-roots-list", roots).await;
    assert!(listed.to_string().contains("file:///srv"), "{listed}");
    app.mounts.stop().await;
}

/// A server of the oldest transport whose stream names an endpoint for messages.
async fn stream_with_endpoint(endpoint: String) -> String {
    let stream =
        axum::routing::get(async move || events(format!("event: endpoint\ndata: {endpoint}\n\n")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/sse", listener.local_addr().unwrap());
    let router = Router::new().route("/sse", stream);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn messages_and_the_credential_go_to_no_other_origin() {
    let (elsewhere, url) = Rude::open().await;
    for transport in [Transport::Auto, Transport::Sse] {
        let mut spec = with(&stream_with_endpoint(url.clone()).await, let_in());
        if let Kind::Http(http) = &mut spec.kind {
            http.transport = transport;
        }
        let app = App::start(vec![spec]).await;
        let list = app.ask("tools/list", json!({})).await.body;
        let missing = &list["result"]["_meta"]["dev.sweetmcp/missing"][0];
        assert_eq!(missing["plugin"], "remote", "{list}");
        app.mounts.stop().await;
    }
    assert_eq!(*elsewhere.seen.lock().unwrap(), []);
}

#[tokio::test]
async fn a_stateless_server_of_the_newest_revision_is_served_and_tells_of_changes() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/modern_server.py");
    let python = installed("venv/bin/python");
    let served = Served::start(&python, &[script]);
    let app = App::start(vec![remote(&served.url)]).await;
    let echo = app.call("remote_echo", json!({"message": "häi"})).await;
    assert_eq!(echo.body["result"]["content"][0]["text"], "häi", "{echo:?}");
    let slow = told(&app, "remote_slow", json!({"seconds": 0.2})).await;
    assert_eq!(slow["result"]["content"][0]["text"], "done", "{slow}");
    app.call("remote_grow", json!({})).await;
    app.until_answered("remote_grown").await;
    let mut updates = watch(&app, "x://watched").await;
    let touch = async || app.call("remote_touch", json!({})).await;
    // The server is asked anew for what is watched, so it may not hear of it at once.
    let touching = until("it is told", async || {
        (touch().await.outcome != "ok").then_some(())
    });
    tokio::select! {
        told = updates.next() => assert_eq!(told.unwrap()["params"]["uri"], "x://watched"),
        () = touching => panic!("the tool failed"),
    }
    app.mounts.stop().await;
}

/// A server of the older era that can be made to forget its sessions, to want a token, to hang, and to talk nonsense.
#[derive(Clone, Default)]
struct Rude {
    sessions: Arc<AtomicUsize>,
    /// Every verb and method, with the session.
    seen: Arc<Mutex<Vec<(String, String)>>>,
    /// What clients answered, by the id of the question.
    answers: Arc<watch::Sender<HashMap<String, Value>>>,
    /// The answer that waits for whoever asks for the rest of a stream.
    rest: Arc<Mutex<Option<Value>>>,
}

impl Rude {
    async fn open() -> (Self, String) {
        let rude = Self::default();
        let router = Router::new()
            .route("/mcp", any(serve))
            .with_state(rude.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (rude, url)
    }

    fn session(&self) -> String {
        format!("s{}", self.sessions.load(Ordering::SeqCst))
    }

    fn saw(&self, what: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(method, _)| method == what).count()
    }

    /// Waits for the answer to a question, and makes it the result of the call that asked.
    async fn answered(self, question: String, id: Value) -> String {
        let mut answers = self.answers.subscribe();
        let answers = answers.wait_for(|answers| answers.contains_key(&question));
        let answer = answers.await.unwrap()[&question].clone();
        let result = json!({"content": [], "structuredContent": {"answer": answer}});
        event(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
    }
}

fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}

fn events(text: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], text.into()).into_response()
}

async fn serve(State(rude): State<Rude>, verb: Method, head: HeaderMap, body: Bytes) -> Response {
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let method = message["method"]
        .as_str()
        .unwrap_or(verb.as_str())
        .to_owned();
    let text = |name: &str| {
        head.get(name)
            .map_or("", |value| value.to_str().unwrap())
            .to_owned()
    };
    let session = text("mcp-session-id");
    rude.seen
        .lock()
        .unwrap()
        .push((method.clone(), session.clone()));
    if text("authorization") != "Bearer right" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let result = |result: Value| {
        Json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result})).into_response()
    };
    if method == "initialize" {
        rude.sessions.fetch_add(1, Ordering::SeqCst);
        let mut answer = result(
            json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}, "logging": {}}, "serverInfo": {"name": "rude", "version": "1"}}),
        );
        answer
            .headers_mut()
            .insert("mcp-session-id", rude.session().parse().unwrap());
        return answer;
    }
    if session != rude.session() {
        return StatusCode::NOT_FOUND.into_response();
    }
    assert_eq!(text("mcp-protocol-version"), "2025-06-18");
    match (method.as_str(), message["params"]["name"].as_str()) {
        ("tools/list", _) => {
            let names = ["fine", "hang", "cut", "html", "large", "ask", "late", "log"];
            result(
                json!({"tools": names.map(|name| json!({"name": name, "inputSchema": {"type": "object"}}))}),
            )
        }
        ("tools/call", Some("fine")) => {
            result(json!({"content": [], "structuredContent": {"session": session}}))
        }
        ("tools/call", Some("hang")) => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            StatusCode::OK.into_response()
        }
        ("tools/call", Some("cut")) => events(": nothing follows\n\n"),
        ("tools/call", Some("large")) => events(format!("data: {}", "x".repeat(2 << 20))),
        ("tools/call", Some("ask")) => {
            let question = format!("q-{}", message["id"]);
            let params =
                json!({"message": "who?", "requestedSchema": {"type": "object", "properties": {}}});
            let asks = json!({"jsonrpc": "2.0", "id": question, "method": "elicitation/create", "params": params});
            let asked = stream::iter([event(&asks)]);
            let answered = stream::once(rude.answered(question, message["id"].clone()));
            events(Body::from_stream(
                asked.chain(answered).map(Ok::<_, std::io::Error>),
            ))
        }
        ("tools/call", Some("late")) => {
            let result = json!({"content": [], "structuredContent": {"late": true}});
            let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
            *rude.rest.lock().unwrap() = Some(answer);
            events("id: 7\nretry: 100\ndata:\n\n")
        }
        ("tools/call", Some("log")) => {
            let log = json!({"level": "warning", "data": "careful"});
            let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": log});
            let result = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}});
            events(event(&log) + &event(&result))
        }
        ("logging/setLevel", _) => {
            assert_eq!(message["params"]["level"], "notice");
            result(json!({}))
        }
        ("POST", _) => {
            let id = message["id"].as_str().unwrap().to_owned();
            let answer = message["result"].clone();
            rude.answers
                .send_modify(|answers| drop(answers.insert(id, answer)));
            StatusCode::ACCEPTED.into_response()
        }
        ("GET", _) if text("last-event-id") == "7" => {
            // The first who asks for the rest is asked to come again.
            if rude.saw("GET") < 3 {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            let rest = rude.rest.lock().unwrap().take();
            events(event(&rest.expect("it is asked for once")))
        }
        ("tools/call", _) => "<html>".into_response(),
        ("GET", _) => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

#[tokio::test]
async fn a_forgotten_session_is_begun_again_without_an_error_and_ended_in_the_end() {
    let (rude, url) = Rude::open().await;
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "wrong").unwrap();
    let credential = Credential {
        token_file: Some(token_file.clone()),
        ..Credential::default()
    };
    let app = App::start(vec![with(&url, credential)]).await;
    let list = app.ask("tools/list", json!({})).await.body;
    assert_eq!(
        list["result"]["_meta"]["dev.sweetmcp/missing"][0]["plugin"],
        "remote"
    );
    std::fs::write(&token_file, "right").unwrap();
    app.until_answered("remote_fine").await;

    // Sessions that end within a second of their beginning make us wait; these do not.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    rude.sessions.fetch_add(1, Ordering::SeqCst);
    let (before, initialized) = (rude.session(), rude.saw("initialize"));
    let calls = (0..8).map(|_| app.call("remote_fine", json!({})));
    for answer in futures::future::join_all(calls).await {
        let session = &answer.body["result"]["structuredContent"]["session"];
        assert!(
            session.is_string() && *session != json!(before),
            "{answer:?}"
        );
    }
    assert_eq!(
        rude.saw("initialize"),
        initialized + 1,
        "one new session for all of them"
    );
    app.mounts.stop().await;
    assert_eq!(rude.saw("DELETE"), 1);
}

fn let_in() -> Credential {
    Credential {
        headers: [("authorization".to_owned(), "Bearer right".to_owned())].into(),
        ..Credential::default()
    }
}

#[tokio::test]
async fn questions_on_a_calls_own_stream_reach_its_client_whoever_else_is_asked() {
    let (rude, url) = Rude::open().await;
    let app = App::start(vec![with(&url, let_in())]).await;
    let params = json!({"name": "remote_ask", "arguments": {}});
    let asked = ["ana", "bob"].map(|who| app.call_as(who, params.clone()));
    let asked = futures::future::join_all(asked).await;
    for (who, asked) in ["ana", "bob"].into_iter().zip(&asked).rev() {
        let result = &asked.body["result"];
        let question = &result["inputRequests"]["q1"];
        assert_eq!(question["params"]["message"], "who?", "{asked:?}");
        let answer = json!({"action": "accept", "content": {"name": who}});
        let mut again = params.clone();
        again["requestState"] = result["requestState"].clone();
        again["inputResponses"] = json!({"q1": answer});
        let done = app.call_as(who, again).await;
        let got = &done.body["result"]["structuredContent"]["answer"];
        assert_eq!(*got, answer, "{done:?}");
    }
    // A client that says nothing of it is not asked, and the server is told.
    let done = app.call("remote_ask", json!({})).await;
    assert_eq!(done.outcome, "ok");
    assert_eq!(rude.saw("notifications/cancelled"), 0);
    app.mounts.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_read_on_after_its_last_event() {
    let (rude, url) = Rude::open().await;
    let app = App::start(vec![with(&url, let_in())]).await;
    let late = app.call("remote_late", json!({})).await;
    assert_eq!(
        late.body["result"]["structuredContent"]["late"], true,
        "{late:?}"
    );
    // The session's own stream, the one that was refused, and the rest.
    assert_eq!((rude.saw("GET"), rude.saw("tools/call")), (3, 1));
    app.mounts.stop().await;
}

#[tokio::test]
async fn an_older_server_logs_what_clients_want_to_hear() {
    let (rude, url) = Rude::open().await;
    let app = App::start(vec![with(&url, let_in())]).await;
    let level = |level: &str| json!({"name": "remote_log", "_meta": {"io.modelcontextprotocol/logLevel": level}});
    for wanted in ["notice", "warning"] {
        let told = app.stream("tools/call", level(wanted)).await.rest().await;
        assert_eq!(told[0]["params"]["data"], "careful", "{wanted}: {told:?}");
        assert_eq!(told.len(), 2, "{wanted}: {told:?}");
    }
    let quiet = app.ask("tools/call", level("error")).await;
    assert!(quiet.body["result"].is_object(), "{quiet:?}");
    assert_eq!(
        rude.saw("logging/setLevel"),
        1,
        "the first was the least grave"
    );
    app.mounts.stop().await;
}

#[tokio::test]
async fn what_a_remote_server_does_wrong_costs_the_call_alone() {
    let (rude, url) = Rude::open().await;
    let app = App::start(vec![with(&url, let_in())]).await;
    for (tool, cause) in [
        ("remote_hang", mcp::Cause::Timeout),
        ("remote_cut", mcp::Cause::UpstreamBroken),
        ("remote_html", mcp::Cause::UpstreamInvalid),
        ("remote_large", mcp::Cause::UpstreamInvalid),
    ] {
        let answer = app.call(tool, json!({})).await;
        assert_eq!(answer.code(), cause.code(), "{tool}: {answer:?}");
        let fine = app.call("remote_fine", json!({})).await;
        assert_eq!(fine.outcome, "ok", "after {tool}");
    }
    until("the hanging call was cancelled", async || {
        (rude.saw("notifications/cancelled") == 1).then_some(())
    })
    .await;
    assert_eq!(rude.saw("initialize"), 1);
    app.mounts.stop().await;
}
