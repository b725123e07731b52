//! MCP servers that nobody here wrote.

use app::plugin::stdio::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::harness::{App, installed, npm, program, stdio};

fn names(list: &Value, member: &str) -> Vec<String> {
    let items = list["result"][member].as_array().unwrap();
    items
        .iter()
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn tools_prompts_and_resources_of_server_everything() {
    let script = npm("server-everything");
    let app = App::start(vec![stdio(
        "everything",
        program("node", &[&script, "stdio"]),
    )])
    .await;
    let tools = app.ask("tools/list", json!({})).await.body;
    assert!(
        names(&tools, "tools").contains(&"everything_echo".to_owned()),
        "{tools}"
    );
    assert_eq!(
        (&tools["result"]["ttlMs"], &tools["result"]["cacheScope"]),
        (&json!(0), &json!("private"))
    );
    let echo = app.call("everything_echo", json!({"message": "häi"})).await;
    assert_eq!(echo.body["result"]["resultType"], "complete");
    assert_eq!(echo.body["result"]["content"][0]["text"], "Echo: häi");
    let wrong = app.call("everything_get-sum", json!({"a": "x"})).await;
    assert!(
        wrong.outcome == "tool_error" || wrong.code() == -32602,
        "{wrong:?}"
    );

    let prompts = app.ask("prompts/list", json!({})).await.body;
    let prompt = names(&prompts, "prompts")
        .into_iter()
        .find(|name| name.contains("simple"))
        .unwrap();
    let got = app.ask("prompts/get", json!({"name": prompt})).await.body;
    assert!(got["result"]["messages"].is_array(), "{got}");

    let resources = app.ask("resources/list", json!({})).await.body;
    let uri = &resources["result"]["resources"][0]["uri"];
    let read = app.ask("resources/read", json!({"uri": uri})).await.body;
    assert!(read["result"]["contents"][0].is_object(), "{read}");
    assert_eq!(read["result"]["cacheScope"], "private");
    app.mounts.stop().await;
}

#[tokio::test]
async fn server_everything_serves_within_walls() {
    let mut program = program("node", &[&npm("server-everything"), "stdio"]);
    program.sandbox = Some(Sandbox {
        read: vec![installed("node_modules").into()],
        ..Sandbox::default()
    });
    let app = App::start(vec![stdio("everything", program)]).await;
    let echo = app.call("everything_echo", json!({"message": "häi"})).await;
    assert_eq!(echo.body["result"]["content"][0]["text"], "Echo: häi");
    app.mounts.stop().await;
}

#[tokio::test]
async fn server_filesystem_reads_and_refuses() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "hello").unwrap();
    let root = folder.path().canonicalize().unwrap();
    let root = root.to_str().unwrap();
    let script = npm("server-filesystem");
    let app = App::start(vec![stdio("fs", program("node", &[&script, root]))]).await;
    let read = app
        .call(
            "fs_read_text_file",
            json!({"path": format!("{root}/a.txt")}),
        )
        .await;
    assert_eq!(
        read.body["result"]["content"][0]["text"], "hello",
        "{read:?}"
    );
    let refused = app
        .call("fs_read_text_file", json!({"path": "/etc/passwd"}))
        .await;
    assert_eq!(refused.outcome, "tool_error");
    app.mounts.stop().await;
}
