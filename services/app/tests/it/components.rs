//! WebAssembly components behind the app.

use std::{path::PathBuf, time::Duration};

use app::plugin::{
    builtin::Set,
    mounts::{Kind, Spec},
    wasm::WasmSpec,
};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

use crate::harness::{App, builtin, until};

const RUDE: &str = include_str!("../../../wasm/tests/it/rude.wat");

fn component(module: PathBuf, digest: Option<String>) -> Spec {
    Spec {
        name: "rude".to_owned(),
        prefix: "rude_".to_owned(),
        names: Default::default(),
        scopes: Vec::new(),
        kind: Kind::Wasm(WasmSpec {
            module,
            digest,
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
        }),
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
