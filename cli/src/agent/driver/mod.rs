//! Drives the rollout under way, whoever began it.
//!
//! What to do is decided by [`rollout::next`]; this reads the world, writes the journal, and does what was
//! decided, in that order, again and again. Everything that matters is in the store: an agent that is killed
//! in the middle is followed by another that goes on, and until then the candidate's weight falls back to the
//! stable release by itself.
//!
//! Every write carries the fence of the deploy lock, so an agent that slept past its lock changes nothing.

mod journal;
mod observe;
mod perform;
mod verify;

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Backoff, Registry, RolloutRecord};
use rollout::{Action, State, next};
use store::{LockGuard, Store};
use tokio::time::Instant;

use crate::state::StateDir;
use journal::Journal;
use observe::Observer;
use perform::Performer;

/// The life of the lock if the agent dies with it; well below a weight's lease, so that a successor can renew
/// the lease in time.
const LOCK_TTL: Duration = Duration::from_secs(8);
/// How long to wait before trying again to take a lock that somebody else has.
const LOCKED_WAIT: Duration = Duration::from_millis(500);
/// The shortest time between two decisions.
const TURN_MIN: Duration = Duration::from_millis(50);
/// How soon an action's effect is looked for.
const EFFECT_WAIT: Duration = Duration::from_millis(100);
/// Waits while the store is out.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Drives one rollout after the other, for as long as it is polled.
pub(super) async fn drive(state: StateDir, store: Store) -> Infallible {
    let registry = Registry::new(store);
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        match drive_one(&state, &registry).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                let pause = backoff.wait();
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the rollout stands still; trying again"
                );
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Waits for a rollout and drives it to its end.
async fn drive_one(state: &StateDir, registry: &Registry) -> Result<()> {
    wait_for_one(registry).await?;
    let Some(lock) = take_lock(registry).await? else {
        tokio::time::sleep(LOCKED_WAIT).await;
        return Ok(());
    };
    // Read again under the lock: whoever had it before may have ended the rollout.
    let ended = match registry.rollout().await? {
        Some(found) => {
            Drive::begin(state, registry, &lock, found.value)?
                .run()
                .await
        }
        None => Ok(()),
    };
    let released = lock.release().await;
    ended?;
    released.context("cannot let go of the deploy lock")
}

async fn wait_for_one(registry: &Registry) -> Result<()> {
    let prefix = registry::ROLLOUTS;
    let after = registry.store().range(prefix).await?.revision;
    let mut changes = registry.store().watch(prefix, after);
    while registry.rollout().await?.is_none() {
        changes
            .next_batch()
            .await
            .context("the store ended the watch")??;
    }
    Ok(())
}

async fn take_lock(registry: &Registry) -> Result<Option<LockGuard>> {
    let holder = format!("rollout (agent {})", std::process::id());
    match registry.lock_deploy(&holder, LOCK_TTL).await {
        Ok(lock) => Ok(Some(lock)),
        Err(registry::Error::Store {
            source: store::Error::Held { .. },
            ..
        }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A rollout being driven.
struct Drive<'a> {
    state: State,
    journal: Journal<'a>,
    observer: Observer<'a>,
    performer: Performer<'a>,
}

impl<'a> Drive<'a> {
    fn begin(
        folder: &'a StateDir,
        registry: &'a Registry,
        lock: &'a LockGuard,
        record: RolloutRecord,
    ) -> Result<Self> {
        let text = serde_json::to_vec(&record.state).context("the journal is no JSON")?;
        let state = State::from_json(&text).with_context(|| {
            format!(
                "rollout {} cannot be gone on with; `sweetops rollout forget` ends it",
                record.id
            )
        })?;
        tracing::info!(rollout = record.id, phase = %state.phase(), "driving");
        Ok(Self {
            observer: Observer::new(folder, registry, state.plan()),
            performer: Performer::new(registry, lock, &record.author),
            journal: Journal::new(registry, lock, record),
            state,
        })
    }

    async fn run(mut self) -> Result<()> {
        loop {
            let began = Instant::now();
            let now = registry::unix_ms();
            let seen = self.observer.look(self.state.wants_counters(now)).await?;
            let now = registry::unix_ms();
            let (state, actions) = next(&self.state, &seen.observation, now);
            self.journal
                .write(&state, &actions, seen.commands, now)
                .await?;
            self.state = state;
            let mut acted = false;
            for action in actions {
                match action {
                    Action::Note { .. } => {}
                    Action::Finish { .. } => return self.journal.archive(&self.state, now).await,
                    Action::VerifyCandidate { release } => {
                        self.observer.verify(&release).await;
                        acted = true;
                    }
                    Action::AwaitAcks { .. } => acted = true,
                    other => {
                        self.performer.perform(other).await?;
                        acted = true;
                    }
                }
            }
            let pause = if acted {
                EFFECT_WAIT
            } else {
                self.state.poll_interval()
            };
            self.observer.wait_for_change(began + TURN_MIN, pause).await;
        }
    }
}
