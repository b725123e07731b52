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

/// Requests of older clients: the first byte picks the method and the revision, lines until an empty one are headers, the
/// rest is the body. What is answered is JSON or nothing, and only a session of ours is served.
pub fn older(data: &[u8]) {
    use futures::StreamExt;
    use legacy::{Asker, Body as Answered, Host, Request};

    let Some((pick, rest)) = data.split_first() else {
        return;
    };
    let cut = rest.windows(2).position(|pair| pair == b"\n\n");
    let (lines, body) = cut.map_or((rest, &[][..]), |at| (&rest[..at], &rest[at + 2..]));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let ring = KeyRing::new(&[[7; KEY_BYTES]]).expect("one key");
        let board = legacy::Board::new(std::sync::Arc::new(legacy::Memory::default()));
        let life = std::time::Duration::from_secs(60);
        let host = Host::new(
            std::sync::Arc::new(Silent),
            board.into(),
            ring.clone(),
            life,
        );
        let mut headers = http::HeaderMap::new();
        for line in lines.split(|byte| *byte == b'\n') {
            let mut parts = line.splitn(2, |byte| *byte == b':');
            let name = http::HeaderName::from_bytes(parts.next().unwrap_or_default());
            let value = http::HeaderValue::from_bytes(parts.next().unwrap_or_default());
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        let has_session = pick & 4 == 0;
        if has_session {
            let session = mcp::session::Session {
                id: [1; 16],
                revision: mcp::Revision::ALL[usize::from(*pick >> 3) % 4],
                client: ClientMeta::plain("fuzz"),
                principal: "p".into(),
                tenant: "t".into(),
                expires_unix_s: u64::MAX,
            };
            let token = ring
                .seal(&session, [3; mcp::session::NONCE_BYTES])
                .expect("fits");
            headers.insert("mcp-session-id", token.parse().expect("is ASCII"));
        }
        let method = [
            http::Method::POST,
            http::Method::GET,
            http::Method::DELETE,
            http::Method::PUT,
        ][usize::from(*pick & 3)]
        .clone();
        let asker = Asker {
            principal: "p".into(),
            tenant: "t".into(),
            request_id: "fuzz".into(),
            deadline: life,
            caller: (),
        };
        let request = Request {
            method,
            headers,
            body: bytes::Bytes::copy_from_slice(body),
        };
        let answered = host.serve(asker, request).await;
        match answered.body {
            Answered::Json(json) => {
                assert!(
                    matches!(envelope::read(&json), Ok(Body::One(Ok(_)) | Body::Batch(_))),
                    "an answer is no message"
                );
                // Without a session nothing is served but `initialize`, which this server refuses.
                assert!(has_session || mcp::Outcome::of(&json) == mcp::Outcome::Error);
            }
            Answered::Empty => {}
            Answered::Events(mut events) => {
                assert!(has_session, "a stream without a session");
                // A stream without an end may have nothing to say yet.
                let soon = std::time::Duration::from_millis(1);
                if let Ok(Some(event)) = tokio::time::timeout(soon, events.next()).await {
                    let read = mcp::sse::Decoder::default().push(&event);
                    assert!(read.is_ok(), "an event is none");
                }
            }
        }
    });
}

/// A server that answers every call with the same error.
struct Silent;

impl legacy::Backend for Silent {
    type Caller = ();

