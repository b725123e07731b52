//! Responses and the errors in them.

use serde::Serialize;
use serde_json::value::RawValue;

use super::limits::ERRORS_MAX;
use async_graphql::parser::Pos;
use mcp::Failure;

/// Where in the document, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The line.
    pub line: usize,
    /// The character within the line.
    pub column: usize,
}

impl From<Pos> for Location {
    fn from(pos: Pos) -> Location {
        Location {
            line: pos.line,
            column: pos.column,
        }
    }
}

/// A step from the root of the data to the field that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PathSegment {
    /// The field's response key.
    Key(String),
    /// The place in a list, from 0.
    Index(usize),
}

/// One error of a response.
#[derive(Debug, Clone, Serialize)]
pub struct Error {
    /// One sentence.
    pub message: String,
    /// Where in the document.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<Location>,
    /// Which field of the data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<PathSegment>,
    /// For programs.
    pub extensions: Box<Extensions>,
}

/// What a program can go by.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Extensions {
    /// One of a fixed set: this module's, or a cause's from `mcp`.
    pub code: &'static str,
    /// The JSON-RPC code, where the failure has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp_code: Option<i64>,
    /// The request's id in logs and traces.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Whose fault it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<mcp::Origin>,
    /// Whether the same call may succeed later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// When to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The `data` of an MCP error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// The document does not parse.
pub(super) const PARSE_FAILED: &str = "GRAPHQL_PARSE_FAILED";
/// The document does not fit the schema.
pub(super) const VALIDATION_FAILED: &str = "GRAPHQL_VALIDATION_FAILED";
/// A value does not fit its type.
pub(super) const BAD_USER_INPUT: &str = "BAD_USER_INPUT";
/// The document has no such operation, or several and none was named.
pub(super) const OPERATION_RESOLUTION: &str = "OPERATION_RESOLUTION_FAILURE";
/// A bound of [`super::Limits`] was passed.
pub(super) const LIMIT_EXCEEDED: &str = "LIMIT_EXCEEDED";
/// Introspection is switched off.
pub(super) const INTROSPECTION_DISABLED: &str = "INTROSPECTION_DISABLED";
/// A query asked for a tool that may change something.
pub(super) const NOT_READ_ONLY: &str = "NOT_READ_ONLY";
/// No tool of that name is on offer.
pub(super) const UNKNOWN_TOOL: &str = "UNKNOWN_TOOL";
/// A mutation came by GET.
pub(super) const METHOD_NOT_ALLOWED: &str = "METHOD_NOT_ALLOWED";
/// The tool's result does not have the form that its `outputSchema` promises.
pub(super) const INVALID_RESULT: &str = "INVALID_TOOL_RESULT";
/// The HTTP request is no GraphQL request.
pub(super) const BAD_REQUEST: &str = "BAD_REQUEST";
/// What Apollo's clients expect from a server without persisted queries.
pub(super) const PERSISTED_QUERY: &str = "PERSISTED_QUERY_NOT_SUPPORTED";

impl Error {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Error {
        Error {
            message: message.into(),
            locations: Vec::new(),
            path: Vec::new(),
            extensions: Box::new(Extensions {
                code,
                ..Extensions::default()
            }),
        }
    }

    /// A call that cannot be made as it is asked for.
    pub(super) fn of_call(code: &'static str, message: impl Into<String>) -> Error {
        let mut error = Error::new(code, message);
        error.extensions.mcp_code = Some(mcp::Cause::InvalidParams.code());
        error
    }

    pub(super) fn at(mut self, location: impl Into<Location>) -> Error {
        self.locations.push(location.into());
        self
    }

    pub(super) fn of_field(mut self, path: Vec<PathSegment>) -> Error {
        self.path = path;
        self
    }

    /// A failure of the gateway, or of the way to the app.
    pub(super) fn from_failure(failure: &Failure) -> Error {
        let mut error = Error::new(failure.cause.graphql_code(), failure.message.clone());
        error.extensions.mcp_code = Some(failure.cause.code());
        error.extensions.origin = Some(failure.cause.origin());
        error.extensions.retryable = Some(failure.cause.retryable());
        error.extensions.retry_after_ms = failure
            .retry_after
            .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        error.extensions.data = failure.data.clone();
        error
    }

    /// A JSON-RPC error object from an app.
    pub(super) fn from_json_rpc(error: &RawValue) -> Error {
        #[derive(serde::Deserialize)]
        struct Wire {
            code: i64,
            message: String,
            data: Option<Box<RawValue>>,
        }
        let Ok(wire) = serde_json::from_str::<Wire>(error.get()) else {
            return Error::from_failure(&Failure::new(mcp::Cause::UpstreamInvalid));
        };
        let cause = mcp::Cause::ALL
            .iter()
            .find(|cause| cause.code() == wire.code);
        let mut out = Error::new(
            cause.map_or("MCP_ERROR", |cause| cause.graphql_code()),
            wire.message,
        );
        out.extensions.mcp_code = Some(wire.code);
        out.extensions.origin = Some(mcp::Origin::Upstream);
        out.extensions.retryable = Some(false);
        out.extensions.data = wire.data;
        out
    }
}

/// How far a request came. Decides the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is no GraphQL request: 400 whatever the media type.
    Malformed,
    /// It is one, but may not be executed: it does not parse, is not valid, or passes a limit.
    Refused,
    /// A mutation came by GET: 405.
    Method,
    /// It was executed; single fields may have failed.
    Executed,
}

/// A GraphQL response.
#[derive(Debug, Clone)]
pub struct Response {
    /// How far the request came.
    pub stage: Stage,
    /// The data as JSON, when the request was executed.
    pub data: Option<Box<RawValue>>,
    /// The errors, no more than a few dozen.
    pub errors: Vec<Error>,
}

impl Response {
    /// A response that says why nothing was executed.
    #[must_use]
    pub fn refused(stage: Stage, mut errors: Vec<Error>) -> Response {
        errors.truncate(ERRORS_MAX);
        Response {
            stage,
            data: None,
            errors,
        }
    }

    /// The response to a request that failed as a whole before or beside execution: no token, a rate limit, a
    /// body too large.
    #[must_use]
    pub fn failed(failure: &Failure, request_id: &str) -> Response {
        let mut error = Error::from_failure(failure);
        error.extensions.request_id = request_id.to_owned();
        Response::refused(Stage::Malformed, vec![error])
    }

    /// Names the request in every error.
    #[must_use]
    pub fn with_request_id(mut self, request_id: &str) -> Response {
        for error in &mut self.errors {
            request_id.clone_into(&mut error.extensions.request_id);
        }
        self
    }

    /// Writes the response as JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Wire<'a> {
            #[serde(skip_serializing_if = "<[Error]>::is_empty")]
            errors: &'a [Error],
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a RawValue>,
        }
        let wire = Wire {
            errors: &self.errors,
            data: self.data.as_deref(),
        };
        serde_json::to_writer(out, &wire)
            .expect("strings and raw values always serialise to memory");
    }
}
