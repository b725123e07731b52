//! What must hold for any bytes from outside: one function a decoder.
//!
//! The fuzzer calls them with what it makes up; the ordinary tests call them with every file in `seeds`,
//! so a crash that was found once stays found. A function here asserts more than "does not panic": what
//! was read must survive being written and read again.

use mcp::call::ClientMeta;
use mcp::envelope::{self, Body, Message};
use mcp::session::{KEY_BYTES, KeyRing};
use mcp::{Call, Method, era, tool};

/// JSON-RPC messages, and what becomes of the requests among them.
pub fn envelope(data: &[u8]) {
    let messages = match envelope::read(data) {
        Ok(Body::One(message)) => vec![message],
        Ok(Body::Batch(messages)) => messages,
        Err(refused) => {
            assert!(refused.failure.cause.code() < 0);
            return;
        }
    };
    for message in messages {
        match message {
            Ok(Message::Request { id, method, params }) => {
                let client = ClientMeta::plain("fuzz");
                let _ = era::read_initialize(params);
                let Ok(call) = Call::new(Some(id.clone()), Method::parse(&method), params, &client)
                else {
                    continue;
                };
                match envelope::read(&call.body) {
                    Ok(Body::One(Ok(Message::Request {
                        id: again,
                        method: m,
                        ..
                    }))) => {
                        assert_eq!(again, id, "an id changed on its way");
                        assert_eq!(m, method, "a method changed on its way");
                    }
                    other => panic!("a call does not read back: {other:?}"),
                }
            }
            Ok(Message::Response {
                result: Ok(result), ..
            }) => {
                let _ = tool::read_list(result);
                let _ = era::initialize_result(result, mcp::Revision::LATEST_LEGACY);
                if let Ok(legacy) = era::legacy_result(result) {
                    assert!(
                        !legacy.get().contains("\"resultType\":\"complete\"")
                            || result.get().len() > 32
                    );
                }
            }
            _ => {}
        }
    }
    let _ = mcp::Outcome::of(data);
}

/// Session tokens: nothing but what our key sealed opens. The first byte picks between a raw token and a
/// header value.
pub fn session(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(ring) = KeyRing::new(&[[7; KEY_BYTES]]) else {
        return;
    };
    assert!(
        ring.open(text, 0).is_err(),
        "a made-up token opened a session"
    );
    if let Some(decoded) = mcp::headers::decode(text) {
        let encoded = mcp::headers::encode(&decoded).into_owned();
        assert_eq!(mcp::headers::decode(&encoded).as_deref(), Some(&*decoded));
    }
}

/// GraphQL over HTTP: planning on a fixed catalogue, and shaping the answers.
pub fn graphql(data: &[u8]) {
    use translate::graphql::http::{Head, Requests, answer, parse};
    use translate::graphql::{Gateway, Limits};

    thread_local! {
        static GATEWAY: Gateway = Gateway::build(&catalogue(), &Limits::default()).expect("the catalogue has a schema");
    }
    let head = Head {
        method: "POST",
        content_type: Some("application/json"),
        ..Head::default()
    };
    // Most inputs are documents; those that begin with a brace or bracket are whole bodies.
    let body = match data.first() {
        Some(b'[') => data.to_vec(),
        _ => match std::str::from_utf8(data) {
            Ok(text) if !text.starts_with("{\"query\"") => {
                serde_json::json!({"query": text}).to_string().into_bytes()
            }
            _ => data.to_vec(),
        },
    };
    let Ok(intake) = parse(&head, &body, &Limits::default()) else {
        return;
    };
    let requests = match intake.requests {
        Requests::One(request) => vec![Ok(*request)],
        Requests::Batch(requests) => requests,
    };
    for request in requests.into_iter().flatten() {
        let response = GATEWAY.with(|gateway| match gateway.plan(&request) {
            Ok(plan) => {
                let answers: Vec<_> = plan.calls().iter().map(|_| Ok(reply())).collect();
                plan.finish(answers)
            }
            Err(refused) => refused,
        });
        let written = answer(intake.media, &response);
        let json: Result<serde_json::Value, _> = serde_json::from_slice(&written.body);
        assert!(json.is_ok(), "an answer is no JSON");
    }
}

