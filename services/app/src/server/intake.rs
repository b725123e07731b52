//! Head and body to a request of 2026-07-28, or the reason why not. Pure.
//!
//! The head mirrors the body so that a gateway can judge a request without reading it; whoever does read the body must refuse
//! one that disagrees with its head (specification, streamable HTTP, "Server Validation").

use std::borrow::Cow;

use http::{
    HeaderMap,
    header::{ACCEPT, CONTENT_TYPE, ORIGIN},
};
use mcp::{
    Cause, Failure, Id, Message, Method, Revision,
    call::{META_CLIENT_CAPABILITIES, META_VERSION},
    envelope::{self, Body},
    headers,
    members::Members,
    revision::Era,
};
use serde_json::{json, value::RawValue};

use super::stream::Accepts;

/// The method that opens a stream of changes.
pub const LISTEN: &str = "subscriptions/listen";
/// The methods of the tasks extension.
const TASKS: [&str; 3] = ["tasks/get", "tasks/update", "tasks/cancel"];

/// What is wanted.
#[derive(Debug)]
pub enum Wanted<'a> {
    /// A request.
    Request(Request<'a>),
    /// A notification: it wants no answer, and means nothing to a server without sessions.
    Notification,
}

/// A request whose head and body agree.
#[derive(Debug)]
pub struct Request<'a> {
    /// To be sent back as it is.
    pub id: Id,
    /// The method; one that this revision has.
    pub method: Method,
    /// The tool, prompt or resource, for methods that name one.
    pub name: Option<String>,
    /// The parameters.
    pub params: Members<'a>,
}

/// A refusal, with the id to answer with where it could be read.
#[derive(Debug)]
pub struct Refusal {
    /// The message's id.
    pub id: Option<Id>,
    /// Why.
    pub failure: Failure,
}

/// Reads what a POST wants, once [`media`] has been looked at.
///
/// # Errors
/// [`Refusal`] with the cause that the specification has for it.
pub fn read<'a>(head: &HeaderMap, body: &'a [u8]) -> Result<Wanted<'a>, Refusal> {
    let anonymous = |failure| Refusal { id: None, failure };
    let message = match envelope::read(body) {
        Ok(Body::One(message)) => message,
        Ok(Body::Batch(_)) => {
            return Err(anonymous(Failure::say(
                Cause::InvalidRequest,
                "a batch is not taken: send each message alone",
            )));
        }
        Err(refused) => Err(refused),
    };
    match message {
        Ok(Message::Request { id, method, params }) => match request(Some(head), &method, params) {
            Ok((method, name, params)) if id.is_mcp() => Ok(Wanted::Request(Request {
                id,
                method,
                name,
                params,
            })),
            Ok(_) => Err(anonymous(Failure::say(
                Cause::InvalidRequest,
                "id must be a string or an integer",
            ))),
            Err(failure) => Err(Refusal {
                id: Some(id),
                failure,
            }),
        },
        Ok(Message::Notification { method, .. }) => {
            mirrored(head, headers::METHOD, &method).map_err(anonymous)?;
            Ok(Wanted::Notification)
        }
        Ok(Message::Response { .. }) => Err(anonymous(Failure::say(
            Cause::InvalidRequest,
            "a response is not taken: this server asks its clients nothing",
        ))),
        Err(refused) => Err(Refusal {
            id: refused.id,
            failure: refused.failure,
        }),
    }
}

/// Reads a request that was made in this process: it has no head that could disagree.
///
/// # Errors
/// [`Refusal`], as [`read`].
pub fn read_own(body: &[u8]) -> Result<Request<'_>, Refusal> {
    let anonymous = |failure| Refusal { id: None, failure };
    match envelope::read(body) {
        Ok(Body::One(Ok(Message::Request { id, method, params }))) => {
            match request(None, &method, params) {
                Ok((method, name, params)) => Ok(Request {
                    id,
                    method,
                    name,
                    params,
                }),
                Err(failure) => Err(Refusal {
                    id: Some(id),
                    failure,
                }),
            }
        }
        _ => Err(anonymous(Failure::new(Cause::Internal))),
    }
}

