//! Records on a real store: written under conditions, read by other versions, remembered within bounds.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use registry::{
    Desired, Error, HISTORY_MAX, Instance, Pool, Process, ProcessState, Registry, Release, Role,
    RolloutRecord, Traffic,
};
use serde_json::json;
use store::{Compare, Store};
use tempfile::TempDir;

async fn registry() -> (TempDir, Registry) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join("store.db"))
        .await
        .unwrap();
    (folder, Registry::new(store))
}

fn release(id: &str, created_unix_ms: u64) -> Release {
    Release {
        id: id.to_owned(),
        path: format!("/releases/{id}"),
        created_unix_ms,
        source: "test".to_owned(),
        config_digest: String::new(),
        binary_digest: String::new(),
    }
}

fn rollout(id: &str, step: u32) -> RolloutRecord {
    RolloutRecord {
        id: id.to_owned(),
        written_unix_ms: 1,
        author: "test".to_owned(),
        state: json!({ "step": step }),
        events: Vec::new(),
    }
}

#[tokio::test]
async fn records_come_back_as_they_were() {
    let (_folder, registry) = registry().await;
    assert_eq!(registry.traffic().await.unwrap(), None);
    let traffic = Traffic::all_to("r1", "test", "why").with_share("r2", 500, Some(9));
    let generation = registry.set_traffic(&traffic, &[]).await.unwrap();
    let found = registry.traffic().await.unwrap().unwrap();
    assert_eq!((found.value, found.revision), (traffic, generation));

    let pools = vec![Pool {
        role: Role::App,
        release: "r1".to_owned(),
        replicas: 3,
    }];
    let desired = Desired { pools };
    registry.set_desired(&desired, &[]).await.unwrap();
    assert_eq!(registry.desired().await.unwrap().unwrap().value, desired);
    assert_eq!(
        (
            desired.replicas(Role::App, "r1"),
            desired.replicas(Role::Edge, "r1")
        ),
        (3, 0)
    );

    let (old, new) = (
        release("bbbbbbbbbbbbbbbb", 1),
        release("aaaaaaaaaaaaaaaa", 2),
    );
    for release in [&new, &old] {
        registry.put_release(release, &[]).await.unwrap();
    }
    assert_eq!(
        registry.releases().await.unwrap(),
        [old.clone(), new.clone()],
        "oldest first"
    );
    assert_eq!(
        registry.release(&new.id).await.unwrap().unwrap().short_id(),
        "aaaaaaaaaaaa"
    );
    registry.delete_release(&old.id, &[]).await.unwrap();
    assert_eq!(registry.release(&old.id).await.unwrap(), None);

    let process = Process {
        name: "app-1".to_owned(),
        role: Role::App,
        release: "r1".to_owned(),
        pid: 7,
        state: ProcessState::Backoff,
        restarts: 2,
        last_exit: Some("exit 1".to_owned()),
        refused: false,
        since_unix_ms: 5,
    };
    registry.put_process(&process).await.unwrap();
    assert_eq!(registry.processes().await.unwrap(), [process]);
    registry.delete_process("app-1").await.unwrap();
    assert_eq!(registry.processes().await.unwrap(), []);
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let (_folder, registry) = registry().await;
    let over = Traffic::all_to("r1", "", "").with_share("r2", 10_001, None);
    assert!(matches!(
        registry.set_traffic(&over, &[]).await,
        Err(Error::Traffic(_))
    ));
    assert!(matches!(
        registry.release("../x").await,
        Err(Error::Name { .. })
    ));
    assert!(matches!(
        registry.delete_process("a/b").await,
        Err(Error::Name { .. })
    ));
    assert_eq!(registry.store().range("").await.unwrap().entries, []);
}

#[tokio::test]
async fn of_two_writers_that_read_the_same_one_wins() {
    let (_folder, registry) = registry().await;
    let traffic = Traffic::all_to("r1", "", "");
    let seen = registry.set_traffic(&traffic, &[]).await.unwrap();
    let unchanged = [Compare::unchanged("traffic/app", seen)];
    registry.set_traffic(&traffic, &unchanged).await.unwrap();
    let error = registry
        .set_traffic(&traffic, &unchanged)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "traffic split was not written: somebody else has changed it"
    );
}

