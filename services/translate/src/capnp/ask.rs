//! What a client asks, and the MCP call that it becomes.

use mcp::call::ClientMeta;
use mcp::{Call, Cause, Failure, Id, Method};
use serde::Serialize;
use serde_json::value::RawValue;

use super::mcp_capnp::{call_tool, list_tools, raw_request, request};

/// What every request may say of itself beside its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hop {
    /// The longest that the client waits, in milliseconds.
    pub deadline_ms: Option<u32>,
    /// The client's W3C trace context, unchecked.
    pub traceparent: Option<String>,
}

/// One request of a client.
#[derive(Debug, Clone)]
pub enum Asked {
    /// What this gateway is.
    Info,
    /// One page of the tools.
    ListTools {
        /// Where the page begins.
        cursor: Option<String>,
    },
    /// One call of a tool.
    CallTool {
        /// The tool's MCP name.
        name: String,
        /// A JSON object.
        arguments: Box<RawValue>,
        /// Deadline and trace.
        hop: Hop,
    },
    /// Any other request of MCP.
    Raw {
        /// The method's name.
        method: String,
        /// A JSON object.
        params: Box<RawValue>,
        /// Deadline and trace.
        hop: Hop,
    },
}

impl Asked {
    /// Deadline and trace, where the request has them.
    #[must_use]
    pub fn hop(&self) -> Option<&Hop> {
        match self {
            Asked::Info | Asked::ListTools { .. } => None,
            Asked::CallTool { hop, .. } | Asked::Raw { hop, .. } => Some(hop),
        }
    }

    /// The MCP call for the request; `None` for [`Asked::Info`], which the gateway answers itself.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] when parameters are missing, [`Cause::MethodNotFound`] for a method that is no
    /// request of 2026-07-28.
    pub fn call(&self, id: u64, client: &ClientMeta) -> Result<Option<Call>, Failure> {
        let request = |method, params: &RawValue| {
            Call::new(Some(Id::from_number(id)), method, Some(params), client)
        };
        match self {
            Asked::Info => Ok(None),
            Asked::ListTools { cursor } => {
                #[derive(Serialize)]
                struct Params<'a> {
                    #[serde(skip_serializing_if = "Option::is_none")]
                    cursor: Option<&'a str>,
                }
                let cursor = cursor.as_deref();
                let params = serde_json::value::to_raw_value(&Params { cursor })
                    .map_err(|_| Failure::new(Cause::Internal))?;
                request(Method::ToolsList, &params).map(Some)
            }
            Asked::CallTool {
                name, arguments, ..
            } => Call::tool(id, name, arguments, client).map(Some),
            Asked::Raw { method, params, .. } => {
                let method = Method::parse(method);
                if !method.is_modern() || method.is_notification() {
                    return Err(Failure::new(Cause::MethodNotFound));
                }
                request(method, params).map(Some)
            }
        }
    }

    pub(super) fn read(from: request::Reader<'_>) -> Result<Asked, Failure> {
        match from.which() {
            Ok(request::Info(())) => Ok(Asked::Info),
            Ok(request::ListTools(found)) => Asked::read_list(found.map_err(unreadable)?),
            Ok(request::CallTool(found)) => Asked::read_call(found.map_err(unreadable)?),
            Ok(request::Raw(found)) => Asked::read_raw(found.map_err(unreadable)?),
            Err(::capnp::NotInSchema(_)) => Err(Failure::say(
                Cause::MethodNotFound,
                "the request is of a kind that this gateway does not know",
            )),
        }
    }

    pub(super) fn read_list(from: list_tools::Reader<'_>) -> Result<Asked, Failure> {
        let cursor = text(from.get_cursor())?;
        Ok(Asked::ListTools {
            cursor: Some(cursor).filter(|cursor| !cursor.is_empty()),
        })
    }

    pub(super) fn read_call(from: call_tool::Reader<'_>) -> Result<Asked, Failure> {
        Ok(Asked::CallTool {
            name: text(from.get_tool())?,
            arguments: object(from.get_arguments_json(), "argumentsJson")?,
            hop: hop(from.get_deadline_ms(), from.get_traceparent())?,
        })
    }

    pub(super) fn read_raw(from: raw_request::Reader<'_>) -> Result<Asked, Failure> {
        Ok(Asked::Raw {
            method: text(from.get_method())?,
            params: object(from.get_params_json(), "paramsJson")?,
            hop: hop(from.get_deadline_ms(), from.get_traceparent())?,
        })
    }
}

type Text<'a> = ::capnp::Result<::capnp::text::Reader<'a>>;

/// What a message that breaks the rules of the encoding, or a limit, is answered.
pub(super) fn unreadable(_: ::capnp::Error) -> Failure {
    // The library's own words may describe the inside of the message; the client knows it anyway.
    Failure::say(
        Cause::InvalidRequest,
        "the message could not be read: it is malformed, or larger or deeper than allowed",
    )
}

pub(super) fn text(found: Text<'_>) -> Result<String, Failure> {
    let utf8 = |_| Failure::say(Cause::InvalidParams, "a text is not UTF-8");
    found.map_err(unreadable)?.to_string().map_err(utf8)
}

/// JSON text that must be an object; empty means none was given.
fn object(found: Text<'_>, what: &str) -> Result<Box<RawValue>, Failure> {
    let text = text(found)?;
    let json = if text.trim().is_empty() {
        "{}".to_owned()
    } else {
        text
    };
    let invalid = || {
        Failure::say(
            Cause::InvalidParams,
            format!("{what} must be a JSON object"),
        )
    };
    let raw: Box<RawValue> = serde_json::from_str(&json).map_err(|_| invalid())?;
    if raw.get().starts_with('{') {
        Ok(raw)
    } else {
        Err(invalid())
    }
}

fn hop(deadline_ms: u32, traceparent: Text<'_>) -> Result<Hop, Failure> {
    Ok(Hop {
        deadline_ms: Some(deadline_ms).filter(|&ms| ms > 0),
        traceparent: Some(text(traceparent)?).filter(|text| !text.is_empty()),
    })
}
