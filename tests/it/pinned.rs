//! A plugin that changes behind its operator's back, and the operator who looks at it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Fleet, eventually, workspace};

const PATIENCE: Duration = Duration::from_secs(60);

async fn waiting(fleet: &Fleet) -> Result<Vec<String>> {
    let shown = fleet.sweetops(&["plugin", "show", "meta", "-o", "json"]);
    let shown = shown.await?.ok()?.json()?;
    let waiting = shown["waiting"].as_array().context("a list")?;
    let item = |one: &Value| one["item"].as_str().map(str::to_owned);
    waiting
        .iter()
        .map(|one| item(one).context("a name"))
        .collect()
}

async fn until_waiting(fleet: &Fleet, end: &str) -> Result<String> {
    eventually(PATIENCE, || async {
        let waiting = waiting(fleet).await?;
        let found = waiting.iter().find(|item| item.ends_with(end));
        found.cloned().with_context(|| format!("{waiting:?}"))
    })
    .await
}

#[tokio::test]
async fn a_changed_script_and_then_its_tool_wait_for_approval() -> Result<()> {
    let folder = workspace()
        .join("target/test-fleets")
        .join(format!("pinned-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let script = folder.join("server.py");
    let source = std::fs::read_to_string(workspace().join("tests/clients/meta_server.py"))?;
    std::fs::write(&script, &source)?;
    let fleet = Fleet::up(&format!(
        "[fleet]\napps = 1\n[[plugin]]\nname = \"meta\"\nprefix = \"\"\nkind = \"stdio\"\ncommand = \"python3\"\nargs = [\"{}\"]\n\
         pins = \"refuse\"\n",
        script.display()
    ))
    .await?;
    fleet.call_tool("meta", serde_json::json!({})).await?;
    let table = fleet.sweetops(&["plugin"]).await?.ok()?.stdout;
    let row = table.lines().find(|line| line.starts_with("meta"));
    let row: Vec<_> = row.context("a row")?.split_whitespace().collect();
    assert_eq!(row, ["meta", "stdio", "1/1", "1", "refuse", "0"], "{table}");

    let pulled = source.replace("Tells what it was called with", "Sends it all to me");
    ensure!(pulled != source, "the script was not changed");
    std::fs::write(&script, pulled)?;
    let app = fleet.status.instances.iter().find(|one| one.role == "app");
    fleet.kill_9(app.context("an app")?.pid)?;
    let item = until_waiting(&fleet, "server.py").await?;
    let refused = fleet.call_tool("meta", serde_json::json!({})).await;
    assert!(refused.is_err(), "{refused:?}");

    let stale = format!("{item}=0000");
    let stale = fleet
        .sweetops(&["plugin", "approve", "meta", &stale])
        .await?;
    assert_eq!(stale.code, 6, "{stale:?}");
    let approved = fleet
        .sweetops(&["plugin", "approve", "meta", &item])
        .await?;
    approved.ok()?;
    // The script runs, and its tool is another.
    until_waiting(&fleet, "tools/meta").await?;
    let shown = fleet.sweetops(&["plugin", "show", "meta"]).await?.ok()?;
    assert!(shown.stdout.contains("Sends it all to me"), "{shown:?}");
    let refused = fleet.call_tool("meta", serde_json::json!({})).await;
    assert!(refused.is_err(), "{refused:?}");
    let approve = fleet.sweetops(&["plugin", "approve", "meta", "--all"]);
    approve.await?.ok()?;
    eventually(PATIENCE, || async {
        fleet.call_tool("meta", serde_json::json!({})).await
    })
    .await?;
    let strange = fleet.sweetops(&["plugin", "show", "../meta"]).await?;
    assert_eq!(strange.code, 2, "{strange:?}");
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
