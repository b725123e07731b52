//! JSON-RPC 2.0 messages, borrowed from the bytes they came in.
//!
//! Ids are kept as sent, byte for byte: strings, huge numbers and fractions go back as they came.
//! A message that cannot be served still tells its id where that could be read ([`Refused`]), since the
//! specification wants it in the answer.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::failure::{Cause, Failure};

/// Longest id that is taken, in bytes.
pub const ID_BYTES_MAX: usize = 1024;

/// Most entries of a batch.
pub const BATCH_MAX: usize = 128;

/// A request's id, as sent: a JSON string, number or null.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Id(Box<RawValue>);

impl Id {
    /// An id of our own.
    #[must_use]
    pub fn from_number(number: u64) -> Id {
        Id(serde_json::value::to_raw_value(&number).expect("a number always serialises"))
    }

    /// An id of our own that tells whose it is.
    #[must_use]
    pub fn from_text(text: &str) -> Id {
        Id(serde_json::value::to_raw_value(text).expect("a string always serialises"))
    }

    /// The text of an id that is a string.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        serde_json::from_str(self.as_json()).ok()
    }

    /// The id as raw JSON.
    #[must_use]
    pub fn as_raw(&self) -> &RawValue {
        &self.0
    }

    /// The id's JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// Whether MCP takes it: a string or an integer. JSON-RPC allows more.
    #[must_use]
    pub fn is_mcp(&self) -> bool {
        let text = self.as_json();
        text.starts_with('"') || text.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    }

    /// Reads an id or a progress token; `None` if it is of another type or longer than
    /// [`ID_BYTES_MAX`].
    #[must_use]
    pub fn parse(raw: &RawValue) -> Option<Id> {
        let text = raw.get();
        let fits = text.len() <= ID_BYTES_MAX
            && (text == "null"
                || text.starts_with(['"', '-'])
                || text.starts_with(|c: char| c.is_ascii_digit()));
        fits.then(|| Id(raw.to_owned()))
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.as_json() == other.as_json()
    }
}

/// One message.
#[derive(Debug)]
pub enum Message<'a> {
    /// Wants an answer.
    Request {
        /// To be sent back as it is.
        id: Id,
        /// The method's name.
        method: Cow<'a, str>,
        /// The parameters: an object or an array.
        params: Option<&'a RawValue>,
    },
    /// Wants none.
    Notification {
        /// The method's name.
        method: Cow<'a, str>,
        /// The parameters: an object or an array.
        params: Option<&'a RawValue>,
    },
    /// Answers a request of ours.
    Response {
        /// The request's id.
        id: Id,
        /// The result or the error object.
        result: Result<&'a RawValue, &'a RawValue>,
    },
}

/// A message that cannot be served, with its id where that could be read.
#[derive(Debug)]
pub struct Refused {
    /// The id to answer with; `None` is JSON `null`.
    pub id: Option<Id>,
    /// Why.
    pub failure: Failure,
}

/// What one body holds.
#[derive(Debug)]
pub enum Body<'a> {
    /// One message.
    One(Result<Message<'a>, Refused>),
    /// An array of messages, in order; never empty, at most [`BATCH_MAX`].
    Batch(Vec<Result<Message<'a>, Refused>>),
}

/// A message as written; every member may be of any type.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Tells `null` from nothing, which `Option` alone does not.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

/// Reads one message, or a batch of them.
///
/// # Errors
/// The body as a whole is refused when it is not JSON, or an empty or too long array. An entry of a
/// batch is refused alone.
pub fn read(body: &[u8]) -> Result<Body<'_>, Refused> {
    match body.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[') => read_batch(body),
        _ => read_one(body).map(|wire| Body::One(wire.into_message())),
    }
}

fn read_one(body: &[u8]) -> Result<Wire<'_>, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused {
        id: None,
        failure: refusal(&error),
    })
}

fn read_batch(body: &[u8]) -> Result<Body<'_>, Refused> {
    let whole = |failure| Refused { id: None, failure };
    let entries: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|error| whole(refusal(&error)))?;
    if entries.is_empty() {
        return Err(whole(Failure::say(
            Cause::InvalidRequest,
            "a batch needs at least one entry",
        )));
    }
    if entries.len() > BATCH_MAX {
        return Err(whole(Failure::say(
            Cause::InvalidRequest,
            format!("a batch takes at most {BATCH_MAX} entries"),
        )));
    }
    Ok(Body::Batch(
        entries
            .iter()
            .map(|raw| read_one(raw.get().as_bytes()).and_then(Wire::into_message))
            .collect(),
    ))
}

