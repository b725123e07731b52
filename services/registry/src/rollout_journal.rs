//! The rollout that is under way, and those that are over.
//!
//! Written under the deploy lock's fence alone: a driver that was paused past its lock can no longer overwrite what its
//! successor has written.

use store::{Compare, Op, Revision};

use crate::error::attempting;
use crate::records_io::{decode_or_report, encode};
use crate::{Registry, Result, RolloutRecord, Versioned, keys};

/// Most rollouts that are remembered.
pub const HISTORY_MAX: usize = 50;

impl Registry {
    /// The rollout under way.
    ///
    /// # Errors
    /// If the record cannot be read or the store fails.
    pub async fn rollout(&self) -> Result<Option<Versioned<RolloutRecord>>> {
        self.load(keys::ROLLOUT, "reading the rollout under way")
            .await
    }

    /// Writes the state of the rollout under way. `fence` is the deploy lock's.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] if the lock is lost; or the store fails.
    pub async fn save_rollout(&self, record: &RolloutRecord, fence: &Compare) -> Result<Revision> {
        let op = Op::put(keys::ROLLOUT, encode(keys::ROLLOUT, record)?);
        self.write("rollout", std::slice::from_ref(fence), &[op])
            .await
    }

    /// Ends the rollout under way: its last state goes to the history, which forgets its oldest.
    ///
    /// # Errors
    /// If the id is no name, [`crate::Error::Conflict`] if the lock is lost; or the store fails.
    pub async fn archive_rollout(&self, record: &RolloutRecord, fence: &Compare) -> Result<()> {
        let key = keys::rollout_in_history(&record.id)?;
        let mut history = self.history_entries().await?;
        history.retain(|entry| entry.key != key);
        let forgotten = history
            .into_iter()
            .skip(HISTORY_MAX - 1)
            .map(|entry| Op::delete(entry.key));
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
