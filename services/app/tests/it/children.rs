//! Children that misbehave harm their own calls and nobody else's.

use app::plugin::{builtin::Set, catalogue::META_MISSING};
use serde_json::json;

use crate::harness::{App, alive, builtin, kill, rude, until};

async fn app(mood: &str) -> App {
    App::start(vec![builtin("time", Set::Time), rude(mood)]).await
}

#[tokio::test]
async fn every_way_of_meeting_leads_to_service() {
    for mood in ["legacy", "modern", "silent", "shy", "late"] {
        let app = app(mood).await;
        assert!(
            app.until_answered("rude_pid").await.said().is_number(),
            "{mood}"
        );
        app.mounts.stop().await;
    }
}

#[tokio::test]
async fn a_child_that_never_comes_up_costs_its_own_tools() {
    let app = app("exits").await;
    let list = app.ask("tools/list", json!({})).await;
    let result = &list.body["result"];
    assert_eq!(result["tools"].as_array().unwrap().len(), 3);
    assert_eq!(result["_meta"][META_MISSING][0]["plugin"], "rude");
    assert_eq!(result["ttlMs"], 0);
    assert_eq!(app.call("time_now", json!({})).await.outcome, "ok");
}

#[tokio::test]
async fn a_child_sees_a_clean_environment_and_the_requests_identity() {
    let app = app("legacy").await;
    let seen = app.call("rude_env", json!({})).await.said();
    let seen: Vec<&str> = seen
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert!(
        seen.contains(&"CONFIGURED") && seen.contains(&"PATH"),
        "{seen:?}"
    );
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(
        !seen.iter().any(|name| name.starts_with("CARGO")),
        "{seen:?}"
    );
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let params = json!({"name": "rude_meta", "_meta": {"vendor/x": 1}});
    let meta = app
        .ask_with(
            "tools/call",
            params,
            &[("x-request-id", "r-7"), ("traceparent", parent)],
        )
        .await
        .said();
    assert_eq!(
        (&meta["dev.sweetmcp/requestId"], &meta["vendor/x"]),
        (&json!("r-7"), &json!(1))
    );
    let passed = meta["traceparent"].as_str().unwrap();
    assert!(
        passed.starts_with(&parent[..35]) && passed != parent,
        "{passed}"
    );
    assert!(
        meta.get("io.modelcontextprotocol/protocolVersion")
            .is_none()
    );
}

#[tokio::test]
async fn garbage_and_questions_of_a_child_change_nothing() {
    let app = app("legacy").await;
    assert_eq!(
        app.call("rude_garbage", json!({})).await.said(),
        "still here"
    );
    let answers = app.call("rude_ask", json!({})).await.said();
    assert_eq!(answers[0]["result"], json!({}));
    assert_eq!(answers[1]["error"]["code"], -32601);
    assert_eq!(answers[2]["error"]["code"], -32601);
}

#[tokio::test]
async fn too_long_an_answer_fails_its_own_call_alone() {
    let app = app("legacy").await;
    let pid = app.call("rude_pid", json!({})).await.said();
    let answer = app.call("rude_huge", json!({})).await;
    assert_eq!((answer.status, answer.code()), (200, -31502));
    assert_eq!(
        app.call("rude_pid", json!({})).await.said(),
        pid,
        "the child goes on"
    );
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_tells_the_child() {
    let app = app("legacy").await;
    let params = json!({"name": "rude_hang", "arguments": {}});
    let answer = app
        .ask_with("tools/call", params, &[("sweetmcp-deadline-ms", "300")])
        .await;
    assert_eq!((answer.status, answer.code()), (504, -31504));
    let told = app.call("rude_cancelled", json!({})).await.said();
    assert_eq!(told.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_call() {
    let app = app("legacy").await;
    let params = json!({"name": "rude_hang", "arguments": {}});
    let call = app.ask("tools/call", params);
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(300), call)
            .await
            .is_err()
    );
    until("the child is told", async || {
        let told = app.call("rude_cancelled", json!({})).await.said();
        (told.as_array().unwrap().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_child_killed_in_mid_call_fails_that_call_and_comes_back() {
    let app = app("legacy").await;
    let pid = app.call("rude_pid", json!({})).await.said();
    let call = app.call("rude_hang", json!({}));
    let killing = async {
        // The plugin's own count: the call has been given to the child.
        let given = async || {
            let report: serde_json::Value =
                serde_json::from_str(&app.get("/health").await.1).unwrap();
            (report["subsystems"]["plugins"][1]["in_flight"] == 1).then_some(())
        };
        until("the call is under way", given).await;
        kill(&pid);
    };
    let (lost, ()) = tokio::join!(call, killing);
    assert_eq!((lost.status, lost.code()), (200, -31502), "{lost:?}");
    assert_eq!(lost.body["error"]["data"]["retryable"], false);
    assert_eq!(app.call("time_now", json!({})).await.outcome, "ok");
    let list = app.ask("tools/list", json!({})).await;
    assert!(
        list.body["result"]["tools"].as_array().unwrap().len() > 3,
        "the last known list stays"
    );
    assert_ne!(app.until_answered("rude_pid").await.said(), pid);
}

#[tokio::test]
async fn a_changed_list_is_fetched_again() {
    let app = app("legacy").await;
    app.call("rude_grow", json!({})).await;
    until("the new tool is listed", async || {
        let list = app.ask("tools/list", json!({})).await;
        list.body.to_string().contains("rude_grown").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_child_starts_ends_with_it() {
    let app = app("legacy").await;
    let grandchild = app
        .call("rude_fork", json!({}))
        .await
        .said()
        .as_i64()
        .unwrap();
    assert!(alive(grandchild));
    app.call("rude_die", json!({})).await;
    until("the grandchild is gone", async || {
        (!alive(grandchild)).then_some(())
    })
    .await;
}
