//! A token bucket per principal, over a bounded number of principals.
//!
//! Each principal's bucket is one number (see `gcra`), and a bucket that has refilled is the same as none, so idle
//! principals are forgotten without loss. The map never holds more than `principals_max` buckets: when it is full of
//! principals that are all active, newcomers **share one overflow bucket** and are counted. An attacker with many
//! identities then slows other newcomers down, but neither known principals nor the memory.
//!
//! Within any window, a principal passes at most `burst` + rate × window; once its burst is spent, a greedy one passes the
//! set rate within 1 % (HTTP-16).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::dice::mix;
use crate::epoch::Epoch;
use crate::gcra::{Decision, Gcra, SharedBucket};

/// Shards are worth their while only when each holds at least this many principals.
const SHARD_LEN_MIN: usize = 256;
const SHARDS_MAX: usize = 64;
/// A map smaller than this is not worth sweeping.
const SWEEP_LEN_MIN: usize = 64;
/// A full shard is searched for refilled buckets at most this often (nanoseconds), so that a flood of new principals
/// cannot make every call pay for a search.
const SWEEP_INTERVAL: u64 = 100_000_000;

/// What the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Tokens that grow in one `period`.
    pub rate: u32,
    /// The period of `rate`.
    pub period: Duration,
    /// Tokens in a full bucket.
    pub burst: u32,
    /// Most principals with a bucket of their own. Spread over shards, so that one shard may be full a little earlier.
    pub principals_max: usize,
}

impl Rules {
    /// Rules for `rate` tokens a second, 100,000 principals.
    #[must_use]
    pub fn per_second(rate: u32, burst: u32) -> Self {
        Self {
            rate,
            period: Duration::from_secs(1),
            burst,
            principals_max: 100_000,
        }
    }
}

/// The rules cannot be obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a limit of {rate} per {period:?} with a burst of {burst} is out of range: from 1 token up, at most 1,000,000 a second, filled within 146 years"
)]
pub struct RulesError {
    rate: u32,
    period: Duration,
    burst: u32,
}

/// The bucket after the decision: what `RateLimit` headers report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Tokens in a full bucket.
    pub limit: u32,
    /// Whole tokens left.
    pub remaining: u32,
    /// Time until the bucket is full again.
    pub reset: Duration,
}

/// May the call go on?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The tokens were taken.
    Allow(Standing),
    /// No token was taken.
    Deny {
        /// Time after which the same call would pass; `None` if it costs more than a full bucket and so never would.
        retry_after: Option<Duration>,
        /// The bucket as it stands.
        standing: Standing,
    },
}

impl Verdict {
    /// Whether the call may go on.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The bucket after the decision.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self {
            Self::Allow(standing) | Self::Deny { standing, .. } => *standing,
        }
    }
}

/// The buckets of all principals.
#[derive(Debug)]
pub struct Limiter {
    gcra: Gcra,
    epoch: Epoch,
    shards: Box<[Shard]>,
    overflow: SharedBucket,
    overflowed: AtomicU64,
}

/// One lock's worth of buckets, on its own cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Shard(Mutex<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// Principal to TAT.
    tats: HashMap<u64, u64, BuildHasherDefault<Prehashed>>,
    len_max: usize,
    /// Length at which the next insertion sweeps: twice what the last sweep left, so that sweeping costs O(1) a call.
    sweep_len: usize,
    swept_at: u64,
}

impl Limiter {
    /// Builds the limiter at `now`.
    ///
    /// # Errors
    /// [`RulesError`] when a figure is zero or out of range.
    pub fn new(rules: Rules, now: Instant) -> Result<Self, RulesError> {
        let Rules {
            rate,
            period,
            burst,
            principals_max,
        } = rules;
        let gcra = Gcra::new(rate, period, burst).ok_or(RulesError {
            rate,
            period,
            burst,
        })?;
        let shards = (principals_max / SHARD_LEN_MIN).clamp(1, SHARDS_MAX);
        let len_max = principals_max / shards;
        Ok(Self {
            gcra,
            epoch: Epoch::new(now),
            shards: (0..shards)
                .map(|_| Shard(Mutex::new(Buckets::new(len_max))))
                .collect(),
            overflow: SharedBucket::default(),
            overflowed: AtomicU64::new(0),
        })
    }

    /// Takes `cost` tokens from the bucket of `principal`, or none.
    ///
    /// `principal` is a hash of the principal's name. It must be keyed with a secret (as `std`'s `RandomState` is):
    /// principals whose hashes collide share a bucket.
    pub fn check(&self, principal: u64, cost: u32, now: Instant) -> Verdict {
        let now = self.epoch.nanos(now);
        let taken = self.shard(principal).take(&self.gcra, principal, cost, now);
        let (decision, tat) = taken.unwrap_or_else(|| {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            self.overflow.take(&self.gcra, now, cost)
        });
        self.verdict(decision, tat, now)
    }

