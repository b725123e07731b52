//! Latency as counts per bucket: addable over edges, cheap to record, small on the wire.
//!
//! Four buckets an octave bound the error of a quantile to 19 % of its value. One fixed table for
//! all edges makes counts of different edges and releases comparable bucket by bucket, which is
//! what a rollout's statistics need.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

const PER_OCTAVE: usize = 4;
const LOWEST_US: u64 = 100;
const HIGHEST_US: u64 = 60_000_000;

/// Buckets in [`LatencyCounts`]: one for each bound and one for everything slower.
pub const LATENCY_BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;

/// Upper bounds of the latency buckets, inclusive, in microseconds: 100 µs to 60 s, four an octave.
pub const LATENCY_BOUNDS_US: [u64; 78] = bounds();

const fn bounds() -> [u64; 78] {
    // 2^(0/4), 2^(1/4), 2^(2/4), 2^(3/4), in millionths.
    const STEPS: [u64; PER_OCTAVE] = [1_000_000, 1_189_207, 1_414_214, 1_681_793];
    let mut bounds = [0; 78];
    let mut i = 0;
    while i < bounds.len() {
        let exact = (LOWEST_US << (i / PER_OCTAVE)) * STEPS[i % PER_OCTAVE];
        let rounded = (exact + 500_000) / 1_000_000;
        bounds[i] = if rounded > HIGHEST_US {
            HIGHEST_US
        } else {
            rounded
        };
        i += 1;
    }
    bounds
}

/// The bucket a latency falls into: the first whose bound is not below it. Constant time.
pub fn bucket_index(latency: Duration) -> usize {
    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    if us <= LOWEST_US {
        return 0;
    }
    // Bounds at whole octaves are exact, so the octave leaves at most four candidates.
    let octave = ((us - 1) / LOWEST_US).ilog2() as usize;
    let first = octave * PER_OCTAVE + 1;
    (first..first + PER_OCTAVE)
        .find(|&i| LATENCY_BOUNDS_US.get(i).is_none_or(|&bound| us <= bound))
        .unwrap_or(usize::MAX)
        .min(LATENCY_BOUNDS_US.len())
}

/// How many calls fell into each bucket of [`LATENCY_BOUNDS_US`], and, last, above them all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LatencyCounts(Vec<u64>);

/// A list of counts that does not have [`LATENCY_BUCKETS`] entries: the other side uses another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} latency buckets, where this version has {LATENCY_BUCKETS}")]
pub struct WrongBucketCount {
    /// Length of the list.
    pub found: usize,
}

impl Default for LatencyCounts {
    fn default() -> Self {
        Self(vec![0; LATENCY_BUCKETS])
    }
}

impl TryFrom<Vec<u64>> for LatencyCounts {
    type Error = WrongBucketCount;

    fn try_from(counts: Vec<u64>) -> Result<Self, WrongBucketCount> {
        match counts.len() {
            LATENCY_BUCKETS => Ok(Self(counts)),
            found => Err(WrongBucketCount { found }),
        }
    }
}

impl From<[u64; LATENCY_BUCKETS]> for LatencyCounts {
    fn from(counts: [u64; LATENCY_BUCKETS]) -> Self {
        Self(counts.to_vec())
    }
}

