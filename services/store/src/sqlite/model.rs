//! Random sequences of operations, compared step by step with the plainest store there is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use proptest::prelude::*;

use super::tests::{ManualClock, open_at};
use crate::{Compare, Entry, Error, Event, EventKind, LeaseId, Op, Revision, Store};

/// A step; small numbers pick keys, leases and revisions, so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    Txn {
        compares: Vec<Condition>,
        ops: BTreeMap<u8, Option<(u8, Option<u8>)>>,
    },
    Grant {
        ttl_ms: u16,
    },
    KeepAlive(u8),
    Revoke(u8),
    Advance {
        ms: u16,
    },
    Reboot,
}

#[derive(Debug, Clone)]
enum Condition {
    /// The key's present revision, or another.
    Mod {
        key: u8,
        right: bool,
    },
    Create {
        key: u8,
        right: bool,
    },
    Lease(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0_u8..4;
    let condition = prop_oneof![
        (key.clone(), prop::bool::weighted(0.8))
            .prop_map(|(key, right)| Condition::Mod { key, right }),
        (key.clone(), prop::bool::weighted(0.8))
            .prop_map(|(key, right)| Condition::Create { key, right }),
        any::<u8>().prop_map(Condition::Lease),
    ];
    let op = prop::option::weighted(0.7, (any::<u8>(), prop::option::of(any::<u8>())));
    let txn = (
        prop::collection::vec(condition, 0..2),
        prop::collection::btree_map(key, op, 0..4),
    )
        .prop_map(|(compares, ops)| Step::Txn { compares, ops });
    let step = prop_oneof![
        6 => txn,
        2 => (100_u16..2000).prop_map(|ttl_ms| Step::Grant { ttl_ms }),
        2 => any::<u8>().prop_map(Step::KeepAlive),
        1 => any::<u8>().prop_map(Step::Revoke),
        2 => (1_u16..1000).prop_map(|ms| Step::Advance { ms }),
        1 => Just(Step::Reboot),
    ];
    prop::collection::vec(step, 1..40)
}

#[derive(Default)]
struct Model {
    revision: Revision,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, (u64, u64)>,
    log: Vec<Event>,
    now: u64,
    /// All leases ever granted, to pick from.
    granted: Vec<LeaseId>,
}

impl Model {
    fn pick(&self, index: u8) -> LeaseId {
        // Before the first lease: one that never was.
        self.granted
            .get(usize::from(index) % self.granted.len().max(1))
            .copied()
            .unwrap_or(LeaseId(999))
    }

    fn change(&mut self, ops: &[Op]) -> Revision {
        let revision = self.revision + 1;
        for op in ops {
            let key = op.key().to_owned();
            let old = self.entries.remove(&key);
            let (kind, entry) = match op {
                Op::Put { value, lease, .. } => {
                    let (create_revision, version) =
                        old.map_or((revision, 1), |old| (old.create_revision, old.version + 1));
                    let value = value.clone();
                    let entry = Entry {
                        key,
                        value,
                        create_revision,
                        mod_revision: revision,
                        version,
                        lease: *lease,
                    };
                    self.entries.insert(entry.key.clone(), entry.clone());
                    (EventKind::Put, entry)
                }
                Op::Delete { .. } if old.is_none() => continue,
                Op::Delete { .. } => {
                    let (value, create_revision, version) = (Bytes::new(), 0, 0);
                    let entry = Entry {
                        key,
                        value,
                        create_revision,
                        mod_revision: revision,
                        version,
                        lease: None,
                    };
                    (EventKind::Delete, entry)
                }
            };
            self.log.push(Event {
                kind,
                entry,
                revision,
            });
            self.revision = revision;
        }
        self.revision
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let keys = self
            .entries
            .values()
            .filter(|entry| entry.lease == Some(lease));
        let ops: Vec<Op> = keys.map(|entry| Op::delete(&entry.key)).collect();
        self.change(&ops);
    }

