//! An answer on its way: one JSON body when nothing but the result is to be said, server-sent events otherwise.
//!
//! The response begins with the first message that work has for its client. From then on the work lives in the response's
//! body: it is done as the client reads, and dropped with the connection, which is how a client of 2026-07-28 cancels.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, future::BoxFuture};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use mcp::{Cause, Failure, Outcome, headers};

use tokio::sync::mpsc;

use super::{Server, Story, answer::Begun};
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
    begun: Begun,
) -> Response {
    let Begun { mut work, heard } = begun;
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
    let under_way = UnderWay::new(
        server,
        story,
        Begun {
            work,
            heard: Some(heard),
        },
        Some(first),
    );
    let stream = futures::stream::unfold(under_way, async |mut under_way| {
        let chunk = match under_way.next().await? {
            Said::Message(message) | Said::Response(message) => event(&message),
            Said::Nothing => Bytes::from_static(COMMENT),
        };
        Some((Ok::<_, std::convert::Infallible>(chunk), under_way))
    });
    events(Body::from_stream(stream))
}

/// Returns the messages that work has for its client, the response last. Dropping the stream cancels the work.
pub(crate) fn messages(
    server: &Server,
    story: &Arc<Story>,
    begun: Begun,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let under_way = UnderWay::new(server, story, begun, None);
    futures::stream::unfold(under_way, async |mut under_way| {
        loop {
            match under_way.next().await? {
                Said::Message(message) | Said::Response(message) => {
                    return Some((Bytes::from(message), under_way));
                }
                Said::Nothing => {}
            }
        }
    })
}

/// Work whose client hears of it as it goes.
struct UnderWay {
    work: BoxFuture<'static, Finished>,
    heard: Heard,
    story: Arc<Story>,
    server: Server,
    /// What was said already and not passed on yet.
    first: Option<Vec<u8>>,
    stage: Stage,
}

enum Stage {
    Going,
    /// Everything that was said before the end comes before it.
    Ended(Vec<u8>),
    Over,
}

/// What there is to pass on.
enum Said {
    Message(Vec<u8>),
    /// The last.
    Response(Vec<u8>),
    /// For [`KEEP_ALIVE`].
    Nothing,
}

impl UnderWay {
    fn new(server: &Server, story: &Arc<Story>, begun: Begun, first: Option<Vec<u8>>) -> Self {
        Self {
            work: begun.work,
            // Work that says nothing has no way to say it.
            heard: begun.heard.unwrap_or_else(|| mpsc::channel(1).1),
            story: Arc::clone(story),
            server: server.clone(),
            first,
            stage: Stage::Going,
        }
    }

    async fn next(&mut self) -> Option<Said> {
        if let Some(first) = self.first.take() {
            return Some(Said::Message(first));
        }
        if matches!(self.stage, Stage::Going)
            && let Some(said) = self.go_on().await
        {
            return Some(said);
        }
        match self.heard.try_recv() {
            Ok(message) if matches!(self.stage, Stage::Ended(_)) => Some(Said::Message(message)),
            _ => match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Ended(response) => Some(Said::Response(response)),
                _ => None,
            },
        }
    }

    /// Works on; `None` when the end is there.
    async fn go_on(&mut self) -> Option<Said> {
        let deadline = self.story.deadline();
        // What work shares with other requests is behind locks that survive a panic, or immutable.
        let work = AssertUnwindSafe(&mut self.work).catch_unwind();
        let finished = tokio::select! {
            biased;
            Some(message) = self.heard.recv() => return Some(Said::Message(message)),
            finished = work => finished.unwrap_or_else(|_| {
                self.server.metrics.panics.inc();
                self.story.failed(&Failure::new(Cause::Internal))
            }),
            () = tokio::time::sleep_until(deadline.into()) => {
                self.story.failed(&Failure::new(Cause::Timeout))
            }
            () = tokio::time::sleep(KEEP_ALIVE) => return Some(Said::Nothing),
        };
        self.stage = Stage::Ended(finished.body);
        None
    }
}
