//! A stream of events, and the place in it from which another stream goes on.

use std::{ops::ControlFlow, time::Duration};

use http::HeaderValue;
use mcp::sse::{Decoder, Event, SseError};
use reqwest::Response;

use super::endpoint::Endpoint;
use crate::plugin::{outgoing::BodyError, upstream::Lost};

/// The longest id from which a stream is asked to go on, in bytes.
const ID_BYTES_MAX: usize = 1024;
/// How long to wait before a stream is asked for again, when the server does not say.
const RETRY: Duration = Duration::from_secs(1);
/// The bounds of what a server may say.
const RETRY_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// How far a stream was read.
#[derive(Debug, Default)]
pub(super) struct Place {
    last_id: Option<HeaderValue>,
    retry_ms: Option<u64>,
}

impl Place {
    /// Returns the value of `Last-Event-ID`, if the server gave events ids.
    pub(super) fn last_id(&self) -> Option<HeaderValue> {
        self.last_id.clone()
    }

    /// Returns how long to wait before the stream is asked for again.
    pub(super) fn pause(&self) -> Duration {
        let (least, most) = RETRY_BOUNDS;
        self.retry_ms
            .map_or(RETRY, |ms| Duration::from_millis(ms).clamp(least, most))
    }

    fn come_to(&mut self, decoder: &Decoder) {
        if let Some(id) = decoder.last_id() {
            let fits = !id.is_empty() && id.len() <= ID_BYTES_MAX;
            self.last_id = HeaderValue::from_bytes(id.as_bytes()).ok().filter(|_| fits);
        }
        self.retry_ms = decoder.retry_ms().or(self.retry_ms);
    }
}

/// A response's body, read as events.
#[derive(Debug)]
pub(super) struct Events {
    response: Response,
    decoder: Decoder,
    ready: std::vec::IntoIter<Event>,
}

impl Events {
    /// Takes events of at most `limit` bytes.
    pub(super) fn of(response: Response, limit: usize) -> Self {
        Self {
            response,
            decoder: Decoder::new(limit),
            ready: Vec::new().into_iter(),
        }
    }

    /// Waits for the next event that says anything.
    ///
    /// # Errors
    /// [`Lost::Broken`] at the end, [`Lost`] for what cannot be read on.
    pub(super) async fn next(
        &mut self,
        endpoint: &Endpoint,
        place: &mut Place,
    ) -> Result<Event, Lost> {
        loop {
            if let Some(event) = self.ready.find(|event| !event.data.is_empty()) {
                return Ok(event);
            }
            let chunk = self.response.chunk().await;
            let chunk = chunk.map_err(|error| endpoint.unread(BodyError::Broken(error)))?;
            let events = self.decoder.push(&chunk.ok_or(Lost::Broken)?);
            place.come_to(&self.decoder);
            self.ready = events
                .map_err(|error| match error {
                    SseError::TooLarge(_) => Lost::TooLong,
                    SseError::NotUtf8 => Lost::Garbage,
                })?
                .into_iter();
        }
    }

    /// Hands every event to `take` until it has enough.
    ///
    /// # Errors
    /// As [`Events::next`].
    pub(super) async fn each(
        &mut self,
        endpoint: &Endpoint,
        place: &mut Place,
        mut take: impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<(), Lost> {
        loop {
            if take(&self.next(endpoint, place).await?).is_break() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_goes_on_after_the_last_id_when_the_server_says() {
        for (stream, id, pause) in [
            ("data: a\n\n", None, RETRY),
            (
                "id: 7\nretry: 500\ndata:\n\n",
                Some("7"),
                Duration::from_millis(500),
            ),
            ("id: 7\n\nid: 8\n\n", Some("8"), RETRY),
            ("id: 7\n\nid:\n\n", None, RETRY),
            ("retry: 0\n\n", None, RETRY_BOUNDS.0),
            ("retry: 99999999\n\n", None, RETRY_BOUNDS.1),
        ] {
            let (mut place, mut decoder) = (Place::default(), Decoder::new(100));
            decoder.push(stream.as_bytes()).unwrap();
            place.come_to(&decoder);
            let last = place.last_id();
            assert_eq!(
                last.as_ref().map(|id| id.to_str().unwrap()),
                id,
                "{stream:?}"
            );
            assert_eq!(place.pause(), pause, "{stream:?}");
        }
    }
}
