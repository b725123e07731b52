//! One app on a port of its own, and a client that keeps the header rules.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use app::{
    life::Life,
    metrics::AppMetrics,
    plugin::{
        builtin::Set,
        mounts::{Kind, Mounts, Spec},
        stdio::{Instances, StdioSpec, process::Program},
    },
    server::{Fleet, Limits, Server, Sessions, listen::Listening},
};
use mcp::seal::KeyRing;
use serde_json::{Value, json};
use telemetry::{Metrics, Watchdog};
use tokio::net::TcpListener;

/// Longest wait for anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running app.
pub struct App {
    pub url: String,
    pub mounts: Arc<Mounts>,
    pub life: Life,
    pub listening: Listening,
    client: reqwest::Client,
}

/// An answer of `POST /mcp`.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub outcome: String,
    pub body: Value,
}

impl Answer {
    /// The text of the first content, read as JSON.
    pub fn said(&self) -> Value {
        let text = self.body["result"]["content"][0]["text"].as_str();
        serde_json::from_str(text.unwrap_or_else(|| panic!("no text in {self:?}"))).unwrap()
    }

    pub fn code(&self) -> i64 {
        self.body["error"]["code"]
            .as_i64()
            .unwrap_or_else(|| panic!("no error in {self:?}"))
    }
}

impl App {
    pub async fn start(specs: Vec<Spec>) -> Self {
        Self::start_with(specs, Limits::default()).await
    }

    pub async fn start_with(specs: Vec<Spec>, limits: Limits) -> Self {
        Self::start_in(specs, limits, sessions()).await
    }

    /// Starts as one of those that share `sessions`.
    pub async fn start_in(specs: Vec<Spec>, limits: Limits, sessions: Sessions) -> Self {
        let mounts = Mounts::start(specs).unwrap();
        mounts.settled(PATIENCE).await;
        let all = Metrics::new("test", "0", "test").unwrap();
        let watchdog = Watchdog::start(Duration::from_secs(30), &all).unwrap();
        watchdog.watch(&tokio::runtime::Handle::current(), "main");
        let life = Life::default();
        life.ready();
        let metrics = AppMetrics::new(all).unwrap();
        let server = Server::new(
            Arc::clone(&mounts),
            metrics,
            life.clone(),
            watchdog,
            limits,
            Fleet {
                release: "r-1",
                instance: "app-1",
                sessions,
            },
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self {
            url,
            mounts,
            life,
            listening: Listening::start(listener, server),
            client: reqwest::Client::new(),
        }
    }

    pub async fn ask(&self, method: &str, params: Value) -> Answer {
        ask(&self.client, &self.url, method, params, &[]).await
    }

    pub async fn ask_with(&self, method: &str, params: Value, headers: &[(&str, &str)]) -> Answer {
        ask(&self.client, &self.url, method, params, headers).await
    }

    /// Asks and reads the answer as events.
    pub async fn stream(&self, method: &str, params: Value) -> Events {
        // A client of its own: its connection closes with the stream.
        let client = reqwest::Client::new();
        let response = request(&client, &self.url, method, params, &[]).await;
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(
            (response.status().as_u16(), kind),
            (200, "text/event-stream")
        );
        Events::of(response)
    }

    /// Calls a tool as a client that can be asked everything.
    pub async fn call_as(&self, who: &str, mut params: Value) -> Answer {
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}, "roots": {}, "sampling": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}});
        self.ask_with("tools/call", params, &[("sweetmcp-principal", who)])
            .await
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Answer {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments}))
            .await
    }

    /// Calls again until the tool is there.
    pub async fn until_called(&self, tool: &str, arguments: Value) -> Answer {
        until(&format!("{tool} is there"), async || {
            let answer = self.call(tool, arguments.clone()).await;
            answer.body.get("result").is_some().then_some(answer)
        })
        .await
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self
            .client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Asks again until the tool answers with a result.
    pub async fn until_answered(&self, tool: &str) -> Answer {
        until(&format!("{tool} answers"), async || {
            let answer = self.call(tool, json!({})).await;
            answer.body.get("result").is_some().then_some(answer)
        })
        .await
    }
}

/// What a fleet of one knows of sessions.
pub fn sessions() -> Sessions {
    Sessions {
        keys: KeyRing::new(&[[1; 32]]).unwrap(),
        shared: Arc::new(legacy::Memory::default()),
        life: Duration::from_secs(3600),
    }
}

