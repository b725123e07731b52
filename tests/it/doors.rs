//! The same call at every front door comes to the same.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Answer, Fleet, eventually, workspace};

use crate::clients::in_python;
use crate::telling::meta_plugin;

const PATIENCE: Duration = Duration::from_secs(20);

/// One call for all doors.
pub(crate) struct Same<'a> {
    pub(crate) tool: &'a str,
    pub(crate) arguments: Value,
    /// Sent with every HTTP request and with the WebSocket's handshake.
    pub(crate) headers: &'a [(&'static str, &'a str)],
    /// Sent where the protocol mirrors arguments in the head.
    pub(crate) mirrored: &'a [(&'static str, &'a str)],
}

/// Makes the call at every door; by door, what came back, as text.
pub(crate) async fn at_every_door(
    fleet: &Fleet,
    call: &Same<'_>,
) -> Result<BTreeMap<String, String>> {
    let mut said = over_http(fleet, call).await?;
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let answer = in_a_session(fleet, call, version).await?;
        said.insert(format!("session {version}"), answer.text);
    }
    let ws = fleet.status.endpoints.mcp.replacen("http", "ws", 1);
    let schema = workspace().join("services/translate/schema/mcp.capnp");
    let headers: BTreeMap<_, _> = call.headers.iter().copied().collect();
    let others = in_python(
        "doors_client.py",
        &[
            &format!("{ws}/v1/ws"),
            &fleet.status.endpoints.capnp,
            &fleet.token,
            &schema.display().to_string(),
            call.tool,
            &call.arguments.to_string(),
            &json!(headers).to_string(),
        ],
    )
    .await?;
    for (door, text) in others.as_object().context("no doors")? {
        said.insert(door.clone(), text.as_str().unwrap_or_default().to_owned());
    }
    Ok(said)
}

async fn over_http(fleet: &Fleet, call: &Same<'_>) -> Result<BTreeMap<String, String>> {
    let endpoints = &fleet.status.endpoints;
    let params = json!({"name": call.tool, "arguments": call.arguments});
    let plain = request("tools/call", &params);
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let native = |name: &str, arguments: &Value| {
        let params = json!({"name": name, "arguments": arguments, "_meta": meta});
        request("tools/call", &params)
    };
    let by_name = json!({"name": call.tool, "arguments": call.arguments});
    let head = |name| {
        let version = ("mcp-protocol-version", "2026-07-28");
        vec![version, ("mcp-method", "tools/call"), ("mcp-name", name)]
    };
    let query =
        "mutation($n: String!, $a: JSON) { callTool(name: $n, arguments: $a) { isError text } }";
    let graphql = json!({"query": query, "variables": {"n": call.tool, "a": call.arguments}});
    let mut said = BTreeMap::new();
    for (door, url, body, head) in [
        (
            "mcp 2026-07-28",
            &endpoints.mcp,
            native(call.tool, &call.arguments),
            [head(call.tool), call.mirrored.to_vec()].concat(),
        ),
        (
            "mcp 2026-07-28, call_tool",
            &endpoints.mcp,
            native("call_tool", &by_name),
            [head("call_tool"), vec![("sweetmcp-tools", "search")]].concat(),
        ),
        ("jsonrpc", &endpoints.jsonrpc, plain.clone(), Vec::new()),
        ("batch", &endpoints.batch, json!([plain]), Vec::new()),
        ("graphql", &endpoints.graphql, graphql, Vec::new()),
    ] {
        let answer = post(fleet, url, call, &head, &body).await?;
        said.insert(door.to_owned(), answer.text);
    }
    Ok(said)
}

fn request(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

async fn post(
    fleet: &Fleet,
    url: &str,
    call: &Same<'_>,
    head: &[(&str, &str)],
    body: &Value,
) -> Result<Answer> {
    let mut request = fleet.client().post(url).json(body);
    for (name, value) in call.headers.iter().chain(head) {
        request = request.header(*name, *value);
    }
    fleet.client().send(request).await
}

async fn in_a_session(fleet: &Fleet, call: &Same<'_>, version: &str) -> Result<Answer> {
    let url = &fleet.status.endpoints.mcp;
    let begin = request(
        "initialize",
        &json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}),
    );
    let begun = post(fleet, url, call, &[], &begin).await?;
    let head = [("mcp-session-id", begun.header("mcp-session-id"))];
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    post(fleet, url, call, &head, &ready).await?;
    let params = json!({"name": call.tool, "arguments": call.arguments});
    post(fleet, url, call, &head, &request("tools/call", &params)).await
}

/// Nobody but clients of 2026-07-28 can repeat arguments in a head; an app wants them there whoever calls.
#[tokio::test]
async fn tools_that_want_arguments_in_the_head_are_called_by_everybody() -> Result<()> {
    let fleet = Fleet::up(
        "[fleet]\napps = 1\n[[plugin]]\nname = \"marked\"\nprefix = \"\"\nkind = \"builtin\"\nset = \"conformance\"\n",
    )
    .await?;
    let value = "häi there";
    let mut call = Same {
        tool: "test_custom_header",
        arguments: json!({"value": value}),
        headers: &[],
        mirrored: &[("mcp-param-value", "=?base64?aMOkaSB0aGVyZQ==?=")],
    };
    let said = at_every_door(&fleet, &call).await?;
    assert_eq!(said.len(), 12, "{said:?}");
    for (door, text) in &said {
        assert!(text.contains(value), "{door}: {text}");
    }
    // What a client says in its head is still held against its body.
    for mirrored in [&[][..], &[("mcp-param-value", "other")]] {
        call.mirrored = mirrored;
        let said = over_http(&fleet, &call).await?;
        let native = &said["mcp 2026-07-28"];
        assert!(native.contains("-32020"), "{native}");
    }
    Ok(())
}

