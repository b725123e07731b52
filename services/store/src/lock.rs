//! Locks: a key on a lease, renewed in the background, with a fence for everything done under it.
//!
//! A lease alone does not exclude: a holder that sleeps past it (a paused process, a suspended machine) still believes
//! that it holds the lock. So every transaction under the lock carries [`LockGuard::fence`], which holds only while
//! the very key that this guard made exists.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::{Compare, Entry, Error, LeaseId, Op, Result, Revision, Store};

/// Where the keys of locks stand.
pub const LOCK_PREFIX: &str = "locks/";

/// Holders' names are cut to this many characters.
const HOLDER_CHARS_MAX: usize = 200;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// The name that the holder gave.
    pub holder: String,
    /// When it was taken, in milliseconds of Unix time on the holder's clock.
    pub since_unix_ms: u64,
    /// Counts up from holder to holder.
    pub fence: Revision,
}

/// Holds a lock until dropped or released, or until it is lost.
///
/// A drop frees the lock in the background; [`LockGuard::release`] waits until it is free.
#[derive(Debug)]
pub struct LockGuard {
    key: String,
    fence: Revision,
    lost: watch::Receiver<bool>,
    /// Dropping this ends the renewal, which then frees the lock.
    release: oneshot::Sender<oneshot::Sender<Result<()>>>,
}

impl Store {
    /// Takes a lock at once or not at all.
    ///
    /// The guard renews itself every third of `ttl`; a holder that dies frees the lock after `ttl`.
    ///
    /// # Errors
    /// [`Error::Held`] if somebody holds it; otherwise if name or `ttl` are out of bounds or the backend fails.
    pub async fn lock(&self, name: &str, holder: &str, ttl: Duration) -> Result<LockGuard> {
        let key = format!("{LOCK_PREFIX}{name}");
        let asked = Instant::now();
        let lease = self.grant(ttl).await?;
        let value = encode(holder, unix_ms());
        let taken = self
            .txn(
                &[Compare::absent(&key)],
                &[Op::put_leased(&key, value, lease)],
            )
            .await;
        match taken.as_ref().map(crate::TxnOutcome::committed) {
            Ok(Some(fence)) => Ok(self.guard(
                Renewal {
                    key,
                    fence,
                    lease,
                    ttl,
                },
                asked + ttl,
            )),
            Ok(None) => {
                self.revoke(lease).await?;
                Err(self.held(name).await?)
            }
            Err(error) => {
                // Best effort: unknown whether the key was made; if so it goes with the lease.
                let error = error.clone();
                drop(self.revoke(lease).await);
                Err(error)
            }
        }
    }

    /// Tells who holds a lock.
    ///
    /// # Errors
    /// If the name is out of bounds or the backend fails.
    pub async fn lock_holder(&self, name: &str) -> Result<Option<LockHolder>> {
        Ok(self
            .get(&format!("{LOCK_PREFIX}{name}"))
            .await?
            .map(|entry| decode(&entry)))
    }

    /// Takes a lock away from whoever holds it; tells whether anybody did. The old holder's fence fails from then on.
    ///
    /// # Errors
    /// If the name is out of bounds or the backend fails.
    pub async fn break_lock(&self, name: &str) -> Result<bool> {
        self.delete(&format!("{LOCK_PREFIX}{name}")).await
    }

    async fn held(&self, name: &str) -> Result<Error> {
        let found = self.lock_holder(name).await?;
        let (holder, since_unix_ms) = found.map_or_else(
            || ("somebody who has just released it".to_owned(), unix_ms()),
            |found| (found.holder, found.since_unix_ms),
        );
        Ok(Error::Held {
            name: name.to_owned(),
            holder,
            since_unix_ms,
        })
    }

    fn guard(&self, renewal: Renewal, alive_until: Instant) -> LockGuard {
        let (lost_tx, lost) = watch::channel(false);
        let (release, released) = oneshot::channel();
        let (key, fence) = (renewal.key.clone(), renewal.fence);
        tokio::spawn(renewal.run(self.clone(), alive_until, lost_tx, released));
        LockGuard {
            key,
            fence,
            lost,
            release,
        }
    }
}

