//! Every front door answers from real tools, through the real edge and app.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Answer, Fleet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::telling::meta_plugin;

const INIT: &str = "initialize";

/// Opens a session of the older era; the answer and its session.
async fn initialize(fleet: &Fleet, version: &str) -> Result<(Answer, String)> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": INIT, "params": {
        "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let answer = fleet
        .client()
        .post_json(&fleet.status.endpoints.mcp, &body)
        .await?;
    let session = answer.header("mcp-session-id").to_owned();
    Ok((answer, session))
}

async fn in_session(fleet: &Fleet, session: &str, body: &Value) -> Result<Answer> {
    let request = fleet
        .client()
        .post(&fleet.status.endpoints.mcp)
        .header("mcp-session-id", session)
        .json(body);
    fleet.client().send(request).await
}

fn call(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

#[tokio::test]
async fn all_of_them_on_one_fleet() -> Result<()> {
    let fleet = Fleet::up("").await?;
    stateless(&fleet).await.context("2026-07-28")?;
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        sessions(&fleet, version).await.context(version)?;
    }
    json_rpc(&fleet).await.context("json-rpc")?;
    batches(&fleet).await.context("batches")?;
    graphql(&fleet).await.context("graphql")?;
    operators(&fleet).await.context("admin")?;
    Ok(())
}

async fn stateless(fleet: &Fleet) -> Result<()> {
    let mcp = &fleet.status.endpoints.mcp;
    let client = fleet.client();
    let discover = client.mcp(mcp, "server/discover", json!({})).await?;
    assert_eq!(discover.status, 200, "{}", discover.text);
    let versions = &discover.json["result"]["supportedVersions"];
    assert!(
        versions
            .as_array()
            .context("versions")?
            .contains(&json!("2026-07-28"))
    );
    let list = client.mcp(mcp, "tools/list", json!({})).await?;
    let tools = list.json["result"]["tools"].as_array().context("tools")?;
    assert!(
        tools.iter().any(|t| t["name"] == "time_now"),
        "{}",
        list.text
    );
    assert_eq!(list.json["result"]["resultType"], "complete");
    fleet.call_tool("time_now", json!({})).await?;
    assert!(!discover.header("x-request-id").is_empty());

    let unknown = client.mcp(mcp, "no/such", json!({})).await?;
    assert_eq!(
        (unknown.status, &unknown.json["error"]["code"]),
        (404, &json!(-32601))
    );
    let removed = client.mcp(mcp, "ping", json!({})).await?;
    assert_eq!(
        (removed.status, &removed.json["error"]["code"]),
        (404, &json!(-32601))
    );
    let tool = client
        .mcp(mcp, "tools/call", json!({"name": "none", "arguments": {}}))
        .await?;
    assert_eq!(tool.json["error"]["code"], -32602, "{}", tool.text);
    Ok(())
}

async fn sessions(fleet: &Fleet, version: &str) -> Result<()> {
    let (answer, session) = initialize(fleet, version).await?;
    assert_eq!(
        answer.json["result"]["protocolVersion"], version,
        "{}",
        answer.text
    );
    assert!(answer.json["result"]["serverInfo"]["name"].is_string());
    assert!(!session.is_empty());

    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(in_session(fleet, &session, &ready).await?.status, 202);
    let ping = in_session(fleet, &session, &call(2, "ping", json!({}))).await?;
    assert_eq!(ping.json["result"], json!({}));
    let list = in_session(fleet, &session, &call(3, "tools/list", json!({}))).await?;
    assert!(
        list.json["result"]["tools"]
            .as_array()
            .is_some_and(|t| !t.is_empty()),
        "{}",
        list.text
    );
    assert!(
        list.json["result"].get("resultType").is_none(),
        "modern members are dropped"
    );
    let params = json!({"name": "time_now", "arguments": {}});
    let now = in_session(fleet, &session, &call(4, "tools/call", params)).await?;
    assert!(now.json["result"]["content"].is_array(), "{}", now.text);
    let unknown = in_session(fleet, &session, &call(5, "no/such", json!({}))).await?;
    assert_eq!(
        (unknown.status, &unknown.json["error"]["code"]),
        (200, &json!(-32601))
    );

    let array = json!([call(6, "ping", json!({})), call(7, "ping", json!({}))]);
    let batch = in_session(fleet, &session, &array).await?;
    if version == "2025-03-26" {
        assert_eq!(batch.json.as_array().context("an array")?.len(), 2);
        let many: Vec<Value> = (0..129).map(|id| call(id, "ping", json!({}))).collect();
        let many = in_session(fleet, &session, &json!(many)).await?;
        let error = &many.json["error"];
        assert_eq!((many.status, &error["code"]), (400, &json!(-32600)));
        assert_eq!(error["message"], "a batch takes at most 128 entries");
    } else {
        assert_eq!(batch.status, 400);
    }
    let forged = in_session(fleet, &format!("{session}x"), &call(8, "ping", json!({}))).await?;
    assert_eq!(forged.status, 404);
    Ok(())
}