/// Sends one request with the headers that its body asks for, changed by `headers`.
pub async fn ask(
    client: &reqwest::Client,
    url: &str,
    method: &str,
    params: Value,
    headers: &[(&str, &str)],
) -> Answer {
    let response = request(client, url, method, params, headers).await;
    Answer {
        status: response.status().as_u16(),
        outcome: response.headers()["sweetmcp-outcome"]
            .to_str()
            .unwrap()
            .to_owned(),
        body: response.json().await.unwrap(),
    }
}

async fn request(
    client: &reqwest::Client,
    url: &str,
    method: &str,
    mut params: Value,
    headers: &[(&str, &str)],
) -> reqwest::Response {
    let meta = &mut params["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    if meta
        .get("io.modelcontextprotocol/clientCapabilities")
        .is_none()
    {
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    }
    let mut request = client
        .post(format!("{url}/mcp"))
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    if !headers.iter().any(|(name, _)| *name == "accept") {
        request = request.header("accept", "application/json, text/event-stream");
    }
    let named = ["name", "uri", "taskId"];
    if let Some(name) = named.iter().find_map(|member| params[member].as_str()) {
        request = request.header("mcp-name", mcp::headers::encode(name).as_ref());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    request.json(&body).send().await.unwrap()
}

/// A stream of server-sent events. Dropping it closes the connection.
pub struct Events {
    pub response: reqwest::Response,
    /// The newest event's id.
    pub last_id: Option<String>,
    unread: String,
}

impl Events {
    /// Reads the body of a response as events.
    pub fn of(response: reqwest::Response) -> Self {
        Self {
            response,
            last_id: None,
            unread: String::new(),
        }
    }

    /// Waits for the next message; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
                self.last_id = field("id: ").map(str::to_owned).or(self.last_id.take());
                let data = field("data: ").filter(|data| !data.is_empty());
                let message = data.map(|data| serde_json::from_str(data).unwrap());
                self.unread = rest.to_owned();
                if message.is_some() {
                    return message;
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk());
            let chunk = chunk.await.expect("the stream goes on").unwrap()?;
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Waits for the end and returns all messages until then.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }
}

/// Tries until something is there.
pub async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn builtin(name: &str, set: Set) -> Spec {
    Spec {
        name: name.to_owned(),
        prefix: format!("{name}_"),
        names: Default::default(),
        scopes: Vec::new(),
        telling: app::plugin::Telling::default(),
        trusted: false,
        kind: Kind::Builtin(set),
    }
}

pub fn program(command: &str, args: &[&str]) -> Program {
    Program {
        command: command.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: BTreeMap::from([("CONFIGURED".to_owned(), "yes".to_owned())]),
        working_dir: None,
        sandbox: None,
        guard: env!("CARGO_BIN_EXE_sweetmcp-app").into(),
    }
}

pub fn stdio(name: &str, program: Program) -> Spec {
    Spec {
        name: name.to_owned(),
        prefix: format!("{name}_"),
        names: Default::default(),
        scopes: Vec::new(),
        telling: app::plugin::Telling::default(),
        trusted: false,
        kind: Kind::Stdio(StdioSpec {
            program,
            instances: Instances::default(),
            limits: Default::default(),
            stderr: Default::default(),
            signed_by: None,
            start_timeout: Duration::from_secs(20),
            call_timeout: Duration::from_secs(20),
        }),
    }
}

/// A server that misbehaves on request.
pub fn rude(mood: &str) -> Spec {
    stdio("rude", program("python3", &[RUDE, mood]))
}

pub const RUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/rude_server.py");

/// A server from npm that the tests' installation has brought.
pub fn npm(server: &str) -> String {
    installed(&format!(
        "node_modules/@modelcontextprotocol/{server}/dist/index.js"
    ))
}

/// A file that the tests' installation has brought.
pub fn installed(path: &str) -> String {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = std::env::var_os("SWEETMCP_TEST_TOOLS")
        .map_or_else(|| workspace.join("target/test-tools"), PathBuf::from);
    let file = tools.join(path);
    assert!(
        file.exists(),
        "{} is missing: run ./tests/install",
        file.display()
    );
    file.to_string_lossy().into_owned()
}

/// One of the components that the tests' installation has built.
pub fn example(name: &str) -> PathBuf {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("SWEETMCP_WASM_EXAMPLES")
        .map_or_else(|| workspace.join("target/wasm-examples"), PathBuf::from)
        .join(name)
}

/// Kills the process with the id that a child said.
pub fn kill(pid: &Value) {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Whether a process is there and no zombie.
pub fn alive(pid: i64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .starts_with('Z')
    })
}
