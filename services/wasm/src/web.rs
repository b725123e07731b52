//! Requests of a component to other servers (`wasi:http/outgoing-handler`), sent by whoever was granted to it.

use std::{fmt, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// The largest body that a component may send, in bytes.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Why a component's request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchError {
    /// It may not be sent there.
    Denied,
    /// No connection, or it broke.
    Unreachable,
    /// It took too long.
    Late,
    /// The answer is larger than what is taken.
    TooLong,
}

/// Who sends a component's requests, and judges where they may go.
pub trait Fetch: Send + Sync + 'static {
    /// Sends a request with an absolute URI. The answer must come before `deadline`.
    fn fetch(
        &self,
        request: Request<Bytes>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Response<Bytes>, FetchError>>;
}

/// The grant of a way to other servers. Two are equal if they are one.
#[derive(Clone)]
pub struct Web(pub Arc<dyn Fetch>);

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").finish_non_exhaustive()
    }
}

impl PartialEq for Web {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Web {}

/// The requests of one call.
#[derive(Debug)]
pub(crate) struct Requests {
    pub(crate) web: Option<Web>,
    pub(crate) deadline: Instant,
}

type Sent = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answered = Result<(Response<WasiBody>, Sent), Error>;

impl WasiHttpHooks for Requests {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Sent,
    ) -> Box<dyn Future<Output = Answered> + Send> {
        let (web, last) = (self.web.clone(), self.deadline);
        let wanted = options.and_then(|options| options.first_byte_timeout);
        let deadline = wanted.map_or(last, |timeout| last.min(Instant::now() + timeout));
        Box::new(async move {
            let web = web.ok_or(Error::HttpRequestDenied)?;
            let (head, body) = request.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX)
                .collect()
                .await
                .map_err(|_| Error::HttpRequestBodySize(None))?;
            let request = Request::from_parts(head, body.to_bytes());
            let answer = web.0.fetch(request, deadline).await.map_err(refused)?;
            let answer = answer.map(|body| {
                let body = Full::new(body).map_err(|never| match never {});
                body.boxed_unsync()
            });
            Ok((answer, Box::new(std::future::ready(Ok(()))) as Sent))
        })
    }
}

fn refused(error: FetchError) -> Error {
    match error {
        FetchError::Denied => Error::HttpRequestDenied,
        FetchError::Unreachable => Error::DestinationUnavailable,
        FetchError::Late => Error::HttpResponseTimeout,
        FetchError::TooLong => Error::HttpResponseBodySize(None),
    }
}
