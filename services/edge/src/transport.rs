//! One attempt: a call to one app, and its answer or exactly how far it got.
//!
//! What a retry may do depends on whether the app can have seen the call, so that is what an error here
//! says ([`Broken`]). The client is hyper-util's: pooled, one write for head and body.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mcp::envelope::{self, Body};
use mcp::headers as names;
use mcp::sse::{Decoder, Event};
use mcp::{Call, Message, Method, Outcome, Reply, Revision};
use telemetry::trace::TraceContext;

use crate::context::Context;
use crate::identity::Caller;
use crate::stream::Part;

/// Largest answer that is taken from an app, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Idle connections are dropped well before an app would close them, so that none is met half closed.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Idle connections that are kept to one app.
const POOL_IDLE_MAX: usize = 256;

/// Longest silence of a stream; apps write a comment four times as often.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// No connection: the app has not seen the call.
    NotSent,
    /// The connection broke after the call may have been seen.
    Lost,
    /// No answer in the attempt's time.
    TimedOut,
    /// An answer that is no MCP.
    Invalid,
}

/// The pooled client to all apps.
#[derive(Debug, Clone)]
pub struct Transport(Client<HttpConnector, Full<Bytes>>);

impl Transport {
    /// A client that gives a connection `connect_timeout` to come about.
    pub fn new(connect_timeout: Duration) -> Transport {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(Duration::from_secs(30)));
        Transport(
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(POOL_IDLE_MAX)
                .build(connector),
        )
    }

    /// Sends a call and reads its answer, or as much of it as says that it is a stream, within `limit`.
    pub async fn attempt(
        &self,
        uri: &Uri,
        call: &Call,
        headers: HeaderMap,
        limit: Duration,
    ) -> Result<Answer, Broken> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        tokio::time::timeout(limit, self.exchange(request))
            .await
            .unwrap_or(Err(Broken::TimedOut))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Broken> {
        let response = self.0.request(request).await.map_err(|error| {
            tracing::debug!(error = telemetry::error_chain(&error), "attempt failed");
            if error.is_connect() {
                Broken::NotSent
            } else {
                Broken::Lost
            }
        })?;
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        let media = head
            .headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        if media.starts_with("text/event-stream") && status == 200 {
            return Ok(Answer::Events(Box::new(Events::new(body))));
        }
        let is_json = media.starts_with("application/json");
        let body = gather(body).await?;
        if status == 202 {
            return Ok(Answer::Whole(Reply {
                status,
                outcome: Outcome::Ok,
                body: Bytes::new(),
            }));
        }
        if !is_json {
            return Err(Broken::Invalid);
        }
        // The app says how it went; a server that does not is read.
        let outcome = head
            .headers
            .get(names::OUTCOME)
            .and_then(|v| v.to_str().ok())
            .and_then(Outcome::parse)
            .unwrap_or_else(|| Outcome::of(&body));
        Ok(Answer::Whole(Reply {
            status,
            outcome,
            body,
        }))
    }
}

