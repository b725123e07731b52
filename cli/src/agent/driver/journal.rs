//! The rollout's record in the store: its state, and what happened.

use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Registry, RolloutCommand, RolloutEvent, RolloutRecord};
use rollout::{Action, Event, State};
use store::LockGuard;

/// Most events that are kept; the oldest go first.
const EVENTS_MAX: usize = 200;
/// How often a state is written in which nothing has changed but the time.
const WRITE_EVERY_MS: u64 = Duration::from_secs(2).as_millis() as u64;

/// Writes the record under the lock's fence.
pub(super) struct Journal<'a> {
    registry: &'a Registry,
    lock: &'a LockGuard,
    record: RolloutRecord,
    /// The state as it was last written.
    written: Option<State>,
}

impl<'a> Journal<'a> {
    pub(super) fn new(registry: &'a Registry, lock: &'a LockGuard, record: RolloutRecord) -> Self {
        Self {
            registry,
            lock,
            record,
            written: None,
        }
    }

    /// Writes the state down before its actions are done, with what there is to tell. `taken` are the commands
    /// that the state has taken in.
    pub(super) async fn write(
        &mut self,
        state: &State,
        actions: &[Action],
        taken: Vec<RolloutCommand>,
        now: u64,
    ) -> Result<()> {
        let events = actions.iter().filter_map(|action| match action {
            Action::Note { event } => Some(event),
            _ => None,
        });
        let mut news = false;
        for event in events {
            self.append(event, now)?;
            news = true;
        }
        let due = now.saturating_sub(self.record.written_unix_ms) >= WRITE_EVERY_MS;
        let changed = self
            .written
            .as_ref()
            .is_none_or(|w| !w.same_but_for_time(state));
        if !(news || due || changed || !taken.is_empty()) {
            return Ok(());
        }
        self.take(state, now)?;
        self.registry
            .save_rollout(&self.record, &taken, &self.lock.fence())
            .await
            .context("cannot write the rollout's journal")?;
        self.written = Some(state.clone());
        Ok(())
    }

    /// Moves the record to those that are over.
    pub(super) async fn archive(&mut self, state: &State, now: u64) -> Result<()> {
        self.take(state, now)?;
        self.registry
            .archive_rollout(&self.record, &self.lock.fence())
            .await
            .context("cannot file the rollout")?;
        tracing::info!(rollout = self.record.id, phase = %state.phase(), "the rollout is over");
        Ok(())
    }

    fn take(&mut self, state: &State, now: u64) -> Result<()> {
        let json = state
            .to_json()
            .context("cannot encode the rollout's state")?;
        self.record.state =
            serde_json::from_slice(&json).context("the rollout's state is no JSON")?;
        self.record.written_unix_ms = now;
        Ok(())
    }

    fn append(&mut self, event: &Event, now: u64) -> Result<()> {
        let events = &mut self.record.events;
        let number = events.last().map_or(0, |last| last.number) + 1;
        if let Event::Judged { .. } = event {
            tracing::debug!(rollout = self.record.id, %event, "rollout");
            // Only the latest judgement counts; those before it would crowd out everything else.
            events.retain(|told| told.event["event"] != "judged");
        } else {
            tracing::info!(rollout = self.record.id, %event, "rollout");
        }
        let event = serde_json::to_value(event).context("cannot encode an event")?;
        events.push(RolloutEvent {
            number,
            unix_ms: now,
            event,
        });
        let surplus = events.len().saturating_sub(EVENTS_MAX);
        events.drain(..surplus);
        Ok(())
    }
}
