//! One app on a port of its own, and a client that keeps the header rules.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use app::{
    life::Life,
    metrics::AppMetrics,
    plugin::{
        builtin::Set,
        mounts::{Kind, Mounts, Spec},
        stdio::{StdioSpec, process::Program},
    },
    server::{Limits, Server, listen::Listening},
};
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
            "r-1",
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

    pub async fn call(&self, tool: &str, arguments: Value) -> Answer {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments}))
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

/// Sends one request with the headers that its body asks for, changed by `headers`.
pub async fn ask(
    client: &reqwest::Client,
    url: &str,
    method: &str,
    mut params: Value,
    headers: &[(&str, &str)],
) -> Answer {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let mut request = client
        .post(format!("{url}/mcp"))
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    if let Some(name) = params["name"].as_str().or(params["uri"].as_str()) {
        request = request.header("mcp-name", mcp::headers::encode(name).as_ref());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let response = request.json(&body).send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        outcome: response.headers()["sweetmcp-outcome"]
            .to_str()
            .unwrap()
            .to_owned(),
        body: response.json().await.unwrap(),
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
        kind: Kind::Builtin(set),
    }
}

pub fn program(command: &str, args: &[&str]) -> Program {
    Program {
        command: command.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: BTreeMap::from([("CONFIGURED".to_owned(), "yes".to_owned())]),
        working_dir: None,
    }
}

pub fn stdio(name: &str, program: Program) -> Spec {
    Spec {
        name: name.to_owned(),
        prefix: format!("{name}_"),
        kind: Kind::Stdio(StdioSpec {
            program,
            instances: 1,
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
    tools(&format!(
        "node_modules/@modelcontextprotocol/{server}/dist/index.js"
    ))
}

/// A file of the tests' installation of clients and servers.
pub fn tools(path: &str) -> String {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = std::env::var_os("SWEETMCP_TEST_TOOLS")
        .map_or_else(|| workspace.join("target/test-tools"), PathBuf::from);
    let file = tools.join(path);
    assert!(
        file.exists(),
        "{} is missing; ./tests/run installs it",
        file.display()
    );
    file.to_string_lossy().into_owned()
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
