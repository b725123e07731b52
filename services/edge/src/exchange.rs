//! One HTTP request on its way through the edge, as the front doors see it.
//!
//! This is where bytes from outside are bounded: the body by size and time, headers by what Pingora
//! takes. Nothing here knows of MCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HOST, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Version};
use mcp::{Cause, Failure};
use pingora::ErrorType;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use telemetry::RequestId;
use telemetry::trace::{ServerRequest, Span, TraceContext, tracer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::signed::Pending;

/// An answer.
pub type Response = http::Response<Body>;

/// What an answer holds.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Pieces as they come, each written at once.
    Pieces(BoxStream<'static, Bytes>),
    /// The same for as long as the client likes: mostly nothing comes, and the connection serves nothing after it.
    Endless(BoxStream<'static, Bytes>),
    /// The connection is no HTTP from here on (status 101, HTTP/1.1 alone), and is served by this to its end.
    Upgraded(Upgraded),
}

/// Serves a connection that was upgraded.
pub type Upgraded = Box<dyn FnOnce(Stream) -> BoxFuture<'static, ()> + Send>;

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::Whole(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::Whole(bytes.into())
    }
}

/// One HTTP request and the connection it came on.
pub struct Exchange<'a> {
    session: &'a mut ServerSession,
    /// `X-Request-ID` as the client sent it, or one of ours.
    pub request_id: RequestId,
    /// The trace that this request belongs to.
    pub trace: TraceContext,
    /// When the head had been read.
    pub started: Instant,
    /// The template of the path: never a client's own words.
    pub route: &'static str,
    /// The span of the whole HTTP request.
    pub span: Span,
    /// What the body must fit.
    signed: Option<Pending>,
}

/// How much of a body is taken, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BodyBounds<'a> {
    /// Bytes.
    pub limit: u64,
    /// From the first wait to the last byte.
    pub timeout: Duration,
    /// The memory that it may take from.
    pub room: &'a Arc<Room>,
}

/// The memory that the bodies of all requests may hold together.
///
/// A body that came in one piece is not counted: it lies in the connection's own buffer.
#[derive(Debug)]
pub struct Room(Arc<Semaphore>);

impl Room {
    /// Bytes are counted in units, since a semaphore counts no further than 32 bits at a time.
    const UNIT_BYTES: usize = 4096;

    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Arc<Room> {
        let units = usize::try_from(bytes).unwrap_or(usize::MAX) / Self::UNIT_BYTES;
        Arc::new(Room(Arc::new(Semaphore::new(
            units.clamp(1, Semaphore::MAX_PERMITS),
        ))))
    }

    /// Takes what a body of `length` bytes needs beyond what `held` has.
    fn grow(&self, held: &mut Option<OwnedSemaphorePermit>, length: usize) -> Result<(), Failure> {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = length.div_ceil(Self::UNIT_BYTES).saturating_sub(has);
        let full = || Failure::new(Cause::Overloaded).retry_after(COME_BACK);
        let count = u32::try_from(more).map_err(|_| full())?;
        let permit = Arc::clone(&self.0)
            .try_acquire_many_owned(count)
            .map_err(|_| full())?;
        match held {
            Some(held) => held.merge(permit),
            None => *held = Some(permit),
        }
        Ok(())
    }
}

/// What Pingora calls a chunk whose size cannot be read.
const INVALID_CHUNK: ErrorType = ErrorType::new("InvalidChunk");
/// When to come back after a refusal for want of memory.
const COME_BACK: Duration = Duration::from_secs(1);

/// A gathered body; its room is free again when the last of its readers is done.
struct Gathered {
    bytes: BytesMut,
    _held: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Gathered {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<'a> Exchange<'a> {
    /// Takes up a request whose head has been read. `sample` decides on a trace that begins here, `route`
    /// is the template of the path.
    pub fn new(
        session: &'a mut ServerSession,
        route: fn(&str) -> &'static str,
        sample: impl FnOnce() -> bool,
    ) -> Exchange<'a> {
        let head = session.req_header();
        let id = head.headers.get(mcp::headers::REQUEST_ID);
        let request_id = RequestId::accept(id.map(HeaderValue::as_bytes));
        let trace = TraceContext::accept(&head.headers, |_| sample());
        let route = route(head.uri.path());
        let span = tracer().server_span(
            &trace,
            &ServerRequest {
                method: head.method.as_str(),
                route,
                request_id: request_id.as_str(),
                ..ServerRequest::default()
            },
        );
        Exchange {
            session,
            request_id,
            trace,
            started: Instant::now(),
            route,
            span,
            signed: None,
        }
    }

    /// The HTTP method.
    pub fn method(&self) -> &Method {
        &self.session.req_header().method
    }

    /// Whether the head names its host as its version of HTTP wants.
    pub fn names_host(&self) -> bool {
        names_host(self.session.req_header().version, self.headers())
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.session.req_header().uri.path()
    }

    /// The query, without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.session.req_header().uri.query()
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.session.req_header().headers
    }

