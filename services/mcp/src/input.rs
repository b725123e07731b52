//! Multi-round-trip requests: a result that asks for input, and the retry that brings it.
//!
//! Of 2026-07-28, basic/patterns/mrtr: a server answers `input_required` with `inputRequests` (a map of
//! what it wants to know) and an opaque `requestState`; the client asks again with `inputResponses` and
//! the same state.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::capability::{ClientCapabilities, InputKind};
use crate::failure::{Cause, Failure};
use crate::members::{Members, is_object, raw_of};
use crate::method::Method;

/// Most inputs that one result asks for, and most responses that one retry brings.
pub const INPUTS_MAX: usize = 32;
/// Longest `requestState`, in bytes.
pub const STATE_BYTES_MAX: usize = 256 << 10;

/// What a result is, by its `resultType`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultType {
    /// Final. Also what a result of the older era is, which says nothing.
    Complete,
    /// Asks for input: [`InputRequired`].
    InputRequired,
    /// Stands for a task of the tasks extension.
    Task,
    /// An extension's.
    Other(String),
}

impl ResultType {
    /// Reads `resultType`.
    ///
    /// # Errors
    /// [`Cause::UpstreamInvalid`] when the result is no object or its type no string.
    pub fn of(result: &RawValue) -> Result<ResultType, Failure> {
        let invalid = || Failure::new(Cause::UpstreamInvalid);
        let members = Members::parse(result).map_err(|_| invalid())?;
        if members.get("resultType").is_none() {
            return Ok(ResultType::Complete);
        }
        let text = members.get_str("resultType").ok_or_else(invalid)?;
        Ok(match text.as_str() {
            "complete" => ResultType::Complete,
            "input_required" => ResultType::InputRequired,
            "task" => ResultType::Task,
            _ => ResultType::Other(text),
        })
    }
}

/// One input that a server wants.
#[derive(Debug, Clone)]
pub struct InputRequest {
    /// The server's name for it; the response comes back under the same.
    pub key: String,
    /// `elicitation/create`, `sampling/createMessage` or `roots/list`.
    pub method: Method,
    /// What it wants to know.
    pub params: Option<Box<RawValue>>,
}

impl InputRequest {
    /// Reads a request that an older server sends, or an entry of `inputRequests`; `None` if this is
    /// nothing that a client can be asked.
    #[must_use]
    pub fn new(key: String, method: &str, params: Option<&RawValue>) -> Option<InputRequest> {
        let method = Method::parse(method);
        let request = InputRequest {
            key,
            method,
            params: params.map(RawValue::to_owned),
        };
        request.kind_of().map(|_| request)
    }

    /// What the client must be able to do.
    #[must_use]
    pub fn kind(&self) -> InputKind {
        self.kind_of().unwrap_or(InputKind::Form)
    }

    fn kind_of(&self) -> Option<InputKind> {
        let params = self
            .params
            .as_deref()
            .and_then(|raw| Members::parse(raw).ok());
        let member = |name| params.as_ref().and_then(|p| p.get_str(name));
        match self.method {
            Method::RootsList => Some(InputKind::Roots),
            Method::CreateMessage => {
                let tools = params.as_ref().is_some_and(|p| p.get("tools").is_some());
                Some(if tools {
                    InputKind::SamplingWithTools
                } else {
                    InputKind::Sampling
                })
            }
            Method::Elicit => match member("mode").as_deref() {
                Some("url") => Some(InputKind::Url),
                _ => Some(InputKind::Form),
            },
            _ => None,
        }
    }

    /// Whether `response` has the form of an answer to this.
    #[must_use]
    pub fn is_answered_by(&self, response: &RawValue) -> bool {
        let Ok(members) = Members::parse(response) else {
            return false;
        };
        match self.method {
            Method::RootsList => members
                .get("roots")
                .is_some_and(|r| r.get().starts_with('[')),
            Method::CreateMessage => {
                members.get("content").is_some()
                    && members.get_str("role").is_some()
                    && members.get_str("model").is_some()
            }
            _ => match members.get_str("action").as_deref() {
                Some("accept") => members.get("content").is_none_or(is_object),
                Some("decline" | "cancel") => true,
                _ => false,
            },
        }
    }
}

/// A result that asks for input.
#[derive(Debug, Clone, Default)]
pub struct InputRequired {
    /// What is wanted, in the server's order; may be empty when there is a state.
    pub requests: Vec<InputRequest>,
    /// To be sent back exactly.
    pub state: Option<String>,
}

#[derive(Deserialize)]
struct Asked<'a> {
    method: String,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

