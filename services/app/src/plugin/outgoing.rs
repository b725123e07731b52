//! HTTP to servers that the operator names: origin, credential and bounds, once for every kind that needs them.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use mcp::{Cause, Failure};
use reqwest::{Client, Response, Url, redirect};
use tokio::io::AsyncReadExt;

use super::CallContext;

/// Redirects that are followed, all of them within one origin.
const REDIRECTS_MAX: usize = 5;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest token, in bytes.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

/// How requests prove who sends them. Nothing of it is ever shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// Header fields by name.
    pub headers: BTreeMap<String, String>,
    /// A file that holds a bearer token; read for every request.
    pub token_file: Option<PathBuf>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("headers", &self.headers.keys())
            .field("token_file", &self.token_file)
            .finish()
    }
}

/// Why a credential cannot be used. Says nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The token's file cannot be read.
    #[error("the token file {path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A value that no header can have.
    #[error("the value for the header {0} is none that a header can have")]
    Header(String),
}

impl Credential {
    /// Returns the header fields that a request gets, marked as sensitive.
    ///
    /// # Errors
    /// [`CredentialError`] when the token cannot be read or a value is no header value.
    pub(crate) async fn fields(&self) -> Result<HeaderMap, CredentialError> {
        let mut fields = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = || CredentialError::Header(name.clone());
            let field: HeaderName = name.parse().map_err(|_| wrong())?;
            fields.insert(field, sensitive(value).ok_or_else(wrong)?);
        }
        if let Some(path) = &self.token_file {
            let token = read_token(path)
                .await
                .map_err(|source| CredentialError::File {
                    path: path.clone(),
                    source,
                })?;
            let value = sensitive(&format!("Bearer {}", token.trim()));
            let value = value.ok_or_else(|| CredentialError::Header("authorization".into()))?;
            fields.insert(AUTHORIZATION, value);
        }
        Ok(fields)
    }
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn read_token(path: &std::path::Path) -> std::io::Result<String> {
    let mut token = String::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(TOKEN_BYTES_MAX)
        .read_to_string(&mut token)
        .await?;
    Ok(token)
}

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
    let error = telemetry::error_chain(error);
    tracing::warn!(plugin, error, "the plugin's credential cannot be used");
    Failure::say(
        Cause::NoBackend,
        format!("the plugin {plugin} has no credential now; the call was not sent"),
    )
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