    /// Principals that have a bucket of their own now; some may have refilled and wait to be forgotten.
    #[must_use]
    pub fn principals(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().tats.len())
            .sum()
    }

    /// Calls that were decided by the shared overflow bucket since the start.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Time in which an empty bucket becomes full: the window of a `RateLimit-Policy` header.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.gcra.fill_time()
    }

    fn shard(&self, principal: u64) -> MutexGuard<'_, Buckets> {
        // The map below uses the raw bits; the shard must not depend on the same ones.
        let index = crate::dice::scale(mix(principal), self.shards.len() as u64);
        self.shards[index as usize].lock()
    }

    fn verdict(&self, decision: Decision, tat: u64, now: u64) -> Verdict {
        let standing = Standing {
            limit: self.gcra.burst(),
            remaining: self.gcra.remaining(tat, now),
            reset: Duration::from_nanos(tat.saturating_sub(now)),
        };
        match decision {
            Decision::Pass { .. } => Verdict::Allow(standing),
            Decision::Refuse { wait } => Verdict::Deny {
                retry_after: wait.map(Duration::from_nanos),
                standing,
            },
        }
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Buckets> {
        // Nothing panics while the lock is held, and a bucket is valid at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn new(len_max: usize) -> Self {
        Self {
            tats: HashMap::default(),
            len_max,
            sweep_len: SWEEP_LEN_MIN.min(len_max),
            swept_at: 0,
        }
    }

    /// Decides with the principal's own bucket; `None` if it has none and there is no room for one.
    fn take(
        &mut self,
        gcra: &Gcra,
        principal: u64,
        cost: u32,
        now: u64,
    ) -> Option<(Decision, u64)> {
        if let Some(tat) = self.tats.get_mut(&principal) {
            let decision = gcra.decide(*tat, now, cost);
            if let Decision::Pass { tat: next } = decision {
                *tat = next;
            }
            return Some((decision, *tat));
        }
        match gcra.decide(0, now, cost) {
            // Nothing is taken from a full bucket, so there is nothing to remember.
            decision @ Decision::Pass { tat } if tat == now => Some((decision, tat)),
            decision @ Decision::Refuse { .. } => Some((decision, now)),
            decision @ Decision::Pass { tat } => {
                self.make_room(now)
                    .then(|| self.tats.insert(principal, tat))?;
                Some((decision, tat))
            }
        }
    }

    /// Forgets refilled buckets when that is due; says whether there is room for one more.
    fn make_room(&mut self, now: u64) -> bool {
        let full = self.tats.len() >= self.len_max;
        let rested = self.swept_at == 0 || now.saturating_sub(self.swept_at) >= SWEEP_INTERVAL;
        if self.tats.len() >= self.sweep_len && (!full || rested) {
            self.tats.retain(|_, tat| *tat > now);
            self.sweep_len = (self.tats.len() * 2).max(SWEEP_LEN_MIN).min(self.len_max);
            self.swept_at = now;
        }
        self.tats.len() < self.len_max
    }
}

