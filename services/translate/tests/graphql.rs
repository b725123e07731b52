//! Requests in, calls and responses out, over the tools of `tools.json`.

#![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use mcp::{Cause, Failure, Outcome, Reply};
use serde_json::{Value, json};
use translate::graphql::http::{self, Head, Media, Requests};
use translate::graphql::{
    Answered, Gateway, Limits, Order, Plan, Request, Response, Stage, ToolCall,
};

fn tools() -> Vec<mcp::Tool> {
    let raw: Vec<Box<serde_json::value::RawValue>> =
        serde_json::from_str(include_str!("tools.json")).unwrap();
    raw.iter()
        .map(|raw| mcp::Tool::parse(raw).unwrap())
        .collect()
}

fn gateway() -> Gateway {
    Gateway::build(&tools(), &Limits::default()).unwrap()
}

fn request(query: &str, variables: Value) -> Request {
    Request {
        query: query.to_owned(),
        variables: serde_json::from_value(variables).unwrap(),
        ..Request::default()
    }
}

fn plan(query: &str, variables: Value) -> Result<Plan, Response> {
    gateway().plan(&request(query, variables))
}

fn reply(message: &Value) -> Reply {
    Reply {
        status: 200,
        outcome: Outcome::Ok,
        body: message.to_string().into(),
    }
}

fn result(result: &Value) -> Answered {
    Ok(reply(&json!({"jsonrpc": "2.0", "id": 1, "result": result})))
}

fn calls(plan: &Plan) -> Vec<(String, Value)> {
    plan.calls()
        .iter()
        .map(|call| {
            (
                call.name.clone(),
                serde_json::from_str(call.arguments.get()).unwrap(),
            )
        })
        .collect()
}

