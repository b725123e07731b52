//! What every backend must do, as one suite: a backend's tests call [`run`].
//!
//! Each case works under a key of its own with two handles on the same state, since what one handle does the other must
//! see. Times to live are short, and nothing here fails because a machine is slow.

#![expect(
    clippy::unwrap_used,
    reason = "a suite of assertions: a failure is to end it, with its place"
)]

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::{
    Compare, Error, Event, EventKind, KEY_BYTES_MAX, Op, Store, TxnOutcome, VALUE_BYTES_MAX,
};

/// No wait for an event takes longer, on any machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ends soon.
const BRIEF: Duration = Duration::from_millis(200);
/// Does not end while a case runs.
const LONG: Duration = Duration::from_secs(600);

/// What a case works with.
struct Stage {
    /// Handles on the same state.
    one: Store,
    other: Store,
    /// Begins all keys of the case.
    at: String,
}

impl Stage {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.at)
    }
}

type Case = (&'static str, fn(Stage) -> BoxFuture<'static, ()>);

const CASES: &[Case] = &[
    ("keys", |stage| keys(stage).boxed()),
    ("ranges", |stage| ranges(stage).boxed()),
    ("transactions", |stage| transactions(stage).boxed()),
    ("comparisons", |stage| comparisons(stage).boxed()),
    ("bounds", |stage| bounds(stage).boxed()),
    ("contention", |stage| contention(stage).boxed()),
    ("watch-history", |stage| watch_history(stage).boxed()),
    ("watch-transactions", |stage| {
        watch_transactions(stage).boxed()
    }),
    ("watch-others", |stage| watch_others(stage).boxed()),
    ("lease-ends", |stage| lease_ends(stage).boxed()),
    ("lease-revoked", |stage| lease_revoked(stage).boxed()),
    ("lock-excludes", |stage| lock_excludes(stage).boxed()),
    ("lock-broken", |stage| lock_broken(stage).boxed()),
];

/// Cases that mostly wait, for longer than a slow machine stalls. They run together.
const PATIENT_CASES: &[Case] = &[
    ("lease-renewed", |stage| lease_renewed(stage).boxed()),
    ("lock-renewed", |stage| lock_renewed(stage).boxed()),
];

