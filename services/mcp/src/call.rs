//! The one form of request and answer between a front door and an app.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::envelope::{self, Body, Id, Message};
use crate::failure::{Cause, Failure};
use crate::members::Members;
use crate::method::Method;
use crate::revision::Revision;

/// The member of `params._meta` that names the revision.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The member of `params._meta` that names the client.
pub const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// The member of `params._meta` that says what the client can do.
pub const META_CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The member of `params._meta` that asks for log messages, and from which level on.
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// The member of a notification's or result's `_meta` that names the `subscriptions/listen` it belongs to.
pub const META_SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// The member of a result's `_meta` that names the server.
pub const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// The member of `params._meta` by which a client wishes for `all` tools or for two that stand in for them
/// (`search`). Ours, as the header [`crate::headers::TOOLS`].
pub const META_TOOLS: &str = "dev.sweetmcp/tools";

/// Where a call came in. Also the `protocol` of logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontDoor {
    /// `/mcp`
    Mcp,
    /// `/mcp/v1/jsonrpc` and `/mcp/v1/batch`
    JsonRpc,
    /// `/graphql`
    GraphQl,
    /// Cap'n Proto RPC
    Capnp,
}

impl FrontDoor {
    /// The name for a log field or a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            FrontDoor::Mcp => "mcp",
            FrontDoor::JsonRpc => "jsonrpc",
            FrontDoor::GraphQl => "graphql",
            FrontDoor::Capnp => "capnp",
        }
    }
}

/// One request in the form of 2026-07-28, ready for an app.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is asked.
    pub method: Method,
    /// The tool, prompt or resource, as `Mcp-Name` has it.
    pub name: Option<String>,
    /// The request's id; `None` for a notification.
    pub id: Option<Id>,
    /// The whole JSON-RPC message.
    pub body: Bytes,
    /// `Mcp-Param-*` headers as they came, name and value, to be forwarded; `None` for a call that had no head,
    /// so that nothing could be repeated there.
    pub param_headers: Option<Vec<(String, String)>>,
}

/// What a client says of itself on each request (`params._meta`).
#[derive(Debug, Clone)]
pub struct ClientMeta {
    /// `{name, version, ...}` as the client sent it.
    pub info: Option<Box<RawValue>>,
    /// What the client can do, as it sent it.
    pub capabilities: Box<RawValue>,
}

impl ClientMeta {
    /// A client of our own making (GraphQL, Cap'n Proto, plain JSON-RPC): no capabilities.
    #[must_use]
    pub fn plain(name: &str) -> ClientMeta {
        let raw = |value: &serde_json::Value| {
            serde_json::value::to_raw_value(value).expect("a value always serialises")
        };
        ClientMeta {
            info: Some(raw(
                &serde_json::json!({"name": name, "version": env!("CARGO_PKG_VERSION")}),
            )),
            capabilities: raw(&serde_json::json!({})),
        }
    }
}

impl Call {
    /// Makes a call from a method and its parameters, adding what 2026-07-28 wants in `_meta`.
    /// Members of `_meta` that the client set stay, save those that say who it is.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] when `params` is an array, is malformed, or lacks the name that the
    /// method needs.
    pub fn new(
        id: Option<Id>,
        method: Method,
        params: Option<&RawValue>,
        client: &ClientMeta,
    ) -> Result<Call, Failure> {
        let invalid = |text: &str| Failure::say(Cause::InvalidParams, text);
        let mut members = match params {
            Some(raw) => Members::parse(raw)
                .map_err(|_| invalid("params must be an object that names each member once"))?,
            None => Members::default(),
        };
        let name = match method.name_member() {
            None => None,
            Some(member) => Some(
                members
                    .get_str(member)
                    .ok_or_else(|| invalid(&format!("params.{member} must be a string")))?,
            ),
        };
        let meta = meta_with_client(members.get("_meta"), client)?;
        members.set("_meta", meta);
        let body = envelope::write_request(id.as_ref(), method.as_str(), &members.to_raw());
        Ok(Call {
            method,
            name,
            id,
            body: Bytes::from(body),
            param_headers: None,
        })
    }

    /// Makes a `tools/call`.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] when `arguments` is no object.
    pub fn tool(
        id: u64,
        name: &str,
        arguments: &RawValue,
        client: &ClientMeta,
    ) -> Result<Call, Failure> {
        if !arguments.get().starts_with('{') {
            return Err(Failure::say(
                Cause::InvalidParams,
                "arguments must be an object",
            ));
        }
        #[derive(Serialize)]
        struct Params<'a> {
            name: &'a str,
            arguments: &'a RawValue,
        }
        let params = serde_json::value::to_raw_value(&Params { name, arguments })
            .map_err(|_| Failure::new(Cause::Internal))?;
        Call::new(
            Some(Id::from_number(id)),
            Method::ToolsCall,
            Some(&params),
            client,
        )
    }
}

