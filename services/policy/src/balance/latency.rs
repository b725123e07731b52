//! The estimate of how long an instance takes: an exponentially weighted moving average that jumps to peaks.
//!
//! A sample above the estimate replaces it, one below pulls it down by its age, and without samples it decays towards zero,
//! so that an instance that was slow once is tried again. Two kinds of evidence only count upwards: a failure (an
//! instance that fails fast must not look fast) and an abandoned call (it would have taken at least so long).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A longer sample counts as this long. Tools differ in how long they take, and one call that rightly takes a minute should
/// not keep traffic from its instance for the several decay times in which a minute becomes a millisecond.
pub const LATENCY_MAX: Duration = Duration::from_secs(1);
const NANOS_MAX: f64 = LATENCY_MAX.as_nanos() as f64;
/// Shorter differences are noise; a floor also keeps calls in flight in the product.
const NANOS_MIN: f64 = 1_000.0;
/// What an instance is assumed to take when none is measured: any value does, as all share it.
pub(super) const UNKNOWN: f64 = 1_000_000.0;

/// What a sample says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sample {
    /// The instance took exactly so long.
    Whole,
    /// It would have taken at least so long.
    AtLeast,
}

/// An estimate that threads share. Two atomics instead of a lock: a reader between the two stores sees an estimate that
/// has decayed by one sample's interval too much or too little.
#[derive(Debug)]
pub(super) struct Latency {
    /// Nanoseconds as the bits of an `f64`; negative while only assumed.
    estimate: AtomicU64,
    /// Time of the last sample, nanoseconds since the pool's start.
    sampled_at: AtomicU64,
}

impl Latency {
    /// Starts with an assumption, in nanoseconds.
    pub(super) fn assumed(nanos: f64, now: u64) -> Self {
        Self {
            estimate: AtomicU64::new((-bounded(nanos)).to_bits()),
            sampled_at: AtomicU64::new(now),
        }
    }

    /// Reads the estimate at `now`, in nanoseconds.
    pub(super) fn estimate(&self, now: u64, decay: f64) -> f64 {
        let estimate = f64::from_bits(self.estimate.load(Ordering::Relaxed)).abs();
        let age = now.saturating_sub(self.sampled_at.load(Ordering::Relaxed));
        bounded(estimate * kept(age, decay))
    }

    /// Whether a call has been measured.
    pub(super) fn is_measured(&self) -> bool {
        f64::from_bits(self.estimate.load(Ordering::Relaxed)) >= 0.0
    }

    /// Takes in one more sample; all in nanoseconds.
    pub(super) fn observe(&self, took: u64, sample: Sample, now: u64, decay: f64) {
        let took = bounded(took as f64);
        let age = now.saturating_sub(self.sampled_at.fetch_max(now, Ordering::Relaxed));
        let kept = kept(age, decay);
        let next = |bits: u64| Some(blend(f64::from_bits(bits), took, sample, kept).to_bits());
        // `next` always returns a value, so the update always succeeds.
        let _ = self
            .estimate
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

/// The next estimate from the last one (negative: assumed), a sample, and the part of the last one that its age leaves.
fn blend(last: f64, took: f64, sample: Sample, kept: f64) -> f64 {
    match sample {
        Sample::Whole if last < 0.0 || took >= last => took,
        Sample::Whole => last * kept + took * (1.0 - kept),
        Sample::AtLeast if took >= last.abs() => took,
        Sample::AtLeast => last,
    }
}

/// The part of an estimate that is left after `age` nanoseconds.
fn kept(age: u64, decay: f64) -> f64 {
    (-(age as f64) / decay).exp()
}

fn bounded(nanos: f64) -> f64 {
    nanos.clamp(NANOS_MIN, NANOS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;
    const DECAY: f64 = 10.0 * SECOND as f64;

    /// Each step: milliseconds since the last, latency in milliseconds, kind, and the estimate after it in milliseconds.
    #[test]
    fn peaks_are_believed_at_once_and_forgotten_slowly() {
        use Sample::{AtLeast, Whole};
        let latency = Latency::assumed(UNKNOWN, 0);
        assert!(!latency.is_measured());
        let mut now = 0;
        for (step, (after_ms, took_ms, sample, expect_ms)) in [
            (0, 20, Whole, 20.0),      // The first measurement replaces the assumption.
            (0, 10, Whole, 20.0),      // No time has passed, so a lower one has no weight.
            (10_000, 10, Whole, 13.7), // One decay time: 20/e + 10(1 - 1/e).
            (0, 100, Whole, 100.0),    // A peak replaces it.
            (0, 1, AtLeast, 100.0),    // A fast failure does not make it look fast.
            (0, 200, AtLeast, 200.0),  // A slow one makes it look slow.
            (0, 60_000, Whole, 1_000.0),
            (100_000, 5, Whole, 5.0),
        ]
        .into_iter()
        .enumerate()
        {
            now += after_ms * MS;
            latency.observe(took_ms * MS, sample, now, DECAY);
            let estimate_ms = latency.estimate(now, DECAY) / MS as f64;
            assert!(
                (estimate_ms - expect_ms).abs() < 0.1,
                "step {step}: {estimate_ms} ms"
            );
        }
        assert!(latency.is_measured());
    }

    #[test]
    fn an_idle_estimate_decays_but_not_to_nothing() {
        let latency = Latency::assumed(UNKNOWN, 0);
        latency.observe(100 * MS, Sample::Whole, 0, DECAY);
        let after = |seconds: u64| latency.estimate(seconds * SECOND, DECAY) / MS as f64;
        assert!((after(10) - 36.8).abs() < 0.1);
        assert!((after(1_000) - 0.001).abs() < 1e-9);
    }

    #[test]
    fn a_failure_does_not_count_as_a_measurement() {
        let latency = Latency::assumed(50.0 * MS as f64, 0);
        latency.observe(MS, Sample::AtLeast, 0, DECAY);
        assert!(!latency.is_measured());
        assert!((latency.estimate(0, DECAY) - 50.0 * MS as f64).abs() < 1.0);
    }
}