impl LockGuard {
    /// The comparison that every transaction under this lock must carry.
    #[must_use]
    pub fn fence(&self) -> Compare {
        Compare::CreateRevision {
            key: self.key.clone(),
            revision: self.fence,
        }
    }

    /// The number of this holding; counts up from holder to holder.
    #[must_use]
    pub fn fence_revision(&self) -> Revision {
        self.fence
    }

    /// Whether the lock is known to be lost. `false` is no promise; only the fence is.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Resolves when the lock is lost: it could not be renewed in time, or was broken. Stop acting then.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut lost = self.lost.clone();
        async move {
            // An error means that the renewal has ended, and with it the lock.
            drop(lost.wait_for(|lost| *lost).await);
        }
    }

    /// Frees the lock and waits until it is free.
    ///
    /// # Errors
    /// If the backend fails; the lock is then freed when its lease ends.
    pub async fn release(self) -> Result<()> {
        let (done, freed) = oneshot::channel();
        if self.release.send(done).is_err() {
            return Ok(());
        }
        freed.await.unwrap_or(Err(Error::Closed))
    }
}

/// What it takes to keep a lock.
struct Renewal {
    key: String,
    fence: Revision,
    lease: LeaseId,
    ttl: Duration,
}

impl Renewal {
    async fn run(
        self,
        store: Store,
        mut alive_until: Instant,
        lost: watch::Sender<bool>,
        mut released: oneshot::Receiver<oneshot::Sender<Result<()>>>,
    ) {
        let done = loop {
            let pause = tokio::time::sleep(self.ttl / 3);
            tokio::select! {
                done = &mut released => break done.ok(),
                () = pause => {}
                () = tokio::time::sleep_until(alive_until) => {}
            }
            let began = Instant::now();
            // A renewal that comes back after the lease has ended is too late to count.
            match tokio::time::timeout_at(alive_until, self.renew(&store)).await {
                Ok(Ok(true)) => alive_until = began + self.ttl,
                Ok(Ok(false)) => lose(&lost, &self.key, "it was broken or ran out"),
                Ok(Err(error)) if began < alive_until => {
                    tracing::warn!(lock = self.key, error = %error, "could not renew a lock; trying again");
                    continue;
                }
                Ok(Err(_)) | Err(_) => lose(&lost, &self.key, "it could not be renewed in time"),
            }
            if *lost.borrow() {
                break released.await.ok();
            }
        };
        let freed = store.revoke(self.lease).await;
        if let Some(done) = done {
            drop(done.send(freed));
        }
    }

    /// Whether the lease and the key made by this guard still exist; gives the lease its full time.
    async fn renew(&self, store: &Store) -> Result<bool> {
        match store.keep_alive(self.lease).await {
            Ok(()) => {}
            Err(Error::LeaseExpired(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        let entry = store.get(&self.key).await?;
        Ok(entry.is_some_and(|entry| entry.create_revision == self.fence))
    }
}

fn lose(lost: &watch::Sender<bool>, key: &str, why: &str) {
    tracing::warn!(lock = key, why, "lost a lock");
    lost.send_replace(true);
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn encode(holder: &str, since_unix_ms: u64) -> String {
    let holder: String = holder
        .chars()
        .filter(|c| !c.is_control())
        .take(HOLDER_CHARS_MAX)
        .collect();
    format!("{since_unix_ms} {holder}")
}

fn decode(entry: &Entry) -> LockHolder {
    let text = String::from_utf8_lossy(&entry.value);
    let (since, holder) = text.split_once(' ').unwrap_or(("0", &text));
    LockHolder {
        holder: holder.to_owned(),
        since_unix_ms: since.parse().unwrap_or(0),
        fence: entry.create_revision,
    }
}
