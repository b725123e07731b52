//! Lists that are merged from several servers.

use app::plugin::mounts::Spec;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::{App, rude};

const UPSTREAMS: usize = 8;

fn upstream(number: usize) -> Spec {
    Spec {
        name: format!("u{number}"),
        prefix: format!("u{number}_"),
        ..rude("legacy")
    }
}

#[tokio::test]
async fn a_warm_list_of_eight_upstreams_asks_none_of_them() {
    let app = App::start((0..UPSTREAMS).map(upstream).collect()).await;
    let listed = app.ask("tools/list", json!({})).await.body;
    let tools = listed["result"]["tools"].as_array().unwrap();
    let of = |number: usize| {
        let prefix = format!("u{number}_");
        let names = tools.iter().filter_map(|tool| tool["name"].as_str());
        names.filter(|name| name.starts_with(&prefix)).count()
    };
    assert!(
        of(0) > 10 && (0..UPSTREAMS).all(|n| of(n) == of(0)),
        "{listed}"
    );
    let mut pids = Vec::new();
    for number in 0..UPSTREAMS {
        let pid = app.call(&format!("u{number}_pid"), json!({})).await.said();
        let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
        pids.push(Pid::from_raw(pid).unwrap());
    }
    // Whoever is frozen answers nothing.
    for pid in &pids {
        kill_process(*pid, Signal::STOP).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(app.ask("tools/list", json!({})).await.body, listed);
    }
    for pid in &pids {
        kill_process(*pid, Signal::CONT).unwrap();
    }
    app.mounts.stop().await;
}
