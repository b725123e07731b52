//! A request to its answer.
//!
//! HTTP statuses speak of the HTTP request and of this app: a plugin that is down or answers nonsense is told in the JSON-RPC
//! error under 200, since the app itself is well and other tools of it can be called.

use std::{sync::Arc, time::SystemTime};

use axum::response::Response;
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue, StatusCode};
use mcp::{
    Cause, Failure, Id, Method, Outcome, Revision,
    call::{META_CLIENT_CAPABILITIES, META_SERVER_INFO},
    envelope, headers,
    members::Members,
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use tokio_util::sync::CancellationToken;

use super::{
    Server, Story, changes,
    intake::{self, Request, Wanted},
    rounds,
    stream::{self, Finished},
};
use crate::plugin::{
    Answer, CallContext, Client, Scopes,
    catalogue::{Catalogue, List, capabilities},
    mirror,
    notices::{Heard, Level, Notices, Wishes},
};

/// The member of `params._meta` that says which log messages the client wants.
const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// Serves a `POST /mcp` of the newer era.
pub(crate) async fn serve(
    server: &Server,
    story: &Arc<Story>,
    head: HeaderMap,
    body: Bytes,
) -> Response {
    let accepts = match intake::media(&head) {
        Ok(accepts) => accepts,
        Err(failure) => return story.fail(&failure),
    };
    let request = match intake::read(&head, &body) {
        Ok(Wanted::Request(request)) => request,
        Ok(Wanted::Notification) => return accepted(story).into_json(),
        Err(refusal) => {
            story.facts().id = refusal.id;
            return story.fail(&refusal.failure);
        }
    };
    note(server, story, &request);
    if request.method.as_str() == intake::LISTEN {
        return match client(&head, &request.params) {
            Ok(client) => changes::open(server, story, accepts, request, &client),
            Err(failure) => story.fail(&failure),
        };
    }
    let checks = match head.contains_key(headers::HEADLESS) {
        true => Mirrors::None,
        false => Mirrors::Checked,
    };
    match begin(server, story, &head, &body, request, checks) {
        Ok(begun) => stream::respond(server, story, accepts, begun).await,
        Err(failure) => story.fail(&failure),
    }
}

/// Whether arguments that a tool wants in headers are looked for there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mirrors {
    /// The request has a head from outside.
    Checked,
    /// The request was made in this process, or at an edge from one that had no head.
    None,
}

/// Work that is under way, and what it says before its end.
pub(crate) struct Begun {
    /// Dropping it cancels the work.
    pub(crate) work: BoxFuture<'static, Finished>,
    /// What the client wants to hear before.
    pub(crate) heard: Option<Heard>,
}

/// Begins to answer a request that wants one answer. `body` is what it was read from.
///
/// # Errors
/// [`Cause::InvalidParams`] when `_meta` wishes what cannot be.
pub(crate) fn begin(
    server: &Server,
    story: &Arc<Story>,
    head: &HeaderMap,
    body: &Bytes,
    request: Request<'_>,
    mirrors: Mirrors,
) -> Result<Begun, Failure> {
    if !takes_time(&request.method) {
        let listed = list(&server.mounts.seen_by(&Scopes::read(head)), &request);
        let finished = succeed_or_fail(story, &request.id, listed);
        return Ok(Begun {
            work: std::future::ready(finished).boxed(),
            heard: None,
        });
    }
    let wishes = wishes(&request.params)?;
    let client = client(head, &request.params)?;
    let (notices, heard) = match Notices::open(wishes) {
        Some((notices, heard)) => (notices, Some(heard)),
        None => (Notices::default(), None),
    };
    if mirrors == Mirrors::Checked
        && let Err(failure) = mirrored(server, head, &request)
    {
        let finished = finish(story, &request.id, Err(failure));
        return Ok(Begun {
            work: std::future::ready(finished).boxed(),
            heard: None,
        });
    }
    drop(request);
    let (server, story, body) = (server.clone(), Arc::clone(story), body.clone());
    let work = async move { work(&server, &story, &body, client, notices).await };
    Ok(Begun {
        work: work.boxed(),
        heard,
    })
}

