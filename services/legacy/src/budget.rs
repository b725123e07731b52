//! What one principal may have in the shared records, by way of one host.
//!
//! The records are the fleet's, and few: a client that has many kept, whatever sessions it opens for them, takes
//! room from everyone. So what is put for a principal is counted until it is taken away or ends by itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mcp::{Cause, Failure};
use tokio::time::Instant;

/// Accounts after which those with nothing in them are looked for.
const TIDY_AT: usize = 1024;
/// When to come back after a refusal: some of the records end sooner, some later.
const COME_BACK: Duration = Duration::from_secs(10);

/// What a record is for; each has bounds of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What is known of a session.
    Fact,
    /// That a session has ended.
    Ended,
    /// A message for a call at another host.
    Mail,
    /// An event that can be read again.
    Replay,
    /// The outcome of a task.
    Kept,
}

impl Kind {
    /// Most records of a principal, and most bytes.
    #[must_use]
    pub const fn most(self) -> (usize, usize) {
        match self {
            Kind::Fact => (8192, 8 << 20),
            Kind::Ended => (8192, 2 << 20),
            Kind::Mail => (1024, 4 << 20),
            Kind::Replay => (1024, 16 << 20),
            Kind::Kept => (256, 16 << 20),
        }
    }
}

/// The accounts of all principals.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Accounts>);

#[derive(Debug, Default)]
struct Accounts {
    by_owner: HashMap<(String, Kind), Account>,
    tidy_at: usize,
}

#[derive(Debug, Default)]
struct Account {
    /// When each ends, and its bytes.
    records: HashMap<String, (Instant, usize)>,
    bytes: usize,
}

impl Account {
    fn remove(&mut self, key: &str) {
        if let Some((_, bytes)) = self.records.remove(key) {
            self.bytes -= bytes;
        }
    }

    fn forget_ended(&mut self, now: Instant) {
        self.records.retain(|_, (ends, bytes)| {
            let lives = *ends > now;
            if !lives {
                self.bytes -= *bytes;
            }
            lives
        });
    }
}

impl Budget {
    /// Takes room for a record, or for a new value of one that has it.
    ///
    /// # Errors
    /// [`Cause::RateLimited`] when the owner has too many of its kind, or too many bytes.
    pub fn take(
        &self,
        kind: Kind,
        owner: &str,
        key: &str,
        bytes: usize,
        ttl: Duration,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.tidy(now);
        let account = accounts.by_owner.entry((owner.to_owned(), kind));
        let account = account.or_default();
        account.remove(key);
        let (records_max, bytes_max) = kind.most();
        let is_full = |account: &Account| {
            account.records.len() >= records_max || account.bytes + bytes > bytes_max
        };
        if is_full(account) {
            account.forget_ended(now);
        }
        if is_full(account) {
            let text = "too much is kept for you already: end sessions, or wait";
            return Err(Failure::say(Cause::RateLimited, text).retry_after(COME_BACK));
        }
        account.records.insert(key.to_owned(), (now + ttl, bytes));
        account.bytes += bytes;
        Ok(())
    }

    /// A record is not there any more.
    pub fn free(&self, kind: Kind, owner: &str, key: &str) {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.by_owner.get_mut(&(owner.to_owned(), kind)) {
            account.remove(key);
        }
    }
}

impl Accounts {
    /// Looks for empty accounts whenever there are twice as many as were left the last time.
    fn tidy(&mut self, now: Instant) {
        if self.by_owner.len() < self.tidy_at.max(TIDY_AT) {
            return;
        }
        self.by_owner.retain(|_, account| {
            account.forget_ended(now);
            !account.records.is_empty()
        });
        self.tidy_at = self.by_owner.len() * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_owner_has_room_for_so_many_records_and_bytes_until_they_end() {
        let budget = Budget::default();
        let (records, bytes) = Kind::Mail.most();
        let take = |key: &str, bytes| budget.take(Kind::Mail, "ana", key, bytes, TTL).is_ok();
        for n in 0..records {
            assert!(take(&n.to_string(), 1));
        }
        assert!(!take("more", 1), "one too many");
        assert!(take("0", 1), "a new value of one that is there");
        budget.free(Kind::Mail, "ana", "1");
        assert!(!take("large", bytes), "too many bytes");
        assert!(take("more", 1));
        for (kind, owner) in [(Kind::Fact, "ana"), (Kind::Mail, "bob")] {
            assert!(budget.take(kind, owner, "k", 1, TTL).is_ok(), "{owner}");
        }
        tokio::time::advance(TTL).await;
        assert!(take("large", bytes), "the others have ended");
    }

    #[tokio::test(start_paused = true)]
    async fn owners_of_nothing_are_forgotten() {
        let budget = Budget::default();
        for n in 0..TIDY_AT * 4 {
            let owner = n.to_string();
            budget.take(Kind::Mail, &owner, "k", 1, TTL).unwrap();
            budget.free(Kind::Mail, &owner, "k");
        }
        assert!(budget.0.lock().unwrap().by_owner.len() <= TIDY_AT);
    }
}
