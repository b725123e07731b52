//! `sweetops deploy`: a good release takes over and no call fails; a bad one is taken back by itself; nothing is
//! lost when the agent or the command is killed in the middle.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Fleet, Ran, eventually, python};
use tokio::process::Child;

/// Short steps with wide margins: the machine may be busy with other things.
const STRATEGY: &str = r#"
steps = ["25%", "50%"]
step_duration = "5s"
min_samples = 60
tick = "500ms"
extend_max = 10
error_budget = "5%"
weight_lease = "4s"
drain = "2s"
scale_down_delay = "1s"

[latency]
percentiles = [50]
floor = "250ms"
warm_up = "1s"
"#;

/// The configuration of a release whose one tool works like this.
pub(crate) fn config(how: &str) -> Result<String> {
    let python = python("python")?;
    let server = testkit::workspace().join("tests/clients/work_server.py");
    Ok(format!(
        "[edge]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ncapnp_listen = \"127.0.0.1:0\"\n\n\
         [edge.rate]\nper_second = 5000\nburst = 5000\n\n\
         [[plugin]]\nname = \"work\"\nkind = \"stdio\"\ntrusted = true\ncommand = \"{}\"\nargs = [\"{}\", \"{how}\"]\n",
        python.display(),
        server.display()
    ))
}

/// A fleet whose tool works well, and files beside it.
pub(crate) struct Case {
    pub(crate) fleet: Fleet,
    stable: String,
}

