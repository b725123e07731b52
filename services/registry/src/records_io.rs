//! Reading and writing records one at a time.
//!
//! Writes take `under`: conditions that must hold in the same transaction, such as the fence of the deploy lock or
//! that a record is unchanged since it was read. Without any, the last writer wins.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Compare, Entry, LOCK_PREFIX, LockGuard, Op, Revision, Store, TxnOutcome};

use crate::error::attempting;
use crate::{DEPLOY_LOCK, Desired, Error, Instance, Process, Release, Result, Role, Traffic, keys};

/// Typed view of the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    pub(crate) store: Store,
}

/// A record and the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    /// Its last change; the generation, for traffic.
    pub revision: Revision,
}

impl Registry {
    /// Looks at `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// All live instances, by role and name.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn instances(&self) -> Result<Vec<Instance>> {
        self.list(keys::INSTANCES, "reading the instances").await
    }

    /// A live instance.
    ///
    /// # Errors
    /// If the name is no name, the record cannot be read or the store fails.
    pub async fn instance(&self, role: Role, name: &str) -> Result<Option<Instance>> {
        Ok(self
            .load(&keys::instance(role, name)?, "reading an instance")
            .await?
            .map(|found| found.value))
    }

    /// The split of traffic; its revision is the generation.
    ///
    /// # Errors
    /// If the record cannot be read or the store fails.
    pub async fn traffic(&self) -> Result<Option<Versioned<Traffic>>> {
        self.load(keys::TRAFFIC, "reading the traffic split").await
    }

    /// Publishes a split and tells its generation.
    ///
    /// # Errors
    /// [`Error::Traffic`] if it contradicts itself, [`Error::Conflict`] if `under` does not hold; or the store fails.
    pub async fn set_traffic(&self, traffic: &Traffic, under: &[Compare]) -> Result<Revision> {
        traffic.validate()?;
        self.save("traffic split", keys::TRAFFIC, traffic, under)
            .await
    }

    /// What should run; nothing if nobody has said.
    ///
    /// # Errors
    /// If the record cannot be read or the store fails.
    pub async fn desired(&self) -> Result<Option<Versioned<Desired>>> {
        self.load(keys::DESIRED, "reading what should run").await
    }

    /// Says what should run.
    ///
    /// # Errors
    /// [`Error::Conflict`] if `under` does not hold; or the store fails.
    pub async fn set_desired(&self, desired: &Desired, under: &[Compare]) -> Result<Revision> {
        self.save("desired state", keys::DESIRED, desired, under)
            .await
    }

    /// The condition that nobody has changed the split of traffic since `revision`; 0: that there is none.
    #[must_use]
    pub fn traffic_unchanged(revision: Revision) -> Compare {
        Compare::unchanged(keys::TRAFFIC, revision)
    }

    /// The condition that nobody has said otherwise what should run since `revision`; 0: that nobody has said.
    #[must_use]
    pub fn desired_unchanged(revision: Revision) -> Compare {
        Compare::unchanged(keys::DESIRED, revision)
    }

    /// All known releases, oldest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn releases(&self) -> Result<Vec<Release>> {
        let mut releases: Vec<Release> = self.list(keys::RELEASES, "reading the releases").await?;
        releases.sort_by(|a, b| (a.created_unix_ms, &a.id).cmp(&(b.created_unix_ms, &b.id)));
        Ok(releases)
    }

    /// A known release, by its whole id.
    ///
    /// # Errors
    /// If the id is no name, the record cannot be read or the store fails.
    pub async fn release(&self, id: &str) -> Result<Option<Release>> {
        Ok(self
            .load(&keys::release(id)?, "reading a release")
            .await?
            .map(|found| found.value))
    }

    /// Makes a release known.
    ///
    /// # Errors
    /// If the id is no name, [`Error::Conflict`] if `under` does not hold; or the store fails.
    pub async fn put_release(&self, release: &Release, under: &[Compare]) -> Result<Revision> {
        self.save("release", &keys::release(&release.id)?, release, under)
            .await
    }

    /// Forgets a release. No error if it is not known.
    ///
    /// # Errors
    /// If the id is no name, [`Error::Conflict`] if `under` does not hold; or the store fails.
    pub async fn delete_release(&self, id: &str, under: &[Compare]) -> Result<()> {
        self.write("release", under, &[Op::delete(keys::release(id)?)])
            .await
            .map(drop)
    }

    /// All processes that the local agent looks after, by name.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn processes(&self) -> Result<Vec<Process>> {
        self.list(keys::PROCESSES, "reading the processes").await
    }

    /// Says how a process fares.
    ///
    /// # Errors
    /// If the name is no name or the store fails.
    pub async fn put_process(&self, process: &Process) -> Result<Revision> {
        self.save("process", &keys::process(&process.name)?, process, &[])
            .await
    }

    /// Forgets a process. No error if it is not known.
    ///
    /// # Errors
    /// If the name is no name or the store fails.
    pub async fn delete_process(&self, name: &str) -> Result<()> {
        self.write("process", &[], &[Op::delete(keys::process(name)?)])
            .await
            .map(drop)
    }

    /// Takes the lock under which one rollout changes the fleet.
    ///
    /// # Errors
    /// With source [`store::Error::Held`] if another rollout has it; or the store fails.
    pub async fn lock_deploy(&self, holder: &str, ttl: Duration) -> Result<LockGuard> {
        self.store
            .lock(DEPLOY_LOCK, holder, ttl)
            .await
            .map_err(attempting("taking the deploy lock"))
    }

    pub(crate) async fn load<T: DeserializeOwned>(
        &self,
        key: &str,
        attempt: &'static str,
    ) -> Result<Option<Versioned<T>>> {
        let entry = self.store.get(key).await.map_err(attempting(attempt))?;
        entry
            .map(|entry| {
                Ok(Versioned {
                    value: decode(&entry)?,
                    revision: entry.mod_revision,
                })
            })
            .transpose()
    }

    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        prefix: &str,
        attempt: &'static str,
    ) -> Result<Vec<T>> {
        let range = self
            .store
            .range(prefix)
            .await
            .map_err(attempting(attempt))?;
        Ok(range.entries.iter().filter_map(decode_or_report).collect())
    }

    async fn save<T: Serialize>(
        &self,
        what: &'static str,
        key: &str,
        record: &T,
        under: &[Compare],
    ) -> Result<Revision> {
        self.write(what, under, &[Op::put(key, encode(key, record)?)])
            .await
    }

    pub(crate) async fn write(
        &self,
        what: &'static str,
        under: &[Compare],
        ops: &[Op],
    ) -> Result<Revision> {
        let attempt = "writing a record";
        match self
            .store
            .txn(under, ops)
            .await
            .map_err(attempting(attempt))?
        {
            TxnOutcome::Committed { revision, .. } => Ok(revision),
            TxnOutcome::Conflict { compare, .. } => Err(Error::Conflict {
                what,
                why: why(under.get(compare)),
            }),
        }
    }
}

/// Says which kind of condition failed.
fn why(compare: Option<&Compare>) -> &'static str {
    match compare {
        Some(Compare::CreateRevision { key, .. } | Compare::ModRevision { key, .. })
            if key.starts_with(LOCK_PREFIX) =>
        {
            "the lock is lost"
        }
        Some(Compare::LeaseAlive { .. }) => "the lease has ended",
        _ => "somebody else has changed it",
    }
}

pub(crate) fn encode<T: Serialize>(key: &str, record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|source| Error::Unwritable {
        key: key.to_owned(),
        source,
    })
}

fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T> {
    serde_json::from_slice(&entry.value).map_err(|source| Error::Unreadable {
        key: entry.key.clone(),
        source,
    })
}

/// Reads a record that can be done without; one that cannot be read is reported and left out.
pub(crate) fn decode_or_report<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    match serde_json::from_slice(&entry.value) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!(key = entry.key, error = %error, "left out a record that cannot be read");
            None
        }
    }
}
