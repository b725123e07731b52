//! The start from which shared state counts nanoseconds, so that a point in time fits one atomic.

use std::time::{Duration, Instant};

/// A fixed start; 64 bits of nanoseconds reach 584 years from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epoch(Instant);

impl Epoch {
    /// Starts counting at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Counts the nanoseconds from the start to `now`; 0 before the start.
    pub(crate) fn nanos(self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.0))
    }
}

/// A duration in nanoseconds, at most `u64::MAX`.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
