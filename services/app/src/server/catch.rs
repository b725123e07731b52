//! Layer: a panic below becomes an answer, is counted, and harms no other request. The panic hook has logged it by then, with
//! the request's ID.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Extension,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures::FutureExt as _;
use mcp::{Cause, Failure};

use super::{Server, Story};

/// Answers 500 with the protocol's error when the handler panics.
pub(crate) async fn catch(
    State(server): State<Server>,
    Extension(story): Extension<Arc<Story>>,
    request: Request,
    next: Next,
) -> Response {
    // What a request shares with others is behind locks that survive a panic, or immutable.
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            server.metrics.panics.inc();
            story.fail(&Failure::new(Cause::Internal))
        }
    }
}
