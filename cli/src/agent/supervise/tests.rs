//! The loop with real processes: shells that sleep in place of edges and apps.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::Path;

use registry::{Desired, Instance, Pool, Registration};
use store::Store;
use tokio::task::JoinHandle;

use super::*;
use crate::agent::wishes;

const EDGE: &str = "eeeeeeeeeeee";
const APP: &str = "aaaaaaaaaaaa";

/// A fleet of shells. An instance says that it is ready as soon as its process is seen.
struct Bench {
    _home: tempfile::TempDir,
    state: StateDir,
    store: Store,
    script: &'static str,
    agent: Option<(mpsc::Sender<Order>, JoinHandle<Result<Ending>>)>,
    registrar: JoinHandle<()>,
}

impl Bench {
    async fn new(script: &'static str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::locate(Some(home.path()), |_| None).unwrap();
        state.create().unwrap();
        let store = Store::open_sqlite(&state.store()).await.unwrap();
        let registrar = tokio::spawn(register_all(store.clone()));
        Self {
            _home: home,
            state,
            store,
            script,
            agent: None,
            registrar,
        }
    }

    fn registry(&self) -> Registry {
        Registry::new(self.store.clone())
    }

    async fn want(&self, edges: u32, apps: u32) {
        self.want_release(EDGE, edges, apps).await;
    }

    async fn want_release(&self, edge: &str, edges: u32, apps: u32) {
        let pool = |role, release: &str, replicas| Pool {
            role,
            release: release.into(),
            replicas,
        };
        let pools = vec![pool(Role::Edge, edge, edges), pool(Role::App, APP, apps)];
        self.registry()
            .set_desired(&Desired { pools }, &[])
            .await
            .unwrap();
    }

    /// Starts an agent in this process.
    async fn start(&mut self) {
        let first = wishes::read(&self.registry()).await.unwrap();
        let script = self.script;
        let blueprints: Blueprints =
            Arc::new(move |state, role, _| Ok(shell(state.path(), role, script)));
        let mut supervisor =
            Supervisor::begin(&self.state, self.registry(), blueprints, first.clone()).unwrap();
        supervisor.policy.backoff_first_ms = 1;
        supervisor.policy.backoff_max_ms = 1;
        let (orders, inbox) = mpsc::channel(4);
        let wishes = wishes::follow(self.store.clone(), first);
        let fleet = registry::watch_fleet(self.store.clone());
        let run = tokio::spawn(supervisor.run(wishes, fleet, inbox));
        self.agent = Some((orders, run));
    }

    async fn order(&mut self, order: Order) -> Ending {
        let (orders, run) = self.agent.take().unwrap();
        orders.send(order).await.unwrap();
        run.await.unwrap().unwrap()
    }