/// Returns the era that a POST belongs to: what its version header says, or else whatever it has that only one era has.
pub fn era(head: &HeaderMap, body: &[u8]) -> Era {
    let has_session = head.contains_key(headers::SESSION_ID);
    match head.get(headers::PROTOCOL_VERSION) {
        Some(version) => match version.to_str().ok().and_then(Revision::parse) {
            Some(revision) => revision.era(),
            // A revision that nobody knows is later than ours, unless a session is said to speak it.
            None if has_session => Era::Legacy,
            None => Era::Modern,
        },
        None if has_session => Era::Legacy,
        None if head.contains_key(headers::METHOD) || names_version(body) => Era::Modern,
        None => Era::Legacy,
    }
}

/// Whether the body says its revision, as all requests of the newer era do.
fn names_version(body: &[u8]) -> bool {
    let Ok(Body::One(Ok(Message::Request {
        params: Some(params),
        ..
    }))) = envelope::read(body)
    else {
        return false;
    };
    let meta = Members::parse(params).ok();
    let meta = meta.as_ref().and_then(|params| params.get("_meta"));
    meta.and_then(|raw| Members::parse(raw).ok())
        .is_some_and(|meta| meta.get(META_VERSION).is_some())
}

/// Refuses a browser's page that is not this machine's own: programs of the fleet send no `Origin`.
///
/// # Errors
/// [`Cause::OriginRefused`].
pub fn origin(head: &HeaderMap) -> Result<(), Failure> {
    let own = |value: &http::HeaderValue| {
        let uri: http::Uri = value.to_str().ok()?.parse().ok()?;
        let host = uri.host()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<std::net::IpAddr>();
        Some(host == "localhost" || address.is_ok_and(|address| address.is_loopback()))
    };
    let all_own = head
        .get_all(ORIGIN)
        .iter()
        .all(|value| own(value).unwrap_or(false));
    if all_own {
        Ok(())
    } else {
        Err(Failure::new(Cause::OriginRefused))
    }
}

/// Returns what the client takes.
///
/// # Errors
/// [`Cause::MediaType`] for a body that is not said to be JSON, [`Cause::NotAcceptable`] for a client that takes nothing of
/// ours. One that does not say takes JSON.
pub fn media(head: &HeaderMap) -> Result<Accepts, Failure> {
    let content = one(head, CONTENT_TYPE.as_str())?.unwrap_or_default();
    let content = content.split(';').next().unwrap_or_default().trim();
    if !content.eq_ignore_ascii_case("application/json") {
        return Err(Failure::new(Cause::MediaType));
    }
    let mut ranges = head
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .peekable();
    let mut accepts = Accepts {
        json: ranges.peek().is_none(),
        events: false,
    };
    let is = |range: &str, ours: [&str; 2]| {
        range == "*/*" || ours.iter().any(|ours| range.eq_ignore_ascii_case(ours))
    };
    for range in ranges {
        accepts.json |= is(range, ["application/json", "application/*"]);
        accepts.events |= is(range, ["text/event-stream", "text/*"]);
    }
    if accepts.json || accepts.events {
        Ok(accepts)
    } else {
        Err(Failure::new(Cause::NotAcceptable))
    }
}

fn request<'a>(
    head: Option<&HeaderMap>,
    method: &str,
    params: Option<&'a RawValue>,
) -> Result<(Method, Option<String>, Members<'a>), Failure> {
    let params = match params {
        None => Members::default(),
        Some(raw) => Members::parse(raw).map_err(|_| {
            Failure::say(
                Cause::InvalidParams,
                "params must be an object that names each member once",
            )
        })?,
    };
    if let Some(head) = head {
        version(head, &params)?;
        mirrored(head, headers::METHOD, method)?;
    }
    let method = Method::parse(method);
    if !served(&method) {
        return Err(Failure::new(Cause::MethodNotFound));
    }
    let name = match name_member(&method) {
        None => None,
        Some(member) => {
            let name = params.get_str(member).ok_or_else(|| {
                Failure::say(
                    Cause::InvalidParams,
                    format!("params.{member} must be a string"),
                )
            })?;
            if let Some(head) = head {
                mirrored(head, headers::NAME, &name)?;
            }
            Some(name)
        }
    };
    Ok((method, name, params))
}

/// The member of `params` that `Mcp-Name` mirrors; that of the tasks extension too.
fn name_member(method: &Method) -> Option<&'static str> {
    match method.as_str() {
        method if TASKS.contains(&method) => Some("taskId"),
        _ => method.name_member(),
    }
}

