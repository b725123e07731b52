//! Layer: no request takes longer than its caller waits, nor longer than is allowed here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::HeaderMap;
use mcp::{Cause, Failure, headers::DEADLINE_MS};

use super::{Server, Story};

/// Sets the request's deadline and answers 504 when it passes.
pub(crate) async fn limit(
    State(server): State<Server>,
    Extension(story): Extension<Arc<Story>>,
    request: Request,
    next: Next,
) -> Response {
    let deadline = deadline(request.headers(), story.began, server.limits.request);
    story.facts().until = Some(deadline);
    // The work below has the same deadline and is asked first: what it says of its end is more exact.
    match tokio::time::timeout_at(deadline.into(), next.run(request)).await {
        Ok(response) => response,
        Err(_) => story.fail(&Failure::new(Cause::Timeout)),
    }
}

fn deadline(headers: &HeaderMap, began: Instant, longest: Duration) -> Instant {
    let asked = headers
        .get(DEADLINE_MS)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .map(Duration::from_millis);
    began + asked.map_or(longest, |asked| asked.min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_may_shorten_but_not_lengthen() {
        let began = Instant::now();
        for (asked, want) in [
            (None, 30),
            (Some("2000"), 2),
            (Some("99000"), 30),
            (Some("soon"), 30),
            (Some("-1"), 30),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(asked) = asked {
                headers.insert(DEADLINE_MS, asked.parse().unwrap());
            }
            let got = deadline(&headers, began, Duration::from_secs(30));
            assert_eq!(got, began + Duration::from_secs(want), "{asked:?}");
        }
    }
}
