//! Evidence that may be looked at after every tick.
//!
//! An e-process starts at 1 and, while its null hypothesis is true, exceeds `x` at *any* time with
//! a chance of at most `1/x`. So it can be read every ten seconds and acted upon the moment it is
//! large, where a test made for one look would cry wolf on a third of all harmless releases.
//!
//! Within a tick the candidate had `n_c` calls and the baseline `n_b`. If the candidate's rate of
//! bad calls is `r` times the baseline's, each bad call is the candidate's with the chance
//! `p_r = r·n_c / (r·n_c + n_b)`, whatever the rate itself is; a burst that hits both releases
//! says nothing. The process is the likelihood ratio of some alternatives `r` against the null `r0`,
//! averaged over the alternatives and multiplied over the ticks:
//!
//! `E = mean over r of Π (p_r/p_r0)^k_c · ((1−p_r)/(1−p_r0))^k_b`
//!
//! Logarithms are kept in whole billionths, so that a journal reads back exactly.

use serde::{Deserialize, Serialize};

/// Calls and bad calls of both releases in one tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Calls to the candidate.
    pub n_c: u64,
    /// Those of them that were bad.
    pub k_c: u64,
    /// Calls to the baseline.
    pub n_b: u64,
    /// Those of them that were bad.
    pub k_b: u64,
}

impl Sample {
    /// Adds another sample's counts.
    pub fn add(&mut self, other: Self) {
        self.n_c += other.n_c;
        self.k_c += other.k_c;
        self.n_b += other.n_b;
        self.k_b += other.k_b;
    }

    /// How many times worse the candidate's rate is; `None` where a rate is missing or zero.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let baseline = rate(self.k_b, self.n_b)?;
        (baseline > 0.0)
            .then(|| rate(self.k_c, self.n_c))
            .flatten()
            .map(|candidate| candidate / baseline)
    }

    /// The candidate's rate less the baseline's; a missing rate is zero.
    #[must_use]
    pub fn difference(&self) -> f64 {
        rate(self.k_c, self.n_c).unwrap_or(0.0) - rate(self.k_b, self.n_b).unwrap_or(0.0)
    }
}

/// `k` of `n`; `None` when `n` is zero.
#[must_use]
pub(crate) fn rate(k: u64, n: u64) -> Option<f64> {
    (n > 0).then(|| float(k) / float(n))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts stay far below 2^53, and an error of one part in 2^53 changes no verdict"
)]
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

const NANO: f64 = 1e9;

/// A likelihood ratio averaged over alternatives, against one null hypothesis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EProcess {
    null: f64,
    alternatives: Vec<f64>,
    /// One logarithm per alternative, in billionths of a nat.
    nano_nats: Vec<i64>,
}

impl EProcess {
    /// Evidence against "the candidate's rate is at most `null` times the baseline's" when the
    /// alternatives are above `null`, and against "at least" when they are below.
    #[must_use]
    pub fn new(null: f64, alternatives: &[f64]) -> Self {
        Self {
            null,
            alternatives: alternatives.to_vec(),
            nano_nats: vec![0; alternatives.len()],
        }
    }

    /// Evidence that the candidate is worse at all.
    #[must_use]
    pub fn harm() -> Self {
        Self::new(1.0, &[1.5, 2.0, 3.0, 5.0, 10.0, 20.0])
    }

    /// Evidence that the candidate is not `margin` times as bad.
    #[must_use]
    pub fn harmless(margin: f64) -> Self {
        Self::new(margin, &[1.0, 0.8])
    }

    /// Takes in one tick, given per stratum. `gain_max` bounds what the tick can add, in nats:
    /// adding less than was earned keeps the guarantee.
    pub fn update(&mut self, strata: &[Sample], gain_max: f64) {
        for (alternative, total) in self.alternatives.iter().zip(&mut self.nano_nats) {
            let gain: f64 = strata
                .iter()
                .map(|sample| gain(sample, *alternative, self.null))
                .sum();
            *total = total.saturating_add(nano(gain.min(gain_max)));
        }
    }