fn meta_with_client(
    given: Option<&RawValue>,
    client: &ClientMeta,
) -> Result<Box<RawValue>, Failure> {
    let mut meta = match given {
        Some(raw) => Members::parse(raw)
            .map_err(|_| Failure::say(Cause::InvalidParams, "params._meta must be an object"))?,
        None => Members::default(),
    };
    let version = serde_json::value::to_raw_value(Revision::LATEST.as_str())
        .map_err(|_| Failure::new(Cause::Internal))?;
    meta.set(META_VERSION, version);
    match &client.info {
        Some(info) => meta.set(META_CLIENT_INFO, info.clone()),
        None => meta.remove(META_CLIENT_INFO),
    }
    meta.set(META_CLIENT_CAPABILITIES, client.capabilities.clone());
    Ok(meta.to_raw())
}

/// How a call ended, for metrics, retries and the judge of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A result.
    Ok,
    /// A result with `isError`: the tool failed.
    ToolError,
    /// A JSON-RPC error.
    Error,
}

impl Outcome {
    /// The name for a header, a log field or a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::ToolError => "tool_error",
            Outcome::Error => "error",
        }
    }

    /// Reads [`Outcome::as_str`] back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Outcome> {
        [Outcome::Ok, Outcome::ToolError, Outcome::Error]
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
    }

    /// Works the outcome out from a response message, for servers that do not say it in a header.
    #[must_use]
    pub fn of(response: &[u8]) -> Outcome {
        match envelope::read(response) {
            Ok(Body::One(Ok(Message::Response {
                result: Ok(result), ..
            }))) => {
                let is_error = Members::parse(result)
                    .ok()
                    .and_then(|m| m.get("isError").map(|v| v.get() == "true"));
                if is_error == Some(true) {
                    Outcome::ToolError
                } else {
                    Outcome::Ok
                }
            }
            _ => Outcome::Error,
        }
    }
}

/// An app's answer: one JSON-RPC response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The app's HTTP status: 200, 202 for a notification, 400 or 404 with a protocol error.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// The response message; empty for a notification.
    pub body: Bytes,
}

impl Reply {
    /// The result, or the error object, of the response.
    ///
    /// # Errors
    /// [`Cause::UpstreamInvalid`] when the body is no JSON-RPC response.
    pub fn result(&self) -> Result<Result<&RawValue, &RawValue>, Failure> {
        match envelope::read(&self.body) {
            Ok(Body::One(Ok(Message::Response { result, .. }))) => Ok(result),
            _ => Err(Failure::new(Cause::UpstreamInvalid)),
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
    fn a_call_says_who_asks_and_keeps_the_rest() {
        let client = ClientMeta {
            info: Some(raw(r#"{"name":"c","version":"1"}"#)),
            capabilities: raw(r#"{"sampling":{}}"#),
        };
        let params = raw(
            r#"{"name":"add","arguments":{"a":1.0},"_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"2020-01-01"}}"#,
        );
        let call = Call::new(
            Some(Id::from_number(3)),
            Method::ToolsCall,
            Some(&params),
            &client,
        )
        .unwrap();
        assert_eq!(call.name.as_deref(), Some("add"));
        insta::assert_snapshot!(
            String::from_utf8(call.body.to_vec()).unwrap(),
            @r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"add","arguments":{"a":1.0},"_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"io.modelcontextprotocol/clientCapabilities":{"sampling":{}}}}}"#
        );
    }

    #[test]
    fn parameters_that_do_not_fit_are_refused() {
        let client = ClientMeta::plain("t");
        for params in ["[1]", r#"{"name":5}"#, "{}", r#"{"name":"a","_meta":1}"#] {
            let failure =
                Call::new(None, Method::ToolsCall, Some(&raw(params)), &client).unwrap_err();
            assert_eq!(failure.cause, Cause::InvalidParams, "{params}");
        }
    }

    #[test]
    fn outcomes_are_read_from_the_response() {
        for (body, outcome) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Outcome::Ok),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"isError":false}}"#,
                Outcome::Ok,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true}}"#,
                Outcome::ToolError,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
                Outcome::Error,
            ),
            ("<html>", Outcome::Error),
        ] {
            assert_eq!(Outcome::of(body.as_bytes()), outcome, "{body}");
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
    }
}
