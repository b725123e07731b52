//! The account of calls, and what tenants may use in a day.
//!
//! A call that has ended is written down before its client is told the answer ([`account`] says what is exact). Calls that
//! end at the same time share a `write`: whoever finds nobody writing writes for all that have come by then; the others
//! wait without holding a thread. A write goes to the kernel's memory, so it takes microseconds; syncing to the disk and
//! folding long journals are done beside the calls.
//!
//! A disk that takes nothing stops no call: what could not be written is kept, within bounds, and written as soon as it
//! can be. Until then a crash loses it, which a gauge and the log tell.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use account::{Book, Day, Entry, Fold, OTHER};
use arc_swap::ArcSwap;
use mcp::{Cause, Failure};
use tokio::sync::watch;

/// Entries that wait to be written; past it they are lost, and counted.
const PENDING_MAX: usize = 65_536;
/// Rounds that a call writes for others before it goes on.
const ROUNDS_MAX: usize = 2;
/// How often the journal is synced to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often other edges' accounts are read, while there are quotas.
const READ_OTHERS_EVERY: Duration = Duration::from_secs(5);
/// Tenants that are told apart for quotas.
const TENANTS_MAX: usize = 100_000;

/// The account of this edge.
#[derive(Debug)]
pub struct Ledger {
    root: PathBuf,
    own: PathBuf,
    pending: Mutex<Pending>,
    /// Whoever has set `Pending::writing` holds it; `None` once it is closed.
    book: Mutex<Option<Book>>,
    written: watch::Sender<u64>,
    unsynced: AtomicBool,
    folding: Mutex<()>,
    failing: AtomicBool,
    lost: AtomicU64,
    quotas: Option<Quotas>,
}

#[derive(Debug, Default)]
struct Pending {
    entries: Vec<Entry>,
    /// Number of the last entry that came.
    last: u64,
    writing: bool,
}

impl Ledger {
    /// Opens the account under the state folder.
    ///
    /// # Errors
    /// When its folder cannot be used.
    pub fn open(
        state: &Path,
        edge: &str,
        settings: &settings::Edge,
        unix_seconds: u64,
    ) -> std::io::Result<Arc<Ledger>> {
        let root = state.join("usage");
        let today = Day::of(unix_seconds);
        let oldest = Day::of(unix_seconds.saturating_sub(settings.usage.retention.as_secs()));
        let book = Book::open(&root, edge, today, oldest)?;
        let quotas = Quotas::new(&settings.quota, book.tenant_costs(), today);
        let ledger = Ledger {
            own: book.folder().to_owned(),
            root,
            pending: Mutex::default(),
            book: Mutex::new(Some(book)),
            written: watch::channel(0).0,
            unsynced: AtomicBool::new(false),
            folding: Mutex::new(()),
            failing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            quotas,
        };
        ledger.read_others(today);
        Ok(Arc::new(ledger))
    }

    /// Takes what a call costs from its tenant's quota of the day, until the call is in the account.
    ///
    /// # Errors
    /// [`Cause::QuotaExceeded`] with the time until the next day.
    pub fn reserve(
        self: &Arc<Ledger>,
        tenant: &str,
        cost: u32,
        unix_seconds: u64,
    ) -> Result<Option<Reservation>, Failure> {
        let Some(quotas) = &self.quotas else {
            return Ok(None);
        };
        let day = Day::of(unix_seconds);
        if !quotas.reserve(tenant, cost.into(), day) {
            let until = day.end().saturating_sub(unix_seconds).max(1);
            return Err(Failure::new(Cause::QuotaExceeded).retry_after(Duration::from_secs(until)));
        }
        Ok(Some(Reservation {
            ledger: Arc::clone(self),
            tenant: tenant.to_owned(),
            cost: cost.into(),
        }))
    }

