//! What a whole process writes to standard error. Telemetry starts once per process, so the test runs
//! itself again as a child and reads what the child wrote.

use std::process::Command;

use serde_json::Value;
use telemetry::{
    AccessLine, LogFormat, StartError, TelemetryOptions, request_span, start, trace::TraceContext,
};

const CHILD: &str = "TELEMETRY_TEST_LOG_FILTER";

fn options(log_format: LogFormat, log_filter: String) -> TelemetryOptions {
    TelemetryOptions {
        service: "sweetmcp-edge",
        instance: "edge-1".into(),
        release: "abc".into(),
        log_format,
        log_filter,
        otlp_endpoint: None,
        sample_ratio: 0.0,
    }
}

/// The child's part; does nothing in an ordinary run.
#[test]
fn child() {
    let Ok(filter) = std::env::var(CHILD) else {
        return;
    };
    let guard = start(&options(LogFormat::Auto, filter.clone())).unwrap();
    assert!(matches!(
        start(&options(LogFormat::Json, filter)),
        Err(StartError::AlreadyStarted)
    ));
    let trace = TraceContext::new_root(false);
    let span = request_span("r-1", &trace);
    span.in_scope(|| tracing::info!("inside"));
    log::warn!(target: "pingora_core::services::listening", "accept failed\n{{}}");
    log::error!(target: "pingora_core::apps::http_app", "a client went away");
    AccessLine {
        request_id: "r-1",
        status: Some(200),
        ..AccessLine::default()
    }
    .emit();
    let thread = std::thread::Builder::new().name("worker".into());
    thread
        .spawn(|| panic!("out of {}", "luck"))
        .unwrap()
        .join()
        .unwrap_err();
    tracing::info!("last");
    guard.shutdown();
}

fn lines_of_child(filter: &str) -> Vec<Value> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "logs::child", "--nocapture"])
        .env(CHILD, filter)
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn told(lines: &[Value]) -> Vec<String> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    lines
        .iter()
        .map(|line| {
            ["level", "kind", "request_id", "msg"]
                .map(|name| text(line, name))
                .join(" ")
        })
        .collect()
}

#[test]
fn http_04_all_a_process_logs_is_one_json_object_a_line() {
    let lines = lines_of_child("");
    assert_eq!(
        told(&lines),
        [
            "info event r-1 inside",
            "warn event - accept failed\n{}",
            "info access r-1 -",
            "error event - panicked: out of luck",
            "info event - last",
        ]
    );
    for line in &lines {
        assert_eq!(line["instance"], "edge-1");
        assert!(
            line["ts"].as_str().is_some_and(|time| time.ends_with('Z')),
            "{line}"
        );
    }
    assert_eq!(lines[0]["trace_id"].as_str().map(str::len), Some(32));
    assert_eq!(lines[1]["target"], "pingora_core::services::listening");
    assert_eq!(lines[3]["thread"], "worker");
}

#[test]
fn the_filter_rules_access_lines_and_keeps_request_ids() {
    assert_eq!(
        told(&lines_of_child("warn")).len(),
        2,
        "the warning and the panic"
    );
    let without_access = told(&lines_of_child("info,access=off"));
    assert!(
        without_access.iter().all(|line| !line.contains("access")),
        "{without_access:?}"
    );
    assert_eq!(without_access.len(), 4);
}
