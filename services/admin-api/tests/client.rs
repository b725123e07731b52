//! The client against a real server: what it sends, and what it makes of every kind of answer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{error::Error as _, net::SocketAddr};

use admin_api::{AdminClient, AdminError, STATUS_PATH, TRAFFIC_PATH, TrafficReport};
use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};

const TOKEN: &str = "eyJhbGciOi.secret.part";
const REPORT: &str =
    r#"{"edge":"edge-1","started_unix_ms":1,"generation":2,"releases":[],"unix_ms":3}"#;

/// Serves the two routes on a free port; the task ends with the test's runtime.
async fn serve(
    traffic: impl Fn(HeaderMap) -> Response + Clone + Send + Sync + 'static,
) -> AdminClient {
    let routes = Router::new()
        .route(
            TRAFFIC_PATH,
            get(async move |headers: HeaderMap| traffic(headers)),
        )
        .route(STATUS_PATH, get(async || Redirect::temporary(TRAFFIC_PATH)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    AdminClient::new(&format!("http://{address}"), TOKEN).unwrap()
}

fn guarded(headers: &HeaderMap) -> Response {
    match headers.get(header::AUTHORIZATION) {
        Some(value) if value.to_str().unwrap() == format!("Bearer {TOKEN}") => {
            REPORT.into_response()
        }
        _ => (StatusCode::UNAUTHORIZED, "who?").into_response(),
    }
}

#[tokio::test]
async fn a_report_is_fetched_with_the_token() {
    let client = serve(|headers| guarded(&headers)).await;
    let TrafficReport {
        edge, generation, ..
    } = client.traffic().await.unwrap();
    assert_eq!((edge.as_str(), generation), ("edge-1", 2));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let client = serve(|headers| guarded(&headers)).await;
    let error = client.status().await.unwrap_err();
    assert!(
        matches!(error, AdminError::Refused { status: 307, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_refusal_shows_its_reason_on_one_line() {
    let client =
        serve(|_| (StatusCode::FORBIDDEN, "scope\n\x1b[31madmin is missing\n").into_response())
            .await;
    let error = client.traffic().await.unwrap_err();
    assert!(error.is_unauthorized());
    assert!(
        error
            .to_string()
            .ends_with("refused with 403: scope  [31madmin is missing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_flood_is_cut() {
    let client = serve(|_| vec![b' '; 5 << 20].into_response()).await;
    let error = client.traffic().await.unwrap_err();
    assert!(matches!(error, AdminError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_of_another_kind_is_named() {
    let client = serve(|_| "<html>".into_response()).await;
    let error = client.traffic().await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("/admin/v1/traffic is not a report"),
        "{error}"
    );
    assert!(error.source().is_some());
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = AdminClient::new(&format!("http://{address}"), TOKEN).unwrap();
    let error = client.traffic().await.unwrap_err();
    assert!(matches!(error, AdminError::Unreachable { .. }), "{error}");
    assert!(!format!("{error:?} {client:?}").contains(TOKEN));
}

#[test]
fn wrong_addresses_and_tokens_are_refused_without_showing_secrets() {
    for address in [
        "",
        "127.0.0.1:1",
        "ftp://x",
        "http://u:hunter2@x",
        "http://x/admin",
        "http://x/?a",
    ] {
        let error = AdminClient::new(address, TOKEN).unwrap_err();
        assert!(matches!(error, AdminError::BadAddress { .. }), "{address}");
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }
    for token in ["", "two words", "line\nend", "é"] {
        let error = AdminClient::new("http://127.0.0.1:1", token).unwrap_err();
        assert!(matches!(error, AdminError::BadToken), "{token:?}");
    }
}
