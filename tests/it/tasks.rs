//! Work that outlives its request, through edges: any edge finds the app that a task lives at.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, ClientCapabilities, ClientConfig,
    GetTaskParams, Implementation, InputResponses, ProtocolVersion, UpdateTaskParams,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, RoleClient, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Value, json};
use testkit::{Fleet, eventually};

use crate::clients::in_node;
use crate::eras::{Reading, SecondEdge, Session, everything, last};

const PATIENCE: Duration = Duration::from_secs(30);
const CONFORMANCE: &str =
    "[[plugin]]\nname = \"conformance\"\nkind = \"builtin\"\nset = \"conformance\"\n";

/// A request of a client of 2026-07-28 that has the extension.
fn newer(fleet: &Fleet, url: &str, method: &str, mut params: Value) -> reqwest::RequestBuilder {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities":
            {"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}},
    });
    let mut request = fleet
        .client()
        .post(url)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    let named = ["name", "taskId"]
        .iter()
        .find_map(|member| params[member].as_str());
    if let Some(name) = named {
        request = request.header("mcp-name", name);
    }
    request.json(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
}

async fn ask(fleet: &Fleet, url: &str, method: &str, params: Value) -> Result<Value> {
    let answer = fleet
        .client()
        .send(newer(fleet, url, method, params))
        .await?;
    last(&answer.text)
}

