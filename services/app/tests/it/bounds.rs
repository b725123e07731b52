//! What a child may take and reach, and how many of it there are.

use std::{net::TcpListener, path::PathBuf, time::Duration};

use app::plugin::{
    State,
    builtin::Set,
    failing::Failing,
    mounts::{Kind, Spec},
    signature::SignedBy,
    stdio::{Instances, StdioSpec, limits::Limits, sandbox::Sandbox},
};
use serde_json::{Value, json};

use crate::harness::{App, alive, builtin, program, rude, stdio, until};

const GREEDY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/greedy_server.py");

/// The interpreter itself: what `python3` in `PATH` is may lie anywhere.
const PYTHON: &str = "/usr/bin/python3";

fn greedy(name: &str, change: impl FnOnce(&mut StdioSpec)) -> Spec {
    let mut spec = stdio(name, program(PYTHON, &[GREEDY]));
    if let Kind::Stdio(stdio) = &mut spec.kind {
        change(stdio);
    }
    spec
}

/// A plugin with limits beside one without, and a built-in.
async fn limited(limits: Limits) -> App {
    App::start(vec![
        greedy("greedy", |spec| spec.limits = limits),
        greedy("other", |_| {}),
        builtin("time", Set::Time),
    ])
    .await
}

/// A call that takes too much ends, the reason is told, neighbours go on and the plugin comes back.
async fn ends(app: App, tool: &str, arguments: Value, why: Failing, says: &str) {
    let neighbour = app.call("other_pid", json!({})).await.said();
    let call = app.call(tool, arguments);
    let meanwhile = async {
        until("it is ended", async || {
            assert_eq!(app.call("time_now", json!({})).await.outcome, "ok");
            let greedy = &app.mounts.mounted()[0].plugin;
            (greedy.failures(why) == 1).then_some(())
        })
        .await;
        match app.mounts.mounted()[0].plugin.state() {
            State::Restarting { failing, reason } => {
                assert_eq!(failing, why);
                assert!(reason.contains(says), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    };
    let (lost, ()) = tokio::join!(call, meanwhile);
    assert_eq!(lost.code(), mcp::Cause::UpstreamBroken.code(), "{lost:?}");
    let metrics = app.get("/metrics").await.1;
    let counted = format!(r#"cause="{}",plugin="greedy"}} 1"#, why.as_str());
    assert!(metrics.contains(&counted), "{counted} in {metrics}");
    assert_eq!(app.call("other_pid", json!({})).await.said(), neighbour);
    app.until_answered("greedy_pid").await;
    app.mounts.stop().await;
}

#[tokio::test]
async fn a_child_that_takes_too_much_memory_is_ended() {
    let app = limited(Limits {
        memory_bytes: Some(200 << 20),
        ..Limits::default()
    })
    .await;
    let little = app.call("greedy_eat", json!({"mib": 20})).await;
    assert_eq!(little.said(), "eaten");
    let much = json!({"mib": 300, "seconds": 20});
    ends(
        app,
        "greedy_eat",
        much,
        Failing::Memory,
        "bytes of memory and may take 209715200",
    )
    .await;
}

#[tokio::test]
async fn a_child_that_computes_too_much_is_ended() {
    let app = limited(Limits {
        cpus: Some(0.05),
        ..Limits::default()
    })
    .await;
    let much = json!({"processes": 2});
    ends(
        app,
        "greedy_spin",
        much,
        Failing::Cpu,
        "processors for 5 seconds and may take 0.05",
    )
    .await;
}

#[tokio::test]
async fn a_child_with_too_many_processes_is_ended() {
    let app = limited(Limits {
        processes: Some(4),
        ..Limits::default()
    })
    .await;
    let few = app.call("greedy_breed", json!({"processes": 2})).await;
    assert_eq!(few.said(), "bred");
    let much = json!({"processes": 10, "seconds": 20});
    ends(
        app,
        "greedy_breed",
        much,
        Failing::Processes,
        "processes and may have 4",
    )
    .await;
}

#[tokio::test]
async fn what_left_the_group_of_a_child_ends_with_it() {
    let app = App::start(vec![greedy("greedy", |_| {})]).await;
    let escaped = app.call("greedy_escape", json!({})).await.said();
    let escaped = escaped.as_i64().unwrap();
    assert!(alive(escaped));
    app.mounts.stop().await;
    until("it is gone", async || (!alive(escaped)).then_some(())).await;
}

/// A folder whose parts are granted in different ways, and the sandbox that does so.
fn granted(network: bool) -> (tempfile::TempDir, Sandbox) {
    let folder = tempfile::tempdir().unwrap();
    for part in ["read", "write", "secret"] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
        std::fs::write(folder.path().join(part).join("file"), part).unwrap();
    }
    let path = |part: &str| folder.path().join(part);
    let sandbox = Sandbox {
        read: vec![path("read")],
        write: vec![path("write")],
        network,
    };
    (folder, sandbox)
}

async fn walled(sandbox: Sandbox) -> App {
    let app = App::start(vec![greedy("walled", |spec| {
        spec.program.sandbox = Some(sandbox)
    })])
    .await;
    let state = app.mounts.mounted()[0].plugin.state();
    assert_eq!(state, State::Ready);
    app
}

#[tokio::test]
async fn a_child_in_a_sandbox_reaches_what_it_is_granted_and_nothing_else() {
    let (folder, sandbox) = granted(false);
    let app = walled(sandbox).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let at = |path: &str| json!({"path": folder.path().join(path)});
    for (tool, arguments, says) in [
        ("read", at("read/file"), "read"),
        ("write", at("write/new"), "written"),
        ("read", at("write/new"), "written"),
        ("truncate", at("write/file"), "truncated"),
        ("read", at("secret/file"), "PermissionError"),
        ("write", at("secret/file"), "PermissionError"),
        ("write", at("read/file"), "PermissionError"),
        ("truncate", at("read/file"), "PermissionError"),
        ("read", json!({"path": "/etc/shadow"}), "PermissionError"),
        ("connect", json!({"port": port}), "PermissionError"),
        ("datagram", json!({"port": port}), "PermissionError"),
        ("pair", json!({}), "x"),
    ] {
        let answer = app.call(&format!("walled_{tool}"), arguments.clone()).await;
        let said = answer.said();
        let said = said.as_str().unwrap();
        assert!(said.starts_with(says), "{tool} {arguments}: {said}");
    }
    let kept = std::fs::read_to_string(folder.path().join("secret/file")).unwrap();
    assert_eq!(kept, "secret");
}

#[tokio::test]
async fn a_child_in_a_sandbox_marks_no_files_and_leaves_other_processes_alone() {
    let (folder, sandbox) = granted(false);
    let own = folder.path().join("write/file");
    let app = walled(sandbox).await;
    let (pid, own) = (std::process::id(), own.display());
    let (clone, user) = (libc::SYS_clone, libc::CLONE_NEWUSER);
    let refused = [
        format!("os.chmod('{own}', 0o777)"),
        format!("os.fchmod(os.open('{own}', os.O_RDONLY), 0o777)"),
        format!("os.chmod('{own}', 0o777, dir_fd=os.open('/usr', os.O_PATH))"),
        format!("os.chown('{own}', -1, -1)"),
        format!("os.utime('{own}')"),
        format!("os.utime(os.open('{own}', os.O_RDONLY))"),
        format!("os.setxattr('{own}', 'user.a', b'')"),
        format!("os.removexattr('{own}', 'user.a')"),
        "socket.socket(socket.AF_UNIX)".to_owned(),
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)".to_owned(),
        format!("resource.prlimit({pid}, resource.RLIMIT_NOFILE)"),
        format!("os.setpriority(os.PRIO_PROCESS, {pid}, 5)"),
        "os.setpriority(os.PRIO_USER, 0, 5)".to_owned(),
        format!("os.sched_setaffinity({pid}, {{0}})"),
        format!("open('/proc/{pid}/environ')"),
        format!("open('/proc/{pid}/cmdline')"),
        format!("call('ptrace', 16, {pid}, 0, 0)"),
        format!("call('unshare', {user})"),
        format!("call('syscall', {clone}, {user} | 17, 0, 0, 0, 0)"),
    ];
    let not_there = [
        "call('syscall', 435, 0, 0)",
        "call('syscall', (1 << 30) | 39)",
    ];
    let allowed = [
        ("subprocess.run(['true']).returncode", "0"),
        ("threading.Thread(target=time.time).start()", "None"),
        ("resource.getrlimit(resource.RLIMIT_CORE) and 1", "1"),
        ("os.setpriority(os.PRIO_PROCESS, 0, 5)", "None"),
        ("os.sched_setaffinity(0, os.sched_getaffinity(0))", "None"),
        ("len(open('/proc/meminfo').read()) > 0", "True"),
        // No new privileges.
        ("call('prctl', 39, 0, 0, 0, 0)", "1"),
    ];
    let cases = refused
        .iter()
        .map(|python| (&**python, "PermissionError"))
        .chain(not_there.map(|python| (python, "OSError: [Errno 38]")))
        .chain(allowed);
    for (python, says) in cases {
        let answer = app.call("walled_eval", json!({"python": python})).await;
        let said = answer.said();
        assert!(said.as_str().unwrap().starts_with(says), "{python}: {said}");
    }
}

#[tokio::test]
async fn the_network_is_granted_apart_and_a_missing_path_is_told() {
    let (folder, sandbox) = granted(true);
    let app = walled(sandbox.clone()).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = json!({"port": listener.local_addr().unwrap().port()});
    assert_eq!(app.call("walled_connect", port).await.said(), "connected");
    let secret = json!({"path": folder.path().join("secret/file")});
    let refused = app.call("walled_read", secret).await.said();
    assert!(
        refused.as_str().unwrap().starts_with("PermissionError"),
        "{refused}"
    );

    let missing = Sandbox {
        read: vec![PathBuf::from("/none/of/these")],
        ..sandbox
    };
    let app = App::start(vec![greedy("walled", |spec| {
        spec.program.sandbox = Some(missing)
    })])
    .await;
    match app.mounts.mounted()[0].plugin.state() {
        State::Restarting { reason, .. } => {
            assert!(
                reason.contains("cannot let it have /none/of/these"),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn more_children_come_when_all_are_busy_and_go_when_they_are_idle() {
    let instances = Instances {
        min: 1,
        max: 3,
        idle: Duration::from_millis(1500),
    };
    let app = App::start(vec![greedy("pool", |spec| spec.instances = instances)]).await;
    let children = || match &app.mounts.mounted()[0].plugin {
        app::plugin::Plugin::Stdio(stdio) => stdio.instances(),
        other => panic!("{other:?}"),
    };
    assert_eq!(children(), 1);
    let mut pids = std::collections::BTreeSet::new();
    until("three children have answered", async || {
        let naps = (0..4).map(|_| app.call("pool_nap", json!({"seconds": 0.2})));
        for answer in futures::future::join_all(naps).await {
            assert_eq!(answer.outcome, "ok", "{answer:?}");
            pids.insert(answer.said().as_i64().unwrap());
        }
        assert!(children() <= 3);
        (pids.len() >= 3).then_some(())
    })
    .await;
    until("one is left", async || (children() == 1).then_some(())).await;
    let left = app
        .call("pool_pid", json!({}))
        .await
        .said()
        .as_i64()
        .unwrap();
    until("the others are gone", async || {
        pids.iter()
            .all(|pid| *pid == left || !alive(*pid))
            .then_some(())
    })
    .await;
    assert!(alive(left));
}

#[tokio::test]
async fn servers_that_ask_are_asked_side_by_side_by_a_child_each() {
    let instances = Instances {
        min: 2,
        max: 2,
        ..Instances::default()
    };
    let mut spec = rude("legacy");
    if let Kind::Stdio(stdio) = &mut spec.kind {
        stdio.instances = instances;
    }
    let app = App::start(vec![spec]).await;
    // Each is in the middle of a question and has its child for itself.
    let mut waiting = Vec::new();
    for who in ["ana", "ben"] {
        // The second child may come into service later than the first.
        let state = until("the child asks", async || {
            let asked = app.call_as(who, json!({"name": "rude_elicit"})).await;
            let state = asked.body["result"]["requestState"].clone();
            state.is_string().then_some(state)
        });
        waiting.push((who, state.await));
    }
    for (who, state) in waiting {
        let params = json!({
            "name": "rude_elicit",
            "requestState": state,
            "inputResponses": {"q1": {"action": "accept", "content": {}}},
        });
        let answer = app.call_as(who, params).await;
        assert_eq!(
            answer.body["result"]["resultType"], "complete",
            "{who}: {answer:?}"
        );
    }
}

/// A public key, and its signature over `good`.
pub const KEY: &str = "RWQHBwcHBwcHB+pKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs";
const SIGNATURE: &str = "untrusted comment: a test
RUQHBwcHBwcHByae/HXCen7haxIKp4kLwCVx5axIspP3W9Yfd+NjrXgTnhpiLVEAoiEavi4eZJdevIQM99n9G5I2q062QDhWkwg=
trusted comment: a test
U4RZMJbx+QcC3wl5VysPVvU/02fuJ6+TEof30wljoHfQVYEZZJoFm4zSH3riP9WVo0mfLm5qkjBc8uNiAqVLBw==
";

#[tokio::test]
async fn a_child_starts_with_signed_files_and_not_with_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signed");
    std::fs::write(&file, "good").unwrap();
    std::fs::write(folder.path().join("signed.minisig"), SIGNATURE).unwrap();
    let signed = |files: Vec<PathBuf>| {
        greedy("greedy", |spec| {
            let key = KEY.to_owned();
            spec.signed_by = Some(SignedBy { key, files });
        })
    };
    let refused = async |spec: Spec, says: &str| {
        let app = App::start(vec![spec]).await;
        match app.mounts.mounted()[0].plugin.state() {
            State::Restarting { reason, .. } => assert!(reason.contains(says), "{reason}"),
            other => panic!("{other:?}"),
        }
    };
    let app = App::start(vec![signed(vec![file.clone()])]).await;
    assert_eq!(app.call("greedy_pid", json!({})).await.outcome, "ok");
    refused(signed(Vec::new()), "/usr/bin/python3.minisig").await;
    std::fs::write(&file, "evil").unwrap();
    refused(signed(vec![file]), "signature that signed_by asks for").await;
}
