//! What this crate writes is what others read: the types generated from the published JSON Schema of
//! 2026-07-28, and the official SDK's types of both eras.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use mcp::call::ClientMeta;
use mcp::envelope::{self, Body, Id, Message};
use mcp::era::old_client::{Input, OldClientCall, Output, Setup};
use mcp::era::old_server;
use mcp::era::result::{to_legacy, to_modern};
use mcp::era::{
    CacheHint, OldServer, OldServerCall, Subscriptions, initialize_params, initialize_result, tasks,
};
use mcp::input::{InputRequest, InputRequired, Retry};
use mcp::members::Members;
use mcp::notification::{self, Filter, Level, List};
use mcp::{Call, Method, Revision};
use rmcp::model as sdk;
use rust_mcp_schema as schema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

fn raw(text: &str) -> Box<RawValue> {
    serde_json::from_str(text).unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Reads `message` as a `T`, which keeps all that we wrote.
fn reads<T: DeserializeOwned + Serialize>(message: &str) {
    let kind = std::any::type_name::<T>();
    let typed: T =
        serde_json::from_str(message).unwrap_or_else(|e| panic!("{kind}: {e}: {message}"));
    let written: Value = serde_json::from_str(message).unwrap();
    let again = serde_json::to_value(&typed).unwrap();
    assert_eq!(again, written, "{kind}");
}

/// Reads `message` as a `T` that may not know every member.
fn reads_known<T: DeserializeOwned>(message: &str) {
    let kind = std::any::type_name::<T>();
    let read = serde_json::from_str::<T>(message);
    assert!(read.is_ok(), "{kind}: {:?}: {message}", read.err());
}

const TOOL: &str = r#"{"name":"t","title":"T","description":"d","inputSchema":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},"outputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}}"#;
const CONTENT: &str = r#"{"content":[{"type":"text","text":"x"},{"type":"resource_link","uri":"file:///a","name":"a"},{"type":"audio","data":"AAAA","mimeType":"audio/wav"}],"structuredContent":{"n":1},"isError":false}"#;
const META: &str = r#"{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}},"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"progressToken":"p","io.modelcontextprotocol/logLevel":"debug"}"#;
const FORM: &str = r#"{"mode":"form","message":"?","requestedSchema":{"type":"object","properties":{"n":{"type":"string"}},"required":["n"]}}"#;
const SAMPLE: &str =
    r#"{"messages":[{"role":"user","content":{"type":"text","text":"hi"}}],"maxTokens":9}"#;

fn old_server() -> OldServer {
    OldServer::read(&raw(
        r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true},"prompts":{},"logging":{},"completions":{}},"serverInfo":{"name":"s","version":"1"},"instructions":"i"}"#,
    ))
    .unwrap()
}

fn modern(method: &Method, old: &str) -> String {
    to_modern(method, &raw(old), CacheHint::NONE, Some(&old_server().info))
        .unwrap()
        .get()
        .to_owned()
}

