//! Calls that take several rounds.

use std::time::{Duration, Instant};

use app::server::Limits;
use serde_json::{Value, json};

use crate::harness::{Answer, App, kill, rude, sessions, until};

async fn app(mood: &str) -> App {
    App::start(vec![rude(mood)]).await
}

fn call(tool: &str) -> Value {
    json!({"name": format!("rude_{tool}"), "arguments": {}})
}

/// The retry of `params` with the state of `answer` and these answers.
fn retry(params: &Value, answer: &Answer, inputs: Value) -> Value {
    let result = &answer.body["result"];
    assert_eq!(result["resultType"], "input_required", "{answer:?}");
    let mut params = params.clone();
    params["requestState"] = result["requestState"].clone();
    params["inputResponses"] = inputs;
    params
}

/// A question and its answer: from now on it is known that the child asks without saying for which call.
async fn is_asked(app: &App) {
    let params = call("elicit");
    let asked = app.call_as("ana", params.clone()).await;
    let inputs = json!({"q1": {"action": "decline"}});
    let answer = app.call_as("ana", retry(&params, &asked, inputs)).await;
    assert_eq!(answer.said(), json!([{"action": "decline"}]));
}

#[tokio::test]
async fn a_childs_question_goes_out_and_its_answer_comes_back() {
    let app = app("legacy").await;
    let params = call("elicit");
    let asked = app.call_as("ana", params.clone()).await;
    let result = &asked.body["result"];
    assert_eq!(
        result["inputRequests"]["q1"]["method"],
        "elicitation/create"
    );
    assert_eq!(result["inputRequests"]["q1"]["params"]["message"], "who?");
    let state = result["requestState"].as_str().unwrap();
    assert!(state.starts_with("app-1."), "{state}");

    let reply = json!({"action": "accept", "content": {"name": "Ana"}});
    let inputs = json!({"q1": reply, "more": {}});
    let again = retry(&params, &asked, inputs);
    for (who, params) in [
        ("bob", again.clone()),
        ("ana", {
            let mut other = again.clone();
            other["arguments"] = json!({"changed": 1});
            other
        }),
        ("ana", {
            let mut forged = again.clone();
            forged["requestState"] = json!(format!("{}x", &state[..state.len() - 1]));
            forged
        }),
    ] {
        let refused = app.call_as(who, params).await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, -32602),
            "{refused:?}"
        );
    }
    assert_eq!(
        app.call_as("ana", again.clone()).await.said(),
        json!([reply])
    );
    let twice = app.call_as("ana", again).await;
    assert_eq!((twice.status, twice.code()), (400, -32602), "it ran once");
}

#[tokio::test]
async fn what_is_not_answered_is_asked_again() {
    let app = app("legacy").await;
    let params = call("pair");
    let first = app.call_as("ana", params.clone()).await;
    let questions = first.body["result"]["inputRequests"].as_object().unwrap();
    let (roots, who): (Vec<_>, Vec<_>) = questions
        .iter()
        .partition(|(_, question)| question["method"] == "roots/list");
    // Both came together, or the second comes in the second round.
    assert_eq!(who.len(), 1, "{questions:?}");
    let nothing = retry(&params, &first, json!({who[0].0.as_str(): "no object"}));
    let second = app.call_as("ana", nothing).await;
    let inputs = json!({who[0].0.as_str(): {"action": "decline"}});
    let mut third = app.call_as("ana", retry(&params, &second, inputs)).await;
    assert_eq!(third.body["result"]["resultType"], "input_required");
    let left = third.body["result"]["inputRequests"]
        .as_object()
        .unwrap()
        .clone();
    assert_eq!(left.len(), 1, "{left:?} {roots:?}");
    let key = left.keys().next().unwrap().as_str();
    let inputs = json!({key: {"roots": []}});
    third = app.call_as("ana", retry(&params, &third, inputs)).await;
    assert_eq!(third.said(), json!([{"action": "decline"}, {"roots": []}]));
}

