//! Layer: reads the body, bounded while it streams, and by what all bodies together may hold.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use mcp::{Cause, Failure};
use tokio::sync::OwnedSemaphorePermit;

use super::{Server, Story};

/// The unit in which memory for bodies is counted, in bytes.
pub(crate) const UNIT_BYTES: usize = 4096;

/// Puts the whole body in place of the stream, or answers 413, 400 or 503.
pub(crate) async fn collect(
    State(server): State<Server>,
    Extension(story): Extension<Arc<Story>>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    let announced = head
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > server.limits.body_bytes as u64) {
        return story.fail(&too_large(&server));
    }
    match read(&server, body).await {
        Ok(collected) => {
            story.facts().bytes_in = collected.bytes.len() as u64;
            // The memory is in use until the answer is there.
            story.keep(collected.held);
            next.run(Request::from_parts(head, Body::from(collected.bytes)))
                .await
        }
        Err(failure) => story.fail(&failure),
    }
}

struct Collected {
    bytes: Bytes,
    held: Held,
}

/// A part of the memory for bodies.
struct Held {
    permit: Option<OwnedSemaphorePermit>,
    gauge: telemetry::IntGauge,
    units: usize,
}

impl Held {
    /// Takes what `bytes` need; false if there is no more.
    fn grow(&mut self, server: &Server, bytes: usize) -> bool {
        let more = bytes.div_ceil(UNIT_BYTES).saturating_sub(self.units);
        let Ok(count) = u32::try_from(more) else {
            return false;
        };
        let Ok(permit) = Arc::clone(&server.buffer).try_acquire_many_owned(count) else {
            return false;
        };
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        self.units += more;
        self.gauge.add(i64::from(count) * UNIT_BYTES as i64);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.sub((self.units * UNIT_BYTES) as i64);
    }
}

async fn read(server: &Server, mut body: Body) -> Result<Collected, Failure> {
    let mut held = Held {
        permit: None,
        gauge: server.metrics.body_buffer.clone(),
        units: 0,
    };
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::say(Cause::InvalidRequest, "the body broke off"))?;
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        let size = bytes.len() + chunk.len();
        if size > server.limits.body_bytes {
            return Err(too_large(server));
        }
        if !held.grow(server, size) {
            return Err(Failure::new(Cause::Overloaded));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Collected {
        bytes: bytes.freeze(),
        held,
    })
}

fn too_large(server: &Server) -> Failure {
    let most = server.limits.body_bytes;
    Failure::say(
        Cause::TooLarge,
        format!("a body may have at most {most} bytes"),
    )
}