async fn json_rpc(fleet: &Fleet) -> Result<()> {
    let url = &fleet.status.endpoints.jsonrpc;
    let client = fleet.client();
    let params = json!({"name": "time_now", "arguments": {}});
    let now = client
        .post_json(url, &call(1, "tools/call", params))
        .await?;
    assert!(now.json["result"]["content"].is_array(), "{}", now.text);
    for id in ["7", "1.50", "12345678901234567890123", "\"x\""] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        let request = client
            .post(url)
            .header("content-type", "application/json")
            .body(body);
        let answer = client.send(request).await?;
        assert!(
            answer.text.contains(&format!("\"id\":{id}")),
            "{}",
            answer.text
        );
    }
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/cancelled"});
    let quiet = client.post_json(url, &notification).await?;
    assert_eq!((quiet.status, quiet.text.as_str()), (202, ""));
    Ok(())
}

async fn batches(fleet: &Fleet) -> Result<()> {
    let url = &fleet.status.endpoints.batch;
    let client = fleet.client();
    let mixed = json!([
        call(1, "ping", json!({})),
        {"jsonrpc": "2.0", "method": "notifications/cancelled"},
        {"foo": "boo"},
        call(2, "no/such", json!({})),
        call(3, "tools/call", json!({"name": "time_now", "arguments": {}})),
    ]);
    let answer = client.post_json(url, &mixed).await?;
    let entries = answer.json.as_array().context("an array")?;
    let ids: Vec<&Value> = entries.iter().map(|e| &e["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!(null), &json!(2), &json!(3)]);
    assert_eq!(entries[1]["error"]["code"], -32600);
    assert_eq!(entries[2]["error"]["code"], -32601);
    assert!(entries[3]["result"]["content"].is_array());

    for (entries, status) in [(128_u64, 200), (129, 400)] {
        let many: Vec<Value> = (0..entries).map(|id| call(id, "ping", json!({}))).collect();
        let answer = client.post_json(url, &json!(many)).await?;
        assert_eq!(answer.status, status, "{}", answer.text);
        if status == 400 {
            let error = &answer.json["error"];
            assert_eq!(error["code"], -32600, "{}", answer.text);
            assert_eq!(error["message"], "a batch takes at most 128 entries");
        }
    }

    let empty = client.post_json(url, &json!([])).await?;
    assert_eq!(empty.json["error"]["code"], -32600);
    let quiet = client
        .post_json(
            url,
            &json!([{"jsonrpc": "2.0", "method": "notifications/x"}]),
        )
        .await?;
    assert_eq!((quiet.status, quiet.text.as_str()), (202, ""));
    Ok(())
}

async fn graphql(fleet: &Fleet) -> Result<()> {
    let url = &fleet.status.endpoints.graphql;
    let client = fleet.client();
    let query = |text: &str| json!({"query": text});
    let types = client
        .post_json(url, &query("{ __schema { queryType { name } } }"))
        .await?;
    assert_eq!(
        types.json["data"]["__schema"]["queryType"]["name"], "Query",
        "{}",
        types.text
    );
    let now = client
        .post_json(
            url,
            &query("{ a: time_now { isError text } b: time_now { isError } }"),
        )
        .await?;
    assert_eq!(now.json["data"]["a"]["isError"], false, "{}", now.text);
    assert_eq!(now.json["data"]["b"]["isError"], false);
    let any = client
        .post_json(
            url,
            &query(r#"{ callTool(name: "time_now", arguments: {}) { isError } }"#),
        )
        .await?;
    assert_eq!(
        any.json["data"]["callTool"]["isError"], false,
        "{}",
        any.text
    );
    let broken = client.post_json(url, &query("{ nope }")).await?;
    assert_eq!(broken.status, 400, "{}", broken.text);
    assert!(broken.json["errors"][0]["locations"].is_array());
    Ok(())
}

/// One tool of each built-in set; only fetching wants a host to be named first.
#[tokio::test]
async fn a_fresh_fleet_serves_tools_that_do_something() -> Result<()> {
    let page = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let host = page.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = page.accept().await {
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await;
            let answer =
                "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Type: text/plain\r\n\r\nfetched";
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    let fleet = Fleet::up(&format!(
        "[fleet]\napps = 1\n[[plugin]]\nname = \"web\"\nkind = \"builtin\"\nset = \"http\"\nallow_hosts = [\"{host}\"]\n"
    ))
    .await?;
    let fetch = |host: &str| json!({"url": format!("http://{host}/")});
    for (tool, arguments, part) in [
        (
            "time_convert",
            json!({"time": "2026-07-01T12:00:00Z", "to": "Europe/Berlin"}),
            "14:00:00",
        ),
        (
            "text_replace",
            json!({"text": "one two", "pattern": "two", "replacement": "three"}),
            "one three",
        ),
        (
            "json_query",
            json!({"document": {"a": [1, 22]}, "path": "$.a[1]"}),
            "22",
        ),
        ("hash_digest", json!({"text": "abc"}), "ba7816bf"),
        (
            "sqlite_query",
            json!({"sql": "SELECT 6 * 7 AS answer"}),
            "42",
        ),
        (
            "files_write",
            json!({"path": "note.txt", "text": "kept", "mode": "create"}),
            "note.txt",
        ),
        ("files_read", json!({"path": "note.txt"}), "kept"),
        ("web_fetch", fetch(&host), "fetched"),
    ] {
        let said = fleet.call_tool(tool, arguments).await?;
        assert!(said.to_string().contains(part), "{tool}: {said}");
    }
    let admin = fleet.status.endpoints.admin.trim_start_matches("http://");
    for (tool, arguments) in [
        ("web_fetch", fetch(admin)),
        ("files_read", json!({"path": "../keys/jwt.pk8"})),
    ] {
        let params = json!({"name": tool, "arguments": arguments});
        let refused = fleet
            .client()
            .mcp(&fleet.status.endpoints.mcp, "tools/call", params)
            .await?;
        assert_eq!(
            refused.json["result"]["isError"], true,
            "{tool}: {}",
            refused.text
        );
    }
    Ok(())
}

#[tokio::test]
async fn graphql_errors_say_what_where_and_of_which_request() -> Result<()> {
    let fleet = Fleet::up(&format!("[fleet]\napps = 1\n{}", meta_plugin())).await?;
    let ask = async |query: &str| {
        let body = json!({"query": query});
        fleet
            .client()
            .post_json(&fleet.status.endpoints.graphql, &body)
            .await
    };
    for (query, status) in [("{ unclosed", 400), ("{ nope }", 400)] {
        let answer = ask(query).await?;
        let error = &answer.json["errors"][0];
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(error["locations"][0]["line"].is_u64(), "{}", answer.text);
    }
    // A call that failed is an error, a tool that failed is data.
    let refused =
        ask(r#"mutation { callTool(name: "meta", arguments: {fail: true}) { isError } }"#).await?;
    let extensions = &refused.json["errors"][0]["extensions"];
    assert_eq!(refused.status, 200, "{}", refused.text);
    assert_eq!(extensions["mcpCode"], -32050, "{}", refused.text);
    assert!(extensions["code"].is_string(), "{}", refused.text);
    assert_eq!(
        extensions["requestId"],
        refused.header("x-request-id"),
        "{}",
        refused.text
    );
    let failed =
        ask(r#"{ callTool(name: "json_format", arguments: {text: "{"}) { isError } }"#).await?;
    assert_eq!(
        failed.json["data"]["callTool"]["isError"], true,
        "{}",
        failed.text
    );
    assert!(failed.json["errors"].is_null(), "{}", failed.text);
    Ok(())
}

async fn operators(fleet: &Fleet) -> Result<()> {
    let admin = &fleet.status.endpoints.admin;
    let client = fleet.client();
    let metrics = client.send(client.get(&format!("{admin}/metrics"))).await?;
    assert!(
        metrics.text.contains("sweetmcp_edge_calls_total"),
        "{}",
        metrics.text
    );
    let status = format!("{admin}/admin/v1/status");
    assert_eq!(
        client.send(client.get(&status)).await?.status,
        403,
        "a caller is no operator"
    );
    let operator = testkit::Client::new(&fleet.mint(&["--scope", "admin"]).await?)?;
    let seen = operator.send(operator.get(&status)).await?;
    assert_eq!(seen.status, 200, "{}", seen.text);
    assert_eq!(seen.json["backends"].as_array().map(Vec::len), Some(3));
    let nobody = testkit::Client::new("")?;
    assert_eq!(nobody.send(nobody.get(&status)).await?.status, 401);
    for probe in ["live", "ready", "startup"] {
        let answer = nobody
            .send(nobody.get(&format!("{admin}/health/{probe}")))
            .await?;
        assert_eq!(answer.status, 200, "{probe}");
    }
    Ok(())
}
