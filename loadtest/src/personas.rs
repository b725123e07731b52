//! Who calls: one persona a protocol, each as a real client of it behaves.
//!
//! A request counts as failed unless its answer is a result: a JSON-RPC error and a tool's `isError` arrive
//! with HTTP 200.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use goose::goose::{
    GooseMethod, GooseRequest, GooseUser, Scenario, Transaction, TransactionFunction,
    TransactionResult,
};
use serde_json::{Value, json};

const VERSION: &str = "2026-07-28";
const LEGACY_VERSION: &str = "2025-11-25";

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Persona {
    /// MCP 2026-07-28: discovers once, then lists and calls
    Stateless,
    /// MCP 2025-11-25: a session a visit
    Session,
    /// Plain JSON-RPC, single and in batches
    Jsonrpc,
    /// GraphQL queries
    Graphql,
}

impl Persona {
    /// All of them.
    pub const ALL: [Persona; 4] = [
        Persona::Stateless,
        Persona::Session,
        Persona::Jsonrpc,
        Persona::Graphql,
    ];
}

impl std::fmt::Display for Persona {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Persona {
    fn name(self) -> &'static str {
        match self {
            Persona::Stateless => "stateless",
            Persona::Session => "session",
            Persona::Jsonrpc => "jsonrpc",
            Persona::Graphql => "graphql",
        }
    }
}

/// The tool that is called.
#[derive(Debug, Clone)]
pub struct Tool {
    name: String,
    arguments: Value,
}

impl Tool {
    /// A tool with its arguments.
    ///
    /// # Errors
    /// When the arguments are no JSON object.
    pub fn new(name: &str, arguments: &str) -> Result<Tool> {
        let arguments: Value =
            serde_json::from_str(arguments).context("--arguments is not JSON")?;
        if !arguments.is_object() {
            bail!("--arguments must be a JSON object, such as {{\"text\":\"abc\"}}");
        }
        Ok(Tool {
            name: name.to_owned(),
            arguments,
        })
    }

    fn params(&self) -> Value {
        json!({"name": self.name, "arguments": self.arguments})
    }
}

/// What all requests of a persona share.
struct Caller {
    tool: Tool,
    token: String,
}

/// Makes the scenario of a persona.
///
/// # Errors
/// When goose refuses a name or weight: a defect.
pub fn scenario(persona: Persona, tool: &Tool, token: &str) -> Result<Scenario> {
    let caller = Arc::new(Caller {
        tool: tool.clone(),
        token: token.to_owned(),
    });
    let scenario = Scenario::new(persona.name());
    Ok(match persona {
        Persona::Stateless => scenario
            .register_transaction(Transaction::new(discover(Arc::clone(&caller))).set_on_start())
            .register_transaction(Transaction::new(list(Arc::clone(&caller))).set_weight(1)?)
            .register_transaction(Transaction::new(call(caller)).set_weight(9)?),
        Persona::Session => scenario.register_transaction(Transaction::new(visit(caller))),
        Persona::Jsonrpc => scenario
            .register_transaction(Transaction::new(single(Arc::clone(&caller))).set_weight(9)?)
            .register_transaction(Transaction::new(batch(caller)).set_weight(1)?),
        Persona::Graphql => scenario.register_transaction(Transaction::new(query(caller))),
    })
}

/// One POST, and whether its answer is good.
struct Post<'a> {
    name: &'a str,
    path: &'a str,
    headers: Vec<(&'static str, String)>,
    body: Value,
    good: fn(&Value) -> bool,
}

/// An answer that was good.
struct Good {
    session: Option<String>,
}

impl Caller {
    /// Sends a POST; `None` when it failed, which goose has been told of.
    async fn post(
        &self,
        user: &mut GooseUser,
        post: Post<'_>,
    ) -> Result<Option<Good>, Box<goose::goose::TransactionError>> {
        let mut builder = user
            .get_request_builder(&GooseMethod::Post, post.path)?
            .bearer_auth(&self.token)
            .header("accept", "application/json, text/event-stream");
        for (name, value) in &post.headers {
            builder = builder.header(*name, value);
        }
        let request = GooseRequest::builder()
            .method(GooseMethod::Post)
            .path(post.path)
            .name(post.name)
            .set_request_builder(builder.json(&post.body))
            .build();
        let mut answer = user.request(request).await?;
        let Ok(response) = answer.response else {
            return Ok(None);
        };
        let status = response.status();
        let session = response
            .headers()
            .get("mcp-session-id")
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let text = response.text().await.unwrap_or_default();
        let json: Value = serde_json::from_str(response_in(&text)).unwrap_or(Value::Null);
        if status.is_success() && (post.good)(&json) {
            return Ok(Some(Good { session }));
        }
        let shown: String = text.chars().take(200).collect();
        let tag = format!("HTTP {}: {shown}", status.as_u16());
        // Tells goose; its own error is the failure that has just been recorded.
        let _ = user.set_failure(&tag, &mut answer.request, None, None);
        Ok(None)
    }
}

/// The response in an answer, which is JSON or, where the work took a while, the last event of a stream.
fn response_in(text: &str) -> &str {
    let mut data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.next_back().unwrap_or(text)
}

