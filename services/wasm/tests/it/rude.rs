//! What a component does wrong ends with its call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasm::{CallError, Grants, Limits, LoadError, Plugin};

use crate::harness::{Heard, LIMITS, RUNTIME, call, load, rude, soon};

#[tokio::test]
async fn a_component_lists_and_answers_and_refuses() {
    let plugin = load(&rude(), Grants::default());
    let tools = plugin
        .list_tools(Arc::new(Heard::default()), soon(5_000))
        .await;
    assert_eq!(
        tools.unwrap().unwrap(),
        [r#"{"name":"echo","inputSchema":{"type":"object"}}"#]
    );
    let arguments = r#"{"text":"häi"}"#;
    assert_eq!(
        call(&plugin, "echo", arguments).await,
        Ok(Ok(arguments.into()))
    );
    assert_eq!(
        call(&plugin, "refuse", "{}").await,
        Ok(Err("refuse".into()))
    );
}

#[tokio::test]
async fn no_call_sees_what_another_left_behind() {
    let plugin = load(&rude(), Grants::default());
    for _ in 0..10 {
        assert_eq!(call(&plugin, "count", "{}").await, Ok(Ok("1".into())));
    }
}

#[tokio::test]
async fn traps_and_limits_end_the_call_alone() {
    let plugin = load(&rude(), Grants::default());
    for (tool, says) in [
        ("trap", "unreachable"),
        ("grow", "grow"),
        ("deep", "stack"),
        ("wild", "bounds"),
    ] {
        match call(&plugin, tool, "{}").await {
            Err(CallError::Trapped(reason)) => assert!(reason.contains(says), "{tool}: {reason}"),
            other => panic!("{tool}: {other:?}"),
        }
        assert_eq!(
            call(&plugin, "echo", "1").await,
            Ok(Ok("1".into())),
            "after {tool}"
        );
    }
    assert_eq!(
        call(&plugin, "huge", "{}").await,
        Err(CallError::TooLong(4 << 20))
    );
}

/// On one thread, so that a component that held it would stop everything.
#[tokio::test(flavor = "current_thread")]
async fn an_endless_loop_ends_in_time_and_others_run_meanwhile() {
    let plugin = load(&rude(), Grants::default());
    let began = Instant::now();
    let looping = plugin.call_tool("loop", "{}", Arc::new(Heard::default()), soon(300));
    let others = async {
        let mut answered = 0;
        while began.elapsed() < Duration::from_millis(200) {
            assert_eq!(call(&plugin, "echo", "1").await, Ok(Ok("1".into())));
            answered += 1;
        }
        answered
    };
    let (ended, answered) = tokio::join!(looping, others);
    assert_eq!(ended, Err(CallError::Late));
    assert!(answered > 1, "{answered}");
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_call_computes_no_more_than_its_fuel() {
    let limits = Limits {
        fuel: Some(1_000_000),
        ..LIMITS
    };
    let plugin = Plugin::load(&RUNTIME, &rude(), limits, Grants::default()).unwrap();
    for _ in 0..3 {
        match call(&plugin, "loop", "{}").await {
            Err(CallError::Trapped(reason)) => assert!(reason.contains("fuel"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(call(&plugin, "echo", "1").await, Ok(Ok("1".into())));
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_ends() {
    let plugin = load(&rude(), Grants::default());
    for _ in 0..3 * LIMITS.calls {
        let looping = plugin.call_tool("loop", "{}", Arc::new(Heard::default()), soon(60_000));
        let given_up = tokio::time::timeout(Duration::from_millis(10), looping).await;
        assert!(given_up.is_err());
    }
    assert_eq!(call(&plugin, "echo", "1").await, Ok(Ok("1".into())));
}

#[tokio::test]
async fn more_calls_than_there_is_room_for_are_told_so() {
    let plugin = load(&rude(), Grants::default());
    let calls = (0..LIMITS.calls + 2)
        .map(|_| plugin.call_tool("loop", "{}", Arc::new(Heard::default()), soon(300)));
    let ended = futures::future::join_all(calls).await;
    let count = |error: &CallError| {
        ended
            .iter()
            .filter(|one| one.as_ref() == Err(error))
            .count()
    };
    assert_eq!(
        (count(&CallError::Busy), count(&CallError::Late)),
        (2, LIMITS.calls)
    );
}

#[test]
fn what_is_no_plugin_is_not_loaded() {
    let load = |text: &str| {
        let bytes = wat::parse_str(text).unwrap();
        Plugin::load(&RUNTIME, &bytes, LIMITS, Grants::default()).unwrap_err()
    };
    assert!(matches!(load("(module)"), LoadError::Compile(_)));
    for text in [
        "(component)",
        r#"(component (import "wasi:http/types@0.2.0" (instance (export "x" (func)))))"#,
    ] {
        assert!(matches!(load(text), LoadError::Interface(_)), "{text}");
    }
    let garbage = Plugin::load(&RUNTIME, b"MZ", LIMITS, Grants::default());
    assert!(matches!(garbage, Err(LoadError::Compile(_))));
}
