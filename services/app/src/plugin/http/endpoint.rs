//! Where a server is, how requests to it are sent, and what its refusals mean.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, Method as Verb, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use mcp::members::Members;
use reqwest::{Client, Response, Url};
use serde_json::value::RawValue;

use crate::plugin::{
    credential::Badge,
    outgoing::{self, BodyError},
    upstream::Lost,
};

/// How much of a refusal's body is read, in bytes.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// The code of an error with which some servers answer to a session that they do not know.
const NO_SESSION: i64 = -32000;

/// Where a server is and how it is spoken to.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) plugin: Arc<str>,
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) badge: Arc<Badge>,
    pub(super) answer_bytes_max: usize,
}

/// An answer that is no success.
#[derive(Debug)]
pub(super) enum Refusal {
    /// An error of the protocol.
    Error(Box<RawValue>),
    /// The server does not know the session.
    SessionGone,
    /// There is no answer.
    Lost(Lost),
}

impl Endpoint {
    /// Sends a request to `url`, which is of the endpoint's own origin, with the credential. `patience` bounds it with its
    /// answer's body, if there is a bound besides the caller's own.
    ///
    /// # Errors
    /// [`Lost`] when no head of an answer came.
    pub(super) async fn send(
        &self,
        verb: Verb,
        url: &Url,
        head: HeaderMap,
        message: Option<Vec<u8>>,
        patience: Option<Duration>,
    ) -> Result<Response, Lost> {
        let credential = self.badge.fields().await.map_err(|error| {
            outgoing::no_credential(&self.plugin, &error);
            Lost::NotSent
        })?;
        let accept = match verb {
            Verb::GET => "text/event-stream",
            _ => "application/json, text/event-stream",
        };
        let mut request = self
            .client
            .request(verb, url.clone())
            .header(ACCEPT, accept)
            .headers(head);
        if let Some(patience) = patience {
            request = request.timeout(patience);
        }
        if let Some(message) = message {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(message);
        }
        let sent = request.headers(credential).send().await;
        sent.map_err(|error| self.lost(error))
    }

    fn lost(&self, error: reqwest::Error) -> Lost {
        let lost = if error.is_builder() || error.is_connect() {
            Lost::NotSent
        } else if error.is_timeout() {
            Lost::Late
        } else {
            Lost::Broken
        };
        let error = telemetry::error_chain(&error.without_url());
        tracing::debug!(plugin = %self.plugin, error, "a request to the plugin's server failed");
        lost
    }

    /// Says why a body was not read to its end.
    pub(super) fn unread(&self, error: BodyError) -> Lost {
        match error {
            BodyError::TooLong => Lost::TooLong,
            BodyError::Broken(error) => match self.lost(error) {
                Lost::NotSent => Lost::Broken,
                lost => lost,
            },
        }
    }

    /// Reads an answer that is no success. `has_session` tells whether the request was one of a session.
    pub(super) async fn refusal(&self, response: Response, has_session: bool) -> Refusal {
        let status = response.status();
        let body = outgoing::body(response, REFUSAL_BYTES_MAX).await.ok();
        let error = body.and_then(|body| {
            let members: Members<'_> = serde_json::from_slice(&body).ok()?;
            members.get("error").map(ToOwned::to_owned)
        });
        let code = error.as_ref().and_then(|error| {
            let members = Members::parse(error).ok()?;
            members.get("code")?.get().parse::<i64>().ok()
        });
        let gone = status == StatusCode::NOT_FOUND
            || (status == StatusCode::BAD_REQUEST && code == Some(NO_SESSION));
        if has_session && gone {
            return Refusal::SessionGone;
        }
        match (status, error) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                tracing::warn!(plugin = %self.plugin, status = status.as_u16(), "the plugin's server does not take its credential");
                Refusal::Lost(Lost::Denied)
            }
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => {
                Refusal::Lost(Lost::Busy)
            }
            (_, Some(error)) if code.is_some() => Refusal::Error(error),
            (
                StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED,
                _,
            ) => Refusal::Lost(Lost::NoEndpoint),
            (status, _) if status.is_server_error() => Refusal::Lost(Lost::Broken),
            _ => Refusal::Lost(Lost::Garbage),
        }
    }
}

/// Tells whether an answer is a stream of events.
pub(super) fn is_events(response: &Response) -> bool {
    let media = response.headers().get(CONTENT_TYPE);
    let media = media.and_then(|value| value.to_str().ok());
    media.is_some_and(|media| media.to_ascii_lowercase().starts_with("text/event-stream"))
}
