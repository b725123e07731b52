//! HTTP with server-sent events, the transport of 2024-11-05: one stream carries everything that the server says, and its
//! first event names where messages are posted.
//!
//! That address must be of the stream's own origin: what is posted there carries the credential.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method as Verb};
use mcp::{Revision, headers, incoming::decode, lines::Line};
use reqwest::Url;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    endpoint::{Endpoint, Refusal, is_events},
    events::{Events, Place},
};
use crate::plugin::upstream::{
    Lost,
    connection::{Carrier, Connection, Ears, Request, Sending},
};

/// Requests under way at once on one connection.
const PENDING_MAX: usize = 256;
/// Messages on their way at once for which nobody waits.
const ASIDE_MAX: usize = 64;
/// How long they may take.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DuplexError {
    /// The server cannot be reached, or does not let us in.
    #[error("no stream of events could be had ({0:?})")]
    Lost(Lost),
    /// What is there is no stream of events.
    #[error("there is no stream of events")]
    NoStream,
    /// The first event is not what it must be.
    #[error("the stream does not begin with an endpoint for messages")]
    NoEndpoint,
    /// The endpoint is somebody else's.
    #[error("the endpoint for messages is at another origin than the stream")]
    Elsewhere,
}

/// The way to a server.
#[derive(Debug, Clone)]
struct Duplex(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    /// Where messages are posted.
    messages: Url,
    revision: OnceLock<Revision>,
    aside: Arc<Semaphore>,
}

/// Opens the stream, and learns until `deadline` where messages are posted. The connection closes with the stream.
///
/// # Errors
/// [`DuplexError`] when there is no such stream, or none that can be trusted.
pub(super) async fn connect(
    endpoint: Endpoint,
    ears: Ears,
    deadline: Instant,
) -> Result<Connection, DuplexError> {
    let (mut events, mut place) = (open(&endpoint, deadline).await?, Place::default());
    let first = tokio::time::timeout_at(deadline.into(), events.next(&endpoint, &mut place));
    let first = first.await.unwrap_or(Err(Lost::Late));
    let first = first.map_err(DuplexError::Lost)?;
    if first.name.as_deref() != Some("endpoint") {
        return Err(DuplexError::NoEndpoint);
    }
    let messages = messages_at(&endpoint.url, &first.data)?;
    let (plugin, closed) = (Arc::clone(&endpoint.plugin), CancellationToken::new());
    let way = Duplex(Arc::new(Shared {
        endpoint: endpoint.clone(),
        messages,
        revision: OnceLock::new(),
        aside: Arc::new(Semaphore::new(ASIDE_MAX)),
    }));
    let connection = Connection::new(plugin, Box::new(way), PENDING_MAX, ears, closed);
    tokio::spawn(read_all(connection.clone(), endpoint, events, place));
    Ok(connection)
}

async fn open(endpoint: &Endpoint, deadline: Instant) -> Result<Events, DuplexError> {
    let opened = endpoint.send(Verb::GET, &endpoint.url, HeaderMap::new(), None, None);
    let response = tokio::time::timeout_at(deadline.into(), opened).await;
    let response = response
        .unwrap_or(Err(Lost::Late))
        .map_err(DuplexError::Lost)?;
    if response.status().is_success() && is_events(&response) {
        return Ok(Events::of(response, endpoint.answer_bytes_max));
    }
    match endpoint.refusal(response, false).await {
        Refusal::Lost(lost @ (Lost::Denied | Lost::Busy)) => Err(DuplexError::Lost(lost)),
        _ => Err(DuplexError::NoStream),
    }
}

/// Returns where messages are posted, as the stream at `stream` names it. Pure.
fn messages_at(stream: &Url, named: &str) -> Result<Url, DuplexError> {
    let messages = stream.join(named).map_err(|_| DuplexError::NoEndpoint)?;
    if messages.origin() == stream.origin() {
        Ok(messages)
    } else {
        Err(DuplexError::Elsewhere)
    }
}