    /// A header that stands once and is visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.headers(), name)
    }

    /// Whether a header stands more than once.
    pub fn is_repeated(&self, name: &str) -> bool {
        self.headers().get_all(name).iter().nth(1).is_some()
    }

    /// Where the client is.
    pub fn client_addr(&self) -> Option<SocketAddr> {
        self.session
            .client_addr()
            .and_then(|a| a.as_inet())
            .copied()
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`Cause::MediaType`] for one that is compressed; [`Cause::TooLarge`] as soon as the limit is passed, announced or not; [`Cause::Overloaded`] when the
    /// bodies of all requests hold all the memory that is for them; [`Cause::SlowClient`] when it does not
    /// come in time or breaks off; [`Cause::InvalidRequest`] when its chunks cannot be read; [`Cause::Unsigned`] when it
    /// is not the signed one.
    pub async fn body(&mut self, bounds: BodyBounds<'_>) -> Result<Bytes, Failure> {
        if is_encoded(self.headers()) {
            let text = "bodies are taken without Content-Encoding";
            return Err(Failure::say(Cause::MediaType, text));
        }
        let announced = announced_length(self.headers());
        if announced.is_some_and(|length| length > bounds.limit) {
            return Err(too_large(bounds.limit));
        }
        if header(self.headers(), EXPECT.as_str())
            .is_some_and(|v| v.eq_ignore_ascii_case("100-continue"))
        {
            self.session
                .write_continue_response()
                .await
                .map_err(|_| Failure::new(Cause::SlowClient))?;
        }
        let read = tokio::time::timeout(bounds.timeout, self.read_body(&bounds)).await;
        let body = read.unwrap_or_else(|_| {
            // Nobody knows where the next request would begin.
            self.session.set_keepalive(None);
            Err(Failure::new(Cause::SlowClient))
        })?;
        if let Some(signed) = self.signed.take() {
            signed.finish(&body).await?;
        }
        Ok(body)
    }

    /// Has the body held against what was signed as soon as it is read; a request that has none is looked at here.
    ///
    /// # Errors
    /// As [`Pending::finish`].
    pub async fn must_fit(&mut self, signed: Option<Pending>) -> Result<(), Failure> {
        match signed {
            Some(signed) if self.method() != Method::POST => signed.finish(b"").await,
            signed => {
                self.signed = signed;
                Ok(())
            }
        }
    }

    async fn read_body(&mut self, bounds: &BodyBounds<'_>) -> Result<Bytes, Failure> {
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        let mut held = None;
        let mut length = 0_usize;
        while let Some(piece) = self.read_piece().await? {
            length += piece.len();
            if length as u64 > bounds.limit {
                return Err(too_large(bounds.limit));
            }
            if first.is_some() {
                bounds.room.grow(&mut held, length)?;
            }
            // One piece is the common case, and needs no copy.
            match (&first, rest.is_empty()) {
                (None, true) => first = Some(piece),
                (Some(start), true) => {
                    rest.extend_from_slice(start);
                    rest.extend_from_slice(&piece);
                }
                _ => rest.extend_from_slice(&piece),
            }
        }
        Ok(if rest.is_empty() {
            first.unwrap_or_default()
        } else {
            Bytes::from_owner(Gathered {
                bytes: rest,
                _held: held,
            })
        })
    }

    async fn read_piece(&mut self) -> Result<Option<Bytes>, Failure> {
        let piece = self.session.read_request_body().await;
        piece.map_err(|error| {
            // Nobody knows where the next request would begin.
            self.session.set_keepalive(None);
            if error.etype() == &INVALID_CHUNK {
                Failure::say(
                    Cause::InvalidRequest,
                    "the body's chunks cannot be told apart",
                )
            } else {
                Failure::say(Cause::SlowClient, "the body broke off")
            }
        })
    }

    /// Ends when the client has gone away. To be raced against the work; the body must have been read.
    pub async fn gone(&mut self) {
        // Bytes of a next, pipelined request are put aside by Pingora and do not end the wait.
        while let Ok(Some(_)) = self.session.read_body_or_idle(true).await {}
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a body is said to be other than it stands.
fn is_encoded(headers: &HeaderMap) -> bool {
    let mut codings = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// Whether a head names its host as its version of HTTP wants: once in HTTP/1.1 (RFC 9112, section 3.2), at most once
/// elsewhere.
fn names_host(version: Version, headers: &HeaderMap) -> bool {
    match headers.get_all(HOST).iter().count() {
        1 => true,
        0 => version != Version::HTTP_11,
        _ => false,
    }
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    header(headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok())
}

fn too_large(limit: u64) -> Failure {
    Failure::say(
        Cause::TooLarge,
        format!("the body is larger than {limit} bytes"),
    )
}

/// Sets a header whose value is made by us or was checked; what cannot stand in a header is left out.
pub fn set_header(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_body_and_host_is_held_to_the_rules_of_http() {
        let headers = |name: &'static str, values: &[&'static str]| -> HeaderMap {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(name, HeaderValue::from_static(value));
            }
            headers
        };
        for (values, encoded) in [
            (&[][..], false),
            (&["identity"], false),
            (&["Identity, identity"], false),
            (&["gzip"], true),
            (&["identity, br"], true),
            (&["identity", "gzip"], true),
        ] {
            assert_eq!(
                is_encoded(&headers("content-encoding", values)),
                encoded,
                "{values:?}"
            );
        }
        for (version, values, named) in [
            (Version::HTTP_11, &["a"][..], true),
            (Version::HTTP_11, &[], false),
            (Version::HTTP_11, &["a", "b"], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_2, &[], true),
        ] {
            assert_eq!(
                names_host(version, &headers("host", values)),
                named,
                "{values:?}"
            );
        }
    }
}
