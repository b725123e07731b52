//! One HTTP request on its way through the edge, as the front doors see it.
//!
//! This is where bytes from outside are bounded: the body by size and time, headers by what Pingora
//! takes. Nothing here knows of MCP.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use mcp::{Cause, Failure};
use pingora::protocols::http::ServerSession;
use telemetry::RequestId;
use telemetry::trace::{ServerRequest, Span, TraceContext, tracer};

/// An answer, complete.
pub type Response = http::Response<Bytes>;

/// One HTTP request and the connection it came on.
pub struct Exchange<'a> {
    session: &'a mut ServerSession,
    /// `X-Request-ID` as the client sent it, or one of ours.
    pub request_id: RequestId,
    /// The trace that this request belongs to.
    pub trace: TraceContext,
    /// When the head had been read.
    pub started: Instant,
    /// The span of the whole HTTP request.
    pub span: Span,
}

/// How much of a body is taken, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BodyBounds {
    /// Bytes.
    pub limit: u64,
    /// From the first wait to the last byte.
    pub timeout: Duration,
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
        let span = tracer().server_span(
            &trace,
            &ServerRequest {
                method: head.method.as_str(),
                route: route(head.uri.path()),
                request_id: request_id.as_str(),
                ..ServerRequest::default()
            },
        );
        Exchange {
            session,
            request_id,
            trace,
            started: Instant::now(),
            span,
        }
    }

    /// The HTTP method.
    pub fn method(&self) -> &Method {
        &self.session.req_header().method
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
    /// [`Cause::TooLarge`] as soon as the limit is passed, announced or not; [`Cause::SlowClient`] when
    /// it does not come in time or breaks off.
    pub async fn body(&mut self, bounds: BodyBounds) -> Result<Bytes, Failure> {
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
        tokio::time::timeout(bounds.timeout, self.read_body(bounds.limit, announced))
            .await
            .unwrap_or_else(|_| Err(Failure::new(Cause::SlowClient)))
    }

    async fn read_body(&mut self, limit: u64, announced: Option<u64>) -> Result<Bytes, Failure> {
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        let mut length = 0_u64;
        while let Some(piece) = self
            .session
            .read_request_body()
            .await
            .map_err(|_| Failure::say(Cause::SlowClient, "the body broke off"))?
        {
            length += piece.len() as u64;
            if length > limit {
                return Err(too_large(limit));
            }
            // One piece is the common case, and needs no copy.
            match (&first, rest.is_empty()) {
                (None, true) => first = Some(piece),
                (Some(start), true) => {
                    let capacity = announced.unwrap_or(length).min(limit);
                    rest.reserve(usize::try_from(capacity).unwrap_or(start.len()));
                    rest.extend_from_slice(start);
                    rest.extend_from_slice(&piece);
                }
                _ => rest.extend_from_slice(&piece),
            }
        }
        Ok(if rest.is_empty() {
            first.unwrap_or_default()
        } else {
            rest.freeze()
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