#[tokio::test]
async fn a_call_whose_client_does_not_come_back_is_given_up() {
    let limits = Limits {
        parked_for: Duration::from_millis(300),
        parked_each: 1,
        ..Limits::default()
    };
    let app = App::start_with(vec![rude("legacy")], limits).await;
    let params = call("elicit");
    let asked = app.call_as("ana", params.clone()).await;
    let told = until("the child is told", async || {
        let told = app.call("rude_cancelled", json!({})).await;
        let told = told.body.get("result").is_some().then(|| told.said())?;
        (told != json!([])).then_some(told)
    })
    .await;
    assert_eq!(told.as_array().unwrap().len(), 1);
    let late = app.call_as("ana", retry(&params, &asked, json!({}))).await;
    assert_eq!((late.status, late.code()), (400, -32602));
}

#[tokio::test]
async fn a_client_that_does_not_answer_keeps_others_from_a_child_for_a_bounded_time() {
    let limits = Limits {
        parked_in_the_way_for: Duration::from_secs(2),
        ..Limits::default()
    };
    let app = App::start_with(vec![rude("legacy")], limits).await;
    is_asked(&app).await;
    let (params, asked_at) = (call("elicit"), Instant::now());
    let asked = app.call_as("ana", params.clone()).await;
    // Others are refused while there is time to call elsewhere, until they get their
    // turn.
    let answer = until("another client's call runs", async || {
        let began = Instant::now();
        let headers = [
            ("sweetmcp-principal", "bob"),
            ("sweetmcp-deadline-ms", "4000"),
        ];
        let answer = app.ask_with("tools/call", call("pid"), &headers).await;
        let Some(error) = answer.body.get("error") else {
            return Some(answer);
        };
        assert!(began.elapsed() < Duration::from_secs(3), "{answer:?}");
        assert_eq!((answer.status, answer.code()), (200, -31503), "{answer:?}");
        assert_eq!(error["data"]["retryable"], true);
        assert!(error["message"].as_str().unwrap().contains("did not run"));
        None
    })
    .await;
    assert!(answer.said().is_number());
    assert!(asked_at.elapsed() >= Duration::from_secs(2), "ana had time");
    let late = app.call_as("ana", retry(&params, &asked, json!({}))).await;
    assert_eq!((late.status, late.code()), (400, -32602), "{late:?}");
}

#[tokio::test]
async fn answering_a_child_that_is_gone_does_not_say_that_the_call_was_not_sent() {
    let app = app("legacy").await;
    let before = app.call("rude_pid", json!({})).await.said();
    let params = call("elicit");
    let asked = app.call_as("ana", params.clone()).await;
    kill(&before);
    let after = app.until_answered("rude_pid").await.said();
    assert_ne!(after, before, "another child is in service");
    let inputs = json!({"q1": {"action": "decline"}});
    let lost = app.call_as("ana", retry(&params, &asked, inputs)).await;
    assert_eq!((lost.status, lost.code()), (200, -31502), "{lost:?}");
    let error = &lost.body["error"];
    assert_eq!(error["data"]["retryable"], false);
    let message = error["message"].as_str().unwrap();
    assert!(message.ends_with("the call may have run"), "{message}");
}

#[tokio::test]
async fn a_question_never_reaches_another_client() {
    let app = app("legacy").await;
    let hang = app.ask_with(
        "tools/call",
        call("hang"),
        &[
            ("sweetmcp-principal", "bob"),
            ("sweetmcp-deadline-ms", "1500"),
        ],
    );
    let ask = async {
        until("bob's call is under way", async || {
            let report: Value = serde_json::from_str(&app.get("/health").await.1).unwrap();
            (report["subsystems"]["plugins"][0]["in_flight"] == 1).then_some(())
        })
        .await;
        app.call_as("ana", call("elicit")).await
    };
    let (_, refused) = tokio::join!(hang, ask);
    assert_eq!(
        refused.said()[0]["code"],
        -32603,
        "both calls were under way"
    );
    // Bob's call was given up, but the child may still work on it.
    let refused = app.call_as("ana", call("elicit")).await;
    assert_eq!(refused.said()[0]["code"], -32603);
}

