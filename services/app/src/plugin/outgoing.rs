//! HTTP to servers that the operator names: origin and bounds, once for every kind that needs them.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mcp::{Cause, Failure};
use reqwest::{Client, Response, Url, redirect};
use serde_json::json;

use super::{CallContext, credential::CredentialError};

/// Redirects that are followed, all of them within one origin.
const REDIRECTS_MAX: usize = 5;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a client that uses no proxy of the environment and leaves no origin: a redirect elsewhere is answered as it came.
///
/// # Errors
/// When TLS cannot be set up.
pub(crate) fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .user_agent(concat!("sweetmcp/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::custom(|hop| {
            let first = hop.previous().first().map(Url::origin);
            if first == Some(hop.url().origin()) && hop.previous().len() <= REDIRECTS_MAX {
                hop.follow()
            } else {
                hop.stop()
            }
        }))
        .build()
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It is longer than is taken.
    TooLong,
    /// The connection broke off.
    Broken(reqwest::Error),
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > limit {
            return Err(BodyError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Says what a request without an answer means for the call, and logs why.
pub(crate) fn failure(plugin: &str, error: reqwest::Error) -> Failure {
    let (cause, what) = if error.is_builder() || error.is_connect() {
        (Cause::NoBackend, "cannot be reached; the call was not sent")
    } else if error.is_timeout() {
        (
            Cause::Timeout,
            "did not answer in time; the call may have run",
        )
    } else {
        (Cause::UpstreamBroken, "broke off; the call may have run")
    };
    let error = telemetry::error_chain(&error.without_url());
    tracing::warn!(plugin, error, "a request to the plugin's server failed");
    Failure::say(cause, format!("the server of the plugin {plugin} {what}"))
}

/// Says that the call was not sent for want of a credential, and logs why.
pub(crate) fn no_credential(plugin: &str, error: &CredentialError) -> Failure {
    let why = match error {
        CredentialError::NoGrant => {
            "there is no grant for you at its server: let its operator give you one"
        }
        CredentialError::Nobody => "its calls are made in the caller's name, and you have none",
        _ => {
            let error = telemetry::error_chain(error);
            tracing::warn!(plugin, error, "the plugin's credential cannot be used");
            return Failure::say(
                Cause::NoBackend,
                format!("the plugin {plugin} has no credential now; the call was not sent"),
            );
        }
    };
    tracing::info!(plugin, "a user has no grant for the plugin");
    Failure::say(
        Cause::Forbidden,
        format!("the plugin {plugin} was not called: {why}"),
    )
    .with_data(&json!({"plugin": plugin, "reason": "no_grant"}))
}

/// Returns the header fields that tell a server for which request it works.
pub(crate) fn trace_fields(context: &CallContext) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let trace = context.trace.child().traceparent();
    let request_id = context.request_id.as_str();
    for (name, value) in [
        (HeaderName::from_static("traceparent"), trace.as_str()),
        (
            HeaderName::from_static(mcp::headers::REQUEST_ID),
            request_id,
        ),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            fields.insert(name, value);
        }
    }
    fields
}