async fn read_all(
    connection: Connection,
    endpoint: Endpoint,
    mut events: Events,
    mut place: Place,
) {
    loop {
        let event = tokio::select! {
            event = events.next(&endpoint, &mut place) => event,
            () = connection.closed() => break,
        };
        match event {
            Ok(event) if event.name.as_deref().is_none_or(|name| name == "message") => {
                connection.take_in(decode(&Line::Whole(event.data.as_bytes())), None);
            }
            Ok(_) => {}
            Err(ended) => {
                tracing::debug!(plugin = %endpoint.plugin, ?ended, "the server's stream ended");
                break;
            }
        }
    }
    connection.close();
}

impl Duplex {
    async fn post(&self, message: Vec<u8>, patience: Option<Duration>) -> Result<(), Lost> {
        let Shared {
            endpoint, messages, ..
        } = &*self.0;
        let mut head = HeaderMap::new();
        if let Some(revision) = self.0.revision.get() {
            let revision = HeaderValue::from_static(revision.as_str());
            head.insert(headers::PROTOCOL_VERSION, revision);
        }
        let sent = endpoint.send(Verb::POST, messages, head, Some(message), patience);
        let response = sent.await?;
        if response.status().is_success() {
            return Ok(());
        }
        match endpoint.refusal(response, true).await {
            Refusal::Error(_) => Err(Lost::Garbage),
            Refusal::SessionGone => Err(Lost::SessionGone),
            Refusal::Lost(lost) => Err(lost),
        }
    }
}

impl Carrier for Duplex {
    fn begin<'a>(
        &'a self,
        connection: &'a Connection,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Sending, Lost>> {
        let (way, connection) = (self.clone(), connection.clone());
        let (id, message) = (request.id, request.message());
        let task = tokio::spawn(async move {
            // The answer comes on the stream.
            if let Err(lost) = way.post(message, None).await {
                connection.hand_over(id, Err(lost));
                if lost == Lost::SessionGone {
                    connection.close();
                }
            }
        });
        std::future::ready(Ok(Some(AbortOnDropHandle::new(task)))).boxed()
    }

    fn send<'a>(&'a self, message: Vec<u8>) -> BoxFuture<'a, Result<(), Lost>> {
        self.post(message, None).boxed()
    }

    fn try_send(&self, message: Vec<u8>) -> bool {
        let Ok(permit) = Arc::clone(&self.0.aside).try_acquire_owned() else {
            return false;
        };
        let way = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let _nobody_waits = way.post(message, Some(ASIDE_TIMEOUT)).await;
        });
        true
    }

    fn agreed(&self, revision: Revision) {
        // There is one agreement in a connection's life.
        let _first = self.0.revision.set(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_to_the_streams_own_origin_alone() {
        let stream = Url::parse("https://tracker.example/v1/sse").unwrap();
        for (named, want) in [
            (
                "/messages?id=1",
                Ok("https://tracker.example/messages?id=1"),
            ),
            ("messages", Ok("https://tracker.example/v1/messages")),
            (
                "https://tracker.example:443/m",
                Ok("https://tracker.example/m"),
            ),
            ("http://tracker.example/m", Err(DuplexError::Elsewhere)),
            (
                "https://tracker.example:8443/m",
                Err(DuplexError::Elsewhere),
            ),
            ("//evil.example/m", Err(DuplexError::Elsewhere)),
            (
                "https://tracker.example.evil.example/m",
                Err(DuplexError::Elsewhere),
            ),
            (
                "https://tracker.example@evil.example/m",
                Err(DuplexError::Elsewhere),
            ),
            ("file:///etc/passwd", Err(DuplexError::Elsewhere)),
            ("https://", Err(DuplexError::NoEndpoint)),
        ] {
            let found = messages_at(&stream, named);
            assert_eq!(
                found.as_ref().map(Url::as_str),
                want.as_ref().map(|url| *url),
                "{named}"
            );
        }
    }
}