fn is_result(answer: &Value) -> bool {
    answer["result"].is_object() && answer["result"]["isError"] != true
}

fn request(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

fn stateless(
    caller: &Caller,
    name: &'static str,
    method: &str,
    mut params: Value,
) -> Post<'static> {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let mut headers = vec![
        ("mcp-protocol-version", VERSION.to_owned()),
        ("mcp-method", method.to_owned()),
    ];
    if method == "tools/call" {
        headers.push(("mcp-name", caller.tool.name.clone()));
    }
    Post {
        name,
        path: "/mcp",
        headers,
        body: request(method, params),
        good: is_result,
    }
}

/// A transaction that runs one step with the shared caller.
fn transaction<F>(caller: Arc<Caller>, step: F) -> TransactionFunction
where
    F: Fn(&Caller) -> Post<'static> + Send + Sync + 'static,
{
    let step = Arc::new(step);
    Arc::new(move |user: &mut GooseUser| {
        let (caller, step) = (Arc::clone(&caller), Arc::clone(&step));
        Box::pin(async move {
            let post = step(&caller);
            caller.post(user, post).await.map(drop)
        })
    })
}

fn discover(caller: Arc<Caller>) -> TransactionFunction {
    transaction(caller, |c| {
        stateless(c, "stateless server/discover", "server/discover", json!({}))
    })
}

fn list(caller: Arc<Caller>) -> TransactionFunction {
    transaction(caller, |c| {
        stateless(c, "stateless tools/list", "tools/list", json!({}))
    })
}

fn call(caller: Arc<Caller>) -> TransactionFunction {
    transaction(caller, |c| {
        stateless(c, "stateless tools/call", "tools/call", c.tool.params())
    })
}

fn single(caller: Arc<Caller>) -> TransactionFunction {
    transaction(caller, |c| Post {
        name: "jsonrpc tools/call",
        path: "/mcp/v1/jsonrpc",
        headers: Vec::new(),
        body: request("tools/call", c.tool.params()),
        good: is_result,
    })
}

fn batch(caller: Arc<Caller>) -> TransactionFunction {
    transaction(caller, |c| Post {
        name: "jsonrpc batch of 3",
        path: "/mcp/v1/batch",
        headers: Vec::new(),
        body: Value::Array(
            (0..3)
                .map(|_| request("tools/call", c.tool.params()))
                .collect(),
        ),
        good: |answer| {
            answer
                .as_array()
                .is_some_and(|all| all.len() == 3 && all.iter().all(is_result))
        },
    })
}

fn query(caller: Arc<Caller>) -> TransactionFunction {
    transaction(caller, |c| Post {
        name: "graphql callTool",
        path: "/graphql",
        headers: Vec::new(),
        body: json!({
            "query": "query($name: String!, $arguments: JSON) { callTool(name: $name, arguments: $arguments) { isError text } }",
            "variables": c.tool.params(),
        }),
        good: |answer| answer["data"]["callTool"]["isError"] == false,
    })
}

/// A session from its handshake to its last call.
fn visit(caller: Arc<Caller>) -> TransactionFunction {
    Arc::new(move |user: &mut GooseUser| {
        let caller = Arc::clone(&caller);
        Box::pin(async move { session(&caller, user).await })
    })
}

async fn session(caller: &Caller, user: &mut GooseUser) -> TransactionResult {
    let initialize = json!({
        "protocolVersion": LEGACY_VERSION,
        "capabilities": {},
        "clientInfo": {"name": "sweetmcp-loadtest", "version": env!("CARGO_PKG_VERSION")},
    });
    let step = |name, headers, body, good| Post {
        name,
        path: "/mcp",
        headers,
        body,
        good,
    };
    let begin = step(
        "session initialize",
        Vec::new(),
        request("initialize", initialize),
        is_result,
    );
    let Some(Good {
        session: Some(session),
    }) = caller.post(user, begin).await?
    else {
        return Ok(());
    };
    let headers = || {
        vec![
            ("mcp-session-id", session.clone()),
            ("mcp-protocol-version", LEGACY_VERSION.to_owned()),
        ]
    };
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    caller
        .post(
            user,
            step("session initialized", headers(), initialized, |_| true),
        )
        .await?;
    caller
        .post(
            user,
            step(
                "session tools/list",
                headers(),
                request("tools/list", json!({})),
                is_result,
            ),
        )
        .await?;
    for _ in 0..5 {
        let body = request("tools/call", caller.tool.params());
        caller
            .post(user, step("session tools/call", headers(), body, is_result))
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_results_are_good() {
        for (answer, good) in [
            (json!({"result": {}}), true),
            (json!({"result": {"isError": false}}), true),
            (json!({"result": {"isError": true}}), false),
            (json!({"error": {"code": 1}}), false),
            (Value::Null, false),
        ] {
            assert_eq!(is_result(&answer), good, "{answer}");
        }
    }

    #[test]
    fn arguments_must_be_an_object() {
        assert!(Tool::new("t", "{}").is_ok());
        assert!(Tool::new("t", "[]").is_err());
        assert!(Tool::new("t", "{").is_err());
    }
}
