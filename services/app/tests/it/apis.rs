//! HTTP APIs with an OpenAPI document, behind a real server.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use app::plugin::{
    catalogue::List,
    credential::Credential,
    mounts::{Kind, Mounts, Spec},
    openapi::OpenapiSpec,
    pins::{OnChange, PinSpec},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use openapi::Options;
use serde_json::{Value, json};

use crate::harness::{App, until};

const SHELTER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../openapi/examples/shelter.yaml"
);

/// Every request that came, as `METHOD target`, with its headers.
type Seen = Arc<Mutex<Vec<(String, HeaderMap)>>>;

struct Shelter {
    url: String,
    seen: Seen,
}

impl Shelter {
    async fn open() -> Self {
        let seen = Seen::default();
        let animals = get(list).post(add);
        let one = get(read).put(StatusCode::NO_CONTENT).delete(remove);
        let router = Router::new()
            .route("/v1/animals", animals)
            .route("/v1/animals/{id}", one)
            .route(
                "/v1/moved",
                post(async || Redirect::temporary("/v1/animals")),
            )
            .layer(axum::middleware::from_fn_with_state(
                Arc::clone(&seen),
                note,
            ))
            .with_state(Arc::clone(&seen));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen }
    }

    fn last(&self) -> (String, HeaderMap) {
        self.seen.lock().unwrap().last().unwrap().clone()
    }
}

async fn note(
    State(seen): State<Seen>,
    request: Request,
    next: axum::middleware::Next,
) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    seen.lock().unwrap().push((line, request.headers().clone()));
    next.run(request).await
}

async fn list(uri: Uri) -> Response {
    match uri.query() {
        Some(query) if query.contains("limit=99") => (
            [(header::CONTENT_TYPE, "application/json")],
            "x".repeat(100_000),
        )
            .into_response(),
        Some(query) if query.contains("limit=98") => {
            Json(json!([{"id": "no number"}])).into_response()
        }
        _ => Json(json!([{"id": 1, "name": "Minka"}])).into_response(),
    }
}

async fn add(body: Bytes) -> Response {
    let mut animal: Value = serde_json::from_slice(&body).unwrap();
    animal["id"] = json!(9_007_199_254_740_993_u64);
    animal["mother"]["id"] = json!(1);
    (StatusCode::CREATED, Json(animal)).into_response()
}

async fn read(Path(id): Path<String>) -> Response {
    match id.as_str() {
        "slow" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            StatusCode::OK.into_response()
        }
        "elsewhere" => Redirect::temporary("http://127.0.0.2:1/").into_response(),
        "here" => Redirect::temporary("/v1/animals/7").into_response(),
        "7" => Json(json!({"id": 7, "name": "Rex"})).into_response(),
        _ => (
            StatusCode::NOT_FOUND,
            Json(json!({"detail": "no such animal"})),
        )
            .into_response(),
    }
}

async fn remove() -> StatusCode {
    StatusCode::NO_CONTENT
}

fn api(document: PathBuf, url: &str, credential: Credential) -> Spec {
    Spec {
        name: "shelter".to_owned(),
        prefix: "shelter_".to_owned(),
        names: Default::default(),
        scopes: Vec::new(),
        telling: app::plugin::Telling::default(),
        trusted: false,
        kind: Kind::Openapi(OpenapiSpec {
            document,
            url: url.to_owned(),
            credential,
            options: Options {
                operations: Vec::new(),
                name_bytes_max: 56,
                output_schemas: true,
            },
            response_bytes_max: 64 << 10,
            call_timeout: Duration::from_secs(2),
        }),
    }
}

