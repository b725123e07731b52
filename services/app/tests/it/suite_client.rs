//! The protocol's own suite against this app as the client of an upstream server.
//!
//! The suite starts a server for each scenario and runs a command with its address. The command tells this test, which puts
//! an app in front of that server, uses everything that the app then offers, and answers the server's questions. The verdict
//! is the suite's, without a list of expected failures.

use std::{collections::BTreeSet, process::Output};

use app::plugin::{
    credential::{Credential, OauthSpec},
    mounts::{Kind, Spec},
};
use axum::{Router, http::HeaderMap, routing::post};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, process::Command};

use crate::{
    conformance::{NODE, SUITE},
    harness::{Answer, App, installed},
    remote::http_spec,
};

const COMMAND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/suite_client.py");
/// The scenarios of each revision, and what its client does.
const SCENARIOS: [(&str, &[(&str, Drive)]); 2] = [
    (
        "2025-11-25",
        &[
            ("initialize", use_everything),
            ("tools_call", use_everything),
            ("elicitation-sep1034-client-defaults", use_everything),
            ("sse-retry", use_everything),
        ],
    ),
    (
        "2026-07-28",
        &[
            ("tools_call", use_everything),
            ("request-metadata", use_everything),
            ("sep-2322-client-request-state", use_everything),
            ("http-standard-headers", use_everything),
            ("http-custom-headers", use_everything),
            ("http-invalid-tool-headers", use_everything),
            // Its server has a tool, and takes no calls.
            ("json-schema-ref-no-deref", look),
        ],
    ),
];
/// Scenarios that do not apply to a gateway: all of them want a token for which a user consents in a browser (authorization
/// code). Its operator gives a gateway its tokens, or the credential for them; see the test with `client_credentials`.
const NEEDS_A_BROWSER: &str = "auth/";

/// Puts an app in front of the server at a URL, in the scenario's context, and does as a client should.
type Drive = fn(String, Value) -> BoxFuture<'static, ()>;

async fn suite(args: &[&str]) -> Output {
    let run = Command::new(installed(NODE))
        .arg(installed(SUITE))
        .args(args)
        .kill_on_drop(true)
        .output();
    run.await.unwrap()
}

/// Runs a scenario and wants the suite to find nothing.
async fn check(args: &[&str], scenario: &str, drive: Drive) {
    let driven = async move |head: HeaderMap, context: String| {
        let upstream = head["upstream"].to_str().unwrap().to_owned();
        let context = serde_json::from_str(&context).unwrap();
        // A panic is told by the connection that breaks off.
        drive(upstream, context).await;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(driven));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let command = format!("python3 {COMMAND} {here}");
    let own = ["client", "--scenario", scenario, "--command", &command];
    let run = suite(&[&own[..], args].concat()).await;
    serving.abort();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success() && said.contains("OVERALL: PASSED"),
        "{scenario} {args:?}: {said}"
    );
}

fn in_front_of(upstream: &str, credential: Credential) -> Spec {
    Spec {
        name: "upstream".to_owned(),
        prefix: String::new(),
        names: Default::default(),
        scopes: Vec::new(),
        telling: app::plugin::Telling::default(),
        trusted: false,
        kind: Kind::Http(http_spec(upstream, credential)),
    }
}

async fn list(app: &App, method: &str, member: &str) -> Vec<Value> {
    let mut listed = app.ask(method, json!({})).await.body;
    let missing = &listed["result"]["_meta"]["dev.sweetmcp/missing"];
    assert!(missing.is_null(), "{listed}");
    match listed["result"][member].take() {
        Value::Array(items) => items,
        _ => panic!("no {member}: {listed}"),
    }
}

fn look(upstream: String, _context: Value) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let app = App::start(vec![in_front_of(&upstream, Credential::default())]).await;
        assert_eq!(list(&app, "tools/list", "tools").await.len(), 1);
        app.mounts.stop().await;
    })
}

fn use_everything(upstream: String, context: Value) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let app = App::start(vec![in_front_of(&upstream, Credential::default())]).await;
        let tools = list(&app, "tools/list", "tools").await;
        let wanted = match context["toolCalls"].as_array() {
            Some(calls) => calls.clone(),
            None => tools
                .iter()
                .map(|tool| arguments_for(tool, &tools))
                .collect(),
        };
        for mut call in wanted {
            // The schema allows no null: a client leaves such an argument out.
            if let Some(arguments) = call["arguments"].as_object_mut() {
                arguments.retain(|_, value| !value.is_null());
            }
            let tool = tools.iter().find(|tool| tool["name"] == call["name"]);
            let heads = marked(tool.expect("a tool that is listed"), &call["arguments"]);
            ask_to_the_end(&app, "tools/call", call, &heads).await;
        }
        for prompt in list(&app, "prompts/list", "prompts").await {
            let params = json!({"name": prompt["name"]});
            ask_to_the_end(&app, "prompts/get", params, &[]).await;
        }
        for resource in list(&app, "resources/list", "resources").await {
            let params = json!({"uri": resource["uri"]});
            ask_to_the_end(&app, "resources/read", params, &[]).await;
        }
        app.mounts.stop().await;
    })
}

