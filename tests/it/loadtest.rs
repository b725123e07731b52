//! `sweetops loadtest`: every persona succeeds on a healthy fleet, objectives decide the exit code, and a
//! killed instance costs only what may be lost.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::Fleet;

const ROOMY: &str = "[edge.rate]\nper_second = 5000\nburst = 5000\n";

#[tokio::test]
async fn objectives_decide_and_reports_are_written() -> Result<()> {
    let fleet = Fleet::up(ROOMY).await?;
    let report = fleet.folder().join("report").display().to_string();
    let ran = fleet
        .sweetops(&[
            "loadtest",
            "--users",
            "8",
            "--rate",
            "100",
            "--duration",
            "6s",
            "--report",
            &report,
            "-o",
            "json",
        ])
        .await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    let summary = ran.json()?;
    assert_eq!(
        (&summary["total"]["failed"], &summary["verdict"]),
        (&Value::from(0), &Value::from("met"))
    );
    for request in [
        "stateless tools/call",
        "session tools/call",
        "jsonrpc batch of 3",
        "graphql callTool",
    ] {
        assert!(
            summary["requests"][request]["count"]
                .as_u64()
                .is_some_and(|n| n > 0),
            "{request}: {summary:#}"
        );
    }
    for process in ["edge", "app"] {
        assert!(
            summary["cpu_us_per_request"][process]
                .as_f64()
                .is_some_and(|us| us > 0.0),
            "{summary:#}"
        );
    }
    assert!(std::fs::read_to_string(format!("{report}.html"))?.contains("<html"));
    serde_json::from_str::<Value>(&std::fs::read_to_string(format!("{report}.json"))?)?;

    let slo = fleet.folder().join("slo.toml");
    std::fs::write(&slo, "[[objective]]\nrequests = \"*\"\np50_max = \"1us\"\n")?;
    let slo = slo.display().to_string();
    let ran = fleet
        .sweetops(&[
            "loadtest",
            "--duration",
            "2s",
            "--rate",
            "50",
            "--slo",
            &slo,
            "-o",
            "json",
        ])
        .await?;
    assert_eq!(ran.code, 3, "{ran:?}");
    Ok(())
}

#[tokio::test]
async fn killed_and_restarted_instances_fail_no_call_that_is_safe_to_repeat() -> Result<()> {
    let fleet = Fleet::up(ROOMY).await?;
    let load = fleet
        .command(&[
            "loadtest",
            "--users",
            "8",
            "--rate",
            "80",
            "--duration",
            "25s",
            "-o",
            "json",
        ])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let app = fleet
        .status
        .instances
        .iter()
        .find(|i| i.role == "app")
        .context("an app")?;
    fleet.kill_9(app.pid)?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    fleet.sweetops(&["restart", "app"]).await?.ok()?;
    fleet.sweetops(&["restart", "edge"]).await?.ok()?;
    let output = load.wait_with_output().await?;
    let summary: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    assert_eq!(summary["total"]["failed"], 0, "{summary:#}");
    Ok(())
}
