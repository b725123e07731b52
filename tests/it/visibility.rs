//! A plugin with `scopes` is there for callers whose token grants one of them, and for nobody else, at every door.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Client, Fleet};

const CONFIG: &str = r#"
[[plugin]]
name = "ledger"
kind = "builtin"
set = "hash"
scopes = ["finance", "audit"]
"#;
const HIDDEN: &str = "ledger_digest";

/// What a caller is shown.
struct Seen {
    listed: bool,
    called: Value,
    in_graphql: bool,
    in_session: bool,
    found: bool,
    by_the_way: Value,
}

async fn look(fleet: &Fleet, token: &str) -> Result<Seen> {
    let client = Client::new(token)?;
    let ends = &fleet.status.endpoints;
    let names = |answer: &Value| -> Result<Vec<String>> {
        let tools = answer["result"]["tools"].as_array();
        let tools = tools.with_context(|| answer.to_string())?;
        Ok(tools
            .iter()
            .filter_map(|tool| tool["name"].as_str().map(str::to_owned))
            .collect())
    };
    let listed = client.mcp(&ends.mcp, "tools/list", json!({})).await?.json;
    assert_eq!(listed["result"]["cacheScope"], "private", "{listed}");
    let names_listed = names(&listed)?;
    ensure!(names_listed.iter().any(|n| n == "time_now"), "{listed}");
    let arguments = json!({"name": HIDDEN, "arguments": {"text": "a", "algorithm": "sha256"}});
    let called = client
        .mcp(&ends.mcp, "tools/call", arguments.clone())
        .await?
        .json;
    let query = json!({"query": "{ __schema { queryType { fields { name } } } }"});
    let schema = client.post_json(&ends.graphql, &query).await?.text;

    let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello});
    let begun = client.post_json(&ends.mcp, &hello).await?;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let request = client
        .post(&ends.mcp)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-session-id", begun.header("mcp-session-id"))
        .json(&list);
    let old = client.send(request).await?;
    // By way of the tools that stand in for a long list.
    let stand_in = async |name: &str, arguments: Value| {
        let params = json!({"name": name, "arguments": arguments});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let request = client.post(&ends.jsonrpc).json(&body);
        client
            .send(request.header("sweetmcp-tools", "search"))
            .await
    };
    let found = stand_in("find_tools", json!({"query": "ledger digest", "limit": 20})).await?;
    ensure!(
        found.json["result"]["structuredContent"]["tools"].is_array(),
        "{}",
        found.text
    );
    let by_the_way = stand_in("call_tool", arguments.clone()).await?.json;

    Ok(Seen {
        listed: names_listed.iter().any(|name| name == HIDDEN),
        called,
        in_graphql: schema.contains(HIDDEN),
        in_session: old.text.contains(HIDDEN),
        found: found.text.contains(HIDDEN),
        by_the_way,
    })
}

#[tokio::test]
async fn a_plugin_with_scopes_is_shown_to_who_has_one_of_them() -> Result<()> {
    let fleet = Fleet::up(CONFIG).await?;
    for (scopes, may) in [
        (&["mcp"][..], false),
        (&["mcp", "finance"], true),
        (&["mcp", "audit"], true),
        (&["mcp", "finances"], false),
        // What the edge itself has cannot be had by a token.
        (&["mcp", "*"], false),
    ] {
        let flags: Vec<&str> = scopes.iter().flat_map(|s| ["--scope", s]).collect();
        let token = fleet.mint(&flags).await?;
        let seen = look(&fleet, &token).await?;
        assert_eq!(
            (seen.listed, seen.in_graphql, seen.in_session, seen.found),
            (may, may, may, may),
            "{scopes:?}"
        );
        for called in [&seen.called, &seen.by_the_way] {
            match may {
                true => assert_eq!(called["result"]["isError"], false, "{called}"),
                false => assert_eq!(called["error"]["code"], -32602, "{called}"),
            }
        }
    }
    Ok(())
}
