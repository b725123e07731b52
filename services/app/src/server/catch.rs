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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{
        Router,
        body::Body,
        middleware::{from_fn, from_fn_with_state},
        routing::get,
    };
    use http_body_util::BodyExt as _;
    use mcp::seal::KeyRing;
    use telemetry::{Metrics, Watchdog};
    use tower::{ServiceBuilder, ServiceExt as _};

    use super::*;
    use crate::{
        life::Life,
        metrics::AppMetrics,
        plugin::mounts::Mounts,
        server::{Fleet, Limits, Sessions, identify},
    };

    async fn boom() -> Response {
        panic!("boom")
    }

    #[tokio::test]
    async fn a_panic_is_answered_counted_and_over() {
        let all = Metrics::new("test", "0", "test").unwrap();
        let watchdog = Watchdog::start(Duration::from_secs(30), &all).unwrap();
        let server = Server::new(
            Mounts::start(Vec::new()).unwrap(),
            AppMetrics::new(all).unwrap(),
            Life::default(),
            watchdog,
            Limits::default(),
            Fleet {
                release: "r",
                instance: "app-1",
                sessions: Sessions {
                    keys: KeyRing::new(&[[1; 32]]).unwrap(),
                    shared: Arc::new(legacy::Memory::default()),
                    life: Duration::from_secs(60),
                },
            },
        );
        let layers = ServiceBuilder::new()
            .layer(from_fn(identify::identify))
            .layer(from_fn_with_state(server.clone(), catch));
        let router = Router::new().route("/", get(boom)).layer(layers);
        for turn in 1..=2 {
            let request = Request::builder().header("x-request-id", "r-9");
            let request = request.body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 500);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["error"]["code"], -32603);
            assert_eq!(body["error"]["data"]["requestId"], "r-9");
            assert_eq!(server.metrics.panics.get(), turn);
        }
    }
}
