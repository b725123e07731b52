//! `initialize` of the older era and `server/discover` of the newer, each made from the other.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::call::{ClientMeta, META_SERVER_INFO};
use crate::capability::without_tasks;
use crate::failure::{Cause, Failure};
use crate::members::{Members, is_object, raw_of};
use crate::revision::Revision;

use super::result::{CacheHint, put_modern};
use super::tasks;

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
    let params: InitializeParams = is_object(raw)
        .then(|| serde_json::from_str(raw.get()).ok())
        .flatten()
        .ok_or_else(|| {
            invalid("initialize needs params.protocolVersion, capabilities and clientInfo")
        })?;
    let capabilities = params
        .capabilities
        .filter(|raw| is_object(raw))
        .ok_or_else(|| invalid("params.capabilities must be an object"))?;
    if params
        .client_info
        .as_deref()
        .is_some_and(|raw| !is_object(raw))
    {
        return Err(invalid("params.clientInfo must be an object"));
    }
    Ok(Initialize {
        revision: Revision::negotiate(&params.protocol_version),
        client: ClientMeta {
            info: params.client_info,
            // Whether it reads tasks is known from what it asks for.
            capabilities: without_tasks(&capabilities),
        },
    })
}

/// Makes the parameters of the `initialize` that a server of the older era is greeted with.
#[must_use]
pub fn initialize_params(
    revision: Revision,
    client_info: &RawValue,
    capabilities: &RawValue,
) -> Box<RawValue> {
    let mut params = Members::default();
    params.push("protocolVersion", raw_of(revision.as_str()));
    params.push("capabilities", without_tasks(capabilities));
    params.push("clientInfo", client_info.to_owned());
    params.to_raw()
}

/// What a server of the older era said of itself.
#[derive(Debug, Clone)]
pub struct OldServer {
    /// The revision it chose.
    pub revision: Revision,
    /// What it can do, as it said.
    pub capabilities: Box<RawValue>,
    /// Its name and version, as it said.
    pub info: Box<RawValue>,
    /// How to use it.
    pub instructions: Option<String>,
}

impl OldServer {
    /// Reads the result of `initialize`.
    ///
    /// # Errors
    /// [`Cause::UpstreamInvalid`] when it lacks what the protocol demands, or names a revision that does
    /// not begin with `initialize`.
    pub fn read(result: &RawValue) -> Result<OldServer, Failure> {
        let invalid = || Failure::new(Cause::UpstreamInvalid);
        let members = Members::parse(result).map_err(|_| invalid())?;
        let object = |name: &str| {
            members
                .get(name)
                .filter(|raw| is_object(raw))
                .map(RawValue::to_owned)
                .ok_or_else(invalid)
        };
        let revision = members
            .get_str("protocolVersion")
            .and_then(|text| Revision::parse(&text))
            .filter(|revision| *revision <= Revision::LATEST_LEGACY)
            .ok_or_else(invalid)?;
        Ok(OldServer {
            revision,
            capabilities: object("capabilities")?,
            info: object("serverInfo")?,
            instructions: members.get_str("instructions"),
        })
    }

    /// Makes the result of `server/discover`. `hint` is the operator's word, since the server has none.
    #[must_use]
    pub fn discover_result(&self, hint: CacheHint) -> Box<RawValue> {
        let mut result = Members::default();
        result.push("supportedVersions", raw_of(&[Revision::LATEST.as_str()]));
        let mut capabilities = without_tasks(&self.capabilities);
        if tasks::is_taken_by(&self.capabilities) {
            capabilities = tasks::declared(&capabilities);
        }
        result.push("capabilities", capabilities);
        if let Some(instructions) = &self.instructions {
            result.push("instructions", raw_of(instructions));
        }
        put_modern(&mut result, Some(hint), Some(&self.info));
        result.to_raw()
    }
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
        capabilities: &older_capabilities(&discover.capabilities, revision),
        server_info: &older_info(server_info, revision),
        instructions: discover.instructions.as_deref(),
    })
    .map_err(|_| Failure::new(Cause::Internal))
}