/// Broken JSON is a parse error; JSON of another shape is an invalid request.
fn refusal(error: &serde_json::Error) -> Failure {
    if error.is_data() {
        Failure::new(Cause::InvalidRequest)
    } else {
        Failure::say(
            Cause::Parse,
            format!(
                "the body is not JSON (line {}, column {})",
                error.line(),
                error.column()
            ),
        )
    }
}

impl<'a> Wire<'a> {
    fn into_message(self) -> Result<Message<'a>, Refused> {
        let id = self.id.and_then(Id::parse);
        let refuse = |id: Option<Id>, text: &str| Refused {
            id,
            failure: Failure::say(Cause::InvalidRequest, text),
        };
        if self.id.is_some() && id.is_none() {
            return Err(refuse(None, "id must be a string, a number or null"));
        }
        if self.jsonrpc.map(RawValue::get) != Some(r#""2.0""#) {
            return Err(refuse(id, r#"jsonrpc must be "2.0""#));
        }
        if let Some(raw) = self.method {
            let Ok(method) = serde_json::from_str::<String>(raw.get()) else {
                return Err(refuse(id, "method must be a string"));
            };
            if self
                .params
                .is_some_and(|p| !p.get().starts_with(['{', '[']))
            {
                return Err(refuse(id, "params must be an object or an array"));
            }
            let (method, params) = (Cow::Owned(method), self.params);
            return Ok(match id {
                Some(id) => Message::Request { id, method, params },
                None => Message::Notification { method, params },
            });
        }
        match (id, self.result, self.error) {
            (Some(id), Some(result), None) => Ok(Message::Response {
                id,
                result: Ok(result),
            }),
            (Some(id), None, Some(error)) => Ok(Message::Response {
                id,
                result: Err(error),
            }),
            (id, _, _) => Err(refuse(id, "method is missing")),
        }
    }
}

/// Writes a request in one piece.
#[must_use]
pub fn write_request(id: Option<&Id>, method: &str, params: &RawValue) -> Vec<u8> {
    write_asked(id, method, Some(params))
}

/// Writes a notification in one piece.
#[must_use]
pub fn write_notification(method: &str, params: Option<&RawValue>) -> Vec<u8> {
    write_asked(None, method, params)
}

/// Writes a request, or without id a notification, that may have no parameters.
pub(crate) fn write_asked(id: Option<&Id>, method: &str, params: Option<&RawValue>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Asked<'a> {
        jsonrpc: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a Id>,
        method: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        params: Option<&'a RawValue>,
    }
    serde_json::to_vec(&Asked {
        jsonrpc: "2.0",
        id,
        method,
        params,
    })
    .expect("strings and raw values always serialise")
}

/// Writes a successful response in one piece.
#[must_use]
pub fn write_result(id: &Id, result: &RawValue) -> Vec<u8> {
    #[derive(Serialize)]
    struct Response<'a> {
        jsonrpc: &'static str,
        id: &'a Id,
        result: &'a RawValue,
    }
    // Long lists are written often: in one allocation.
    let envelope = r#"{"jsonrpc":"2.0","id":,"result":}"#.len() + id.as_json().len();
    let mut text = Vec::with_capacity(envelope + result.get().len());
    let response = Response {
        jsonrpc: "2.0",
        id,
        result,
    };
    serde_json::to_writer(&mut text, &response).expect("strings and raw values always serialise");
    text
}

