//! What SQLite adds to the common suite: the file, its bounds, other processes' locks, reboots.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tempfile::TempDir;

use super::clock::Moment;
use super::*;
use crate::{Error, EventKind, Store, conformance};

/// A clock that stands still until moved.
pub(super) struct ManualClock(Mutex<Moment>);

impl ManualClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Moment {
            boot: "boot-0".to_owned(),
            millis: 1_000_000,
        })))
    }

    pub(super) fn advance(&self, millis: i64) {
        self.0.lock().unwrap().millis += millis;
    }

    /// The clock of a new boot starts again.
    pub(super) fn reboot(&self, boot: &str) {
        *self.0.lock().unwrap() = Moment {
            boot: boot.to_owned(),
            millis: 1000,
        };
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        self.0.lock().unwrap().clone()
    }
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    (folder, path)
}

pub(super) async fn open_at(path: &Path, clock: Arc<ManualClock>) -> Store {
    Store::over(
        Sqlite::open_at(path, SqliteOptions::default(), clock)
            .await
            .unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let (_folder, path) = folder();
    conformance::run(async || Store::open_sqlite(&path).await.unwrap()).await;
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let (folder, path) = folder();
    let store = Store::open_sqlite(&path).await.unwrap();
    store.put("a", "", None).await.unwrap();
    let files: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap())
        .collect();
    assert_eq!(files.len(), 3, "the file, its journal and its index");
    for file in files {
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{file:?}"
        );
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    Store::open_sqlite(&path).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn other_files_are_refused() {
    let refused = async |prepare: fn(&Path)| {
        let (_folder, path) = folder();
        prepare(&path);
        let error = Store::open_sqlite(&path).await.unwrap_err().to_string();
        error.replace(path.to_str().unwrap(), "FILE")
    };
    assert_eq!(
        refused(|path| std::fs::write(
            path,
            "not a database, but long enough to be taken for one".repeat(20)
        )
        .unwrap())
        .await,
        "FILE is not a store that this version can open: it is not an SQLite database"
    );
    assert_eq!(
        refused(|path| Connection::open(path)
            .unwrap()
            .execute_batch("CREATE TABLE other (a)")
            .unwrap())
        .await,
        "FILE is not a store that this version can open: it is another program's database"
    );
    assert_eq!(
        refused(|path| {
            let newer = "PRAGMA application_id = 0x53574d43; PRAGMA user_version = 9; CREATE TABLE meta (a)";
            Connection::open(path).unwrap().execute_batch(newer).unwrap();
        })
        .await,
        "FILE is not a store that this version can open: its tables have version 9, this program knows 1"
    );
    assert!(
        Store::open_sqlite(Path::new("/nonexistent/store.db"))
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_open_a_new_file_at_once() {
    let (_folder, path) = folder();
    let opened = (0..8).map(|_| {
        let path = path.clone();
        tokio::spawn(async move { Store::open_sqlite(&path).await?.put("a", "", None).await })
    });
    let mut revisions: Vec<_> = futures::future::join_all(opened)
        .await
        .into_iter()
        .map(|done| done.unwrap().unwrap())
        .collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reboot_ends_all_leases() {
    let (_folder, path) = folder();
    let clock = ManualClock::new();
    let store = open_at(&path, Arc::clone(&clock)).await;
    let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
    let put = store.put("a", "", Some(lease)).await.unwrap();
    clock.advance(3_599_999);
    assert!(store.get("a").await.unwrap().is_some());
    clock.reboot("boot-1");
    assert_eq!(
        store.get("a").await.unwrap(),
        None,
        "hidden before anybody has deleted it"
    );
    assert!(matches!(
        store.keep_alive(lease).await,
        Err(Error::LeaseExpired(_))
    ));
    let event = store.watch("", put).next().await.unwrap().unwrap();
    assert_eq!(
        (event.kind, event.entry.key.as_str()),
        (EventKind::Delete, "a")
    );
}

#[tokio::test]
async fn state_outlives_its_handles() {
    let (_folder, path) = folder();
    let store = Store::open_sqlite(&path).await.unwrap();
    let put = store.put("a", "1", None).await.unwrap();
    drop(store);
    let store = Store::open_sqlite(&path).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().mod_revision, put);
    assert_eq!(
        store.watch("", 0).next().await.unwrap().unwrap().revision,
        put,
        "and so does the log"
    );
}

#[tokio::test]
async fn the_log_is_bounded_by_number_and_by_bytes() {
    let bounds = [
        (SqliteOptions::default().log_events_max(40), 1),
        (SqliteOptions::default().log_bytes_max(40_000), 1000),
    ];
    for (options, bytes) in bounds {
        let (_folder, path) = folder();
        let store = Store::open_sqlite_with(&path, options).await.unwrap();
        let mut keeping_up = store.watch("", 0);
        for i in 1..=100_u64 {
            store
                .put(&format!("k{}", i % 3), vec![0; bytes], None)
                .await
                .unwrap();
            assert_eq!(keeping_up.next().await.unwrap().unwrap().revision, i);
        }
        let Err(Error::Compacted {
            after: 0,
            compacted,
        }) = store.watch("", 0).next().await.unwrap()
        else {
            panic!("the beginning was kept");
        };
        assert!((50..=66).contains(&compacted), "{compacted}");
        let mut watch = store.watch("", compacted);
        assert_eq!(
            watch.next_batch().await.unwrap().unwrap().len() as u64,
            100 - compacted
        );
        let counted = "SELECT (SELECT count(*) FROM events) = log_events
            AND (SELECT sum(bytes) FROM events) = log_bytes
            AND (SELECT min(revision) FROM events) = compacted + 1 FROM meta";
        let raw = Connection::open(&path).unwrap();
        assert!(
            raw.query_row(counted, [], |row| row.get::<_, bool>(0))
                .unwrap()
        );
        let mut too_late = store.watch("", compacted - 1);
        assert!(too_late.next().await.unwrap().is_err());
        assert!(too_late.next().await.is_none(), "ends after its error");
    }
}

#[tokio::test]
async fn a_writer_that_holds_on_makes_us_busy_and_reads_go_on() {
    let (_folder, path) = folder();
    let options = SqliteOptions::default().busy_timeout(Duration::from_millis(50));
    let store = Store::open_sqlite_with(&path, options).await.unwrap();
    store.put("a", "1", None).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.put("a", "2", None).await.unwrap_err();
    assert!(
        matches!(error, Error::Busy(_)) && error.is_transient(),
        "{error}"
    );
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "1");
    other.execute_batch("ROLLBACK").unwrap();
    store.put("a", "3", None).await.unwrap();
}

#[tokio::test]
async fn writes_that_share_a_commit_fail_apart() {
    let (_folder, path) = folder();
    let store = Store::open_sqlite(&path).await.unwrap();
    let over = store.grant(Duration::from_secs(1)).await.unwrap();
    store.revoke(over).await.unwrap();
    let keys: Vec<String> = (0..40).map(|i| format!("k{i:02}")).collect();
    let writes = keys
        .iter()
        .enumerate()
        .map(|(i, key)| store.put(key, "", (i % 4 == 0).then_some(over)));
    let outcomes = futures::future::join_all(writes).await;
    let mut revisions: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().ok())
        .collect();
    revisions.sort_unstable();
    assert_eq!(
        revisions,
        (1..=30).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
    assert_eq!(store.range("k").await.unwrap().entries.len(), 30);
}

#[tokio::test]
async fn a_full_store_says_so_and_recovers() {
    let (_folder, path) = folder();
    let mut options = SqliteOptions::default()
        .log_events_max(4)
        .log_bytes_max(100_000);
    options.pages_max = 200;
    let store = Store::open_sqlite_with(&path, options).await.unwrap();
    let mut kept = 0;
    let error = loop {
        match store.put(&format!("k{kept}"), vec![0; 20_000], None).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert_eq!(
        store.range("k").await.unwrap().entries.len(),
        kept,
        "what was answered is there, what failed is not"
    );
    for i in 0..kept {
        assert!(store.delete(&format!("k{i}")).await.unwrap());
    }
    store.put("again", vec![0; 20_000], None).await.unwrap();
}

#[tokio::test]
async fn a_burst_does_not_leave_a_large_file() {
    const VALUE: usize = 256 << 10;
    let (_folder, path) = folder();
    let options = SqliteOptions::default().log_bytes_max(1 << 20);
    let store = Store::open_sqlite_with(&path, options).await.unwrap();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    for n in 0..64 {
        let key = format!("k{n}");
        let put = store.put(&key, vec![0; VALUE], Some(lease));
        put.await.unwrap();
    }
    let raw = Connection::open(&path).unwrap();
    let bytes = || -> i64 {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        raw.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let high = bytes();
    assert!(high > 64 * VALUE as i64);
    store.revoke(lease).await.unwrap();
    let shrunk = async {
        // What is kept for the next writes, and the log.
        while bytes() > 8 << 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), shrunk).await;
    assert!(waited.is_ok(), "{high} bytes at most, {} now", bytes());
    assert_eq!(store.range("k").await.unwrap().entries.len(), 0);
}
