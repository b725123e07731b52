//! An API's answer to a `tools/call` result.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::operation::{Operation, is_json};

/// Characters of a failure's body that are repeated.
const FAILURE_CHARS_MAX: usize = 4_000;

/// What the API answered.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type` as it came.
    pub content_type: Option<&'a str>,
    /// The whole body.
    pub body: &'a [u8],
}

impl Operation {
    /// Makes a result from an answer: `structuredContent` from JSON, `isError` from every status but 2xx.
    #[must_use]
    pub fn result(&self, response: &Response<'_>) -> Value {
        match response.status {
            200..=299 => self.success(response),
            300..=399 => refused(&format!(
                "HTTP {}: the API redirects elsewhere, which is not followed",
                response.status
            )),
            status => {
                let text = String::from_utf8_lossy(response.body);
                let shown: String = text.chars().take(FAILURE_CHARS_MAX).collect();
                refused(format!("HTTP {status}\n{shown}").trim_end())
            }
        }
    }

    fn success(&self, response: &Response<'_>) -> Value {
        let media = response.content_type.unwrap_or_default();
        let parsed = (is_json(media) || self.has_output_schema())
            .then(|| serde_json::from_slice::<Value>(response.body).ok())
            .flatten();
        let mut result = json!({"resultType": "complete", "isError": false});
        let Some(value) = parsed else {
            if self.has_output_schema() {
                return refused(&format!(
                    "HTTP {}: the API's answer is not the JSON that its document promises",
                    response.status
                ));
            }
            result["content"] = json!([content(response, media)]);
            return result;
        };
        result["content"] =
            json!([{"type": "text", "text": String::from_utf8_lossy(response.body)}]);
        let wrap = self.wrapped.unwrap_or(!value.is_object());
        result["structuredContent"] = if wrap { json!({"value": value}) } else { value };
        result
    }
}

/// Returns a result that says why there is none.
pub(crate) fn refused(reason: &str) -> Value {
    json!({
        "resultType": "complete",
        "isError": true,
        "content": [{"type": "text", "text": reason}],
    })
}

fn content(response: &Response<'_>, media: &str) -> Value {
    let essence: String = media
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .chars()
        .filter(char::is_ascii_graphic)
        .take(100)
        .collect();
    if let Ok(text) = std::str::from_utf8(response.body) {
        let text = if text.is_empty() {
            format!("HTTP {}", response.status)
        } else {
            text.to_owned()
        };
        return json!({"type": "text", "text": text});
    }
    let data = STANDARD.encode(response.body);
    match essence.split('/').next() {
        Some(kind @ ("image" | "audio")) => {
            json!({"type": kind, "data": data, "mimeType": essence})
        }
        _ => {
            let mime = if essence.is_empty() {
                "application/octet-stream"
            } else {
                &essence
            };
            json!({"type": "resource", "resource": {"uri": "urn:sweetmcp:answer", "mimeType": mime, "blob": data}})
        }
    }
}