    /// Ends the leases whose time is over, or all.
    fn sweep(&mut self, all: bool) {
        let over = self
            .leases
            .iter()
            .filter(|(_, (_, ends))| all || *ends <= self.now);
        let mut over: Vec<_> = over.map(|(lease, (_, ends))| (*ends, *lease)).collect();
        over.sort_unstable();
        over.into_iter().for_each(|(_, lease)| self.end(lease));
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision { key, revision } => {
                self.entries.get(key).map_or(0, |entry| entry.mod_revision) == *revision
            }
            Compare::CreateRevision { key, revision } => {
                self.entries
                    .get(key)
                    .map_or(0, |entry| entry.create_revision)
                    == *revision
            }
            Compare::LeaseAlive { lease } => self.leases.contains_key(lease),
        }
    }

    fn compare(&self, condition: &Condition) -> Compare {
        let found = |key: u8| self.entries.get(&name(key));
        match *condition {
            Condition::Mod { key, right } => Compare::unchanged(
                name(key),
                found(key).map_or(0, |e| e.mod_revision) + u64::from(!right),
            ),
            Condition::Create { key, right } => {
                let revision = found(key).map_or(0, |e| e.create_revision) + u64::from(!right);
                Compare::CreateRevision {
                    key: name(key),
                    revision,
                }
            }
            Condition::Lease(index) => Compare::LeaseAlive {
                lease: self.pick(index),
            },
        }
    }
}

fn name(key: u8) -> String {
    format!("k{key}")
}

fn expired<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::LeaseExpired(_)))
}

async fn take(step: &Step, model: &mut Model, store: &Store, clock: &ManualClock) {
    match step {
        Step::Txn { compares, ops } => {
            let compares: Vec<_> = compares
                .iter()
                .map(|condition| model.compare(condition))
                .collect();
            let op = |(key, op): (&u8, &Option<(u8, Option<u8>)>)| match op {
                Some((value, lease)) => Op::Put {
                    key: name(*key),
                    value: vec![*value].into(),
                    lease: lease.map(|index| model.pick(index)),
                },
                None => Op::delete(name(*key)),
            };
            let ops: Vec<_> = ops.iter().map(op).collect();
            let dead = ops.iter().any(|op| matches!(op, Op::Put { lease: Some(lease), .. } if !model.leases.contains_key(lease)));
            let outcome = store.txn(&compares, &ops).await;
            if !compares.iter().all(|compare| model.holds(compare)) {
                assert_eq!(outcome.unwrap().committed(), None);
            } else if dead {
                assert!(expired(&outcome));
            } else {
                assert_eq!(outcome.unwrap().committed(), Some(model.change(&ops)));
            }
        }
        Step::Grant { ttl_ms } => {
            let ttl = u64::from(*ttl_ms);
            let lease = store.grant(Duration::from_millis(ttl)).await.unwrap();
            assert!(!model.granted.contains(&lease));
            model.granted.push(lease);
            model.leases.insert(lease, (ttl, model.now + ttl));
        }
        Step::KeepAlive(index) => {
            let (lease, now) = (model.pick(*index), model.now);
            let kept = store.keep_alive(lease).await;
            match model.leases.get_mut(&lease) {
                Some((ttl, ends)) => {
                    kept.unwrap();
                    *ends = now + *ttl;
                }
                None => assert!(expired(&kept)),
            }
        }
        Step::Revoke(index) => {
            let lease = model.pick(*index);
            store.revoke(lease).await.unwrap();
            model.end(lease);
        }
        Step::Advance { ms } => {
            clock.advance(i64::from(*ms));
            model.now += u64::from(*ms);
            model.sweep(false);
        }
        Step::Reboot => {
            clock.reboot(&format!("boot-after-{}-{}", model.granted.len(), model.now));
            model.now = model.now.saturating_add(1);
            model.sweep(true);
        }
    }
}

async fn check(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let store = open_at(&folder.path().join("store.db"), Arc::clone(&clock)).await;
    let mut model = Model::default();
    for step in steps {
        take(step, &mut model, &store, &clock).await;
        let found = store.range("").await.unwrap().entries;
        assert_eq!(
            found,
            model.entries.values().cloned().collect::<Vec<_>>(),
            "after {step:?}"
        );
    }
    // Whatever leases left behind is deleted by the next write at the latest.
    let last = store.put("last", "", None).await.unwrap();
    assert_eq!(last, model.change(&[Op::put("last", "")]));
    let log: Vec<Event> = store
        .watch("", 0)
        .take(model.log.len())
        .map(|event| event.unwrap())
        .collect()
        .await;
    assert_eq!(log, model.log);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_ends_as_in_the_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&steps));
    }
}
