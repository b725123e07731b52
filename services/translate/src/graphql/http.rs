//! GraphQL over HTTP, as facts about heads and bodies: no socket is known here.
//!
//! POST takes `application/json`, one request or an array; GET takes one request in the query string and runs
//! queries only. The answer is `application/graphql-response+json` for whoever accepts that, and else
//! `application/json`.
//!
//! A request that cannot be executed is 400, with one exception that the GraphQL-over-HTTP specification asks
//! for: a client that names `application/json` in `Accept` gets 200, since such clients read the body only
//! then. A body that is no GraphQL request at all is 400 for everyone.

use std::borrow::Cow;
use std::collections::BTreeMap;

use async_graphql::Variables;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::error::{BAD_REQUEST, Error, METHOD_NOT_ALLOWED, PERSISTED_QUERY, Response, Stage};
use super::limits::Limits;
use super::plan::Request;

/// What of an HTTP request's head matters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head<'a> {
    /// `GET`, `POST` or another.
    pub method: &'a str,
    /// What follows `?` in the target, if anything.
    pub query: Option<&'a str>,
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
    /// `Accept`, several lines joined by commas.
    pub accept: Option<&'a str>,
}

/// The media type to answer in, and what it means for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/graphql-response+json`.
    GraphQl,
    /// `application/json`, which the client named.
    Json,
    /// `application/json`, for a client that named nothing.
    Unnamed,
}

impl Media {
    /// The media type that `Accept` asks for; `None` when it allows neither.
    #[must_use]
    pub fn negotiate(accept: Option<&str>) -> Option<Media> {
        let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
            return Some(Media::Unnamed);
        };
        // Of equally wanted types the first named wins.
        let mut best: Option<(u16, Media)> = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = match parts
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase()
                .as_str()
            {
                "application/graphql-response+json" => Media::GraphQl,
                "application/json" => Media::Json,
                "*/*" | "application/*" => Media::Unnamed,
                _ => continue,
            };
            let weight = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .map_or(1000, permille);
            if weight > best.map_or(0, |(weight, _)| weight) {
                best = Some((weight, media));
            }
        }
        best.map(|(_, media)| media)
    }

    /// The value for `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Media::GraphQl => "application/graphql-response+json; charset=utf-8",
            Media::Json | Media::Unnamed => "application/json; charset=utf-8",
        }
    }

    fn status(self, stage: Stage) -> u16 {
        match (stage, self) {
            (Stage::Executed, _) | (Stage::Refused, Media::Json) => 200,
            (Stage::Malformed | Stage::Refused, _) => 400,
            (Stage::Method, _) => 405,
        }
    }
}

/// A quality value in thousandths.
fn permille(text: &str) -> u16 {
    let quality: f32 = text.trim().parse().unwrap_or(0.0);
    // In range: clamped to 0..=1000. Not a number becomes 0.
    (quality.clamp(0.0, 1.0) * 1000.0) as u16
}

/// The requests of one HTTP request.
#[derive(Debug)]
pub struct Intake {
    /// How to answer.
    pub media: Media,
    /// The requests; each that is malformed has its response already.
    pub requests: Requests,
}

/// One request, or a batch.
#[derive(Debug)]
pub enum Requests {
    /// One.
    One(Box<Request>),
    /// An array, answered by an array in the same order.
    Batch(Vec<Result<Request, Response>>),
}

/// What goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The value for `Content-Type`.
    pub content_type: &'static str,
    /// The value for `Allow`, with 405.
    pub allow: Option<&'static str>,
    /// The body.
    pub body: Vec<u8>,
}

/// Reads the requests of an HTTP request.
///
/// # Errors
/// The answer, when there is no request to plan: 400, 405, 406 or 415.
pub fn parse(head: &Head<'_>, body: &[u8], limits: &Limits) -> Result<Intake, Answer> {
    let Some(media) = Media::negotiate(head.accept) else {
        let text = "Accept must allow application/graphql-response+json or application/json.";
        return Err(refuse(
            Media::GraphQl,
            406,
            Error::new("NOT_ACCEPTABLE", text),
        ));
    };
    let bad = |text: String| refuse(media, 400, Error::new(BAD_REQUEST, text));
    let requests = match head.method {
        "GET" => {
            let request = from_query(head.query.unwrap_or_default()).map_err(bad)?;
            Requests::One(Box::new(request))
        }
        "POST" => {
            if !is_json(head.content_type) {
                let text = "Content-Type must be application/json in UTF-8.";
                return Err(refuse(
                    media,
                    415,
                    Error::new("UNSUPPORTED_MEDIA_TYPE", text),
                ));
            }
            from_body(body, media, limits)?
        }
        _ => {
            let text = "GraphQL is served by GET and POST.";
            let mut answer = refuse(media, 405, Error::new(METHOD_NOT_ALLOWED, text));
            answer.allow = Some("GET, POST");
            return Err(answer);
        }
    };
    Ok(Intake { media, requests })
}

