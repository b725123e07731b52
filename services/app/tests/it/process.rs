//! No child outlives us, however it or we end.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use app::plugin::stdio::process::Spawner;
use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::harness::{RUDE, alive, ask, program, until};

/// Every process whose group is one of `groups`: its ID and its state.
fn members(groups: &HashSet<i32>) -> Vec<(i32, char)> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let mut fields = stat.rsplit(") ").next()?.split(' ');
            let (state, group) = (fields.next()?.chars().next()?, fields.nth(1)?.parse().ok()?);
            groups.contains(&group).then_some((pid, state))
        })
        .collect()
}

#[tokio::test]
async fn fifty_starts_and_ends_leave_no_orphan_and_no_zombie() {
    let spawner = Spawner::start().unwrap();
    let mut groups = HashSet::new();
    for turn in 0..50 {
        let mut process = spawner
            .spawn(&program("sh", &["-c", "sleep 1000 & exec sleep 1000"]))
            .await
            .unwrap();
        groups.insert(process.id());
        match turn % 3 {
            0 => drop(process),
            1 => {
                let leader = Pid::from_raw(process.id()).unwrap();
                rustix::process::kill_process(leader, Signal::KILL).unwrap();
                process.wait().await.unwrap();
            }
            _ => {
                let leader = Pid::from_raw(process.id()).unwrap();
                rustix::process::kill_process_group(leader, Signal::TERM).unwrap();
                process.stop().await;
            }
        }
    }
    let last = spawner.spawn(&program("true", &[])).await.unwrap();
    last.stop().await;
    until("nothing is left of any of them", async || {
        members(&groups).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_app_takes_its_children_along_and_a_stopped_one_says_goodbye() {
    for signal in [Signal::KILL, Signal::TERM] {
        let state = tempfile::tempdir().unwrap();
        let config = state.path().join("sweetmcp.toml");
        std::fs::write(&config, format!("[app.shutdown]\ngrace = \"100ms\"\n[[plugin]]\nname = \"rude\"\nkind = \"stdio\"\ncommand = \"python3\"\nargs = [{RUDE:?}]\n")).unwrap();
        let mut app = Command::new(env!("CARGO_BIN_EXE_sweetmcp-app"))
            .args(["--name", "app-1", "--config"])
            .arg(&config)
            .arg("--state")
            .arg(state.path())
            .env("SWEETMCP_TELEMETRY_LOG_FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(app.stderr.take().unwrap());
        let (mut address, mut line, mut seen) = (None, String::new(), String::new());
        while !line.contains(r#""msg":"ready""#) {
            line.clear();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "the app ended: {seen}"
            );
            seen.push_str(&line);
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            address = address.or_else(|| event["address"].as_str().map(str::to_owned));
        }
        let rest = std::thread::spawn(move || {
            let mut rest = String::new();
            log.read_to_string(&mut rest).map(|_| rest)
        });
        let url = format!("http://{}", address.unwrap());
        let client = reqwest::Client::new();
        let call =
            async |tool: &str| ask(&client, &url, "tools/call", json!({"name": tool}), &[]).await;
        let child = call("rude_pid").await.said().as_i64().unwrap();
        assert_eq!(call("time_now").await.outcome, "ok");
        assert!(alive(child));
        let key = std::fs::read_to_string(state.path().join("keys/session.key")).unwrap();
        assert_eq!(key.len(), 64, "made, since nobody had made it");
        rustix::process::kill_process(Pid::from_child(&app), signal).unwrap();
        let status = tokio::task::spawn_blocking(move || app.wait())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(status.success(), signal == Signal::TERM, "{status}");
        until("the child is gone", async || (!alive(child)).then_some(())).await;
        let rest = rest.join().unwrap().unwrap();
        assert_eq!(
            rest.contains(r#""msg":"stopped""#),
            signal == Signal::TERM,
            "{rest}"
        );
    }
}
