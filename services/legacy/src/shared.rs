//! What the hosts of a fleet know together: small records that end by themselves, and are watched.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use store::{EventKind, LEASE_TTL_MAX, LEASE_TTL_MIN, LeaseId, Store};
use tokio::sync::broadcast;
use tokio::time::Instant;

/// Why a shared record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The store failed.
    #[error("the shared store failed: {0}")]
    Store(#[from] store::Error),
    /// Changes came faster than they were read.
    #[error("changes were missed")]
    Missed,
    /// There are too many records.
    #[error("there are too many records")]
    Full,
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A record is there, or has a new value.
    Put {
        /// Its key.
        key: String,
        /// Its value.
        value: Bytes,
    },
    /// A record is gone.
    Gone {
        /// Its key.
        key: String,
    },
    /// Everything that was there at the beginning has been told.
    Synced,
}

/// Records that all hosts see. Keys are at most 256 bytes of ASCII, values at most 512 KiB.
pub trait Shared: Send + Sync + 'static {
    /// Sets a record, which is gone after `ttl`.
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<(), SharedError>>;

    /// Removes a record.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), SharedError>>;

    /// The records whose keys begin with `prefix`, in order.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, SharedError>>;

    /// The records whose keys begin with `prefix`, then [`Change::Synced`], then every change. Ends with
    /// its first error.
    fn watch(&self, prefix: &str) -> BoxStream<'static, Result<Change, SharedError>>;
}

/// Records in the fleet's store.
///
/// A store has only so many leases, and records are many. So those that end at about the same time share one: a record may
/// last up to 60 % longer than it was asked to, never shorter.
#[derive(Debug)]
pub struct Records {
    store: Store,
    /// The newest lease of each length.
    leases: Mutex<HashMap<u32, Held>>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    lease: LeaseId,
    until: std::time::Instant,
}

/// Lengths that share leases: four in each doubling.
fn length_of(ttl: Duration) -> u32 {
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(4);
    let doublings = millis.ilog2();
    let quarter = (millis >> (doublings - 2)) & 3;
    doublings * 4 + u32::try_from(quarter).unwrap_or_default()
}

impl Records {
    /// Records in this store.
    #[must_use]
    pub fn new(store: Store) -> Records {
        Records {
            store,
            leases: Mutex::default(),
        }
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<u32, Held>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease that lasts at least so long.
    async fn lease(&self, ttl: Duration) -> Result<LeaseId, SharedError> {
        let now = std::time::Instant::now();
        let held = self.leases().get(&length_of(ttl)).copied();
        if let Some(held) = held.filter(|held| held.until >= now + ttl) {
            return Ok(held.lease);
        }
        let life = (ttl + ttl / 4).clamp(LEASE_TTL_MIN, LEASE_TTL_MAX);
        let lease = self.store.grant(life).await?;
        let until = now + life;
        self.leases().insert(length_of(ttl), Held { lease, until });
        Ok(lease)
    }
}

impl Shared for Records {
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            let lease = self.lease(ttl).await?;
            match self.store.put(key, value.clone(), Some(lease)).await {
                // Its time went by faster than ours, as over a sleep of the machine.
                Err(store::Error::LeaseExpired(_)) => {
                    self.leases().remove(&length_of(ttl));
                    let lease = self.lease(ttl).await?;
                    self.store.put(key, value, Some(lease)).await?;
                }
                put => _ = put?,
            }
            Ok(())
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            self.store.delete(key).await?;
            Ok(())
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, SharedError>> {
        Box::pin(async move {
            let range = self.store.range(prefix).await?;
            Ok(range
                .entries
                .into_iter()
                .map(|e| (e.key, e.value))
                .collect())
        })
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Result<Change, SharedError>> {
        let (store, prefix) = (self.store.clone(), prefix.to_owned());
        let changes = async move {
            let range = match store.range(&prefix).await {
                Ok(range) => range,
                Err(error) => return stream::iter([Err(error.into())]).boxed(),
            };
            let after = range.revision;
            let before = range.entries.into_iter().map(|e| {
                Ok(Change::Put {
                    key: e.key,
                    value: e.value,
                })
            });
            let later = Store::watch(&store, &prefix, after).map(|event| {
                let event = event?;
                let key = event.entry.key;
                Ok(match event.kind {
                    EventKind::Put => Change::Put {
                        key,
                        value: event.entry.value,
                    },
                    EventKind::Delete => Change::Gone { key },
                })
            });
            stream::iter(before.collect::<Vec<_>>())
                .chain(stream::iter([Ok(Change::Synced)]))
                .chain(later)
                .boxed()
        };
        stream::once(changes).flatten().boxed()
    }
}

/// Most records that [`Memory`] holds.
pub const MEMORY_RECORDS_MAX: usize = 100_000;

/// Records of one process, for a host that stands alone and for tests. A record whose time is over is not
/// told as gone, it is only not there any more.
#[derive(Debug)]
pub struct Memory {
    records: Mutex<BTreeMap<String, (Bytes, Instant)>>,
    changes: broadcast::Sender<Change>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            records: Mutex::default(),
            changes: broadcast::Sender::new(1024),
        }
    }
}