fn shown(response: &Response) -> String {
    let mut out = Vec::new();
    response.write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_schema_follows_from_the_tools_whatever_their_order() {
    let sdl = gateway().sdl();
    let mut reversed = tools();
    reversed.reverse();
    assert_eq!(
        Gateway::build(&reversed, &Limits::default()).unwrap().sdl(),
        sdl
    );
    insta::assert_snapshot!(sdl);
}

#[test]
fn no_tools_and_strange_tools_have_a_schema() {
    let strange = [
        json!({"name": "1", "inputSchema": true}),
        json!({"name": "Query", "inputSchema": {"properties": {"__a": {"enum": ["x"]}, "": {}, "é": {"type": "object", "properties": {"": {}}}}}}),
        json!({"name": "String", "inputSchema": {"properties": 5}, "outputSchema": {"properties": {"a": {"enum": ["b"]}}}}),
        json!({"name": "x", "inputSchema": {"properties": {"a": {"default": {"not": "a string"}, "type": "string"}}}}),
        json!({"name": "x", "inputSchema": {"properties": {"a": {"default": 5, "type": "object"}}}, "outputSchema": {"$ref": "#"}}),
        json!({"name": "y", "inputSchema": {"properties": {"a": {"default": {"é": [1, null]}}, "b": {"default": {"c": ["d"]}}}}}),
    ];
    let tools: Vec<mcp::Tool> = strange
        .iter()
        .map(|tool| mcp::Tool::parse(&serde_json::value::to_raw_value(tool).unwrap()).unwrap())
        .collect();
    for some in [&tools[..0], &tools[..]] {
        let gateway = Gateway::build(some, &Limits::default()).unwrap();
        assert!(
            gateway
                .plan(&request("{ __schema { types { name } } }", json!({})))
                .is_ok()
        );
    }
}

#[test]
fn arguments_become_what_the_tool_knows() {
    for (query, variables, expected) in [
        (
            r#"{ search_docs(query: "a") { text } }"#,
            json!({}),
            json!([["search-docs", {"query": "a", "limit": 10, "sort": "relevance"}]]),
        ),
        (
            r#"query Q($q: String!, $s: SearchDocsSortChoice, $n: Long, $f: JSON, $none: Int) {
                search_docs(query: $q, sort: $s, after_id: $n, filter: $f, limit: $none) { text } }"#,
            json!({"q": "b", "s": "date", "n": 9_007_199_254_740_993_i64, "f": {"any": [1, null]}}),
            json!([["search-docs", {"query": "b", "sort": "date", "after-id": 9_007_199_254_740_993_i64, "filter": {"any": [1, null]}, "limit": 10}]]),
        ),
        // Null where the property does not take it is absence; where it does, it is null.
        (
            r#"mutation { create_issue(title: "t", body: null, assignee: null) { text } }"#,
            json!({}),
            json!([["create_issue", {"title": "t", "assignee": null}]]),
        ),
        // One value stands for a list of one.
        (
            r#"mutation { create_issue(title: "t", labels: "x") { text } }"#,
            json!({}),
            json!([["create_issue", {"title": "t", "labels": ["x"]}]]),
        ),
        (
            r#"query ($m: Float = 2) { search_docs(query: "\uD83D\uDE00", within: {min: $m, max: 3}, sort: date) { text } }"#,
            json!({}),
            json!([["search-docs", {"query": "😀", "limit": 10, "sort": "date", "within": {"min": 2, "max": 3}}]]),
        ),
        (
            r#"{ callTool(name: "search-docs", arguments: {query: "x", deep: {a: [1, E]}}) { text } }"#,
            json!({}),
            json!([["search-docs", {"query": "x", "deep": {"a": [1, "E"]}}]]),
        ),
        (
            r#"mutation { callTool(name: "tools") { text } }"#,
            json!({}),
            json!([["tools", {}]]),
        ),
        (
            r#"mutation { search_docs_2 { text } }"#,
            json!({}),
            json!([["search.docs", {}]]),
        ),
        (r#"{ tools_2 { text } }"#, json!({}), json!([["tools", {}]])),
    ] {
        let plan =
            plan(query, variables).unwrap_or_else(|refused| panic!("{query}: {}", shown(&refused)));
        assert_eq!(json!(calls(&plan)), expected, "{query}");
    }
}

#[test]
fn a_selection_is_one_call_however_often_it_is_written() {
    let plan = plan(
        r#"query ($no: Boolean = false) {
            a: search_docs(query: "1") { isError }
            ...More
            a: search_docs(query: "1") { text }
            b: search_docs(query: "2") { text }
            c: search_docs(query: "3") @include(if: $no) { text }
            ... @skip(if: true) { d: search_docs(query: "4") { text } }
            __typename
        }
        fragment More on Query { a: search_docs(query: "1") { kind: __typename } }"#,
        json!({}),
    )
    .unwrap();
    assert_eq!(plan.order(), Order::Concurrent);
    assert_eq!(plan.calls().len(), 2);
    let text = |text: &str| result(&json!({"content": [{"type": "text", "text": text}]}));
    insta::assert_snapshot!(shown(&plan.finish([text("one"), text("two")])), @r#"{"data":{"a":{"isError":false,"kind":"SearchDocsResult","text":"one"},"b":{"text":"two"},"__typename":"Query"}}"#);
}

#[test]
fn what_is_selected_comes_in_its_order_and_nothing_else() {
    let query = r#"{ search_docs(query: "a") {
        structured { hits { score id kind } total facets }
        content { type text mimeType raw }
        text isError structuredContent
        __typename
    } }"#;
    let body = r#"{"jsonrpc":"2.0","id":1,"result":{
        "structuredContent":{"total":5,"more":12345678901234567890123,"hits":[{"secret":1,"id":"x","score":1.50,"kind":"page"},{"id":"y"}],"facets":{"k":1}},
        "content":[{"type":"text","text":"l1"},{"type":"image","mimeType":"image/png","data":"AA=="},{"type":"text","text":"l\u0032"}]
    }}"#;
    let plan = plan(query, json!({})).unwrap();
    let response = plan.finish([Ok(Reply {
        status: 200,
        outcome: Outcome::Ok,
        body: body.into(),
    })]);
    insta::assert_snapshot!(shown(&response), @r#"{"data":{"search_docs":{"structured":{"hits":[{"score":1.50,"id":"x","kind":"page"},{"score":null,"id":"y","kind":null}],"total":5,"facets":{"k":1}},"content":[{"type":"text","text":"l1","mimeType":null,"raw":{"type":"text","text":"l1"}},{"type":"image","text":null,"mimeType":"image/png","raw":{"type":"image","mimeType":"image/png","data":"AA=="}},{"type":"text","text":"l\u0032","mimeType":null,"raw":{"type":"text","text":"l\u0032"}}],"text":"l1\nl2","isError":false,"structuredContent":{"total":5,"more":12345678901234567890123,"hits":[{"secret":1,"id":"x","score":1.50,"kind":"page"},{"id":"y"}],"facets":{"k":1}},"__typename":"SearchDocsResult"}}}"#);
}

