//! Registration, the fleet's view and acknowledgements on a real store: with deaths, outages and lost leases.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry::{
    Cadence, Fleet, Instance, InstanceState, Load, Registration, RegistrationState, Registry, Role,
    Traffic, synced, wait_until_acked, watch_fleet,
};
use store::{Store, Watch};
use tempfile::TempDir;
use tokio::sync::watch::Receiver;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
const QUICK: Cadence = Cadence {
    heartbeat: Duration::from_millis(200),
    lease: Duration::from_secs(2),
    spacing: Duration::from_millis(10),
};

/// A store and the fleet as an edge sees it, through a handle of its own.
struct Stage {
    folder: TempDir,
    store: Store,
    fleet: Receiver<Arc<Fleet>>,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = Store::open_sqlite(&path).await.unwrap();
        let mut fleet = watch_fleet(Store::open_sqlite(&path).await.unwrap());
        synced(&mut fleet).await;
        Self {
            folder,
            store,
            fleet,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    fn start(&self, role: Role, name: &str) -> Registration {
        let instance = Instance::new(role, name, "r1", "127.0.0.1:1");
        Registration::start_with(self.store.clone(), instance, QUICK).unwrap()
    }

    async fn until(
        &mut self,
        what: &str,
        condition: impl FnMut(&Arc<Fleet>) -> bool,
    ) -> Arc<Fleet> {
        let found = tokio::time::timeout(PATIENCE, self.fleet.wait_for(condition)).await;
        Arc::clone(
            &found
                .unwrap_or_else(|_| unreachable!("{what}: not in time"))
                .unwrap(),
        )
    }

    /// Takes a table away from everybody, or gives it back.
    fn rename_table(&self, from: &str, to: &str) {
        let raw = rusqlite::Connection::open(self.path()).unwrap();
        raw.busy_timeout(PATIENCE).unwrap();
        raw.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}"))
            .unwrap();
    }
}

fn names(fleet: &Fleet) -> Vec<&str> {
    fleet
        .instances
        .iter()
        .map(|instance| instance.name.as_str())
        .collect()
}