#[tokio::test]
async fn a_rollout_is_written_under_its_lock_alone() {
    let (_folder, registry) = registry().await;
    let ttl = Duration::from_secs(60);
    let lock = registry.lock_deploy("first", ttl).await.unwrap();
    registry
        .save_rollout(&rollout("d1", 1), &[], &lock.fence())
        .await
        .unwrap();
    let Err(Error::Store {
        source: store::Error::Held { holder, .. },
        ..
    }) = registry.lock_deploy("second", ttl).await
    else {
        panic!("two hold the lock");
    };
    assert_eq!(holder, "first");

    // Another takes over, as after the first was paused: the first can no longer write anything.
    assert!(
        registry
            .store()
            .break_lock(registry::DEPLOY_LOCK)
            .await
            .unwrap()
    );
    let second = registry.lock_deploy("second", ttl).await.unwrap();
    registry
        .save_rollout(&rollout("d1", 2), &[], &second.fence())
        .await
        .unwrap();
    let late = [
        registry
            .save_rollout(&rollout("d1", 9), &[], &lock.fence())
            .await
            .err(),
        registry
            .archive_rollout(&rollout("d1", 9), &lock.fence())
            .await
            .err(),
        registry
            .set_traffic(&Traffic::all_to("r9", "", ""), &[lock.fence()])
            .await
            .err(),
        registry
            .set_desired(&Desired::default(), &[lock.fence()])
            .await
            .err(),
    ];
    for error in late {
        assert!(
            error
                .unwrap()
                .to_string()
                .ends_with("was not written: the lock is lost")
        );
    }
    assert_eq!(
        registry.rollout().await.unwrap().unwrap().value,
        rollout("d1", 2)
    );

    registry
        .archive_rollout(&rollout("d1", 3), &second.fence())
        .await
        .unwrap();
    assert_eq!(registry.rollout().await.unwrap(), None);
    assert_eq!(
        registry.rollout_history().await.unwrap(),
        [rollout("d1", 3)]
    );
    second.release().await.unwrap();
}

#[tokio::test]
async fn the_history_is_bounded_and_newest_first() {
    let (_folder, registry) = registry().await;
    let lock = registry
        .lock_deploy("test", Duration::from_secs(600))
        .await
        .unwrap();
    for i in 0..HISTORY_MAX + 5 {
        registry
            .archive_rollout(&rollout(&format!("d{i}"), 0), &lock.fence())
            .await
            .unwrap();
    }
    let ids: Vec<_> = registry
        .rollout_history()
        .await
        .unwrap()
        .into_iter()
        .map(|record| record.id)
        .collect();
    let expected: Vec<_> = (5..HISTORY_MAX + 5)
        .rev()
        .map(|i| format!("d{i}"))
        .collect();
    assert_eq!(ids, expected);
    lock.release().await.unwrap();
}

#[tokio::test]
async fn records_of_other_versions_are_read_and_broken_ones_left_out() {
    let (_folder, registry) = registry().await;
    let store = registry.store();
    let instance = json!({
        "name": "app-1", "role": "app", "release": "r1", "pid": 1, "address": "127.0.0.1:1", "started_unix_ms": 1,
        "config_digest": "c", "binary_digest": "b", "invented_later": { "x": 1 },
        "plugins": [{ "name": "time", "kind": "builtin" }], "load": { "in_flight": 2 },
    });
    store
        .put("instances/app/app-1", instance.to_string(), None)
        .await
        .unwrap();
    store
        .put("instances/app/app-2", r#"{"name":"#, None)
        .await
        .unwrap();
    let found = registry.instances().await.unwrap();
    assert_eq!(
        found
            .iter()
            .map(|instance| instance.name.as_str())
            .collect::<Vec<_>>(),
        ["app-1"]
    );
    assert!(found[0].is_ready());
    assert_eq!(found[0].load.unwrap().in_flight, 2);
    let error = registry.instance(Role::App, "app-2").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "record `instances/app/app-2` cannot be read"
    );

    let whole = Instance::new(Role::Edge, "edge-1", "r1", "127.0.0.1:1");
    let text = serde_json::to_string(&whole).unwrap();
    assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), whole);
}

#[tokio::test]
async fn commands_reach_the_rollout_in_order_and_only_while_there_is_one() {
    let (_folder, registry) = registry().await;
    let ask = async |word: &str| registry.ask_rollout(&json!(word)).await;
    assert!(matches!(ask("early").await, Err(Error::Conflict { .. })));

    let lock = registry
        .lock_deploy("first", Duration::from_secs(60))
        .await
        .unwrap();
    let begin = async |id| registry.begin_rollout(&rollout(id, 1), &lock.fence()).await;
    begin("d1").await.unwrap();
    assert!(matches!(begin("d2").await, Err(Error::Conflict { .. })));
    ask("pause").await.unwrap();
    ask("resume").await.unwrap();
    let commands = registry.rollout_commands().await.unwrap();
    let words: Vec<_> = commands.iter().map(|c| c.command.clone()).collect();
    assert_eq!(words, [json!("pause"), json!("resume")]);

    // Taken in with the state that knows of it; what is never taken ends with the rollout.
    registry
        .save_rollout(&rollout("d1", 2), &commands[..1], &lock.fence())
        .await
        .unwrap();
    assert_eq!(registry.rollout_commands().await.unwrap(), commands[1..]);
    registry
        .archive_rollout(&rollout("d1", 3), &lock.fence())
        .await
        .unwrap();
    assert_eq!(registry.rollout_commands().await.unwrap(), []);
    assert!(matches!(ask("late").await, Err(Error::Conflict { .. })));
}