#[test]
fn results_that_break_their_schema_are_null_as_near_as_may_be() {
    let query = r#"{ search_docs(query: "a") { isError structured { total hits { id kind } } } }"#;
    for (structured, data, path) in [
        (
            json!({"total": 1, "hits": [{"id": "x", "kind": "nonsense"}]}),
            json!({"total": 1, "hits": [{"id": "x", "kind": null}]}),
            json!(["search_docs", "structured", "hits", 0, "kind"]),
        ),
        (
            json!({"total": 1, "hits": [{"id": "x"}, {"id": 7}]}),
            Value::Null,
            json!(["search_docs", "structured", "hits", 1, "id"]),
        ),
        (
            json!({"total": "1"}),
            Value::Null,
            json!(["search_docs", "structured", "total"]),
        ),
        (json!([]), Value::Null, json!(["search_docs", "structured"])),
    ] {
        let response = plan(query, json!({}))
            .unwrap()
            .finish([result(&json!({"structuredContent": structured}))]);
        let out: Value = serde_json::from_str(&shown(&response)).unwrap();
        assert_eq!(
            out["data"]["search_docs"]["structured"], data,
            "{structured}"
        );
        assert_eq!(out["data"]["search_docs"]["isError"], false);
        assert_eq!(out["errors"][0]["path"], path, "{structured}");
        assert_eq!(out["errors"].as_array().unwrap().len(), 1);
        assert_eq!(
            out["errors"][0]["extensions"]["code"],
            "INVALID_TOOL_RESULT"
        );
    }
}

#[test]
fn a_tool_that_failed_is_data_and_a_call_that_failed_is_an_error_beside_data() {
    let query = r#"mutation {
        a: create_issue(title: "1") { isError text }
        b: create_issue(title: "2") { text }
        c: create_issue(title: "3") { text }
        d: create_issue(title: "4") { text }
    }"#;
    let plan = plan(query, json!({})).unwrap();
    assert_eq!(plan.order(), Order::Serial);
    let response = plan
        .finish([
            result(&json!({"isError": true, "content": [{"type": "text", "text": "no such repo"}]})),
            Err(Failure::new(Cause::RateLimited)),
            Ok(reply(&json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "bad", "data": {"x": 1}}}))),
            Ok(reply(&json!("nonsense"))),
        ])
        .with_request_id("r-1");
    assert_eq!(response.stage, Stage::Executed);
    insta::assert_snapshot!(shown(&response), @r#"{"errors":[{"message":"rate limit exceeded","locations":[{"line":3,"column":9}],"path":["b"],"extensions":{"code":"RATE_LIMITED","mcpCode":-31429,"requestId":"r-1","origin":"policy","retryable":true}},{"message":"bad","locations":[{"line":4,"column":9}],"path":["c"],"extensions":{"code":"BAD_USER_INPUT","mcpCode":-32602,"requestId":"r-1","origin":"upstream","retryable":false,"data":{"x":1}}},{"message":"the instance's answer could not be read","locations":[{"line":5,"column":9}],"path":["d"],"extensions":{"code":"BAD_GATEWAY","mcpCode":-31502,"requestId":"r-1","origin":"upstream","retryable":false}}],"data":{"a":{"isError":true,"text":"no such repo"},"b":null,"c":null,"d":null}}"#);
}

#[test]
fn mutations_run_once_in_order_and_queries_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let run = |query: &str| {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&log);
        let execute: translate::graphql::Execute = Arc::new(move |call: ToolCall| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock().unwrap().push(format!("+{}", call.arguments));
                tokio::task::yield_now().await;
                seen.lock().unwrap().push(format!("-{}", call.arguments));
                result(&json!({}))
            }
            .boxed()
        });
        let response = runtime.block_on(plan(query, json!({})).unwrap().run(execute));
        assert!(response.errors.is_empty());
        log.lock().unwrap().concat()
    };
    assert_eq!(
        run(
            r#"mutation { a: callTool(name: "tools", arguments: {n: 1}) { text } b: callTool(name: "tools", arguments: {n: 2}) { text } }"#
        ),
        r#"+{"n":1}-{"n":1}+{"n":2}-{"n":2}"#
    );
    assert_eq!(
        run(
            r#"{ a: callTool(name: "tools", arguments: {n: 1}) { text } b: callTool(name: "tools", arguments: {n: 2}) { text } }"#
        ),
        r#"+{"n":1}+{"n":2}-{"n":1}-{"n":2}"#
    );
}