    fn call(
        &self,
        (): &(),
        call: Call,
    ) -> futures::stream::BoxStream<'static, Result<bytes::Bytes, mcp::Failure>> {
        use futures::StreamExt;
        let failure = mcp::Failure::new(mcp::Cause::NoBackend);
        let answer = failure.to_json_rpc(call.id.as_ref(), "fuzz");
        futures::stream::iter([Ok(answer.into())]).boxed()
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

/// Event streams, cut where the first byte says: the same events whatever the chunks.
pub fn sse(data: &[u8]) {
    use mcp::sse::Decoder;

    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let mut whole = Decoder::new(1 << 16);
    let expected = whole.push(stream);
    let mut pieces = Decoder::new(1 << 16);
    let read: Result<Vec<_>, _> = stream
        .chunks(usize::from(*cut).max(1))
        .map(|chunk| pieces.push(chunk))
        .collect();
    match (expected, read) {
        (Ok(expected), Ok(read)) => {
            let read = read.concat();
            assert_eq!(read, expected, "chunks changed the events");
            for event in read {
                let again = Decoder::default()
                    .push(event.encode().as_bytes())
                    .expect("what we write is read");
                if !event.data.contains('\0') && event.name.is_none() {
                    assert_eq!(again, [event], "an event does not read back");
                }
            }
        }
        // What is too large as a whole may still end within a chunk; what is not UTF-8 never is.
        (expected, read) => assert!(expected.is_err() || read.is_err()),
    }
}

/// `requestState` of parked calls: routed by its readable part, opened by nobody who made it up.
pub fn parked(data: &[u8]) {
    use mcp::parked::{Parked, RequestDigest, instance_of};

    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(instance) = instance_of(text) {
        assert!(!instance.is_empty() && !instance.contains('.'));
    }
    let Some(ring) = KeyRing::new(&[[7; KEY_BYTES]]) else {
        return;
    };
    let request = RequestDigest::of("tools/call", Some("t"), None);
    assert!(
        Parked::open(&ring, text, "p", "t", request, 0).is_err(),
        "a made-up state opened a call"
    );
}

/// Both bridges, fed with lines: the first line is the client's parameters, each other a message of the
/// server. `!` in front makes a line the client's answer to what it was last asked.
pub fn bridge(data: &[u8]) {
    use mcp::era::old_client::{self, OldClientCall};
    use mcp::era::old_server::{self, OldServerCall};
    use mcp::input::Retry;
    use mcp::members::Members;
    use mcp::{Id, Revision};
    use serde_json::value::RawValue;

    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.lines();
    let first: Option<&RawValue> = lines.next().and_then(|l| serde_json::from_str(l).ok());
    let mut client = ClientMeta::plain("fuzz");
    client.capabilities = serde_json::from_str(
        r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"roots":{}}"#,
    )
    .expect("is JSON");
    let revision = Revision::ALL[data.len() % 4];
    let mut old_client = OldClientCall::start(old_client::Setup {
        revision,
        client: &client,
        id: Id::from_number(1),
        method: Method::ToolsCall,
        params: first,
        prefix: "p".into(),
        level: Some(mcp::notification::Level::Debug),
        request_id: "fuzz".into(),
        now: String::new(),
    })
    .ok()
    .map(|(call, _)| call);
    let mut old_server = OldServerCall::start(old_server::Setup {
        revision,
        method: Method::ToolsCall,
        params: first,
        server_id: Id::from_number(1),
        server_info: None,
        hint: era::CacheHint::NONE,
    })
    .ok()
    .map(|(call, _)| call);
    let mut asked: Vec<Id> = Vec::new();
    for line in lines {
        let mut answers = 0;
        if let Some(answer) = line.strip_prefix('!') {
            let Ok(raw) = serde_json::from_str::<&RawValue>(answer) else {
                continue;
            };
            if let (Some(call), Some(id)) = (&mut old_client, asked.pop()) {
                let input = old_client::Input::Answer {
                    id: &id,
                    result: Ok(raw),
                };
                note(call.step(input), &mut asked, &mut answers);
            }
            let retry = Members::parse(raw).ok().and_then(|p| Retry::read(&p).ok());
            if let (Some(call), Some(retry)) = (&mut old_server, retry) {
                let server_id = Id::from_number(2);
                reads_back(call.step(old_server::Input::Retry { retry, server_id }));
            }
            continue;
        }
        let read = || match envelope::read(line.as_bytes()) {
            Ok(Body::One(Ok(message))) => Some(message),
            _ => None,
        };
        if let (Some(call), Some(message)) = (&mut old_client, read()) {
            let was_over = call.is_over();
            note(
                call.step(old_client::Input::Server(message)),
                &mut asked,
                &mut answers,
            );
            let waited = call.step(old_client::Input::Waited);
            note(waited, &mut asked, &mut answers);
            assert!(
                answers == 0 || (!was_over && call.is_over()),
                "an answer too many"
            );
        }
        if let (Some(call), Some(message)) = (&mut old_server, read()) {
            reads_back(call.step(old_server::Input::Server(message)));
        }
    }
    for output in old_server
        .iter_mut()
        .flat_map(|c| c.step(old_server::Input::Cancel))
    {
        reads_back(vec![output]);
    }

    fn note(outputs: Vec<old_client::Output>, asked: &mut Vec<Id>, answers: &mut usize) {
        for output in outputs {
            let bytes = match output {
                old_client::Output::Ask { id, message } => {
                    asked.push(id);
                    message
                }
                old_client::Output::Answer(message) => {
                    *answers += 1;
                    message
                }
                old_client::Output::Made { kept, answer, .. } => {
                    *answers += 1;
                    if let Some(kept) = kept {
                        let again = mcp::era::tasks::Kept::read(&kept.write()).expect("reads back");
                        assert_eq!(again.result.get(), kept.result.get());
                    }
                    answer
                }
                old_client::Output::Send(message) => message,
                old_client::Output::Call(call) | old_client::Output::Tell(call) => {
                    call.body.to_vec()
                }
                old_client::Output::Wait(_)
                | old_client::Output::Abandon
                | old_client::Output::Close => continue,
            };
            assert!(
                matches!(envelope::read(&bytes), Ok(Body::One(Ok(_)))),
                "no message"
            );
        }
    }

