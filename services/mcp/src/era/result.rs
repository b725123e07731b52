//! Results and errors in the form that a revision knows.
//!
//! Towards an older client only what it would stumble over is changed: members that its revision does not
//! have, content of kinds that it does not have (which becomes a kind that it has), values that its
//! schema refuses. Everything else stays as it came.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::call::{META_SERVER_INFO, META_SUBSCRIPTION_ID};
use crate::failure::{Cause, Failure};
use crate::members::{Members, is_object, raw_of};
use crate::method::Method;
use crate::revision::Revision;

/// The error code of a resource that does not exist, until 2025-11-25.
pub const OLD_NOT_FOUND: i64 = -32002;
/// The error code that asks for a visit to a URL, of 2025-11-25.
pub const URL_REQUIRED: i64 = -32042;

/// How long a result may be kept, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheHint {
    /// Milliseconds.
    pub ttl_ms: u64,
    /// For everybody, or only for whom it was made.
    pub scope: CacheScope,
}

/// For whom a result may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheScope {
    /// For everybody.
    Public,
    /// Only within one authorization.
    Private,
}

impl CacheHint {
    /// Not at all: what is said for a server that says nothing.
    pub const NONE: CacheHint = CacheHint {
        ttl_ms: 0,
        scope: CacheScope::Private,
    };
}

fn upstream() -> Failure {
    Failure::new(Cause::UpstreamInvalid)
}

/// Adds what 2026-07-28 wants of a complete result.
pub(crate) fn put_modern(
    result: &mut Members<'_>,
    hint: Option<CacheHint>,
    server_info: Option<&RawValue>,
) {
    if result.get("resultType").is_none() {
        result.push("resultType", raw_of("complete"));
    }
    if let Some(hint) = hint {
        if result.get("ttlMs").is_none() {
            result.push("ttlMs", raw_of(&hint.ttl_ms));
        }
        if result.get("cacheScope").is_none() {
            let scope = match hint.scope {
                CacheScope::Public => "public",
                CacheScope::Private => "private",
            };
            result.push("cacheScope", raw_of(scope));
        }
    }
    if let Some(info) = server_info {
        let before = result.get("_meta").map(RawValue::to_owned);
        let mut meta = before
            .as_deref()
            .and_then(|raw| Members::parse(raw).ok())
            .unwrap_or_default();
        meta.set(META_SERVER_INFO, info.to_owned());
        let meta = meta.to_raw();
        result.set("_meta", meta);
    }
}

/// Gives a result of an older server the form of 2026-07-28.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when it is no object.
pub fn to_modern(
    method: &Method,
    result: &RawValue,
    hint: CacheHint,
    server_info: Option<&RawValue>,
) -> Result<Box<RawValue>, Failure> {
    let mut members = Members::parse(result).map_err(|_| upstream())?;
    put_modern(
        &mut members,
        method.is_cacheable().then_some(hint),
        server_info,
    );
    Ok(members.to_raw())
}

/// Drops from a result what only 2026-07-28 knows: `resultType`, `ttlMs`, `cacheScope`, and in `_meta` the
/// server's name and the subscription.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when the result is no object.
pub fn legacy_result(result: &RawValue) -> Result<Box<RawValue>, Failure> {
    let mut members = Members::parse(result).map_err(|_| upstream())?;
    strip(&mut members)?;
    Ok(members.to_raw())
}

fn strip(members: &mut Members<'_>) -> Result<(), Failure> {
    for modern in ["resultType", "ttlMs", "cacheScope"] {
        members.remove(modern);
    }
    let stripped = match members.get("_meta") {
        None => return Ok(()),
        Some(raw) => {
            let mut meta = Members::parse(raw).map_err(|_| upstream())?;
            meta.remove(META_SERVER_INFO);
            meta.remove(META_SUBSCRIPTION_ID);
            (!meta.is_empty()).then(|| meta.to_raw())
        }
    };
    match stripped {
        None => members.remove("_meta"),
        Some(meta) => members.set("_meta", meta),
    }
    Ok(())
}