#[test]
fn tools_are_listed_in_pages_that_hold_still() {
    let list = |query: &str| {
        let response = plan(query, json!({})).unwrap().finish([]);
        serde_json::from_str::<Value>(&shown(&response)).unwrap()["data"].clone()
    };
    let first = list(
        "{ tools(first: 2) { nodes { name field readOnly } totalCount pageInfo { hasNextPage endCursor } } }",
    );
    assert_eq!(
        first["tools"]["nodes"],
        json!([
            {"name": "create_issue", "field": "create_issue", "readOnly": false},
            {"name": "search-docs", "field": "search_docs", "readOnly": true},
        ])
    );
    assert_eq!(first["tools"]["totalCount"], 4);
    let cursor = first["tools"]["pageInfo"]["endCursor"].as_str().unwrap();
    let second = list(&format!(
        "{{ tools(after: {cursor:?}) {{ nodes {{ field }} pageInfo {{ hasNextPage }} }} }}"
    ));
    assert_eq!(
        second["tools"],
        json!({"nodes": [{"field": "search_docs_2"}, {"field": "tools_2"}], "pageInfo": {"hasNextPage": false}})
    );
    assert_eq!(
        list(r#"{ tool(name: "nope") { name } }"#),
        json!({"tool": null})
    );
    assert_eq!(
        list(r#"{ tool(name: "tools") { name inputSchema } }"#),
        json!({"tool": {"name": "tools", "inputSchema": {"type": "object"}}})
    );
}

#[test]
fn fields_that_cannot_be_called_fail_alone() {
    for (query, code) in [
        (
            r#"{ callTool(name: "create_issue") { text } __typename }"#,
            "NOT_READ_ONLY",
        ),
        (
            r#"{ callTool(name: "nope") { text } __typename }"#,
            "UNKNOWN_TOOL",
        ),
        (
            r#"{ callTool(name: "tools", arguments: [1]) { text } __typename }"#,
            "BAD_USER_INPUT",
        ),
        (
            r#"{ tools(after: "?") { totalCount } __typename }"#,
            "BAD_USER_INPUT",
        ),
        (
            r#"{ tools(first: -1) { totalCount } __typename }"#,
            "BAD_USER_INPUT",
        ),
    ] {
        let plan = plan(query, json!({})).unwrap();
        assert!(plan.calls().is_empty());
        let out: Value = serde_json::from_str(&shown(&plan.finish([]))).unwrap();
        assert_eq!(out["data"]["__typename"], "Query");
        let extensions = &out["errors"][0]["extensions"];
        assert_eq!(extensions["code"], code, "{query}");
        assert_eq!(extensions["mcpCode"], -32602, "{query}");
        assert_eq!(
            out["errors"][0]["locations"],
            json!([{"line": 1, "column": 3}]),
            "{query}"
        );
    }
}

#[test]
fn requests_that_may_not_run_say_why_and_where() {
    for (query, variables, code, located) in [
        ("{", json!({}), "GRAPHQL_PARSE_FAILED", true),
        (
            "{ 8f31403dfe404bccbb0e835f2629c6a7 }",
            json!({}),
            "GRAPHQL_PARSE_FAILED",
            true,
        ),
        ("{ a(b: 1e999) }", json!({}), "GRAPHQL_PARSE_FAILED", true),
        (
            "{ a(b: \"\\uD800\") }",
            json!({}),
            "GRAPHQL_PARSE_FAILED",
            true,
        ),
        ("", json!({}), "GRAPHQL_PARSE_FAILED", true),
        ("{ nope }", json!({}), "GRAPHQL_VALIDATION_FAILED", true),
        (
            "{ search_docs { text } }",
            json!({}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "{ search_docs(query: 5) { text } }",
            json!({}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "{ search_docs(query: \"a\", sort: up) { text } }",
            json!({}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "{ search_docs(query: \"a\", nope: 1) { text } }",
            json!({}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "{ search_docs(query: \"a\") }",
            json!({}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "mutation { create_issue(title: \"a\") { structured { x } } }",
            json!({}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "{ ...F } fragment F on Query { ...F }",
            json!({}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "query ($q: Nope) { search_docs(query: $q) { text } }",
            json!({}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "query ($id: ID!) { __typename }",
            json!({"id": null}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "query ($q: String!) { search_docs(query: $q) { text } }",
            json!({}),
            "BAD_USER_INPUT",
            true,
        ),
        (
            "query ($q: String!) { search_docs(query: $q) { text } }",
            json!({"q": 5}),
            "BAD_USER_INPUT",
            true,
        ),
        (
            "subscription { a }",
            json!({}),
            "GRAPHQL_VALIDATION_FAILED",
            true,
        ),
        (
            "query A { __typename } query B { __typename }",
            json!({}),
            "OPERATION_RESOLUTION_FAILURE",
            false,
        ),
    ] {
        let refused = plan(query, variables).map(|_| query).unwrap_err();
        assert_eq!(refused.stage, Stage::Refused);
        assert!(refused.data.is_none());
        assert_eq!(
            refused.errors[0].extensions.code,
            code,
            "{query}: {}",
            shown(&refused)
        );
        assert_eq!(!refused.errors[0].locations.is_empty(), located, "{query}");
    }
}

#[test]
fn hostile_documents_are_refused_within_bounds() {
    let deep = format!("{{ a{} }}", "{a".repeat(50_000));
    let lists = format!("{{ a(b: {}) }}", "[".repeat(50_000));
    let types = format!("query ($a: {}Int) {{ a }}", "[".repeat(50_000));
    let aliases: String = (0..100)
        .map(|i| format!("a{i}: tools_2 {{ text }} "))
        .collect();
    let wide: String = (0..100).map(|_| "tools_2 { text } ").collect();
    let tokens = "a ".repeat(20_000);
    for (query, code) in [
        (deep, "LIMIT_EXCEEDED"),
        (lists, "LIMIT_EXCEEDED"),
        (types, "LIMIT_EXCEEDED"),
        (format!("{{ {aliases} }}"), "LIMIT_EXCEEDED"),
        (format!("{{ {wide} }}"), "LIMIT_EXCEEDED"),
        (format!("{{ {tokens} }}"), "LIMIT_EXCEEDED"),
        ("#".repeat(300_000), "LIMIT_EXCEEDED"),
    ] {
        let refused = plan(&query, json!({})).map(|_| &query[..20]).unwrap_err();
        assert_eq!(refused.errors[0].extensions.code, code, "{}", &query[..40]);
    }
}

#[test]
fn introspection_can_be_switched_off() {
    let closed = Limits {
        introspection: false,
        ..Limits::default()
    };
    let gateway = Gateway::build(&tools(), &closed).unwrap();
    for query in [
        "{ __schema { types { name } } }",
        "{ ...F } fragment F on Query { __type(name: \"Tool\") { name } }",
    ] {
        let refused = gateway
            .plan(&request(query, json!({})))
            .map(|_| query)
            .unwrap_err();
        assert_eq!(refused.errors[0].extensions.code, "INTROSPECTION_DISABLED");
    }
    assert!(gateway.plan(&request("{ __typename }", json!({}))).is_ok());
}

#[test]
fn the_usual_introspection_is_answered() {
    let plan = plan(include_str!("introspection.graphql"), json!({}))
        .unwrap_or_else(|r| panic!("{}", shown(&r)));
    let out: Value = serde_json::from_str(&shown(&plan.finish([]))).unwrap();
    let schema = &out["data"]["__schema"];
    assert!(out.get("errors").is_none());
    assert_eq!(schema["queryType"]["name"], "Query");
    let types: Vec<&str> = schema["types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ty| ty["name"].as_str().unwrap())
        .collect();
    for name in [
        "SearchDocsResult",
        "SearchDocsWithinInput",
        "JSON",
        "Long",
        "CallToolResult",
    ] {
        assert!(types.contains(&name), "{name} in {types:?}");
    }
    let mixed = plan_data(
        r#"{ t: __type(name: "PageInfo") { fields { name } } __typename s: __schema { mutationType { name } } }"#,
    );
    assert_eq!(
        mixed,
        json!({
            "t": {"fields": [{"name": "hasNextPage"}, {"name": "endCursor"}]},
            "__typename": "Query",
            "s": {"mutationType": {"name": "Mutation"}},
        })
    );
}

#[test]
fn introspection_takes_variables_and_is_validated_each_time() {
    let gateway = gateway();
    let query = "query ($name: String!) { __type(name: $name) { name } }";
    for (name, found) in [("Tool", json!({"name": "Tool"})), ("Nope", Value::Null)] {
        let plan = gateway
            .plan(&request(query, json!({"name": name})))
            .unwrap();
        let out: Value = serde_json::from_str(&shown(&plan.finish([]))).unwrap();
        assert_eq!(out, json!({"data": {"__type": found}}));
    }
    for _ in 0..2 {
        let refused = gateway.plan(&request("{ __type(name: 5) { name } nope }", json!({})));
        assert_eq!(refused.unwrap_err().errors.len(), 2);
    }
}

fn plan_data(query: &str) -> Value {
    let response = plan(query, json!({})).unwrap().finish([]);
    serde_json::from_str::<Value>(&shown(&response)).unwrap()["data"].clone()
}

/// What a client sees: status, media type, whether there is data.
fn exchange(head: &Head<'_>, body: &str) -> (u16, &'static str, Value) {
    let answer = match http::parse(head, body.as_bytes(), &Limits::default()) {
        Err(answer) => answer,
        Ok(intake) => {
            let respond = |request: &Request| match gateway().plan(request) {
                Ok(plan) => plan.finish([]),
                Err(refused) => refused,
            };
            match intake.requests {
                Requests::One(request) => http::answer(intake.media, &respond(&request)),
                Requests::Batch(batch) => {
                    let responses: Vec<Response> = batch
                        .into_iter()
                        .map(|one| one.map_or_else(|refused| refused, |r| respond(&r)))
                        .collect();
                    http::answer_batch(intake.media, &responses)
                }
            }
        }
    };
    (
        answer.status,
        answer.content_type,
        serde_json::from_slice(&answer.body).unwrap(),
    )
}

#[test]
fn statuses_follow_the_media_type() {
    let graphql = "application/graphql-response+json";
    let json = "application/json";
    for (accept, query, status) in [
        (Some(graphql), "{ __typename }", 200),
        (Some(json), "{ __typename }", 200),
        (None, "{ __typename }", 200),
        (Some(graphql), "{", 400),
        (Some(json), "{", 200),
        (Some("*/*"), "{", 400),
        (None, "{ nope }", 400),
        (Some(graphql), "query ($id: ID!) { __typename }", 400),
        (
            Some(graphql),
            r#"{ callTool(name: \"nope\") { text } }"#,
            200,
        ),
    ] {
        let head = Head {
            method: "POST",
            content_type: Some(json),
            accept,
            query: None,
        };
        let (got, media, body) = exchange(&head, &format!(r#"{{"query":"{query}"}}"#));
        assert_eq!(got, status, "{accept:?} {query}");
        assert!(media.starts_with(if accept == Some(graphql) {
            graphql
        } else {
            json
        }));
        assert_eq!(
            body.get("data").is_some(),
            query == "{ __typename }" || query.contains("callTool")
        );
    }
    let get = |query| {
        let head = Head {
            method: "GET",
            query: Some(query),
            accept: Some(graphql),
            content_type: None,
        };
        exchange(&head, "").0
    };
    assert_eq!(get("query=%7B__typename%7D"), 200);
    assert_eq!(get("query=mutation%7B__typename%7D"), 405);
    assert_eq!(get("query=%7B"), 400);
}

#[test]
fn batches_answer_in_order_each_for_itself() {
    let head = Head {
        method: "POST",
        content_type: Some("application/json"),
        ..Head::default()
    };
    let (status, _, body) = exchange(
        &head,
        r#"[{"query":"{ a: __typename }"},{"query":"{"},{},{"query":"mutation { b: __typename }"}]"#,
    );
    assert_eq!(status, 200);
    assert_eq!(body[0], json!({"data": {"a": "Query"}}));
    assert_eq!(
        body[1]["errors"][0]["extensions"]["code"],
        "GRAPHQL_PARSE_FAILED"
    );
    assert_eq!(body[2]["errors"][0]["extensions"]["code"], "BAD_REQUEST");
    assert_eq!(body[3], json!({"data": {"b": "Mutation"}}));
}

#[test]
fn failures_before_any_request_have_their_own_status() {
    let answer = http::failure(
        Some("application/json"),
        &Failure::new(Cause::Unauthenticated),
        "r-9",
    );
    assert_eq!(
        (answer.status, answer.content_type),
        (401, Media::Json.content_type())
    );
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert_eq!(body["errors"][0]["extensions"]["requestId"], "r-9");
}
