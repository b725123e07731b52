//! The attempt failed: is there to be another one, and when?
//!
//! Two rules come before everything else. **A call that is not marked safe to repeat is repeated only when certainly
//! nothing of it was sent**; a lost answer does not prove that nothing was done. And **retries are paid from a budget**
//! (BRG-08): each call earns a fraction of a retry, so when everything fails, the fleet sees a fifth more calls and not
//! three times as many. A small floor lets a quiet gateway retry at all.
//!
//! The wait before an attempt is drawn evenly from zero to an exponentially growing bound ("full jitter"), so that callers
//! that failed together do not come back together. A `Retry-After` of the instance is a lower bound on the wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::epoch::Epoch;
use crate::gcra::{Decision, Gcra, SharedBucket};

/// What the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Most attempts for one call, the first one included.
    pub attempts_max: u32,
    /// Upper bound of the wait before the first retry; it doubles with each further one.
    pub backoff: Duration,
    /// Upper bound of every wait.
    pub backoff_max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            backoff: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
        }
    }
}

/// Whether doing the call twice does harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, or doing it twice is the same as doing it once.
    Safe,
    /// It may change something each time: the default for a tool without hints.
    Unsafe,
}

/// What became of the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// The connection could not be made: certainly not a byte of the call was sent.
    NotSent,
    /// Something may have been sent, and no whole answer came: broken connection or timeout.
    NoAnswer,
    /// The instance answered.
    Answered {
        /// HTTP status.
        status: u16,
        /// The wait that it asks for.
        retry_after: Option<Duration>,
    },
}

/// What the call brings.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// What became of the last attempt.
    pub happened: Happened,
    /// Whether the call may be done twice.
    pub repeat: Repeat,
    /// Attempts made so far, at least 1.
    pub attempts: u32,
    /// Time until the call's deadline.
    pub deadline_left: Duration,
    /// Entropy for the jitter.
    pub random: u64,
    /// The present.
    pub now: Instant,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again after this wait, if possible elsewhere. The budget has been charged.
    Retry {
        /// The wait; shorter than the time left.
        after: Duration,
    },
    /// Pass on what there is.
    GiveUp(Reason),
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is an answer that another attempt would not better.
    Final,
    /// The call may have been done, and doing it twice could do harm.
    Unsafe,
    /// All attempts were made.
    Attempts,
    /// The deadline would pass before the next attempt.
    Deadline,
    /// Too many calls are being retried already.
    Budget,
}

/// Decides whether and when to try again, and charges `budget` if so.
#[must_use]
pub fn next(rules: &Rules, budget: &Budget, facts: &Facts) -> Next {
    let asked = match permitted(facts.happened, facts.repeat) {
        Ok(asked) => asked,
        Err(reason) => return Next::GiveUp(reason),
    };
    if facts.attempts >= rules.attempts_max {
        return Next::GiveUp(Reason::Attempts);
    }
    let after = backoff(rules, facts.attempts, facts.random).max(asked);
    if after >= facts.deadline_left {
        return Next::GiveUp(Reason::Deadline);
    }
    if !budget.withdraw(facts.now) {
        return Next::GiveUp(Reason::Budget);
    }
    Next::Retry { after }
}

/// Says whether what happened allows another attempt at all, and if so, the shortest wait that the instance asks for.
fn permitted(happened: Happened, repeat: Repeat) -> Result<Duration, Reason> {
    match (happened, repeat) {
        (Happened::NotSent, _) => Ok(Duration::ZERO),
        (Happened::NoAnswer, Repeat::Safe) => Ok(Duration::ZERO),
        (
            Happened::Answered {
                status: 429 | 502 | 503 | 504,
                retry_after,
            },
            Repeat::Safe,
        ) => Ok(retry_after.unwrap_or_default()),
        (Happened::NoAnswer, Repeat::Unsafe) => Err(Reason::Unsafe),
        (
            Happened::Answered {
                status: 429 | 502 | 503 | 504,
                ..
            },
            Repeat::Unsafe,
        ) => Err(Reason::Unsafe),
        (Happened::Answered { .. }, _) => Err(Reason::Final),
    }
}

/// Draws the wait before the attempt that follows `attempts` attempts: even over zero to the exponential bound.
fn backoff(rules: &Rules, attempts: u32, random: u64) -> Duration {
    let factor = 1_u32
        .checked_shl(attempts.saturating_sub(1))
        .unwrap_or(u32::MAX);
    let bound = rules.backoff.saturating_mul(factor).min(rules.backoff_max);
    bound.mul_f64(Dice::new(random).unit())
}