fn served(method: &Method) -> bool {
    match method {
        Method::Discover
        | Method::ToolsList
        | Method::ToolsCall
        | Method::PromptsList
        | Method::PromptsGet
        | Method::ResourcesList
        | Method::ResourceTemplatesList
        | Method::ResourcesRead
        | Method::Complete => true,
        other => other.as_str() == LISTEN || TASKS.contains(&other.as_str()),
    }
}

/// Checks the version of head and body, and that the client says what it can do.
fn version(head: &HeaderMap, params: &Members<'_>) -> Result<(), Failure> {
    let said = one(head, headers::PROTOCOL_VERSION)?.ok_or_else(|| {
        Failure::say(
            Cause::HeaderMismatch,
            "the header MCP-Protocol-Version is missing",
        )
    })?;
    let meta = match params.get("_meta") {
        None => Members::default(),
        Some(raw) => Members::parse(raw)
            .map_err(|_| Failure::say(Cause::InvalidParams, "params._meta must be an object"))?,
    };
    let body = meta.get_str(META_VERSION);
    if body.as_deref().is_some_and(|body| body != said) {
        return Err(Failure::say(
            Cause::HeaderMismatch,
            format!(
                "the header MCP-Protocol-Version and params._meta[\"{META_VERSION}\"] disagree"
            ),
        ));
    }
    if said != Revision::LATEST.as_str() {
        return Err(Failure::new(Cause::UnsupportedVersion).with_data(&json!({
            "supported": [Revision::LATEST.as_str()],
            "requested": said.chars().take(64).collect::<String>(),
        })));
    }
    let missing = |member| {
        Failure::say(
            Cause::InvalidParams,
            format!("params._meta[\"{member}\"] is missing or of the wrong type"),
        )
    };
    if body.is_none() {
        return Err(missing(META_VERSION));
    }
    match meta.get(META_CLIENT_CAPABILITIES) {
        Some(capabilities) if capabilities.get().starts_with('{') => Ok(()),
        _ => Err(missing(META_CLIENT_CAPABILITIES)),
    }
}

/// Checks that a header says what the body says.
fn mirrored(head: &HeaderMap, name: &str, body: &str) -> Result<(), Failure> {
    let mismatch = |what| Failure::say(Cause::HeaderMismatch, format!("the header {name} {what}"));
    let said = one(head, name)?.ok_or_else(|| mismatch("is missing"))?;
    let said = headers::decode(&said).ok_or_else(|| mismatch("is not valid Base64"))?;
    if said == body {
        Ok(())
    } else {
        Err(mismatch("and the body disagree"))
    }
}