    /// Writes a call down, or has it written by whoever is writing now; its number, to wait for.
    pub fn note(self: &Arc<Ledger>, entry: Entry, unix_seconds: u64) -> u64 {
        if let Some(quotas) = &self.quotas {
            quotas.used(&entry.tenant, entry.sums.cost, Day::of(unix_seconds));
        }
        let number = {
            let mut pending = self.pending();
            if pending.entries.len() >= PENDING_MAX {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return 0;
            }
            pending.entries.push(entry);
            pending.last += 1;
            if pending.writing {
                return pending.last;
            }
            pending.writing = true;
            pending.last
        };
        if !self.write(ROUNDS_MAX) {
            let ledger = Arc::clone(self);
            tokio::task::spawn_blocking(move || ledger.write(usize::MAX));
        }
        number
    }

    /// Waits until the call of this number is written down.
    pub async fn written(&self, number: u64) {
        if *self.written.borrow() >= number {
            return;
        }
        // The sender is ours, so it cannot be gone.
        let _ = self
            .written
            .subscribe()
            .wait_for(|written| *written >= number)
            .await;
    }

    /// Entries that are not written yet, and those that were lost since the start.
    #[must_use]
    pub fn unwritten(&self) -> (usize, u64) {
        (
            self.pending().entries.len(),
            self.lost.load(Ordering::Relaxed),
        )
    }

    /// Tenants that have passed their soft quota, counted once a day each.
    #[must_use]
    pub fn soft_passed(&self) -> u64 {
        self.quotas
            .as_ref()
            .map_or(0, |quotas| quotas.soft_passed.load(Ordering::Relaxed))
    }

    /// Syncs to the disk, tries again what could not be written, and reads what other edges have counted, for as long as the
    /// process runs.
    pub async fn follow(self: Arc<Ledger>) {
        let mut every = tokio::time::interval(SYNC_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seconds = 0_u64;
        loop {
            every.tick().await;
            seconds += SYNC_EVERY.as_secs();
            let others = seconds.is_multiple_of(READ_OTHERS_EVERY.as_secs());
            let ledger = Arc::clone(&self);
            let done = tokio::task::spawn_blocking(move || {
                ledger.sync();
                ledger.try_again();
                if others {
                    ledger.read_others(Day::of(registry::unix_ms() / 1000));
                }
            });
            // It ends by itself, or with the process.
            let _ = done.await;
        }
    }

    /// Ends the account: nothing is noted after it.
    pub fn close(&self) {
        let Some(book) = self.book().take() else {
            return;
        };
        let _one = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = book.close() {
            tracing::warn!(%error, "the account stays as journal; the next start folds it");
        }
    }

    /// Writes what is pending until there is nothing, or for `rounds`; whether there is nothing. Only for whoever has set
    /// `Pending::writing`.
    fn write(self: &Arc<Ledger>, rounds: usize) -> bool {
        for _ in 0..rounds {
            let (entries, last) = {
                let mut pending = self.pending();
                if pending.entries.is_empty() {
                    pending.writing = false;
                    return true;
                }
                (std::mem::take(&mut pending.entries), pending.last)
            };
            let day = Day::of(registry::unix_ms() / 1000);
            let result = match &mut *self.book() {
                Some(book) => book.write(day, &entries),
                None => Ok(None),
            };
            // Whatever came of it, nobody waits for a disk.
            self.written.send_replace(last);
            match result {
                Ok(fold) => {
                    self.failing.store(false, Ordering::Relaxed);
                    self.unsynced.store(true, Ordering::Relaxed);
                    if let Some(fold) = fold {
                        self.fold(fold);
                    }
                }
                Err(error) => {
                    if !self.failing.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, "the account of calls cannot be written; it is kept in memory");
                    }
                    let mut pending = self.pending();
                    let mut entries = entries;
                    entries.append(&mut pending.entries);
                    pending.entries = entries;
                    pending.writing = false;
                    return true;
                }
            }
        }
        false
    }

    fn try_again(self: &Arc<Ledger>) {
        {
            let mut pending = self.pending();
            if pending.writing || pending.entries.is_empty() {
                return;
            }
            pending.writing = true;
        }
        self.write(usize::MAX);
    }

    fn fold(self: &Arc<Ledger>, fold: Fold) {
        let ledger = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _one = ledger
                .folding
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = fold.run() {
                tracing::warn!(%error, "a journal of calls was not folded; the next time folds it too");
            }
        });
    }

    fn sync(&self) {
        if !self.unsynced.swap(false, Ordering::Relaxed) {
            return;
        }
        let file = self.book().as_ref().map(Book::file);
        if let Some(Err(error)) = file.map(|file| file.sync_data()) {
            tracing::warn!(%error, "the account of calls is not on the disk yet");
        }
    }

    fn read_others(&self, day: Day) {
        let Some(quotas) = &self.quotas else { return };
        match account::read_day(&self.root, day, Some(&self.own)) {
            Ok(costs) => quotas.others.store(Arc::new((day, costs))),
            Err(error) => tracing::warn!(%error, "other edges' accounts cannot be read"),
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Each change leaves it whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Option<Book>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call will cost its tenant; given back when dropped, by when the call is in the account or never will be.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    tenant: String,
    cost: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(quotas) = &self.ledger.quotas {
            quotas.release(&self.tenant, self.cost);
        }
    }
}

