//! The rollout that is under way, and those that are over.
//!
//! Written under the deploy lock's fence alone: a driver that was paused past its lock can no longer overwrite what its
//! successor has written.

use store::{Compare, Op, Revision};

use crate::error::attempting;
use crate::records_io::{decode_or_report, encode};
use crate::{Registry, Result, RolloutCommand, RolloutRecord, Versioned, keys};

/// Most rollouts that are remembered.
pub const HISTORY_MAX: usize = 50;
/// Most commands that wait at the same time.
pub const COMMANDS_MAX: usize = 16;

impl Registry {
    /// The rollout under way.
    ///
    /// # Errors
    /// If the record cannot be read or the store fails.
    pub async fn rollout(&self) -> Result<Option<Versioned<RolloutRecord>>> {
        self.load(keys::ROLLOUT, "reading the rollout under way")
            .await
    }

    /// Begins a rollout. `fence` is the deploy lock's.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] if another is under way or the lock is lost; or the store fails.
    pub async fn begin_rollout(&self, record: &RolloutRecord, fence: &Compare) -> Result<Revision> {
        keys::rollout_in_history(&record.id)?;
        let under = [fence.clone(), Compare::absent(keys::ROLLOUT)];
        let op = Op::put(keys::ROLLOUT, encode(keys::ROLLOUT, record)?);
        self.write("rollout", &under, &[op]).await
    }

    /// Writes the state of the rollout under way, and forgets the commands that it has taken in. `fence` is the
    /// deploy lock's.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] if the lock is lost; or the store fails.
    pub async fn save_rollout(
        &self,
        record: &RolloutRecord,
        taken: &[RolloutCommand],
        fence: &Compare,
    ) -> Result<Revision> {
        let mut ops = vec![Op::put(keys::ROLLOUT, encode(keys::ROLLOUT, record)?)];
        ops.extend(taken.iter().map(|command| Op::delete(&command.key)));
        self.write("rollout", std::slice::from_ref(fence), &ops)
            .await
    }

    /// Asks something of the rollout under way.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] if none is under way; or the store fails.
    pub async fn ask_rollout(&self, command: &serde_json::Value) -> Result<()> {
        let reading = attempting("reading the rollout under way");
        let entry = self.store.get(keys::ROLLOUT).await.map_err(reading)?;
        let revision = entry.map_or(0, |entry| entry.create_revision);
        let key = format!("{}{}", keys::ROLLOUT_COMMANDS, uuid::Uuid::now_v7());
        let under = Compare::CreateRevision {
            key: keys::ROLLOUT.to_owned(),
            // A rollout that does not exist has no revision that could match.
            revision: revision.max(1),
        };
        let op = Op::put(&key, encode(&key, command)?);
        self.write("command", &[under], &[op]).await.map(drop)
    }

    /// What operators have asked and the rollout has not taken in yet, oldest first; at most [`COMMANDS_MAX`].
    ///
    /// # Errors
    /// If the store fails.
    pub async fn rollout_commands(&self) -> Result<Vec<RolloutCommand>> {
        let reading = attempting("reading what is asked of the rollout");
        let range = self.store.range(keys::ROLLOUT_COMMANDS).await;
        let entries = range.map_err(reading)?.entries.into_iter();
        let command = |entry: store::Entry| RolloutCommand {
            // One that cannot be read is taken and means nothing.
            command: decode_or_report(&entry).unwrap_or_default(),
            key: entry.key,
        };
        Ok(entries.take(COMMANDS_MAX).map(command).collect())
    }

    /// Ends the rollout under way: its last state goes to the history, which forgets its oldest.
    ///
    /// # Errors
    /// If the id is no name, [`crate::Error::Conflict`] if the lock is lost; or the store fails.
    pub async fn archive_rollout(&self, record: &RolloutRecord, fence: &Compare) -> Result<()> {
        let key = keys::rollout_in_history(&record.id)?;
        let mut history = self.history_entries().await?;
        history.retain(|entry| entry.key != key);
        let unheard = self.rollout_commands().await?;
        let forgotten = history
            .into_iter()
            .skip(HISTORY_MAX - 1)
            .map(|entry| Op::delete(entry.key))
            .chain(unheard.into_iter().map(|command| Op::delete(command.key)));
        let mut ops = vec![
            Op::put(&key, encode(&key, record)?),
            Op::delete(keys::ROLLOUT),
        ];
        ops.extend(forgotten.take(store::TXN_OPS_MAX - ops.len()));
        self.write("rollout", std::slice::from_ref(fence), &ops)
            .await
            .map(drop)
    }

    /// The rollouts that are over, newest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn rollout_history(&self) -> Result<Vec<RolloutRecord>> {
        Ok(self
            .history_entries()
            .await?
            .iter()
            .filter_map(decode_or_report)
            .collect())
    }

    async fn history_entries(&self) -> Result<Vec<store::Entry>> {
        let reading = attempting("reading the rollouts that are over");
        let mut entries = self
            .store
            .range(keys::ROLLOUT_HISTORY)
            .await
            .map_err(reading)?
            .entries;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.mod_revision));
        Ok(entries)
    }
}