    /// What `kill -9` of the agent leaves: nothing more is done, nothing is stopped.
    async fn kill_agent(&mut self) {
        let (_orders, run) = self.agent.take().unwrap();
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());
    }

    /// Waits until the processes fulfil the condition.
    async fn until(&self, what: &str, fulfilled: impl Fn(&[Process]) -> bool) -> Vec<Process> {
        let mut seen = Vec::new();
        for _ in 0..600 {
            seen = self.registry().processes().await.unwrap();
            if fulfilled(&seen) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never saw {what}: {seen:#?}");
    }

    async fn until_running(&self, count: usize) -> Vec<Process> {
        self.until("all running", |all| {
            all.len() == count && all.iter().all(|p| p.state == ProcessState::Running)
        })
        .await
    }

    async fn restart(&self, name: &str) {
        wishes::request_restart(&self.store, name).await.unwrap();
    }

    async fn end(mut self) {
        if self.agent.is_none() {
            self.start().await;
        }
        assert_eq!(self.order(Order::Stop).await, Ending::Stopped);
        self.registrar.abort();
        assert!(self.registry().processes().await.unwrap().is_empty());
        assert_eq!(fs::read_dir(self.state.processes()).unwrap().count(), 0);
    }
}

fn shell(home: &Path, role: Role, script: &str) -> Blueprint {
    let args: [OsString; 2] = ["-c".into(), script.into()];
    let any = || "127.0.0.1:0".to_owned();
    let listen = Listen {
        http: any(),
        admin: any(),
        capnp: any(),
    };
    Blueprint {
        program: fs::canonicalize("/bin/sh").unwrap(),
        program_digest: process::digest_file(Path::new("/bin/sh")).unwrap(),
        args: args.into(),
        environment: Vec::new(),
        working_dir: home.to_owned(),
        listen: (role == Role::Edge).then_some(listen),
        stop_max: Duration::from_secs(20),
    }
}

/// Registers every process that is starting, and lets go of those that end.
async fn register_all(store: Store) {
    let registry = Registry::new(store.clone());
    let mut registered: BTreeMap<(String, u32), Registration> = BTreeMap::new();
    loop {
        let processes = registry.processes().await.unwrap_or_default();
        registered
            .retain(|(name, pid), _| processes.iter().any(|p| p.name == *name && p.pid == *pid));
        for process in processes
            .iter()
            .filter(|p| p.state == ProcessState::Starting)
        {
            let key = (process.name.clone(), process.pid);
            registered.entry(key).or_insert_with(|| {
                let mut instance =
                    Instance::new(process.role, &process.name, &process.release, "127.0.0.1:1");
                instance.pid = process.pid;
                Registration::start(store.clone(), instance).unwrap()
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs until told to stop. The shell stays itself, so that its digest is the one recorded.
const SLEEPS: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_come_back_and_a_stop_leaves_nothing() {
    let mut bench = Bench::new(SLEEPS).await;
    bench.want(1, 2).await;
    bench.start().await;
    let before = bench.until_running(3).await;
    for victim in &before {
        kill(victim.pid);
        let back = bench
            .until("its successor", |all| {
                all.iter().any(|p| {
                    p.name == victim.name && p.pid != victim.pid && p.state == ProcessState::Running
                })
            })
            .await;
        let back = back.iter().find(|p| p.name == victim.name).unwrap();
        assert_eq!(
            (back.restarts, back.last_exit.as_deref()),
            (1, Some("signal: 9 (SIGKILL)"))
        );
        assert!(!exists(victim.pid), "collected, not a zombie");
    }
    let last = bench.until_running(3).await;
    bench.end().await;
    assert!(last.iter().all(|p| !exists(p.pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_adopts_what_a_dead_one_left() {
    let mut bench = Bench::new(SLEEPS).await;
    bench.want(1, 2).await;
    bench.start().await;
    let pids = |all: &[Process]| all.iter().map(|p| p.pid).collect::<Vec<_>>();
    let before = bench.until_running(3).await;
    let endpoints = crate::agent::endpoints(&bench.state).unwrap();
    bench.kill_agent().await;
    assert!(before.iter().all(|p| exists(p.pid)));
    // One dies unseen, and its number may be anybody's by now.
    let lost = before.iter().find(|p| p.role == Role::App).unwrap();
    kill(lost.pid);

    bench.start().await;
    let after = bench
        .until("a full fleet", |all| {
            all.len() == 3
                && all
                    .iter()
                    .all(|p| p.state == ProcessState::Running && p.pid != lost.pid)
        })
        .await;
    let kept = pids(&before)
        .iter()
        .filter(|p| pids(&after).contains(p))
        .count();
    assert_eq!(kept, 2);
    assert_eq!(crate::agent::endpoints(&bench.state).unwrap(), endpoints);

    // Stepping aside is the same without the violence.
    assert_eq!(bench.order(Order::StepAside).await, Ending::SteppedAside);
    bench.start().await;
    assert_eq!(pids(&bench.until_running(3).await), pids(&after));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_overlaps_and_a_new_edge_release_takes_over() {
    let mut bench = Bench::new(SLEEPS).await;
    bench.want(1, 1).await;
    bench.start().await;
    let names = |all: &[Process]| all.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    assert_eq!(
        names(&bench.until_running(2).await),
        ["app-aaaaaaaa-1", "edge-1"]
    );
    bench.restart("app-aaaaaaaa-1").await;
    bench
        .until("the second app", |all| {
            names(all) == ["app-aaaaaaaa-2", "edge-1"]
        })
        .await;
    bench.want_release("ffffffffffff", 1, 1).await;
    let after = bench
        .until("the second edge", |all| {
            names(all) == ["app-aaaaaaaa-2", "edge-2"]
        })
        .await;
    assert_eq!(after[1].release, "ffffffffffff");
    // The request has been met and is gone.
    assert!(
        wishes::read(&bench.registry())
            .await
            .unwrap()
            .restarts
            .is_empty()
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_edges_goes_and_the_other_stays() {
    let mut bench = Bench::new(SLEEPS).await;
    bench.want(2, 0).await;
    bench.start().await;
    let before = bench.until_running(2).await;
    let endpoints = crate::agent::endpoints(&bench.state).unwrap();
    let doors: Vec<_> = endpoints.iter().map(|e| (e.door, e.slot)).collect();
    let own = |slot| (super::super::sockets::Door::Admin, slot);
    assert_eq!(doors.len(), 4, "{doors:?}");
    assert!(doors.contains(&own(0)) && doors.contains(&own(1)));

    kill(before[0].pid);
    let back = bench
        .until("its successor", |all| {
            all.len() == 2
                && all
                    .iter()
                    .all(|p| p.state == ProcessState::Running && p.pid != before[0].pid)
        })
        .await;
    assert_eq!((&*back[1].name, back[1].pid), ("edge-2", before[1].pid));

    bench.restart("edge-2").await;
    let after = bench
        .until("another in the place of the second", |all| {
            all.len() == 2
                && all
                    .iter()
                    .all(|p| p.state == ProcessState::Running && p.name != "edge-2")
        })
        .await;
    assert_eq!((&*after[0].name, after[0].pid), ("edge-1", back[0].pid));
    assert_eq!(crate::agent::endpoints(&bench.state).unwrap(), endpoints);

    // Both are given up by one agent and taken over by the next, with all their sockets.
    bench.kill_agent().await;
    bench.start().await;
    let pids = |all: &[Process]| all.iter().map(|p| p.pid).collect::<Vec<_>>();
    assert_eq!(pids(&bench.until_running(2).await), pids(&after));
    let mut known = crate::agent::endpoints(&bench.state).unwrap();
    let mut expected = endpoints;
    for list in [&mut known, &mut expected] {
        list.sort_by_key(|e| e.bound);
    }
    assert_eq!(known, expected);
    bench.want(1, 0).await;
    bench
        .until("one edge", |all| all.len() == 1 && all[0].name == "edge-1")
        .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_starts_is_given_up_until_somebody_asks_again() {
    let mut bench = Bench::new("exit 7").await;
    bench.want(0, 1).await;
    bench.start().await;
    let given_up = bench
        .until("a failure", |all| {
            all.iter().any(|p| p.state == ProcessState::Failed)
        })
        .await;
    assert_eq!((given_up[0].restarts, given_up[0].pid), (4, 0));
    assert_eq!(given_up[0].last_exit.as_deref(), Some("exit status: 7"));
    bench.restart(&given_up[0].name).await;
    bench
        .until("another attempt", |all| {
            all.iter().any(|p| p.name != given_up[0].name)
        })
        .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_keeps_its_sockets_goes_before_its_successor_comes() {
    let mut bench = Bench::new(SLEEPS).await;
    bench.want(1, 0).await;
    bench.start().await;
    let before = bench.until_running(1).await;
    bench.kill_agent().await;
    // The addresses are now in other hands, and the edge has no copies of these sockets to give.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere: Vec<_> = crate::agent::endpoints(&bench.state)
        .unwrap()
        .into_iter()
        .map(|e| super::super::sockets::Endpoint {
            bound: taken.local_addr().unwrap(),
            configured: taken.local_addr().unwrap().to_string(),
            ..e
        })
        .collect();
    fs::write(
        bench.state.endpoints(),
        serde_json::to_vec(&elsewhere).unwrap(),
    )
    .unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let first = wishes::read(&bench.registry()).await.unwrap();
    let blueprints: Blueprints = Arc::new(move |state, role, _| {
        let mut blueprint = shell(state.path(), role, SLEEPS);
        if let Some(listen) = &mut blueprint.listen {
            listen.http.clone_from(&address);
        }
        Ok(blueprint)
    });
    let supervisor =
        Supervisor::begin(&bench.state, bench.registry(), blueprints, first.clone()).unwrap();
    assert!(supervisor.sockets_elsewhere);
    let (orders, inbox) = mpsc::channel(4);
    let wishes = wishes::follow(bench.store.clone(), first);
    let run =
        tokio::spawn(supervisor.run(wishes, registry::watch_fleet(bench.store.clone()), inbox));
    bench.agent = Some((orders, run));

    bench.until_running(1).await;
    bench.restart(&before[0].name).await;
    bench
        .until("the old edge gone", |all| {
            all.iter().all(|p| p.pid != before[0].pid)
        })
        .await;
    drop(taken);
    let after = bench.until_running(1).await;
    assert_ne!(after[0].pid, before[0].pid);
    bench.end().await;
}
