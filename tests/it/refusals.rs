//! What a request must be, at each revision: the envelope, what the head repeats of the body, versions, names and
//! arguments. Every refusal has the code that the specification has for it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Fleet, workspace};

use crate::eras::Session;

const META: &str = "io.modelcontextprotocol";

/// A call of 2026-07-28 that is right: a tool with an argument that the head repeats.
fn right() -> (Vec<(&'static str, String)>, Value) {
    let head = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "rude_strict"),
        ("mcp-param-number", "5"),
    ];
    let mut params = json!({"name": "rude_strict", "arguments": {"n": 5}});
    params["_meta"][format!("{META}/protocolVersion")] = json!("2026-07-28");
    params["_meta"][format!("{META}/clientCapabilities")] = json!({});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let head = head.map(|(name, value)| (name, value.to_owned()));
    (head.into(), body)
}

/// What differs from a right call, and what comes of it.
struct Case {
    what: &'static str,
    /// Headers with another value; without one if it is empty.
    head: &'static [(&'static str, &'static str)],
    /// Members of the body by their JSON Pointers; gone if null.
    body: Vec<(String, Value)>,
    want: (u16, i64),
}

fn case(
    what: &'static str,
    head: &'static [(&'static str, &'static str)],
    body: &[(&str, Value)],
    want: (u16, i64),
) -> Case {
    let body = body
        .iter()
        .map(|(at, value)| ((*at).to_owned(), value.clone()));
    Case {
        what,
        head,
        body: body.collect(),
        want,
    }
}

fn meta(member: &str) -> String {
    format!("/params/_meta/{META}~1{member}")
}

fn cases() -> Vec<Case> {
    let version = meta("protocolVersion");
    let capabilities = meta("clientCapabilities");
    let (version, capabilities) = (version.as_str(), capabilities.as_str());
    vec![
        case("nothing is wrong", &[], &[], (200, 0)),
        case(
            "no jsonrpc",
            &[],
            &[("/jsonrpc", json!(null))],
            (400, -32600),
        ),
        case(
            "another jsonrpc",
            &[],
            &[("/jsonrpc", json!("1.0"))],
            (400, -32600),
        ),
        case(
            "an id that is none",
            &[],
            &[("/id", json!([1]))],
            (400, -32600),
        ),
        case(
            "params in an array",
            &[],
            &[("/params", json!([1]))],
            (400, -32602),
        ),
        case(
            "no version in the head",
            &[("mcp-protocol-version", "")],
            &[],
            (400, -32020),
        ),
        case(
            "another version in the body",
            &[],
            &[(version, json!("2025-11-25"))],
            (400, -32020),
        ),
        case(
            "no version in the body",
            &[],
            &[(version, json!(null))],
            (400, -32602),
        ),
        case(
            "no capabilities",
            &[],
            &[(capabilities, json!(null))],
            (400, -32602),
        ),
        case(
            "capabilities of no form",
            &[],
            &[(capabilities, json!(7))],
            (400, -32602),
        ),
        case(
            "a version that there is not",
            &[("mcp-protocol-version", "2031-01-01")],
            &[(version, json!("2031-01-01"))],
            (400, -32022),
        ),
        case(
            "no method in the head",
            &[("mcp-method", "")],
            &[],
            (400, -32020),
        ),
        case(
            "another method",
            &[("mcp-method", "tools/list")],
            &[],
            (400, -32020),
        ),
        case(
            "a method in capitals",
            &[("mcp-method", "TOOLS/CALL")],
            &[],
            (400, -32020),
        ),
        case(
            "no name in the head",
            &[("mcp-name", "")],
            &[],
            (400, -32020),
        ),
        case(
            "another name",
            &[("mcp-name", "rude_pid")],
            &[],
            (400, -32020),
        ),
        case(
            "a name that cannot be read",
            &[("mcp-name", "=?base64?!?=")],
            &[],
            (400, -32020),
        ),
        case(
            "no argument in the head",
            &[("mcp-param-number", "")],
            &[],
            (400, -32020),
        ),
        case(
            "another argument",
            &[("mcp-param-number", "6")],
            &[],
            (400, -32020),
        ),
        case(
            "a tool that there is not",
            &[("mcp-name", "rude_none"), ("mcp-param-number", "")],
            &[("/params/name", json!("rude_none"))],
            (400, -32602),
        ),
        case(
            "a method that there is not",
            &[("mcp-method", "no/such"), ("mcp-name", "")],
            &[("/method", json!("no/such"))],
            (404, -32601),
        ),
        case(
            "a method of older revisions",
            &[("mcp-method", "ping"), ("mcp-name", "")],
            &[("/method", json!("ping"))],
            (404, -32601),
        ),
        case(
            "no JSON",
            &[("content-type", "text/plain")],
            &[],
            (415, -31415),
        ),
        case(
            "nothing that can be sent",
            &[("accept", "text/html")],
            &[],
            (406, -31406),
        ),
    ]
}

