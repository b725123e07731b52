//! Layer: no more requests at once than there is room for.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use mcp::{Cause, Failure};

use super::{Server, Story};

/// When a refused client may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Takes a place for the request until its answer is written, or refuses it with 503.
pub(crate) async fn admit(
    State(server): State<Server>,
    Extension(story): Extension<Arc<Story>>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(place) = Arc::clone(&server.places).try_acquire_owned() else {
        let mut response = story.fail(&Failure::new(Cause::Overloaded).retry_after(RETRY_AFTER));
        response.headers_mut().insert(
            http::header::RETRY_AFTER,
            http::HeaderValue::from(RETRY_AFTER.as_secs()),
        );
        return response;
    };
    // The response may be a stream: it is under way until its last byte.
    story.keep(place);
    next.run(request).await
}