async fn until_state(registration: &Registration, state: RegistrationState) {
    let mut states = registration.states();
    tokio::time::timeout(PATIENCE, states.wait_for(|now| *now == state))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_instance_comes_changes_and_goes() {
    let mut stage = Stage::new().await;
    let app = stage.start(Role::App, "app-1");
    let edge = stage.start(Role::Edge, "edge-1");
    let fleet = stage
        .until("both", |fleet| fleet.instances.len() == 2)
        .await;
    assert_eq!(names(&fleet), ["edge-1", "app-1"]);
    assert_eq!(fleet.ready_apps("r1").len(), 1);
    assert_eq!(fleet.app_releases().collect::<Vec<_>>(), ["r1"]);

    let load = Load {
        in_flight: 3,
        ..Load::default()
    };
    app.update(|instance| {
        instance.load = Some(load);
        instance.name = "not to be changed".to_owned();
    });
    let has_load = |fleet: &Arc<Fleet>| fleet.ready(Role::App).any(|app| app.load == Some(load));
    assert_eq!(
        names(&*stage.until("load", has_load).await),
        ["edge-1", "app-1"]
    );

    edge.update(|instance| instance.state = InstanceState::Draining);
    let fleet = stage
        .until("drain", |fleet| fleet.ready(Role::Edge).next().is_none())
        .await;
    assert_eq!(
        fleet.live(Role::Edge).count(),
        1,
        "a draining edge still lives"
    );

    app.stop().await;
    assert_eq!(
        Registry::new(stage.store.clone())
            .instance(Role::App, "app-1")
            .await
            .unwrap(),
        None
    );
    let fleet = stage
        .until("gone", |fleet| names(fleet) == ["edge-1"])
        .await;
    assert_eq!(
        fleet.ready_apps("r1").len(),
        0,
        "it said that it goes, so nobody hopes for it"
    );
    drop(edge);
    stage
        .until("all gone", |fleet| fleet.instances.is_empty())
        .await;
}

#[tokio::test]
async fn a_dead_instance_is_gone_after_its_lease_and_offered_while_there_is_no_other() {
    let mut stage = Stage::new().await;
    let path = stage.path();
    // A runtime that is torn down is the death of all its tasks.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _registration = runtime
        .spawn(async move {
            let store = Store::open_sqlite(&path).await.unwrap();
            let app = Instance::new(Role::App, "app-1", "r1", "127.0.0.1:1");
            Registration::start_with(store, app, QUICK).unwrap()
        })
        .await
        .unwrap();
    stage
        .until("there", |fleet| fleet.instances.len() == 1)
        .await;
    runtime.shutdown_background();
    let fleet = stage
        .until("gone", |fleet| fleet.instances.is_empty())
        .await;
    assert_eq!(fleet.ready_apps("r1").len(), 1, "better than none");
    let other = stage.start(Role::App, "app-2");
    let fleet = stage
        .until("another", |fleet| fleet.instances.len() == 1)
        .await;
    let offered: Vec<_> = fleet
        .ready_apps("r1")
        .iter()
        .map(|app| app.name.as_str())
        .collect();
    assert_eq!(offered, ["app-2"]);
    other.stop().await;
}

#[tokio::test]
async fn a_lost_lease_is_replaced_and_the_acknowledgement_goes_with_it() {
    let mut stage = Stage::new().await;
    let edge = stage.start(Role::Edge, "edge-1");
    edge.acknowledge(7, false);
    let acked = |fleet: &Arc<Fleet>| {
        fleet
            .acks
            .get("edge-1")
            .is_some_and(|ack| ack.generation == 7)
    };
    stage.until("acknowledged", acked).await;

    let entry = stage
        .store
        .get("instances/edge/edge-1")
        .await
        .unwrap()
        .unwrap();
    let ack = stage.store.get("acks/app/edge-1").await.unwrap().unwrap();
    assert_eq!(entry.lease, ack.lease, "one lease for both");
    let mut watch = stage.store.watch("acks/app/", ack.mod_revision);
    stage.store.revoke(entry.lease.unwrap()).await.unwrap();
    let kinds = [next_kind(&mut watch).await, next_kind(&mut watch).await];
    assert_eq!(kinds, [store::EventKind::Delete, store::EventKind::Put]);
    let entry = stage
        .store
        .get("instances/edge/edge-1")
        .await
        .unwrap()
        .unwrap();
    let ack = stage.store.get("acks/app/edge-1").await.unwrap().unwrap();
    assert_eq!(entry.lease, ack.lease);

    // Somebody deletes the record: the next heartbeat puts it back.
    let mut watch = stage.store.watch("instances/edge/", entry.mod_revision);
    assert!(stage.store.delete("instances/edge/edge-1").await.unwrap());
    let kinds = [next_kind(&mut watch).await, next_kind(&mut watch).await];
    assert_eq!(kinds, [store::EventKind::Delete, store::EventKind::Put]);
    edge.stop().await;
    assert_eq!(stage.store.range("").await.unwrap().entries, []);
}

async fn next_kind(watch: &mut Watch) -> store::EventKind {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .kind
}

#[tokio::test]
async fn an_outage_of_the_store_leaves_the_last_known_fleet_and_heals() {
    let mut stage = Stage::new().await;
    let app = stage.start(Role::App, "app-1");
    stage
        .until("there", |fleet| fleet.instances.len() == 1)
        .await;

    stage.rename_table("meta", "meta_away");
    until_state(&app, RegistrationState::Waiting).await;
    let fleet = stage
        .until("stale", |fleet| fleet.stale_since_unix_ms.is_some())
        .await;
    assert_eq!(
        (names(&fleet), fleet.ready_apps("r1").len()),
        (vec!["app-1"], 1)
    );
    // Longer than the lease: with the store back, the record is gone at first.
    tokio::time::sleep(QUICK.lease + QUICK.heartbeat).await;
    assert_eq!(stage.fleet.borrow().ready_apps("r1").len(), 1);

    let mut offered = stage.fleet.clone();
    let never_empty = tokio::spawn(async move {
        while offered.changed().await.is_ok() {
            let fleet = Arc::clone(&offered.borrow_and_update());
            assert_eq!(fleet.ready_apps("r1").len(), 1, "never without an app");
            if fleet.stale_since_unix_ms.is_none() && fleet.instances.len() == 1 {
                return;
            }
        }
    });
    stage.rename_table("meta_away", "meta");
    until_state(&app, RegistrationState::Registered).await;
    tokio::time::timeout(PATIENCE, never_empty)
        .await
        .unwrap()
        .unwrap();
    app.stop().await;
}

#[tokio::test]
async fn of_two_with_one_name_the_younger_stands() {
    let mut stage = Stage::new().await;
    let instance = |started| Instance {
        started_unix_ms: started,
        address: format!("127.0.0.1:{started}"),
        ..Instance::new(Role::App, "app-1", "r1", "")
    };
    let start =
        |started| Registration::start_with(stage.store.clone(), instance(started), QUICK).unwrap();
    let elder = start(1);
    elder.registered().await;
    let younger = start(2);
    younger.registered().await;
    until_state(&elder, RegistrationState::Replaced).await;
    let is = |address: &'static str| {
        move |fleet: &Arc<Fleet>| fleet.ready(Role::App).any(|app| app.address == address)
    };
    stage.until("the younger", is("127.0.0.1:2")).await;
    younger.stop().await;
    stage.until("the elder again", is("127.0.0.1:1")).await;
    elder.stop().await;
}

