//! One attempt: a call to one app, and its answer or exactly how far it got.
//!
//! What a retry may do depends on whether the app can have seen the call, so that is what an error here
//! says ([`Broken`]). The client is hyper-util's: pooled, one write for head and body.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mcp::headers as names;
use mcp::{Call, Outcome, Reply, Revision};
use telemetry::trace::TraceContext;

use crate::context::Context;
use crate::identity::Caller;

/// Largest answer that is taken from an app, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Idle connections are dropped well before an app would close them, so that none is met half closed.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Idle connections that are kept to one app.
const POOL_IDLE_MAX: usize = 256;

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

    /// Sends a call and reads its whole answer, within `limit`.
    pub async fn attempt(
        &self,
        uri: &Uri,
        call: &Call,
        headers: HeaderMap,
        limit: Duration,
    ) -> Result<Reply, Broken> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        tokio::time::timeout(limit, self.exchange(request))
            .await
            .unwrap_or(Err(Broken::TimedOut))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply, Broken> {
        let response = self.0.request(request).await.map_err(|error| {
            tracing::debug!(error = telemetry::error_chain(&error), "attempt failed");
            if error.is_connect() {
                Broken::NotSent
            } else {
                Broken::Lost
            }
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|_| Broken::Lost)?
            .to_bytes();
        let status = head.status.as_u16();
        if status == 202 {
            return Ok(Reply {
                status,
                outcome: Outcome::Ok,
                body: Bytes::new(),
            });
        }
        let is_json = head
            .headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.starts_with("application/json"));
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
        Ok(Reply {
            status,
            outcome,
            body,
        })
    }
}

/// The head of an attempt: the call mirrored as 2026-07-28 has it, who calls, the trace, the time left.
/// Nothing of the client's own head passes but `Mcp-Param-*`; above all not its token.
pub fn head(
    call: &Call,
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
    let left = context.deadline.left_ms(now).to_string();
    set(HeaderName::from_static(names::DEADLINE_MS), &left);
    set(HeaderName::from_static("traceparent"), &span.traceparent());
    if let Some(state) = span.tracestate() {
        set(HeaderName::from_static("tracestate"), state);
    }
    if let Some(baggage) = span.baggage() {
        set(HeaderName::from_static("baggage"), baggage);
    }
    for (name, value) in &call.param_headers {
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