/// What tenants may use in a day, and have used.
#[derive(Debug)]
struct Quotas {
    hard: Bounds,
    soft: Bounds,
    tenants: Mutex<HashMap<String, Standing>>,
    /// What other edges have counted, and for which day.
    others: ArcSwap<(Day, HashMap<String, u64>)>,
    soft_passed: AtomicU64,
}

/// Units by tenant; `*` for all that are not named.
#[derive(Debug)]
struct Bounds(BTreeMap<String, u64>);

impl Bounds {
    fn of(&self, tenant: &str) -> Option<u64> {
        self.0.get(tenant).or_else(|| self.0.get("*")).copied()
    }
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    day: Day,
    used: u64,
    reserved: u64,
    warned: bool,
}

impl Quotas {
    fn new(
        settings: &settings::EdgeQuota,
        used: HashMap<String, u64>,
        today: Day,
    ) -> Option<Quotas> {
        if settings.hard.is_empty() && settings.soft.is_empty() {
            return None;
        }
        let standing = |(tenant, used)| {
            let standing = Standing {
                day: today,
                used,
                reserved: 0,
                warned: false,
            };
            (tenant, standing)
        };
        Some(Quotas {
            hard: Bounds(settings.hard.clone()),
            soft: Bounds(settings.soft.clone()),
            tenants: Mutex::new(used.into_iter().map(standing).collect()),
            others: ArcSwap::from_pointee((today, HashMap::new())),
            soft_passed: AtomicU64::new(0),
        })
    }

    /// Whether the tenant may use so much more today; if so, it is reserved.
    fn reserve(&self, tenant: &str, cost: u64, day: Day) -> bool {
        let others = self.others(tenant, day);
        self.with(tenant, Some(day), |standing| {
            let all = standing.used + standing.reserved + others + cost;
            if self.hard.of(tenant).is_some_and(|hard| all > hard) {
                return false;
            }
            standing.reserved += cost;
            true
        })
    }

    fn release(&self, tenant: &str, cost: u64) {
        self.with(tenant, None, |standing| {
            standing.reserved = standing.reserved.saturating_sub(cost);
        });
    }

