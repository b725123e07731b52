//! The way out: failures in the client's protocol, and the headers that every answer has.

use mcp::{Cause, Failure, FrontDoor, Id};
use serde_json::json;

use crate::exchange::{Exchange, Response, set_header};

/// What a signature must cover, for clients that were refused for want of one (RFC 9421, section 5.1).
const ACCEPT_SIGNATURE: &str = r#"sig=("@method" "@authority" "@path" "@query" "authorization" "content-digest");created;keyid;nonce"#;

/// A failure as the body of its protocol. For Cap'n Proto see [`crate::ingress::capnp`].
pub fn failure(protocol: FrontDoor, failure: &Failure, request_id: &str) -> Response {
    match protocol {
        FrontDoor::GraphQl => graphql_failure(failure, request_id),
        FrontDoor::Mcp | FrontDoor::JsonRpc | FrontDoor::Capnp => {
            json_rpc_failure(failure, None, request_id)
        }
    }
}

/// A failure as a JSON-RPC response with the cause's HTTP status.
pub fn json_rpc_failure(failure: &Failure, id: Option<&Id>, request_id: &str) -> Response {
    with_status(
        failure,
        failure.to_json_rpc(id, request_id),
        "application/json",
    )
}

fn graphql_failure(failure: &Failure, request_id: &str) -> Response {
    let body = json!({"errors": [{
        "message": failure.message,
        "extensions": {
            "code": failure.cause.graphql_code(),
            "mcpCode": failure.cause.code(),
            "requestId": request_id,
            "origin": failure.cause.origin(),
            "retryable": failure.cause.retryable(),
        },
    }]});
    with_status(failure, body.to_string().into_bytes(), "application/json")
}

fn with_status(failure: &Failure, body: Vec<u8>, content_type: &str) -> Response {
    let mut response = Response::new(body.into());
    if let Ok(status) = http::StatusCode::from_u16(failure.cause.http_status()) {
        *response.status_mut() = status;
    }
    set_header(&mut response, "content-type", content_type);
    match failure.cause {
        Cause::Unauthenticated => {
            // RFC 6750, section 3.
            set_header(
                &mut response,
                "www-authenticate",
                r#"Bearer realm="sweetmcp", error="invalid_token""#,
            );
        }
        Cause::Unsigned => set_header(&mut response, "accept-signature", ACCEPT_SIGNATURE),
        Cause::Forbidden => {
            set_header(
                &mut response,
                "www-authenticate",
                r#"Bearer realm="sweetmcp", error="insufficient_scope""#,
            );
        }
        _ => {}
    }
    if let Some(seconds) = failure.retry_after_seconds() {
        set_header(&mut response, "retry-after", &seconds.to_string());
    }
    response
}

/// Adds what every answer has.
pub fn finish(response: &mut Response, exchange: &Exchange<'_>) {
    set_header(
        response,
        mcp::headers::REQUEST_ID,
        exchange.request_id.as_str(),
    );
    set_header(response, "traceresponse", &exchange.trace.traceparent());
    set_header(response, "x-content-type-options", "nosniff");
    set_header(response, "cache-control", "no-store");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphql_failures_are_graphql_errors() {
        let response = failure(
            FrontDoor::GraphQl,
            &Failure::new(Cause::Unauthenticated),
            "r1",
        );
        assert_eq!(response.status(), 401);
        let crate::exchange::Body::Whole(body) = response.body() else {
            panic!("a failure is told at once");
        };
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(body["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
        assert_eq!(body["errors"][0]["extensions"]["requestId"], "r1");
    }
}
