//! `sweetops` itself may die: the fleet serves on, and the next `up` takes it over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::{Fleet, eventually};

/// All processes of this fleet's agent: `sweetops` with its state folder in the environment.
fn agents(fleet: &Fleet) -> Result<Vec<u32>> {
    let state = format!("SWEETOPS_STATE={}", fleet.state().display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let is_sweetops = std::fs::read_to_string(entry.path().join("comm"))
            .is_ok_and(|c| c.trim() == "sweetops");
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if is_sweetops
            && String::from_utf8_lossy(&environ)
                .split('\0')
                .any(|v| v == state)
        {
            found.push(pid);
        }
    }
    Ok(found)
}

#[tokio::test]
async fn the_fleet_outlives_sweetops_and_is_adopted() -> Result<()> {
    let mut fleet = Fleet::up("").await?;
    let before = fleet.read_status().await?;
    let agents = agents(&fleet)?;
    ensure!(!agents.is_empty(), "no agent found");
    for pid in agents {
        fleet.kill_9(pid)?;
    }
    for _ in 0..20 {
        fleet.call_tool("time_now", json!({})).await?;
    }
    fleet.start().await?;
    let mut adopted: Vec<_> = fleet
        .status
        .instances
        .iter()
        .map(|i| (i.name.clone(), i.pid))
        .collect();
    let mut known: Vec<_> = before
        .instances
        .iter()
        .map(|i| (i.name.clone(), i.pid))
        .collect();
    adopted.sort();
    known.sort();
    assert_eq!(adopted, known, "the same processes, not new ones");

    // The new agent supervises what it adopted, the edge's sockets included.
    for role in ["app", "edge"] {
        let victim = fleet
            .status
            .instances
            .iter()
            .find(|i| i.role == role)
            .context("instance")?
            .clone();
        fleet.kill_9(victim.pid)?;
        eventually(Duration::from_secs(20), || async {
            let now = fleet.read_status().await?;
            let again = now
                .instances
                .iter()
                .find(|i| i.name == victim.name)
                .context("gone")?;
            ensure!(
                again.pid != victim.pid && again.health == "ready",
                "{again:?}"
            );
            fleet.call_tool("time_now", json!({})).await.map(drop)
        })
        .await?;
    }
    Ok(())
}
