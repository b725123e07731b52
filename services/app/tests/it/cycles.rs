//! Plugins that come up and die, over and over, leave nothing behind.

use std::collections::HashSet;

use app::plugin::State;
use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::harness::{App, rude, until};

/// Descriptors that this process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of this process that are there, zombies included.
fn children() -> HashSet<i32> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit(") ").next()?.split(' ').nth(1)?.to_owned();
            (parent == own).then_some(pid)
        })
        .collect()
}

async fn cycles(count: usize) {
    let first = App::start(vec![rude("legacy")]).await;
    first.call("rude_pid", json!({})).await;
    first.mounts.stop().await;
    let before = descriptors();
    for turn in 0..count {
        let mounts = app::plugin::mounts::Mounts::start(vec![rude("legacy")]).unwrap();
        mounts.settled(crate::harness::PATIENCE).await;
        assert_eq!(
            mounts.mounted()[0].plugin.state(),
            State::Ready,
            "turn {turn}"
        );
        let alive = children();
        assert_eq!(alive.len(), 1, "turn {turn}: {alive:?}");
        if turn % 2 == 0 {
            let pid = alive.into_iter().next().and_then(Pid::from_raw).unwrap();
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
        }
        mounts.stop().await;
    }
    until("nothing is left", async || {
        (children().is_empty() && descriptors() <= before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ten_plugins_leave_nothing_behind() {
    cycles(10).await;
}

#[tokio::test]
#[ignore = "long: some minutes; run it with --run-ignored only"]
async fn five_hundred_plugins_leave_nothing_behind() {
    cycles(500).await;
}
