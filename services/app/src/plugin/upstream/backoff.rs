//! How long to wait before a child is started again. Pure: time and chance are arguments.

use std::time::Duration;

/// The first delay.
const FIRST: Duration = Duration::from_millis(500);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(30);
/// A run this long makes up for earlier failures.
const HEALTHY: Duration = Duration::from_secs(60);

/// Doubling delays, with chance so that children that died together do not start together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the delay after a run that lasted `ran`; `chance` from 0 to 1 takes off up to half of it.
    pub(crate) fn next(&mut self, ran: Duration, chance: f64) -> Duration {
        if ran >= HEALTHY {
            self.failures = 0;
        }
        let full = FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_limit_and_a_healthy_run_starts_over() {
        let mut backoff = Backoff::default();
        let seconds: Vec<f64> = (0..8)
            .map(|_| backoff.next(Duration::ZERO, 0.0).as_secs_f64())
            .collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(backoff.next(HEALTHY, 0.0), FIRST);
        assert_eq!(backoff.next(Duration::ZERO, 1.0), FIRST);
    }
}