/// Passes a key through that is a hash already.
#[derive(Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = mix(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter(rate: u32, burst: u32, principals_max: usize) -> (Limiter, Instant) {
        let now = Instant::now();
        let rules = Rules {
            principals_max,
            ..Rules::per_second(rate, burst)
        };
        (Limiter::new(rules, now).unwrap(), now)
    }

    /// Calls that pass in `window` when the principal calls again as soon as it is told to.
    fn greedy(limiter: &Limiter, from: Instant, window: Duration) -> u32 {
        let mut passed = 0;
        let mut now = from;
        while now < from + window {
            match limiter.check(1, 1, now) {
                Verdict::Allow(_) => passed += 1,
                Verdict::Deny { retry_after, .. } => now += retry_after.unwrap(),
            }
        }
        passed
    }

    #[test]
    fn http_16_the_rate_holds_within_one_percent_in_every_window() {
        for rate in [1, 7, 200, 3_333, 20_000] {
            for window_s in [1, 10, 60] {
                let (limiter, start) = limiter(rate, 50, 10);
                while limiter.check(1, 1, start).is_allowed() {}
                let passed = f64::from(greedy(&limiter, start, SECOND * window_s));
                let expect = f64::from(rate * window_s);
                // A window may begin just before a token is due: one token either way.
                assert!(
                    (passed - expect).abs() <= (expect * 0.01).max(1.0),
                    "{passed} for {expect} in {window_s} s"
                );
            }
        }
    }

    #[test]
    fn verdicts_carry_what_the_headers_need() {
        let (limiter, start) = limiter(10, 20, 10);
        let standing = |remaining, reset_ms| Standing {
            limit: 20,
            remaining,
            reset: Duration::from_millis(reset_ms),
        };
        for (after_ms, cost, expect) in [
            (0, 0, Verdict::Allow(standing(20, 0))),
            (0, 1, Verdict::Allow(standing(19, 100))),
            (
                0,
                21,
                Verdict::Deny {
                    retry_after: None,
                    standing: standing(19, 100),
                },
            ),
            (0, 19, Verdict::Allow(standing(0, 2_000))),
            (
                0,
                1,
                Verdict::Deny {
                    retry_after: Some(Duration::from_millis(100)),
                    standing: standing(0, 2_000),
                },
            ),
            (
                50,
                5,
                Verdict::Deny {
                    retry_after: Some(Duration::from_millis(450)),
                    standing: standing(0, 1_950),
                },
            ),
            (500, 5, Verdict::Allow(standing(0, 2_000))),
            (60_000, 1, Verdict::Allow(standing(19, 100))),
        ] {
            let verdict = limiter.check(7, cost, start + Duration::from_millis(after_ms));
            assert_eq!(verdict, expect, "{cost} tokens at {after_ms} ms");
        }
        assert_eq!(limiter.window(), 2 * SECOND);
        assert!(
            limiter.check(8, 20, start).is_allowed(),
            "another principal has its own bucket"
        );
    }

    #[test]
    fn a_flood_of_principals_shares_one_bucket_and_leaves_known_ones_alone() {
        let (limiter, start) = limiter(1, 2, 100);
        for principal in 0..100 {
            assert!(limiter.check(principal, 1, start).is_allowed());
        }
        let newcomers = (1_000..11_000)
            .filter(|&principal| limiter.check(principal, 1, start).is_allowed())
            .count();
        assert_eq!(
            (newcomers, limiter.principals(), limiter.overflowed()),
            (2, 100, 10_000)
        );
        assert!((0..100).all(|principal| limiter.check(principal, 1, start).is_allowed()));

        // Once the known ones have refilled, newcomers get buckets of their own again.
        let later = start + 3 * SECOND;
        assert!((2_000..2_100).all(|principal| limiter.check(principal, 2, later).is_allowed()));
        assert_eq!((limiter.principals(), limiter.overflowed()), (100, 10_000));
    }

    #[test]
    fn idle_principals_are_forgotten_long_before_the_map_is_full() {
        let (limiter, start) = limiter(100, 10, 1_000_000);
        for second in 0..50 {
            for principal in 0..2_000 {
                let key = mix(second * 2_000 + principal);
                assert!(
                    limiter
                        .check(key, 1, start + SECOND * u32::try_from(second).unwrap())
                        .is_allowed()
                );
            }
        }
        assert!(limiter.principals() < 10_000, "{}", limiter.principals());
        assert_eq!(limiter.overflowed(), 0);
    }

    #[test]
    fn large_maps_use_nearly_all_of_their_room() {
        let (limiter, start) = limiter(1, 1, 100_000);
        for principal in 0..90_000 {
            assert!(limiter.check(mix(principal), 1, start).is_allowed());
        }
        assert!(limiter.overflowed() < 10, "{}", limiter.overflowed());
    }

    #[test]
    fn rules_out_of_range_are_refused() {
        let now = Instant::now();
        for rules in [
            Rules::per_second(0, 1),
            Rules::per_second(1, 0),
            Rules::per_second(u32::MAX, 1),
        ] {
            assert!(Limiter::new(rules, now).is_err(), "{rules:?}");
        }
    }

    proptest! {
        #[test]
        fn no_window_passes_more_than_the_burst_and_the_rate(
            rate in 1_u32..500,
            burst in 1_u32..50,
            calls in prop::collection::vec((0_u64..200_000_000, 0_u32..5), 1..200),
        ) {
            let (limiter, start) = limiter(rate, burst, 1);
            let mut now = Duration::ZERO;
            let mut passed: Vec<(Duration, u32)> = Vec::new();
            for (gap, cost) in calls {
                now += Duration::from_nanos(gap);
                let verdict = limiter.check(1, cost, start + now);
                prop_assert!(verdict.standing().remaining <= burst);
                if verdict.is_allowed() {
                    passed.push((now, cost));
                }
            }
            for (first, &(from, _)) in passed.iter().enumerate() {
                let mut tokens = 0;
                for &(to, cost) in &passed[first..] {
                    tokens += cost;
                    let most = f64::from(burst) + f64::from(rate) * (to - from).as_secs_f64();
                    prop_assert!(f64::from(tokens) <= most + 0.001, "{} > {}", tokens, most);
                }
            }
        }

        #[test]
        fn waiting_as_told_is_enough(rate in 1_u32..1_000, burst in 1_u32..50, cost in 1_u32..50) {
            let (limiter, start) = limiter(rate, burst, 1);
            limiter.check(1, burst, start);
            match limiter.check(1, cost, start) {
                Verdict::Deny { retry_after: Some(wait), .. } => {
                    prop_assert!(!limiter.check(1, cost, start + wait - Duration::from_nanos(1)).is_allowed());
                    prop_assert!(limiter.check(1, cost, start + wait).is_allowed());
                }
                Verdict::Deny { retry_after: None, .. } => prop_assert!(cost > burst),
                Verdict::Allow(_) => prop_assert!(false, "an empty bucket passed {} tokens", cost),
            }
        }
    }
}