impl InputRequired {
    /// Reads a result whose [`ResultType`] is `InputRequired`.
    ///
    /// # Errors
    /// [`Cause::UpstreamInvalid`] when it asks for nothing, for too much, or for what no client can be
    /// asked.
    pub fn read(result: &RawValue) -> Result<InputRequired, Failure> {
        let invalid = || Failure::new(Cause::UpstreamInvalid);
        let members = Members::parse(result).map_err(|_| invalid())?;
        let state = match members.get("requestState") {
            None => None,
            Some(_) => Some(members.get_str("requestState").ok_or_else(invalid)?),
        };
        let mut requests = Vec::new();
        if let Some(raw) = members.get("inputRequests") {
            let entries = Members::parse(raw).map_err(|_| invalid())?;
            if entries.len() > INPUTS_MAX {
                return Err(invalid());
            }
            for (key, entry) in entries.iter() {
                let asked: Asked<'_> = is_object(entry)
                    .then(|| serde_json::from_str(entry.get()).ok())
                    .flatten()
                    .ok_or_else(invalid)?;
                let request = InputRequest::new(key.to_owned(), &asked.method, asked.params);
                requests.push(request.ok_or_else(invalid)?);
            }
        }
        let too_long = state.as_ref().is_some_and(|s| s.len() > STATE_BYTES_MAX);
        if too_long || (requests.is_empty() && state.is_none()) {
            return Err(invalid());
        }
        Ok(InputRequired { requests, state })
    }

    /// Writes the result.
    #[must_use]
    pub fn write(&self) -> Box<RawValue> {
        let mut result = Members::default();
        result.push("resultType", raw_of("input_required"));
        if !self.requests.is_empty() {
            let mut entries = Members::default();
            for request in &self.requests {
                let mut entry = Members::default();
                entry.push("method", raw_of(request.method.as_str()));
                if let Some(params) = &request.params {
                    entry.push("params", params.clone());
                }
                entries.push(request.key.clone(), entry.to_raw());
            }
            result.push("inputRequests", entries.to_raw());
        }
        if let Some(state) = &self.state {
            result.push("requestState", raw_of(state));
        }
        result.to_raw()
    }

    /// Checks that the client declared all that it would be asked for.
    ///
    /// # Errors
    /// [`Cause::MissingCapability`].
    pub fn check(&self, client: &ClientCapabilities) -> Result<(), Failure> {
        client.demand(self.requests.iter().map(InputRequest::kind))
    }
}

/// What a retry brings, beside the parameters of the first request.
#[derive(Debug, Clone, Default)]
pub struct Retry {
    /// `inputResponses`, in the client's order.
    pub responses: Vec<(String, Box<RawValue>)>,
    /// `requestState`, to be given back exactly.
    pub state: Option<String>,
}

impl Retry {
    /// Reads what a request brings; both are empty in a first request.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] when a member is of the wrong type or too large.
    pub fn read(params: &Members<'_>) -> Result<Retry, Failure> {
        let invalid = |text: &str| Failure::say(Cause::InvalidParams, text);
        let state = match params.get("requestState") {
            None => None,
            Some(_) => Some(
                params
                    .get_str("requestState")
                    .filter(|state| state.len() <= STATE_BYTES_MAX)
                    .ok_or_else(|| invalid("requestState must be a string that we gave"))?,
            ),
        };
        let mut responses = Vec::new();
        if let Some(raw) = params.get("inputResponses") {
            let entries = Members::parse(raw)
                .ok()
                .filter(|entries| entries.len() <= INPUTS_MAX)
                .ok_or_else(|| invalid("inputResponses must be an object of few members"))?;
            for (key, response) in entries.iter() {
                if !is_object(response) {
                    return Err(invalid("each of inputResponses must be an object"));
                }
                responses.push((key.to_owned(), response.to_owned()));
            }
        }
        Ok(Retry { responses, state })
    }

