//! What every piece of work knows of the request that it is done for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, header::ACCEPT_LANGUAGE};
use mcp::{
    Failure,
    capability::{ClientCapabilities, TASKS_EXTENSION},
    headers, locale,
};
use percent_encoding::percent_decode;
use serde_json::{Value, json, value::RawValue};
use telemetry::{RequestId, trace::TraceContext};
use tokio_util::sync::CancellationToken;

use super::notices::Notices;

/// The request that a piece of work is done for.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The request's ID, as in every log line and in what upstream servers receive.
    pub request_id: RequestId,
    /// Where in its trace the request is served.
    pub trace: TraceContext,
    /// When nobody waits any more.
    pub deadline: Instant,
    /// Set when nobody waits any more before that.
    pub cancelled: CancellationToken,
    /// Who asks, and what it can be asked in turn.
    pub client: Arc<Client>,
    /// Where progress and log messages go.
    pub notices: Notices,
    /// How much of this its plugin is told.
    pub telling: Telling,
}

/// How much of a call's context its plugin is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Telling {
    /// The request's ID, its trace, and the time left.
    Request,
    /// Also who calls, in which language, and with which flags.
    #[default]
    Caller,
}

impl CallContext {
    /// Tells whether nobody waits any more.
    pub fn is_over(&self) -> bool {
        self.cancelled.is_cancelled() || Instant::now() >= self.deadline
    }

    /// Returns the client, if its plugin is told of it.
    pub fn told_client(&self) -> Option<&Client> {
        (self.telling == Telling::Caller).then_some(&*self.client)
    }

    /// Returns how long somebody still waits.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Who calls, as the edge tells it, and what it can do, as it says itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Client {
    /// Who calls; empty when nobody was named.
    pub principal: String,
    /// The caller's tenant; empty when none was named.
    pub tenant: String,
    /// What the caller's token grants.
    pub scopes: Scopes,
    /// The language that the client wants, a tag of BCP 47.
    pub locale: Option<String>,
    /// The feature flags that are on for the caller.
    pub flags: Vec<String>,
    /// The client's `clientCapabilities`.
    pub capabilities: Value,
}

/// The scopes that a caller has, as the edge tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(String);

impl Scopes {
    /// Reads `Sweetmcp-Scopes`; who sends none has none.
    pub fn read(head: &HeaderMap) -> Self {
        let said = head.get(headers::SCOPES);
        let said = said.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Self(said.unwrap_or_default())
    }

    /// Tells whether one of `needed` is among them, or none is needed.
    pub fn satisfy(&self, needed: &[String]) -> bool {
        let mut granted = self.0.split(' ');
        needed.is_empty() || granted.any(|one| one == "*" || needed.iter().any(|n| n == one))
    }
}

/// Flags of one call; edges send no more.
const FLAGS_MAX: usize = 3 * 64;

/// The methods that a server may ask of a client.
const ROOTS: &str = "roots/list";
const SAMPLING: &str = "sampling/createMessage";
const ELICITATION: &str = "elicitation/create";

impl Client {
    /// Reads what the edge's headers tell of the caller. A client without an edge says only which language it wants.
    pub fn read(head: &HeaderMap, capabilities: Value) -> Self {
        let said = |name| {
            let value = head.get(name).map(HeaderValue::as_bytes);
            value.map(|value| percent_decode(value).decode_utf8_lossy().into_owned())
        };
        let wanted = head.get(headers::LOCALE).or(head.get(ACCEPT_LANGUAGE));
        let flags = head
            .get(headers::FLAGS)
            .and_then(|value| value.to_str().ok());
        Self {
            principal: said(headers::PRINCIPAL).unwrap_or_default(),
            tenant: said(headers::TENANT).unwrap_or_default(),
            scopes: Scopes::read(head),
            locale: wanted
                .and_then(|value| value.to_str().ok())
                .and_then(locale::preferred),
            flags: flags
                .into_iter()
                .flat_map(str::split_ascii_whitespace)
                .take(FLAGS_MAX)
                .map(str::to_owned)
                .collect(),
            capabilities,
        }
    }

    /// Tells whether both are the same caller.
    pub fn is_same_caller(&self, other: &Self) -> bool {
        (&self.principal, &self.tenant) == (&other.principal, &other.tenant)
    }

