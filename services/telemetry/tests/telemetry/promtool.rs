//! METR-01: what is served is what Prometheus itself finds well made.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use telemetry::{LATENCY_BUCKETS_SECONDS, Metrics, Watchdog};

use crate::tools;

#[test]
fn metr_01_promtool_finds_nothing_to_say() {
    let metrics = Metrics::new("sweetmcp-edge", "0.1.0", "abc").unwrap();
    let _watchdog = Watchdog::start(Duration::from_secs(5), &metrics).unwrap();
    let labels = [("tool", 2), ("outcome", 4)];
    let calls = metrics
        .counters("sweetmcp_calls_total", "Calls that have ended.", &labels)
        .unwrap();
    let latency = metrics
        .histograms(
            "sweetmcp_call_duration_seconds",
            "How long calls took.",
            &LATENCY_BUCKETS_SECONDS,
            &labels,
        )
        .unwrap();
    let in_flight = metrics
        .gauge("sweetmcp_calls_in_flight", "Calls being answered.")
        .unwrap();
    in_flight.set(3);
    for tool in ["echo", "a\"b\\c\nd", "one too many"] {
        calls.with(&[tool, "ok"]).inc();
        latency.with(&[tool, "ok"]).observe(0.0042);
    }

    let (verdict, said) = check_metrics(&metrics.encode());
    assert!(verdict && said.is_empty(), "{said}");
    // promtool does look: a counter without its suffix is found.
    let (verdict, said) = check_metrics("# HELP calls Calls.\n# TYPE calls counter\ncalls 1\n");
    assert!(!verdict && said.contains("_total"), "{said}");
}

fn check_metrics(text: &str) -> (bool, String) {
    let mut promtool = Command::new(tools::debian_tool("promtool", "prometheus"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