/// Makes up a call: something for every property whose type is plain to see.
fn arguments_for(tool: &Value, tools: &[Value]) -> Value {
    let properties = tool["inputSchema"]["properties"].as_object();
    let made_up = |schema: &Value| match schema["type"].as_str() {
        Some("string") => Some(schema["enum"].get(0).cloned().unwrap_or(json!("a"))),
        Some("number" | "integer") => Some(json!(7)),
        Some("boolean") => Some(json!(true)),
        // One tool wants another's schema, as the client has read it.
        Some("object") => Some(tools[0]["inputSchema"].clone()),
        _ => None,
    };
    let arguments: Map<String, Value> = properties
        .into_iter()
        .flatten()
        .filter_map(|(name, schema)| Some((name.clone(), made_up(schema)?)))
        .collect();
    json!({"name": tool["name"], "arguments": arguments})
}

/// The header fields that a call's arguments ask for.
fn marked(tool: &Value, arguments: &Value) -> Vec<(String, String)> {
    let properties = tool["inputSchema"]["properties"].as_object();
    properties
        .into_iter()
        .flatten()
        .filter_map(|(name, schema)| {
            let header = schema["x-mcp-header"].as_str()?;
            let value = match &arguments[name] {
                Value::Null => return None,
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let value = mcp::headers::encode(&value).into_owned();
            Some((format!("mcp-param-{header}"), value))
        })
        .collect()
}

/// Asks as a client that answers whatever it is asked, and wants a result in the end.
async fn ask_to_the_end(
    app: &App,
    method: &str,
    mut params: Value,
    heads: &[(String, String)],
) -> Answer {
    params["_meta"] = json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}});
    let heads: Vec<(&str, &str)> = heads
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    for _ in 0..5 {
        let answer = app.ask_with(method, params.clone(), &heads).await;
        let result = &answer.body["result"];
        assert_eq!(answer.outcome, "ok", "{method} {params}: {answer:?}");
        if result["resultType"] != "input_required" {
            return answer;
        }
        let questions = result["inputRequests"].as_object().unwrap();
        let inputs: Map<String, Value> = questions
            .iter()
            .map(|(key, question)| (key.clone(), filled_in(question)))
            .collect();
        params["inputResponses"] = inputs.into();
        match result.get("requestState") {
            Some(state) => params["requestState"] = state.clone(),
            None => drop(params.as_object_mut().unwrap().remove("requestState")),
        }
    }
    panic!("asked again and again: {method} {params}");
}

/// Accepts a form as it came, with its defaults; where there is none, agrees.
fn filled_in(question: &Value) -> Value {
    assert_eq!(question["method"], "elicitation/create", "{question}");
    let fields = question["params"]["requestedSchema"]["properties"].as_object();
    let content: Map<String, Value> = fields
        .into_iter()
        .flatten()
        .map(|(name, field)| {
            let value = field.get("default").cloned();
            (name.clone(), value.unwrap_or(json!(true)))
        })
        .collect();
    json!({"action": "accept", "content": content})
}

#[tokio::test]
async fn every_client_scenario_that_applies_to_a_gateway_passes() {
    for (revision, scenarios) in SCENARIOS {
        for (scenario, drive) in scenarios {
            check(&["--spec-version", revision], scenario, *drive).await;
        }
        let listed = suite(&["list", "--requirements", revision]).await;
        let listed = String::from_utf8(listed.stdout).unwrap();
        let (_, clients) = listed.split_once("Client scenarios").unwrap();
        let (clients, _) = clients.split_once("\n\n").unwrap();
        let required: BTreeSet<&str> = clients
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- "))
            .filter(|name| !name.starts_with(NEEDS_A_BROWSER))
            .collect();
        assert_eq!(required, scenarios.iter().map(|(name, _)| *name).collect());
    }
}

#[tokio::test]
async fn schemas_reach_clients_as_the_server_wrote_them() {
    let scenario = "json-schema-2020-12-preservation";
    check(&["--spec-version", "2025-11-25"], scenario, use_everything).await;
    check(&["--spec-version", "2026-07-28"], scenario, use_everything).await;
}

/// Configures the plugin as an operator does who has read the server's metadata.
fn with_client_credentials(upstream: String, context: Value) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let get = async |url: String| -> Value {
            let answer = reqwest::get(url).await.unwrap();
            answer.error_for_status().unwrap().json().await.unwrap()
        };
        let at = |url: &str, path: &str| {
            let url = reqwest::Url::parse(url).unwrap();
            url.join(path).unwrap().to_string()
        };
        let resource = get(at(&upstream, "/.well-known/oauth-protected-resource/mcp")).await;
        let issuer = resource["authorization_servers"][0].as_str().unwrap();
        let server = get(at(issuer, "/.well-known/oauth-authorization-server")).await;
        let folder = tempfile::tempdir().unwrap();
        let secret_file = folder.path().join("secret");
        std::fs::write(&secret_file, context["client_secret"].as_str().unwrap()).unwrap();
        let oauth = OauthSpec {
            token_url: server["token_endpoint"].as_str().unwrap().to_owned(),
            client_id: context["client_id"].as_str().unwrap().to_owned(),
            client_secret_file: Some(secret_file),
            scope: None,
            audience: None,
            resource: None,
        };
        let credential = Credential {
            oauth: Some(oauth),
            ..Credential::default()
        };
        let app = App::start(vec![in_front_of(&upstream, credential)]).await;
        assert_eq!(app.call("test-tool", json!({})).await.outcome, "ok");
        app.mounts.stop().await;
    })
}

#[tokio::test]
async fn a_token_by_client_credentials_satisfies_the_suite() {
    let scenario = "auth/client-credentials-basic";
    check(&["--force"], scenario, with_client_credentials).await;
}