impl<'de> Deserialize<'de> for LatencyCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(Vec::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl LatencyCounts {
    /// Counts one call.
    pub fn record(&mut self, latency: Duration) {
        self.0[bucket_index(latency)] += 1;
    }

    /// Adds another's counts to these: several edges, one release.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.0.iter_mut().zip(&other.0) {
            *own = own.saturating_add(*others);
        }
    }

    /// What was counted since `earlier`, a report of the same process. `None` when any count is
    /// lower than it was: the process began anew between the two.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        self.0
            .iter()
            .zip(&earlier.0)
            .map(|(now, then)| now.checked_sub(*then))
            .collect::<Option<_>>()
            .map(Self)
    }

    /// Calls counted in all buckets.
    pub fn total(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Calls in buckets that lie wholly above `threshold`, and so were surely slower than it.
    pub fn slower_than(&self, threshold: Duration) -> u64 {
        self.0[bucket_index(threshold) + 1..]
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The latency, in microseconds, that a share `q` (0 to 1) of the calls did not exceed,
    /// interpolated within its bucket. `None` without calls. Calls above the last bound count as
    /// 60 s: a lower limit, not an estimate.
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        // The rank of the call looked for, from 1.
        let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
        let mut below = 0;
        for (i, &count) in self.0.iter().enumerate() {
            if below + count >= rank {
                let Some(&upper) = LATENCY_BOUNDS_US.get(i) else {
                    break;
                };
                let lower = i.checked_sub(1).map_or(0, |i| LATENCY_BOUNDS_US[i]);
                let within = (rank - below) as f64 / count as f64;
                return Some(lower + ((upper - lower) as f64 * within).round() as u64);
            }
            below += count;
        }
        Some(HIGHEST_US)
    }

    /// The counts, in the order of [`LATENCY_BOUNDS_US`].
    pub fn as_slice(&self) -> &[u64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn counts(latencies_us: &[u64]) -> LatencyCounts {
        let mut counts = LatencyCounts::default();
        latencies_us
            .iter()
            .for_each(|&latency| counts.record(us(latency)));
        counts
    }

    #[test]
    fn bounds_rise_from_100_us_to_60_s() {
        assert_eq!(LATENCY_BOUNDS_US[..6], [100, 119, 141, 168, 200, 238]);
        assert_eq!(LATENCY_BOUNDS_US[77], 60_000_000);
        assert!(LATENCY_BOUNDS_US.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        for (i, &bound) in LATENCY_BOUNDS_US.iter().enumerate() {
            assert_eq!(bucket_index(us(bound)), i, "{bound}");
            assert_eq!(bucket_index(us(bound + 1)), i + 1, "{bound} + 1");
        }
        assert_eq!(bucket_index(Duration::ZERO), 0);
        assert_eq!(bucket_index(Duration::MAX), LATENCY_BUCKETS - 1);
    }

    #[test]
    fn quantiles_interpolate_and_end_at_the_last_bound() {
        for (latencies, q, expect) in [
            (vec![], 0.5, None),
            (vec![50], 0.5, Some(100)),
            (vec![150; 4], 0.5, Some(155)), // half way through (141, 168]
            (vec![90, 90, 90, 5_000_000], 0.99, Some(5_000_000)),
            (vec![u64::MAX], 1.0, Some(60_000_000)),
        ] {
            let found = counts(&latencies).quantile_us(q);
            let close = match (found, expect) {
                (Some(found), Some(expect)) => found.abs_diff(expect) * 5 <= expect,
                (found, expect) => found == expect,
            };
            assert!(
                close,
                "{latencies:?} at {q}: {found:?}, expected about {expect:?}"
            );
        }
    }

    #[test]
    fn slower_counts_only_what_is_surely_slower() {
        let counts = counts(&[90, 1_000, 60_000, 1_000_000, 2_000_000, 100_000_000]);
        assert_eq!(counts.slower_than(Duration::from_secs(1)), 2);
        assert_eq!(counts.slower_than(Duration::from_secs(60)), 1);
        assert_eq!(counts.slower_than(Duration::MAX), 0);
    }

    #[test]
    fn differences_notice_a_restart() {
        let (early, late) = (counts(&[90]), counts(&[90, 500]));
        assert_eq!(late.since(&early).map(|counts| counts.total()), Some(1));
        assert_eq!(early.since(&late), None);
    }

    #[test]
    fn another_table_is_refused() {
        let wrong = serde_json::from_str::<LatencyCounts>("[1,2]").unwrap_err();
        assert!(
            wrong.to_string().starts_with("2 latency buckets"),
            "{wrong}"
        );
    }

    proptest! {
        #[test]
        fn the_index_is_that_of_a_search(latency in 0_u64..200_000_000) {
            let searched = LATENCY_BOUNDS_US.partition_point(|&bound| bound < latency);
            prop_assert_eq!(bucket_index(us(latency)), searched);
        }

        #[test]
        fn merging_is_recording_together(a in prop::collection::vec(0_u64..90_000_000, 0..40), b in prop::collection::vec(0_u64..90_000_000, 0..40)) {
            let mut merged = counts(&a);
            merged.merge(&counts(&b));
            prop_assert_eq!(merged, counts(&[a, b].concat()));
        }

        #[test]
        fn a_quantile_is_within_a_bucket_of_the_truth(mut latencies in prop::collection::vec(101_u64..59_000_000, 1..200), q in 0.0_f64..=1.0) {
            let estimate = counts(&latencies).quantile_us(q).unwrap();
            latencies.sort_unstable();
            let rank = ((q * latencies.len() as f64).ceil() as usize).max(1);
            let truth = latencies[rank - 1];
            prop_assert!(bucket_index(us(estimate)).abs_diff(bucket_index(us(truth))) <= 1, "{} for {}", estimate, truth);
        }
    }
}