    /// Tells whether the client declared an extension.
    pub fn has_extension(&self, name: &str) -> bool {
        self.capabilities["extensions"][name].is_object()
    }

    /// Checks that the client declared the tasks extension.
    ///
    /// # Errors
    /// [`mcp::Cause::MissingCapability`], with what is missing.
    pub fn must_have_tasks(&self) -> Result<(), Failure> {
        let tasks = self.has_extension(TASKS_EXTENSION);
        ClientCapabilities {
            tasks,
            ..ClientCapabilities::default()
        }
        .demand_tasks()
    }

    /// Returns the capabilities that a question needs and the client did not declare, as `requiredCapabilities`; `None` if it
    /// can be asked. A method that is no question needs what nobody has.
    pub fn lacks(&self, method: &str, params: Option<&RawValue>) -> Option<Value> {
        let params: Value = params
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default();
        let has = |pointer: &str| {
            self.capabilities
                .pointer(pointer)
                .is_some_and(Value::is_object)
        };
        let (able, needed) = match method {
            ROOTS => (has("/roots"), json!({"roots": {}})),
            SAMPLING if params.get("tools").is_some() => {
                (has("/sampling/tools"), json!({"sampling": {"tools": {}}}))
            }
            SAMPLING => (has("/sampling"), json!({"sampling": {}})),
            ELICITATION if params["mode"] == "url" => {
                (has("/elicitation/url"), json!({"elicitation": {"url": {}}}))
            }
            // A client that names no mode takes forms.
            ELICITATION => (
                has("/elicitation/form") || has("/elicitation") && !has("/elicitation/url"),
                json!({"elicitation": {}}),
            ),
            _ => (false, json!({})),
        };
        (!able).then_some(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_read_from_the_head() {
        for (head, want) in [
            (&[][..], Client::default()),
            (
                &[
                    ("sweetmcp-principal", "ana%40acme.example"),
                    ("sweetmcp-tenant", "a%20b%C3%A9"),
                    ("sweetmcp-locale", "de-CH"),
                    ("accept-language", "fr"),
                    ("sweetmcp-flags", "dark_mode new.search"),
                ],
                Client {
                    principal: "ana@acme.example".to_owned(),
                    tenant: "a b\u{e9}".to_owned(),
                    locale: Some("de-CH".to_owned()),
                    flags: vec!["dark_mode".to_owned(), "new.search".to_owned()],
                    ..Client::default()
                },
            ),
            (
                &[("accept-language", "fr;q=0.5, nl")],
                Client {
                    locale: Some("nl".to_owned()),
                    ..Client::default()
                },
            ),
            (
                &[("accept-language", "../etc"), ("sweetmcp-flags", " ")],
                Client::default(),
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in head {
                map.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(Client::read(&map, Value::Null), want, "{head:?}");
        }
    }

    #[test]
    fn a_client_is_asked_only_what_it_declared() {
        for (capabilities, method, params, able) in [
            (json!({}), ROOTS, "{}", false),
            (json!({"roots": {}}), ROOTS, "{}", true),
            (json!({"roots": true}), ROOTS, "{}", false),
            (json!({"sampling": {}}), SAMPLING, "{}", true),
            (json!({"sampling": {}}), SAMPLING, r#"{"tools":[]}"#, false),
            (
                json!({"sampling": {"tools": {}}}),
                SAMPLING,
                r#"{"tools":[]}"#,
                true,
            ),
            (json!({"elicitation": {}}), ELICITATION, "{}", true),
            (
                json!({"elicitation": {}}),
                ELICITATION,
                r#"{"mode":"url"}"#,
                false,
            ),
            (
                json!({"elicitation": {"url": {}}}),
                ELICITATION,
                r#"{"mode":"form"}"#,
                false,
            ),
            (
                json!({"elicitation": {"url": {}, "form": {}}}),
                ELICITATION,
                r#"{"mode":"url"}"#,
                true,
            ),
            (json!({"elicitation": {}}), "tools/call", "{}", false),
        ] {
            let client = Client {
                capabilities: capabilities.clone(),
                ..Client::default()
            };
            let params = serde_json::from_str::<&RawValue>(params).unwrap();
            assert_eq!(
                client.lacks(method, Some(params)).is_none(),
                able,
                "{capabilities} {method} {params}"
            );
        }
    }
}
