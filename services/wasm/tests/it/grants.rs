//! What a component has beside computing is what it was granted.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use wasm::{Fetch, FetchError, Grants, LoadError, Plugin, Web};

use crate::{
    examples::component,
    harness::{LIMITS, RUNTIME, call, load},
};

#[tokio::test]
async fn the_clock_stands_at_zero_unless_it_is_granted() {
    let bytes = wat::parse_str(include_str!("clock.wat")).unwrap();
    let time = async |grants| {
        let said = call(&load(&bytes, grants), "now", "{}").await;
        said.unwrap().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(time(Grants::default()).await, 0);
    let granted = Grants {
        clock: true,
        ..Grants::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(time(granted).await.abs_diff(now.as_secs()) < 60);
}

/// Answers for one host, as the way to it would.
struct OneHost;

impl Fetch for OneHost {
    fn fetch(
        &self,
        request: Request<Bytes>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Response<Bytes>, FetchError>> {
        assert!(deadline > Instant::now() && deadline < Instant::now() + Duration::from_secs(60));
        let answer = if request.uri().host() == Some("granted.example") {
            let text = format!("{} {}", request.method(), request.uri());
            Ok(Response::new(Bytes::from(text)))
        } else {
            Err(FetchError::Denied)
        };
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test]
async fn requests_go_where_the_grant_lets_them_and_no_component_has_any_without() {
    let bytes = component("fetcher");
    let granted = Grants {
        web: Some(Web(Arc::new(OneHost))),
        clock: true,
        random: true,
        ..Grants::default()
    };
    let plugin = load(&bytes, granted);
    let fetch = async |url: &str| {
        call(&plugin, "fetch", &format!(r#"{{"url":"{url}"}}"#))
            .await
            .unwrap()
    };
    assert_eq!(
        fetch("https://granted.example/a?b=1").await,
        Ok(r#"{"status":200,"text":"GET https://granted.example/a?b=1"}"#.into())
    );
    assert!(fetch("https://other.example/").await.is_err());
    assert!(fetch("http://127.0.0.1:1/").await.is_err());
    let poor = Plugin::load(&RUNTIME, &bytes, LIMITS, Grants::default());
    match poor {
        Err(LoadError::Interface(reason)) => assert!(reason.contains("wasi:http"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
