//! Keeps an instance's record alive: on a lease that a background task renews, so that it vanishes with its process.
//!
//! The task repeats one step that needs no memory of how it was left: hold a live lease, and have the present record
//! on it. A store that fails, a lease that ran out and a record that somebody deleted are all put right by the next
//! step; waits between failed steps have full jitter.

use std::time::Duration;

use store::{Compare, LeaseId, Op, Revision, Store, TxnOutcome};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::records_io::{decode_or_report, encode};
use crate::{Ack, Backoff, Error, Instance, InstanceState, Result, keys, unix_ms};

/// Ceilings of the waits after failed steps.
const BACKOFF_BASE: Duration = Duration::from_millis(100);
const BACKOFF_CAP: Duration = Duration::from_secs(5);

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Cadence {
    /// Time between renewals.
    pub heartbeat: Duration,
    /// After this long without a renewal the instance counts as gone.
    pub lease: Duration,
    /// Shortest time between two writes of a record that changes often.
    pub spacing: Duration,
}

impl Default for Cadence {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(3),
            lease: Duration::from_secs(10),
            spacing: Duration::from_millis(100),
        }
    }
}

/// How a registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationState {
    /// Not, or no longer, in the store; being tried.
    Waiting,
    /// In the store, as of the last heartbeat.
    Registered,
    /// A process started later has the same name and role; this one waits until it is gone.
    Replaced,
    /// Stopped.
    Stopped,
}

/// An instance's place in the fleet. Dropping it removes the instance in the background.
#[derive(Debug)]
pub struct Registration {
    wanted: watch::Sender<Wanted>,
    state: watch::Receiver<RegistrationState>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What should stand in the store.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    instance: Instance,
    ack: Option<Ack>,
}

impl Registration {
    /// Registers in the background, at once and again whenever it is lost. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Name`] if the instance's name cannot be part of a key.
    pub fn start(store: Store, instance: Instance) -> Result<Self> {
        Self::start_with(store, instance, Cadence::default())
    }

    /// As [`Registration::start`], with another cadence.
    ///
    /// # Errors
    /// As [`Registration::start`].
    pub fn start_with(store: Store, instance: Instance, cadence: Cadence) -> Result<Self> {
        let key = keys::instance(instance.role, &instance.name)?;
        let ack_key = keys::ack(&instance.name)?;
        let (wanted, wants) = watch::channel(Wanted {
            instance,
            ack: None,
        });
        let (states, state) = watch::channel(RegistrationState::Waiting);
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper {
            store,
            cadence,
            key,
            ack_key,
            wants,
            states,
            lease: None,
            revision: None,
            written: None,
        };
        let task = tokio::spawn(keeper.run(stopped));
        Ok(Self {
            wanted,
            state,
            stop,
            task,
        })
    }

    /// Changes the record; written at once. Name and role stay what they were.
    pub fn update(&self, change: impl FnOnce(&mut Instance)) {
        self.wanted.send_if_modified(|wanted| {
            let mut changed = wanted.instance.clone();
            change(&mut changed);
            changed.name.clone_from(&wanted.instance.name);
            changed.role = wanted.instance.role;
            let differs = changed != wanted.instance;
            wanted.instance = changed;
            differs
        });
    }

    /// Says by which generation of traffic this edge sends; written at once, and again when it has to register again.
    pub fn acknowledge(&self, generation: Revision, expired: bool) {
        let ack = Ack {
            generation,
            at_unix_ms: unix_ms(),
            expired,
        };
        self.wanted.send_if_modified(|wanted| {
            let differs = wanted
                .ack
                .is_none_or(|old| (old.generation, old.expired) != (generation, expired));
            if differs {
                wanted.ack = Some(ack);
            }
            differs
        });
    }

    /// How it stands now.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        *self.state.borrow()
    }

    /// Follows how it stands.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Waits until the instance is in the store.
    pub async fn registered(&self) {
        // An error means that the task has ended, which it does only when stopped.
        drop(
            self.state
                .clone()
                .wait_for(|state| *state == RegistrationState::Registered)
                .await,
        );
    }

    /// Removes the instance and waits until it is gone. If the store fails it goes when its lease ends.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            tracing::error!(error = %error, "registration ended badly");
        }
    }
}

