//! One message from a server that is asked with ids of our own: an answer to us, a question, a notice, or nothing that can be
//! used.

use serde_json::value::RawValue;

use crate::{
    Id, Message,
    envelope::{self, Body},
    lines::Line,
};

/// What a server's message says.
#[derive(Debug)]
pub enum Incoming {
    /// It answers our request, with a result or an error object.
    Answer(u64, Result<Box<RawValue>, Box<RawValue>>),
    /// It asks us.
    Question {
        /// To be sent back as it is.
        id: Id,
        /// The method.
        method: String,
        /// The parameters.
        params: Option<Box<RawValue>>,
    },
    /// It tells us.
    Notice {
        /// The method.
        method: String,
        /// The parameters.
        params: Option<Box<RawValue>>,
    },
    /// It answers our request with more than we take.
    TooLong(u64),
    /// It is not MCP.
    Garbage {
        /// Why.
        reason: &'static str,
    },
    /// It is too long, and whom it answers cannot be told.
    Lost,
}

/// Reads one line.
pub fn decode(line: &Line<'_>) -> Incoming {
    match line {
        Line::Whole(text) => decode_whole(text),
        Line::TooLong { head, tail } => id_at_head(head)
            .or_else(|| id_at_tail(tail))
            .map_or(Incoming::Lost, Incoming::TooLong),
    }
}

fn decode_whole(text: &[u8]) -> Incoming {
    match envelope::read(text) {
        Ok(Body::One(Ok(Message::Response { id, result }))) => match id.as_json().parse() {
            Ok(id) => {
                Incoming::Answer(id, result.map(ToOwned::to_owned).map_err(ToOwned::to_owned))
            }
            Err(_) => Incoming::Garbage {
                reason: "answers an id that was never sent",
            },
        },
        Ok(Body::One(Ok(Message::Request { id, method, params }))) => Incoming::Question {
            id,
            method: method.into_owned(),
            params: params.map(ToOwned::to_owned),
        },
        Ok(Body::One(Ok(Message::Notification { method, params }))) => Incoming::Notice {
            method: method.into_owned(),
            params: params.map(ToOwned::to_owned),
        },
        Ok(Body::Batch(_)) => Incoming::Garbage {
            reason: "is a batch",
        },
        Ok(Body::One(Err(_))) | Err(_) => Incoming::Garbage {
            reason: "is no JSON-RPC message",
        },
    }
}

/// Finds the id where it comes first: `{"jsonrpc":"2.0","id":7,` or `{"id":7,`.
fn id_at_head(head: &[u8]) -> Option<u64> {
    let text = compact(head);
    let rest = text.strip_prefix('{')?;
    let rest = rest.strip_prefix(r#""jsonrpc":"2.0","#).unwrap_or(rest);
    let (digits, _) = rest.strip_prefix(r#""id":"#)?.split_once(',')?;
    digits.parse().ok()
}

/// Finds the id where it comes last: `"id":7}` or `"id":7,"jsonrpc":"2.0"}`. The closing brace is the message's own, so what
/// stands before it cannot be part of a result.
fn id_at_tail(tail: &[u8]) -> Option<u64> {
    let text = compact(tail);
    let rest = text.strip_suffix('}')?;
    let rest = rest.strip_suffix(r#","jsonrpc":"2.0""#).unwrap_or(rest);
    let (_, digits) = rest.rsplit_once(r#","id":"#)?;
    digits.parse().ok()
}

fn compact(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        for (line, want) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, "Answer(7, Ok"),
            (
                r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}"#,
                "Answer(7, Err",
            ),
            (r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, "Question"),
            (r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, "Notice"),
            (r#"{"jsonrpc":"2.0","id":"7","result":{}}"#, "Garbage"),
            ("[]", "Garbage"),
            ("listening on port 3000", "Garbage"),
            ("\u{1}\u{2}", "Garbage"),
        ] {
            let got = format!("{:?}", decode(&Line::Whole(line.as_bytes())));
            assert!(got.starts_with(want), "{line}: {got}");
        }
    }

    #[test]
    fn the_call_that_a_long_line_answers_is_found_at_either_end() {
        for (head, tail, want) in [
            (
                r#"{"jsonrpc":"2.0","id":12,"result":{"#,
                "aaa\"}}",
                "TooLong(12)",
            ),
            (r#"{"id": 3, "result""#, "}}", "TooLong(3)"),
            (
                r#"{"result":{"a":"#,
                r#"x"},"jsonrpc":"2.0","id":5}"#,
                "TooLong(5)",
            ),
            (
                r#"{"result":{"a":"#,
                r#"x"},"id":5,"jsonrpc":"2.0"}"#,
                "TooLong(5)",
            ),
            (r#"{"result":{"a":"#, r#"x","id":5}}"#, "Lost"),
            ("{\"result\":\"", r#","id":"5"}"#, "Lost"),
            ("aaaa", "aaaa", "Lost"),
        ] {
            let line = Line::TooLong {
                head: head.as_bytes(),
                tail: tail.as_bytes(),
            };
            assert_eq!(format!("{:?}", decode(&line)), want, "{head} … {tail}");
        }
    }
}
