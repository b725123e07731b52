//! Exponential backoff with full jitter: any wait from nothing to a ceiling that doubles.
//!
//! Full jitter spreads a fleet that failed together over the whole span, where a fixed wait would bring it back
//! together.

use std::time::Duration;

/// Counts failures and tells how long to wait.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// First ceiling and highest ceiling.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            failures: 0,
        }
    }

    /// Counts one failure more and draws the wait after it.
    pub fn wait(&mut self) -> Duration {
        self.wait_at(rand::random_range(0.0..1.0))
    }

    /// Counts one failure more; waits `fraction` of the ceiling, from 0 to 1.
    pub fn wait_at(&mut self, fraction: f64) -> Duration {
        let ceiling = self
            .base
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(self.cap);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(fraction.clamp(0.0, 1.0))
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let waits: Vec<u128> = (0..8).map(|_| backoff.wait_at(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.wait_at(0.5), Duration::from_millis(50));
    }

    proptest! {
        #[test]
        fn no_wait_is_above_the_cap(failures in 0_usize..100, fraction in -1.0..2.0) {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
            for _ in 0..failures {
                backoff.wait_at(fraction);
            }
            prop_assert!(backoff.wait_at(fraction) <= Duration::from_secs(5));
            prop_assert!(backoff.wait() <= Duration::from_secs(5));
        }
    }
}
