//! NORM-14: a typical GraphQL call is translated, there and back, in under 30 µs. Its document has been seen
//! before, as nearly all are; what the first sight of one costs is measured beside it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mcp::{Outcome, Reply};
use translate::graphql::http::{self, Head, Requests};
use translate::graphql::{Gateway, Limits, Request};

const BODY: &str = r#"{"query":"query Search($q: String!, $n: Int) { search_docs(query: $q, limit: $n) { isError structured { total hits { id score } } } }","variables":{"q":"shoes","n":3},"operationName":"Search"}"#;
const REPLY: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"{}"}],"structuredContent":{"total":3,"hits":[{"id":"a","score":0.5},{"id":"b","score":0.25},{"id":"c","score":0.125}]},"isError":false}}"#;

fn translate(c: &mut Criterion) {
    let raw: Vec<Box<serde_json::value::RawValue>> =
        serde_json::from_str(include_str!("../tests/tools.json")).expect("the file is JSON");
    let tools: Vec<mcp::Tool> = raw
        .iter()
        .map(|raw| mcp::Tool::parse(raw).expect("a tool"))
        .collect();
    let limits = Limits::default();
    let gateway = Gateway::build(&tools, &limits).expect("a schema");
    let head = Head {
        method: "POST",
        content_type: Some("application/json"),
        accept: Some("application/json"),
        query: None,
    };
    c.bench_function("graphql call, there and back", |b| {
        b.iter(|| {
            let intake =
                http::parse(&head, black_box(BODY.as_bytes()), &limits).expect("a request");
            let Requests::One(request) = intake.requests else {
                unreachable!("one request is no batch")
            };
            let plan = gateway.plan(&request).expect("a valid request");
            let reply = Reply {
                status: 200,
                outcome: Outcome::Ok,
                body: bytes::Bytes::from_static(REPLY.as_bytes()),
            };
            http::answer(intake.media, &plan.finish([Ok(reply)]))
        });
    });
    let mut fresh = 0_u64;
    c.bench_function("graphql document, first seen", |b| {
        b.iter(|| {
            fresh += 1;
            let request = Request {
                query: format!("{{ search_docs(query: \"{fresh}\") {{ isError structured {{ total hits {{ id score }} }} }} }}"),
                ..Request::default()
            };
            gateway.plan(&request).expect("a valid request")
        });
    });
    c.bench_function("graphql schema of 4 tools", |b| {
        b.iter(|| Gateway::build(black_box(&tools), &limits));
    });
}

criterion_group!(benches, translate);
criterion_main!(benches);
