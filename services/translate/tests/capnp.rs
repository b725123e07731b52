//! Single messages and RPC over a real two-party connection.

#![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

use std::cell::Cell;
use std::rc::Rc;

use ::capnp::message::{Builder, ReaderOptions};
use ::capnp::serialize;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use futures::FutureExt as _;
use mcp::call::ClientMeta;
use mcp::{Cause, Failure, Outcome, Reply};
use serde_json::{Value, json};
use tokio_util::compat::{TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};
use translate::capnp::mcp_capnp::{
    call_tool_reply, content, gateway, request, response, tools_reply,
};
use translate::capnp::message::{decode_request, encode_failure, encode_response};
use translate::capnp::server::{self, Authenticate, Done, Execute};
use translate::capnp::{Asked, CLIENT_NAME, Limits};

fn reply(message: &Value) -> Reply {
    Reply {
        status: 200,
        outcome: Outcome::Ok,
        body: message.to_string().into(),
    }
}

fn ok(result: &Value) -> Reply {
    reply(&json!({"jsonrpc": "2.0", "id": 1, "result": result}))
}

fn encoded(fill: impl FnOnce(request::Builder<'_>)) -> Vec<u8> {
    let mut message = Builder::new_default();
    fill(message.init_root());
    serialize::write_message_to_words(&message)
}

fn call(name: &str, arguments: &str) -> Vec<u8> {
    encoded(|mut request| {
        request.set_id(7);
        let mut call = request.init_call_tool();
        call.set_tool(name);
        call.set_arguments_json(arguments);
    })
}

/// The MCP request that a message becomes.
fn body(message: &[u8]) -> Result<Value, Cause> {
    let (id, asked) =
        decode_request(message, &Limits::default()).map_err(|(_, failure)| failure.cause)?;
    let call = asked
        .call(id, &ClientMeta::plain(CLIENT_NAME))
        .map_err(|failure| failure.cause)?;
    Ok(call.map_or(Value::Null, |call| {
        serde_json::from_slice(&call.body).unwrap()
    }))
}

#[test]
fn requests_become_calls() {
    let called = body(&call("add", r#"{"a": 12345678901234567890}"#)).unwrap();
    assert_eq!(called["id"], 7);
    assert_eq!(called["method"], "tools/call");
    assert_eq!(called["params"]["name"], "add");
    assert_eq!(
        called["params"]["arguments"],
        json!({"a": 12_345_678_901_234_567_890_u64})
    );
    assert_eq!(
        called["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"],
        CLIENT_NAME
    );
    assert_eq!(
        body(&call("add", "")).unwrap()["params"]["arguments"],
        json!({})
    );

    let listed = body(&encoded(|request| {
        request.init_list_tools().set_cursor("c");
    }))
    .unwrap();
    assert_eq!(
        (&listed["method"], &listed["params"]["cursor"]),
        (&json!("tools/list"), &json!("c"))
    );
    let listed = body(&encoded(|request| _ = request.init_list_tools())).unwrap();
    assert!(listed["params"].get("cursor").is_none());

    let raw = |method: &str, params: &str| {
        body(&encoded(|request| {
            let mut raw = request.init_raw();
            raw.set_method(method);
            raw.set_params_json(params);
        }))
    };
    assert_eq!(
        raw("resources/read", r#"{"uri":"a:b"}"#).unwrap()["params"]["uri"],
        "a:b"
    );
    assert_eq!(raw("initialize", "{}"), Err(Cause::MethodNotFound));
    assert_eq!(
        raw("notifications/cancelled", "{}"),
        Err(Cause::MethodNotFound)
    );
    assert_eq!(
        body(&encoded(|mut request| request.set_info(()))),
        Ok(Value::Null)
    );
}

#[test]
fn messages_that_cannot_be_served_are_refused() {
    let limits = Limits {
        message_bytes_max: 64 * 1024,
        nesting_max: 8,
    };
    let cause = |bytes: &[u8]| {
        decode_request(bytes, &limits)
            .map(drop)
            .map_err(|(_, failure)| failure.cause)
    };
    let good = call("add", "{}");
    assert_eq!(cause(&good), Ok(()));
    assert_eq!(cause(b""), Err(Cause::InvalidRequest));
    assert_eq!(cause(&good[..good.len() - 8]), Err(Cause::InvalidRequest));
    assert_eq!(cause(&good[..good.len() - 3]), Err(Cause::InvalidRequest));
    assert_eq!(
        cause(&[good.clone(), good.clone()].concat()),
        Err(Cause::InvalidRequest)
    );
    assert_eq!(cause(&vec![0; 64 * 1024 + 8]), Err(Cause::TooLarge));
    assert_eq!(cause(&[0xff; 64]), Err(Cause::InvalidRequest));
    for (name, arguments) in [("add", "[]"), ("add", "{"), ("add", "7")] {
        assert_eq!(
            cause(&call(name, arguments)),
            Err(Cause::InvalidParams),
            "{arguments}"
        );
    }
    // A text that is not UTF-8.
    let at = good.windows(3).position(|window| window == b"add").unwrap();
    let mut broken = good.clone();
    broken[at] = 0xff;
    assert_eq!(cause(&broken), Err(Cause::InvalidParams));
    // A kind of request that the schema does not have: the discriminant follows the id.
    let mut unknown = good.clone();
    let discriminant = unknown[16..]
        .windows(2)
        .position(|window| window == [2, 0])
        .unwrap()
        + 16;
    unknown[discriminant] = 99;
    assert_eq!(cause(&unknown), Err(Cause::MethodNotFound));
}

#[test]
fn no_bytes_bring_the_decoder_down() {
    let limits = Limits {
        message_bytes_max: 4096,
        nesting_max: 8,
    };
    let good = call("add", r#"{"a":1}"#);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let _ = decode_request(&bytes, &limits)
                .map(|(id, asked)| asked.call(id, &ClientMeta::plain("t")));
        }
        let _ = decode_request(&good[..at], &limits);
    }
}

fn decoded<T>(bytes: &[u8], look: impl FnOnce(response::Reader<'_>) -> T) -> T {
    let message = serialize::read_message(bytes, ReaderOptions::new()).unwrap();
    look(message.get_root().unwrap())
}

fn asked(message: &[u8]) -> Asked {
    decode_request(message, &Limits::default()).unwrap().1
}

#[test]
fn results_are_typed() {
    let result = ok(&json!({
        "isError": true,
        "structuredContent": {"x": 1},
        "content": [
            {"type": "text", "text": "hello", "annotations": {"priority": 1}},
            {"type": "image", "data": "AAEC", "mimeType": "image/png"},
            {"type": "audio", "data": "?", "mimeType": "audio/wav"},
            {"type": "resource_link", "uri": "file:///a", "name": "a"},
            {"type": "resource", "resource": {"uri": "u"}},
            {"new": true},
        ],
    }));
    let bytes = encode_response(9, &asked(&call("t", "{}")), Ok(result), "r-1");
    decoded(&bytes, |response| {
        assert_eq!(response.get_id(), 9);
        let Ok(response::Result(Ok(result))) = response.which() else {
            panic!("a result")
        };
        assert!(result.get_is_error());
        assert_eq!(result.get_structured_json().unwrap(), r#"{"x":1}"#);
        assert!(result.get_meta_json().unwrap().is_empty());
        let kinds: Vec<String> = result
            .get_content()
            .unwrap()
            .iter()
            .map(|piece| match piece.which().unwrap() {
                content::Text(text) => format!(
                    "text {} {}",
                    text.unwrap().to_str().unwrap(),
                    piece.get_annotations_json().unwrap().to_str().unwrap()
                ),
                content::Image(blob) => format!("image {:?}", blob.unwrap().get_data().unwrap()),
                content::Audio(_) => "audio".to_owned(),
                content::Link(link) => format!(
                    "link {}",
                    link.unwrap().get_uri().unwrap().to_str().unwrap()
                ),
                content::Json(json) => format!("json {}", json.unwrap().to_str().unwrap().len()),
            })
            .collect();
        assert_eq!(
            kinds[..2],
            ["text hello {\"priority\":1}", "image [0, 1, 2]"]
        );
        assert!(
            kinds[2].starts_with("json "),
            "broken Base64 stays as it came"
        );
        assert_eq!(kinds[3], "link file:///a");
        assert!(kinds[4].starts_with("json ") && kinds[5] == "json 12");
    });
}

#[test]
fn lists_info_and_raw_results_are_written() {
    let tools = json!({"tools": [{"name": "a", "inputSchema": {"x": 1}, "annotations": {"readOnlyHint": true}}], "nextCursor": "n"});
    let list = asked(&encoded(|request| _ = request.init_list_tools()));
    decoded(&encode_response(1, &list, Ok(ok(&tools)), ""), |response| {
        let Ok(response::Page(Ok(page))) = response.which() else {
            panic!("a page")
        };
        assert_eq!(page.get_next_cursor().unwrap(), "n");
        let tool = page.get_tools().unwrap().get(0);
        assert_eq!(tool.get_input_schema_json().unwrap(), r#"{"x":1}"#);
        assert!(tool.get_read_only() && tool.get_destructive());
    });
    decoded(
        &encode_response(1, &Asked::Info, Err(Failure::new(Cause::Internal)), ""),
        |response| {
            let Ok(response::Info(Ok(info))) = response.which() else {
                panic!("info")
            };
            assert_eq!(info.get_revision().unwrap(), "2026-07-28");
        },
    );
    let raw = asked(&encoded(|request| {
        request.init_raw().set_method("prompts/list");
    }));
    decoded(
        &encode_response(1, &raw, Ok(ok(&json!({"prompts": []}))), ""),
        |response| {
            let Ok(response::ResultJson(Ok(json))) = response.which() else {
                panic!("JSON")
            };
            assert_eq!(json, r#"{"prompts":[]}"#);
        },
    );
}

#[test]
fn failures_are_values() {
    let call = asked(&call("t", "{}"));
    let unknown = reply(
        &json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "no tool", "data": {"a": 1}}}),
    );
    let limited =
        Failure::new(Cause::RateLimited).retry_after(std::time::Duration::from_millis(250));
    for (bytes, expected) in [
        (
            encode_response(3, &call, Ok(unknown), "r-1"),
            ("BAD_USER_INPUT", -32602, false, 0, r#"{"a":1}"#),
        ),
        (
            encode_response(3, &call, Err(limited), "r-1"),
            ("RATE_LIMITED", -31429, true, 250, ""),
        ),
        (
            encode_response(3, &call, Ok(reply(&json!(5))), "r-1"),
            ("BAD_GATEWAY", -31502, false, 0, ""),
        ),
        (
            encode_response(3, &call, Ok(ok(&json!({"content": 5}))), "r-1"),
            ("BAD_GATEWAY", -31502, false, 0, ""),
        ),
        (
            encode_failure(3, Failure::new(Cause::Unauthenticated), "r-1"),
            ("UNAUTHENTICATED", -31401, false, 0, ""),
        ),
    ] {
        decoded(&bytes, |response| {
            assert_eq!(response.get_id(), 3);
            let Ok(response::Failure(Ok(failure))) = response.which() else {
                panic!("a failure")
            };
            let got = (
                failure.get_code().unwrap().to_str().unwrap(),
                failure.get_mcp_code(),
                failure.get_retryable(),
                failure.get_retry_after_ms(),
                failure.get_data_json().unwrap().to_str().unwrap(),
            );
            assert_eq!(got, expected);
            assert_eq!(failure.get_request_id().unwrap(), "r-1");
        });
    }
}

/// Serves a gateway over a pipe in memory and gives the client to `drive`.
fn with_gateway<F: Future<Output = ()>>(
    in_flight_max: usize,
    drive: impl FnOnce(gateway::Client) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let options = Limits::default().reader_options();
        let (read, write) = tokio::io::split(ours);
        let network =
            twoparty::VatNetwork::new(read.compat(), write.compat_write(), Side::Server, options);
        let served = server::bootstrap(authenticate(), in_flight_max);
        tokio::task::spawn_local(RpcSystem::new(Box::new(network), Some(served.client)).map(drop));

        let (read, write) = tokio::io::split(theirs);
        let network = twoparty::VatNetwork::new(
            read.compat(),
            write.compat_write(),
            Side::Client,
            ReaderOptions::new(),
        );
        let mut system = RpcSystem::new(Box::new(network), None);
        let client: gateway::Client = system.bootstrap(Side::Server);
        tokio::task::spawn_local(system.map(drop));
        drive(client).await;
    });
}

/// Knows the token `good`, the tool `echo`, and the tool `wait`, which does not answer while another waits.
fn authenticate() -> Authenticate {
    let waiting = Rc::new(Cell::new(0));
    Rc::new(move |token| {
        let waiting = Rc::clone(&waiting);
        async move {
            if token != "good" {
                return Err(Failure::new(Cause::Unauthenticated));
            }
            let execute: Execute = Rc::new(move |asked| {
                let waiting = Rc::clone(&waiting);
                async move {
                    let answer = match asked {
                        Asked::CallTool { name, .. } if name == "wait" => {
                            waiting.set(waiting.get() + 1);
                            std::future::pending().await
                        }
                        Asked::CallTool { name, arguments, hop } if name == "echo" => Ok(ok(&json!({
                            "content": [{"type": "text", "text": format!("{arguments} {:?}", hop.deadline_ms)}]
                        }))),
                        Asked::ListTools { .. } => Ok(ok(&json!({"tools": [{"name": "echo", "inputSchema": {}}]}))),
                        _ => Err(Failure::new(Cause::MethodNotFound)),
                    };
                    Done {
                        answer,
                        request_id: "r-5".to_owned(),
                    }
                }
                .boxed_local()
            });
            Ok(execute)
        }
        .boxed_local()
    })
}

fn code(reply: call_tool_reply::Reader<'_>) -> String {
    match reply.which().unwrap() {
        call_tool_reply::Result(_) => "ok".to_owned(),
        call_tool_reply::Failure(failure) => {
            failure.unwrap().get_code().unwrap().to_string().unwrap()
        }
    }
}

#[test]
fn a_client_authenticates_and_calls_in_one_round_trip() {
    with_gateway(4, |gateway| async move {
        let mut request = gateway.authenticate_request();
        request.get().set_token("good");
        // Nothing is awaited in between: the calls are pipelined on the answer.
        let mcp = request.send().pipeline.get_mcp();
        let mut call = mcp.call_tool_request();
        call.get().set_tool("echo");
        call.get().set_arguments_json("{\"x\":1}");
        call.get().set_deadline_ms(50);
        let called = call.send().promise.await.unwrap();
        let Ok(call_tool_reply::Result(Ok(result))) = called.get().unwrap().which() else {
            panic!("a result")
        };
        let Ok(content::Text(Ok(text))) = result.get_content().unwrap().get(0).which() else {
            panic!("a text")
        };
        assert_eq!(text, r#"{"x":1} Some(50)"#);

        let listed = mcp.list_tools_request().send().promise.await.unwrap();
        let Ok(tools_reply::Page(Ok(page))) = listed.get().unwrap().which() else {
            panic!("a page")
        };
        assert_eq!(page.get_tools().unwrap().len(), 1);

        let mut broken = mcp.call_tool_request();
        broken.get().set_tool("echo");
        broken.get().set_arguments_json("[");
        let answer = broken.send().promise.await.unwrap();
        assert_eq!(code(answer.get().unwrap()), "BAD_USER_INPUT");
        let info = gateway.info_request().send().promise.await.unwrap();
        assert_eq!(
            info.get().unwrap().get_info().unwrap().get_name().unwrap(),
            "sweetmcp"
        );
    });
}

#[test]
fn a_wrong_token_is_told_so_and_gives_nothing() {
    with_gateway(4, |gateway| async move {
        let mut request = gateway.authenticate_request();
        request.get().set_token("bad");
        let answer = request.send().promise.await.unwrap();
        let answer = answer.get().unwrap();
        assert_eq!(
            answer.get_failure().unwrap().get_code().unwrap(),
            "UNAUTHENTICATED"
        );
        assert!(!answer.has_mcp());
    });
}

#[test]
fn calls_past_the_bound_are_refused_and_dropped_calls_make_room() {
    with_gateway(2, |gateway| async move {
        let mut request = gateway.authenticate_request();
        request.get().set_token("good");
        let answer = request.send().promise.await.unwrap();
        let mcp = answer.get().unwrap().get_mcp().unwrap();
        let call = |name: &str| {
            let mut call = mcp.call_tool_request();
            call.get().set_tool(name);
            call.send().promise
        };
        let mut waiting = vec![call("wait"), call("wait")];
        let refused = call("echo").await.unwrap();
        assert_eq!(code(refused.get().unwrap()), "OVERLOADED");
        drop(waiting.pop());
        let done = call("echo").await.unwrap();
        assert_eq!(code(done.get().unwrap()), "ok");
    });
}