/// The answer to a single request.
#[must_use]
pub fn answer(media: Media, response: &Response) -> Answer {
    let mut body = Vec::new();
    response.write(&mut body);
    Answer {
        status: media.status(response.stage),
        content_type: media.content_type(),
        allow: (response.stage == Stage::Method).then_some("POST"),
        body,
    }
}

/// The answer to a batch: the responses in the order of the requests.
#[must_use]
pub fn answer_batch(media: Media, responses: &[Response]) -> Answer {
    let mut body = vec![b'['];
    for (i, response) in responses.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        response.write(&mut body);
    }
    body.push(b']');
    Answer {
        status: 200,
        content_type: media.content_type(),
        allow: None,
        body,
    }
}

/// The answer to a request that failed as a whole, with the status that the failure's cause has.
#[must_use]
pub fn failure(accept: Option<&str>, failure: &mcp::Failure, request_id: &str) -> Answer {
    let media = Media::negotiate(accept).unwrap_or(Media::GraphQl);
    let mut answer = answer(media, &Response::failed(failure, request_id));
    answer.status = failure.cause.http_status();
    answer
}

fn refuse(media: Media, status: u16, error: Error) -> Answer {
    let mut answer = answer(media, &Response::refused(Stage::Malformed, vec![error]));
    answer.status = status;
    answer
}

fn is_json(content_type: Option<&str>) -> bool {
    let mut parts = content_type.unwrap_or_default().split(';').map(str::trim);
    let json = parts
        .next()
        .is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    json && parts.all(|part| match part.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            let value = value.trim().trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
        }
        _ => true,
    })
}

/// A request as JSON has it. Members that we do not know are left to others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    query: Option<String>,
    operation_name: Option<String>,
    #[serde(default)]
    variables: Variables,
    extensions: Option<BTreeMap<String, IgnoredAny>>,
}

impl Wire {
    fn parse(raw: &str) -> Result<Wire, String> {
        // Serde takes an array for a struct; GraphQL does not.
        if !raw.trim_start().starts_with('{') {
            return Err("A request is a JSON object.".to_owned());
        }
        serde_json::from_str(raw).map_err(|error| format!("Not a GraphQL request: {error}."))
    }

    fn check(self) -> Result<Request, Error> {
        match self.query {
            Some(query) => Ok(Request {
                query,
                operation_name: self.operation_name.filter(|name| !name.is_empty()),
                variables: self.variables,
                queries_only: false,
            }),
            None if self
                .extensions
                .is_some_and(|found| found.contains_key("persistedQuery")) =>
            {
                Err(Error::new(PERSISTED_QUERY, "PersistedQueryNotSupported"))
            }
            None => Err(Error::new(
                BAD_REQUEST,
                "A request needs \"query\", a string.",
            )),
        }
    }
}

fn from_body(body: &[u8], media: Media, limits: &Limits) -> Result<Requests, Answer> {
    let bad = |text: String| refuse(media, 400, Error::new(BAD_REQUEST, text));
    let malformed = |error: Error| answer(media, &Response::refused(Stage::Malformed, vec![error]));
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(bad("The body is not UTF-8.".to_owned()));
    };
    if !text.trim_start().starts_with('[') {
        let request = Wire::parse(text).map_err(bad)?.check().map_err(malformed)?;
        return Ok(Requests::One(Box::new(request)));
    }
    let batch: Vec<&RawValue> = serde_json::from_str(text)
        .map_err(|error| bad(format!("The body is not JSON: {error}.")))?;
    if batch.is_empty() || batch.len() > limits.batch_max {
        return Err(bad(format!(
            "A batch has 1 to {} requests.",
            limits.batch_max
        )));
    }
    let requests = batch
        .into_iter()
        .map(|raw| {
            Wire::parse(raw.get())
                .map_err(|text| Error::new(BAD_REQUEST, text))
                .and_then(Wire::check)
                .map_err(|error| Response::refused(Stage::Malformed, vec![error]))
        })
        .collect();
    Ok(Requests::Batch(requests))
}

fn from_query(query: &str) -> Result<Request, String> {
    let mut request = Request {
        queries_only: true,
        ..Request::default()
    };
    let mut found = false;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = || decode(value).ok_or_else(|| format!("The parameter {name:?} is not UTF-8."));
        match name {
            "query" => {
                request.query = value()?.into_owned();
                found = true;
            }
            "operationName" => {
                request.operation_name = Some(value()?.into_owned()).filter(|n| !n.is_empty());
            }
            "variables" => {
                let value = value()?;
                if !value.is_empty() {
                    request.variables = serde_json::from_str(&value)
                        .map_err(|error| format!("\"variables\" is no JSON object: {error}."))?;
                }
            }
            _ => {}
        }
    }
    if found {
        Ok(request)
    } else {
        Err("A request needs the parameter \"query\".".to_owned())
    }
}

