//! A small seeded source of random counts, for computing the power of a plan and for simulations.
//!
//! Not for secrets. The same seed gives the same numbers on every machine, so that the text a
//! plan prints is the same wherever it is printed.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many of `trials` succeed when each does with probability `p`.
    ///
    /// Jumps from success to success, so that rare events cost nothing.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a jump is not negative, and one beyond u64 saturates past the last trial"
    )]
    pub(crate) fn binomial(&mut self, trials: u64, p: f64) -> u64 {
        if p <= 0.0 {
            return 0;
        }
        if p >= 1.0 {
            return trials;
        }
        if p > 0.5 {
            return trials - self.binomial(trials, 1.0 - p);
        }
        let scale = (-p).ln_1p();
        let mut at = 0_u64;
        let mut successes = 0;
        loop {
            let jump = ((1.0 - self.unit()).ln() / scale) as u64;
            at = at.saturating_add(jump).saturating_add(1);
            if at > trials {
                return successes;
            }
            successes += 1;
        }
    }
}

/// How many simulations to run: `ordinary`, times `ROLLOUT_SIMULATIONS` when that is set.
#[cfg(test)]
pub(crate) fn runs(ordinary: u32) -> u32 {
    let factor = std::env::var("ROLLOUT_SIMULATIONS");
    ordinary * factor.ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binomial_has_the_right_mean_and_spread() {
        for (trials, p) in [(100_u32, 0.5), (1_000, 0.01), (50, 0.9)] {
            let mut draws = Draws::seeded(7);
            let sample: Vec<f64> = (0..4_000)
                .map(|_| draws.binomial(u64::from(trials), p) as f64)
                .collect();
            let mean = sample.iter().sum::<f64>() / 4_000.0;
            let spread = sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4_000.0;
            let (expect, variance) = (f64::from(trials) * p, f64::from(trials) * p * (1.0 - p));
            assert!((mean - expect).abs() < 0.02 * expect, "{mean} {expect}");
            assert!(
                (spread - variance).abs() < 0.1 * variance,
                "{spread} {variance}"
            );
        }
    }
}