/// Gives a complete result of a modern server the form that `revision` knows.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when it is no object.
pub fn to_legacy(
    method: &Method,
    result: &RawValue,
    revision: Revision,
) -> Result<Box<RawValue>, Failure> {
    let mut members = Members::parse(result).map_err(|_| upstream())?;
    strip(&mut members)?;
    match method {
        Method::ToolsList => each(&mut members, "tools", |tool| older_tool(tool, revision)),
        Method::PromptsList => each(&mut members, "prompts", |item| older_item(item, revision)),
        Method::ResourcesList => each(&mut members, "resources", |item| older_item(item, revision)),
        Method::ResourceTemplatesList => {
            each(&mut members, "resourceTemplates", |item| {
                older_item(item, revision)
            });
        }
        Method::ToolsCall => {
            each(&mut members, "content", |block| {
                older_block(block, revision)
            });
            older_structure(&mut members, revision);
        }
        Method::PromptsGet => each(&mut members, "messages", |message| {
            let Some(block) = message.get("content").map(RawValue::to_owned) else {
                return;
            };
            if let Ok(mut block) = Members::parse(&block) {
                older_block(&mut block, revision);
                message.set("content", block.to_raw());
            }
        }),
        _ => {}
    }
    Ok(members.to_raw())
}

/// Changes each object of the array `list`. What is no array of objects stays.
fn each(members: &mut Members<'_>, list: &'static str, change: impl Fn(&mut Members<'_>)) {
    let Some(items) = members
        .get(list)
        .and_then(|raw| serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok())
    else {
        return;
    };
    let changed: Vec<Box<RawValue>> = items
        .into_iter()
        .map(|item| match Members::parse(item) {
            Ok(mut object) => {
                change(&mut object);
                object.to_raw()
            }
            Err(_) => item.to_owned(),
        })
        .collect();
    let changed = raw_of(&changed);
    members.set(list, changed);
}

/// Members that every kind of listed thing got at some time.
fn older_item(item: &mut Members<'_>, revision: Revision) {
    if revision < Revision::V2025_11_25 {
        item.remove("icons");
    }
    if revision < Revision::V2025_06_18 {
        item.remove("title");
        item.remove("_meta");
    }
}

fn older_tool(tool: &mut Members<'_>, revision: Revision) {
    // Older schemas take only objects, and their SDKs refuse the whole list for one that is none.
    let is_object_schema = tool.get("outputSchema").is_none_or(|schema| {
        Members::parse(schema).is_ok_and(|s| s.get_str("type").as_deref() == Some("object"))
    });
    if !is_object_schema || revision < Revision::V2025_06_18 {
        tool.remove("outputSchema");
    }
    if revision == Revision::V2025_03_26 {
        keep_title(tool);
    }
    if revision < Revision::V2025_03_26 {
        tool.remove("annotations");
    }
    if revision < Revision::V2025_11_25 {
        tool.remove("execution");
    }
    older_item(tool, revision);
}

/// Before tools had a title of their own it stood in their annotations.
fn keep_title(tool: &mut Members<'_>) {
    let Some(title) = tool.get("title").map(RawValue::to_owned) else {
        return;
    };
    let annotations = tool.get("annotations").map(RawValue::to_owned);
    let mut annotations = annotations
        .as_deref()
        .and_then(|raw| Members::parse(raw).ok())
        .unwrap_or_default();
    if annotations.get("title").is_none() {
        annotations.push("title", title);
        let annotations = annotations.to_raw();
        tool.set("annotations", annotations);
    }
}

/// Content of a kind that the revision does not have becomes one that it has.
fn older_block(block: &mut Members<'_>, revision: Revision) {
    let kind = block.get_str("type").unwrap_or_default();
    match kind.as_str() {
        "resource_link" if revision < Revision::V2025_06_18 => {
            let uri = block.get_str("uri").unwrap_or_default();
            let name = block.get_str("title").or_else(|| block.get_str("name"));
            let text = match name {
                Some(name) => format!("{name}: {uri}"),
                None => uri,
            };
            replace(block, [("type", raw_of("text")), ("text", raw_of(&text))]);
        }
        "resource_link" if revision < Revision::V2025_11_25 => block.remove("icons"),
        "audio" if revision < Revision::V2025_03_26 => {
            let data = block.get_str("data").unwrap_or_default();
            let mime = block.get_str("mimeType");
            // Clients before audio know embedded resources of any type.
            let mut resource = Members::default();
            let uri = format!("urn:sweetmcp:audio:{}", short_name(&data));
            resource.push("uri", raw_of(&uri));
            resource.push("mimeType", raw_of(mime.as_deref().unwrap_or("audio/*")));
            resource.push("blob", raw_of(&data));
            replace(
                block,
                [
                    ("type", raw_of("resource")),
                    ("resource", resource.to_raw()),
                ],
            );
        }
        _ if revision < Revision::V2025_06_18 => block.remove("_meta"),
        _ => {}
    }
}

/// Tells one recording from another within a result.
fn short_name(data: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(data);
    STANDARD.encode(&digest[..6]).replace(['+', '/'], "-")
}

fn replace<const N: usize>(block: &mut Members<'_>, with: [(&'static str, Box<RawValue>); N]) {
    let annotations = block.get("annotations").map(RawValue::to_owned);
    *block = Members::default();
    for (name, value) in with {
        block.push(name, value);
    }
    if let Some(annotations) = annotations {
        block.push("annotations", annotations);
    }
}