fn accepted(story: &Story) -> Finished {
    story.facts().outcome = Some(Outcome::Ok);
    Finished {
        status: StatusCode::ACCEPTED,
        outcome: Outcome::Ok,
        body: Vec::new(),
    }
}

/// Tells the story what is asked.
pub(crate) fn note(server: &Server, story: &Story, request: &Request<'_>) {
    let catalogue = server.mounts.catalogue();
    let mut facts = story.facts();
    facts.id = Some(request.id.clone());
    facts.method = request.method.label();
    facts.tool = request
        .name
        .as_deref()
        .filter(|name| {
            request.method == Method::ToolsCall && catalogue.find(List::Tools, name).is_some()
        })
        .map(str::to_owned);
}

/// Whether a plugin must be asked.
fn takes_time(method: &Method) -> bool {
    !matches!(
        method,
        Method::Discover
            | Method::ToolsList
            | Method::PromptsList
            | Method::ResourcesList
            | Method::ResourceTemplatesList
    )
}

fn list(catalogue: &Catalogue, request: &Request<'_>) -> Result<Arc<RawValue>, Failure> {
    let list = match request.method {
        Method::ToolsList => List::Tools,
        Method::PromptsList => List::Prompts,
        Method::ResourcesList => List::Resources,
        Method::ResourceTemplatesList => List::Templates,
        _ => return discover(catalogue),
    };
    let params = &request.params;
    let cursor = params
        .get("cursor")
        .map(|_| params.get_str("cursor").unwrap_or_default());
    catalogue.page(list, cursor.as_deref())
}

fn discover(catalogue: &Catalogue) -> Result<Arc<RawValue>, Failure> {
    let freshness = catalogue.freshness();
    let result = json!({
        "resultType": "complete",
        "supportedVersions": [Revision::LATEST.as_str()],
        "capabilities": capabilities(catalogue),
        "ttlMs": freshness.ttl_ms,
        "cacheScope": freshness.scope.as_str(),
        "_meta": {META_SERVER_INFO: crate::server_info()},
    });
    let result = to_raw_value(&result).map_err(|_| Failure::new(Cause::Internal))?;
    Ok(result.into())
}

/// Asks a plugin. Dropping the future cancels the work.
async fn work(
    server: &Server,
    story: &Story,
    body: &[u8],
    client: Arc<Client>,
    notices: Notices,
) -> Finished {
    // Read once more instead of being kept: the request borrows from the body. Its head was looked at before.
    let Ok(request) = intake::read_own(body) else {
        return story.failed(&Failure::new(Cause::Internal));
    };
    let context = CallContext {
        request_id: story.request_id.clone(),
        trace: story.trace.clone(),
        deadline: story.deadline(),
        cancelled: CancellationToken::new(),
        client,
        notices,
    };
    let id = request.id.clone();
    let asked = rounds::ask(server, request, context, SystemTime::now()).await;
    finish(story, &id, asked)
}

/// Checks the `Mcp-Param-*` headers of a tool call.
fn mirrored(server: &Server, head: &HeaderMap, request: &Request<'_>) -> Result<(), Failure> {
    let catalogue = server.mounts.seen_by(&Scopes::read(head));
    let entry = match (&request.method, &request.name) {
        (Method::ToolsCall, Some(name)) => catalogue.find(List::Tools, name),
        _ => None,
    };
    match entry {
        Some(entry) if !entry.mirrors.is_empty() => {
            mirror::check(head, &entry.mirrors, request.params.get("arguments"))
        }
        _ => Ok(()),
    }
}