#[tokio::test]
async fn an_api_is_called_as_its_document_says() {
    let shelter = Shelter::open().await;
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "one\n").unwrap();
    let credential = Credential {
        headers: [("X-Api-Key".to_owned(), "k".to_owned())].into(),
        token_file: Some(token_file.clone()),
        ..Credential::default()
    };
    let app = App::start(vec![api(SHELTER.into(), &shelter.url, credential)]).await;
    let tools = app.ask("tools/list", json!({})).await.body;
    assert_eq!(
        tools["result"]["tools"].as_array().unwrap().len(),
        5,
        "{tools}"
    );

    let arguments = json!({"limit": 5, "kind": ["cat", "dog"], "filter": {"age": {"min": 1}}, "X-Locale": "de"});
    let params = json!({"name": "shelter_listAnimals", "arguments": arguments});
    let language = [("accept-language", "fr;q=0.5, de-ch")];
    let listed = app.ask_with("tools/call", params, &language).await;
    assert_eq!(
        listed.body["result"]["structuredContent"],
        json!({"value": [{"id": 1, "name": "Minka"}]}),
        "{listed:?}"
    );
    let (line, headers) = shelter.last();
    assert_eq!(
        line,
        "GET /v1/animals?filter%5Bage%5D%5Bmin%5D=1&kind=cat&kind=dog&limit=5"
    );
    for (name, value) in [
        ("x-api-key", "k"),
        ("authorization", "Bearer one"),
        ("x-locale", "de"),
        ("accept-language", "de-CH"),
    ] {
        assert_eq!(headers[name], value);
    }
    assert!(headers.contains_key("traceparent") && headers.contains_key("x-request-id"));

    std::fs::write(&token_file, "two\n").unwrap();
    let added = app
        .call(
            "shelter_addAnimal",
            json!({"body": {"name": "Mia", "kind": "cat", "mother": {"name": "Minka"}}}),
        )
        .await;
    assert_eq!(
        added.body["result"]["structuredContent"],
        json!({"id": 9_007_199_254_740_993_u64, "name": "Mia", "kind": "cat", "mother": {"id": 1, "name": "Minka"}}),
        "{added:?}"
    );
    assert_eq!(shelter.last().1["authorization"], "Bearer two");

    let before = shelter.seen.lock().unwrap().len();
    for (tool, arguments, says) in [
        ("shelter_listAnimals", json!({"limit": 0}), "inputSchema"),
        (
            "shelter_listAnimals",
            json!({"kind": ["fish"]}),
            "inputSchema",
        ),
        ("shelter_addAnimal", json!({}), "inputSchema"),
        ("shelter_removeAnimal", json!({"animalId": ".."}), "climb"),
    ] {
        let refused = app.call(tool, arguments).await;
        assert_eq!(refused.outcome, "tool_error");
        assert!(refused.body.to_string().contains(says), "{refused:?}");
    }
    assert_eq!(
        shelter.seen.lock().unwrap().len(),
        before,
        "nothing of this was sent"
    );
    app.mounts.stop().await;
}

#[tokio::test]
async fn what_goes_wrong_behind_an_api_stays_there() {
    let shelter = Shelter::open().await;
    let app = App::start(vec![api(
        SHELTER.into(),
        &shelter.url,
        Credential::default(),
    )])
    .await;
    let read = async |id: &str| {
        app.call("shelter_get_animals_animalId", json!({"animalId": id}))
            .await
    };
    let text =
        |answer: &crate::harness::Answer| answer.body["result"]["content"][0]["text"].to_string();
    let missing = read("8").await;
    assert_eq!(missing.outcome, "tool_error");
    assert!(text(&missing).contains("HTTP 404") && text(&missing).contains("no such animal"));
    assert_eq!(
        read("here").await.body["result"]["structuredContent"]["name"],
        "Rex"
    );
    let elsewhere = read("elsewhere").await;
    assert!(text(&elsewhere).contains("HTTP 307"), "{elsewhere:?}");
    assert_eq!(read("slow").await.code(), mcp::Cause::Timeout.code());
    for (limit, says) in [(99, "larger than"), (98, "outputSchema")] {
        let refused = app
            .call("shelter_listAnimals", json!({"limit": limit}))
            .await;
        assert_eq!(refused.outcome, "tool_error");
        assert!(text(&refused).contains(says), "{refused:?}");
    }
    app.mounts.stop().await;

    let gone = App::start(vec![api(
        SHELTER.into(),
        "http://127.0.0.1:1",
        Credential::default(),
    )])
    .await;
    let unreached = gone
        .call("shelter_removeAnimal", json!({"animalId": "1"}))
        .await;
    assert_eq!(
        unreached.code(),
        mcp::Cause::NoBackend.code(),
        "{unreached:?}"
    );
    let no_token = Credential {
        token_file: Some("/nowhere/token".into()),
        ..Credential::default()
    };
    let poor = App::start(vec![api(SHELTER.into(), &shelter.url, no_token)]).await;
    let seen = shelter.seen.lock().unwrap().len();
    let refused = poor
        .call("shelter_removeAnimal", json!({"animalId": "1"}))
        .await;
    assert_eq!(refused.code(), mcp::Cause::NoBackend.code());
    assert_eq!(shelter.seen.lock().unwrap().len(), seen);
}