/// Tools know for whom they work, whatever the door; a client cannot say it in their place.
#[tokio::test]
async fn tools_are_told_who_calls_in_which_language_and_with_which_flags() -> Result<()> {
    let fleet = Fleet::up(&format!(
        "[edge.flags]\nby_tenant = {{ dark = 100 }}\nby_subject = {{ off = 0 }}\nby_session = {{ new = 100 }}\n[fleet]\napps = 1\n{}",
        meta_plugin()
    ))
    .await?;
    let call = Same {
        tool: "meta",
        arguments: json!({}),
        headers: &[
            ("accept-language", "fr;q=0.5, de-ch"),
            ("sweetmcp-principal", "root"),
            ("sweetmcp-flags", "off"),
            ("sweetmcp-deadline-ms", "7000"),
        ],
        mirrored: &[],
    };
    let said = at_every_door(&fleet, &call).await?;
    for (door, text) in &said {
        let text = text.replace('\\', "");
        // Cap'n Proto has no words for languages.
        let locale = match door.as_str() {
            "capnp" => "",
            _ => "\"locale\": \"de-CH\", ",
        };
        let caller = format!(
            r#""dev.sweetmcp/caller": {{"principal": "developer", "tenant": "default", {locale}"flags": ["dark", "new"]}}"#
        );
        assert!(text.contains(&caller), "{door}: {text}");
        for known in [
            "dev.sweetmcp/requestId",
            "dev.sweetmcp/deadlineMs",
            "traceparent",
        ] {
            assert!(text.contains(known), "{door}: {known}: {text}");
        }
    }
    Ok(())
}

/// Everything that the fleet has logged so far.
fn all_logs(fleet: &Fleet) -> Result<String> {
    let mut all = String::new();
    for entry in std::fs::read_dir(fleet.state().join("logs"))? {
        all += &std::fs::read_to_string(entry?.path())?;
    }
    Ok(all)
}

const CANARY: &str = "canary-5f1e";

/// Whatever is called wherever, even when it goes wrong and at the lowest level.
#[tokio::test]
async fn arguments_and_results_are_in_no_log_unless_their_tool_is_allowed() -> Result<()> {
    let fleet = Fleet::up(&format!(
        "[telemetry]\nlog_filter = \"debug\"\n[fleet]\napps = 1\n[edge.log]\narguments = {{ json_format = \"full\" }}\nresults = {{ \"json_*\" = \"full\" }}\nredact = [\"ssn\"]\n{}",
        meta_plugin()
    ))
    .await?;
    for (tool, arguments) in [
        ("json_query", json!({"document": {"a": 1}, "path": CANARY})),
        ("hash_digest", json!({"text": CANARY, "algorithm": CANARY})),
        ("meta", json!({"a": CANARY, "fail": true})),
        (CANARY, json!({"a": CANARY})),
    ] {
        let call = Same {
            tool,
            arguments,
            headers: &[],
            mirrored: &[],
        };
        over_http(&fleet, &call).await?;
        if tool != CANARY {
            at_every_door(&fleet, &call).await?;
        }
    }
    let ends = &fleet.status.endpoints;
    for url in [&ends.mcp, &ends.jsonrpc, &ends.batch, &ends.graphql] {
        for body in [
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":"{CANARY}"}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"params":["{CANARY}""#),
            format!(r#"{{"query":"{{ {CANARY}(a: \"{CANARY}\") "}}"#),
            format!(r#"{{"query":"{{ json_query(document: \"{CANARY}\") {{ text }} }}"}}"#),
            CANARY.to_owned(),
        ] {
            let request = fleet.client().post(url).body(body);
            fleet
                .client()
                .send(request.header("content-type", "application/json"))
                .await?;
        }
    }
    let document = json!({"name": "visible", "password": CANARY, "list": [{"SSN": CANARY}]});
    let call = Same {
        tool: "json_format",
        arguments: json!({"document": document}),
        headers: &[],
        mirrored: &[],
    };
    let said = at_every_door(&fleet, &call).await?;
    let logs = eventually(PATIENCE, || async {
        let logs = all_logs(&fleet)?;
        let told = logs.matches("a tool was called").count();
        // The results of the calls before that had one are told of too.
        anyhow::ensure!(told >= said.len(), "{told} of {}", said.len());
        Ok(logs)
    })
    .await?;
    assert!(logs.contains("visible") && logs.contains("[redacted]"));
    // The name of a tool that there is not is no argument.
    let leaks = logs.lines().filter(|line| {
        let tool = format!(r#""tool":"{CANARY}""#);
        line.replace(&tool, "").contains(CANARY)
    });
    assert_eq!(leaks.collect::<Vec<_>>(), Vec::<&str>::new());
    Ok(())
}