    fn used(&self, tenant: &str, cost: u64, day: Day) {
        let others = self.others(tenant, day);
        let passed = self.with(tenant, Some(day), |standing| {
            standing.used += cost;
            let soft = self.soft.of(tenant).filter(|_| !standing.warned);
            let passed = soft.filter(|soft| standing.used + others > *soft);
            standing.warned |= passed.is_some();
            passed
        });
        if let Some(quota) = passed {
            self.soft_passed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                tenant,
                quota,
                "a tenant has passed its soft quota for today"
            );
        }
    }

    fn others(&self, tenant: &str, day: Day) -> u64 {
        let others = self.others.load();
        if others.0 == day {
            others.1.get(tenant).copied().unwrap_or(0)
        } else {
            0
        }
    }

    /// Works on a tenant's standing, which begins anew with each `day`.
    fn with<T>(&self, tenant: &str, day: Option<Day>, work: impl FnOnce(&mut Standing) -> T) -> T {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let tenant = if tenants.contains_key(tenant) || tenants.len() < TENANTS_MAX {
            tenant
        } else {
            OTHER
        };
        let standing = tenants.entry(tenant.to_owned()).or_insert(Standing {
            day: day.unwrap_or(Day(0)),
            used: 0,
            reserved: 0,
            warned: false,
        });
        if let Some(day) = day.filter(|day| *day > standing.day) {
            (standing.day, standing.used, standing.warned) = (day, 0, false);
        }
        work(standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use account::Sums;

    const NOON: u64 = 20_781 * 86_400 + 43_200;

    fn edge(more: &str) -> settings::Edge {
        settings::load_str(more, std::iter::empty())
            .unwrap()
            .settings
            .edge
    }

    fn entry(tenant: &str, cost: u64) -> Entry {
        Entry {
            tenant: tenant.to_owned(),
            subject: "s".to_owned(),
            tool: "t".to_owned(),
            sums: Sums {
                calls: 1,
                cost,
                ..Sums::default()
            },
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn all_calls_are_written_when_they_are_answered() {
        let state = tempfile::tempdir().unwrap();
        let now = registry::unix_ms() / 1000;
        let ledger = Ledger::open(state.path(), "edge-1", &edge(""), now).unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let ledger = Arc::clone(&ledger);
                tokio::spawn(async move {
                    for _ in 0..500 {
                        let number = ledger.note(entry("a", 1), now);
                        ledger.written(number).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let calls = || -> u64 {
            let accounts = account::read(&state.path().join("usage"), Day(0)).unwrap();
            accounts
                .values()
                .flat_map(HashMap::values)
                .map(|sums| sums.calls)
                .sum()
        };
        assert_eq!((calls(), ledger.unwritten()), (4000, (0, 0)));
        ledger.close();
        assert_eq!(calls(), 4000);
    }

    #[tokio::test]
    async fn a_hard_quota_holds_over_calls_under_way_restarts_and_edges() {
        let state = tempfile::tempdir().unwrap();
        let now = registry::unix_ms() / 1000;
        let settings = edge("[edge.quota]\nhard = { acme = 10, \"*\" = 3 }\nsoft = { acme = 5 }\n");
        let ledger = Ledger::open(state.path(), "edge-1", &settings, now).unwrap();
        let first = ledger.reserve("acme", 6, now).unwrap();
        assert!(ledger.reserve("acme", 5, now).is_err());
        ledger.note(entry("acme", 6), now);
        drop(first);
        assert_eq!(ledger.soft_passed(), 1);
        // What was reserved and not used is free again.
        drop(ledger.reserve("acme", 4, now).unwrap());
        let refused = ledger.reserve("other", 4, now).unwrap_err();
        assert_eq!(refused.cause, Cause::QuotaExceeded);
        assert!(refused.retry_after.unwrap() <= Duration::from_secs(86_400));
        drop(ledger);
        // Killed and started again, and another edge beside it.
        let ledger = Ledger::open(state.path(), "edge-1", &settings, now).unwrap();
        assert!(ledger.reserve("acme", 5, now).is_err());
        let second = Ledger::open(state.path(), "edge-2", &settings, now).unwrap();
        assert!(second.reserve("acme", 5, now).is_err());
        assert!(second.reserve("acme", 4, now).is_ok());
    }

    #[test]
    fn a_quota_begins_anew_each_day() {
        let settings = edge("[edge.quota]\nhard = { \"*\" = 3 }\n").quota;
        let today = Day::of(NOON);
        let quotas = Quotas::new(&settings, HashMap::new(), today).unwrap();
        quotas.used("a", 3, today);
        assert!(!quotas.reserve("a", 1, today));
        assert!(quotas.reserve("a", 3, Day(today.0 + 1)));
        assert!(Quotas::new(&edge("").quota, HashMap::new(), today).is_none());
    }
}