/// What the operator sets for the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetRules {
    /// Retries that 100 calls earn.
    pub percent: u32,
    /// Retries a second that are free of charge, so that a quiet gateway can retry.
    pub floor_per_second: u32,
    /// Most earned retries that can be saved up: what a sudden failure may spend at once.
    pub saved_max: u32,
}

impl Default for BudgetRules {
    fn default() -> Self {
        Self {
            percent: 20,
            floor_per_second: 10,
            saved_max: 250,
        }
    }
}

/// The retries that all calls of this gateway may make together: over any time, at most `saved_max` + `percent` of the
/// calls + the floor.
#[derive(Debug)]
pub struct Budget {
    epoch: Epoch,
    percent: u64,
    /// Savings in hundredths of a retry.
    saved: AtomicU64,
    saved_max: u64,
    floor: Option<Gcra>,
    floor_bucket: SharedBucket,
}

/// One retry, in the unit of the savings.
const RETRY: u64 = 100;

impl Budget {
    /// Starts at `now` with nothing saved but a second's floor.
    #[must_use]
    pub fn new(rules: BudgetRules, now: Instant) -> Self {
        let floor = rules.floor_per_second;
        Self {
            epoch: Epoch::new(now),
            percent: u64::from(rules.percent),
            saved: AtomicU64::new(0),
            saved_max: u64::from(rules.saved_max) * RETRY,
            floor: Gcra::new(floor, Duration::from_secs(1), floor),
            floor_bucket: SharedBucket::default(),
        }
    }

    /// Earns for one call. Once for each call, not for its retries.
    pub fn deposit(&self) {
        let earn = |saved: u64| {
            (saved < self.saved_max).then(|| (saved + self.percent).min(self.saved_max))
        };
        // An error means that the savings are full, which is as it should be.
        let _ = self
            .saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
    }

    /// Whole retries that are saved up.
    #[must_use]
    pub fn saved(&self) -> u64 {
        self.saved.load(Ordering::Relaxed) / RETRY
    }

