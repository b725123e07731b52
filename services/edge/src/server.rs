//! The HTTP server: Pingora reads and writes, [`crate::gateway`] decides.
//!
//! One connection serves its requests one after another; a request that cannot be read ends its
//! connection. While the edge drains, each answer closes its connection, so that clients move on without
//! ever meeting a refused or reset one.
//!
//! HTTP/1.1 and HTTP/2 by prior knowledge share a port; [`Front`] tells them apart by a connection's first
//! bytes. Pingora would do so too, but waits without end for the 24 bytes of HTTP/2's preface, which a short
//! request of HTTP/1 does not have.
//!
//! A stream without an end is mostly idle, and there may be tens of thousands of them. Over HTTP/1 a task of its own
//! takes the bare connection over ([`hand_over`]): what read the request, and what made the answer, are gone by then.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora::apps::{
    HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp,
};
use pingora::http::ResponseHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::server::HttpSession;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::Instrument;

use crate::edge::Edge;
use crate::exchange::{Body, Exchange, Response, Upgraded};
use crate::life::InFlight;
use crate::{admin, gateway, ingress};

/// Which of the edge's two HTTP ports this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Clients.
    Public,
    /// Operators and Prometheus.
    Admin,
}

/// How long a client may take to read one piece of a stream.
const WRITE_MAX: Duration = Duration::from_secs(60);

/// How long, and for how many bytes, a connection is read away that ends with a refused head.
const LINGER_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 64 << 10;

/// How HTTP/2 begins, and no request of HTTP/1 does.
const HTTP2_START: &[u8] = b"PRI";

/// One port: connections to the protocol that they speak.
pub struct Front {
    http1: Arc<Server>,
    http2: Arc<Server>,
}

impl Front {
    /// Serves a port for `edge`.
    pub fn new(edge: &Arc<Edge>, port: Port) -> Front {
        let server = |h2c| Arc::new(Server::new(Arc::clone(edge), port, h2c));
        Front {
            http1: server(false),
            http2: server(true),
        }
    }
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(
        self: &Arc<Self>,
        mut stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let http = &self.http1.edge.settings.http;
        let mut start = [0; HTTP2_START.len()];
        let wait = http.idle_timeout;
        let peeked = tokio::time::timeout(wait, stream.try_peek(&mut start)).await;
        // A connection that says nothing for that long, or is closed, is over.
        if !peeked.ok()?.ok()? || start != HTTP2_START {
            return self.http1.process_new(stream, shutdown).await;
        }
        let mut preface = [0; 24];
        let peeked = tokio::time::timeout(http.header_timeout, stream.try_peek(&mut preface)).await;
        peeked.ok()?.ok()?;
        self.http2.process_new(stream, shutdown).await
    }
}

/// Serves one protocol of a port.
struct Server {
    edge: Arc<Edge>,
    port: Port,
    options: HttpServerOptions,
}

impl Server {
    fn new(edge: Arc<Edge>, port: Port, h2c: bool) -> Server {
        let mut options = HttpServerOptions::default();
        options.h2c = h2c;
        options.h2_idle_timeout = Some(edge.settings.http.idle_timeout);
        Server {
            edge,
            port,
            options,
        }
    }

    /// Waits for a request's head and gives the session back with it; `None` when the connection is over.
    async fn read_head(&self, mut session: ServerSession) -> Option<ServerSession> {
        let http = &self.edge.settings.http;
        session.set_pipelining_enabled(true);
        session.set_keepalive(Some(http.idle_timeout.as_secs().max(1)));
        let wait = http.idle_timeout + http.header_timeout;
        match tokio::time::timeout(wait, session.read_request()).await {
            Ok(Ok(true)) => Some(session),
            // The client closed an idle connection, or sent nothing in time.
            Ok(Ok(false)) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "a request's head could not be read");
                session.set_keepalive(None);
                // Best effort: the client may be gone.
                let _ = session.respond_error(400).await;
                if let ServerSession::H1(session) = session {
                    linger(session.into_inner()).await;
                }
                None
            }
        }
    }
}

#[async_trait]
impl HttpServerApp for Server {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let mut session = self.read_head(session).await?;
        let guard = self.edge.life.enter();
        // A refused body is read away within bounds, so that its connection can go on.
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(Duration::from_secs(5)));
        let response = {
            let sample = || self.port == Port::Public && self.edge.sample();
            let mut exchange = Exchange::new(&mut session, ingress::template, sample);
            // Whatever is logged meanwhile carries the request's ID.
            let named = telemetry::request_span(exchange.request_id.as_str(), &exchange.trace);
            let served = async {
                match self.port {
                    Port::Public => gateway::serve(&self.edge, &mut exchange).await,
                    Port::Admin => Some(admin::serve(&self.edge, &mut exchange).await),
                }
            };
            // On the heap for as long as it takes: the connection's own future lasts longer.
            let response = Box::pin(served.instrument(named)).await?;
            exchange.span.set_status(response.status().as_u16());
            response
        };
        let (head, body) = response.into_parts();
        if matches!(body, Body::Endless(_)) {
            session.set_keepalive(None);
        }
        let (mut session, body) = match (session, body) {
            (session, Body::Upgraded(serve)) => return upgrade(session, head, serve).await,
            (ServerSession::H1(session), Body::Endless(pieces)) => {
                hand_over(session, head, pieces, guard).await;
                return None;
            }
            (session, Body::Endless(pieces)) => (session, Body::Pieces(pieces)),
            (session, body) => (session, body),
        };
        let response = Response::from_parts(head, body);
        let reusable = write(&mut session, response, self.edge.life.is_draining()).await;
        drop(guard);
        reusable?;
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Has an upgraded connection served to its end, after which it serves nothing more.
async fn upgrade(
    session: ServerSession,
    head: http::response::Parts,
    serve: Upgraded,
) -> Option<ReusedHttpStream> {
    let ServerSession::H1(mut session) = session else {
        return None;
    };
    let written = session.write_response_header(Box::new(head.into())).await;
    written.ok()?;
    serve(session.into_inner()).await;
    None
}