    /// The natural logarithm of the evidence.
    #[must_use]
    pub fn ln(&self) -> f64 {
        let logs = || self.nano_nats.iter().map(|log| nats(*log));
        let largest = logs().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logs().map(|log| (log - largest).exp()).sum();
        largest + (sum / float(self.nano_nats.len() as u64)).ln()
    }
}

/// What one stratum adds to the logarithm for one alternative. A stratum in which a release had no
/// calls compares nothing.
fn gain(sample: &Sample, alternative: f64, null: f64) -> f64 {
    if sample.n_c == 0 || sample.n_b == 0 {
        return 0.0;
    }
    let (n_c, n_b) = (float(sample.n_c), float(sample.n_b));
    let shrink = ((null * n_c + n_b) / (alternative * n_c + n_b)).ln();
    float(sample.k_c) * (alternative / null).ln() + float(sample.k_c + sample.k_b) * shrink
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float beyond i64 saturates, at a certainty nobody needs"
)]
fn nano(nats: f64) -> i64 {
    (nats * NANO).round() as i64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "billionths beyond 2^53 are nine million nats, decided long ago"
)]
fn nats(nano: i64) -> f64 {
    nano as f64 / NANO
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n_c: u64, k_c: u64, n_b: u64, k_b: u64) -> Sample {
        Sample { n_c, k_c, n_b, k_b }
    }

    fn harm(samples: &[Sample]) -> f64 {
        let mut process = EProcess::harm();
        for sample in samples {
            process.update(&[*sample], f64::INFINITY);
        }
        process.ln()
    }

    /// The definition, without logarithms or rearrangement.
    fn naive(sample: Sample, null: f64, alternatives: &[f64]) -> f64 {
        let (n_c, n_b) = (sample.n_c as f64, sample.n_b as f64);
        let p = |r: f64| r * n_c / (r * n_c + n_b);
        let product = |r: &f64| {
            (p(*r) / p(null)).powf(sample.k_c as f64)
                * ((1.0 - p(*r)) / (1.0 - p(null))).powf(sample.k_b as f64)
        };
        alternatives.iter().map(product).sum::<f64>() / alternatives.len() as f64
    }

    #[test]
    fn it_is_the_defined_mixture() {
        for sample in [
            sample(612, 31, 11_630, 12),
            sample(9_120, 3, 182_000, 51),
            sample(1, 0, 1, 1),
        ] {
            let expect = naive(sample, 1.0, &[1.5, 2.0, 3.0, 5.0, 10.0, 20.0]).ln();
            assert!((harm(&[sample]) - expect).abs() < 1e-6, "{sample:?}");
            let mut process = EProcess::harmless(5.0);
            process.update(&[sample], f64::INFINITY);
            let expect = naive(sample, 5.0, &[1.0, 0.8]).ln();
            assert!((process.ln() - expect).abs() < 1e-6, "{sample:?}");
        }
    }

    #[test]
    fn nothing_to_compare_says_nothing() {
        let idle = [
            sample(0, 0, 100, 5),
            sample(100, 5, 0, 0),
            sample(0, 0, 0, 0),
            sample(9, 0, 9, 0),
        ];
        assert!(harm(&idle).abs() < 1e-9);
    }

    #[test]
    fn extremes_stay_finite() {
        let all_bad = sample(1_000_000_000, 1_000_000_000, 1_000_000_000, 0);
        assert!(harm(&[all_bad; 20]).is_finite());
        assert!(harm(&[sample(1_000_000_000, 0, 1, 1); 20]).is_finite());
    }

    #[test]
    fn a_tick_adds_no_more_than_it_may() {
        let mut process = EProcess::harm();
        process.update(&[sample(100, 100, 100, 0)], 1.0);
        assert!(process.ln() <= 1.0);
    }

    #[test]
    fn a_process_reads_back_exactly() {
        let mut process = EProcess::harm();
        process.update(&[sample(617, 13, 11_631, 17)], f64::INFINITY);
        let text = serde_json::to_string(&process).unwrap();
        assert_eq!(serde_json::from_str::<EProcess>(&text).unwrap(), process);
    }
}
