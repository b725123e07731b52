//! Deploys under load: a good release goes all the way, a bad one turns back, and nobody's call is lost.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use testkit::{Fleet, python, workspace};
use tokio::process::Child;

/// Steps of seconds: a demonstration, not production.
const STRATEGY: &str = r#"
steps = ["20%", "50%"]
step_duration = "6s"
tick = "1s"
min_samples = 40
extend_max = 2
weight_lease = "10s"
drain = "5s"
scale_down_delay = "1s"
ready_timeout = "20s"
progress_deadline = "60s"
slow_threshold = "500ms"
"#;

/// A configuration whose one plugin behaves as asked.
fn config(how: &str) -> Result<String> {
    let server = workspace().join("tests/clients/work_server.py");
    Ok(format!(
        r#"
[edge.rate]
per_second = 5000
burst = 5000

[[plugin]]
name = "work"
kind = "stdio"
command = "{}"
args = ["{}", "{how}"]
trusted = true
"#,
        python("python")?.display(),
        server.display()
    ))
}

fn write(fleet: &Fleet, name: &str, text: &str) -> Result<String> {
    let path = fleet.folder().join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// The fleet's own addresses before what a release brings.
fn release_config(fleet: &Fleet, name: &str, how: &str) -> Result<String> {
    let base = "[edge]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ncapnp_listen = \"127.0.0.1:0\"\n";
    write(fleet, name, &format!("{base}{}", config(how)?))
}

/// Steady load in the background; its summary when it ends.
struct Load(Child);

impl Load {
    fn start(fleet: &Fleet, seconds: u32) -> Result<Load> {
        let duration = format!("{seconds}s");
        let mut command = fleet.command(&[
            "loadtest",
            "--users",
            "6",
            "--rate",
            "60",
            "--duration",
            &duration,
            "--tool",
            "work_work",
            "--arguments",
            r#"{"text":"abc"}"#,
            "-o",
            "json",
        ])?;
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(Load(command.spawn()?))
    }

    async fn summary(self) -> Result<Value> {
        let output = self.0.wait_with_output().await?;
        let said = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&said).with_context(|| {
            format!(
                "no summary: {said}\n{}",
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }
}

async fn deploy(fleet: &Fleet, args: &[&str]) -> Result<(i32, Value)> {
    let strategy = write(fleet, "strategy.toml", STRATEGY)?;
    let base = [
        "deploy",
        "--canary",
        "20%",
        "--strategy",
        &strategy,
        "-o",
        "json",
    ];
    let ran = fleet.sweetops(&[&base[..], args].concat()).await?;
    let json = ran
        .json()
        .with_context(|| format!("deploy {args:?}: {ran:?}"))?;
    Ok((ran.code, json))
}

async fn release_of_apps(fleet: &Fleet) -> Result<String> {
    let status = fleet.read_status().await?;
    let mut releases: Vec<String> = status
        .instances
        .iter()
        .filter(|i| i.role == "app")
        .map(|i| i.release.clone())
        .collect();
    releases.dedup();
    match releases.as_slice() {
        [one] => Ok(one.clone()),
        many => bail!("apps run {many:?}"),
    }
}

#[tokio::test]
async fn a_good_release_takes_over_and_a_failing_one_turns_back_without_a_lost_call() -> Result<()>
{
    let fleet = Fleet::up(&config("good")?).await?;
    let first = release_of_apps(&fleet).await?;

    let good = release_config(&fleet, "good.toml", "good")?;
    std::fs::write(
        &good,
        format!(
            "{}\n[telemetry]\nlog_filter = \"warn\"\n",
            std::fs::read_to_string(&good)?
        ),
    )?;
    let load = Load::start(&fleet, 45)?;
    let (code, json) = deploy(&fleet, &["--config", &good]).await?;
    assert_eq!(code, 0, "{json:#}");
    let second = release_of_apps(&fleet).await?;
    assert_ne!(first, second);
    let summary = load.summary().await?;
    assert_eq!(summary["total"]["failed"], 0, "{summary:#}");
    assert!(
        summary["total"]["count"].as_u64().is_some_and(|n| n > 500),
        "{summary:#}"
    );

    let bad = release_config(&fleet, "bad.toml", "failing")?;
    let load = Load::start(&fleet, 35)?;
    let (code, json) = deploy(&fleet, &["--config", &bad]).await?;
    assert_eq!(code, 4, "{json:#}");
    assert_eq!(release_of_apps(&fleet).await?, second);
    let summary = load.summary().await?;
    assert_eq!(summary["total"]["failed"], 0, "{summary:#}");
    Ok(())
}

#[tokio::test]
async fn a_slow_release_turns_back() -> Result<()> {
    let fleet = Fleet::up(&config("good")?).await?;
    let stable = release_of_apps(&fleet).await?;
    let slow = release_config(&fleet, "slow.toml", "slow")?;
    let load = Load::start(&fleet, 40)?;
    let (code, json) = deploy(&fleet, &["--config", &slow]).await?;
    assert_eq!(code, 4, "{json:#}");
    assert_eq!(release_of_apps(&fleet).await?, stable);
    let summary = load.summary().await?;
    assert_eq!(summary["total"]["failed"], 0, "{summary:#}");
    Ok(())
}

#[tokio::test]
async fn a_release_that_does_not_start_or_stay_turns_back_and_another_can_follow() -> Result<()> {
    let fleet = Fleet::up(&config("good")?).await?;
    let stable = release_of_apps(&fleet).await?;
    let good = release_config(&fleet, "good.toml", "good")?;

    let refuses = script(
        &fleet,
        "refuses",
        "#!/bin/sh\necho 'cannot read sweetmcp.toml' >&2\nexit 2\n",
    )?;
    let (code, json) = deploy(&fleet, &[&refuses, "--config", &good]).await?;
    assert_eq!(code, 4, "{json:#}");
    assert_eq!(release_of_apps(&fleet).await?, stable);

    let app = testkit::binary("sweetmcp-app")?;
    let dies = format!(
        "#!/bin/sh\n'{}' \"$@\" &\nsleep 2\nkill -9 $!\nexit 1\n",
        app.display()
    );
    let crashes = script(&fleet, "crashes", &dies)?;
    let (code, json) = deploy(&fleet, &[&crashes, "--config", &good]).await?;
    assert_eq!(code, 4, "{json:#}");
    assert_eq!(release_of_apps(&fleet).await?, stable);
    fleet
        .call_tool("work_work", serde_json::json!({"text": "still here"}))
        .await?;
    Ok(())
}

/// An executable file that stands for an app.
fn script(fleet: &Fleet, name: &str, text: &str) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let path: PathBuf = fleet.folder().join(name);
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

#[tokio::test]
async fn a_killed_deploy_gives_the_traffic_back_and_can_be_ended() -> Result<()> {
    let fleet = Fleet::up(&config("good")?).await?;
    let stable = release_of_apps(&fleet).await?;
    let next = release_config(&fleet, "next.toml", "good")?;
    std::fs::write(
        &next,
        format!(
            "{}\n[telemetry]\nlog_filter = \"warn\"\n",
            std::fs::read_to_string(&next)?
        ),
    )?;
    let strategy = write(&fleet, "strategy.toml", STRATEGY)?;
    let mut driver = fleet
        .command(&[
            "deploy",
            "--canary",
            "20%",
            "--strategy",
            &strategy,
            "--config",
            &next,
        ])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    testkit::eventually(Duration::from_secs(30), || async {
        let traffic = fleet
            .sweetops(&["traffic", "-o", "json"])
            .await?
            .ok()?
            .json()?;
        anyhow::ensure!(
            !traffic["shares"].as_array().context("shares")?.is_empty(),
            "{traffic}"
        );
        Ok(())
    })
    .await?;
    driver.kill().await?;

    // Nobody renews the weight: every edge returns to the stable release by itself.
    testkit::eventually(Duration::from_secs(20), || async {
        let traffic = fleet
            .sweetops(&["traffic", "-o", "json"])
            .await?
            .ok()?
            .json()?;
        anyhow::ensure!(traffic["effective"][stable.as_str()] == 10_000, "{traffic}");
        Ok(())
    })
    .await?;
    let (refused, json) = deploy(&fleet, &["--config", &next]).await?;
    assert_eq!(refused, 6, "an unfinished rollout is in the way: {json:#}");
    let ran = fleet.sweetops(&["deploy", "--abort", "-o", "json"]).await?;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert_eq!(release_of_apps(&fleet).await?, stable);
    Ok(())
}
