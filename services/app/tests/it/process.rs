//! No child outlives us, however it or we end.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

use app::plugin::stdio::process::{Program, Spawner};
use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::harness::{RUDE, alive, ask, program, until};

/// The variable by which processes are found again, whatever they have become.
const MARK: &str = "SWEETMCP_TEST_MARK";

/// What a program may leave behind: a daemon in a session of its own, whose parent is gone, and a child.
const LITTER: &str = "(setsid sleep 1000 &); sleep 1000 &";

fn marked_program(mark: &str, script: &str) -> Program {
    let mut program = program("sh", &["-c", script]);
    program.env.insert(MARK.to_owned(), mark.to_owned());
    program
}

/// The processes that carry a mark.
fn marked(mark: &str) -> Vec<i32> {
    let mark = format!("{MARK}={mark}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let environment = std::fs::read(entry.path().join("environ")).ok()?;
            let mut variables = environment.split(|byte| *byte == 0);
            variables.any(|one| one == mark.as_bytes()).then_some(pid)
        })
        .collect()
}

async fn until_nothing_is_left(mark: &str) {
    until("nothing is left", async || {
        marked(mark).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn fifty_starts_and_ends_leave_no_orphan_and_no_zombie() {
    let spawner = Spawner::start().unwrap();
    let mut guards = Vec::new();
    for turn in 0..50 {
        let end = ["exec sleep 1000", "exec cat", "kill -9 $$", "exit 3"][turn % 4];
        let script = format!("{LITTER} {end}");
        let started = spawner.spawn(&marked_program("fifty", &script)).await;
        let mut process = started.unwrap();
        guards.push(process.id());
        match turn % 4 {
            0 => drop(process),
            1 => {
                drop(process.streams());
                process.stop().await;
            }
            2 => assert_eq!(process.wait().await.unwrap().signal(), Some(9)),
            _ => assert_eq!(process.wait().await.unwrap().code(), Some(3)),
        }
    }
    until_nothing_is_left("fifty").await;
    until("no guard is left", async || {
        let left = |pid: &i32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        (!guards.iter().any(left)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_program_is_asked_to_end_and_made_to_and_does_not_outlive_its_guard() {
    let spawner = Spawner::start().unwrap();
    let start = async |mark, script| {
        let started = spawner.spawn(&marked_program(mark, script)).await.unwrap();
        until("it runs", async || (!marked(mark).is_empty()).then_some(())).await;
        started
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("asked");
    let asked = format!(
        "trap 'touch {}; exit' TERM; while :; do sleep 0.1; done",
        file.display()
    );
    let deaf = "trap '' TERM; exec sleep 1000";
    let (asked, deaf) = (start("asked", &asked).await, start("deaf", deaf).await);
    tokio::join!(asked.stop(), deaf.stop());
    assert!(file.exists());
    until_nothing_is_left("asked").await;
    until_nothing_is_left("deaf").await;

    let guarded = start("guarded", "exec sleep 1000").await;
    let guard = Pid::from_raw(guarded.id()).unwrap();
    rustix::process::kill_process(guard, Signal::KILL).unwrap();
    until_nothing_is_left("guarded").await;
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_is_told_of() {
    let spawner = Spawner::start().unwrap();
    let refused = spawner.spawn(&program("/none/of/these", &[])).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_killed_app_takes_its_children_along_and_a_stopped_one_says_goodbye() {
    for signal in [Signal::KILL, Signal::TERM] {
        let state = tempfile::tempdir().unwrap();
        let config = state.path().join("sweetmcp.toml");
        let mark = format!("app-{}", signal.as_raw());
        let script = format!("{LITTER} python3 '{RUDE}'; true");
        std::fs::write(&config, format!("[app.shutdown]\ngrace = \"100ms\"\n[[plugin]]\nname = \"rude\"\nkind = \"stdio\"\ncommand = \"sh\"\nargs = [\"-c\", {script:?}]\nenv = {{ {MARK} = {mark:?} }}\n")).unwrap();
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
        assert!(marked(&mark).len() >= 3, "the server, a child and a daemon");
        let key = std::fs::read_to_string(state.path().join("keys/session.key")).unwrap();
        assert_eq!(key.len(), 64, "made, since nobody had made it");
        rustix::process::kill_process(Pid::from_child(&app), signal).unwrap();
        let status = tokio::task::spawn_blocking(move || app.wait())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(status.success(), signal == Signal::TERM, "{status}");
        until("the child is gone", async || (!alive(child)).then_some(())).await;
        until_nothing_is_left(&mark).await;
        let rest = rest.join().unwrap().unwrap();
        assert_eq!(
            rest.contains(r#""msg":"stopped""#),
            signal == Signal::TERM,
            "{rest}"
        );
    }
}
