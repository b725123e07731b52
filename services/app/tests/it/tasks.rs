//! Work that outlives its request, for clients and servers of both eras.

use app::plugin::mounts::{Kind, Spec};
use serde_json::{Value, json};

use crate::harness::{Answer, App, Events, npm, program, stdio, until};
use crate::older::Older;
use crate::remote::{remote, serve_everything};

const RESEARCH: &str = "everything_simulate-research-query";

/// A server of 2025-11-25 that has a tool which is a task always, and one of 2026-07-28 that makes tasks of some calls.
async fn app() -> App {
    let script = npm("server-everything");
    App::start(vec![
        stdio("everything", program("node", &[&script, "stdio"])),
        Spec {
            name: "conformance".to_owned(),
            prefix: String::new(),
            names: Default::default(),
            scopes: Vec::new(),
            telling: app::plugin::Telling::default(),
            trusted: false,
            kind: Kind::Conformance,
        },
    ])
    .await
}

/// The parameters, of a client that can do this.
fn with(mut params: Value, capabilities: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    params
}

fn all() -> Value {
    json!({"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}})
}

fn research(ambiguous: bool) -> Value {
    json!({"name": RESEARCH, "arguments": {"topic": "python", "ambiguous": ambiguous}})
}

/// A client of 2026-07-28 that has the extension.
struct Newer<'a>(&'a App, &'static str);

impl Newer<'_> {
    async fn ask(&self, method: &str, params: Value) -> Answer {
        let who = [("sweetmcp-principal", self.1)];
        self.0.ask_with(method, with(params, all()), &who).await
    }

    async fn begin(&self, params: Value) -> String {
        let made = self.ask("tools/call", params).await;
        let result = &made.body["result"];
        assert_eq!(result["resultType"], "task", "{made:?}");
        let id = result["taskId"].as_str().unwrap().to_owned();
        let got = self.get(&id).await;
        assert_eq!(got["taskId"], id, "a task that was told is there");
        id
    }

    async fn get(&self, id: &str) -> Value {
        let got = self.ask("tasks/get", json!({"taskId": id})).await;
        let result = got.body["result"].clone();
        assert_eq!(result["resultType"], "complete", "{got:?}");
        result
    }

    async fn until(&self, id: &str, status: &str) -> Value {
        until(&format!("the task is {status}"), async || {
            let got = self.get(id).await;
            (got["status"] == status).then_some(got)
        })
        .await
    }
}

fn text_of(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_task_of_an_older_server_is_one_of_the_extension() {
    follows_a_task(&app().await, RESEARCH).await;
    let served = serve_everything("streamableHttp");
    let remote = App::start(vec![remote(&served.url)]).await;
    follows_a_task(&remote, "remote_simulate-research-query").await;
}

async fn follows_a_task(app: &App, tool: &str) {
    let ana = Newer(app, "ana");
    let discovered = app.ask("server/discover", json!({})).await.body;
    let extensions = &discovered["result"]["capabilities"]["extensions"];
    assert!(extensions["io.modelcontextprotocol/tasks"].is_object());
    let mut params = research(true);
    params["name"] = tool.into();
    let id = ana.begin(params).await;
    let waits = ana.until(&id, "input_required").await;
    let (key, question) = waits["inputRequests"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();
    assert_eq!(question["method"], "elicitation/create");
    assert!(question["params"].get("_meta").is_none(), "{question}");
    let again = ana.get(&id).await;
    assert!(
        again["inputRequests"].get(key).is_some(),
        "it waits: {again}"
    );

    let answer = json!({"action": "accept", "content": {"interpretation": "snake"}});
    let inputs = json!({"nothing": {"action": "decline"}, key.as_str(): answer});
    let update = json!({"taskId": id, "inputResponses": inputs});
    let noted = ana.ask("tasks/update", update).await;
    assert_eq!(noted.body["result"], json!({"resultType": "complete"}));
    let done = ana.until(&id, "completed").await;
    assert!(text_of(&done["result"]).contains("(snake)"), "{done}");
    assert!(done["result"].get("_meta").is_none(), "{done}");
    assert!(
        done.get("ttl").is_none() && done["ttlMs"].is_u64(),
        "{done}"
    );
    // It is over: to cancel it is no error, and does nothing.
    let late = ana.ask("tasks/cancel", json!({"taskId": id})).await;
    assert_eq!(late.body["result"], json!({"resultType": "complete"}));
    assert_eq!(ana.get(&id).await["status"], "completed");

    let foreign = Newer(app, "bob")
        .ask("tasks/get", json!({"taskId": id}))
        .await;
    assert_eq!((foreign.status, foreign.code()), (400, -32602));
    let plain = with(json!({"taskId": id}), json!({}));
    let plain = app.ask("tasks/get", plain).await;
    assert_eq!((plain.status, plain.code()), (400, -32021), "{plain:?}");
    app.mounts.stop().await;
}

#[tokio::test]
async fn a_client_without_the_extension_gets_what_an_older_servers_task_comes_to() {
    let app = app().await;
    let params = with(research(true), json!({"elicitation": {}}));
    let asked = app.ask("tools/call", params.clone()).await;
    let result = &asked.body["result"];
    assert_eq!(result["resultType"], "input_required", "{asked:?}");
    let key = result["inputRequests"]
        .as_object()
        .unwrap()
        .keys()
        .next()
        .unwrap();
    let mut again = params;
    again["requestState"] = result["requestState"].clone();
    again["inputResponses"] =
        json!({key.as_str(): {"action": "accept", "content": {"interpretation": "comedy"}}});
    let done = app.ask("tools/call", again).await;
    assert!(
        text_of(&done.body["result"]).contains("(comedy)"),
        "{done:?}"
    );
    app.mounts.stop().await;
}

#[tokio::test]
async fn a_client_hears_of_its_tasks_without_asking() {
    let app = app().await;
    let client = Newer(&app, "");
    let cancelled = json!({"name": "slow_compute", "arguments": {"seconds": 600}});
    let (older, newer) = (
        client.begin(research(false)).await,
        client.begin(cancelled).await,
    );
    let ids = json!([older, newer, "app-1.unknown"]);
    let wishes = json!({"notifications": {"taskIds": ids}});
    let refused = app.ask("subscriptions/listen", wishes.clone()).await;
    assert_eq!(
        (refused.status, refused.code()),
        (400, -32021),
        "{refused:?}"
    );
    let mut told = app
        .stream("subscriptions/listen", with(wishes, all()))
        .await;
    let first = told.next().await.unwrap();
    let mut granted: Vec<String> =
        serde_json::from_value(first["params"]["notifications"]["taskIds"].clone()).unwrap();
    granted.sort();
    let mut mine = vec![older.clone(), newer.clone()];
    mine.sort();
    assert_eq!(granted, mine);
    client.ask("tasks/cancel", json!({"taskId": newer})).await;
    let mut last = std::collections::BTreeMap::new();
    while !mine
        .iter()
        .all(|id| matches!(last.get(id), Some((_, true))))
    {
        let message = told.next().await.unwrap();
        assert_eq!(message["method"], "notifications/tasks");
        let params = &message["params"];
        assert_eq!(params["_meta"]["io.modelcontextprotocol/subscriptionId"], 1);
        assert!(params.get("resultType").is_none(), "{params}");
        let status = params["status"].as_str().unwrap();
        let id = params["taskId"].as_str().unwrap().to_owned();
        last.insert(
            id,
            (params.clone(), matches!(status, "completed" | "cancelled")),
        );
    }
    assert!(text_of(&last[&older].0["result"]).contains("Research"));
    assert_eq!(last[&newer].0["status"], "cancelled");
    app.mounts.stop().await;
}

/// Reads a stream to the response of a request; questions are answered by the session.
async fn answered(client: &Older, id: u64, mut events: Events, with: Value) -> Value {
    loop {
        let message = events.next().await.expect("an answer");
        if message["id"] == id {
            return message;
        }
        if message["method"] == "elicitation/create" {
            let meta = &message["params"]["_meta"]["io.modelcontextprotocol/related-task"];
            assert!(meta["taskId"].is_string(), "{message}");
            let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": with});
            assert_eq!(client.post(answer).await.status(), 202);
        }
    }
}

fn old(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

async fn result(client: &Older, method: &str, params: Value) -> Value {
    let answer = client.post(old(1, method, params)).await;
    let answer: Value = answer.json().await.unwrap();
    assert!(answer["result"].is_object(), "{answer}");
    answer["result"].clone()
}

#[tokio::test]
async fn a_client_of_2025_11_25_has_tasks_of_servers_of_both_eras() {
    let app = app().await;
    let client = Older::initialize(&app, "2025-11-25").await;
    let listed = result(&client, "tools/list", json!({})).await;
    let support = |name: &str| {
        let tools = listed["tools"].as_array().unwrap();
        let tool = tools.iter().find(|tool| tool["name"] == name).unwrap();
        tool["execution"]["taskSupport"].as_str().map(str::to_owned)
    };
    for (tool, want) in [
        (RESEARCH, Some("required")),
        ("everything_echo", Some("forbidden")),
        ("failing_job", Some("required")),
        ("greet", Some("optional")),
    ] {
        assert_eq!(support(tool).as_deref(), want, "{tool}");
    }
    let mut told = client.get(None).await;
    let begin = async |name: &str, arguments: Value| -> String {
        let params = json!({"name": name, "arguments": arguments, "task": {"ttl": 60000}});
        let made = result(&client, "tools/call", params).await;
        assert!(made["task"]["createdAt"].is_string(), "{made}");
        made["task"]["taskId"].as_str().unwrap().to_owned()
    };
    let failing = begin("failing_job", json!({})).await;
    let asking = begin("confirm_delete", json!({"filename": "a"})).await;
    let slow = begin("slow_compute", json!({"seconds": 600})).await;
    let kept = begin("greet", json!({"name": "Ana"})).await;
    let researching = begin(RESEARCH, json!({"topic": "python", "ambiguous": true})).await;

    let yes = json!({"action": "accept", "content": {"ok": true, "interpretation": "snake"}});
    let outcome = async |id: &str| {
        let asked = client
            .post(old(9, "tasks/result", json!({"taskId": id})))
            .await;
        if asked.headers()["content-type"] == "application/json" {
            return asked.json().await.unwrap();
        }
        answered(&client, 9, Events::of(asked), yes.clone()).await
    };
    for (id, says) in [
        (&failing, "The job failed"),
        (&asking, "Answered"),
        (&kept, "Hello, Ana!"),
        (&researching, "(snake)"),
    ] {
        let answer = outcome(id).await;
        assert!(text_of(&answer["result"]).contains(says), "{answer}");
        let related = &answer["result"]["_meta"]["io.modelcontextprotocol/related-task"];
        assert_eq!(related["taskId"], **id, "{answer}");
    }
    let cancelled = result(&client, "tasks/cancel", json!({"taskId": slow})).await;
    assert_eq!(cancelled["status"], "cancelled");
    let shown = result(&client, "tasks/get", json!({"taskId": failing})).await;
    assert_eq!(shown["status"], "failed", "a tool that failed: {shown}");
    assert!(
        shown["ttl"].is_u64() && shown.get("result").is_none(),
        "{shown}"
    );
    for id in [&slow, &kept, &"app-1.x".to_owned()] {
        let late = client
            .post(old(2, "tasks/cancel", json!({"taskId": id})))
            .await;
        let late: Value = late.json().await.unwrap();
        assert_eq!(late["error"]["code"], -32602, "{late}");
    }
    let listed = result(&client, "tasks/list", json!({})).await;
    let mut statuses: Vec<(String, String)> = listed["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| {
            let text = |name: &str| task[name].as_str().unwrap().to_owned();
            (text("taskId"), text("status"))
        })
        .collect();
    statuses.sort();
    let mut want = [
        (failing, "failed"),
        (asking, "completed"),
        (slow.clone(), "cancelled"),
        (kept, "completed"),
        (researching, "completed"),
    ]
    .map(|(id, status)| (id, status.to_owned()));
    want.sort();
    assert_eq!(statuses, want);
    loop {
        let message = told.next().await.unwrap();
        let params = &message["params"];
        if params["taskId"] == slow && params["status"] == "cancelled" {
            assert_eq!(message["method"], "notifications/tasks/status");
            break;
        }
    }
    // Who knows no tasks gets what one comes to.
    let eldest = Older::initialize(&app, "2024-11-05").await;
    let params = json!({"name": "failing_job", "arguments": {}});
    let asked = eldest.post(old(9, "tools/call", params)).await;
    let answer = answered(&eldest, 9, Events::of(asked), json!({})).await;
    assert_eq!(text_of(&answer["result"]), "The job failed");
    app.mounts.stop().await;
}