fn client() -> ClientMeta {
    ClientMeta {
        info: Some(raw(r#"{"name":"c","version":"1"}"#)),
        capabilities: raw(r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#),
    }
}

/// A result that asks for one of each kind.
fn questions() -> InputRequired {
    let ask = |key: &str, method: &str, params: Option<&str>| {
        InputRequest::new(key.into(), method, params.map(raw).as_deref()).unwrap()
    };
    InputRequired {
        requests: vec![
            ask("f", "elicitation/create", Some(FORM)),
            ask(
                "u",
                "elicitation/create",
                Some(r#"{"mode":"url","message":"m","url":"https://a/"}"#),
            ),
            ask("s", "sampling/createMessage", Some(SAMPLE)),
            ask("r", "roots/list", None),
        ],
        state: Some("s".into()),
    }
}

#[test]
fn modern_results_fit_the_published_schema() {
    reads::<schema::DiscoverResult>(old_server().discover_result(CacheHint::NONE).get());
    reads::<schema::ListToolsResult>(&modern(
        &Method::ToolsList,
        &format!(r#"{{"tools":[{TOOL}],"nextCursor":"c"}}"#),
    ));
    reads::<schema::CallToolResult>(&modern(&Method::ToolsCall, CONTENT));
    reads::<schema::ListPromptsResult>(&modern(
        &Method::PromptsList,
        r#"{"prompts":[{"name":"p","arguments":[{"name":"a","required":true}]}]}"#,
    ));
    reads::<schema::GetPromptResult>(&modern(
        &Method::PromptsGet,
        r#"{"messages":[{"role":"user","content":{"type":"text","text":"x"}}]}"#,
    ));
    reads::<schema::ListResourcesResult>(&modern(
        &Method::ResourcesList,
        r#"{"resources":[{"uri":"file:///a","name":"a"}]}"#,
    ));
    reads::<schema::ListResourceTemplatesResult>(&modern(
        &Method::ResourceTemplatesList,
        r#"{"resourceTemplates":[{"uriTemplate":"a:{b}","name":"a"}]}"#,
    ));
    reads::<schema::ReadResourceResult>(&modern(
        &Method::ResourcesRead,
        r#"{"contents":[{"uri":"file:///a","text":"x"}]}"#,
    ));
    reads::<schema::CompleteResult>(&modern(
        &Method::Complete,
        r#"{"completion":{"values":["a"],"total":1,"hasMore":false}}"#,
    ));
    reads::<schema::InputRequiredResult>(questions().write().get());
}

#[test]
fn modern_requests_fit_the_published_schema() {
    let call = |method: Method, params: &str| {
        let call = Call::new(
            Some(Id::from_number(1)),
            method,
            Some(&raw(params)),
            &client(),
        )
        .unwrap();
        text(call.body.to_vec())
    };
    reads::<schema::CallToolRequest>(&call(
        Method::ToolsCall,
        r#"{"name":"t","arguments":{"a":1}}"#,
    ));
    reads::<schema::GetPromptRequest>(&call(Method::PromptsGet, r#"{"name":"p"}"#));
    reads::<schema::ReadResourceRequest>(&call(Method::ResourcesRead, r#"{"uri":"file:///a"}"#));
    reads::<schema::DiscoverRequest>(&call(Method::Discover, "{}"));
    reads::<schema::ListToolsRequest>(&call(Method::ToolsList, r#"{"cursor":"c"}"#));
    reads::<schema::SubscriptionsListenRequest>(&call(
        Method::SubscriptionsListen,
        r#"{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}}"#,
    ));
    let first = raw(r#"{"name":"t"}"#);
    let mut params = Members::parse(&first).unwrap();
    let retry = Retry {
        responses: vec![
            (
                "f".into(),
                raw(r#"{"action":"accept","content":{"n":"x"}}"#),
            ),
            (
                "s".into(),
                raw(r#"{"role":"assistant","content":{"type":"text","text":"x"},"model":"m"}"#),
            ),
            ("r".into(), raw(r#"{"roots":[{"uri":"file:///a"}]}"#)),
        ],
        state: Some("s".into()),
    };
    retry.put(&mut params);
    reads::<schema::CallToolRequest>(&call(Method::ToolsCall, params.to_raw().get()));
}

#[test]
fn notifications_fit_the_published_schema_and_the_sdk() {
    let (number, name) = (Id::from_number(3), Id::from_text("t"));
    let filter = Filter {
        tools_list_changed: true,
        resource_subscriptions: vec!["a:b".into()],
        ..Filter::default()
    };
    let progress = text(notification::progress(&name, 1.5, Some(2.0), Some("m")));
    reads::<schema::ProgressNotification>(&progress);
    let log = text(notification::log(
        Level::Warning,
        Some("l"),
        &raw(r#"{"a":1}"#),
    ));
    reads::<schema::LoggingMessageNotification>(&log);
    let cancelled = text(notification::cancelled(&number, Some("why")));
    reads::<schema::CancelledNotification>(&cancelled);
    let tools = text(notification::list_changed(List::Tools));
    reads::<schema::ToolListChangedNotification>(&tools);
    let updated = text(notification::resource_updated("a:b"));
    reads::<schema::ResourceUpdatedNotification>(&updated);
    let acknowledged = text(notification::acknowledged(&number, &filter));
    reads::<schema::SubscriptionsAcknowledgedNotification>(&acknowledged);
    for message in [progress, log, cancelled, tools, updated, acknowledged] {
        reads::<sdk::ServerJsonRpcMessage>(&message);
    }
    let roots = text(notification::list_changed(List::Roots));
    reads::<sdk::ClientJsonRpcMessage>(&roots);
    let mut all = Subscriptions::default();
    let tells = mcp::era::listen::ServerTells::default();
    let opened = all.open(number, &filter, tells).unwrap();
    reads::<schema::SubscriptionsListenResultResponse>(&text(
        all.farewell(opened.listener).unwrap(),
    ));
}

#[test]
fn what_an_old_client_gets_is_what_the_sdk_reads() {
    let discover = old_server().discover_result(CacheHint::NONE);
    for revision in Revision::ALL
        .into_iter()
        .filter(|r| *r <= Revision::LATEST_LEGACY)
    {
        reads::<sdk::InitializeResult>(initialize_result(&discover, revision).unwrap().get());
        let legacy =
            |method: &Method, result: &str| to_legacy(method, &raw(result), revision).unwrap();
        let list = modern(&Method::ToolsList, &format!(r#"{{"tools":[{TOOL}]}}"#));
        reads_known::<sdk::ListToolsResult>(legacy(&Method::ToolsList, &list).get());
        reads_known::<sdk::CallToolResult>(
            legacy(&Method::ToolsCall, &modern(&Method::ToolsCall, CONTENT)).get(),
        );

        let (mut call, _) = OldClientCall::start(Setup {
            revision,
            client: &client(),
            id: Id::from_number(1),
            method: Method::ToolsCall,
            params: Some(&raw(r#"{"name":"t"}"#)),
            prefix: "p".into(),
            level: None,
            request_id: "r".into(),
            now: "2026-01-01T00:00:00Z".into(),
        })
        .unwrap();
        let asked = envelope::write_result(&Id::from_number(1), &questions().write());
        let Ok(Body::One(Ok(message))) = envelope::read(&asked) else {
            panic!("our own message does not read");
        };
        let mut requests = 0;
        for output in call.step(Input::Server(message)) {
            if let Output::Ask { message, .. } = output {
                let message = text(message);
                let read: sdk::ServerJsonRpcMessage = serde_json::from_str(&message).unwrap();
                let sdk::JsonRpcMessage::Request(request) = read else {
                    panic!("no request: {message}");
                };
                let custom = matches!(request.request, sdk::ServerRequest::CustomRequest(_));
                assert!(!custom, "{revision}: {message}");
                requests += 1;
            }
        }
        let expected = match revision {
            Revision::V2025_11_25 => 4,
            Revision::V2025_06_18 => 3,
            _ => 2,
        };
        assert_eq!(requests, expected, "{revision}");
    }
}

#[test]
fn what_an_old_server_gets_is_what_the_sdk_reads() {
    let params = initialize_params(
        Revision::V2025_11_25,
        &raw(r#"{"name":"g","version":"1"}"#),
        &raw(r#"{"elicitation":{"form":{}},"roots":{}}"#),
    );
    reads::<sdk::InitializeRequestParams>(params.get());
    for (method, params) in [
        (Method::ToolsCall, r#"{"name":"t","arguments":{"a":1}"#),
        (Method::ResourcesRead, r#"{"uri":"a:b""#),
        (Method::PromptsGet, r#"{"name":"p""#),
        (Method::ToolsList, r#"{"cursor":"c""#),
    ] {
        let (mut call, first) = OldServerCall::start(old_server::Setup {
            revision: Revision::V2025_11_25,
            method,
            params: Some(&raw(&format!(r#"{params},"_meta":{META}}}"#))),
            server_id: Id::from_number(9),
            server_info: None,
            hint: CacheHint::NONE,
        })
        .unwrap();
        reads::<sdk::ClientJsonRpcMessage>(&text(first));
        for output in call.step(old_server::Input::Cancel) {
            if let old_server::Output::Server(message) = output {
                reads::<sdk::ClientJsonRpcMessage>(&text(message));
            }
        }
    }
    let level = old_server::set_level(&Id::from_number(1), [Level::Info]).unwrap();
    reads::<sdk::ClientJsonRpcMessage>(&text(level));
    let uri =
        mcp::era::listen::write_subscribe(&Id::from_number(1), &Method::ResourcesSubscribe, "a:b");
    reads::<sdk::ClientJsonRpcMessage>(&text(uri));
}

#[test]
fn tasks_of_the_extension_are_what_the_sdk_reads() {
    let task = r#"{"taskId":"t","status":"STATUS","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttl":60000,"pollInterval":5}"#;
    let working = task.replace("STATUS", "working");
    reads::<sdk::CreateTaskResult>(
        tasks::created(&raw(&format!(r#"{{"task":{working}}}"#)))
            .unwrap()
            .get(),
    );
    let completed = raw(&task.replace("STATUS", "completed"));
    let result = raw(r#"{"content":[]}"#);
    let got = tasks::Task::read(&completed)
        .unwrap()
        .get_result(Some(Ok(&result)), &Members::default())
        .unwrap();
    reads::<sdk::GetTaskResult>(got.get());
}

#[test]
fn what_the_sdk_writes_is_what_we_read() {
    let wanted = sdk::InputRequiredResult::from_request_state("s");
    let written = serde_json::value::to_raw_value(&wanted).unwrap();
    assert_eq!(
        InputRequired::read(&written).unwrap().state.as_deref(),
        Some("s")
    );
    let answer = envelope::write_result(&Id::from_number(1), &written);
    let Ok(Body::One(Ok(Message::Response {
        result: Ok(result), ..
    }))) = envelope::read(&answer)
    else {
        panic!("no response");
    };
    assert_eq!(result.get(), written.get());
}