/// Writes an error response whose error object came from elsewhere.
#[must_use]
pub fn write_error(id: &Id, error: &RawValue) -> Vec<u8> {
    #[derive(Serialize)]
    struct Response<'a> {
        jsonrpc: &'static str,
        id: &'a Id,
        error: &'a RawValue,
    }
    serde_json::to_vec(&Response {
        jsonrpc: "2.0",
        id,
        error,
    })
    .expect("strings and raw values always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One line a message: what it is, or the code and id it is refused with.
    fn describe(message: &Result<Message<'_>, Refused>) -> String {
        match message {
            Ok(Message::Request { id, method, .. }) => format!("request {} {method}", id.as_json()),
            Ok(Message::Notification { method, .. }) => format!("notification {method}"),
            Ok(Message::Response { id, .. }) => format!("response {}", id.as_json()),
            Err(refused) => describe_refused(refused),
        }
    }

    fn describe_refused(refused: &Refused) -> String {
        let id = refused.id.as_ref().map_or("null", Id::as_json);
        format!("{} {id}", refused.failure.cause.code())
    }

    fn check(body: &str, expected: &[&str]) {
        let got = match read(body.as_bytes()) {
            Ok(Body::One(one)) => vec![describe(&one)],
            Ok(Body::Batch(entries)) => entries.iter().map(describe).collect(),
            Err(refused) => vec![describe_refused(&refused)],
        };
        assert_eq!(got, expected, "{body}");
    }

    #[test]
    fn the_examples_of_json_rpc_2() {
        check(
            r#"{"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":1}"#,
            &["request 1 subtract"],
        );
        check(
            r#"{"jsonrpc":"2.0","method":"subtract","params":{"a":1},"id":3}"#,
            &["request 3 subtract"],
        );
        check(
            r#"{"jsonrpc":"2.0","method":"update","params":[1,2]}"#,
            &["notification update"],
        );
        check(
            r#"{"jsonrpc":"2.0","method":"foobar, "params":"bar","baz]"#,
            &["-32700 null"],
        );
        check(
            r#"{"jsonrpc":"2.0","method":1,"params":"bar"}"#,
            &["-32600 null"],
        );
        check(
            r#"[{"jsonrpc":"2.0","method":"sum","id":"1"},{"jsonrpc":"2.0","method"]"#,
            &["-32700 null"],
        );
        check("[]", &["-32600 null"]);
        check("[1]", &["-32600 null"]);
        check("[1,2,3]", &["-32600 null", "-32600 null", "-32600 null"]);
        check(
            r#"[{"jsonrpc":"2.0","method":"sum","params":[1],"id":"1"},{"jsonrpc":"2.0","method":"notify"},{"foo":"boo"},{"jsonrpc":"2.0","method":"get","id":"9"}]"#,
            &[
                r#"request "1" sum"#,
                "notification notify",
                "-32600 null",
                r#"request "9" get"#,
            ],
        );
    }

    #[test]
    fn ids_go_back_as_they_came() {
        for id in [
            "0",
            "-7",
            "12345678901234567890123",
            "1.50",
            "1e3",
            r#""""#,
            r#""\u00e9\"""#,
            "null",
        ] {
            check(
                &format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#),
                &[&format!("request {id} m")],
            );
        }
        for id in ["true", "{}", "[1]"] {
            check(
                &format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#),
                &["-32600 null"],
            );
        }
    }

    #[test]
    fn what_is_no_request_says_so_with_its_id() {
        check(r#"{"jsonrpc":"1.0","id":4,"method":"m"}"#, &["-32600 4"]);
        check(r#"{"id":4,"method":"m"}"#, &["-32600 4"]);
        check(r#"{"jsonrpc":"2.0","id":4}"#, &["-32600 4"]);
        check(
            r#"{"jsonrpc":"2.0","id":4,"method":"m","params":5}"#,
            &["-32600 4"],
        );
        check(
            r#"{"jsonrpc":"2.0","id":4,"id":5,"method":"m"}"#,
            &["-32600 null"],
        );
        check(r#"{"jsonrpc":"2.0","id":4,"result":{}}"#, &["response 4"]);
        check("", &["-32700 null"]);
        check("nul", &["-32700 null"]);
        check("\"text\"", &["-32600 null"]);
    }

    #[test]
    fn a_batch_has_a_bound() {
        let entry = r#"{"jsonrpc":"2.0","method":"m"}"#;
        let long = format!("[{}]", vec![entry; BATCH_MAX + 1].join(","));
        check(&long, &["-32600 null"]);
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{}{}}}"#,
            "[".repeat(200_000),
            "]".repeat(200_000)
        );
        check(&deep, &["request 1 m"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body);
        }

        #[test]
        fn a_written_request_reads_back(id in any::<u64>(), method in "[a-z/]{1,20}") {
            let id = Id::from_number(id);
            let params: &RawValue = serde_json::from_str(r#"{"a": [1, 2.50]}"#).unwrap();
            let bytes = write_request(Some(&id), &method, params);
            match read(&bytes).unwrap() {
                Body::One(Ok(Message::Request { id: i, method: m, params: p })) => {
                    prop_assert_eq!(i, id);
                    prop_assert_eq!(m, method);
                    prop_assert_eq!(p.unwrap().get(), params.get());
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