/// Who asks, by the edge's word and its own.
///
/// # Errors
/// [`Cause::InvalidParams`] when `_meta` is no object.
pub(crate) fn client(head: &HeaderMap, params: &Members<'_>) -> Result<Arc<Client>, Failure> {
    let meta = meta(params)?;
    let said = |name: &str| {
        head.get(name)
            .map(HeaderValue::as_bytes)
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    };
    let capabilities = meta
        .get(META_CLIENT_CAPABILITIES)
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    Ok(Arc::new(Client {
        principal: said(headers::PRINCIPAL),
        tenant: said(headers::TENANT),
        scopes: Scopes::read(head),
        capabilities,
    }))
}

fn wishes(params: &Members<'_>) -> Result<Wishes, Failure> {
    let meta = meta(params)?;
    let invalid = |text: String| Failure::say(Cause::InvalidParams, text);
    let token = meta.get("progressToken");
    if token.is_some_and(|raw| {
        !raw.get()
            .starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
    }) {
        return Err(invalid(
            "params._meta.progressToken must be a string or a number".into(),
        ));
    }
    let log_level = match meta.get(META_LOG_LEVEL) {
        None => None,
        Some(_) => Some(
            meta.get_str(META_LOG_LEVEL)
                .and_then(|word| word.parse::<Level>().ok())
                .ok_or_else(|| {
                    invalid(format!(
                        "params._meta[\"{META_LOG_LEVEL}\"] is no log level"
                    ))
                })?,
        ),
    };
    Ok(Wishes {
        progress_token: token.map(ToOwned::to_owned),
        log_level,
    })
}

fn meta<'a>(params: &'a Members<'_>) -> Result<Members<'a>, Failure> {
    params.get("_meta").map_or_else(
        || Ok(Members::default()),
        |raw| {
            Members::parse(raw)
                .map_err(|_| Failure::say(Cause::InvalidParams, "params._meta must be an object"))
        },
    )
}

fn finish(story: &Story, id: &Id, asked: Result<Answer, Failure>) -> Finished {
    match asked {
        Ok(Answer::Result(result)) => {
            let outcome = if is_error(&result) {
                Outcome::ToolError
            } else {
                Outcome::Ok
            };
            succeed(story, id, &result, outcome)
        }
        Ok(Answer::Error(error)) => {
            let mut facts = story.facts();
            facts.outcome = Some(Outcome::Error);
            facts.origin = mcp::Origin::Upstream.as_str();
            facts.cause = "PluginError";
            drop(facts);
            Finished {
                status: status_of(&error),
                outcome: Outcome::Error,
                body: envelope::write_error(id, &error),
            }
        }
        // `rounds` has put them to the client as a result.
        Ok(Answer::Questions(_)) => story.failed(&Failure::new(Cause::Internal)),
        Err(failure) => match failure.cause {
            Cause::NoBackend
            | Cause::UpstreamBroken
            | Cause::UpstreamInvalid
            | Cause::Overloaded => story.failed_with(&failure, StatusCode::OK),
            _ => story.failed(&failure),
        },
    }
}

/// A plugin's error is told under 200, save one that the specification gives a status.
fn status_of(error: &RawValue) -> StatusCode {
    let code = Members::parse(error)
        .ok()
        .and_then(|error| error.get("code")?.get().parse::<i64>().ok());
    if code == Some(Cause::MissingCapability.code()) {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::OK
    }
}

fn succeed_or_fail(story: &Story, id: &Id, listed: Result<Arc<RawValue>, Failure>) -> Finished {
    match listed {
        Ok(result) => succeed(story, id, &result, Outcome::Ok),
        Err(failure) => story.failed(&failure),
    }
}

fn succeed(story: &Story, id: &Id, result: &RawValue, outcome: Outcome) -> Finished {
    story.facts().outcome = Some(outcome);
    Finished {
        status: StatusCode::OK,
        outcome,
        body: envelope::write_result(id, result),
    }
}

fn is_error(result: &RawValue) -> bool {
    Members::parse(result).is_ok_and(|members| {
        members
            .get("isError")
            .is_some_and(|flag| flag.get() == "true")
    })
}