#[tokio::test]
async fn a_modern_childs_questions_pass_with_its_own_state_sealed() {
    let shared = sessions();
    let app = App::start_in(vec![rude("modern")], Limits::default(), shared.clone()).await;
    let params = call("more");
    let undeclared = app.ask("tools/call", params.clone()).await;
    assert_eq!((undeclared.status, undeclared.code()), (400, -32021));
    assert_eq!(
        undeclared.body["error"]["data"]["requiredCapabilities"],
        json!({"elicitation": {}})
    );
    let asked = app.call_as("ana", params.clone()).await;
    let inputs = json!({"who": {"action": "accept"}});
    let again = retry(&params, &asked, inputs.clone());
    assert!(
        !again["requestState"]
            .as_str()
            .unwrap()
            .contains("own state")
    );
    let refused = app.call_as("bob", again.clone()).await;
    assert_eq!((refused.status, refused.code()), (400, -32602));
    // The one that was there before may have been replaced: its keys are the fleet's.
    let restarted = App::start_in(vec![rude("modern")], Limits::default(), shared).await;
    for app in [app, restarted] {
        assert_eq!(
            app.call_as("ana", again.clone()).await.said(),
            json!(["own state", inputs])
        );
    }
}

#[tokio::test]
async fn tasks_and_completions_find_their_plugin() {
    let app = app("modern").await;
    let made = app.call_as("ana", call("task")).await;
    let id = made.body["result"]["taskId"].as_str().unwrap().to_owned();
    assert_ne!(id, "t-1");
    let get = async |who: &str, id: &str| {
        let headers = [("sweetmcp-principal", who)];
        let extensions = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
        let mut params = json!({"taskId": id});
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = extensions;
        app.ask_with("tasks/get", params, &headers).await
    };
    let got = get("ana", &id).await;
    assert_eq!(got.body["result"]["taskId"], id);
    assert_eq!(got.body["result"]["status"], "working");
    for (who, id) in [("bob", id.as_str()), ("ana", "t-1")] {
        let refused = get(who, id).await;
        assert_eq!((refused.status, refused.code()), (400, -32602));
    }
    for (reference, want) in [
        (
            json!({"type": "ref/prompt", "name": "rude_greet"}),
            json!({"type": "ref/prompt", "name": "greet"}),
        ),
        (
            json!({"type": "ref/resource", "uri": "x://{id}"}),
            json!({"type": "ref/resource", "uri": "x://{id}"}),
        ),
    ] {
        let params = json!({"ref": reference, "argument": {"name": "a", "value": ""}});
        let answer = app.ask("completion/complete", params).await;
        let values = &answer.body["result"]["completion"]["values"];
        let seen: Value = serde_json::from_str(values[0].as_str().unwrap()).unwrap();
        assert_eq!(seen, want);
    }
    let params = json!({"ref": {"type": "ref/prompt", "name": "greet"}});
    let refused = app.ask("completion/complete", params).await;
    assert_eq!((refused.status, refused.code()), (400, -32602));
}

#[tokio::test]
async fn arguments_fit_their_schema_and_their_headers() {
    let app = app("legacy").await;
    let strict = |n: Value| json!({"name": "rude_strict", "arguments": {"n": n}});
    for (n, header, status, code) in [
        (json!(5), Some("5"), 200, None),
        (json!(5), None, 400, Some(-32020)),
        (json!(5), Some("6"), 400, Some(-32020)),
    ] {
        let headers: Vec<_> = header
            .iter()
            .map(|value| ("mcp-param-number", *value))
            .collect();
        let answer = app.ask_with("tools/call", strict(n), &headers).await;
        let got = answer.body["error"]["code"].as_i64();
        assert_eq!((answer.status, got), (status, code), "{answer:?}");
    }
    let headers = [("mcp-param-number", "x")];
    let wrong = app
        .ask_with("tools/call", strict(json!("x")), &headers)
        .await;
    assert_eq!(wrong.outcome, "tool_error", "{wrong:?}");
    let text = wrong.body["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("/n: "), "{text}");
}