    /// Takes one retry from the savings, or else from the floor.
    fn withdraw(&self, now: Instant) -> bool {
        let spend = |saved: u64| saved.checked_sub(RETRY);
        if self
            .saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_ok()
        {
            return true;
        }
        self.floor.is_some_and(|floor| {
            let (decision, _) = self.floor_bucket.take(&floor, self.epoch.nanos(now), 1);
            matches!(decision, Decision::Pass { .. })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn facts(happened: Happened, repeat: Repeat, now: Instant) -> Facts {
        Facts {
            happened,
            repeat,
            attempts: 1,
            deadline_left: 30 * SECOND,
            random: 1,
            now,
        }
    }

    fn status(status: u16) -> Happened {
        Happened::Answered {
            status,
            retry_after: None,
        }
    }

    #[test]
    fn only_what_can_do_no_harm_is_repeated() {
        use Repeat::{Safe, Unsafe};
        let now = Instant::now();
        let budget = Budget::new(BudgetRules::default(), now);
        for (happened, repeat, expect) in [
            (Happened::NotSent, Safe, None),
            (Happened::NotSent, Unsafe, None),
            (Happened::NoAnswer, Safe, None),
            (Happened::NoAnswer, Unsafe, Some(Reason::Unsafe)),
            (status(503), Safe, None),
            (status(502), Safe, None),
            (status(504), Safe, None),
            (status(429), Safe, None),
            (status(503), Unsafe, Some(Reason::Unsafe)),
            (status(429), Unsafe, Some(Reason::Unsafe)),
            (status(200), Safe, Some(Reason::Final)),
            (status(200), Unsafe, Some(Reason::Final)),
            (status(400), Safe, Some(Reason::Final)),
            (status(500), Safe, Some(Reason::Final)),
        ] {
            let verdict = next(&Rules::default(), &budget, &facts(happened, repeat, now));
            let reason = match verdict {
                Next::GiveUp(reason) => Some(reason),
                Next::Retry { .. } => None,
            };
            assert_eq!(reason, expect, "{happened:?} {repeat:?}");
        }
    }

    #[test]
    fn attempts_deadline_and_retry_after_bound_the_next_attempt() {
        let now = Instant::now();
        let rules = Rules::default();
        let busy = |seconds| Happened::Answered {
            status: 503,
            retry_after: Some(SECOND * seconds),
        };
        for (happened, attempts, left, expect) in [
            (
                Happened::NotSent,
                3,
                30 * SECOND,
                Next::GiveUp(Reason::Attempts),
            ),
            (
                Happened::NotSent,
                9,
                30 * SECOND,
                Next::GiveUp(Reason::Attempts),
            ),
            (
                Happened::NotSent,
                1,
                Duration::ZERO,
                Next::GiveUp(Reason::Deadline),
            ),
            (busy(2), 1, 30 * SECOND, Next::Retry { after: 2 * SECOND }),
            (busy(2), 1, 2 * SECOND, Next::GiveUp(Reason::Deadline)),
        ] {
            let budget = Budget::new(BudgetRules::default(), now);
            let facts = Facts {
                attempts,
                deadline_left: left,
                ..facts(happened, Repeat::Safe, now)
            };
            assert_eq!(
                next(&rules, &budget, &facts),
                expect,
                "{happened:?} after {attempts}, {left:?} left"
            );
        }
    }

    #[test]
    fn waits_are_spread_over_the_whole_growing_range() {
        let rules = Rules {
            backoff: SECOND,
            backoff_max: 5 * SECOND,
            ..Rules::default()
        };
        for (attempts, bound_s) in [
            (1, 1.0),
            (2, 2.0),
            (3, 4.0),
            (4, 5.0),
            (40, 5.0),
            (u32::MAX, 5.0),
        ] {
            let waits: Vec<f64> = (0..2_000)
                .map(|seed| backoff(&rules, attempts, seed).as_secs_f64() / bound_s)
                .collect();
            let mean = waits.iter().sum::<f64>() / 2_000.0;
            assert!(
                waits.iter().all(|wait| (0.0..=1.0).contains(wait)),
                "after {attempts}"
            );
            assert!(
                (0.47..0.53).contains(&mean),
                "after {attempts}: mean {mean}"
            );
            assert!(waits.iter().any(|wait| *wait < 0.01) && waits.iter().any(|wait| *wait > 0.99));
        }
    }

    /// Retries that are granted when every one of `per_second` calls fails, for `seconds`.
    fn outage(rules: BudgetRules, per_second: u32, seconds: u32) -> u32 {
        let start = Instant::now();
        let budget = Budget::new(rules, start);
        let mut retries = 0;
        for call in 0..per_second * seconds {
            budget.deposit();
            let now = start + SECOND * call / per_second;
            for attempts in 1..=2 {
                let facts = Facts {
                    attempts,
                    ..facts(Happened::NotSent, Repeat::Safe, now)
                };
                retries += u32::from(matches!(
                    next(&Rules::default(), &budget, &facts),
                    Next::Retry { .. }
                ));
            }
        }
        retries
    }

    #[test]
    fn brg_08_an_outage_is_not_amplified() {
        let default = BudgetRules::default();
        let no_floor = BudgetRules {
            floor_per_second: 0,
            ..default
        };
        let nothing = BudgetRules {
            percent: 0,
            ..no_floor
        };
        // 20 % of 60,000 calls, and without savings at the start nothing more.
        assert_eq!(outage(no_floor, 1_000, 60), 12_000);
        assert_eq!(outage(nothing, 1_000, 60), 0);
        // The floor adds ten a second, and a second's worth at the start.
        let retries = outage(default, 1_000, 60);
        assert!((12_590..=12_612).contains(&retries), "{retries}");
        // A quiet gateway retries whatever it likes.
        assert_eq!(outage(default, 2, 60), 2 * 2 * 60);
    }

    #[test]
    fn savings_are_bounded() {
        let now = Instant::now();
        let budget = Budget::new(
            BudgetRules {
                percent: 30,
                floor_per_second: 0,
                saved_max: 5,
            },
            now,
        );
        (0..1_000).for_each(|_| budget.deposit());
        assert_eq!(budget.saved(), 5);
        assert_eq!((0..10).filter(|_| budget.withdraw(now)).count(), 5);
    }

    proptest! {
        #[test]
        fn an_unsafe_call_is_repeated_only_if_nothing_was_sent(
            code in 100_u16..600, sent: bool, answered: bool, attempts in 1_u32..5, random: u64, left_ms in 0_u64..5_000,
        ) {
            let now = Instant::now();
            let budget = Budget::new(BudgetRules::default(), now);
            let happened = match (sent, answered) {
                (false, _) => Happened::NotSent,
                (true, false) => Happened::NoAnswer,
                (true, true) => status(code),
            };
            let deadline_left = Duration::from_millis(left_ms);
            let facts = Facts { attempts, random, deadline_left, ..facts(happened, Repeat::Unsafe, now) };
            if let Next::Retry { after } = next(&Rules::default(), &budget, &facts) {
                prop_assert!(!sent);
                prop_assert!(after < deadline_left && attempts < 3);
            }
        }
    }
}