fn reply() -> mcp::Reply {
    mcp::Reply {
        status: 200,
        outcome: mcp::Outcome::Ok,
        body: br#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"x"}],"structuredContent":{"n":1,"deep":{"s":["a"]}}}}"#
            .as_slice()
            .into(),
    }
}

fn catalogue() -> Vec<mcp::Tool> {
    let definitions = [
        r#"{"name":"read","annotations":{"readOnlyHint":true},"inputSchema":{"type":"object","properties":{"a":{"type":"string"},"n":{"type":"integer","minimum":0,"maximum":9}},"required":["a"]},"outputSchema":{"type":"object","properties":{"n":{"type":"integer"},"deep":{"type":"object","properties":{"s":{"type":"array","items":{"type":"string"}}}}}}}"#,
        r#"{"name":"write-it","inputSchema":{"type":"object","properties":{"o":{"type":"object","properties":{"x":{"type":"number"}}},"e":{"enum":["A","B"]},"any":{}}}}"#,
    ];
    definitions
        .iter()
        .map(|text| {
            let raw: Box<serde_json::value::RawValue> =
                serde_json::from_str(text).expect("is JSON");
            mcp::Tool::parse(&raw).expect("is a tool")
        })
        .collect()
}

/// Configuration files, with and without an environment.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (file, environment) = text.split_once('\u{1}').unwrap_or((text, ""));
    let env = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let _ = settings::load_str(file, env);
}

/// Single Cap'n Proto messages, as clients send them.
pub fn capnp(data: &[u8]) {
    use translate::capnp::{Limits, message};

    match message::decode_request(data, &Limits::default()) {
        Ok((_, asked)) => {
            if let Ok(Some(call)) = asked.call(1, &ClientMeta::plain("fuzz")) {
                let read = envelope::read(&call.body);
                assert!(
                    matches!(read, Ok(Body::One(Ok(Message::Request { .. })))),
                    "a call does not read back"
                );
            }
        }
        Err((id, failure)) => {
            let answer = message::encode_failure(id, failure, "fuzz");
            assert!(!answer.is_empty());
        }
    }
}

/// OpenAPI documents: every tool's schemas stand alone, and every request stays under its path.
pub fn openapi(data: &[u8]) {
    use openapi::{Api, Options, Response};
    use serde_json::{Map, Value, json};

    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let options = Options {
        operations: Vec::new(),
        name_bytes_max: 40,
        output_schemas: true,
    };
    let Ok(api) = Api::read(text, &options) else {
        return;
    };
    for (name, operation) in api.operations() {
        assert!((1..=40).contains(&name.len()), "{name:?} is no name");
        for schema in ["inputSchema", "outputSchema"] {
            let schema = &operation.definition[schema];
            assert!(
                schema.is_null() || schema["type"] == "object",
                "a schema is no object's"
            );
        }
        let properties = operation.definition["inputSchema"]["properties"].as_object();
        for value in [json!("../x?y#z"), json!(["a/b", ".."]), json!({"k": "&="})] {
            let arguments: Map<String, Value> = properties
                .into_iter()
                .flatten()
                .map(|(name, _)| (name.clone(), value.clone()))
                .collect();
            if let Ok(request) = operation.request(&arguments) {
                assert!(request.path.starts_with('/'), "a path without root");
                assert!(
                    !request.path.contains(['?', '#']) && !request.query.contains('#'),
                    "an argument left its place"
                );
            }
        }
        let response = Response {
            status: 200,
            content_type: Some("application/json"),
            body: br#"{"a":1}"#,
        };
        assert!(operation.result(&response)["content"].is_array());
    }
}
