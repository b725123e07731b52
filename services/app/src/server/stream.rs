//! An answer on its way: one JSON body when nothing but the result is to be said, server-sent events otherwise.
//!
//! The response begins with the first message that work has for its client. From then on the work lives in the response's
//! body: it is done as the client reads, and dropped with the connection, which is how a client of 2026-07-28 cancels.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use mcp::{Cause, Failure, Outcome, headers};

use super::{Server, Story};
use crate::plugin::notices::Heard;

/// How long a stream may be silent.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What is written then: a comment, which no client takes for a message.
pub(crate) const COMMENT: &[u8] = b":\n\n";

/// What the client takes, by its `Accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// `application/json`
    pub json: bool,
    /// `text/event-stream`
    pub events: bool,
}

/// How a request ended: everything of a response but its form.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: StatusCode,
    pub(crate) outcome: Outcome,
    /// The JSON-RPC response; empty for a notification.
    pub(crate) body: Vec<u8>,
}

impl Finished {
    /// Makes one JSON response, which says how the call ended.
    pub(crate) fn into_json(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let head = response.headers_mut();
        if self.status != StatusCode::ACCEPTED {
            head.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        head.insert(
            headers::OUTCOME,
            HeaderValue::from_static(self.outcome.as_str()),
        );
        response
    }

    fn into_response(self, accepts: Accepts) -> Response {
        // An error of the HTTP request itself is JSON whatever is asked for.
        if accepts.json || self.status != StatusCode::OK {
            return self.into_json();
        }
        let outcome = self.outcome.as_str();
        let mut response = events(Body::from(event(&self.body)));
        response
            .headers_mut()
            .insert(headers::OUTCOME, HeaderValue::from_static(outcome));
        response
    }
}

/// Writes one message as an event.
pub(crate) fn event(message: &[u8]) -> Bytes {
    // A message is one line: line feeds inside strings are escaped in JSON, and none stand between values here.
    const BEFORE: &[u8] = b"event: message\ndata: ";
    let mut text = Vec::with_capacity(BEFORE.len() + message.len() + 2);
    text.extend_from_slice(BEFORE);
    text.extend(message.iter().map(|&byte| match byte {
        // Blank space between JSON values, as an upstream may have written it.
        b'\n' | b'\r' => b' ',
        other => other,
    }));
    text.extend_from_slice(b"\n\n");
    Bytes::from(text)
}

/// Makes the head of a stream of events.
pub(crate) fn events(body: Body) -> Response {
    let mut response = Response::new(body);
    let head = response.headers_mut();
    head.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    head.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    head.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

/// Answers with what `work` comes to, and with what it says before.
pub(crate) async fn respond(
    server: &Server,
    story: &Arc<Story>,
    accepts: Accepts,
    mut work: BoxFuture<'static, Finished>,
    heard: Option<Heard>,
) -> Response {
    let Some(mut heard) = heard.filter(|_| accepts.events) else {
        return work.await.into_response(accepts);
    };
    let first = tokio::select! {
        biased;
        Some(first) = heard.recv() => first,
        finished = &mut work => {
            // What was said and not read yet comes before the result.
            let Ok(first) = heard.try_recv() else {
                return finished.into_response(accepts);
            };
            work = std::future::ready(finished).boxed();
            first
        }
    };
    let under_way = UnderWay {
        work,
        heard,
        story: Arc::clone(story),
        server: server.clone(),
        state: Stage::First(first),
    };
    let stream = futures::stream::unfold(under_way, async |mut under_way| {
        let chunk = under_way.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), under_way))
    });
    events(Body::from_stream(stream))
}

/// Work whose response has begun.
struct UnderWay {
    work: BoxFuture<'static, Finished>,
    heard: Heard,
    story: Arc<Story>,
    server: Server,
    state: Stage,
}

enum Stage {
    First(Vec<u8>),
    Going,
    Over,
}

impl UnderWay {
    async fn next(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.state, Stage::Going) {
            Stage::First(message) => Some(event(&message)),
            Stage::Going => Some(self.go_on().await),
            Stage::Over => {
                self.state = Stage::Over;
                None
            }
        }
    }

    async fn go_on(&mut self) -> Bytes {
        let deadline = self.story.deadline();
        // What work shares with other requests is behind locks that survive a panic, or immutable.
        let work = AssertUnwindSafe(&mut self.work).catch_unwind();
        let finished = tokio::select! {
            biased;
            Some(message) = self.heard.recv() => return event(&message),
            finished = work => finished.unwrap_or_else(|_| {
                self.server.metrics.panics.inc();
                self.story.failed(&Failure::new(Cause::Internal))
            }),
            () = tokio::time::sleep_until(deadline.into()) => {
                self.story.failed(&Failure::new(Cause::Timeout))
            }
            () = tokio::time::sleep(KEEP_ALIVE) => return Bytes::from_static(COMMENT),
        };
        let mut last = Vec::new();
        while let Ok(message) = self.heard.try_recv() {
            last.extend_from_slice(&event(&message));
        }
        last.extend_from_slice(&event(&finished.body));
        self.state = Stage::Over;
        Bytes::from(last)
    }
}