    /// The response under `key`.
    #[must_use]
    pub fn response(&self, key: &str) -> Option<&RawValue> {
        self.responses
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, raw)| &**raw)
    }

    /// Sets this retry's members in the parameters of the first request, in place of any earlier ones.
    pub fn put(&self, params: &mut Members<'_>) {
        params.remove("inputResponses");
        params.remove("requestState");
        if !self.responses.is_empty() {
            let mut entries = Members::default();
            for (key, response) in &self.responses {
                entries.push(key.clone(), response.clone());
            }
            params.push("inputResponses", entries.to_raw());
        }
        if let Some(state) = &self.state {
            params.push("requestState", raw_of(state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_result_that_asks_reads_and_writes_the_same() {
        for text in [
            r#"{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"?","requestedSchema":{"x":1.0}}},"b":{"method":"roots/list"}},"requestState":"s"}"#,
            r#"{"resultType":"input_required","requestState":""}"#,
            r#"{"resultType":"input_required","inputRequests":{"c":{"method":"sampling/createMessage","params":{"maxTokens":1}}}}"#,
        ] {
            assert_eq!(
                ResultType::of(&raw(text)).unwrap(),
                ResultType::InputRequired
            );
            assert_eq!(InputRequired::read(&raw(text)).unwrap().write().get(), text);
        }
    }

    #[test]
    fn what_no_client_can_be_asked_is_the_servers_fault() {
        for members in [
            "",
            r#","inputRequests":{}"#,
            r#","inputRequests":{"a":{"method":"tools/call"}}"#,
            r#","inputRequests":{"a":{}}"#,
            r#","inputRequests":{"a":["roots/list"]}"#,
            r#","inputRequests":[]"#,
            r#","requestState":7"#,
        ] {
            let text = format!(r#"{{"resultType":"input_required"{members}}}"#);
            let failure = InputRequired::read(&raw(&text)).unwrap_err();
            assert_eq!(failure.cause, Cause::UpstreamInvalid, "{text}");
        }
        for (text, expected) in [
            ("{}", Ok(ResultType::Complete)),
            (r#"{"resultType":"task"}"#, Ok(ResultType::Task)),
            (r#"{"resultType":"x"}"#, Ok(ResultType::Other("x".into()))),
            (r#"{"resultType":1}"#, Err(Cause::UpstreamInvalid)),
            ("[]", Err(Cause::UpstreamInvalid)),
        ] {
            assert_eq!(
                ResultType::of(&raw(text)).map_err(|f| f.cause),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn clients_are_asked_only_for_what_they_declared() {
        let asks = |method: &str, params: &str| {
            let request = InputRequest::new("k".into(), method, Some(&raw(params))).unwrap();
            InputRequired {
                requests: vec![request],
                state: None,
            }
        };
        let declares = |text: &str| ClientCapabilities::read(&raw(text));
        for (method, params, capabilities, fits) in [
            ("elicitation/create", "{}", r#"{"elicitation":{}}"#, true),
            (
                "elicitation/create",
                r#"{"mode":"url"}"#,
                r#"{"elicitation":{}}"#,
                false,
            ),
            (
                "elicitation/create",
                r#"{"mode":"url"}"#,
                r#"{"elicitation":{"url":{}}}"#,
                true,
            ),
            ("sampling/createMessage", "{}", r#"{"sampling":{}}"#, true),
            (
                "sampling/createMessage",
                r#"{"tools":[]}"#,
                r#"{"sampling":{}}"#,
                false,
            ),
            ("roots/list", "{}", "{}", false),
        ] {
            let checked = asks(method, params).check(&declares(capabilities));
            assert_eq!(checked.is_ok(), fits, "{method} {params} {capabilities}");
        }
    }

    #[test]
    fn a_retry_reads_back_what_it_puts() {
        let first = raw(
            r#"{"name":"t","inputResponses":{"old":{}},"requestState":"old","arguments":{"a":1.0}}"#,
        );
        let mut params = Members::parse(&first).unwrap();
        let retry = Retry {
            responses: vec![(
                "k".into(),
                raw(r#"{"action":"accept","content":{"n":1.0}}"#),
            )],
            state: Some("s\"".into()),
        };
        retry.put(&mut params);
        let text = params.to_raw();
        insta::assert_snapshot!(text.get(), @r#"{"name":"t","arguments":{"a":1.0},"inputResponses":{"k":{"action":"accept","content":{"n":1.0}}},"requestState":"s\""}"#);
        let again = Retry::read(&Members::parse(&text).unwrap()).unwrap();
        assert_eq!(again.state.as_deref(), Some("s\""));
        assert!(again.response("k").is_some());
        for bad in [
            r#"{"inputResponses":[]}"#,
            r#"{"inputResponses":{"a":1}}"#,
            r#"{"requestState":{}}"#,
        ] {
            let bad = raw(bad);
            assert!(Retry::read(&Members::parse(&bad).unwrap()).is_err());
        }
    }

    #[test]
    fn answers_have_the_form_of_their_question() {
        for (method, response, fits) in [
            (
                "elicitation/create",
                r#"{"action":"accept","content":{}}"#,
                true,
            ),
            ("elicitation/create", r#"{"action":"cancel"}"#, true),
            ("elicitation/create", r#"{"action":"maybe"}"#, false),
            (
                "elicitation/create",
                r#"{"action":"accept","content":1}"#,
                false,
            ),
            ("roots/list", r#"{"roots":[]}"#, true),
            ("roots/list", r#"{"action":"accept"}"#, false),
            (
                "sampling/createMessage",
                r#"{"role":"assistant","content":{},"model":"m"}"#,
                true,
            ),
            ("sampling/createMessage", r#"{"roots":[]}"#, false),
            ("sampling/createMessage", "[]", false),
        ] {
            let request = InputRequest::new("k".into(), method, None).unwrap();
            assert_eq!(
                request.is_answered_by(&raw(response)),
                fits,
                "{method} {response}"
            );
        }
    }
}