impl Memory {
    fn live(&self, prefix: &str) -> Vec<(String, Bytes)> {
        let now = Instant::now();
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|_, (_, until)| *until > now);
        records
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, (value, _))| (key.clone(), value.clone()))
            .collect()
    }
}

impl Shared for Memory {
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if records.len() >= MEMORY_RECORDS_MAX {
            records.retain(|_, (_, until)| *until > now);
            if records.len() >= MEMORY_RECORDS_MAX {
                return Box::pin(async { Err(SharedError::Full) });
            }
        }
        records.insert(key.to_owned(), (value.clone(), now + ttl));
        // Told under the lock, so that watchers see the order of the writes. Nobody may be watching.
        let _ = self.changes.send(Change::Put {
            key: key.to_owned(),
            value,
        });
        Box::pin(async { Ok(()) })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), SharedError>> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.remove(key).is_some() {
            let key = key.to_owned();
            let _ = self.changes.send(Change::Gone { key });
        }
        Box::pin(async { Ok(()) })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, SharedError>> {
        let live = self.live(prefix);
        Box::pin(async { Ok(live) })
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Result<Change, SharedError>> {
        // Subscribed first: a change in between is told twice rather than never.
        let changes = self.changes.subscribe();
        let before = self.live(prefix);
        let prefix = prefix.to_owned();
        let later = stream::unfold((changes, prefix), |(mut changes, prefix)| async move {
            loop {
                match changes.recv().await {
                    Ok(change) => {
                        let key = match &change {
                            Change::Put { key, .. } | Change::Gone { key } => key,
                            Change::Synced => continue,
                        };
                        if key.starts_with(&prefix) {
                            return Some((Ok(change), (changes, prefix)));
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        return Some((Err(SharedError::Missed), (changes, prefix)));
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        let before = before
            .into_iter()
            .map(|(key, value)| Ok(Change::Put { key, value }));
        stream::iter(before.collect::<Vec<_>>())
            .chain(stream::iter([Ok(Change::Synced)]))
            .chain(later)
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What every implementation must do.
    async fn check(shared: &dyn Shared) {
        let put = |key: &'static str, value: &'static str| {
            shared.put(key, value.into(), Duration::from_secs(60))
        };
        put("a/1", "x").await.unwrap();
        put("b/1", "y").await.unwrap();
        let mut watch = shared.watch("a/");
        let mut next = async || watch.next().await.unwrap().unwrap();
        let told = |key: &str, value: &'static str| Change::Put {
            key: key.into(),
            value: value.into(),
        };
        assert_eq!(next().await, told("a/1", "x"));
        assert_eq!(next().await, Change::Synced);
        put("b/2", "z").await.unwrap();
        put("a/2", "z").await.unwrap();
        assert_eq!(next().await, told("a/2", "z"));
        shared.delete("a/1").await.unwrap();
        assert_eq!(next().await, Change::Gone { key: "a/1".into() });
        let listed = shared.list("a/").await.unwrap();
        assert_eq!(listed, [("a/2".to_owned(), Bytes::from("z"))]);
    }

    #[tokio::test]
    async fn memory_keeps_and_tells() {
        check(&Memory::default()).await;
    }

    #[tokio::test]
    async fn a_store_keeps_and_tells() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("s")).await.unwrap();
        check(&Records::new(store)).await;
    }

    #[tokio::test]
    async fn records_share_leases_and_none_ends_early() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("s")).await.unwrap();
        let records = Records::new(store.clone());
        let mut leases = BTreeSet::new();
        for n in 0..256 {
            let key = format!("k{}", n % 100);
            let ttl = Duration::from_secs(86_400 - n);
            records.put(&key, "v".into(), ttl).await.unwrap();
            leases.insert(store.get(&key).await.unwrap().unwrap().lease);
        }
        assert!(leases.len() <= 2, "{} leases", leases.len());

        let short = Duration::from_millis(300);
        let began = std::time::Instant::now();
        records.put("short", "v".into(), short).await.unwrap();
        while store.get("short").await.unwrap().is_some() {
            assert!(began.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(began.elapsed() >= short);
        // The lease that was held has ended.
        records.put("short", "v".into(), short).await.unwrap();
        assert!(store.get("short").await.unwrap().is_some());
    }

    #[test]
    fn lengths_that_share_a_lease_are_a_quarter_apart_at_most() {
        let mut begins = Duration::from_millis(4);
        for millis in 5..200_000 {
            let ttl = Duration::from_millis(millis);
            if length_of(ttl) != length_of(begins) {
                begins = ttl;
            }
            assert!(ttl <= begins * 5 / 4, "{ttl:?} {begins:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn records_end_by_themselves() {
        let memory = Memory::default();
        memory
            .put("k", "v".into(), Duration::from_secs(5))
            .await
            .unwrap();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(memory.list("").await.unwrap().is_empty());
    }
}
