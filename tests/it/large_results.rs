//! A result of fifty megabytes, from a remote server through app and edge to a client: what it costs on its way.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::{Fleet, eventually, workspace};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::eras::modern;
use crate::hostile::peak_kib;

const PATIENCE: Duration = Duration::from_secs(60);
const RESULT_BYTES: usize = 50_000_000;
/// Most memory that it may take, in times its own size: the edge holds it once, the app as it came and as it goes.
const EDGE_TIMES_MAX: f64 = 1.5;
const APP_TIMES_MAX: f64 = 4.5;

async fn remote() -> Result<(Child, String)> {
    let script = workspace().join("tests/clients/large_server.py");
    let mut server = Command::new("python3")
        .arg(script)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut said = BufReader::new(server.stdout.take().context("no output")?).lines();
    let url = said.next_line().await?.context("it has ended")?;
    Ok((server, url))
}

#[tokio::test]
async fn a_result_of_50_mb_is_held_once_at_the_edge_and_a_few_times_at_the_app() -> Result<()> {
    let (_server, url) = remote().await?;
    let fleet = Fleet::up(&format!(
        "[fleet]\napps = 1\n[[plugin]]\nname = \"remote\"\nkind = \"http\"\nurl = \"{url}\"\nresponse_limit = \"64MiB\"\n"
    ))
    .await?;
    let call = async |bytes: usize| {
        let params = json!({"name": "remote_large", "arguments": {"bytes": bytes}});
        let request = modern(&fleet, "tools/call", params, "large").timeout(PATIENCE);
        let answer = request.send().await?.bytes().await?;
        ensure!(
            answer.len() > bytes,
            "{:?}",
            &answer[..answer.len().min(300)]
        );
        Ok(())
    };
    eventually(PATIENCE, || call(1000)).await?;
    let pid = |role: &str| {
        let instance = fleet.status.instances.iter().find(|i| i.role == role);
        instance.map(|i| i.pid).context("no instance")
    };
    let (edge, app) = (pid("edge")?, pid("app")?);
    for pid in [edge, app] {
        // The peak from now on (proc(5)).
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    }
    let before = (peak_kib(edge)?, peak_kib(app)?);
    let began = Instant::now();
    call(RESULT_BYTES).await?;
    let times = |peak: u64, before: u64| (peak - before) as f64 * 1024.0 / RESULT_BYTES as f64;
    let (edge, app) = (
        times(peak_kib(edge)?, before.0),
        times(peak_kib(app)?, before.1),
    );
    eprintln!(
        "50 MB in {:?}: {edge:.1} times at the edge, {app:.1} times at the app",
        began.elapsed()
    );
    assert!(edge < EDGE_TIMES_MAX, "{edge} times its size at the edge");
    assert!(app < APP_TIMES_MAX, "{app} times its size at the app");
    Ok(())
}
