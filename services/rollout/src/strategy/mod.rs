//! How careful a rollout is: its steps, what proves harm, what proves harmlessness, and how long
//! anything may take.
//!
//! Smaller weights get wider margins. Showing that a release with 5 % of the traffic is not twice
//! as bad takes hours at ordinary rates, showing that it is not five times as bad takes minutes;
//! so the 5 % step looks for disasters, and the steps after it for regressions.

mod written;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::quantity::{self, BasisPoints, Fraction, format_duration};

/// What to do when a step ends, extensions included, and neither good nor bad is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// Roll back. The default: nobody may be watching.
    Abort,
    /// Hold the weight and wait for an operator.
    Pause,
}

/// A part of the traffic, held for a while and judged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The candidate's share of the traffic.
    pub weight: BasisPoints,
    /// How long the step is judged, from the moment that every edge has acknowledged the weight.
    #[serde(with = "quantity::duration")]
    pub duration: Duration,
    /// Calls to the candidate without which the step cannot pass.
    pub min_samples: u64,
    /// The step passes once the candidate is shown to be less than this many times worse.
    pub margin: f64,
}

/// How latency is judged: as the share of calls slower than some thresholds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// A call slower than this is slow by the objective, whatever the baseline does.
    #[serde(with = "quantity::duration")]
    pub slow_threshold: Duration,
    /// Percentiles of the baseline that become thresholds, fixed when the step starts.
    pub percentiles: Vec<u8>,
    /// How far above the baseline's percentile the threshold is set. Differences below this are
    /// taken for a difference between machines.
    pub tolerance: Fraction,
    /// No percentile's threshold is set below this: what nobody feels aborts nothing.
    #[serde(with = "quantity::duration")]
    pub floor: Duration,
    /// Latency is not judged until a step has run this long or had a hundred calls.
    #[serde(with = "quantity::duration")]
    pub warm_up: Duration,
}

/// Conditions that end a rollout at once and need no statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guards {
    /// A candidate instance that restarted this often is crashing.
    pub restarts: u32,
    /// How long fewer candidates than the weight needs may be ready. None ready ends at once.
    #[serde(with = "quantity::duration")]
    pub readiness_grace: Duration,
    /// A candidate whose first calls, this many, all failed is broken; so is one of which half the
    /// calls of a step, this many or more, failed while the stable release was well.
    pub first_calls: u64,
}

/// How a rollout goes. [`crate::Plan::new`] checks the values before anything is done with them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strategy {
    /// Rising weights, each judged; full traffic follows the last. Empty: straight to full.
    pub steps: Vec<Step>,
    /// How often the counters are read and judged.
    #[serde(with = "quantity::duration")]
    pub tick: Duration,
    /// How many more times a step's duration to wait for a verdict.
    pub extend_max: u32,
    /// What to do when that was not enough either.
    pub on_inconclusive: OnInconclusive,
    /// The accepted chance of rolling back a harmless release, per step.
    pub alpha: Fraction,
    /// A difference smaller than this aborts nothing, however certain it is.
    pub min_effect: Fraction,
    /// The share of bad calls that the objective allows.
    pub error_budget: Fraction,
    /// How latency is judged.
    pub latency: Latency,
    /// What ends the rollout at once.
    pub guards: Guards,
    /// The candidate's weight falls to nothing by itself when not renewed for this long.
    #[serde(with = "quantity::duration")]
    pub weight_lease: Duration,
    /// How long the edges may take to acknowledge a weight. Longer than an edge's registration
    /// outlives the edge, or a killed edge would end the rollout.
    #[serde(with = "quantity::duration")]
    pub ack_timeout: Duration,
    /// How long candidates may take to become ready, and to be verified.
    #[serde(with = "quantity::duration")]
    pub ready_timeout: Duration,
    /// How long a candidate that was taken out of traffic keeps serving what it has begun.
    #[serde(with = "quantity::duration")]
    pub drain: Duration,
    /// How long the guards stay armed after full traffic.
    #[serde(with = "quantity::duration")]
    pub soak: Duration,
    /// How long the old release stays warm after that.
    #[serde(with = "quantity::duration")]
    pub scale_down_delay: Duration,
    /// The longest time without any progress, pauses aside.
    #[serde(with = "quantity::duration")]
    pub progress_deadline: Duration,
    /// A pause that nobody ends for this long ends in a rollback.
    #[serde(with = "quantity::duration")]
    pub pause_max: Duration,
}

impl Default for Strategy {
    fn default() -> Self {
        Self::with_weights(
            &[5, 25, 50].map(BasisPoints::percent),
            Duration::from_secs(600),
            500,
        )
    }
}

impl Strategy {
    /// What `--canary 5%` means: that weight, then 25 % and 50 % as far as they are more, then all.
    #[must_use]
    pub fn canary(first: BasisPoints) -> Self {
        let later = [25, 50].map(BasisPoints::percent);
        let weights: Vec<_> = std::iter::once(first)
            .filter(|weight| *weight < BasisPoints::FULL)
            .chain(later.into_iter().filter(|weight| *weight > first))
            .collect();
        Self::with_weights(&weights, Duration::from_secs(600), 500)
    }