/// Reads a body whole, at most [`ANSWER_BYTES_MAX`] of it. A large one is never held twice: what has come is put in its place in
/// the whole at once.
async fn gather(body: Incoming) -> Result<Bytes, Broken> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > ANSWER_BYTES_MAX {
        return Err(Broken::Lost);
    }
    let mut body = Limited::new(body, ANSWER_BYTES_MAX);
    let mut first: Option<Bytes> = None;
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Broken::Lost)?.into_data() else {
            continue;
        };
        match first.take() {
            // One piece is the common case, and needs no copy.
            None if whole.is_empty() => first = Some(data),
            begun => {
                if let Some(begun) = begun {
                    whole.reserve(announced.max(begun.len() + data.len()));
                    whole.extend_from_slice(&begun);
                }
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

/// An app's answer.
#[derive(Debug)]
pub enum Answer {
    /// All of it.
    Whole(Reply),
    /// Messages as they come, the response last.
    Events(Box<Events>),
}

/// The messages of an answer. Dropped before the response, the connection is closed, which cancels the call.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    decoder: Decoder,
    read: VecDeque<Event>,
}

impl Events {
    fn new(body: Incoming) -> Events {
        Events {
            body,
            decoder: Decoder::new(ANSWER_BYTES_MAX),
            read: VecDeque::new(),
        }
    }

    /// The next message. May be dropped and called anew.
    ///
    /// # Errors
    /// [`Broken::Lost`] when the stream ends or is silent for long, [`Broken::Invalid`] for what is no message
    /// of a server to a client of 2026-07-28.
    pub async fn next(&mut self) -> Result<Part, Broken> {
        loop {
            if let Some(event) = self.read.pop_front() {
                if event.data.is_empty() {
                    continue;
                }
                return part(event.data);
            }
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let Ok(Some(Ok(frame))) = frame else {
                return Err(Broken::Lost);
            };
            if let Some(data) = frame.data_ref() {
                let events = self.decoder.push(data).map_err(|_| Broken::Invalid)?;
                self.read.extend(events);
            }
        }
    }
}

fn part(message: String) -> Result<Part, Broken> {
    let bytes = Bytes::from(message);
    match envelope::read(&bytes) {
        Ok(Body::One(Ok(Message::Notification { .. }))) => Ok(Part::Told(bytes)),
        Ok(Body::One(Ok(Message::Response { .. }))) => Ok(Part::Reply(Reply {
            status: 200,
            outcome: Outcome::of(&bytes),
            body: bytes,
        })),
        _ => Err(Broken::Invalid),
    }
}

/// The head of an attempt: the call mirrored as 2026-07-28 has it, who calls, in which language and with which flags, the
/// trace, the time left.
/// Nothing of the client's own head passes but `Mcp-Param-*`, as they are or as they were written for it; above all not its
/// token.
pub fn head(
    call: &Call,
    params: &[(String, String)],
    flags: &str,
    context: &Context,
    caller: &Caller,
    span: &TraceContext,
    now: Instant,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    let json = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json);
    headers.insert(
        ACCEPT,
        HeaderValue::from_static("application/json, text/event-stream"),
    );
    headers.insert(
        names::PROTOCOL_VERSION,
        HeaderValue::from_static(Revision::LATEST.as_str()),
    );
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(
        HeaderName::from_static(names::METHOD),
        &names::encode(call.method.as_str()),
    );
    if let Some(name) = &call.name {
        set(HeaderName::from_static(names::NAME), &names::encode(name));
    }
    set(
        HeaderName::from_static(names::REQUEST_ID),
        context.request_id.as_str(),
    );
    let principal = percent_encode(&caller.subject);
    set(HeaderName::from_static(names::PRINCIPAL), &principal);
    set(
        HeaderName::from_static(names::TENANT),
        &percent_encode(&caller.tenant),
    );
    let scopes = caller.scopes().join(" ");
    set(HeaderName::from_static(names::SCOPES), &scopes);
    if !flags.is_empty() {
        set(HeaderName::from_static(names::FLAGS), flags);
    }
    if let Some(locale) = &context.locale {
        set(HeaderName::from_static(names::LOCALE), locale);
    }
    // Listening has no end of its own.
    if call.method != Method::SubscriptionsListen {
        let left = context.deadline.left_ms(now).to_string();
        set(HeaderName::from_static(names::DEADLINE_MS), &left);
    }
    set(HeaderName::from_static("traceparent"), &span.traceparent());
    if let Some(state) = span.tracestate() {
        set(HeaderName::from_static("tracestate"), state);
    }
    if let Some(baggage) = span.baggage() {
        set(HeaderName::from_static("baggage"), baggage);
    }
    for (name, value) in params {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            set(name, value);
        }
    }
    headers
}

/// RFC 3986 percent-encoding of all but unreserved characters: names of principals may be any text.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_principal_fits_a_header() {
        assert_eq!(percent_encode("ana-1"), "ana-1");
        assert_eq!(percent_encode("a b/\u{e9}\r\n"), "a%20b%2F%C3%A9%0D%0A");
    }

    #[test]
    fn messages_of_a_stream_are_notifications_and_one_response() {
        for (text, kind) in [
            (
                r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#,
                "told",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "reply"),
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
                "reply",
            ),
            // Servers of this revision ask by a result.
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#,
                "broken",
            ),
            ("[]", "broken"),
            ("x", "broken"),
        ] {
            let found = match part(text.to_owned()) {
                Ok(Part::Told(_)) => "told",
                Ok(Part::Reply(_)) => "reply",
                Err(_) => "broken",
            };
            assert_eq!(found, kind, "{text}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_was_not_sent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let transport = Transport::new(Duration::from_secs(1));
        let call = Call::tool(
            1,
            "t",
            &serde_json::value::RawValue::from_string("{}".into()).unwrap(),
            &mcp::call::ClientMeta::plain("t"),
        )
        .unwrap();
        let uri: Uri = format!("http://{address}/mcp").parse().unwrap();
        let limit = Duration::from_secs(5);
        let broken = transport
            .attempt(&uri, &call, HeaderMap::new(), limit)
            .await;
        assert_eq!(broken.unwrap_err(), Broken::NotSent);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_off_may_have_carried_the_call() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut byte = [0; 1];
                let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut byte).await;
            }
        });
        let transport = Transport::new(Duration::from_secs(1));
        let call = Call::tool(
            1,
            "t",
            &serde_json::value::RawValue::from_string("{}".into()).unwrap(),
            &mcp::call::ClientMeta::plain("t"),
        )
        .unwrap();
        let uri: Uri = format!("http://{address}/mcp").parse().unwrap();
        let limit = Duration::from_secs(5);
        let broken = transport
            .attempt(&uri, &call, HeaderMap::new(), limit)
            .await;
        assert_eq!(broken.unwrap_err(), Broken::Lost);
    }
}
