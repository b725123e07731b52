//! WebAssembly components behind the app.

use std::{path::PathBuf, time::Duration};

use app::plugin::{
    State,
    builtin::Set,
    mounts::{Kind, Spec},
    signature::SignedBy,
    wasm::WasmSpec,
};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

use crate::harness::{App, builtin, example, until};

const RUDE: &str = include_str!("../../../wasm/tests/it/rude.wat");

fn component(module: PathBuf, digest: Option<String>) -> Spec {
    named("rude", module, |spec| spec.digest = digest)
}

fn named(name: &str, module: PathBuf, change: impl FnOnce(&mut WasmSpec)) -> Spec {
    let mut spec = WasmSpec {
        module,
        digest: None,
        signed_by: None,
        limits: wasm::Limits {
            memory_bytes: 16 << 20,
            answer_bytes: 1 << 20,
            calls: 4,
            warm: 2,
            fuel: None,
        },
        grants: wasm::Grants::default(),
        allow_hosts: Vec::new(),
        cache: None,
        call_timeout: Duration::from_millis(500),
    };
    change(&mut spec);
    Spec {
        name: name.to_owned(),
        prefix: format!("{name}_"),
        names: Default::default(),
        scopes: Vec::new(),
        telling: app::plugin::Telling::default(),
        trusted: false,
        kind: Kind::Wasm(spec),
    }
}

#[tokio::test]
async fn a_component_is_served_and_its_trap_costs_the_call_alone() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("rude.wasm");
    let listed = |name: &str| RUDE.replace("\\22echo\\22", &format!("\\22{name}\\22"));
    let bytes = wat::parse_str(listed("echo")).unwrap();
    std::fs::write(&module, &bytes).unwrap();
    let sum = digest(&SHA256, &bytes);
    let sum: String = sum
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let specs = vec![
        component(module.clone(), Some(sum)),
        builtin("time", Set::Time),
    ];
    let app = App::start(specs).await;
    let echo = app.call("rude_echo", json!({"a": 1})).await;
    assert_eq!(
        echo.body["result"]["structuredContent"],
        json!({"a": 1}),
        "{echo:?}"
    );
    // Another file than the pinned one leaves the old one in service.
    std::fs::write(&module, wat::parse_str(listed("trap")).unwrap()).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(app.call("rude_echo", json!({})).await.outcome, "ok");

    let free = App::start(vec![
        component(module.clone(), None),
        builtin("time", Set::Time),
    ])
    .await;
    let trapped = free.call("rude_trap", json!({})).await;
    assert_eq!(
        trapped.code(),
        mcp::Cause::UpstreamBroken.code(),
        "{trapped:?}"
    );
    assert_eq!(free.call("time_now", json!({})).await.outcome, "ok");
    std::fs::write(&module, wat::parse_str(listed("loop")).unwrap()).unwrap();
    let late = until("the new component is served", async || {
        let answer = free.call("rude_loop", json!({})).await;
        (answer.code() != -32602).then_some(answer)
    })
    .await;
    assert_eq!(late.code(), mcp::Cause::Timeout.code(), "{late:?}");

    let wrong = App::start(vec![component(module, Some("0".repeat(64)))]).await;
    let list = wrong.ask("tools/list", json!({})).await.body;
    assert_eq!(
        list["result"]["_meta"]["dev.sweetmcp/missing"][0]["plugin"],
        "rude"
    );
}