impl Case {
    pub(crate) async fn up() -> Result<Case> {
        let fleet = Fleet::up(&config("good")?).await?;
        // Plugins come up after the fleet.
        eventually(Duration::from_secs(30), async || {
            fleet
                .call_tool("work_work", serde_json::json!({"text": "a"}))
                .await
        })
        .await?;
        let stable = stable(&fleet).await?;
        std::fs::write(fleet.folder().join("strategy.toml"), STRATEGY)?;
        Ok(Case { fleet, stable })
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.fleet.folder().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// A release that does the same and is another one.
    fn good(&self) -> Result<String> {
        self.file(
            "good.toml",
            &format!("{}\n[app.http]\nbody_limit = \"9MiB\"\n", config("good")?),
        )
    }

    /// A program that is no app.
    fn program(&self, script: &str) -> Result<String> {
        let path = self.file("program", script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// The arguments of a deploy with the strategy of these tests.
    fn args<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        [
            &["deploy", "--strategy", "strategy.toml", "-o", "json"],
            more,
        ]
        .concat()
    }

    pub(crate) async fn deploy(&self, more: &[&str]) -> Result<Ran> {
        self.fleet.sweetops(&self.args(more)).await
    }

    /// Calls at a steady rate, until it is told to end.
    pub(crate) fn load(&self) -> Result<Load> {
        let mut command = self.fleet.command(&[
            "loadtest",
            "--users",
            "8",
            "--rate",
            "100",
            "--duration",
            "5m",
            "--tool",
            "work_work",
            "--arguments",
            r#"{"text":"a"}"#,
            "-o",
            "json",
        ])?;
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Load { child })
    }
}

pub(crate) struct Load {
    child: Child,
}

impl Load {
    /// Ends the load; its report.
    pub(crate) async fn end(self) -> Result<Value> {
        let pid = self
            .child
            .id()
            .context("the load test has ended by itself")?;
        testkit::interrupt(pid)?;
        let output = self.child.wait_with_output().await?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

async fn stable(fleet: &Fleet) -> Result<String> {
    let split = fleet
        .sweetops(&["traffic", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    Ok(split["stable"]
        .as_str()
        .context("a stable release")?
        .to_owned())
}

/// Basis points of calls that go to other releases than the stable one.
async fn given_away(fleet: &Fleet) -> Result<u64> {
    let split = fleet
        .sweetops(&["traffic", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    let stable = split["stable"].as_str().context("a stable release")?;
    Ok(10_000 - split["effective"][stable].as_u64().unwrap_or(0))
}

async fn rollout(fleet: &Fleet) -> Result<Value> {
    fleet
        .sweetops(&["rollout", "-o", "json"])
        .await?
        .ok()?
        .json()
}

/// Waits until the new release has a share of the calls.
async fn exposed(fleet: &Fleet) -> Result<()> {
    eventually(Duration::from_secs(60), async || {
        ensure!(given_away(fleet).await? > 0, "{:#}", rollout(fleet).await?);
        Ok(())
    })
    .await
}

fn agent(fleet: &Fleet) -> Result<u32> {
    let record = std::fs::read(fleet.state().join("agent/agent.json"))?;
    let record: Value = serde_json::from_slice(&record)?;
    let pid = record["identity"]["pid"]
        .as_u64()
        .context("the agent's pid")?;
    Ok(u32::try_from(pid)?)
}

/// The only release that runs, and its number of instances.
async fn apps(fleet: &Fleet) -> Result<(String, usize)> {
    let status = fleet.read_status().await?;
    let mut apps: Vec<String> = status
        .instances
        .into_iter()
        .filter(|i| i.role == "app" && i.health == "ready")
        .map(|i| i.release)
        .collect();
    let number = apps.len();
    apps.dedup();
    ensure!(apps.len() == 1, "one release runs: {apps:?}");
    Ok((apps.remove(0), number))
}

#[tokio::test]
async fn a_good_release_takes_over_without_a_failed_call_and_goes_back_at_once() -> Result<()> {
    let case = Case::up().await?;
    let load = case.load()?;
    let ran = case.deploy(&["--config", &case.good()?]).await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    let summary = ran.json()?;
    assert_eq!(summary["outcome"], "succeeded");
    assert_eq!(summary["from"], case.stable.as_str());
    assert_eq!(
        summary["steps"].as_array().map(Vec::len),
        Some(2),
        "{summary:#}"
    );
    let new = summary["to"].as_str().context("a release")?;
    assert_eq!(apps(&case.fleet).await?, (new.to_owned(), 3));

    // Deployed again it is nothing new.
    let again = case.deploy(&["--config", &case.good()?]).await?.ok()?;
    assert_eq!(again.json()?["rollout"], Value::Null);

    let began = Instant::now();
    let mut back = case
        .fleet
        .command(&["rollback", "-o", "json"])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    eventually(Duration::from_secs(30), async || {
        ensure!(stable(&case.fleet).await? == case.stable);
        Ok(())
    })
    .await?;
    let took = began.elapsed();
    ensure!(back.wait().await?.success());
    ensure!(took < Duration::from_secs(5), "the way back took {took:?}");
    assert_eq!(apps(&case.fleet).await?, (case.stable.clone(), 3));
    let report = load.end().await?;
    assert_eq!(report["total"]["failed"], 0, "{report:#}");
    Ok(())
}

#[tokio::test]
async fn a_slow_release_is_taken_back_without_a_failed_call() -> Result<()> {
    let case = Case::up().await?;
    let load = case.load()?;
    let slow = case.file("slow.toml", &config("slow")?)?;
    let ran = case.deploy(&["--config", &slow]).await?;
    assert_eq!(ran.code, 4, "{ran:?}");
    let summary = ran.json()?;
    assert_eq!(summary["outcome"], "rolled_back");
    let cause = summary["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("slow"), "{cause}");
    assert_eq!(apps(&case.fleet).await?, (case.stable.clone(), 3));
    let report = load.end().await?;
    assert_eq!(report["total"]["failed"], 0, "{report:#}");
    Ok(())
}

#[tokio::test]
async fn a_failing_release_is_taken_back_and_then_no_call_fails() -> Result<()> {
    let case = Case::up().await?;
    let load = case.load()?;
    let failing = case.file("failing.toml", &config("failing")?)?;
    // Nothing but statistics can tell: it starts, lists its tool, and answers.
    let ran = case.deploy(&["--config", &failing]).await?;
    assert_eq!(ran.code, 4, "{ran:?}");
    let cause = ran.json()?["cause"].as_str().unwrap_or_default().to_owned();
    assert!(
        cause.contains("errors") || cause.contains("failed"),
        "{cause}"
    );
    assert_eq!(apps(&case.fleet).await?, (case.stable.clone(), 3));
    assert_eq!(given_away(&case.fleet).await?, 0);
    load.end().await?;

    let load = case.load()?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let report = load.end().await?;
    assert_eq!(report["total"]["failed"], 0, "{report:#}");
    Ok(())
}

#[tokio::test]
async fn a_release_that_cannot_run_never_gets_a_call() -> Result<()> {
    let case = Case::up().await?;
    for (script, expect) in [
        (
            "#!/bin/sh\necho 'no such table' >&2\nexit 1\n",
            "keeps crashing",
        ),
        (
            "#!/bin/sh\necho 'app.listen is 7' >&2\nexit 2\n",
            "refuses to start",
        ),
    ] {
        let program = case.program(script)?;
        let ran = case.deploy(&["--release", &program]).await?;
        assert_eq!(ran.code, 4, "{ran:?}");
        let cause = ran.json()?["cause"].as_str().unwrap_or_default().to_owned();
        assert!(cause.contains(expect), "{cause}");
        assert_eq!(apps(&case.fleet).await?, (case.stable.clone(), 3));
    }
    let history = case
        .fleet
        .sweetops(&["rollout", "history", "-o", "json"])
        .await?
        .ok()?;
    assert_eq!(
        history.json()?["rollouts"].as_array().map(Vec::len),
        Some(2)
    );

    // A release that never served is nothing to return to.
    let failed = case.fleet.sweetops(&["rollback", "-o", "json"]).await?;
    assert_eq!(failed.code, 6, "{failed:?}");

    // What is wrong on its face is refused before anything is begun.
    let strategy = case
        .fleet
        .folder()
        .join("strategy.toml")
        .display()
        .to_string();
    let no_program = case.deploy(&["--release", &strategy]).await?;
    assert_eq!(no_program.code, 2, "{no_program:?}");
    let wrong = case.file("wrong.toml", "[app]\nlisten = 7\n")?;
    let refused = case.deploy(&["--config", &wrong]).await?;
    assert_eq!(refused.code, 2, "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn killed_in_the_middle_it_falls_back_and_goes_on_when_somebody_looks_after_it() -> Result<()>
{
    let case = Case::up().await?;
    let load = case.load()?;
    let good = case.good()?;
    let mut command = case.fleet.command(&case.args(&["--config", &good]))?;
    let mut deploy = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    exposed(&case.fleet).await?;

    // The command alone is no loss.
    deploy.kill().await?;
    assert_ne!(rollout(&case.fleet).await?["rollout"], Value::Null);
    // Another cannot interfere, the same joins.
    let failing = case.file("failing.toml", &config("failing")?)?;
    let refused = case.deploy(&["--config", &failing]).await?;
    assert_eq!(refused.code, 6, "{refused:?}");
    let split = case.fleet.sweetops(&["traffic", "set", "--reset"]).await?;
    assert_eq!(split.code, 6, "{split:?}");

    // Without an agent the share falls back by itself.
    case.fleet.kill_9(agent(&case.fleet)?)?;
    eventually(Duration::from_secs(10), async || {
        ensure!(given_away(&case.fleet).await? == 0);
        Ok(())
    })
    .await?;

    // The next agent goes on where the last one was.
    case.fleet.sweetops(&["up"]).await?.ok()?;
    let ran = case.deploy(&["--config", &good]).await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    let new = ran.json()?["to"].as_str().context("a release")?.to_owned();
    assert_eq!(apps(&case.fleet).await?, (new, 3));
    let report = load.end().await?;
    assert_eq!(report["total"]["failed"], 0, "{report:#}");
    Ok(())
}

#[tokio::test]
async fn a_fleet_that_is_taken_down_in_the_middle_stays_down_and_then_goes_on() -> Result<()> {
    let case = Case::up().await?;
    let load = case.load()?;
    let good = case.good()?;
    let mut command = case.fleet.command(&case.args(&["--config", &good]))?;
    let deploy = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    exposed(&case.fleet).await?;
    case.fleet.sweetops(&["down"]).await?.ok()?;
    load.end().await?;
    // The command that looked on brings nothing back.
    let left = deploy.wait_with_output().await?;
    assert_eq!(left.status.code(), Some(5), "{left:?}");
    let status = case.fleet.sweetops(&["status", "-o", "json"]).await?.ok()?;
    assert_eq!(status.json()?["instances"], serde_json::json!([]));

    let mut case = case;
    case.fleet.start().await?;
    let load = case.load()?;
    let ran = case.deploy(&["--config", &good]).await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = load.end().await?;
    assert_eq!(report["total"]["failed"], 0, "{report:#}");
    // What was deployed is what should run, wherever its configuration lies.
    let drift = case.fleet.sweetops(&["drift"]).await?;
    assert_eq!(drift.code, 0, "{drift:?}");
    Ok(())
}

#[tokio::test]
async fn an_operator_pauses_and_ends_a_rollout() -> Result<()> {
    let case = Case::up().await?;
    let load = case.load()?;
    let good = case.good()?;
    let begun = case.deploy(&["--config", &good, "--detach"]).await?.ok()?;
    assert_ne!(begun.json()?["rollout"], Value::Null);
    exposed(&case.fleet).await?;
    case.fleet
        .sweetops(&["rollout", "pause", "--reason", "a look"])
        .await?
        .ok()?;
    eventually(Duration::from_secs(5), async || {
        let paused = rollout(&case.fleet).await?["paused"].clone();
        ensure!(
            paused.as_str().is_some_and(|why| why.contains("a look")),
            "{paused}"
        );
        Ok(())
    })
    .await?;
    let began = Instant::now();
    let ran = case
        .fleet
        .sweetops(&["rollback", "--reason", "enough seen", "-o", "json"])
        .await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    let summary = ran.json()?;
    assert_eq!(
        summary["outcome"],
        "rolled_back",
        "after {:?}: {summary:#}",
        began.elapsed()
    );
    assert!(
        summary["cause"]
            .as_str()
            .is_some_and(|why| why.contains("enough seen"))
    );
    assert_eq!(apps(&case.fleet).await?, (case.stable.clone(), 3));
    let report = load.end().await?;
    assert_eq!(report["total"]["failed"], 0, "{report:#}");
    let none = case.fleet.sweetops(&["rollout", "pause"]).await?;
    assert_eq!(none.code, 6, "{none:?}");
    Ok(())
}

/// A release as a folder: its own configuration, and files that a plugin runs from.
#[tokio::test]
async fn a_folder_is_a_release() -> Result<()> {
    let case = Case::up().await?;
    let folder: PathBuf = case.fleet.folder().join("v2");
    std::fs::create_dir(&folder)?;
    let server = testkit::workspace().join("tests/clients/work_server.py");
    std::fs::copy(server, folder.join("server.py"))?;
    let python = python("python")?;
    std::fs::write(
        folder.join("sweetmcp.toml"),
        format!(
            "[[plugin]]\nname = \"second\"\nkind = \"stdio\"\ntrusted = true\ncommand = \"{}\"\nargs = [\"server.py\", \"good\"]\n",
            python.display()
        ),
    )?;
    let ran = case
        .fleet
        .sweetops(&["deploy", "--release", "v2", "--steps", "100%", "-o", "json"])
        .await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    // What it runs from is a copy.
    std::fs::remove_dir_all(&folder)?;
    eventually(Duration::from_secs(30), async || {
        case.fleet
            .call_tool("second_work", serde_json::json!({"text": "a"}))
            .await
    })
    .await?;
    // It is still there after a stop.
    case.fleet.sweetops(&["down"]).await?.ok()?;
    case.fleet.sweetops(&["up"]).await?.ok()?;
    assert_ne!(stable(&case.fleet).await?, case.stable);
    Ok(())
}
