//! Streams without an end: there may be tens of thousands of them, and mostly nothing happens on any.
//!
//! hyper keeps two buffers of 8 KiB and what it knows of a request for as long as a connection lasts. So as soon as the head of
//! such a stream is written, the connection is taken from hyper. What is left is the socket, and the body that waits for
//! something to say. The connection serves nothing after it.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderValue, Request, Version, header::CONNECTION};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// How long a client may take to read one message.
const WRITE_MAX: Duration = Duration::from_secs(60);

/// An extension of a response: its body has no end of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endless;

/// Serves the requests of one connection until its end, or until `stop` and the request that is under way then.
///
/// # Errors
/// When the connection breaks before its end.
pub(super) async fn serve(
    stream: TcpStream,
    router: Router,
    builder: &http1::Builder,
    stop: CancellationToken,
) -> hyper::Result<()> {
    let handover = Arc::new(Handover::default());
    let watched = Watched {
        stream,
        handover: Arc::clone(&handover),
    };
    let service = service_fn(|request| answer(router.clone(), &handover, request));
    // On the heap: it is gone when its connection is taken from it.
    let mut connection = Box::new(builder.serve_connection(TokioIo::new(watched), service));
    let body = {
        let mut stopped = pin!(stop.cancelled());
        let mut is_stopping = false;
        poll_fn(|cx| {
            if !is_stopping && stopped.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                Pin::new(&mut *connection).graceful_shutdown();
            }
            match Pin::new(&mut *connection).poll(cx) {
                Poll::Ready(ended) => Poll::Ready(ended.map(|()| None)),
                Poll::Pending => match handover.take() {
                    Some(body) => Poll::Ready(Ok(Some(body))),
                    None => Poll::Pending,
                },
            }
        })
        .await?
    };
    if let Some(body) = body {
        let stream = connection.into_parts().io.into_inner().stream;
        // `None` when the client is gone: there is nobody to tell.
        let _ = write(stream, body).await;
    }
    Ok(())
}

/// Answers a request; the body of a stream without an end is put aside for [`serve`].
async fn answer(
    router: Router,
    handover: &Handover,
    request: Request<Incoming>,
) -> Result<axum::response::Response, Infallible> {
    // Older clients are told the end of a body by the end of its connection, which hyper knows how to do.
    let takes_chunks = request.version() == Version::HTTP_11;
    let mut response = router.oneshot(request).await?;
    if takes_chunks && response.extensions().get::<Endless>().is_some() {
        let nothing = futures::stream::pending::<Result<Bytes, Infallible>>();
        handover.put(std::mem::replace(
            response.body_mut(),
            Body::from_stream(nothing),
        ));
        let head = response.headers_mut();
        head.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// A body on its way from hyper, which writes the head, to whoever writes the rest.
#[derive(Default)]
struct Handover(Mutex<State>);

#[derive(Default)]
struct State {
    body: Option<Body>,
    is_written: bool,
}

impl Handover {
    fn put(&self, body: Body) {
        *self.state() = State {
            body: Some(body),
            is_written: false,
        };
    }

    /// Takes the body once everything that hyper had to write is written.
    fn take(&self) -> Option<Body> {
        let mut state = self.state();
        if state.is_written {
            state.body.take()
        } else {
            None
        }
    }

    fn written(&self, is_written: bool) {
        self.state().is_written = is_written;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket whose writer has nothing more to write when it has flushed it, as hyper does when its buffer is empty.
struct Watched {
    stream: TcpStream,
    handover: Arc<Handover>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.handover.written(false);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.handover.written(false);
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.handover.written(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Writes a body in chunks (RFC 9112, section 7.1) until its end or its client's; then the connection is closed.
async fn write(mut stream: TcpStream, mut body: Body) -> Option<()> {
    let mut ignored = [0; 64];
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            read = stream.read(&mut ignored) => match read {
                // The connection serves no further request.
                Ok(1..) => continue,
                _ => return None,
            },
        };
        let is_last = frame.is_none();
        let bytes = match frame {
            None => Bytes::from_static(b"0\r\n\r\n"),
            Some(frame) => match frame.ok()?.into_data() {
                // An empty chunk would end the body.
                Ok(data) if !data.is_empty() => chunk(&data),
                _ => continue,
            },
        };
        let written = tokio::time::timeout(WRITE_MAX, stream.write_all(&bytes)).await;
        written.ok()?.ok()?;
        if is_last {
            return stream.shutdown().await.ok();
        }
    }
}

fn chunk(data: &[u8]) -> Bytes {
    let size = format!("{:x}\r\n", data.len());
    [size.as_bytes(), data, b"\r\n"].concat().into()
}
