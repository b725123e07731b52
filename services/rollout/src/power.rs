//! How large a change in the error rate a step would see.
//!
//! Found by running the judge itself on made-up traffic, a few hundred times with a fixed seed: that
//! is exact for the rule as it is, and stays so when the rule changes.

use serde::{Deserialize, Serialize};

use crate::draws::Draws;
use crate::explain::Assumptions;
use crate::judge::{EProcess, Rules, Sample};
use crate::quantity::millis;
use crate::strategy::{Step, Strategy};

/// Changes that are tried, as ratios of error rates.
const RATIOS: [f64; 16] = [
    1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 50.0, 100.0,
];
const RUNS: u32 = 150;
/// Ticks are merged beyond this number: the evidence at the end of a step is the same.
const TICKS_MAX: u64 = 60;

/// What a step would see.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Power {
    /// The smallest change tried, as a ratio of error rates, that the step fails in at least four
    /// of five runs; `None` when it sees none of them.
    pub ratio: Option<f64>,
    /// Calls to the candidate that the step expects.
    pub candidate_calls: u64,
}

/// Computes what `step` would see under these assumptions, extensions not counted.
#[must_use]
pub fn power(strategy: &Strategy, step: &Step, assume: &Assumptions) -> Power {
    let rules = Rules::of(strategy, step);
    let ticks = (millis(step.duration) / millis(strategy.tick).max(1)).clamp(1, TICKS_MAX);
    let seconds = step.duration.as_secs_f64() / crate::judge::float(ticks);
    let calls = |share: f64| whole(assume.calls_per_second * seconds * share);
    let weight = step.weight.as_f64();
    let tick = Sample {
        n_c: calls(weight),
        k_c: 0,
        n_b: calls(1.0 - weight),
        k_b: 0,
    };
    let sees = |ratio: &f64| hits(&rules, tick, ticks, assume.error_rate, *ratio) * 5 >= RUNS * 4;
    // A larger change is always easier to see.
    let first = RATIOS.partition_point(|ratio| !sees(ratio));
    Power {
        ratio: RATIOS.get(first).copied(),
        candidate_calls: tick.n_c * ticks,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped to what a simulation can count"
)]
fn whole(value: f64) -> u64 {
    value.clamp(0.0, 1e9).round() as u64
}

/// In how many of the runs the step fails.
fn hits(rules: &Rules, tick: Sample, ticks: u64, error_rate: f64, ratio: f64) -> u32 {
    let mut draws = Draws::seeded(1);
    let mut hits = 0;
    for _ in 0..RUNS {
        let mut harm = EProcess::harm();
        let mut totals = Sample::default();
        for _ in 0..ticks {
            let sample = Sample {
                k_c: draws.binomial(tick.n_c, error_rate * ratio),
                k_b: draws.binomial(tick.n_b, error_rate),
                ..tick
            };
            harm.update(&[sample], f64::INFINITY);
            totals.add(sample);
            if rules.fails(&totals, harm.ln()) {
                hits += 1;
                break;
            }
        }
    }
    hits
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::quantity::BasisPoints;

    #[test]
    fn power_grows_with_weight_traffic_and_time() {
        let see = |weight: u16, rps: f64, minutes: u64| {
            let weights = [BasisPoints::percent(weight)];
            let strategy = Strategy::with_weights(&weights, Duration::from_secs(60 * minutes), 500);
            let assume = Assumptions {
                calls_per_second: rps,
                error_rate: 0.001,
            };
            power(&strategy, &strategy.steps[0], &assume).ratio
        };
        assert_eq!(see(5, 200.0, 10), Some(4.0));
        assert_eq!(see(25, 200.0, 10), Some(2.5));
        assert!(see(5, 2_000.0, 10) < Some(3.0));
        assert!(see(5, 20.0, 10) > Some(10.0));
        assert_eq!(see(5, 0.1, 1), None);
    }
}