/// Runs all cases. Each call of `open` gives another handle on one and the same state.
///
/// # Panics
/// If the backend does not conform; the case is named on standard error by the assertion's place.
pub async fn run<F, Fut>(open: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Store>,
{
    let stage = async |name: &str| Stage {
        one: open().await,
        other: open().await,
        at: format!("conformance/{name}/"),
    };
    for (name, case) in CASES {
        case(stage(name).await).await;
    }
    let patient = PATIENT_CASES
        .iter()
        .map(async |(name, case)| case(stage(name).await).await);
    futures::future::join_all(patient).await;
}

async fn keys(stage: Stage) {
    let (store, key) = (&stage.one, stage.key("a"));
    assert_eq!(store.get(&key).await.unwrap(), None);
    let first = store.put(&key, "1", None).await.unwrap();
    let second = stage.other.put(&key, "2", None).await.unwrap();
    assert_eq!(second, first + 1, "one revision for each change");
    let entry = store.get(&key).await.unwrap().unwrap();
    assert_eq!(
        (entry.value.as_ref(), entry.version, entry.lease),
        (&b"2"[..], 2, None)
    );
    assert_eq!((entry.create_revision, entry.mod_revision), (first, second));
    assert!(store.delete(&key).await.unwrap());
    assert!(!store.delete(&key).await.unwrap(), "already gone");
    assert_eq!(stage.other.get(&key).await.unwrap(), None);
    let again = store.put(&key, "", None).await.unwrap();
    assert_eq!(
        again,
        second + 2,
        "a deletion that found nothing has no revision"
    );
    let entry = store.get(&key).await.unwrap().unwrap();
    assert_eq!(
        (entry.create_revision, entry.version),
        (again, 1),
        "made anew"
    );
}

async fn ranges(stage: Stage) {
    for name in ["b", "a/2", "a/1", "a\u{10ffff}", "aa", "ä"] {
        stage.one.put(&stage.key(name), name, None).await.unwrap();
    }
    let names = async |prefix: &str| -> Vec<String> {
        let range = stage.other.range(&stage.key(prefix)).await.unwrap();
        range
            .entries
            .iter()
            .map(|entry| entry.key[stage.at.len()..].to_owned())
            .collect()
    };
    assert_eq!(
        names("").await,
        ["a/1", "a/2", "aa", "a\u{10ffff}", "b", "ä"],
        "by the bytes of the keys"
    );
    assert_eq!(names("a").await, ["a/1", "a/2", "aa", "a\u{10ffff}"]);
    assert_eq!(names("a/").await, ["a/1", "a/2"]);
    assert_eq!(names("c").await, [""; 0]);
    let last = stage.one.put(&stage.key("c"), "", None).await.unwrap();
    assert_eq!(
        stage.one.range(&stage.at).await.unwrap().revision,
        last,
        "reads see writes that were answered"
    );
}

async fn transactions(stage: Stage) {
    let (store, a, b) = (&stage.one, stage.key("a"), stage.key("b"));
    let both = [Op::put(&a, "1"), Op::put(&b, "1")];
    let made = store
        .txn(&[Compare::absent(&a)], &both)
        .await
        .unwrap()
        .committed()
        .unwrap();
    for key in [&a, &b] {
        let entry = store.get(key).await.unwrap().unwrap();
        assert_eq!(entry.mod_revision, made, "one transaction, one revision");
    }

    let lost = [Compare::unchanged(&a, made), Compare::absent(&b)];
    let outcome = store
        .txn(&lost, &[Op::put(&a, "2"), Op::delete(&b)])
        .await
        .unwrap();
    assert_eq!(
        outcome,
        TxnOutcome::Conflict {
            compare: 1,
            revision: made
        }
    );
    assert_eq!(
        store.get(&a).await.unwrap().unwrap().value,
        "1",
        "all or nothing"
    );

    let all = [Op::delete(&a), Op::delete(&b), Op::delete(stage.key("c"))];
    let outcome = store.txn(&[], &all).await.unwrap();
    assert_eq!(
        outcome,
        TxnOutcome::Committed {
            revision: made + 1,
            deleted: 2
        }
    );
    let outcome = store
        .txn(&[Compare::absent(&b)], &[Op::delete(&a)])
        .await
        .unwrap();
    assert_eq!(
        outcome,
        TxnOutcome::Committed {
            revision: made + 1,
            deleted: 0
        },
        "no change"
    );
}

async fn comparisons(stage: Stage) {
    let (store, key) = (&stage.one, stage.key("a"));
    let made = store.put(&key, "1", None).await.unwrap();
    let changed = store.put(&key, "2", None).await.unwrap();
    let created = |revision| Compare::CreateRevision {
        key: key.clone(),
        revision,
    };
    let modified = |revision| Compare::unchanged(&key, revision);
    let cases = [
        (created(made), true, "puts keep the creation"),
        (created(changed), false, "a change is no creation"),
        (created(0), false, "it exists"),
        (modified(changed), true, "the last change"),
        (modified(made), false, "an earlier change"),
        (Compare::absent(&key), false, "it exists"),
    ];
    for (compare, holds, why) in cases {
        let outcome = store.txn(&[compare], &[]).await.unwrap();
        assert_eq!(outcome.committed().is_some(), holds, "{why}");
    }
    assert!(store.delete(&key).await.unwrap());
    let gone = store
        .txn(&[created(0), Compare::absent(&key)], &[])
        .await
        .unwrap();
    assert!(gone.committed().is_some(), "what was deleted is absent");
}

async fn bounds(stage: Stage) {
    let (store, key) = (&stage.one, stage.key("a"));
    store
        .put(&key, vec![7; VALUE_BYTES_MAX], None)
        .await
        .unwrap();
    assert_eq!(
        stage.other.get(&key).await.unwrap().unwrap().value.len(),
        VALUE_BYTES_MAX
    );
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let refused = [
        store
            .put(&key, vec![7; VALUE_BYTES_MAX + 1], None)
            .await
            .err(),
        store.put(&long, "", None).await.err(),
        store.get("").await.err(),
        store.range("\n").await.err(),
        store.grant(Duration::ZERO).await.err(),
        store
            .txn(&[], &[Op::put(&key, ""), Op::delete(&key)])
            .await
            .err(),
        store.watch(&long, 0).next().await.unwrap().err(),
    ];
    for (index, error) in refused.into_iter().enumerate() {
        assert!(
            matches!(error, Some(Error::Invalid { .. })),
            "{index}: {error:?}"
        );
    }
}

/// Many increments by compare-and-set from both handles: none is lost.
async fn contention(stage: Stage) {
    const EACH: usize = 15;
    let key = stage.key("count");
    let workers = [&stage.one, &stage.other, &stage.one, &stage.other].map(|store| {
        let (store, key) = (store.clone(), key.clone());
        tokio::spawn(async move {
            for _ in 0..EACH {
                increment(&store, &key).await;
            }
        })
    });
    for worker in workers {
        worker.await.unwrap();
    }
    let entry = stage.one.get(&key).await.unwrap().unwrap();
    assert_eq!(entry.value, (4 * EACH).to_string());
    assert_eq!(entry.version, 4 * EACH as u64);
}

async fn increment(store: &Store, key: &str) {
    loop {
        let found = store.get(key).await.unwrap();
        let count: u64 = found.as_ref().map_or(0, |entry| {
            std::str::from_utf8(&entry.value).unwrap().parse().unwrap()
        });
        let seen = Compare::unchanged(key, found.map_or(0, |entry| entry.mod_revision));
        let outcome = store
            .txn(&[seen], &[Op::put(key, (count + 1).to_string())])
            .await
            .unwrap();
        if outcome.committed().is_some() {
            return;
        }
    }
}

async fn next(watch: &mut crate::Watch) -> Event {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .expect("an event in time")
        .unwrap()
        .unwrap()
}

async fn watch_history(stage: Stage) {
    let (store, a, b) = (&stage.one, stage.key("a"), stage.key("b"));
    let first = store.put(&a, "1", None).await.unwrap();
    let second = store.put(&b, "2", None).await.unwrap();
    store
        .put(&format!("elsewhere/{a}"), "", None)
        .await
        .unwrap();
    assert!(store.delete(&a).await.unwrap());

    let mut watch = stage.other.watch(&stage.at, first - 1);
    let made = next(&mut watch).await;
    assert_eq!(
        (made.kind, made.revision, made.entry.key.as_str()),
        (EventKind::Put, first, a.as_str())
    );
    assert_eq!(
        (
            made.entry.value.as_ref(),
            made.entry.version,
            made.entry.create_revision
        ),
        (&b"1"[..], 1, first)
    );
    assert_eq!(next(&mut watch).await.revision, second);
    let gone = next(&mut watch).await;
    assert_eq!(
        (gone.kind, gone.entry.key.as_str(), gone.entry.value.len()),
        (EventKind::Delete, a.as_str(), 0)
    );
    assert_eq!(
        (gone.revision, gone.entry.mod_revision, gone.entry.version),
        (second + 2, second + 2, 0)
    );
    assert_eq!(watch.revision(), second + 2);

    let mut later = store.watch(&stage.at, second);
    assert_eq!(
        next(&mut later).await,
        gone,
        "events up to the given revision are not told"
    );
}

async fn watch_transactions(stage: Stage) {
    let (a, b) = (stage.key("a"), stage.key("b"));
    let before = stage.one.range(&stage.at).await.unwrap().revision;
    let mut whole = stage.one.watch(&stage.at, before);
    let mut single = stage.one.watch(&stage.at, before);
    let outcome = stage
        .one
        .txn(&[], &[Op::put(&b, ""), Op::put(&a, "")])
        .await
        .unwrap();
    let revision = outcome.committed().unwrap();
    let batch = tokio::time::timeout(PATIENCE, whole.next_batch())
        .await
        .expect("in time")
        .unwrap()
        .unwrap();
    let keys: Vec<_> = batch
        .iter()
        .map(|event| (event.revision, event.entry.key.as_str()))
        .collect();
    assert_eq!(
        keys,
        [(revision, b.as_str()), (revision, a.as_str())],
        "in the order of the operations"
    );
    assert_eq!(whole.revision(), revision);
    next(&mut single).await;
    assert_eq!(
        single.revision(),
        before,
        "half a transaction is not yet its revision"
    );
    next(&mut single).await;
    assert_eq!(single.revision(), revision);
}

async fn watch_others(stage: Stage) {
    let before = stage.one.range(&stage.at).await.unwrap().revision;
    let mut watches = [
        stage.one.watch(&stage.at, before),
        stage.other.watch(&stage.at, before),
    ];
    for (index, store) in [&stage.one, &stage.other, &stage.one]
        .into_iter()
        .enumerate()
    {
        let revision = store
            .put(&stage.key("a"), index.to_string(), None)
            .await
            .unwrap();
        for watch in &mut watches {
            assert_eq!(next(watch).await.revision, revision);
        }
    }
}

async fn lease_ends(stage: Stage) {
    let (store, key) = (&stage.one, stage.key("a"));
    let lease = store.grant(BRIEF).await.unwrap();
    let put = store.txn(&[], &[Op::put_leased(&key, "", lease)]).await;
    // A machine can be slow enough for the lease to end first; then it is asked what it would be asked below.
    if let Ok(outcome) = put {
        let mut watch = stage.other.watch(&stage.at, outcome.committed().unwrap());
        let gone = next(&mut watch).await;
        assert_eq!(
            (gone.kind, gone.entry.key.as_str()),
            (EventKind::Delete, key.as_str())
        );
    }
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert_eq!(stage.other.range(&stage.at).await.unwrap().entries, []);
    let is_over =
        |error: Option<Error>| matches!(error, Some(Error::LeaseExpired(over)) if over == lease);
    assert!(is_over(store.keep_alive(lease).await.err()));
    assert!(is_over(store.put(&key, "", Some(lease)).await.err()));
    assert!(
        store
            .txn(&[Compare::LeaseAlive { lease }], &[])
            .await
            .unwrap()
            .committed()
            .is_none()
    );
    store.revoke(lease).await.unwrap();
    assert_ne!(
        store.grant(LONG).await.unwrap(),
        lease,
        "a lease's name is not used again"
    );
}

async fn lease_renewed(stage: Stage) {
    let (store, key) = (&stage.one, stage.key("a"));
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    let put = store.put(&key, "", Some(lease)).await.unwrap();
    for round in 0..14 {
        let keeper = if round % 2 == 0 {
            &stage.one
        } else {
            &stage.other
        };
        keeper.keep_alive(lease).await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let entry = store
        .get(&key)
        .await
        .unwrap()
        .expect("kept past its time to live");
    assert_eq!(
        (entry.mod_revision, entry.lease),
        (put, Some(lease)),
        "a renewal changes no key"
    );
    let alive = store
        .txn(&[Compare::LeaseAlive { lease }], &[])
        .await
        .unwrap();
    assert!(alive.committed().is_some());
}

async fn lease_revoked(stage: Stage) {
    let (store, a, b, kept) = (
        &stage.one,
        stage.key("a"),
        stage.key("b"),
        stage.key("kept"),
    );
    let (lease, next_lease) = (
        store.grant(LONG).await.unwrap(),
        store.grant(LONG).await.unwrap(),
    );
    for key in [&a, &b, &kept] {
        store.put(key, "", Some(lease)).await.unwrap();
    }
    // A put decides anew which lease, if any, a key ends with.
    store.put(&kept, "", None).await.unwrap();
    let before = store.put(&b, "", Some(next_lease)).await.unwrap();
    stage.other.revoke(lease).await.unwrap();
    let range = store.range(&stage.at).await.unwrap();
    assert_eq!(
        range
            .entries
            .iter()
            .map(|entry| &entry.key)
            .collect::<Vec<_>>(),
        [&b, &kept]
    );
    assert_eq!(
        range.revision,
        before + 1,
        "one revision for all keys of a lease"
    );
    store
        .revoke(lease)
        .await
        .expect("revoking twice is no error");
    store.revoke(next_lease).await.unwrap();
    assert_eq!(store.range(&stage.at).await.unwrap().entries.len(), 1);
}

async fn lock_excludes(stage: Stage) {
    let (name, key) = (stage.key("lock"), stage.key("a"));
    let guard = stage.one.lock(&name, "first", LONG).await.unwrap();
    match stage.other.lock(&name, "second", LONG).await {
        Err(Error::Held {
            name: found,
            holder,
            since_unix_ms,
        }) => {
            assert_eq!((found, holder.as_str()), (name.clone(), "first"));
            assert!(since_unix_ms > 0);
        }
        other => assert!(matches!(other, Err(Error::Held { .. })), "{other:?}"),
    }
    let holder = stage.other.lock_holder(&name).await.unwrap().unwrap();
    assert_eq!(
        (holder.holder.as_str(), holder.fence),
        ("first", guard.fence_revision())
    );
    let (fence, first) = (guard.fence(), guard.fence_revision());
    assert!(
        stage
            .one
            .txn(std::slice::from_ref(&fence), &[Op::put(&key, "1")])
            .await
            .unwrap()
            .committed()
            .is_some()
    );
    guard.release().await.unwrap();
    assert_eq!(stage.other.lock_holder(&name).await.unwrap(), None);
    let guard = stage.other.lock(&name, "second", LONG).await.unwrap();
    assert!(guard.fence_revision() > first, "fences count up");
    assert!(
        stage
            .one
            .txn(&[fence], &[Op::put(&key, "2")])
            .await
            .unwrap()
            .committed()
            .is_none()
    );
    drop(guard);
    retry_lock(&stage.one, &name).await;
}

/// Takes a lock as soon as it is free.
async fn retry_lock(store: &Store, name: &str) -> crate::LockGuard {
    let taken = async {
        loop {
            match store.lock(name, "retrying", LONG).await {
                Ok(guard) => return guard,
                Err(Error::Held { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => assert_eq!(error.to_string(), "held"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, taken)
        .await
        .expect("free in time")
}

async fn lock_renewed(stage: Stage) {
    let (name, ttl) = (stage.key("lock"), Duration::from_secs(4));
    let guard = stage.one.lock(&name, "first", ttl).await.unwrap();
    tokio::time::sleep(ttl + ttl / 2).await;
    assert!(!guard.is_lost(), "renewed in the background");
    assert!(
        stage
            .other
            .txn(&[guard.fence()], &[])
            .await
            .unwrap()
            .committed()
            .is_some()
    );
    assert!(stage.other.lock(&name, "second", ttl).await.is_err());
}

async fn lock_broken(stage: Stage) {
    let (name, ttl) = (stage.key("lock"), Duration::from_secs(6));
    let guard = stage.one.lock(&name, "first", ttl).await.unwrap();
    assert!(stage.other.break_lock(&name).await.unwrap());
    assert!(!stage.other.break_lock(&name).await.unwrap());
    assert!(
        stage
            .one
            .txn(&[guard.fence()], &[])
            .await
            .unwrap()
            .committed()
            .is_none(),
        "at once"
    );
    tokio::time::timeout(PATIENCE, guard.lost())
        .await
        .expect("the holder hears of it");
    assert!(guard.is_lost());
    let second = stage.other.lock(&name, "second", LONG).await.unwrap();
    guard.release().await.unwrap();
    assert!(
        stage
            .one
            .txn(&[second.fence()], &[])
            .await
            .unwrap()
            .committed()
            .is_some(),
        "a late release frees nobody else's"
    );
}
