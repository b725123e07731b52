//! Some of many upstream servers fail, each in its own way: the others' tools are there, and it is said what is missing.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Client, Fleet, eventually, workspace};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::eras::{Reading, modern};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long the fleet is watched while they fail.
const WATCHED: Duration = Duration::from_secs(5);
/// Longest time for a list, on a busy machine.
const LIST_MAX: Duration = Duration::from_secs(2);
const UPSTREAMS: usize = 8;
/// Who fails, how, and the cause that metrics name.
const FAILING: [(usize, &str, &str); 3] = [
    (2, "silent", "silent"),
    (3, "dead", "ended"),
    (4, "garbage", "garbage"),
];

/// A folder with the mood of each server.
struct Moods(std::path::PathBuf);

impl Moods {
    fn new(name: &str) -> Result<Moods> {
        let folder = workspace().join(format!("target/moods-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let moods = Moods(folder);
        (1..=UPSTREAMS).try_for_each(|number| moods.set(number, "well"))?;
        Ok(moods)
    }

    fn set(&self, number: usize, mood: &str) -> Result<()> {
        // A server that reads meanwhile sees one mood or the other.
        let draft = self.0.join(format!("draft-{number}"));
        std::fs::write(&draft, mood)?;
        Ok(std::fs::rename(draft, self.0.join(format!("u{number}")))?)
    }
}

impl Drop for Moods {
    fn drop(&mut self) {
        // Left behind, it would only take room.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn script() -> String {
    let script = workspace().join("tests/clients/moody_server.py");
    script.display().to_string()
}

/// The tools of a listing, and the plugins that it says are missing.
async fn listed(fleet: &Fleet) -> Result<(Vec<String>, Vec<String>)> {
    let began = Instant::now();
    let url = &fleet.status.endpoints.mcp;
    let answer = fleet.client().mcp(url, "tools/list", json!({})).await?;
    ensure!(
        began.elapsed() < LIST_MAX,
        "a list took {:?}",
        began.elapsed()
    );
    let words = |list: &Value, member: &str| -> Vec<String> {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let words = list.iter().filter_map(|item| item[member].as_str());
        words.map(str::to_owned).collect()
    };
    let result = &answer.json["result"];
    let tools = words(&result["tools"], "name");
    let ours = tools.into_iter().filter(|name| name.starts_with('u'));
    let meta = result["_meta"].as_object().cloned().unwrap_or_default();
    let missing = meta.iter().find(|(name, _)| name.ends_with("/missing"));
    let mut missing = words(missing.map_or(&Value::Null, |(_, list)| list), "plugin");
    missing.sort();
    Ok((ours.collect(), missing))
}

fn tools_of(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|number| format!("u{number}_tool")).collect()
}

/// A number that the app's metrics tell of a plugin.
async fn metric(app: &str, name: &str, labels: &str) -> Result<u64> {
    let text = reqwest::get(format!("http://{app}/metrics"))
        .await?
        .text()
        .await?;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{{labels}}}")));
    let line = line.with_context(|| format!("no {name}{{{labels}}}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

/// Brings up a fleet whose plugins are `plugin`'s, some of which fail from the beginning; then they recover.
async fn others_go_on(moods: &Moods, plugin: impl Fn(usize) -> String) -> Result<()> {
    for (number, mood, _) in FAILING {
        moods.set(number, mood)?;
    }
    let plugins: String = (1..=UPSTREAMS)
        .map(|number| {
            // Silence is found out by the clock; whoever is well may be slow on a busy machine.
            let is_failing = FAILING.iter().any(|(failing, ..)| *failing == number);
            let patience = if is_failing { "4s" } else { "30s" };
            format!(
                "[[plugin]]\nname = \"u{number}\"\nstart_timeout = \"{patience}\"\n{}\n",
                plugin(number)
            )
        })
        .collect();
    let fleet = Fleet::up(&format!("[fleet]\napps = 1\n{plugins}")).await?;
    let status = fleet
        .sweetops(&["status", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    let instances = status["instances"].as_array().cloned().unwrap_or_default();
    let app = instances
        .iter()
        .find(|i| i["role"] == "app")
        .context("no app")?;
    let app = app["address"].as_str().context("no address")?;

    let well = (1..=UPSTREAMS).filter(|n| FAILING.iter().all(|(failing, ..)| failing != n));
    let well = tools_of(well);
    let missing: Vec<String> = FAILING.iter().map(|(n, ..)| format!("u{n}")).collect();
    eventually(PATIENCE, || async {
        let seen = listed(&fleet).await?;
        ensure!(seen == (well.clone(), missing.clone()), "{seen:?}");
        for (number, _, cause) in FAILING {
            let labels = format!("cause=\"{cause}\",plugin=\"u{number}\"");
            let failures = metric(app, "sweetmcp_app_plugin_failures", &labels).await?;
            ensure!(failures > 0, "{labels}");
        }
        Ok(())
    })
    .await?;

    // From here on nothing changes, so nobody is told of changes, however often they are tried again.
    let params = json!({"notifications": {"toolsListChanged": true}});
    let mut stream = Reading::of(
        modern(&fleet, "subscriptions/listen", params, "ears")
            .send()
            .await?,
    )
    .await?;
    let first = stream.next().await?.context("nothing")?;
    ensure!(
        first["method"] == "notifications/subscriptions/acknowledged",
        "{first}"
    );
    let quiet = tokio::time::timeout(WATCHED, stream.next());
    let watched = async {
        let began = Instant::now();
        while began.elapsed() < WATCHED {
            let seen = listed(&fleet).await?;
            ensure!(seen == (well.clone(), missing.clone()), "{seen:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        anyhow::Ok(())
    };
    let (told, watched) = tokio::join!(quiet, watched);
    watched?;
    ensure!(told.is_err(), "told of a change: {told:?}");
    for (number, _, cause) in FAILING {
        let labels = format!("cause=\"{cause}\",plugin=\"u{number}\"");
        let failures = metric(app, "sweetmcp_app_plugin_failures", &labels).await?;
        // Doubling pauses from half a second: in a minute there is no room for more.
        ensure!(failures <= 8, "{labels}: {failures}");
    }
    let called = fleet.call_tool("u1_tool", json!({})).await?;
    ensure!(called.to_string().contains("u1"), "{called}");

    // Whoever recovers is back, and listeners hear of it.
    for (number, ..) in FAILING {
        moods.set(number, "well")?;
    }
    let all = tools_of(1..=UPSTREAMS);
    eventually(PATIENCE, || async {
        let seen = listed(&fleet).await?;
        ensure!(seen == (all.clone(), Vec::new()), "{seen:?}");
        Ok(())
    })
    .await?;
    let told = stream.next().await?.context("no word of it")?;
    ensure!(
        told["method"] == "notifications/tools/list_changed",
        "{told}"
    );

    // One that fails in service costs its own calls alone; its tools stay listed.
    moods.set(5, "dead")?;
    let client = Client::new(&fleet.token)?;
    let params = json!({"name": "u5_tool", "arguments": {}});
    let refused = client
        .mcp(&fleet.status.endpoints.mcp, "tools/call", params)
        .await?;
    ensure!(refused.json["error"].is_object(), "{}", refused.text);
    ensure!(listed(&fleet).await?.0 == all);
    Ok(())
}

#[tokio::test]
async fn some_of_eight_child_processes_fail_and_the_others_go_on() -> Result<()> {
    let moods = Moods::new("stdio")?;
    others_go_on(&moods, |number| {
        let folder = moods.0.display();
        format!(
            "kind = \"stdio\"\ncommand = \"python3\"\nargs = [\"{}\", \"stdio\", \"{folder}\", \"u{number}\"]",
            script()
        )
    })
    .await
}

/// Eight servers on one port, until it is dropped.
async fn serve_http(moods: &Moods) -> Result<(Child, u16)> {
    let mut child = Command::new("python3")
        .args([&script(), "http"])
        .arg(&moods.0)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let said = child.stdout.take().context("no output")?;
    let port = BufReader::new(said).lines().next_line().await?;
    Ok((child, port.context("it says nothing")?.parse()?))
}

#[tokio::test]
async fn some_of_eight_remote_servers_fail_and_the_others_go_on() -> Result<()> {
    let moods = Moods::new("http")?;
    let (_servers, port) = serve_http(&moods).await?;
    others_go_on(&moods, |number| {
        format!("kind = \"http\"\nurl = \"http://127.0.0.1:{port}/u{number}\"")
    })
    .await
}