#[tokio::test]
async fn whatever_a_component_does_its_neighbours_answer_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let tools = ["loop", "grow", "trap", "deep", "wild"];
    // Each lists the one tool that is asked for.
    let file = |tool: &str| {
        let module = folder.path().join(tool);
        let bytes = wat::parse_str(RUDE.replace("\\22echo\\22", &format!("\\22{tool}\\22")));
        std::fs::write(&module, bytes.unwrap()).unwrap();
        module
    };
    let mut specs: Vec<Spec> = tools.map(|tool| named(tool, file(tool), |_| {})).into();
    specs.push(named("good", file("echo"), |_| {}));
    specs.push(builtin("time", Set::Time));
    let app = App::start(specs).await;
    let rude = futures::future::join_all(tools.map(|tool| {
        let name = format!("{tool}_{tool}");
        let app = &app;
        async move { (tool, app.call(&name, json!({})).await) }
    }));
    let mut rude = std::pin::pin!(rude);
    let mut answered = 0;
    let ended = loop {
        tokio::select! {
            ended = &mut rude => break ended,
            echo = app.call("good_echo", json!({"a": 1})) => {
                assert_eq!(echo.body["result"]["structuredContent"], json!({"a": 1}), "{echo:?}");
                assert_eq!(app.call("time_now", json!({})).await.outcome, "ok");
                answered += 1;
            }
        }
    };
    assert!(answered > 0);
    for (tool, answer) in ended {
        let cause = match tool {
            "loop" => mcp::Cause::Timeout,
            _ => mcp::Cause::UpstreamBroken,
        };
        assert_eq!(answer.code(), cause.code(), "{tool}: {answer:?}");
    }
    assert_eq!(app.call("good_echo", json!({})).await.outcome, "ok");
}

/// Compiles a large component once for all tests.
fn cached(spec: &mut WasmSpec) {
    spec.cache = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("components"));
}

/// A server that answers at `/` and sends elsewhere from `/away` and `/back`.
async fn server(away: String) -> std::net::SocketAddr {
    use axum::{Router, response::Redirect, routing::get};
    let routes = Router::new()
        .route("/", get(async || "hello"))
        .route("/back", get(async || Redirect::temporary("/")))
        .route(
            "/away",
            get(async move || Redirect::temporary(&format!("http://{away}/"))),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

#[tokio::test]
async fn a_component_asks_the_hosts_that_are_allowed_and_is_led_nowhere_else() {
    let other = server(String::new()).await;
    let allowed = server(other.to_string()).await;
    let granted = |spec: &mut WasmSpec| {
        spec.allow_hosts = vec![allowed.to_string()];
        spec.grants.clock = true;
        spec.grants.random = true;
        spec.limits.memory_bytes = 64 << 20;
        spec.call_timeout = Duration::from_secs(20);
        cached(spec);
    };
    let fetcher = example("fetcher.wasm");
    let app = App::start(vec![named("web", fetcher.clone(), granted)]).await;
    let fetch = async |url: String| app.until_called("web_fetch", json!({"url": url})).await;
    for path in ["", "back"] {
        let answer = fetch(format!("http://{allowed}/{path}")).await;
        let said = &answer.body["result"]["structuredContent"];
        assert_eq!(*said, json!({"status": 200, "text": "hello"}), "{answer:?}");
    }
    for url in [
        format!("http://{other}/"),
        format!("http://{allowed}/away"),
        format!("http://localhost:{}/", allowed.port()),
    ] {
        let answer = fetch(url.clone()).await;
        assert_eq!(answer.body["result"]["isError"], true, "{url}: {answer:?}");
    }
    let poor = App::start(vec![named("web", fetcher, cached)]).await;
    until("it is refused", async || {
        let state = poor.mounts.mounted()[0].plugin.state();
        matches!(state, State::Restarting { reason, .. } if reason.contains("wasi:http"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_component_without_its_signature_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("rude.wasm");
    std::fs::write(&module, wat::parse_str(RUDE).unwrap()).unwrap();
    let app = App::start(vec![named("rude", module, |spec| {
        spec.signed_by = Some(SignedBy {
            key: crate::bounds::KEY.to_owned(),
            files: Vec::new(),
        });
    })])
    .await;
    match app.mounts.mounted()[0].plugin.state() {
        State::Restarting { reason, .. } => {
            assert!(reason.contains("rude.wasm.minisig"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
}
