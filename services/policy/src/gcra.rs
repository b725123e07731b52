//! The token bucket as one number: the generic cell rate algorithm (ITU-T I.371, virtual scheduling).
//!
//! A bucket is described by its *theoretical arrival time* (TAT): the moment at which it will be full again. A call moves
//! the TAT on by the time that its tokens take to grow, and is refused if that would put it further ahead than a whole
//! bucket takes to fill. So a bucket needs one `u64`, nothing has to be topped up in the background, and **a bucket whose
//! TAT has passed is the same as no bucket at all**, which makes forgetting it free of loss.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::epoch::nanos;

/// Shortest time per token. Rounding to whole nanoseconds then changes the rate by at most 0.05 %.
const EMISSION_MIN: u64 = 1_000;
/// Longest time to fill a bucket: far enough below `u64::MAX` that adding it to any real time cannot overflow.
const TOLERANCE_MAX: u64 = 1 << 62;

/// The rate and size of a bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gcra {
    /// Nanoseconds in which one token grows.
    emission: u64,
    /// Nanoseconds in which an empty bucket becomes full.
    tolerance: u64,
    /// Tokens in a full bucket.
    burst: u32,
}

/// What the bucket says to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The tokens are there; the bucket's TAT becomes this.
    Pass { tat: u64 },
    /// Too few tokens; they will be there in this many nanoseconds, or never (`None`) if the bucket is smaller than the cost.
    Refuse { wait: Option<u64> },
}

impl Gcra {
    /// Builds a bucket of `burst` tokens that grows `rate` tokens `per` period; `None` if a figure is zero or out of range.
    pub(crate) fn new(rate: u32, per: Duration, burst: u32) -> Option<Self> {
        let period = nanos(per);
        if rate == 0 || burst == 0 || period == 0 {
            return None;
        }
        let rate = u64::from(rate);
        let emission = period.checked_add(rate / 2)? / rate;
        let tolerance = emission.checked_mul(u64::from(burst))?;
        (emission >= EMISSION_MIN && tolerance <= TOLERANCE_MAX).then_some(Self {
            emission,
            tolerance,
            burst,
        })
    }

    /// Decides over `cost` tokens of the bucket described by `tat`.
    pub(crate) fn decide(&self, tat: u64, now: u64, cost: u32) -> Decision {
        if cost > self.burst {
            return Decision::Refuse { wait: None };
        }
        // Within range: cost <= burst, and emission * burst was checked.
        let tat = tat.max(now).saturating_add(self.emission * u64::from(cost));
        match (tat - now).checked_sub(self.tolerance) {
            None | Some(0) => Decision::Pass { tat },
            Some(wait) => Decision::Refuse { wait: Some(wait) },
        }
    }

    /// Whole tokens in the bucket.
    pub(crate) fn remaining(&self, tat: u64, now: u64) -> u32 {
        let free = self.tolerance.saturating_sub(tat.saturating_sub(now)) / self.emission;
        u32::try_from(free).unwrap_or(u32::MAX)
    }

    /// Tokens in a full bucket.
    pub(crate) fn burst(&self) -> u32 {
        self.burst
    }

    /// Time in which an empty bucket becomes full.
    pub(crate) fn fill_time(&self) -> Duration {
        Duration::from_nanos(self.tolerance)
    }
}

/// One bucket that many threads share.
#[derive(Debug, Default)]
pub(crate) struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// Takes `cost` tokens or none, and returns the decision with the TAT that is now in force.
    pub(crate) fn take(&self, gcra: &Gcra, now: u64, cost: u32) -> (Decision, u64) {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let decision = gcra.decide(seen, now, cost);
            let Decision::Pass { tat } = decision else {
                return (decision, seen);
            };
            match self
                .0
                .compare_exchange_weak(seen, tat, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return (decision, tat),
                Err(changed) => seen = changed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn refuses_figures_that_it_cannot_keep() {
        for (rate, per, burst, valid) in [
            (200, SECOND, 400, true),
            (1_000_000, SECOND, 1, true),
            (1, Duration::from_secs(86_400), 1_000, true),
            (0, SECOND, 1, false),
            (1, SECOND, 0, false),
            (1, Duration::ZERO, 1, false),
            (3_000_000, SECOND, 1, false),
            (1, Duration::from_secs(86_400), u32::MAX, false),
            (1, Duration::MAX, 1, false),
        ] {
            assert_eq!(
                Gcra::new(rate, per, burst).is_some(),
                valid,
                "{rate} per {per:?}, burst {burst}"
            );
        }
    }

    #[test]
    fn a_passed_tat_is_a_full_bucket() {
        let gcra = Gcra::new(10, SECOND, 5).unwrap();
        let now = 7_000_000_000;
        for tat in [0, 1, now - 1, now] {
            assert_eq!(gcra.remaining(tat, now), 5);
            assert_eq!(
                gcra.decide(tat, now, 5),
                Decision::Pass {
                    tat: now + 500_000_000
                }
            );
            assert_eq!(gcra.decide(tat, now, 6), Decision::Refuse { wait: None });
        }
    }

    #[test]
    fn threads_share_exactly_the_tokens_there_are() {
        let gcra = Gcra::new(1, SECOND, 1_000).unwrap();
        let bucket = SharedBucket::default();
        let passed: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..500)
                            .filter(|_| matches!(bucket.take(&gcra, 0, 1).0, Decision::Pass { .. }))
                            .count()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        assert_eq!(passed, 1_000);
    }
}
