//! Does what a rollout has decided: says what should run, and how calls are split.

use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Desired, Pool, Registry, Role};
use rollout::{Action, Traffic};
use store::LockGuard;

/// Writes under the lock's fence, and only over what was read.
pub(super) struct Performer<'a> {
    registry: &'a Registry,
    lock: &'a LockGuard,
    author: String,
}

impl<'a> Performer<'a> {
    pub(super) fn new(registry: &'a Registry, lock: &'a LockGuard, author: &str) -> Self {
        Self {
            registry,
            lock,
            author: author.to_owned(),
        }
    }

    /// Does one action. Somebody else's write in between is no error: the machine sees it and asks again.
    pub(super) async fn perform(&self, action: Action) -> Result<()> {
        let done = match action {
            Action::StartInstances { release, replicas } => self.resize(&release, replicas).await,
            Action::StopInstances { release } => self.resize(&release, 0).await,
            Action::SetTraffic { traffic, lease } => self.split(&traffic, lease).await,
            Action::RenewLease { traffic, lease } => self.renew(&traffic, lease).await,
            // Not for this part of the driver.
            Action::VerifyCandidate { .. }
            | Action::AwaitAcks { .. }
            | Action::Finish { .. }
            | Action::Note { .. } => Ok(()),
        };
        match done {
            Err(registry::Error::Conflict { .. }) if !self.lock.is_lost() => Ok(()),
            other => other.context("cannot change the fleet"),
        }
    }

    async fn resize(&self, release: &str, replicas: u32) -> registry::Result<()> {
        let found = self.registry.desired().await?;
        let revision = found.as_ref().map_or(0, |found| found.revision);
        let before = found.map(|found| found.value).unwrap_or_default();
        let after = resized(&before, release, replicas);
        if after == before {
            return Ok(());
        }
        let under = [self.lock.fence(), Registry::desired_unchanged(revision)];
        self.registry.set_desired(&after, &under).await.map(drop)
    }

    async fn split(&self, traffic: &Traffic, lease: Option<Duration>) -> registry::Result<()> {
        let found = self.registry.traffic().await?;
        let revision = found.map_or(0, |found| found.revision);
        let under = [self.lock.fence(), Registry::traffic_unchanged(revision)];
        let split = self.record(traffic, lease, registry::unix_ms());
        self.registry.set_traffic(&split, &under).await.map(drop)
    }

    async fn renew(&self, traffic: &Traffic, lease: Duration) -> registry::Result<()> {
        let Some(found) = self.registry.traffic().await? else {
            return Ok(());
        };
        let same = found.value.stable == traffic.stable
            && found.value.shares.len() == traffic.shares.len()
            && found
                .value
                .shares
                .iter()
                .zip(&traffic.shares)
                .all(|(a, b)| a.release == b.release && a.basis_points == b.weight.get());
        if !same {
            return Ok(());
        }
        let under = [
            self.lock.fence(),
            Registry::traffic_unchanged(found.revision),
        ];
        let split = self.record(traffic, Some(lease), registry::unix_ms());
        self.registry.set_traffic(&split, &under).await.map(drop)
    }

    fn record(&self, traffic: &Traffic, lease: Option<Duration>, now: u64) -> registry::Traffic {
        let life = lease.map(|lease| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        let expires = life.map(|life| now.saturating_add(life));
        let all = registry::Traffic::all_to(&traffic.stable, &self.author, "rollout");
        traffic.shares.iter().fold(all, |split, share| {
            split.with_share(&share.release, share.weight.get(), expires)
        })
    }
}

/// The wanted pools with another number of a release's apps. New pools come last, empty ones go.
fn resized(before: &Desired, release: &str, replicas: u32) -> Desired {
    let mut pools = before.pools.clone();
    let ours = |pool: &Pool| pool.role == Role::App && pool.release == release;
    match pools.iter_mut().find(|pool| ours(pool)) {
        Some(pool) => pool.replicas = replicas,
        None => pools.push(Pool {
            role: Role::App,
            release: release.to_owned(),
            replicas,
        }),
    }
    pools.retain(|pool| !ours(pool) || pool.replicas > 0);
    Desired { pools }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_releases_own_pool_changes() {
        let pool = |role, release: &str, replicas| Pool {
            role,
            release: release.to_owned(),
            replicas,
        };
        let before = Desired {
            pools: vec![pool(Role::Edge, "c", 1), pool(Role::App, "s", 3)],
        };
        let grown = resized(&before, "c", 2);
        assert_eq!(grown.pools[..2], before.pools);
        assert_eq!(grown.pools[2], pool(Role::App, "c", 2));
        assert_eq!(resized(&grown, "c", 0), before);
        assert_eq!(resized(&before, "c", 0), before);
    }
}