#[tokio::test]
async fn a_changed_document_changes_the_tools_and_a_broken_one_costs_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("api.json");
    let write = |operations: &[&str]| {
        let paths: serde_json::Map<String, Value> = operations
            .iter()
            .map(|id| (format!("/{id}"), json!({"get": {"operationId": id}})))
            .collect();
        std::fs::write(
            &document,
            json!({"openapi": "3.1.0", "paths": paths}).to_string(),
        )
        .unwrap();
    };
    write(&["a"]);
    let app = App::start(vec![api(
        document.clone(),
        "http://127.0.0.1:1",
        Credential::default(),
    )])
    .await;
    let tools = async || {
        let list = app.ask("tools/list", json!({})).await.body;
        let names = list["result"]["tools"].as_array().unwrap();
        names
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(tools().await, ["shelter_a"]);
    write(&["a", "b"]);
    until("the new tool is there", async || {
        (tools().await.len() == 2).then_some(())
    })
    .await;

    let broken = folder.path().join("broken.json");
    std::fs::write(&broken, "{").unwrap();
    let poor = App::start(vec![api(
        broken.clone(),
        "http://127.0.0.1:1",
        Credential::default(),
    )])
    .await;
    let list = poor.ask("tools/list", json!({})).await.body;
    assert_eq!(
        list["result"]["_meta"]["dev.sweetmcp/missing"][0]["plugin"], "shelter",
        "{list}"
    );
    std::fs::copy(&document, &broken).unwrap();
    let repaired = async || {
        let list = poor.ask("tools/list", json!({})).await.body;
        (list["result"]["tools"].as_array()?.len() == 2).then_some(())
    };
    until("the repaired document is served", repaired).await;
}

#[tokio::test]
async fn a_changed_description_is_held_until_it_is_approved() {
    let folder = tempfile::tempdir().unwrap();
    let (document, pinned) = (
        folder.path().join("api.json"),
        folder.path().join("pins.json"),
    );
    let write = |summary: &str| {
        let get = json!({"operationId": "a", "summary": summary});
        let document_text = json!({"openapi": "3.1.0", "paths": {"/a": {"get": get}}});
        std::fs::write(&document, document_text.to_string()).unwrap();
    };
    write("Adds");
    let spec = PinSpec {
        file: pinned.clone(),
        on_change: OnChange::Refuse,
    };
    let plugin = api(
        document.clone(),
        "http://127.0.0.1:1",
        Credential::default(),
    );
    let mounts = Mounts::start_pinned(vec![plugin], [("shelter".to_owned(), spec)].into()).unwrap();
    let tools = async |count| {
        let there = async || (mounts.catalogue().len(List::Tools) == count).then_some(());
        until(&format!("{count} tools are served"), there).await;
    };
    tools(1).await;
    write("Sends everything elsewhere");
    let waiting = folder.path().join("pins.files.waiting.json");
    until("the document waits", async || {
        waiting.exists().then_some(())
    })
    .await;
    assert!(
        std::fs::read_to_string(waiting)
            .unwrap()
            .contains("api.json")
    );
    assert_eq!(mounts.catalogue().len(List::Tools), 1, "the old one serves");
    // The document is let in, and what it says of its tools is not.
    std::fs::remove_file(folder.path().join("pins.files.json")).unwrap();
    tools(0).await;
    let reason = mounts.catalogue().missing()[0].reason.clone();
    assert_eq!(
        reason,
        "\"tools/a\" is held: its definition is not the pinned one"
    );
    std::fs::remove_file(&pinned).unwrap();
    tools(1).await;
}
