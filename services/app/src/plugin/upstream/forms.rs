//! Requests and answers between the form inside the fleet (2026-07-28) and the era of a server. Pure.
//!
//! | towards a legacy server | from a legacy server |
//! |---|---|
//! | the client's identity, capabilities and log level leave `_meta` | `resultType: complete` |
//! | `inputResponses` and `requestState` are dropped | a `resources/read` is stale at once and private |
//! | | error -32002 (no such resource) becomes -32602 |
//!
//! A server of either era is told in `_meta` for which request it works; what a client says there of itself in our name is not
//! passed on.

use mcp::{
    Era, Failure, Method,
    call::{META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_VERSION},
    failure::Cause,
    members::{Members, raw_of},
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::plugin::{Ask, CallContext, Client, Scope};

/// The member of `_meta` that carries the request's ID to upstream servers.
pub(crate) const META_REQUEST_ID: &str = "dev.sweetmcp/requestId";
/// The member of `_meta` that says how many milliseconds somebody still waits.
const META_DEADLINE: &str = "dev.sweetmcp/deadlineMs";
/// The member of `_meta` that says who calls, in which language, and with which flags.
const META_CALLER: &str = "dev.sweetmcp/caller";
/// The member of `_meta` that says which log messages the client wants.
pub(crate) const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// What a legacy server answers when a resource is not there.
const LEGACY_NO_RESOURCE: i64 = -32002;

/// Makes the parameters of a request to a server from those of the client's. `token` is the connection's own progress token:
/// those of different clients may be equal.
///
/// # Errors
/// [`Cause::InvalidParams`] when `_meta` is no object.
pub(crate) fn params_for_server(
    ask: &Ask<'_>,
    era: Era,
    token: u64,
) -> Result<Box<RawValue>, Failure> {
    let mut params = ask.params.clone();
    if let Some(member) = ask.method.name_member() {
        params.set(member, string(ask.key)?);
    }
    let given = params.get("_meta").map(ToOwned::to_owned);
    let meta = meta_for_server(given.as_deref(), &ask.context, era, token)?;
    if era == Era::Legacy {
        params.remove("inputResponses");
        params.remove("requestState");
    }
    params.set("_meta", meta);
    Ok(params.to_raw())
}

fn meta_for_server(
    given: Option<&RawValue>,
    context: &CallContext,
    era: Era,
    token: u64,
) -> Result<Box<RawValue>, Failure> {
    let mut meta = match given {
        None => Members::default(),
        Some(raw) => Members::parse(raw)
            .map_err(|_| Failure::say(Cause::InvalidParams, "params._meta must be an object"))?,
    };
    meta.remove("progressToken");
    if context.notices.wants_progress() {
        let token = to_raw_value(&token).map_err(|_| Failure::new(Cause::Internal))?;
        meta.set("progressToken", token);
    }
    if era == Era::Legacy {
        for modern in [
            META_VERSION,
            META_CLIENT_INFO,
            META_CLIENT_CAPABILITIES,
            META_LOG_LEVEL,
        ] {
            meta.remove(modern);
        }
    }
    meta.set(META_REQUEST_ID, string(context.request_id.as_str())?);
    let left_ms = u64::try_from(context.time_left().as_millis()).unwrap_or(u64::MAX);
    meta.set(META_DEADLINE, raw_of(&left_ms));
    match context.told_client() {
        Some(client) => meta.set(META_CALLER, raw_of(&Caller::of(client))),
        None => meta.remove(META_CALLER),
    }
    meta.set("traceparent", string(&context.trace.child().traceparent())?);
    let rest = [
        ("tracestate", context.trace.tracestate()),
        ("baggage", context.trace.baggage()),
    ];
    for (member, value) in rest {
        match value {
            Some(value) => meta.set(member, string(value)?),
            None => meta.remove(member),
        }
    }
    Ok(meta.to_raw())
}

/// Who calls, as servers are told.
#[derive(Serialize)]
struct Caller<'a> {
    principal: &'a str,
    tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    locale: Option<&'a str>,
    flags: &'a [String],
}

impl<'a> Caller<'a> {
    fn of(client: &'a Client) -> Self {
        Self {
            principal: &client.principal,
            tenant: &client.tenant,
            locale: client.locale.as_deref(),
            flags: &client.flags,
        }
    }
}

/// Makes a result of 2026-07-28 from a server's.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when it is no object.
pub(crate) fn result_from_server(
    result: Box<RawValue>,
    method: &Method,
) -> Result<Box<RawValue>, Failure> {
    let mut members = Members::parse(&result)
        .map_err(|_| Failure::say(Cause::UpstreamInvalid, "the plugin's result is no object"))?;
    let cacheable = *method == Method::ResourcesRead;
    let complete =
        members.get("resultType").is_some() && (!cacheable || members.get("ttlMs").is_some());
    if complete {
        return Ok(result);
    }
    if members.get("resultType").is_none() {
        members.set("resultType", string("complete")?);
    }
    if cacheable && members.get("ttlMs").is_none() {
        members.set(
            "ttlMs",
            to_raw_value(&0).map_err(|_| Failure::new(Cause::Internal))?,
        );
        members.set("cacheScope", string("private")?);
    }
    Ok(members.to_raw())
}

