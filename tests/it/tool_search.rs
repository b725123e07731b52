//! Two tools in place of a hundred.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Answer, Fleet, eventually, workspace};

use crate::telling::logged;

const PATIENCE: Duration = Duration::from_secs(20);
/// Ways in which a client says which list it wants.
const SEARCH: (&str, &str) = ("sweetmcp-tools", "search");
const ALL: (&str, &str) = ("sweetmcp-tools", "all");

/// The plugin that serves the hundred tools of the labelled set.
pub(crate) fn hundred_tools() -> String {
    let server = workspace().join("tests/clients/many_server.py");
    let table = workspace().join("services/search/tests/tools.txt");
    format!(
        "[[plugin]]\nname = \"many\"\nprefix = \"\"\nkind = \"stdio\"\ncommand = \"python3\"\nargs = [\"{}\", \"{}\"]\n",
        server.display(),
        table.display()
    )
}

/// A fleet that serves those tools and nothing else.
async fn fleet(more: &str) -> Result<Fleet> {
    let app = "[app]\nlisten = \"127.0.0.1:0\"\nbuiltins = false\n[fleet]\napps = 1\n";
    Fleet::up(&format!("{more}\n{app}{}", hundred_tools())).await
}

async fn ask(
    fleet: &Fleet,
    headers: &[(&'static str, &str)],
    method: &str,
    params: Value,
) -> Result<Answer> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let mut request = fleet
        .client()
        .post(&fleet.status.endpoints.jsonrpc)
        .json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    fleet.client().send(request).await
}

fn names(answer: &Answer) -> Vec<&str> {
    let tools = answer.json["result"]["tools"].as_array();
    let tools = tools.map(Vec::as_slice).unwrap_or_default();
    tools
        .iter()
        .filter_map(|tool| tool["name"].as_str())
        .collect()
}

#[tokio::test]
async fn a_client_that_asks_reads_two_definitions_and_finds_the_others() -> Result<()> {
    let fleet = fleet("").await?;
    let all = ask(&fleet, &[], "tools/list", json!({})).await?;
    assert_eq!(names(&all).len(), 100, "{}", all.text);

    // By header, query and `_meta`; over JSON-RPC, the newest revision and a session.
    let short = ask(&fleet, &[SEARCH], "tools/list", json!({})).await?;
    assert_eq!(names(&short), ["find_tools", "call_tool"]);
    assert!(
        short.text.len() * 10 <= all.text.len(),
        "{} of {} bytes",
        short.text.len(),
        all.text.len()
    );
    let meta = json!({"_meta": {"dev.sweetmcp/tools": "search"}});
    assert_eq!(names(&ask(&fleet, &[], "tools/list", meta).await?).len(), 2);
    let modern = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}}}});
    let url = format!("{}?tools=search", fleet.status.endpoints.mcp);
    let request = fleet.client().post(&url).json(&modern);
    let request = request
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/list");
    let listed = fleet.client().send(request).await?;
    assert_eq!(names(&listed).len(), 2, "{}", listed.text);
    assert!(listed.json["result"]["ttlMs"].is_u64(), "{}", listed.text);
    let begin = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let begun = fleet.client().post_json(&url, &begin).await?;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let request = fleet.client().post(&url).json(&list);
    let request = request.header("mcp-session-id", begun.header("mcp-session-id"));
    assert_eq!(names(&fleet.client().send(request).await?).len(), 2);

    // What people ask for is found, with all that a call needs.
    let queries = std::fs::read_to_string(workspace().join("services/search/tests/queries.txt"))?;
    let (mut asked, mut hits) = (0, 0);
    for (at, line) in queries.lines().enumerate() {
        let (query, wanted) = line.split_once(" | ").context("no label")?;
        // The caller's own rate holds here as everywhere.
        let params = json!({"name": "find_tools", "arguments": {"query": query}});
        let found = ask(&fleet, &[SEARCH], "tools/call", params).await?;
        let tools = &found.json["result"]["structuredContent"]["tools"];
        let tools = tools.as_array().with_context(|| found.text.clone())?;
        ensure!(
            tools.len() <= 5 && tools.iter().all(|t| t["inputSchema"].is_object()),
            "{at}: {}",
            found.text
        );
        asked += 1;
        hits += usize::from(tools.iter().any(|tool| tool["name"] == wanted));
    }
    assert!(
        asked >= 100 && hits * 100 >= asked * 95,
        "{hits} of {asked}"
    );

    // A call by way of the stand-in is a call of its tool, in the answer and in the record.
    let params = json!({"name": "call_tool", "arguments": {"name": "gmail_send_email", "arguments": {"to": "ana"}}});
    let id = ("x-request-id", "by-the-way");
    let called = ask(&fleet, &[SEARCH, id], "tools/call", params.clone()).await?;
    assert_eq!(
        called.json["result"]["content"][0]["text"],
        r#"["gmail_send_email", {"to": "ana"}]"#
    );
    eventually(PATIENCE, || async {
        let lines = logged(&fleet, "by-the-way")?;
        for role in ["edge", "app"] {
            let line = lines.get(role).and_then(|l| l.first()).context("no line")?;
            ensure!(line["tool"] == "gmail_send_email", "{role}: {line}");
        }
        Ok(())
    })
    .await?;

    // Mistakes are told where a model, or a program, can read them.
    let nothing = ask(
        &fleet,
        &[SEARCH],
        "tools/call",
        json!({"name": "find_tools", "arguments": {}}),
    )
    .await?;
    assert_eq!(nothing.json["result"]["isError"], true, "{}", nothing.text);
    let itself = json!({"name": "call_tool", "arguments": {"name": "call_tool"}});
    let itself = ask(&fleet, &[SEARCH], "tools/call", itself).await?;
    assert_eq!(itself.json["error"]["code"], -32602, "{}", itself.text);
    // Without asking there are no such tools.
    let unasked = ask(&fleet, &[], "tools/call", params).await?;
    assert_eq!(unasked.json["error"]["code"], -32602, "{}", unasked.text);
    Ok(())
}

#[tokio::test]
async fn long_lists_are_short_where_the_settings_say_so() -> Result<()> {
    let fleet = fleet("[edge.search]\nmode = \"large\"\ntools_min = 100\n").await?;
    // The edge knows the length of the list as soon as it has read it.
    eventually(PATIENCE, || async {
        let listed = ask(&fleet, &[], "tools/list", json!({})).await?;
        ensure!(names(&listed).len() == 2, "{}", listed.text.len());
        Ok(())
    })
    .await?;
    let all = ask(&fleet, &[ALL], "tools/list", json!({})).await?;
    assert_eq!(names(&all).len(), 100);
    Ok(())
}
