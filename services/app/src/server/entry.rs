//! `/mcp`: whose request it is. One of 2026-07-28 goes to [`answer`], one of an older revision to [`older`].

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header::ALLOW};
use mcp::{Cause, Failure, headers, revision::Era};

use super::{Server, Story, answer, intake, older, older::Older};

/// Serves POST, and the DELETE of a session, within the layers of calls.
pub(crate) async fn call(
    State(server): State<Server>,
    Extension(older): Extension<Arc<Older>>,
    Extension(story): Extension<Arc<Story>>,
    method: Method,
    head: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(failure) = intake::origin(&head) {
        return story.fail(&failure);
    }
    if method == Method::DELETE && !of_session(&head) {
        return wrong_method(Extension(story)).await;
    }
    if method == Method::POST && intake::era(&head, &body) == Era::Modern {
        return answer::serve(&server, &story, head, body).await;
    }
    older::call(&server, &older, &story, method, head, body).await
}

/// Serves GET: the stream of a session, for as long as its client wants.
pub(crate) async fn listen(
    State(server): State<Server>,
    Extension(older): Extension<Arc<Older>>,
    Extension(story): Extension<Arc<Story>>,
    head: HeaderMap,
) -> Response {
    if let Err(failure) = intake::origin(&head) {
        return story.fail(&failure);
    }
    if !of_session(&head) {
        return wrong_method(Extension(story)).await;
    }
    older::listen(&server, &older, &story, head).await
}

/// Whether the request is one of a session: nothing else is there to be read or ended.
fn of_session(head: &HeaderMap) -> bool {
    head.contains_key(headers::SESSION_ID) && intake::era(head, b"") == Era::Legacy
}

/// Refuses any other HTTP method.
pub(crate) async fn wrong_method(story: Extension<Arc<Story>>) -> Response {
    let mut response = story.fail(&Failure::new(Cause::HttpMethod));
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("POST"));
    response
}