/// Why a step did not get through.
#[derive(Debug, thiserror::Error)]
enum Setback {
    #[error("a process started later has the same name")]
    Replaced,
    #[error("the record was changed by somebody else")]
    Raced,
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Record(#[from] Error),
}

/// The background task.
struct Keeper {
    store: Store,
    cadence: Cadence,
    key: String,
    ack_key: String,
    wants: watch::Receiver<Wanted>,
    states: watch::Sender<RegistrationState>,
    /// What is believed to be ours; every step finds out.
    lease: Option<LeaseId>,
    /// The record's revision that may be overwritten: ours, or one that was looked at; 0 if there is none.
    revision: Option<Revision>,
    /// What the record says, if it is ours.
    written: Option<Wanted>,
}

impl Keeper {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
        loop {
            let outcome = tokio::select! {
                _ = &mut stopped => break,
                outcome = self.step() => outcome,
            };
            let in_order = outcome.is_ok();
            let pause = self.pause_after(outcome, &mut backoff);
            tokio::select! {
                _ = &mut stopped => break,
                () = self.news(in_order) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.leave().await;
        self.states.send_replace(RegistrationState::Stopped);
    }

    /// Judges a step: says how the registration stands, and how long to rest.
    fn pause_after(&mut self, outcome: Result<(), Setback>, backoff: &mut Backoff) -> Duration {
        let (state, pause) = match outcome {
            Ok(()) => {
                backoff.reset();
                (RegistrationState::Registered, self.cadence.heartbeat)
            }
            Err(Setback::Replaced) => (RegistrationState::Replaced, self.cadence.heartbeat),
            Err(setback) => {
                let pause = backoff.wait();
                let key = self.key.as_str();
                tracing::warn!(key, error = %setback, retry_in_ms = pause.as_millis(), "could not register");
                (RegistrationState::Waiting, pause)
            }
        };
        let before = self.states.send_replace(state);
        if before != state {
            tracing::info!(key = self.key, ?before, now = ?state, "registration changed");
        }
        pause
    }

    /// Resolves when the record should change; not too often, and not while steps fail.
    async fn news(&mut self, in_order: bool) {
        if !in_order {
            return std::future::pending().await;
        }
        tokio::time::sleep(self.cadence.spacing.min(self.cadence.heartbeat)).await;
        if self.wants.changed().await.is_err() {
            // Dropped, not stopped: `stopped` tells the same.
            std::future::pending::<()>().await;
        }
    }

    /// Holds a live lease and has the present record on it.
    async fn step(&mut self) -> Result<(), Setback> {
        let wanted = self.wants.borrow_and_update().clone();
        let lease = self.live_lease().await?;
        if self.written.as_ref() == Some(&wanted) && self.is_still_ours().await? {
            return Ok(());
        }
        let revision = match self.revision {
            Some(revision) => revision,
            None => self.look(&wanted.instance).await?,
        };
        let mut ops = vec![Op::put_leased(
            &self.key,
            encode(&self.key, &wanted.instance)?,
            lease,
        )];
        if let Some(ack) = &wanted.ack {
            ops.push(Op::put_leased(
                &self.ack_key,
                encode(&self.ack_key, ack)?,
                lease,
            ));
        }
        self.forget();
        match self
            .store
            .txn(&[Compare::unchanged(&self.key, revision)], &ops)
            .await?
        {
            TxnOutcome::Committed { revision, .. } => {
                self.revision = Some(revision);
                self.written = Some(wanted);
                Ok(())
            }
            TxnOutcome::Conflict { .. } => Err(Setback::Raced),
        }
    }

    /// Renews the lease, or takes another if it has ended.
    async fn live_lease(&mut self) -> Result<LeaseId, Setback> {
        if let Some(lease) = self.lease {
            match self.store.keep_alive(lease).await {
                Ok(()) => return Ok(lease),
                Err(store::Error::LeaseExpired(_)) => {
                    tracing::warn!(key = self.key, "lease has ended; registering again");
                    self.states.send_replace(RegistrationState::Waiting);
                    self.forget();
                    self.lease = None;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let lease = self.store.grant(self.cadence.lease).await?;
        self.lease = Some(lease);
        Ok(lease)
    }

    async fn is_still_ours(&mut self) -> Result<bool, Setback> {
        let found = self
            .store
            .get(&self.key)
            .await?
            .map(|entry| entry.mod_revision);
        if found == self.revision {
            return Ok(true);
        }
        self.forget();
        Ok(false)
    }

    /// What stands under our key: an older process's record may be overwritten, a younger one's not.
    async fn look(&self, ours: &Instance) -> Result<Revision, Setback> {
        let Some(entry) = self.store.get(&self.key).await? else {
            return Ok(0);
        };
        let other: Option<Instance> = decode_or_report(&entry);
        let is_younger = other.is_some_and(|other| {
            (other.started_unix_ms, other.pid) > (ours.started_unix_ms, ours.pid)
        });
        if is_younger {
            Err(Setback::Replaced)
        } else {
            Ok(entry.mod_revision)
        }
    }

    fn forget(&mut self) {
        self.revision = None;
        self.written = None;
    }

    /// Says that it goes, then goes: watchers can tell this from a death.
    async fn leave(&mut self) {
        let Some(lease) = self.lease else { return };
        if let Err(setback) = self.say_goodbye(lease).await {
            tracing::debug!(key = self.key, error = %setback, "could not say goodbye");
        }
        if let Err(error) = self.store.revoke(lease).await {
            let key = self.key.as_str();
            tracing::warn!(key, error = %error, "could not deregister; the lease will end by itself");
        }
    }

    /// Marks the record as draining, if the one that stands there is ours: a step may have been cut short.
    async fn say_goodbye(&self, lease: LeaseId) -> Result<(), Setback> {
        let Some(entry) = self.store.get(&self.key).await? else {
            return Ok(());
        };
        let Some(mut instance) = decode_or_report::<Instance>(&entry) else {
            return Ok(());
        };
        if entry.lease != Some(lease) || instance.state == InstanceState::Draining {
            return Ok(());
        }
        instance.state = InstanceState::Draining;
        let put = Op::put_leased(&self.key, encode(&self.key, &instance)?, lease);
        let unchanged = Compare::unchanged(&self.key, entry.mod_revision);
        match self.store.txn(&[unchanged], &[put]).await? {
            TxnOutcome::Committed { .. } => Ok(()),
            TxnOutcome::Conflict { .. } => Err(Setback::Raced),
        }
    }
}