/// Narrows who may share a result to `scope`, whatever the server says itself.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when it is no object.
pub(crate) fn within(result: Box<RawValue>, scope: Scope) -> Result<Box<RawValue>, Failure> {
    if scope == Scope::Public || !result.get().contains("cacheScope") {
        return Ok(result);
    }
    let mut members = Members::parse(&result).map_err(|_| Failure::new(Cause::UpstreamInvalid))?;
    if members.get("cacheScope").is_none() {
        return Ok(result);
    }
    members.set("cacheScope", string(scope.as_str())?);
    Ok(members.to_raw())
}

/// Makes an error of 2026-07-28 from a server's.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when it has no code and message.
pub(crate) fn error_from_server(error: Box<RawValue>) -> Result<Box<RawValue>, Failure> {
    let invalid = || {
        Failure::say(
            Cause::UpstreamInvalid,
            "the plugin's error has no code and message",
        )
    };
    let mut members = Members::parse(&error).map_err(|_| invalid())?;
    let code: i64 = members
        .get("code")
        .and_then(|raw| raw.get().parse().ok())
        .filter(|_| members.get_str("message").is_some())
        .ok_or_else(invalid)?;
    if code != LEGACY_NO_RESOURCE {
        return Ok(error);
    }
    let code =
        to_raw_value(&Cause::InvalidParams.code()).map_err(|_| Failure::new(Cause::Internal))?;
    members.set("code", code);
    Ok(members.to_raw())
}

fn string(text: &str) -> Result<Box<RawValue>, Failure> {
    to_raw_value(text).map_err(|_| Failure::new(Cause::Internal))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use telemetry::{RequestId, trace::TraceContext};

    use super::*;
    use crate::plugin::{
        Telling,
        notices::{Notices, Wishes},
    };

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_server_sees_its_own_name_and_what_its_era_knows() {
        const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-";
        let parent = format!("{PARENT}00f067aa0ba902b7-01");
        let trace = TraceContext::from_text(Some(&parent), None, None).unwrap();
        let params = raw(
            r#"{"name":"x_add","arguments":{"a":1.0},"requestState":"s","_meta":{"io.modelcontextprotocol/clientInfo":{},"progressToken":1,"vendor/x":2,"dev.sweetmcp/caller":{"principal":"root"}}}"#,
        );
        let wishes = Wishes {
            progress_token: Some(raw("1")),
            ..Wishes::default()
        };
        let (wanted, _heard) = Notices::open(wishes).unwrap();
        let client = Client {
            principal: "ana".to_owned(),
            tenant: "acme".to_owned(),
            locale: Some("de-CH".to_owned()),
            flags: vec!["dark".to_owned()],
            ..Client::default()
        };
        let client = std::sync::Arc::new(client);
        for (era, telling, want) in [
            (
                Era::Legacy,
                Telling::Caller,
                r#"{"name":"add","arguments":{"a":1.0},"_meta":{"vendor/x":2,"dev.sweetmcp/caller":{"principal":"ana","tenant":"acme","locale":"de-CH","flags":["dark"]},"progressToken":42,"dev.sweetmcp/requestId":"r-1","dev.sweetmcp/deadlineMs":0,"traceparent":"TRACE"}}"#,
            ),
            (
                Era::Modern,
                Telling::Request,
                r#"{"name":"add","arguments":{"a":1.0},"requestState":"s","_meta":{"io.modelcontextprotocol/clientInfo":{},"vendor/x":2,"progressToken":42,"dev.sweetmcp/requestId":"r-1","dev.sweetmcp/deadlineMs":0,"traceparent":"TRACE"}}"#,
            ),
        ] {
            let ask = Ask {
                method: &Method::ToolsCall,
                key: "add",
                params: Members::parse(&params).unwrap(),
                context: CallContext {
                    request_id: RequestId::parse(b"r-1").unwrap(),
                    trace: trace.clone(),
                    deadline: Instant::now(),
                    cancelled: tokio_util::sync::CancellationToken::new(),
                    client: std::sync::Arc::clone(&client),
                    notices: wanted.clone(),
                    telling,
                },
            };
            let sent = params_for_server(&ask, era, 42).unwrap();
            let at = sent.get().find(PARENT).expect("the trace goes on");
            let sent = sent.get().replace(&sent.get()[at..at + 55], "TRACE");
            assert_eq!(sent, want);
        }
    }

    #[test]
    fn results_and_errors_take_the_modern_form() {
        for (method, given, want) in [
            (
                Method::ToolsCall,
                r#"{"content":[]}"#,
                r#"{"content":[],"resultType":"complete"}"#,
            ),
            (
                Method::ToolsCall,
                r#"{"resultType":"input_required","requestState":"s"}"#,
                r#"{"resultType":"input_required","requestState":"s"}"#,
            ),
            (
                Method::ResourcesRead,
                r#"{"contents":[]}"#,
                r#"{"contents":[],"resultType":"complete","ttlMs":0,"cacheScope":"private"}"#,
            ),
        ] {
            assert_eq!(result_from_server(raw(given), &method).unwrap().get(), want);
        }
        let error =
            error_from_server(raw(r#"{"code":-32002,"message":"no","data":{"uri":"x"}}"#)).unwrap();
        assert_eq!(
            error.get(),
            r#"{"code":-32602,"message":"no","data":{"uri":"x"}}"#
        );
        assert_eq!(
            result_from_server(raw("[]"), &Method::ToolsCall)
                .unwrap_err()
                .cause,
            Cause::UpstreamInvalid
        );
        assert_eq!(
            error_from_server(raw("{}")).unwrap_err().cause,
            Cause::UpstreamInvalid
        );
    }
}
