use registry::PluginState;

use super::*;

const EDGE: &str = "eeeeeeeeeeeeeeee";
const APP: &str = "aaaaaaaaaaaaaaaa";

fn pool(role: Role, release: &str, replicas: u32) -> Pool {
    Pool {
        role,
        release: release.into(),
        replicas,
    }
}

fn process(name: &str, pid: u32) -> Process {
    let edge = name.starts_with("edge");
    Process {
        name: name.into(),
        role: if edge { Role::Edge } else { Role::App },
        release: if edge { EDGE } else { APP }.into(),
        pid,
        state: ProcessState::Running,
        restarts: 0,
        last_exit: None,
        refused: false,
        since_unix_ms: 0,
    }
}

fn reported(name: &str, pid: u32) -> Instance {
    let process = process(name, pid);
    let mut instance = Instance::new(process.role, name, process.release, "127.0.0.1:1");
    instance.pid = pid;
    instance.config_digest = "config".into();
    instance.binary_digest = "binary".into();
    if process.role == Role::App {
        instance.plugins = vec![PluginState {
            name: "time".into(),
            kind: "builtin".into(),
            state: PluginPhase::Ready,
            ..PluginState::default()
        }];
    }
    instance
}

/// One edge and two apps, as they should be.
fn fleet() -> Facts {
    let known = |plugins: &[&str]| Known {
        config_digest: "config".into(),
        binary_digest: "binary".into(),
        config_on_disk: Some(Ok("config".into())),
        binary_on_disk: Some(Ok("binary".into())),
        plugins: plugins.iter().map(|p| (*p).to_owned()).collect(),
    };
    Facts {
        desired: Desired {
            pools: vec![pool(Role::Edge, EDGE, 1), pool(Role::App, APP, 2)],
        },
        releases: [
            (EDGE.to_owned(), known(&[])),
            (APP.to_owned(), known(&["time"])),
        ]
        .into(),
        traffic: Some(Traffic::all_to(APP, "x", "y")),
        instances: vec![
            reported("edge-1", 1),
            reported("app-1", 2),
            reported("app-2", 3),
        ],
        processes: vec![
            process("edge-1", 1),
            process("app-1", 2),
            process("app-2", 3),
        ],
        agent: true,
        edits: Vec::new(),
    }
}

/// `instance key: should -> is (remedy)`, one a line.
fn told(change: impl FnOnce(&mut Facts)) -> Vec<String> {
    let mut facts = fleet();
    change(&mut facts);
    let line = |f: Finding| {
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let remedy = match f.remedy {
            Remedy::Restart { instance } => format!("restart {instance}"),
            Remedy::StartAgent => "start agent".to_owned(),
            Remedy::Agent => "agent".to_owned(),
            Remedy::Operator { .. } => "operator".to_owned(),
        };
        let (should, is) = (or_none(f.should), or_none(f.is));
        format!("{} {}: {should} -> {is} ({remedy})", f.instance, f.key)
    };
    compare(&facts).into_iter().map(line).collect()
}

type Case = (&'static str, fn(&mut Facts), &'static [&'static str]);

fn check(cases: &[Case]) {
    for (name, change, expected) in cases {
        assert_eq!(told(change), *expected, "{name}");
    }
}

#[test]
fn instances_and_processes() {
    check(&[
        ("as it should be", |_| {}, &[]),
        (
            "one died, the agent knows",
            |f| {
                f.processes[2].state = ProcessState::Backoff;
                f.processes[2].pid = 0;
                f.processes[2].last_exit = Some("signal: 9".into());
            },
            &[
                "app aaaaaaaaaaaa instances: 2 -> 1 (agent)",
                "app-2 state: running -> backoff (signal: 9) (agent)",
            ],
        ),
        (
            "one was given up",
            |f| {
                f.processes[2].state = ProcessState::Failed;
                f.processes[2].pid = 0;
                f.instances.pop();
            },
            &[
                "app aaaaaaaaaaaa instances: 2 -> 1 (agent)",
                "app-2 state: running -> failed (restart app-2)",
            ],
        ),
        (
            "one is on its way",
            |f| {
                f.processes[2].state = ProcessState::Starting;
                f.instances.pop();
            },
            &[],
        ),
        (
            "nobody looks after it",
            |f| {
                f.agent = false;
                f.instances.pop();
            },
            &["app aaaaaaaaaaaa instances: 2 -> 1 (start agent)"],
        ),
        (
            "one too many",
            |f| f.instances.push(reported("app-3", 4)),
            &["app aaaaaaaaaaaa instances: 2 -> 3 (agent)"],
        ),
        (
            "one leaves",
            |f| {
                let mut leaving = reported("app-3", 4);
                leaving.state = InstanceState::Draining;
                f.instances.push(leaving);
            },
            &[],
        ),
    ]);
}

#[test]
fn releases_digests_and_plugins() {
    check(&[
        (
            "a release that nobody wants",
            |f| f.instances[1].release = "bbbbbbbbbbbbbbbb".into(),
            &["app-1 release: aaaaaaaaaaaa -> bbbbbbbbbbbb (agent)"],
        ),
        (
            "another configuration and another program",
            |f| {
                f.instances[0].config_digest = "other".into();
                f.instances[1].binary_digest = "other".into();
            },
            &[
                "edge-1 config_digest: config -> other (restart edge-1)",
                "app-1 binary_digest: binary -> other (restart app-1)",
            ],
        ),
        (
            "a restart would start what was tampered with",
            |f| {
                f.instances[0].config_digest = "other".into();
                let known = f.releases.get_mut(EDGE).unwrap();
                known.config_on_disk = Some(Ok("other".into()));
                known.binary_on_disk = Some(Err("gone".into()));
            },
            &[
                "release eeeeeeeeeeee config_digest: config -> other (operator)",
                "release eeeeeeeeeeee binary_digest: binary -> gone (operator)",
                "edge-1 config_digest: config -> other (operator)",
            ],
        ),
        (
            "plugins that fail, are missing, start, or are not meant",
            |f| {
                let known = f.releases.get_mut(APP).unwrap();
                known.plugins.insert("weather".into());
                f.instances[1].plugins[0].state = PluginPhase::Failed;
                f.instances[2].plugins[0].name = "weather".into();
                f.instances[2].plugins[0].state = PluginPhase::Starting;
                let extra = PluginState {
                    name: "extra".into(),
                    ..f.instances[2].plugins[0].clone()
                };
                f.instances[1].plugins.push(PluginState {
                    state: PluginPhase::Ready,
                    ..extra
                });
            },
            &[
                "app-1 plugin.extra: - -> ready (restart app-1)",
                "app-1 plugin.time: ready -> failed (restart app-1)",
                "app-1 plugin.weather: ready -> - (restart app-1)",
                "app-2 plugin.time: ready -> - (restart app-2)",
            ],
        ),
    ]);
}

#[test]
fn records_and_the_file() {
    check(&[
        (
            "calls go where nothing should run",
            |f| {
                let split = Traffic::all_to("ssssssssssssssss", "x", "y");
                f.traffic = Some(split.with_share("cccccccccccccccc", 500, None));
            },
            &[
                "traffic share.cccccccccccc: - -> no instance should run it (operator)",
                "traffic stable: aaaaaaaaaaaa -> ssssssssssss (operator)",
            ],
        ),
        (
            "edits that nobody has applied",
            |f| {
                let edit = KeyDiff {
                    key: "app.builtins".into(),
                    from: Some("true".into()),
                    to: Some("false".into()),
                };
                f.edits.push((Role::App, edit));
            },
            &["app pool app.builtins: false -> true (operator)"],
        ),
    ]);
}