/// Ends a connection of which not everything was read: closed at once it would be reset, and the answer perhaps lost with it
/// (RFC 9112, section 9.6).
async fn linger(mut stream: Stream) {
    let rest = async {
        stream.shutdown().await.ok()?;
        let mut ignored = [0; 1024];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            match stream.read(&mut ignored).await.ok()? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Some(())
    };
    // Best effort: the client may be gone.
    let _ = tokio::time::timeout(LINGER_MAX, rest).await;
}

/// Writes the head of a stream without an end, and leaves the rest to a task of its own.
async fn hand_over(
    mut session: HttpSession,
    head: http::response::Parts,
    pieces: BoxStream<'static, Bytes>,
    guard: InFlight,
) {
    let mut header: ResponseHeader = head.into();
    let framing = match session.req_header().version {
        http::Version::HTTP_11 => Framing::Chunks,
        _ => Framing::UntilClose,
    };
    if framing == Framing::Chunks && header.insert_header(TRANSFER_ENCODING, "chunked").is_err() {
        return;
    }
    if session
        .write_response_header(Box::new(header))
        .await
        .is_err()
    {
        return;
    }
    let stream = session.into_inner();
    tokio::spawn(async move {
        let _under_way = guard;
        // `None` when the client is gone: there is nobody to tell.
        let _ = write_endless(stream, framing, pieces).await;
    });
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// RFC 9112, section 7.1.
    Chunks,
    /// By the connection's end, as HTTP/1.0 has it.
    UntilClose,
}

/// Writes pieces onto a bare connection, until their end or the client's; then it is closed.
async fn write_endless(
    mut stream: Stream,
    framing: Framing,
    mut pieces: BoxStream<'static, Bytes>,
) -> Option<()> {
    let mut ignored = [0; 64];
    loop {
        let piece = tokio::select! {
            biased;
            piece = pieces.next() => piece,
            read = stream.read(&mut ignored) => match read {
                // The connection serves no further request.
                Ok(1..) => continue,
                _ => return None,
            },
        };
        let (bytes, is_last) = match (piece, framing) {
            (Some(piece), Framing::UntilClose) => (piece, false),
            // An empty chunk would end the body.
            (Some(piece), Framing::Chunks) if piece.is_empty() => continue,
            (Some(piece), Framing::Chunks) => (chunk(&piece), false),
            (None, Framing::UntilClose) => (Bytes::new(), true),
            (None, Framing::Chunks) => (Bytes::from_static(b"0\r\n\r\n"), true),
        };
        let written = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        tokio::time::timeout(WRITE_MAX, written).await.ok()?.ok()?;
        if is_last {
            return stream.shutdown().await.ok();
        }
    }
}

fn chunk(piece: &[u8]) -> Bytes {
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"]
        .concat()
        .into()
}

/// Writes an answer; `None` when the client is gone.
async fn write(session: &mut ServerSession, response: Response, last: bool) -> Option<()> {
    if last {
        session.set_keepalive(None);
    }
    let (parts, body) = response.into_parts();
    let mut header: ResponseHeader = parts.into();
    match body {
        Body::Whole(body) => {
            let no_body = header.status == http::StatusCode::NO_CONTENT;
            if !no_body {
                header.insert_header(CONTENT_LENGTH, body.len()).ok()?;
            }
            session.write_response_header(Box::new(header)).await.ok()?;
            if !no_body {
                session.write_response_body(body, true).await.ok()?;
            }
        }
        Body::Pieces(pieces) => {
            if session.req_header().version == http::Version::HTTP_11 {
                header.insert_header(TRANSFER_ENCODING, "chunked").ok()?;
            }
            session.write_response_header(Box::new(header)).await.ok()?;
            write_pieces(session, pieces).await?;
        }
        // Whoever serves these needs the whole session.
        Body::Upgraded(_) | Body::Endless(_) => return None,
    }
    Some(())
}

/// Writes pieces as they come, until their end or the client's. Each is on its way before the next is asked
/// for, so whoever makes them waits for the client.
async fn write_pieces(
    session: &mut ServerSession,
    mut pieces: BoxStream<'static, Bytes>,
) -> Option<()> {
    loop {
        let piece = tokio::select! {
            biased;
            piece = pieces.next() => piece,
            () = gone(session) => return None,
        };
        let Some(piece) = piece else {
            return session.write_response_body(Bytes::new(), true).await.ok();
        };
        // An empty piece would end the body.
        if !piece.is_empty() {
            let written = session.write_response_body(piece, false);
            let written = tokio::time::timeout(WRITE_MAX, written).await;
            written.ok()?.ok()?;
        }
    }
}

/// Ends when the client has gone away.
async fn gone(session: &mut ServerSession) {
    // Bytes of a next, pipelined request are put aside by Pingora and do not end the wait.
    while let Ok(Some(_)) = session.read_body_or_idle(true).await {}
}