    /// The defaults with these steps, each as long and as demanding as the other.
    #[must_use]
    pub fn with_weights(weights: &[BasisPoints], duration: Duration, min_samples: u64) -> Self {
        let step = |weight: &BasisPoints| Step {
            weight: *weight,
            duration,
            min_samples,
            margin: default_margin(*weight),
        };
        Self {
            steps: weights.iter().map(step).collect(),
            tick: Duration::from_secs(10),
            extend_max: 2,
            on_inconclusive: OnInconclusive::Abort,
            alpha: Fraction::ppm(10_000),
            min_effect: Fraction::ppm(1_000),
            error_budget: Fraction::ppm(10_000),
            latency: Latency {
                slow_threshold: Duration::from_secs(1),
                percentiles: vec![50, 90, 99],
                tolerance: Fraction::ppm(250_000),
                floor: Duration::from_millis(10),
                warm_up: Duration::from_secs(30),
            },
            guards: Guards {
                restarts: 2,
                readiness_grace: Duration::from_secs(5),
                first_calls: 50,
            },
            weight_lease: Duration::from_secs(30),
            ack_timeout: Duration::from_secs(15),
            ready_timeout: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            soak: Duration::ZERO,
            scale_down_delay: Duration::from_secs(30),
            progress_deadline: Duration::from_secs(600),
            pause_max: Duration::from_secs(86_400),
        }
    }

    /// Reads a strategy file (TOML). Keys that are not there keep their defaults.
    ///
    /// # Errors
    /// Every key that is wrong, where it stands and what it may be.
    pub fn from_toml(text: &str) -> Result<Self, Invalid> {
        written::read(text)
    }

    /// How many ratio metrics can end the rollout; the accepted chance of a false alarm is split
    /// between them.
    #[must_use]
    pub fn critical_metrics(&self) -> usize {
        2 + self.latency.percentiles.len()
    }

    /// Every value that is out of range; empty when the strategy can be used.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.durations_out_of_range();
        problems.extend(self.numbers_out_of_range());
        problems.extend(self.steps_out_of_range());
        problems
    }

    fn durations_out_of_range(&self) -> Vec<Problem> {
        const DAY: Duration = Duration::from_secs(86_400);
        let ms = Duration::from_millis;
        let ranges = [
            ("tick", self.tick, ms(100), ms(300_000)),
            ("weight_lease", self.weight_lease, ms(1_000), ms(3_600_000)),
            ("ack_timeout", self.ack_timeout, ms(100), ms(3_600_000)),
            ("ready_timeout", self.ready_timeout, ms(100), DAY),
            ("drain", self.drain, Duration::ZERO, DAY),
            ("soak", self.soak, Duration::ZERO, 30 * DAY),
            (
                "scale_down_delay",
                self.scale_down_delay,
                Duration::ZERO,
                30 * DAY,
            ),
            (
                "progress_deadline",
                self.progress_deadline,
                ms(1_000),
                30 * DAY,
            ),
            ("pause_max", self.pause_max, ms(1_000), 365 * DAY),
            (
                "latency.slow_threshold",
                self.latency.slow_threshold,
                ms(1),
                DAY,
            ),
            ("latency.floor", self.latency.floor, Duration::ZERO, DAY),
            ("latency.warm_up", self.latency.warm_up, Duration::ZERO, DAY),
            (
                "guards.readiness_grace",
                self.guards.readiness_grace,
                Duration::ZERO,
                DAY,
            ),
        ];
        ranges
            .into_iter()
            .filter(|(_, value, min, max)| value < min || value > max)
            .map(|(key, value, min, max)| {
                let allowed = format!("{} to {}", format_duration(min), format_duration(max));
                Problem::new(key, &format_duration(value), &allowed)
            })
            .collect()
    }

    fn numbers_out_of_range(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut range = |key: &str, value: Fraction, min: u32, max: u32| {
            let (min, max) = (Fraction::ppm(min), Fraction::ppm(max));
            if value < min || value > max {
                problems.push(Problem::new(
                    key,
                    &value.to_string(),
                    &format!("{min} to {max}"),
                ));
            }
        };
        range("alpha", self.alpha, 10, 200_000);
        range("min_effect", self.min_effect, 0, 500_000);
        range("error_budget", self.error_budget, 10, 500_000);
        let mut count = |key: &str, value: u64, min: u64, max: u64| {
            if value < min || value > max {
                problems.push(Problem::new(
                    key,
                    &value.to_string(),
                    &format!("{min} to {max}"),
                ));
            }
        };
        count("extend_max", u64::from(self.extend_max), 0, 100);
        count("guards.restarts", u64::from(self.guards.restarts), 1, 1_000);
        count("guards.first_calls", self.guards.first_calls, 1, 1_000_000);
        let percentiles = &self.latency.percentiles;
        let rising = percentiles.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || percentiles.iter().any(|p| !(1..=99).contains(p)) || percentiles.len() > 8 {
            problems.push(Problem::new(
                "latency.percentiles",
                &format!("{percentiles:?}"),
                "at most 8 rising whole numbers from 1 to 99",
            ));
        }
        problems
    }

    fn steps_out_of_range(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.steps.len() > STEPS_MAX {
            let allowed = format!("at most {STEPS_MAX} steps");
            problems.push(Problem::new(
                "steps",
                &self.steps.len().to_string(),
                &allowed,
            ));
        }
        let mut previous = BasisPoints::ZERO;
        for (index, step) in self.steps.iter().enumerate() {
            let mut problem = |key: &str, found: &str, allowed: &str| {
                problems.push(Problem::new(
                    &format!("step[{index}].{key}"),
                    found,
                    allowed,
                ));
            };
            if step.weight <= previous || step.weight >= BasisPoints::FULL {
                let allowed = format!("more than {previous} and less than 100%: weights rise");
                problem("weight", &step.weight.to_string(), &allowed);
            }
            if step.duration < self.tick || step.duration > Duration::from_secs(30 * 86_400) {
                let allowed = format!("one tick ({}) to 30d", format_duration(self.tick));
                problem("duration", &format_duration(step.duration), &allowed);
            }
            if !(1..=1_000_000_000).contains(&step.min_samples) {
                problem(
                    "min_samples",
                    &step.min_samples.to_string(),
                    "1 to 1000000000",
                );
            }
            if !(1.05..=100.0).contains(&step.margin) {
                problem(
                    "margin",
                    &step.margin.to_string(),
                    "1.05 to 100 (times as bad)",
                );
            }
            previous = step.weight;
        }
        problems
    }
}

