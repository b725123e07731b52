//! The one table that turns causes into answers, for every protocol.
//!
//! A [`Cause`] says what went wrong; its row says the JSON-RPC code, the HTTP status, the GraphQL
//! `extensions.code`, whose fault it was and whether trying again can help. What stands in
//! [`Failure::message`] is for the client; what only the log should know never enters a `Failure`.
//!
//! Codes from -32768 to -32000 belong to JSON-RPC and MCP. Ours lie outside, at -31000 minus the HTTP status.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::envelope::Id;

/// Whose fault a failure is; each may have its own objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The client sent something that cannot be served.
    Client,
    /// A rule forbids it: identity, permission, limit.
    Policy,
    /// The edge itself failed.
    Gateway,
    /// The app, a plugin or a server behind it failed.
    Upstream,
}

impl Origin {
    /// The name for a log field or a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Origin::Client => "client",
            Origin::Policy => "policy",
            Origin::Gateway => "gateway",
            Origin::Upstream => "upstream",
        }
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident $code:literal $http:literal $graphql:literal $origin:ident $retry:literal $text:literal;)*) => {
        /// What went wrong, as far as a client may know.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $name,)* }

        impl Cause {
            /// Every cause, in the table's order.
            pub const ALL: &'static [Cause] = &[$(Cause::$name,)*];
            /// The JSON-RPC error code.
            #[must_use] pub const fn code(self) -> i64 { match self { $(Cause::$name => $code,)* } }
            /// The HTTP status where the cause is about the whole HTTP request.
            #[must_use] pub const fn http_status(self) -> u16 { match self { $(Cause::$name => $http,)* } }
            /// GraphQL's `extensions.code`.
            #[must_use] pub const fn graphql_code(self) -> &'static str { match self { $(Cause::$name => $graphql,)* } }
            /// Whose fault it is.
            #[must_use] pub const fn origin(self) -> Origin { match self { $(Cause::$name => Origin::$origin,)* } }
            /// Whether the same request may succeed later.
            #[must_use] pub const fn retryable(self) -> bool { match self { $(Cause::$name => $retry,)* } }
            /// What the client is told when there is nothing more exact to say.
            #[must_use] pub const fn text(self) -> &'static str { match self { $(Cause::$name => $text,)* } }
            /// The name for a log field or a metric label.
            #[must_use] pub const fn as_str(self) -> &'static str { match self { $(Cause::$name => stringify!($name),)* } }
        }
    };
}

causes! {
    //                 code  HTTP  GraphQL                  origin  retry  text
    /// The bytes are not JSON.
    Parse            -32700   400  "PARSE_ERROR"            Client   false "the body is not JSON";
    /// JSON, but no JSON-RPC request.
    InvalidRequest   -32600   400  "BAD_REQUEST"            Client   false "not a valid request";
    /// No such method.
    MethodNotFound   -32601   404  "METHOD_NOT_FOUND"       Client   false "no such method";
    /// The parameters do not fit the method.
    InvalidParams    -32602   400  "BAD_USER_INPUT"         Client   false "invalid parameters";
    /// A defect of ours.
    Internal         -32603   500  "INTERNAL_SERVER_ERROR"  Gateway  true  "internal error";
    /// A mirrored header is missing or says other than the body.
    HeaderMismatch   -32020   400  "HEADER_MISMATCH"        Client   false "headers and body disagree";
    /// The request needs a capability that its client did not declare.
    MissingCapability -32021  400  "MISSING_CAPABILITY"     Client   false "a client capability is missing";
    /// No such revision here.
    UnsupportedVersion -32022 400  "UNSUPPORTED_VERSION"    Client   false "unsupported protocol version";
    /// No token, or none that holds.
    Unauthenticated  -31401   401  "UNAUTHENTICATED"        Policy   false "a valid bearer token is needed";
    /// A valid token that does not permit this.
    Forbidden        -31403   403  "FORBIDDEN"              Policy   false "not permitted";
    /// No signature where there must be one, or one that does not hold.
    Unsigned         -31403   403  "SIGNATURE_REFUSED"      Policy   false "this request must be signed (RFC 9421)";
    /// `Origin` names a site that may not call.
    OriginRefused    -31403   403  "ORIGIN_REFUSED"         Policy   false "this origin may not call";
    /// Not the endpoint's HTTP method.
    HttpMethod       -31405   405  "METHOD_NOT_ALLOWED"     Client   false "this HTTP method is not served here";
    /// Nothing that we can answer with is acceptable.
    NotAcceptable    -31406   406  "NOT_ACCEPTABLE"         Client   false "Accept must allow application/json and text/event-stream";
    /// The body did not come in time.
    SlowClient       -31408   408  "REQUEST_TIMEOUT"        Client   true  "the request did not arrive in time";
    /// The body is larger than allowed.
    TooLarge         -31413   413  "PAYLOAD_TOO_LARGE"      Client   false "the body is too large";
    /// Not a media type that we read.
    MediaType        -31415   415  "UNSUPPORTED_MEDIA_TYPE" Client   false "Content-Type must be application/json";
    /// Past the caller's rate.
    RateLimited      -31429   429  "RATE_LIMITED"           Policy   true  "rate limit exceeded";
    /// Past what the caller's tenant may use today.
    QuotaExceeded    -31429   429  "QUOTA_EXCEEDED"         Policy   true  "the quota of this tenant is used up for today";
    /// The session is unknown, expired, or another principal's.
    SessionUnknown   -31404   404  "SESSION_UNKNOWN"        Client   true  "unknown session: initialize again";
    /// No such path.
    NoSuchPath       -31404   404  "NOT_FOUND"              Client   false "no such path";
    /// Too much is under way.
    Overloaded       -31503   503  "OVERLOADED"             Gateway  true  "too many requests are under way";
    /// No app can take the call.
    NoBackend        -31503   503  "UNAVAILABLE"            Upstream true  "no instance can take the call now";
    /// The app broke off; the call may have run.
    UpstreamBroken   -31502   502  "BAD_GATEWAY"            Upstream false "the instance broke off; the call may have run";
    /// The app answered something that is no MCP.
    UpstreamInvalid  -31502   502  "BAD_GATEWAY"            Upstream false "the instance's answer could not be read";
    /// The deadline passed.
    Timeout          -31504   504  "TIMEOUT"                Upstream false "the deadline passed; the call may have run";
}