/// Structured content that the revision cannot carry is told as text, unless text tells it already.
fn older_structure(result: &mut Members<'_>, revision: Revision) {
    let Some(structured) = result.get("structuredContent").map(RawValue::to_owned) else {
        return;
    };
    if revision >= Revision::V2025_06_18 && is_object(&structured) {
        return;
    }
    result.remove("structuredContent");
    let mut content: Vec<Box<RawValue>> = result
        .get("content")
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    let told = content.iter().any(|block| {
        Members::parse(block).is_ok_and(|b| b.get_str("type").as_deref() == Some("text"))
    });
    if !told {
        let mut block = Members::default();
        block.push("type", raw_of("text"));
        block.push("text", raw_of(structured.get()));
        content.push(block.to_raw());
    }
    let content = raw_of(&content);
    result.set("content", content);
}

/// Gives an error of a modern server the code that older clients know.
#[must_use]
pub fn error_to_legacy(method: &Method, error: &RawValue) -> Box<RawValue> {
    let Ok(mut members) = Members::parse(error) else {
        return error.to_owned();
    };
    let names_uri = members
        .get("data")
        .and_then(|raw| Members::parse(raw).ok())
        .is_some_and(|data| data.get("uri").is_some());
    if *method == Method::ResourcesRead && names_uri && code(&members) == Some(-32602) {
        members.set("code", raw_of(&OLD_NOT_FOUND));
    }
    members.to_raw()
}

/// Gives an error of an older server the code that 2026-07-28 knows.
#[must_use]
pub fn error_to_modern(params: &Members<'_>, error: &RawValue) -> Box<RawValue> {
    let Ok(mut members) = Members::parse(error) else {
        return error.to_owned();
    };
    if code(&members) == Some(OLD_NOT_FOUND) {
        members.set("code", raw_of(&-32602));
        let data = members.get("data").map(RawValue::to_owned);
        let mut data = data
            .as_deref()
            .and_then(|raw| Members::parse(raw).ok())
            .unwrap_or_default();
        if let (None, Some(uri)) = (data.get("uri"), params.get("uri")) {
            data.push("uri", uri.to_owned());
        }
        let data = data.to_raw();
        members.set("data", data);
    }
    members.to_raw()
}

