//! The HTTP header rules of 2026-07-28: what a request's head repeats of its body.
//!
//! A value that is not plain ASCII, or has blanks at its ends, is wrapped as `=?base64?...?=`. Names are
//! compared without case, values with.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// `MCP-Protocol-Version`
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// `Mcp-Method`: the body's `method`.
pub const METHOD: &str = "mcp-method";
/// `Mcp-Name`: the tool, prompt or resource that the body names.
pub const NAME: &str = "mcp-name";
/// `Mcp-Param-*`: parameters that the tool's schema marks with `x-mcp-header`.
pub const PARAM_PREFIX: &str = "mcp-param-";
/// `Mcp-Session-Id` of the older revisions.
pub const SESSION_ID: &str = "mcp-session-id";
/// `X-Request-ID`
pub const REQUEST_ID: &str = "x-request-id";
/// Inside the fleet, app to edge: `ok`, `tool_error` or `error`.
pub const OUTCOME: &str = "sweetmcp-outcome";
/// Inside the fleet, edge to app: milliseconds until nobody waits any more.
pub const DEADLINE_MS: &str = "sweetmcp-deadline-ms";
/// Inside the fleet, edge to app: who calls (percent-encoded).
pub const PRINCIPAL: &str = "sweetmcp-principal";
/// Inside the fleet, edge to app: the caller's tenant (percent-encoded).
pub const TENANT: &str = "sweetmcp-tenant";
/// Inside the fleet, edge to app: the scopes that the caller's token grants, separated by blanks; `*` is the edge
/// itself, which sees everything.
pub const SCOPES: &str = "sweetmcp-scopes";
/// Inside the fleet, edge to app: the call came without a head (in a session, as plain JSON-RPC, as GraphQL), so
/// no argument is repeated as `Mcp-Param-*`.
pub const HEADLESS: &str = "sweetmcp-headless";
/// A client's wish for one release (needs the `release` scope); in answers, the release that answered.
pub const RELEASE: &str = "sweetmcp-release";
/// A client's wish for its list of tools: `all`, or `search` for two tools that stand in for all. Also `tools` in
/// the query, and [`crate::call::META_TOOLS`] in a request.
pub const TOOLS: &str = "sweetmcp-tools";

const WRAP: (&str, &str) = ("=?base64?", "?=");

/// Writes a header value for `text`, wrapped where the rules ask for it.
#[must_use]
pub fn encode(text: &str) -> Cow<'_, str> {
    let plain = !text.is_empty()
        && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
        && text.trim() == text
        && !text.starts_with(WRAP.0);
    if plain {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("{}{}{}", WRAP.0, STANDARD.encode(text), WRAP.1))
    }
}

/// Reads a header value; `None` if its wrapping holds no Base64 of UTF-8.
#[must_use]
pub fn decode(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = value
        .strip_prefix(WRAP.0)
        .and_then(|rest| rest.strip_suffix(WRAP.1))
    else {
        return Some(Cow::Borrowed(value));
    };
    let bytes = STANDARD.decode(inner).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_text_stays_and_the_rest_is_wrapped() {
        for (text, header) in [
            ("get-sum", "get-sum"),
            ("a b", "a b"),
            (" padded", "=?base64?IHBhZGRlZA==?="),
            ("caf\u{e9}", "=?base64?Y2Fmw6k=?="),
            ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
        ] {
            assert_eq!(encode(text), header);
        }
        assert_eq!(decode("=?base64?Y2Fmw6k?="), None, "padding is missing");
        assert_eq!(decode("=?base64?*?="), None);
    }

    proptest! {
        #[test]
        fn any_text_survives(text in ".{0,64}") {
            let header = encode(&text).into_owned();
            prop_assert!(header.bytes().all(|b| (0x20..=0x7e).contains(&b)));
            let decoded = decode(&header);
            prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
        }
    }
}
