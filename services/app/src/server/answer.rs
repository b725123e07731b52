//! A request to its answer.
//!
//! HTTP statuses speak of the HTTP request and of this app: a plugin that is down or answers nonsense is told in the JSON-RPC
//! error under 200, since the app itself is well and other tools of it can be called.

use std::{sync::Arc, time::Instant};

use axum::{Extension, extract::State, response::Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use mcp::{
    Cause, Failure, Id, Method, Outcome, Revision, call::META_SERVER_INFO, envelope,
    members::Members,
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use tokio_util::sync::CancellationToken;

use super::{
    Server, Story,
    intake::{self, Request, Wanted},
    story::json,
};
use crate::plugin::{
    Answer, CallContext,
    catalogue::{List, capabilities},
};

/// Serves `POST /mcp`.
pub(crate) async fn serve(
    State(server): State<Server>,
    Extension(story): Extension<Arc<Story>>,
    head: HeaderMap,
    body: Bytes,
) -> Response {
    match intake::read(&head, &body) {
        Ok(Wanted::Request(request)) => {
            story.facts().id = Some(request.id.clone());
            answer(&server, &story, request).await
        }
        Ok(Wanted::Notification) => accepted(&story),
        Err(refusal) => {
            story.facts().id = refusal.id;
            story.fail(&refusal.failure)
        }
    }
}

fn accepted(story: &Story) -> Response {
    story.facts().outcome = Some(Outcome::Ok);
    let mut response = Response::default();
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

async fn answer(server: &Server, story: &Story, request: Request<'_>) -> Response {
    let Request {
        id,
        method,
        name,
        params,
    } = request;
    {
        let mut facts = story.facts();
        facts.method = method.label();
        facts.tool = name
            .as_deref()
            .filter(|name| {
                method == Method::ToolsCall
                    && server.mounts.catalogue().find(List::Tools, name).is_some()
            })
            .map(str::to_owned);
    }
    let list = |list| {
        let cursor = params
            .get("cursor")
            .map(|_| params.get_str("cursor").unwrap_or_default());
        server.mounts.catalogue().page(list, cursor.as_deref())
    };
    let listed = match &method {
        Method::Discover => discover(server),
        Method::ToolsList => list(List::Tools),
        Method::PromptsList => list(List::Prompts),
        Method::ResourcesList => list(List::Resources),
        Method::ResourceTemplatesList => list(List::Templates),
        _ => {
            let name = name.unwrap_or_default();
            let asked = server
                .mounts
                .ask(&method, &name, params, context(story))
                .await;
            return finish(story, &id, asked);
        }
    };
    match listed {
        Ok(result) => succeed(story, &id, &result, Outcome::Ok),
        Err(failure) => story.fail(&failure),
    }
}

fn context(story: &Story) -> CallContext {
    CallContext {
        request_id: story.request_id.clone(),
        trace: story.trace.clone(),
        deadline: story.facts().until.unwrap_or_else(Instant::now),
        cancelled: CancellationToken::new(),
    }
}

fn discover(server: &Server) -> Result<Arc<RawValue>, Failure> {
    let catalogue = server.mounts.catalogue();
    let freshness = catalogue.freshness();
    let result = json!({
        "resultType": "complete",
        "supportedVersions": [Revision::LATEST.as_str()],
        "capabilities": capabilities(&catalogue),
        "ttlMs": freshness.ttl_ms,
        "cacheScope": freshness.scope.as_str(),
        "_meta": {META_SERVER_INFO: crate::server_info()},
    });
    let result = to_raw_value(&result).map_err(|_| Failure::new(Cause::Internal))?;
    Ok(result.into())
}

fn finish(story: &Story, id: &Id, asked: Result<Answer, Failure>) -> Response {
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
            json(
                StatusCode::OK,
                Outcome::Error,
                envelope::write_error(id, &error),
            )
        }
        Err(failure) => match failure.cause {
            Cause::NoBackend
            | Cause::UpstreamBroken
            | Cause::UpstreamInvalid
            | Cause::Overloaded => story.fail_with(&failure, StatusCode::OK),
            _ => story.fail(&failure),
        },
    }
}

fn succeed(story: &Story, id: &Id, result: &RawValue, outcome: Outcome) -> Response {
    story.facts().outcome = Some(outcome);
    json(StatusCode::OK, outcome, envelope::write_result(id, result))
}

fn is_error(result: &RawValue) -> bool {
    Members::parse(result).is_ok_and(|members| {
        members
            .get("isError")
            .is_some_and(|flag| flag.get() == "true")
    })
}