fn text_of(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_task_is_found_from_any_edge_and_told_of_until_its_app_is_gone() -> Result<()> {
    let fleet = Fleet::up(&format!(
        "[edge.rate]\nper_second = 1000\nburst = 1000\n[fleet]\napps = 2\n{CONFORMANCE}"
    ))
    .await?;
    let (first, second) = (
        fleet.status.endpoints.mcp.clone(),
        SecondEdge::start(&fleet).await?,
    );
    let begin = async |seconds: u64| -> Result<(String, String)> {
        let params = json!({"name": "slow_compute", "arguments": {"seconds": seconds}});
        let made = ask(&fleet, &first, "tools/call", params).await?;
        let id = made["result"]["taskId"]
            .as_str()
            .with_context(|| made.to_string())?;
        let (app, _) = id.rsplit_once('.').context("an app")?;
        Ok((app.to_owned(), id.to_owned()))
    };
    // Tasks at both apps, as soon as the edge knows both.
    let tasks = std::sync::Mutex::new(std::collections::BTreeMap::new());
    eventually(PATIENCE, || async {
        let (app, id) = begin(600).await?;
        let mut tasks = tasks.lock().expect("no panic");
        tasks.insert(app, id);
        ensure!(tasks.len() == 2, "{tasks:?}");
        Ok(())
    })
    .await?;
    let tasks: Vec<(String, String)> = tasks.into_inner()?.into_iter().collect();
    for (_, id) in &tasks {
        for url in [&first, &second.url] {
            let got = ask(&fleet, url, "tasks/get", json!({"taskId": id})).await?;
            assert_eq!(
                (&got["result"]["status"], &got["result"]["taskId"]),
                (&json!("working"), &json!(id))
            );
        }
    }
    // One stream is one app's: it says which tasks it tells of.
    let ids: Vec<&String> = tasks.iter().map(|(_, id)| id).collect();
    let wishes = json!({"notifications": {"taskIds": ids, "toolsListChanged": true}});
    let listen = newer(&fleet, &first, "subscriptions/listen", wishes);
    let mut told = Reading::open(listen).await?;
    let granted = told.next().await?.context("no acknowledgement")?;
    let granted = &granted["params"]["notifications"];
    assert_eq!(granted["taskIds"], json!([tasks[0].1]), "{granted}");
    assert_eq!(granted["toolsListChanged"], true, "{granted}");
    let status = told.next().await?.context("no status")?;
    assert_eq!(status["params"]["status"], "working", "{status}");
    let done = ask(
        &fleet,
        &second.url,
        "tasks/cancel",
        json!({"taskId": tasks[0].1}),
    )
    .await?;
    assert_eq!(done["result"], json!({"resultType": "complete"}), "{done}");
    let status = told.next().await?.context("no status")?;
    assert_eq!(status["method"], "notifications/tasks", "{status}");
    assert_eq!(status["params"]["status"], "cancelled", "{status}");

    let lost = fleet
        .status
        .instances
        .iter()
        .find(|one| one.name == tasks[1].0);
    fleet.kill_9(lost.with_context(|| tasks[1].0.clone())?.pid)?;
    eventually(PATIENCE, || async {
        let got = ask(&fleet, &first, "tasks/get", json!({"taskId": tasks[1].1})).await?;
        ensure!(got["error"]["code"] == -32602, "{got}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_session_has_tasks_of_an_older_server_and_asks_for_their_result_anywhere() -> Result<()> {
    let fleet = Fleet::up(&everything()?).await?;
    let (first, second) = (
        fleet.status.endpoints.mcp.clone(),
        SecondEdge::start(&fleet).await?,
    );
    let session = Session::open(&fleet).await?;
    let post = |url: &str, id: u64, method: &str, params: Value| {
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        session.with(fleet.client().post(url).json(&body))
    };
    let params = json!({"name": "everything_simulate-research-query",
        "arguments": {"topic": "python", "ambiguous": true}, "task": {}});
    let made = fleet
        .client()
        .send(post(&first, 1, "tools/call", params))
        .await?;
    let task = made.json["result"]["task"]["taskId"].clone();
    ensure!(task.is_string(), "{}", made.text);

    let mut result = Reading::open(post(
        &second.url,
        2,
        "tasks/result",
        json!({"taskId": task}),
    ))
    .await?;
    let asked = result.next().await?.context("no question")?;
    assert_eq!(asked["method"], "elicitation/create", "{asked}");
    let content = json!({"interpretation": "comedy"});
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": content}});
    let told = fleet
        .client()
        .send(session.with(fleet.client().post(&first).json(&answer)))
        .await?;
    assert_eq!(told.status, 202, "{}", told.text);
    let outcome = result.next().await?.context("no result")?;
    assert!(
        text_of(&outcome["result"]).contains("(comedy)"),
        "{outcome}"
    );

    eventually(PATIENCE, || async {
        let listed = fleet
            .client()
            .send(post(&second.url, 3, "tasks/list", json!({})))
            .await?;
        let listed = &listed.json["result"]["tasks"];
        ensure!(listed[0]["taskId"] == task, "{listed}");
        ensure!(listed[0]["status"] == "completed", "{listed}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn sdks_of_both_eras_work_in_tasks_of_servers_of_both_eras() -> Result<()> {
    let fleet = Fleet::up(&format!(
        "[edge.rate]\nper_second = 1000\nburst = 1000\n{CONFORMANCE}{}",
        everything()?
    ))
    .await?;
    let (url, token) = (fleet.status.endpoints.mcp.as_str(), fleet.token.as_str());
    let said = in_node("tasks_v1.mjs", &[url, token]).await?;
    for (task, member, says) in [
        ("asked", "text", "Answered"),
        ("failing", "failed", "failed"),
        ("broken", "failed", "failed"),
        ("at_once", "text", "Hello, Ana!"),
        ("older", "text", "(snake)"),
    ] {
        let came = said[task][member].as_str().unwrap_or_default();
        assert!(came.contains(says), "{task}: {said}");
    }
    assert_eq!(said["cancelled"], "cancelled", "{said}");
    let listed = [
        "cancelled",
        "completed",
        "completed",
        "completed",
        "failed",
        "failed",
    ];
    assert_eq!(said["listed"], json!(listed), "{said}");

    let sdk = connect(url, token).await?;
    let content = json!({"ok": true, "interpretation": "snake"});
    for (tool, arguments, says) in [
        ("confirm_delete", json!({"filename": "a"}), "Answered"),
        (
            "everything_simulate-research-query",
            json!({"topic": "python", "ambiguous": true}),
            "(snake)",
        ),
    ] {
        let task = begin(&sdk, tool, arguments).await?;
        let waits = until(&sdk, &task, "input_required").await?;
        let questions = waits["inputRequests"].as_object().context("no questions")?;
        let answers = questions.keys().map(|key| {
            let answer = json!({"action": "accept", "content": content});
            (key.clone(), answer)
        });
        let answers: serde_json::Map<String, Value> = answers.collect();
        let answers: InputResponses = serde_json::from_value(answers.into())?;
        sdk.peer()
            .update_task(UpdateTaskParams::new(&task, answers))
            .await?;
        let done = until(&sdk, &task, "completed").await?;
        assert!(text_of(&done["result"]).contains(says), "{done}");
    }
    let task = begin(&sdk, "slow_compute", json!({"seconds": 600})).await?;
    sdk.peer().cancel_task(CancelTaskParams::new(&task)).await?;
    until(&sdk, &task, "cancelled").await?;
    sdk.cancel().await?;
    Ok(())
}

type Sdk = RunningService<RoleClient, ClientConfig>;

/// rmcp, as a client of 2026-07-28 that has the extension.
async fn connect(url: &str, token: &str) -> Result<Sdk> {
    let capabilities: ClientCapabilities = serde_json::from_value(json!({
        "elicitation": {"form": {}},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    }))?;
    let config = ClientConfig::new(capabilities, Implementation::new("tasks", "1"))
        .with_protocol_version(ProtocolVersion::V_2026_07_28);
    let transport =
        StreamableHttpClientTransportConfig::with_uri(url.to_owned()).auth_header(token);
    let transport = StreamableHttpClientTransport::from_config(transport);
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    let lifecycle = ClientLifecycleMode::Discover { preferred_versions };
    Ok(config.serve_with_lifecycle(transport, lifecycle).await?)
}

async fn begin(sdk: &Sdk, tool: &str, arguments: Value) -> Result<String> {
    let mut params = CallToolRequestParams::new(tool.to_owned());
    params.arguments = arguments.as_object().cloned();
    match sdk.peer().call_tool_once(params).await? {
        CallToolResponse::Task(created) => Ok(created.task.task_id),
        other => bail!("{other:?}"),
    }
}

async fn until(sdk: &Sdk, task: &str, status: &str) -> Result<Value> {
    eventually(PATIENCE, || async {
        let got = sdk.peer().get_task(GetTaskParams::new(task)).await?;
        let got = serde_json::to_value(got)?;
        ensure!(got["status"] == status, "{got}");
        Ok(got)
    })
    .await
}