    fn reads_back(outputs: Vec<old_server::Output>) {
        for output in outputs {
            match output {
                old_server::Output::Server(bytes) | old_server::Output::Send(bytes) => {
                    assert!(
                        matches!(envelope::read(&bytes), Ok(Body::One(Ok(_)))),
                        "no message"
                    );
                }
                old_server::Output::Park(wanted) => {
                    let again =
                        mcp::input::InputRequired::read(&wanted.write()).expect("reads back");
                    assert_eq!(again.requests.len(), wanted.requests.len());
                }
                _ => {}
            }
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

/// The `Priority` header: whatever stands before it, the last urgency counts.
pub fn priority(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    assert!(policy::fair::urgency(text) <= policy::fair::URGENCY_MAX);
    for urgency in 0..=policy::fair::URGENCY_MAX {
        let header = format!("{text}, u={urgency}");
        assert_eq!(policy::fair::urgency(&header), urgency, "{header:?}");
    }
}

/// The `Accept-Language` header: what is taken of it is a language tag that stands in it, and is taken again alone.
pub fn language(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(tag) = mcp::locale::preferred(text) {
        assert!(tag.is_ascii() && tag.len() <= 64, "{tag:?}");
        assert!(
            text.to_ascii_lowercase()
                .contains(&tag.to_ascii_lowercase()),
            "{tag:?}"
        );
        assert_eq!(mcp::locale::preferred(&tag).as_deref(), Some(&*tag));
    }
}

/// A signed request: a first line is `Signature-Input`, a second `Signature`, the rest `Content-Digest`. Nobody here has the key.
pub fn signature(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut headers = http::HeaderMap::new();
    for name in ["signature-input", "signature", "content-digest"] {
        if let Ok(value) = http::HeaderValue::from_bytes(lines.next().unwrap_or_default()) {
            headers.insert(name, value);
        }
    }
    let set = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}]}"#;
    let keys = signature::Keys::from_jwks(set).expect("a set");
    let rules = signature::Rules {
        age_max: std::time::Duration::from_secs(300),
        leeway: std::time::Duration::from_secs(30),
    };
    let request = signature::Request {
        method: "POST",
        path: "/mcp",
        query: None,
        headers: &headers,
    };
    assert!(signature::verify(&keys, &rules, &request, 1_800_000_000).is_err());
    let _ = signature::Keys::from_jwks(&String::from_utf8_lossy(data));
}

/// Searches for tools: a first line is the query, each further one a tool (name, tab, description).
pub fn search(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let query = lines.next().unwrap_or_default();
    let documents: Vec<search::Document<'_>> = lines
        .take(64)
        .map(|line| {
            let (name, description) = line.split_once('\t').unwrap_or((line, ""));
            search::Document {
                name,
                description,
                ..search::Document::default()
            }
        })
        .collect();
    for word in search::words::words(query) {
        assert!(!word.is_empty(), "a word of nothing");
    }
    let index = search::Index::new(documents.iter().copied());
    let found = index.find(query, 5);
    assert!(found.len() <= 5, "more than was asked for");
    assert!(
        found.windows(2).all(|pair| pair[0].score >= pair[1].score),
        "not the best first"
    );
    assert!(
        found
            .iter()
            .all(|f| f.at < documents.len() && f.score.is_finite())
    );
    let again = search::Index::new(documents.iter().copied()).find(query, 5);
    assert_eq!(found, again, "the order changes");
}

/// What a server writes into its pipe, cut where the first byte says: the same messages whatever the chunks, none longer than the
/// limit, and a line that is too long is taken for the answer that it was, or for none.
pub fn lines(data: &[u8]) {
    use mcp::incoming::{Incoming, decode};
    use mcp::lines::{END_BYTES, Line, LineSplitter};

    const LIMIT: usize = 1024;
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let read = |chunk_bytes: usize| {
        let mut splitter = LineSplitter::new(LIMIT);
        let mut messages = Vec::new();
        let mut take = |line: Line<'_>| {
            let message = decode(&line);
            match line {
                Line::Whole(text) => {
                    assert!((1..=LIMIT).contains(&text.len()));
                    if let Incoming::Answer(id, _) = message
                        && text.len() > 2 * END_BYTES
                    {
                        let ends = Line::TooLong {
                            head: &text[..END_BYTES],
                            tail: &text[text.len() - END_BYTES..],
                        };
                        match decode(&ends) {
                            Incoming::TooLong(found) => assert_eq!(found, id, "another's answer"),
                            Incoming::Lost => {}
                            other => panic!("a cut line is {other:?}"),
                        }
                    }
                }
                Line::TooLong { head, tail } => {
                    assert!(head.len() <= END_BYTES && tail.len() <= END_BYTES);
                }
            }
            messages.push(format!("{message:?}"));
        };
        for chunk in stream.chunks(chunk_bytes) {
            splitter.feed(chunk, &mut take);
        }
        splitter.finish(&mut take);
        messages
    };
    let whole = read(stream.len().max(1));
    assert_eq!(
        whole,
        read(usize::from(*cut).max(1)),
        "chunks changed the messages"
    );
}