/// The most steps a strategy may have.
pub const STEPS_MAX: usize = 32;

/// The margin that a step of this weight can afford to show in minutes.
#[must_use]
pub fn default_margin(weight: BasisPoints) -> f64 {
    match weight.get() {
        0..2_500 => 5.0,
        2_500..5_000 => 2.0,
        _ => 1.5,
    }
}

/// One value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key as the file spells it, `step[0].weight`.
    pub key: String,
    /// The value as it was found.
    pub found: String,
    /// What is allowed.
    pub allowed: String,
    /// Line and column, both from 1, when the value came from a file.
    pub at: Option<(usize, usize)>,
}

impl Problem {
    pub(crate) fn new(key: &str, found: &str, allowed: &str) -> Self {
        Self {
            key: key.to_owned(),
            found: found.to_owned(),
            allowed: allowed.to_owned(),
            at: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.at {
            write!(f, "{line}:{column}: ")?;
        }
        write!(
            f,
            "{} is {}, allowed: {}",
            self.key, self.found, self.allowed
        )
    }
}

/// Everything that is wrong with a strategy or a plan, all at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.problems))]
pub struct Invalid {
    /// At least one.
    pub problems: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(strategy: &Strategy) -> Vec<(String, f64)> {
        let step = |step: &Step| (step.weight.to_string(), step.margin);
        strategy.steps.iter().map(step).collect()
    }

    #[test]
    fn canary_expands_to_the_usual_ladder() {
        let ladder = |first: &str| {
            let strategy = Strategy::canary(first.parse().unwrap());
            assert_eq!(strategy.problems(), []);
            weights(&strategy)
        };
        let step = |weight: &str, margin| (weight.to_owned(), margin);
        assert_eq!(
            ladder("5%"),
            [step("5%", 5.0), step("25%", 2.0), step("50%", 1.5)]
        );
        assert_eq!(ladder("25%"), [step("25%", 2.0), step("50%", 1.5)]);
        assert_eq!(ladder("30%"), [step("30%", 2.0), step("50%", 1.5)]);
        assert_eq!(ladder("80%"), [step("80%", 1.5)]);
        assert_eq!(ladder("100%"), []);
    }

    #[test]
    fn a_written_strategy_reads_back() {
        let strategy = Strategy::default();
        let text = serde_json::to_string(&strategy).unwrap();
        assert_eq!(serde_json::from_str::<Strategy>(&text).unwrap(), strategy);
    }

    #[test]
    fn every_value_out_of_range_is_named() {
        let mut strategy = Strategy {
            tick: Duration::from_millis(1),
            alpha: Fraction::ppm(500_000),
            ..Strategy::default()
        };
        strategy.latency.percentiles = vec![99, 50];
        strategy.steps[1].weight = BasisPoints::percent(5);
        strategy.steps[2].margin = 0.5;
        let keys: Vec<String> = strategy.problems().into_iter().map(|p| p.key).collect();
        let expect = [
            "tick",
            "alpha",
            "latency.percentiles",
            "step[1].weight",
            "step[2].margin",
        ];
        assert_eq!(keys, expect);
    }
}
