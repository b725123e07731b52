//! Several real processes on one store: contention, sudden death, and a holder that sleeps past its lock.
//!
//! The other processes are this very program, started again to run `child`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use store::{Compare, Error, EventKind, LockGuard, Op, Store};

const PART: &str = "STORE_TEST_PART";
const FILE: &str = "STORE_TEST_FILE";
/// Marks our lines among those of the test runner.
const MARK: &str = "@ ";
const PATIENCE: Duration = Duration::from_secs(30);
const INCREMENTS: u64 = 25;

/// Another process on the same store, killed when dropped.
struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(part: &str, file: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(PART, part)
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that it says; `None` when it has ended.
    fn hear(&mut self) -> Option<String> {
        self.lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix(MARK).map(str::to_owned))
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    write!(out, "\n{MARK}{line}\n").unwrap();
    out.flush().unwrap();
}

fn wait_for_word() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

#[tokio::test]
#[ignore = "a part that the other tests start as a process"]
async fn child() {
    let (Ok(part), Ok(file)) = (std::env::var(PART), std::env::var(FILE)) else {
        return;
    };
    let store = Store::open_sqlite(Path::new(&file)).await.unwrap();
    match part.as_str() {
        "write" => write_forever(&store).await,
        "count" => count(&store).await,
        "lease" => lease(&store).await,
        _ => hold_lock(&store).await,
    }
}

async fn write_forever(store: &Store) {
    for i in 0_u64.. {
        let key = format!("{}/{i}", std::process::id());
        let revision = store.put(&key, vec![b'x'; 3000], None).await.unwrap();
        say(&format!("{key} {revision}"));
    }
}

async fn count(store: &Store) {
    for _ in 0..INCREMENTS {
        loop {
            let found = store.get("count").await.unwrap();
            let count: u64 = found.as_ref().map_or(0, |entry| {
                std::str::from_utf8(&entry.value).unwrap().parse().unwrap()
            });
            let seen = Compare::unchanged("count", found.map_or(0, |entry| entry.mod_revision));
            let put = Op::put("count", (count + 1).to_string());
            if store
                .txn(&[seen], &[put])
                .await
                .unwrap()
                .committed()
                .is_some()
            {
                break;
            }
        }
    }
}

async fn lease(store: &Store) {
    let lease = store.grant(Duration::from_secs(4)).await.unwrap();
    store.put("leased", "", Some(lease)).await.unwrap();
    say("leased");
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        store.keep_alive(lease).await.unwrap();
    }
}

async fn hold_lock(store: &Store) {
    let guard = store
        .lock("it", "child", Duration::from_secs(3))
        .await
        .unwrap();
    store
        .txn(&[guard.fence()], &[Op::put("guarded", "child")])
        .await
        .unwrap()
        .committed()
        .unwrap();
    say("locked");
    wait_for_word();
    let late = store
        .txn(&[guard.fence()], &[Op::put("guarded", "child, late")])
        .await
        .unwrap();
    say(if late.committed().is_some() {
        "wrote"
    } else {
        "fenced"
    });
    guard.lost().await;
    say("lost");
}

async fn lock_when_free(store: &Store) -> LockGuard {
    let taking = async {
        loop {
            match store.lock("it", "parent", Duration::from_secs(60)).await {
                Err(Error::Held { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                taken => return taken.unwrap(),
            }
        }
    };
    tokio::time::timeout(PATIENCE, taking).await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_outlives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let mut writer = Other::start("write", &file);
        let mut heard: Vec<String> = (0..10 + 3 * round)
            .map(|_| writer.hear().unwrap())
            .collect();
        writer.signal(Signal::KILL);
        while let Some(line) = writer.hear() {
            heard.push(line);
        }
        acknowledged.extend(heard);
        drop(writer);

        let store = Store::open_sqlite(&file).await.unwrap();
        for line in &acknowledged {
            let (key, revision) = line.split_once(' ').unwrap();
            let entry = store.get(key).await.unwrap();
            let entry = entry.unwrap_or_else(|| unreachable!("{key} was acknowledged and is gone"));
            assert_eq!(
                (entry.value.len(), entry.mod_revision.to_string().as_str()),
                (3000, revision)
            );
        }
        // At most the write that was under way is there unheard, and the log tells all.
        let range = store.range("").await.unwrap();
        assert!(range.entries.len() <= acknowledged.len() + round + 1);
        let mut watch = store.watch("", 0);
        for revision in 1..=range.revision {
            assert_eq!(watch.next().await.unwrap().unwrap().revision, revision);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_increment_is_lost_between_processes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let mut others: Vec<_> = (0..2).map(|_| Other::start("count", &file)).collect();
    let store = Store::open_sqlite(&file).await.unwrap();
    count(&store).await;
    for other in &mut others {
        assert!(other.child.wait().unwrap().success());
    }
    assert_eq!(
        store.get("count").await.unwrap().unwrap().value,
        (3 * INCREMENTS).to_string()
    );
}

#[tokio::test]
async fn a_watcher_sees_the_lease_of_a_killed_process_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let store = Store::open_sqlite(&file).await.unwrap();
    let mut watch = store.watch("leased", 0);
    let mut other = Other::start("lease", &file);
    assert_eq!(other.hear().unwrap(), "leased");
    assert_eq!(watch.next().await.unwrap().unwrap().kind, EventKind::Put);
    drop(other);
    let event = tokio::time::timeout(PATIENCE, watch.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(event.kind, EventKind::Delete);
}

#[tokio::test]
async fn a_holder_that_slept_past_its_lock_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let store = Store::open_sqlite(&file).await.unwrap();
    let mut other = Other::start("lock", &file);
    assert_eq!(other.hear().unwrap(), "locked");
    let held = store
        .lock("it", "parent", Duration::from_secs(60))
        .await
        .unwrap_err();
    assert_eq!(held.to_string(), "lock `it` is held by child");

    other.signal(Signal::STOP);
    let guard = lock_when_free(&store).await;
    store
        .txn(&[guard.fence()], &[Op::put("guarded", "parent")])
        .await
        .unwrap()
        .committed()
        .unwrap();
    other.tell("write now");
    other.signal(Signal::CONT);
    assert_eq!(other.hear().unwrap(), "fenced");
    assert_eq!(other.hear().unwrap(), "lost");
    assert_eq!(store.get("guarded").await.unwrap().unwrap().value, "parent");
    assert!(!guard.is_lost());
}