/// Decodes `application/x-www-form-urlencoded`. An escape that is none stays as it is.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = bytes
            .get(at + 1..at + 3)
            .filter(|_| byte == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (escaped, byte) {
            (Some(escaped), _) => {
                out.push(escaped);
                at += 3;
            }
            (None, b'+') => {
                out.push(b' ');
                at += 1;
            }
            (None, byte) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post<'a>(content_type: &'a str, accept: Option<&'a str>) -> Head<'a> {
        Head {
            method: "POST",
            query: None,
            content_type: Some(content_type),
            accept,
        }
    }

    #[test]
    fn accept_chooses_the_media_type() {
        for (accept, media) in [
            (None, Some(Media::Unnamed)),
            (Some(""), Some(Media::Unnamed)),
            (Some("*/*"), Some(Media::Unnamed)),
            (Some("application/json"), Some(Media::Json)),
            (
                Some("application/graphql-response+json"),
                Some(Media::GraphQl),
            ),
            (
                Some("application/graphql-response+json, application/json;q=0.9"),
                Some(Media::GraphQl),
            ),
            (
                Some("application/json;q=0.5, application/graphql-response+json"),
                Some(Media::GraphQl),
            ),
            (
                Some("text/html, Application/JSON; charset=utf-8, */*;q=0.1"),
                Some(Media::Json),
            ),
            (Some("text/html"), None),
            (Some("application/json;q=0"), None),
            (Some("application/json;q=NaN"), None),
        ] {
            assert_eq!(Media::negotiate(accept), media, "{accept:?}");
        }
    }

    #[test]
    fn bodies_that_are_no_request_are_refused() {
        let json = "application/json";
        for (head, body, status) in [
            (post(json, None), "", 400),
            (post(json, Some(json)), "{ \"not a JSON", 400),
            (post(json, None), "{\"qeury\":\"{a}\"}", 400),
            (post(json, None), "{\"query\":{\"a\":1}}", 400),
            (post(json, None), "{\"query\":0}", 400),
            (
                post(json, None),
                "{\"query\":\"{a}\",\"operationName\":0}",
                400,
            ),
            (
                post(json, None),
                "{\"query\":\"{a}\",\"variables\":\"x\"}",
                400,
            ),
            (
                post(json, None),
                "{\"query\":\"{a}\",\"variables\":[\"x\"]}",
                400,
            ),
            (
                post(json, None),
                "{\"query\":\"{a}\",\"extensions\":[\"x\"]}",
                400,
            ),
            (
                post(json, None),
                "{\"query\":\"{a}\",\"extensions\":\"x\"}",
                400,
            ),
            (post(json, None), "[]", 400),
            (post(json, None), "[1", 400),
            (post(json, None), "7", 400),
            (post("text/plain", None), "{\"query\":\"{a}\"}", 415),
            (
                post("application/json; charset=latin1", None),
                "{\"query\":\"{a}\"}",
                415,
            ),
            (post(json, Some("text/html")), "{\"query\":\"{a}\"}", 406),
            (
                Head {
                    method: "GET",
                    query: Some("q={a}"),
                    ..Head::default()
                },
                "",
                400,
            ),
            (
                Head {
                    method: "GET",
                    query: Some("query={a}&variables=[1]"),
                    ..Head::default()
                },
                "",
                400,
            ),
            (
                Head {
                    method: "PUT",
                    ..Head::default()
                },
                "",
                405,
            ),
        ] {
            let answer = parse(&head, body.as_bytes(), &Limits::default()).unwrap_err();
            assert_eq!(answer.status, status, "{head:?} {body}");
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert!(body["errors"][0]["message"].is_string() && body.get("data").is_none());
        }
    }

    #[test]
    fn requests_are_read() {
        let limits = Limits::default();
        let body = r#"{"query":"{a}","operationName":null,"variables":null,"extensions":{"x":1},"more":1}"#;
        let Requests::One(one) = parse(
            &post("application/json; charset=utf-8", None),
            body.as_bytes(),
            &limits,
        )
        .unwrap()
        .requests
        else {
            panic!("one request");
        };
        assert_eq!(
            (one.query.as_str(), one.operation_name, one.queries_only),
            ("{a}", None, false)
        );

        let head = Head {
            method: "GET",
            query: Some(
                "query=query+Q(%24a%3AInt)%7Ba%7D&operationName=Q&variables=%7B%22a%22%3A1%7D",
            ),
            ..Head::default()
        };
        let Requests::One(one) = parse(&head, b"", &limits).unwrap().requests else {
            panic!("one request");
        };
        assert_eq!(one.query, "query Q($a:Int){a}");
        assert_eq!(one.operation_name.as_deref(), Some("Q"));
        assert_eq!(one.variables["a"], async_graphql::Value::from(1));
        assert!(one.queries_only);

        let Requests::Batch(batch) = parse(
            &post("application/json", None),
            br#"[{"query":"{a}"},5,{}]"#,
            &limits,
        )
        .unwrap()
        .requests
        else {
            panic!("a batch");
        };
        assert_eq!(
            batch.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, false, false]
        );
        let many = format!("[{}]", vec!["{}"; limits.batch_max + 1].join(","));
        assert!(parse(&post("application/json", None), many.as_bytes(), &limits).is_err());
    }
}