#[tokio::test]
async fn a_generation_is_in_force_when_every_live_edge_has_said_so() {
    let mut stage = Stage::new().await;
    let registry = Registry::new(stage.store.clone());
    let edges = [
        stage.start(Role::Edge, "edge-1"),
        stage.start(Role::Edge, "edge-2"),
    ];
    stage
        .until("edges", |fleet| fleet.instances.len() == 2)
        .await;
    let traffic = Traffic::all_to("r1", "test", "begin").with_share("r2", 500, None);
    let generation = registry.set_traffic(&traffic, &[]).await.unwrap();
    let seen = stage
        .until("traffic", |fleet| fleet.generation == generation)
        .await;
    assert_eq!(seen.traffic.as_deref(), Some(&traffic));

    edges[0].acknowledge(generation, false);
    let report = wait_until_acked(&mut stage.fleet, generation, Duration::from_millis(500)).await;
    assert_eq!(report.missing, ["edge-2"]);
    assert!(!report.is_complete());

    edges[1].acknowledge(generation, true);
    let report = wait_until_acked(&mut stage.fleet, generation, PATIENCE).await;
    assert_eq!(
        (report.acked.len(), report.expired.as_slice()),
        (2, &["edge-2".to_owned()][..])
    );

    // An edge that leaves is no longer waited for.
    let generation = registry
        .set_traffic(&Traffic::all_to("r1", "test", "end"), &[])
        .await
        .unwrap();
    edges[0].acknowledge(generation, false);
    let [first, second] = edges;
    let leaving = tokio::spawn(second.stop());
    let report = wait_until_acked(&mut stage.fleet, generation, PATIENCE).await;
    assert_eq!(
        (report.acked.as_slice(), report.is_complete()),
        (&["edge-1".to_owned()][..], true)
    );
    leaving.await.unwrap();
    first.stop().await;
}

#[tokio::test]
async fn two_hundred_instances_are_seen_within_moments() {
    let mut stage = Stage::new().await;
    let all: Vec<_> = (0..200)
        .map(|i| stage.start(Role::App, &format!("app-{i}")))
        .collect();
    let fleet = stage
        .until("all", |fleet| fleet.ready_apps("r1").len() == 200)
        .await;
    assert_eq!(fleet.instances.len(), 200);
    futures::future::join_all(all.into_iter().map(Registration::stop)).await;
    stage
        .until("none", |fleet| fleet.instances.is_empty())
        .await;
}