/// The code of an error object.
pub(crate) fn code(error: &Members<'_>) -> Option<i64> {
    error.get("code").and_then(|raw| raw.get().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
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

    /// A modern result, as it reaches clients of the revisions from the oldest on.
    fn check(method: Method, modern: &str, expected: [&str; 4]) {
        for (revision, expected) in Revision::ALL.into_iter().zip(expected) {
            let result = to_legacy(&method, &raw(modern), revision).unwrap();
            assert_eq!(result.get(), expected, "{revision}");
        }
    }

    #[test]
    fn tools_are_listed_as_the_revision_knows_them() {
        let modern = r#"{"tools":[{"name":"t","title":"T","inputSchema":{"type":"object"},"outputSchema":{"type":"object"},"annotations":{"readOnlyHint":true},"icons":[],"_meta":{},"execution":{"taskSupport":"optional"},"vendor":1.0},7],"nextCursor":"c","ttlMs":1,"cacheScope":"public","resultType":"complete"}"#;
        check(
            Method::ToolsList,
            modern,
            [
                r#"{"tools":[{"name":"t","inputSchema":{"type":"object"},"vendor":1.0},7],"nextCursor":"c"}"#,
                r#"{"tools":[{"name":"t","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true,"title":"T"},"vendor":1.0},7],"nextCursor":"c"}"#,
                r#"{"tools":[{"name":"t","title":"T","inputSchema":{"type":"object"},"outputSchema":{"type":"object"},"annotations":{"readOnlyHint":true},"_meta":{},"vendor":1.0},7],"nextCursor":"c"}"#,
                r#"{"tools":[{"name":"t","title":"T","inputSchema":{"type":"object"},"outputSchema":{"type":"object"},"annotations":{"readOnlyHint":true},"icons":[],"_meta":{},"execution":{"taskSupport":"optional"},"vendor":1.0},7],"nextCursor":"c"}"#,
            ],
        );
        let array = r#"{"tools":[{"name":"t","inputSchema":{},"outputSchema":{"type":"array"}}]}"#;
        check(
            Method::ToolsList,
            array,
            [r#"{"tools":[{"name":"t","inputSchema":{}}]}"#; 4],
        );
    }

    #[test]
    fn prompts_and_resources_are_listed_as_the_revision_knows_them() {
        for (method, list) in [
            (Method::PromptsList, "prompts"),
            (Method::ResourcesList, "resources"),
            (Method::ResourceTemplatesList, "resourceTemplates"),
        ] {
            let with = |members: &str| format!(r#"{{"{list}":[{{"name":"n"{members}}}]}}"#);
            let (bare, titled, full) = (
                with(""),
                with(r#","title":"T","_meta":{}"#),
                with(r#","title":"T","_meta":{},"icons":[]"#),
            );
            check(method, &full, [&bare, &bare, &titled, &full]);
        }
    }

    #[test]
    fn content_of_a_newer_kind_becomes_one_that_the_client_knows() {
        let link = r#"{"type":"resource_link","uri":"file:///a","name":"a","icons":[]}"#;
        let bare = r#"{"type":"resource_link","uri":"file:///a","name":"a"}"#;
        let told = r#"{"type":"text","text":"a: file:///a"}"#;
        let audio = r#"{"type":"audio","data":"AAAA","mimeType":"audio/wav","annotations":{"priority":1.0}}"#;
        let blob = r#"{"type":"resource","resource":{"uri":"urn:sweetmcp:audio:Y8HdlR--","mimeType":"audio/wav","blob":"AAAA"},"annotations":{"priority":1.0}}"#;
        let as_tool = |block: &str| format!(r#"{{"content":[{block}]}}"#);
        let as_prompt =
            |block: &str| format!(r#"{{"messages":[{{"role":"user","content":{block}}}]}}"#);
        for (method, wrap) in [
            (Method::ToolsCall, &as_tool as &dyn Fn(&str) -> String),
            (Method::PromptsGet, &as_prompt),
        ] {
            check(
                method.clone(),
                &wrap(link),
                [&wrap(told), &wrap(told), &wrap(bare), &wrap(link)],
            );
            check(
                method,
                &wrap(audio),
                [&wrap(blob), &wrap(audio), &wrap(audio), &wrap(audio)],
            );
        }
    }

    #[test]
    fn structure_that_cannot_be_carried_is_told_as_text() {
        let told = r#"{"content":[{"type":"text","text":"{\"n\":1.0}"}]}"#;
        let kept = r#"{"content":[],"structuredContent":{"n":1.0}}"#;
        check(Method::ToolsCall, kept, [told, told, kept, kept]);
        let list = r#"{"content":[{"type":"text","text":"[1]"}]}"#;
        check(
            Method::ToolsCall,
            r#"{"content":[],"structuredContent":[1]}"#,
            [list; 4],
        );
        check(
            Method::ToolsCall,
            r#"{"content":[{"type":"text","text":"one"}],"structuredContent":1}"#,
            [r#"{"content":[{"type":"text","text":"one"}]}"#; 4],
        );
    }

    #[test]
    fn old_results_get_what_the_newest_revision_wants() {
        let info = raw(r#"{"name":"s"}"#);
        for (method, old, modern) in [
            (
                Method::ToolsCall,
                r#"{"content":[],"x":1.0}"#,
                r#"{"content":[],"x":1.0,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}}}"#,
            ),
            (
                Method::ToolsList,
                r#"{"tools":[],"_meta":{"k":1}}"#,
                r#"{"tools":[],"_meta":{"k":1,"io.modelcontextprotocol/serverInfo":{"name":"s"}},"resultType":"complete","ttlMs":0,"cacheScope":"private"}"#,
            ),
        ] {
            let result = to_modern(&method, &raw(old), CacheHint::NONE, Some(&info)).unwrap();
            assert_eq!(result.get(), modern);
        }
    }

    #[test]
    fn the_code_of_a_missing_resource_changes_with_the_era() {
        let modern = r#"{"code":-32602,"message":"no","data":{"uri":"a:b"}}"#;
        let old = r#"{"code":-32002,"message":"no","data":{"uri":"a:b"}}"#;
        let params = raw(r#"{"uri":"a:b"}"#);
        let params = Members::parse(&params).unwrap();
        assert_eq!(
            error_to_legacy(&Method::ResourcesRead, &raw(modern)).get(),
            old
        );
        assert_eq!(
            error_to_legacy(&Method::ToolsCall, &raw(modern)).get(),
            modern
        );
        assert_eq!(error_to_modern(&params, &raw(old)).get(), modern);
        let bare = raw(r#"{"code":-32002,"message":"no"}"#);
        assert_eq!(error_to_modern(&params, &bare).get(), modern);
        let other = r#"{"code":-32603,"message":"no"}"#;
        assert_eq!(error_to_modern(&params, &raw(other)).get(), other);
    }
}
