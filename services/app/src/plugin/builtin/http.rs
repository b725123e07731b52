//! `http`: fetching from the hosts that the operator lists, and from nowhere else.

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tool::{About, Hints, Refusal, Tool};
use crate::plugin::{CallContext, allowed::Allowed};

/// How much of a body is answered, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The header fields that an answer repeats.
const HEADERS: [&str; 6] = [
    "content-type",
    "content-language",
    "etag",
    "last-modified",
    "cache-control",
    "location",
];

/// Returns the tools of the set for the hosts in `allow`: `example.com`, `*.example.com`, `example.com:8443`, `10.1.2.3:80`.
/// An entry without port stands for the scheme's own.
///
/// # Errors
/// When the client cannot be made.
pub(crate) fn tools(allow: &[String]) -> Result<Vec<Tool>, reqwest::Error> {
    Ok(vec![Tool::awaiting(
        About {
            name: "fetch",
            title: "Fetch a URL",
            description: "Fetches a page or file by HTTP GET or HEAD from a host that the operator allows.",
            hints: Hints::READ_WORLD,
        },
        Allowed::new(allow)?,
        fetch,
    )])
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fetch {
    /// An `http` or `https` URL.
    url: String,
    /// The method.
    #[serde(default)]
    method: Method,
    /// How much of the body is answered at most, in bytes.
    #[serde(default = "most")]
    #[schemars(range(min = 1, max = 1_048_576))]
    bytes_max: usize,
}

#[derive(Deserialize, JsonSchema, Default)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    #[default]
    Get,
    Head,
}

fn most() -> usize {
    BODY_BYTES_MAX
}

#[derive(Serialize, JsonSchema)]
struct Fetched {
    /// HTTP status.
    status: u16,
    /// The URL that answered, after redirects.
    url: String,
    /// Header fields that describe the content.
    headers: std::collections::BTreeMap<String, String>,
    /// The body; null if it is not UTF-8.
    text: Option<String>,
    /// The body in Base64; null if it is text.
    base64: Option<String>,
    /// Whether the body goes on after what was read.
    truncated: bool,
}

async fn fetch(allowed: Allowed, input: Fetch, context: CallContext) -> Result<Fetched, Refusal> {
    let url = Url::parse(&input.url)
        .map_err(|error| Refusal(format!("the URL is not valid: {error}")))?;
    allowed
        .admits(&url)
        .map_err(|denied| Refusal(denied.to_string()))?;
    let request = match input.method {
        Method::Get => allowed.client().get(url),
        Method::Head => allowed.client().head(url),
    };
    let mut response = request
        .timeout(context.time_left())
        .send()
        .await
        .map_err(|error| Refusal(telemetry::error_chain(&error.without_url())))?;
    let limit = input.bytes_max.min(BODY_BYTES_MAX);
    let (mut body, mut truncated) = (Vec::new(), false);
    while let Some(chunk) = response.chunk().await? {
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            truncated = true;
            break;
        }
    }
    let headers = HEADERS
        .iter()
        .filter_map(|name| {
            Some((
                (*name).to_owned(),
                response.headers().get(*name)?.to_str().ok()?.to_owned(),
            ))
        })
        .collect();
    let (text, base64) = match String::from_utf8(body) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
    };
    Ok(Fetched {
        status: response.status().as_u16(),
        url: response.url().to_string(),
        headers,
        text,
        base64,
        truncated,
    })
}