async fn fleet() -> Result<Fleet> {
    let rude = workspace().join("services/app/tests/it/rude_server.py");
    Fleet::up(&format!(
        "[edge.rate]\nper_second = 1000\nburst = 1000\n[[plugin]]\nname = \"rude\"\nkind = \"stdio\"\ncommand = \"python3\"\nargs = [\"{}\", \"legacy\"]\n",
        rude.display()
    ))
    .await
}

/// Removes or sets what a JSON Pointer names.
fn change(body: &mut Value, at: &str, value: &Value) -> Result<()> {
    let (parent, member) = at.rsplit_once('/').context("no pointer")?;
    let parent = body.pointer_mut(parent).and_then(Value::as_object_mut);
    let (parent, member) = (parent.context("no object")?, member.replace("~1", "/"));
    match value {
        Value::Null => drop(parent.remove(&member)),
        value => drop(parent.insert(member, value.clone())),
    }
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_the_code_that_it_has() -> Result<()> {
    let fleet = fleet().await?;
    let url = &fleet.status.endpoints.mcp;
    for case in cases() {
        let (head, mut body) = right();
        for (at, value) in &case.body {
            change(&mut body, at, value)?;
        }
        let mut request = fleet.client().post(url).body(body.to_string());
        let changed = |name: &str| case.head.iter().find(|(changed, _)| *changed == name);
        for (name, value) in &head {
            let value = changed(name).map_or(value.as_str(), |(_, value)| value);
            if !value.is_empty() {
                request = request.header(*name, value);
            }
        }
        let answer = fleet.client().send(request).await?;
        let code = answer.json["error"]["code"].as_i64().unwrap_or_default();
        ensure!(
            (answer.status, code) == case.want,
            "{}: {} {}",
            case.what,
            answer.status,
            answer.text
        );
        if code == -32022 {
            let data = &answer.json["error"]["data"];
            assert_eq!(data["supported"], json!(["2026-07-28"]), "{}", answer.text);
            assert_eq!(data["requested"], "2031-01-01");
        }
    }
    // What a tool does not take is the model's to mend: it is told in a result.
    let (head, mut body) = right();
    change(&mut body, "/params/arguments/n", &json!("five"))?;
    let mut request = fleet.client().post(url).body(body.to_string());
    for (name, value) in head {
        let value = if name == "mcp-param-number" {
            "five".to_owned()
        } else {
            value
        };
        request = request.header(name, value);
    }
    let told = fleet.client().send(request).await?;
    assert_eq!(told.json["result"]["isError"], true, "{}", told.text);
    assert!(told.text.contains("/n: "), "{}", told.text);

    // A session says its revision once; its errors travel with 200.
    let session = Session::open(&fleet).await?;
    let post = async |headers: &[(&str, &str)], body: Value| {
        let mut request = session.with(fleet.client().post(url).json(&body));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        fleet.client().send(request).await
    };
    let old = |method: &str, params: Value| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let strict = |n: Value| {
        old(
            "tools/call",
            json!({"name": "rude_strict", "arguments": {"n": n}}),
        )
    };
    for (what, headers, body, want) in [
        ("nothing is wrong", &[][..], strict(json!(5)), (200, 0)),
        (
            "a revision of the newer era",
            &[("mcp-protocol-version", "2026-07-28")],
            strict(json!(5)),
            (400, -32020),
        ),
        (
            "a tool that there is not",
            &[],
            old("tools/call", json!({"name": "none"})),
            (200, -32602),
        ),
        (
            "a method that there is not",
            &[],
            old("no/such", json!({})),
            (200, -32601),
        ),
        (
            "a method of the newer era",
            &[],
            old("server/discover", json!({})),
            (200, -32601),
        ),
        ("an array", &[], json!([strict(json!(5))]), (400, -32600)),
    ] {
        let answer = post(headers, body).await?;
        let code = answer.json["error"]["code"].as_i64().unwrap_or_default();
        ensure!(
            (answer.status, code) == want,
            "{what}: {} {}",
            answer.status,
            answer.text
        );
    }
    let told = post(&[], strict(json!("five"))).await?;
    assert_eq!(told.json["result"]["isError"], true, "{}", told.text);
    Ok(())
}
