//! Clients that listen keep their stream while plugins come and go and while what serves them dies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Fleet, eventually};

use crate::deploys::{Case, config};
use crate::eras::{Reading, Session, modern};

const PATIENCE: Duration = Duration::from_secs(30);
const CHANGED: &str = "notifications/tools/list_changed";
/// A tool that comes and goes with its plugin.
const EXTRA: &str = "extra_digest";

/// What a stream says, for as long as it lasts.
struct Ears {
    heard: Arc<Mutex<Vec<Value>>>,
    reading: tokio::task::JoinHandle<Result<()>>,
}

impl Ears {
    async fn open(request: reqwest::RequestBuilder) -> Result<Ears> {
        let mut stream = Reading::open(request).await?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&heard);
        let reading = tokio::spawn(async move {
            loop {
                match stream.next().await {
                    Ok(Some(message)) => into.lock().unwrap().push(message),
                    Ok(None) => return Ok(()),
                    // Nothing was said for a while.
                    Err(error) if error.is::<tokio::time::error::Elapsed>() => {}
                    Err(error) => return Err(error),
                }
            }
        });
        Ok(Ears { heard, reading })
    }

    /// Takes what was heard so far; an error if that was the end.
    fn take(&self) -> Result<Vec<Value>> {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        ensure!(
            !self.reading.is_finished(),
            "the stream has ended: {heard:?}"
        );
        Ok(heard)
    }

    /// Waits until this is heard, and nothing else.
    async fn hear(&self, method: &str) -> Result<()> {
        eventually(PATIENCE, async || {
            let heard = self.take()?;
            ensure!(!heard.is_empty(), "nothing is heard");
            for message in &heard {
                ensure!(message["method"] == method, "{message}");
            }
            Ok(())
        })
        .await
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn offers(fleet: &Fleet, tool: &str) -> Result<bool> {
    let url = &fleet.status.endpoints.mcp;
    let listed = fleet.client().mcp(url, "tools/list", json!({})).await?;
    let tools = listed.json["result"]["tools"].as_array();
    let tools = tools.with_context(|| listed.text.clone())?;
    Ok(tools.iter().any(|one| one["name"] == tool))
}

/// Both clients hear of a change, and from then on the tool is there or is not.
async fn changed(fleet: &Fleet, listeners: &[&Ears], tool: &str, offered: bool) -> Result<()> {
    for ears in listeners {
        ears.hear(CHANGED).await?;
    }
    eventually(PATIENCE, async || {
        ensure!(offers(fleet, tool).await? == offered, "{tool}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn streams_outlive_deploys_and_killed_apps_and_hear_of_plugins_that_come_and_go() -> Result<()>
{
    let case = Case::up().await?;
    let fleet = &case.fleet;
    let params = json!({"notifications": {"toolsListChanged": true}});
    let new = Ears::open(modern(fleet, "subscriptions/listen", params, "ears")).await?;
    new.hear("notifications/subscriptions/acknowledged").await?;
    let session = Session::open(fleet).await?;
    let stream = session.with(fleet.client().get(&fleet.status.endpoints.mcp));
    let old = Ears::open(stream).await?;

    ensure!(!offers(fleet, EXTRA).await?, "it is there already");
    let extra = "[[plugin]]\nname = \"extra\"\nkind = \"builtin\"\nset = \"hash\"\n";
    let more = case.file("more.toml", &format!("{}\n{extra}", config("good")?))?;
    let load = case.load()?;
    case.deploy(&["--config", &more]).await?.ok()?;
    changed(fleet, &[&new, &old], EXTRA, true).await?;
    fleet.sweetops(&["rollback", "-o", "json"]).await?.ok()?;
    changed(fleet, &[&new, &old], EXTRA, false).await?;
    let report = load.end().await?;
    assert_eq!(report["total"]["failed"], 0, "{report:#}");

    for app in fleet.read_status().await?.instances {
        if app.role == "app" {
            fleet.kill_9(app.pid)?;
        }
    }
    eventually(PATIENCE, async || {
        ensure!(offers(fleet, "work_work").await?);
        Ok(())
    })
    .await?;
    new.take()?;
    old.take()?;
    Ok(())
}
