//! What is killed comes back; what is asked to stop leaves nothing behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::{Fleet, eventually};
use tokio::io::AsyncBufReadExt;

#[tokio::test]
async fn killed_processes_are_back_within_two_seconds() -> Result<()> {
    let fleet = Fleet::up("").await?;
    for role in ["app", "edge"] {
        let before = fleet.read_status().await?;
        let victim = before
            .instances
            .iter()
            .find(|i| i.role == role)
            .context("an instance")?
            .clone();
        fleet.kill_9(victim.pid)?;
        let killed = Instant::now();
        let back = eventually(Duration::from_secs(20), || async {
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
            Ok(killed.elapsed())
        })
        .await?;
        assert!(back < Duration::from_secs(2), "{role} took {back:?}");
        fleet.call_tool("time_now", json!({})).await?;
    }
    Ok(())
}

#[tokio::test]
async fn two_fleets_do_not_disturb_each_other_and_down_leaves_nothing() -> Result<()> {
    let one = Fleet::up("").await?;
    let two = Fleet::up("").await?;
    assert_ne!(one.status.endpoints.mcp, two.status.endpoints.mcp);
    let foreign = testkit::Client::new(&two.token)?;
    let refused = foreign
        .mcp(&one.status.endpoints.mcp, "tools/list", json!({}))
        .await?;
    assert_eq!(refused.status, 401, "keys are each fleet's own");
    one.sweetops(&["down"]).await?.ok()?;
    for instance in &one.status.instances {
        assert!(
            !std::path::Path::new(&format!("/proc/{}", instance.pid)).exists(),
            "{instance:?}"
        );
    }
    two.call_tool("time_now", json!({})).await?;
    Ok(())
}

#[tokio::test]
async fn a_token_is_asked_for_what_it_may() -> Result<()> {
    let fleet = Fleet::up("").await?;
    let short = fleet.mint(&["--ttl", "1s", "--subject", "brief"]).await?;
    let client = testkit::Client::new(&short)?;
    let first = client
        .mcp(&fleet.status.endpoints.mcp, "tools/list", json!({}))
        .await?;
    assert_eq!(first.status, 200, "{}", first.text);
    Ok(())
}

#[tokio::test]
async fn logs_are_followed_as_they_are_written() -> Result<()> {
    let fleet = Fleet::up("[fleet]\napps = 1\n").await?;
    let mut following = fleet
        .command(&["logs", "-f", "-o", "json", "edge-1"])?
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = following.stdout.take().context("stdout")?;
    let mut lines = tokio::io::BufReader::new(stdout).lines();
    // It has begun to follow once it has shown what was there.
    lines.next_line().await?.context("no line of the past")?;
    let request = fleet.client().post(&fleet.status.endpoints.jsonrpc);
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let request = request.header("x-request-id", "followed").json(&body);
    assert_eq!(fleet.client().send(request).await?.status, 200);
    let found = async {
        while let Some(line) = lines.next_line().await? {
            let line: serde_json::Value = serde_json::from_str(&line)?;
            if line["request_id"] == "followed" {
                return Ok(line);
            }
        }
        anyhow::bail!("the log ended")
    };
    let line = tokio::time::timeout(Duration::from_secs(20), found).await??;
    assert_eq!(line["instance"], "edge-1");
    Ok(())
}

#[tokio::test]
async fn a_variable_that_fits_no_key_stops_the_start() -> Result<()> {
    let folder = testkit::workspace().join("target/test-fleets/never-started");
    let output = tokio::process::Command::new(testkit::binary("sweetops")?)
        .arg("up")
        .env("SWEETOPS_STATE", &folder)
        .env("SWEETMCP__APP__HTTP__BODY_LIMT", "1MiB")
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("SWEETMCP__APP__HTTP__BODY_LIMIT"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_and_not_remembered() -> Result<()> {
    let fleet = Fleet::up("").await?;
    let wrong = fleet.folder().join("wrong.toml");
    std::fs::write(&wrong, "[edge]\nlisten = 7\n")?;
    let wrong = wrong.display().to_string();
    let refused = fleet.sweetops(&["up", "--config", &wrong]).await?;
    assert_eq!(refused.code, 2, "{refused:?}");
    fleet.sweetops(&["up"]).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn a_fleet_whose_folder_is_taken_away_ends() -> Result<()> {
    let fleet = Fleet::up("").await?;
    let pids: Vec<u32> = fleet.status.instances.iter().map(|i| i.pid).collect();
    std::fs::remove_dir_all(fleet.state())?;
    eventually(Duration::from_secs(60), async || {
        let alive = |pid: &&u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        let left: Vec<&u32> = pids.iter().filter(alive).collect();
        ensure!(left.is_empty(), "{left:?} live on");
        Ok(())
    })
    .await
}