/// Returns a header's one value; several lines of one name could be read as either.
fn one<'a>(head: &'a HeaderMap, name: &str) -> Result<Option<Cow<'a, str>>, Failure> {
    let unclear = |what| Failure::say(Cause::HeaderMismatch, format!("the header {name} {what}"));
    let mut values = head.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(unclear("comes more than once"));
    }
    let value = value.to_str().map_err(|_| unclear("is not plain ASCII"))?;
    Ok(Some(Cow::Borrowed(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"täst","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    const HEAD: &[(&str, &str)] = &[
        ("content-type", "application/json; charset=utf-8"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "=?base64?dMOkc3Q=?="),
    ];

    fn head(changes: &[(&str, &str)]) -> HeaderMap {
        let mut head = HeaderMap::new();
        for (name, value) in HEAD
            .iter()
            .filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name))
            .chain(changes)
        {
            if !value.is_empty() {
                head.append(
                    name.parse::<http::HeaderName>().unwrap(),
                    value.parse().unwrap(),
                );
            }
        }
        head
    }

    #[test]
    fn the_era_is_what_the_request_says_or_has() {
        const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
        for (headers, body, want) in [
            (
                &[("mcp-protocol-version", "2026-07-28")][..],
                INITIALIZE,
                Era::Modern,
            ),
            (
                &[("mcp-protocol-version", "2099-01-01")],
                INITIALIZE,
                Era::Modern,
            ),
            (&[("mcp-protocol-version", "2025-06-18")], GOOD, Era::Legacy),
            (
                &[
                    ("mcp-protocol-version", "2099-01-01"),
                    ("mcp-session-id", "s"),
                ],
                INITIALIZE,
                Era::Legacy,
            ),
            (&[("mcp-session-id", "s")], GOOD, Era::Legacy),
            (&[("mcp-method", "tools/call")], "{", Era::Modern),
            (&[], GOOD, Era::Modern),
            (&[], INITIALIZE, Era::Legacy),
            (&[], "[", Era::Legacy),
        ] {
            let mut head = HeaderMap::new();
            for (name, value) in headers {
                head.append(*name, value.parse().unwrap());
            }
            assert_eq!(era(&head, body.as_bytes()), want, "{headers:?} {body}");
        }
    }

    fn code(changes: &[(&str, &str)], body: &str) -> (u16, i64) {
        let head = head(changes);
        let told = |failure: Failure| (failure.cause.http_status(), failure.cause.code());
        match media(&head).map(|_| read(&head, body.as_bytes())) {
            Err(failure) => told(failure),
            Ok(Err(refusal)) => told(refusal.failure),
            Ok(Ok(_)) => (200, 0),
        }
    }

    #[test]
    fn heads_are_held_against_bodies() {
        let wrong = (400, -32020);
        for (changes, want) in [
            (vec![], (200, 0)),
            (vec![("mcp-name", "")], wrong),
            (vec![("mcp-name", "tast")], wrong),
            (vec![("mcp-name", "=?base64?dMOkc3Q?=")], wrong),
            (
                vec![
                    ("mcp-name", "=?base64?dMOkc3Q=?="),
                    ("mcp-name", "=?base64?dMOkc3Q=?="),
                ],
                wrong,
            ),
            (vec![("mcp-method", "tools/list")], wrong),
            (vec![("mcp-method", "TOOLS/CALL")], wrong),
            (vec![("mcp-method", "")], wrong),
            (vec![("mcp-protocol-version", "")], wrong),
            (vec![("mcp-protocol-version", "2025-11-25")], wrong),
            (vec![("content-type", "text/plain")], (415, -31415)),
            (vec![("accept", "text/html")], (406, -31406)),
            (vec![("accept", "")], (200, 0)),
            (vec![("accept", "text/event-stream")], (200, 0)),
        ] {
            assert_eq!(code(&changes, GOOD), want, "{changes:?}");
        }
    }

    #[test]
    fn pages_of_other_hosts_are_refused() {
        for (value, own) in [
            ("http://localhost:8700", true),
            ("https://127.0.0.1", true),
            ("http://[::1]:1", true),
            ("http://evil.example.com", false),
            ("http://localhost.evil.example", false),
            ("null", false),
            ("", true),
        ] {
            assert_eq!(origin(&head(&[("origin", value)])).is_ok(), own, "{value}");
        }
    }

    #[test]
    fn a_client_is_answered_in_what_it_takes() {
        for (accept, json, events) in [
            ("", true, false),
            ("application/json", true, false),
            ("text/event-stream", false, true),
            ("application/json, text/event-stream;q=0.5", true, true),
            ("*/*", true, true),
        ] {
            let accepts = media(&head(&[("accept", accept)])).unwrap();
            assert_eq!(accepts, Accepts { json, events }, "{accept}");
        }
    }

    #[test]
    fn bodies_are_refused_as_the_specification_says() {
        for (from, to, want) in [
            ("2026-07-28", "2026-07-28", (200, 0)),
            (r#""id":1"#, r#""id":null"#, (400, -32600)),
            (r#""id":1"#, r#""id":1.5"#, (400, -32600)),
            (r#""name":"täst","#, "", (400, -32602)),
            (
                r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
                "",
                (400, -32602),
            ),
            (
                r#","io.modelcontextprotocol/clientCapabilities":{}"#,
                "",
                (400, -32602),
            ),
            (r#""2.0""#, r#""1.0""#, (400, -32600)),
            (GOOD, "[]", (400, -32600)),
            (GOOD, "{", (400, -32700)),
            (
                GOOD,
                r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
                (400, -32600),
            ),
        ] {
            assert_eq!(code(&[], &GOOD.replace(from, to)), want, "{from} -> {to}");
        }
        for method in ["ping", "initialize", "logging/setLevel", "made/up"] {
            let body = GOOD.replace("tools/call", method);
            assert_eq!(
                code(&[("mcp-method", method)], &body),
                (404, -32601),
                "{method}"
            );
        }
        let future = [("mcp-protocol-version", "2099-01-01")];
        assert_eq!(
            code(&future, &GOOD.replace("2026-07-28", "2099-01-01")),
            (400, -32022)
        );
    }
}