/// Tasks stand elsewhere in 2025-11-25, and nowhere before.
fn older_capabilities(capabilities: &RawValue, revision: Revision) -> Box<RawValue> {
    let older = without_tasks(capabilities);
    if revision < Revision::V2025_11_25 || !tasks::is_extension_of(capabilities) {
        return older;
    }
    let mut members = Members::parse(&older).unwrap_or_default();
    members.set("tasks", tasks::legacy_capability());
    members.to_raw()
}

/// A server's name without what the revision does not know.
fn older_info(info: &RawValue, revision: Revision) -> Box<RawValue> {
    let Ok(mut members) = Members::parse(info) else {
        return info.to_owned();
    };
    if revision < Revision::V2025_11_25 {
        for newer in ["icons", "description", "websiteUrl"] {
            members.remove(newer);
        }
    }
    if revision < Revision::V2025_06_18 {
        members.remove("title");
    }
    members.to_raw()
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
    fn an_old_servers_initialize_becomes_discover_and_back() {
        let text = r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{},"tasks":{"list":{}},"experimental":{"x":{"n":1.0}}},"serverInfo":{"name":"s","version":"1","title":"S"},"instructions":"hi"}"#;
        let server = OldServer::read(&raw(text)).unwrap();
        let discover = server.discover_result(CacheHint::NONE);
        insta::assert_snapshot!(
            discover.get(),
            @r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"experimental":{"x":{"n":1.0}}},"instructions":"hi","resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1","title":"S"}}}"#
        );
        insta::assert_snapshot!(
            initialize_result(&discover, Revision::V2024_11_05).unwrap().get(),
            @r#"{"protocolVersion":"2024-11-05","capabilities":{"tools":{},"experimental":{"x":{"n":1.0}}},"serverInfo":{"name":"s","version":"1"},"instructions":"hi"}"#
        );
        for bad in [
            "{}",
            r#"{"protocolVersion":"2026-07-28","capabilities":{},"serverInfo":{}}"#,
            r#"{"protocolVersion":"2025-06-18","capabilities":[],"serverInfo":{}}"#,
        ] {
            assert!(OldServer::read(&raw(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn tasks_are_announced_as_each_era_has_them() {
        let old = |tasks: &str| {
            let text = format!(
                r#"{{"protocolVersion":"2025-11-25","capabilities":{{"tasks":{tasks}}},"serverInfo":{{"name":"s","version":"1"}}}}"#
            );
            OldServer::read(&raw(&text))
                .unwrap()
                .discover_result(CacheHint::NONE)
        };
        let takes = old(r#"{"requests":{"tools":{"call":{}}}}"#);
        assert!(
            takes
                .get()
                .contains(r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#)
        );
        assert!(!old(r#"{"list":{}}"#).get().contains("tasks"));
        let newest = initialize_result(&takes, Revision::V2025_11_25).unwrap();
        let told =
            r#""capabilities":{"tasks":{"cancel":{},"list":{},"requests":{"tools":{"call":{}}}}}"#;
        assert!(newest.get().contains(told), "{newest}");
        let older = initialize_result(&takes, Revision::V2025_06_18).unwrap();
        assert!(older.get().contains(r#""capabilities":{}"#), "{older}");
    }

    #[test]
    fn an_old_server_is_greeted_in_its_own_words() {
        let params = initialize_params(
            Revision::V2025_03_26,
            &raw(r#"{"name":"g","version":"1"}"#),
            &raw(r#"{"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#),
        );
        assert_eq!(
            params.get(),
            r#"{"protocolVersion":"2025-03-26","capabilities":{"roots":{}},"clientInfo":{"name":"g","version":"1"}}"#
        );
        assert_eq!(
            read_initialize(Some(&params)).unwrap().revision,
            Revision::V2025_03_26
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