/// A failure as the client may see it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What went wrong.
    pub cause: Cause,
    /// One sentence for the client. Never holds client-chosen text unescaped, nor anything secret.
    pub message: String,
    /// More for the client's program: the JSON-RPC `error.data` object.
    pub data: Option<Box<RawValue>>,
    /// When to try again, if that is known.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with the cause's own text.
    #[must_use]
    pub fn new(cause: Cause) -> Failure {
        Failure::say(cause, cause.text())
    }

    /// A failure with a more exact text.
    #[must_use]
    pub fn say(cause: Cause, message: impl Into<String>) -> Failure {
        Failure {
            cause,
            message: message.into(),
            data: None,
            retry_after: None,
        }
    }

    /// Adds `error.data`.
    #[must_use]
    pub fn with_data(mut self, data: &impl Serialize) -> Failure {
        self.data = serde_json::value::to_raw_value(data).ok();
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Failure {
        self.retry_after = Some(after);
        self
    }

    /// When to try again as `Retry-After` has it, in whole seconds: never early, never zero.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let after = self.retry_after?;
        Some((after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1))
    }

    /// The JSON-RPC response that carries this failure.
    ///
    /// `error.data` is what the failure brought, or else `requestId`, `origin` and `retryable`
    /// (with `retryAfterMs` where known), so that a log line can be found and a retry decided.
    #[must_use]
    pub fn to_json_rpc(&self, id: Option<&Id>, request_id: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Response<'a> {
            jsonrpc: &'static str,
            id: Option<&'a Id>,
            error: Error<'a>,
        }
        #[derive(Serialize)]
        struct Error<'a> {
            code: i64,
            message: &'a str,
            data: Data<'a>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Own<'a> {
            request_id: &'a str,
            origin: Origin,
            retryable: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after_ms: Option<u128>,
        }
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Data<'a> {
            Given(&'a RawValue),
            Own(Own<'a>),
        }
        let data = self.data.as_deref().map_or_else(
            || {
                Data::Own(Own {
                    request_id,
                    origin: self.cause.origin(),
                    retryable: self.cause.retryable(),
                    retry_after_ms: self.retry_after.map(|d| d.as_millis()),
                })
            },
            Data::Given,
        );
        serde_json::to_vec(&Response {
            jsonrpc: "2.0",
            id,
            error: Error {
                code: self.cause.code(),
                message: &self.message,
                data,
            },
        })
        .expect("strings and raw values always serialise")
    }
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Failure {
        Failure::new(cause)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_codes_stay_out_of_reserved_ranges_and_follow_the_status() {
        for cause in Cause::ALL {
            let reserved = (-32768..=-32000).contains(&cause.code());
            assert!(
                reserved || cause.code() == -31000 - i64::from(cause.http_status()),
                "{cause:?}"
            );
        }
    }

    #[test]
    fn retry_after_is_never_early() {
        for (after, seconds) in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2)] {
            let failure = Failure::new(Cause::Overloaded);
            let failure = failure.retry_after(Duration::from_millis(after));
            assert_eq!(failure.retry_after_seconds(), Some(seconds));
        }
    }

    #[test]
    fn a_failure_says_who_and_whether_to_retry() {
        let failure = Failure::new(Cause::RateLimited).retry_after(Duration::from_millis(250));
        let id = Id::from_number(7);
        insta::assert_snapshot!(
            String::from_utf8(failure.to_json_rpc(Some(&id), "r-1")).unwrap(),
            @r#"{"jsonrpc":"2.0","id":7,"error":{"code":-31429,"message":"rate limit exceeded","data":{"requestId":"r-1","origin":"policy","retryable":true,"retryAfterMs":250}}}"#
        );
    }
}
