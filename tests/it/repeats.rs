//! A call that may have run is made again only for those whose word is believed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::{Fleet, eventually, workspace};

const PATIENCE: Duration = Duration::from_secs(30);

/// Where a plugin notes its runs, until the end of the test.
struct Notes(PathBuf);

impl Notes {
    fn of(plugin: &str) -> Notes {
        let name = format!("target/runs-{plugin}-{}", std::process::id());
        Notes(workspace().join(name))
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(&self.0).map_or(0, |runs| runs.lines().count())
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        // Left behind, it would only take room.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn plugin(name: &str, trusted: bool, notes: &Path) -> String {
    let server = workspace().join("tests/clients/dying_server.py");
    format!(
        "[[plugin]]\nname = \"{name}\"\nkind = \"stdio\"\ntrusted = {trusted}\ncommand = \"python3\"\nargs = [\"{}\", \"{}\"]\n",
        server.display(),
        notes.display()
    )
}

/// How often a call ran that got to its plugin.
async fn runs_of_one_call(fleet: &Fleet, plugin: &str, notes: &Notes) -> Result<usize> {
    let before = notes.runs();
    let params = json!({"name": format!("{plugin}_die"), "arguments": {}});
    let url = &fleet.status.endpoints.mcp;
    let answer = fleet.client().mcp(url, "tools/call", params).await?;
    ensure!(answer.json["error"].is_object(), "{}", answer.text);
    let runs = notes.runs() - before;
    ensure!(runs > 0, "it did not run: {}", answer.text);
    Ok(runs)
}

#[tokio::test]
async fn only_a_trusted_plugins_word_lets_a_call_run_twice() -> Result<()> {
    let (ours, theirs) = (Notes::of("ours"), Notes::of("theirs"));
    let fleet = Fleet::up(&format!(
        "[fleet]\napps = 2\n{}{}",
        plugin("ours", true, &ours.0),
        plugin("theirs", false, &theirs.0)
    ))
    .await?;
    // As soon as the edge knows the tool, and both instances have it.
    eventually(PATIENCE, || async {
        let runs = runs_of_one_call(&fleet, "ours", &ours).await?;
        ensure!(runs > 1, "it ran {runs} times");
        Ok(())
    })
    .await?;
    let runs = eventually(PATIENCE, || runs_of_one_call(&fleet, "theirs", &theirs)).await?;
    ensure!(runs == 1, "it ran {runs} times");
    Ok(())
}
