//! Between the eras: what a legacy client sends becomes a modern [`Call`], what comes back becomes a
//! legacy result.
//!
//! | legacy | inside the fleet |
//! |---|---|
//! | `initialize` | `server/discover`, then [`initialize_result`] |
//! | `ping`, `logging/setLevel` | answered at the edge with `{}` |
//! | `notifications/*` of the client | taken with 202; the app has no session to tell |
//! | any other request | the same method with the session's client in `_meta`; [`legacy_result`] |

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::call::{ClientMeta, META_SERVER_INFO};
use crate::failure::{Cause, Failure};
use crate::members::Members;
use crate::revision::Revision;

/// What an `initialize` asks for.
#[derive(Debug)]
pub struct Initialize {
    /// The revision that will be spoken.
    pub revision: Revision,
    /// What the client says of itself.
    pub client: ClientMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeParams {
    protocol_version: String,
    #[serde(default)]
    capabilities: Option<Box<RawValue>>,
    #[serde(default)]
    client_info: Option<Box<RawValue>>,
}

/// Reads the parameters of an `initialize`.
///
/// # Errors
/// [`Cause::InvalidParams`] when they are missing or not of the protocol's form.
pub fn read_initialize(params: Option<&RawValue>) -> Result<Initialize, Failure> {
    let invalid = |text: &str| Failure::say(Cause::InvalidParams, text);
    let raw = params.ok_or_else(|| invalid("initialize needs params"))?;
    let params: InitializeParams = serde_json::from_str(raw.get()).map_err(|_| {
        invalid("initialize needs params.protocolVersion, capabilities and clientInfo")
    })?;
    let object = |raw: &RawValue| raw.get().starts_with('{');
    let capabilities = params
        .capabilities
        .filter(|raw| object(raw))
        .ok_or_else(|| invalid("params.capabilities must be an object"))?;
    if params
        .client_info
        .as_deref()
        .is_some_and(|raw| !object(raw))
    {
        return Err(invalid("params.clientInfo must be an object"));
    }
    Ok(Initialize {
        revision: Revision::negotiate(&params.protocol_version),
        client: ClientMeta {
            info: params.client_info,
            capabilities,
        },
    })
}

/// Makes the result of `initialize` from that of `server/discover`.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when the discover result lacks what the protocol demands.
pub fn initialize_result(
    discover: &RawValue,
    revision: Revision,
) -> Result<Box<RawValue>, Failure> {
    #[derive(Deserialize)]
    struct Discover {
        capabilities: Box<RawValue>,
        #[serde(default)]
        instructions: Option<String>,
        #[serde(rename = "_meta", default)]
        meta: Option<Box<RawValue>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized<'a> {
        protocol_version: &'a str,
        capabilities: &'a RawValue,
        server_info: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        instructions: Option<&'a str>,
    }
    let upstream = || Failure::new(Cause::UpstreamInvalid);
    let discover: Discover = serde_json::from_str(discover.get()).map_err(|_| upstream())?;
    let meta = discover.meta.as_deref().ok_or_else(upstream)?;
    let meta = Members::parse(meta).map_err(|_| upstream())?;
    let server_info = meta.get(META_SERVER_INFO).ok_or_else(upstream)?;
    serde_json::value::to_raw_value(&Initialized {
        protocol_version: revision.as_str(),
        capabilities: &discover.capabilities,
        server_info,
        instructions: discover.instructions.as_deref(),
    })
    .map_err(|_| Failure::new(Cause::Internal))
}

/// Drops from a result what only 2026-07-28 knows: `resultType`, `ttlMs`, `cacheScope`, and the server's
/// name in `_meta`.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when the result is no object.
pub fn legacy_result(result: &RawValue) -> Result<Box<RawValue>, Failure> {
    let upstream = |_| Failure::new(Cause::UpstreamInvalid);
    let mut members = Members::parse(result).map_err(upstream)?;
    for modern in ["resultType", "ttlMs", "cacheScope"] {
        members.remove(modern);
    }
    let stripped = match members.get("_meta") {
        None => None,
        Some(raw) => {
            let mut meta = Members::parse(raw).map_err(upstream)?;
            meta.remove(META_SERVER_INFO);
            Some((meta.is_empty(), meta.to_raw()))
        }
    };
    match stripped {
        Some((true, _)) => members.remove("_meta"),
        Some((false, meta)) => members.set("_meta", meta),
        None => {}
    }
    Ok(members.to_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn discover_becomes_the_answer_to_initialize() {
        let discover = raw(
            r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}},"instructions":"hi","ttlMs":5,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}}}"#,
        );
        insta::assert_snapshot!(
            initialize_result(&discover, Revision::V2025_03_26).unwrap().get(),
            @r#"{"protocolVersion":"2025-03-26","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"s","version":"1"},"instructions":"hi"}"#
        );
    }

    #[test]
    fn legacy_results_lose_only_the_modern_members() {
        for (modern, legacy) in [
            (
                r#"{"resultType":"complete","content":[],"x":1.0,"_meta":{"io.modelcontextprotocol/serverInfo":{},"a":1}}"#,
                r#"{"content":[],"x":1.0,"_meta":{"a":1}}"#,
            ),
            (
                r#"{"tools":[],"ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{}}}"#,
                r#"{"tools":[]}"#,
            ),
        ] {
            assert_eq!(legacy_result(&raw(modern)).unwrap().get(), legacy);
        }
        assert_eq!(
            legacy_result(&raw("[]")).unwrap_err().cause,
            Cause::UpstreamInvalid
        );
    }

    #[test]
    fn initialize_must_say_what_the_client_can_do() {
        for params in [
            "{}",
            "[]",
            r#"{"protocolVersion":1,"capabilities":{}}"#,
            r#"{"protocolVersion":"2025-11-25"}"#,
            r#"{"protocolVersion":"2025-11-25","capabilities":[]}"#,
            r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":"x"}"#,
        ] {
            let failure = read_initialize(Some(&raw(params))).unwrap_err();
            assert_eq!(failure.cause, Cause::InvalidParams, "{params}");
        }
        assert!(read_initialize(None).is_err());
    }
}
