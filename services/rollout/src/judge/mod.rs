//! What a step's counts prove: the candidate is worse, it is not, or nothing yet.
//!
//! Everything is a ratio of bad calls to calls: errors, calls slower than the objective, and calls
//! slower than the baseline's percentiles as they were when the step began. Percentile thresholds
//! turn latency into counts, and see a shift anywhere in the distribution.
//!
//! - **Fail**: the evidence of harm reaches (number of metrics)/alpha, on at least five bad calls,
//!   and the rates differ by the minimum effect.
//! - **Pass**: enough calls, and either the candidate is shown not to be `margin` times as bad, or its
//!   rate is shown to be inside the error budget whatever the baseline does.
//! - **Error**: the counters could not be read several times in a row.
//! - **Inconclusive**: anything else, above all *no data*.
//!
//! Fail outranks error, error outranks inconclusive, inconclusive outranks pass.
//!
//! Errors are counted once per session and interval before they come here, because failures come in
//! clusters. That makes them fewer than they were, so the error budget is held against all of them.
//! Slow calls cannot be: one stall of a machine makes all calls of that moment slow. So a
//! single tick may contribute only a quarter of what it takes to fail.

mod eprocess;

#[cfg(test)]
mod simulation;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use eprocess::{EProcess, Sample};
pub(crate) use eprocess::{float, rate};

use crate::measure::{self, Stratum};
use crate::quantity::{Fraction, format_duration, millis};
use crate::strategy::{Step, Strategy};

/// What the evidence says. Greater outranks smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Shown to be good enough.
    Pass,
    /// Neither good nor bad is shown.
    Inconclusive,
    /// The counters could not be read.
    Error,
    /// Shown to be worse.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "PASS",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Error => "ERROR",
            Self::Fail => "FAIL",
        })
    }
}

/// What a step is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// Accepted chance of failing a harmless candidate in one step.
    pub alpha: Fraction,
    /// How many metrics share that chance.
    pub metrics: usize,
    /// The smallest difference of rates that fails.
    pub min_effect: Fraction,
    /// The rate of bad calls that the objective allows.
    pub error_budget: Fraction,
    /// Calls to the candidate without which nothing passes.
    pub min_samples: u64,
    /// "Not worse" means not this many times as bad.
    pub margin: f64,
}

impl Rules {
    /// The rules of one step of a strategy.
    #[must_use]
    pub fn of(strategy: &Strategy, step: &Step) -> Self {
        Self {
            alpha: strategy.alpha,
            metrics: strategy.critical_metrics(),
            min_effect: strategy.min_effect,
            error_budget: strategy.error_budget,
            min_samples: step.min_samples,
            margin: step.margin,
        }
    }

    /// The evidence of harm that fails, as a natural logarithm.
    #[must_use]
    pub fn ln_fail(&self) -> f64 {
        (float(self.metrics as u64) / self.alpha.as_f64()).ln()
    }

    /// Whether these totals and this evidence of harm fail the step.
    #[must_use]
    pub fn fails(&self, totals: &Sample, ln_harm: f64) -> bool {
        ln_harm >= self.ln_fail()
            && totals.k_c >= BAD_CALLS_MIN
            && totals.difference() >= self.min_effect.as_f64()
    }
}

/// Bad calls of the candidate below which nothing fails by statistics.
const BAD_CALLS_MIN: u64 = 5;
/// Evidence that passes: wrong at most one time in twenty.
const LN_PASS: f64 = 2.995_732_273_553_991;
/// Calls without which nothing can be said about a 99th percentile.
const P99_SAMPLES: u64 = 300;
/// Readings of the counters that may fail in a row.
const SOURCE_ERRORS_MAX: u32 = 4;

/// What a ratio counts as bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Metric {
    /// Failed calls and tool errors, capped per session.
    Errors,
    /// Calls slower than the objective.
    SlowObjective {
        /// Microseconds.
        threshold_us: u64,
    },
    /// Calls slower than the baseline's percentile when the step began, tolerance added.
    SlowPercentile {
        /// 1 to 99.
        percentile: u8,
        /// Microseconds; `None` until the baseline has had enough calls.
        threshold_us: Option<u64>,
    },
}

impl Metric {
    fn threshold_us(self) -> Option<u64> {
        match self {
            Self::Errors => None,
            Self::SlowObjective { threshold_us } => Some(threshold_us),
            Self::SlowPercentile { threshold_us, .. } => threshold_us,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let above = |threshold_us: u64| {
            let text = match threshold_us {
                us if us < 1_000 => format!("{us}us"),
                us => format_duration(std::time::Duration::from_millis(us / 1_000)),
            };
            format!(" (>{text})")
        };
        let text = match *self {
            Self::Errors => "errors".to_owned(),
            Self::SlowObjective { threshold_us } => format!("slow{}", above(threshold_us)),
            Self::SlowPercentile {
                percentile,
                threshold_us,
            } => format!(
                "slow@p{percentile}{}",
                threshold_us.map_or(String::new(), above)
            ),
        };
        f.pad(&text)
    }
}

/// What showed that a metric is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// Not `margin` times as bad as the baseline.
    NotWorse,
    /// Inside the error budget, whatever the baseline does.
    WithinBudget,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tracked {
    metric: Metric,
    totals: Sample,
    /// Bad calls of the candidate before any cap.
    uncapped: u64,
    harm: EProcess,
    harmless: EProcess,
    /// Once shown it stays shown: the guarantee holds for any time of looking.
    shown: Option<Route>,
}

/// The judge of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    rules: Rules,
    tracked: Vec<Tracked>,
    /// Calls, with the failures as the bad ones.
    calls: Sample,
    source_errors: u32,
    source_error: Option<String>,
    tolerance: Fraction,
    floor_us: u64,
    /// Baseline latencies from before the step, for the percentile thresholds.
    history: Vec<u64>,
    /// Baseline latencies during the step.
    stable_latency: Vec<u64>,
}

impl Judge {
    /// A judge for one step. `history` is the baseline's latency before the step.
    #[must_use]
    pub fn new(strategy: &Strategy, step: &Step, history: &[u64]) -> Self {
        let latency = &strategy.latency;
        let rules = Rules::of(strategy, step);
        let objective = Metric::SlowObjective {
            threshold_us: millis(latency.slow_threshold).saturating_mul(1_000),
        };
        let percentiles = latency
            .percentiles
            .iter()
            .map(|percentile| Metric::SlowPercentile {
                percentile: *percentile,
                threshold_us: None,
            });
        let track = |metric| Tracked {
            metric,
            totals: Sample::default(),
            uncapped: 0,
            harm: EProcess::harm(),
            harmless: EProcess::harmless(rules.margin),
            shown: None,
        };
        Self {
            rules,
            tracked: [Metric::Errors, objective]
                .into_iter()
                .chain(percentiles)
                .map(track)
                .collect(),
            calls: Sample::default(),
            source_errors: 0,
            source_error: None,
            tolerance: latency.tolerance,
            floor_us: millis(latency.floor).saturating_mul(1_000),
            history: history.to_vec(),
            stable_latency: Vec::new(),
        }
    }

    /// Calls to the candidate since the step began.
    #[must_use]
    pub fn candidate_calls(&self) -> u64 {
        self.calls.n_c
    }

    /// The baseline's latencies during the step: the next step's history.
    #[must_use]
    pub fn stable_latency(&self) -> &[u64] {
        &self.stable_latency
    }

    /// The candidate's failures and calls when at least half of `calls_min` or more calls failed while
    /// the baseline was well: sure enough without statistics, and without a cap per session, because
    /// no client can cause a failure that is the server's fault.
    #[must_use]
    pub fn failing(&self, calls_min: u64) -> Option<(u64, u64)> {
        let calls = self.calls;
        let candidate_fails = calls.n_c >= calls_min && calls.k_c * 2 >= calls.n_c;
        let baseline_is_well = calls.k_b * 4 <= calls.n_b;
        (candidate_fails && baseline_is_well).then_some((calls.k_c, calls.n_c))
    }

    /// Notes that the counters could not be read. Several times in a row make the verdict an error.
    pub fn source_failed(&mut self, reason: &str) {
        self.source_errors = self.source_errors.saturating_add(1);
        self.source_error = Some(reason.to_owned());
    }

    /// Takes in one tick. Latency counts only once the candidate is `warm`.
    pub fn tick(&mut self, strata: &[Stratum], bounds_us: &[u64], warm: bool) {
        self.source_errors = 0;
        self.source_error = None;
        // Thresholds are set before the tick is looked at, from earlier calls only.
        self.set_thresholds(bounds_us);
        // Only slow calls come in bursts that no cap per session removes.
        let slow_gain_max = (self.rules.ln_fail() + 6.0_f64.ln()) / 4.0;
        for tracked in &mut self.tracked {
            match tracked.metric {
                Metric::Errors => {
                    tracked.uncapped += strata
                        .iter()
                        .map(|s| s.candidate.calls - s.candidate.good)
                        .sum::<u64>();
                    tracked.update(&errors(strata), f64::INFINITY, &self.rules);
                }
                metric => {
                    if let Some(threshold) = metric.threshold_us().filter(|_| warm) {
                        let samples = slow(strata, bounds_us, threshold);
                        tracked.uncapped += samples.iter().map(|sample| sample.k_c).sum::<u64>();
                        tracked.update(&samples, slow_gain_max, &self.rules);
                    }
                }
            }
        }
        for stratum in strata {
            self.calls.n_c += stratum.candidate.calls;
            self.calls.n_b += stratum.stable.calls;
            self.calls.k_c += stratum.candidate.failures;
            self.calls.k_b += stratum.stable.failures;
            measure::add(&mut self.stable_latency, &stratum.stable.latency);
        }
    }

    /// Sets the percentile thresholds once the baseline has had enough calls. Two that coincide
    /// are one statement, and only the first of them stays.
    fn set_thresholds(&mut self, bounds_us: &[u64]) {
        let mut baseline = self.history.clone();
        measure::add(&mut baseline, &self.stable_latency);
        let enough = self.rules.min_samples.clamp(100, P99_SAMPLES);
        let (Some(last), true) = (bounds_us.last(), baseline.iter().sum::<u64>() >= enough) else {
            return;
        };
        for tracked in &mut self.tracked {
            if let Metric::SlowPercentile {
                percentile,
                threshold_us: threshold @ None,
            } = &mut tracked.metric
            {
                let quantile =
                    measure::percentile(&baseline, bounds_us, *percentile).unwrap_or(*last);
                let tolerated = quantile.saturating_add(portion(quantile, self.tolerance));
                let wanted = tolerated.max(self.floor_us);
                let bound = bounds_us.partition_point(|bound| *bound < wanted);
                *threshold = Some(bounds_us.get(bound).copied().unwrap_or(*last));
            }
        }
        let mut seen = Vec::new();
        self.tracked.retain(|tracked| {
            let threshold = tracked.metric.threshold_us();
            let first = threshold.is_none_or(|threshold| !seen.contains(&threshold));
            seen.extend(threshold);
            first
        });
    }

    /// What everything so far proves.
    #[must_use]
    pub fn judgement(&self) -> Judgement {
        let metrics: Vec<Evidence> = self
            .tracked
            .iter()
            .map(|tracked| tracked.evidence(&self.rules, self.calls.n_c))
            .collect();
        let source_error = self
            .source_error
            .clone()
            .filter(|_| self.source_errors > SOURCE_ERRORS_MAX);
        let verdict = metrics
            .iter()
            .map(|evidence| evidence.verdict)
            .chain(source_error.iter().map(|_| Verdict::Error))
            .max()
            .unwrap_or(Verdict::Inconclusive);
        Judgement {
            verdict,
            candidate_calls: self.calls.n_c,
            stable_calls: self.calls.n_b,
            source_error,
            metrics,
        }
    }
}

fn portion(of: u64, fraction: Fraction) -> u64 {
    of.saturating_mul(u64::from(fraction.get())) / 1_000_000
}

fn errors(strata: &[Stratum]) -> Vec<Sample> {
    let sample = |stratum: &Stratum| Sample {
        n_c: stratum.candidate.calls,
        k_c: stratum.candidate.errors,
        n_b: stratum.stable.calls,
        k_b: stratum.stable.errors,
    };
    strata.iter().map(sample).collect()
}

fn slow(strata: &[Stratum], bounds_us: &[u64], threshold_us: u64) -> Vec<Sample> {
    let sample = |stratum: &Stratum| {
        let (k_c, n_c) = measure::slower_than(&stratum.candidate.latency, bounds_us, threshold_us);
        let (k_b, n_b) = measure::slower_than(&stratum.stable.latency, bounds_us, threshold_us);
        Sample { n_c, k_c, n_b, k_b }
    };
    strata.iter().map(sample).collect()
}

impl Tracked {
    fn update(&mut self, samples: &[Sample], gain_max: f64, rules: &Rules) {
        for sample in samples {
            self.totals.add(*sample);
        }
        self.harm.update(samples, gain_max);
        self.harmless.update(samples, f64::INFINITY);
        if self.shown.is_none() {
            self.shown = self.route(rules);
        }
    }

    fn route(&self, rules: &Rules) -> Option<Route> {
        if self.harmless.ln() >= LN_PASS {
            return Some(Route::NotWorse);
        }
        within_budget(self.totals.n_c, self.uncapped, rules.error_budget.as_f64())
            .then_some(Route::WithinBudget)
    }

    fn evidence(&self, rules: &Rules, candidate_calls: u64) -> Evidence {
        let totals = self.totals;
        let (verdict, why) = self.verdict(rules, candidate_calls);
        Evidence {
            metric: self.metric.to_string(),
            verdict,
            why,
            candidate_calls: totals.n_c,
            candidate_bad: totals.k_c,
            candidate_bad_uncapped: self.uncapped,
            stable_calls: totals.n_b,
            stable_bad: totals.k_b,
            ratio: totals.ratio().map(|ratio| rounded(ratio, 1e2)),
            harm_log10: log10(self.harm.ln()),
            fail_log10: log10(rules.ln_fail()),
            harmless_log10: log10(self.harmless.ln()),
            pass_log10: log10(LN_PASS),
        }
    }

    fn verdict(&self, rules: &Rules, candidate_calls: u64) -> (Verdict, Why) {
        if rules.fails(&self.totals, self.harm.ln()) {
            return (Verdict::Fail, Why::Harm);
        }
        if let Metric::SlowPercentile {
            threshold_us: None, ..
        } = self.metric
        {
            return (Verdict::Inconclusive, Why::NoBaseline);
        }
        let (have, need) = self.samples(rules, candidate_calls);
        match self.shown {
            _ if self.totals.n_c == 0 => (Verdict::Inconclusive, Why::NoData),
            _ if have < need => (Verdict::Inconclusive, Why::TooFewCalls { have, need }),
            Some(route) => (Verdict::Pass, Why::Shown { route }),
            None => (Verdict::Inconclusive, Why::NotShown),
        }
    }

    /// Calls there are and calls there must be. An operator who asks for fewer calls than a 99th
    /// percentile needs has asked for no statement about it.
    fn samples(&self, rules: &Rules, candidate_calls: u64) -> (u64, u64) {
        match self.metric {
            Metric::SlowPercentile { percentile: 99, .. }
                if candidate_calls >= rules.min_samples && rules.min_samples >= P99_SAMPLES =>
            {
                (self.totals.n_c, P99_SAMPLES)
            }
            _ => (candidate_calls, rules.min_samples),
        }
    }
}

/// Whether `k` bad calls of `n` show a rate below `budget`: none at all in `ln 20 / budget` calls, or
/// a likelihood of twenty to one for a fifth of the budget.
fn within_budget(n: u64, k: u64, budget: f64) -> bool {
    let none = k == 0 && float(n) * budget >= LN_PASS;
    let fifth = budget / 5.0;
    let few = float(k) * (fifth / budget).ln()
        + float(n.saturating_sub(k)) * ((1.0 - fifth) / (1.0 - budget)).ln();
    none || few >= LN_PASS
}

fn log10(ln: f64) -> f64 {
    rounded(ln / std::f64::consts::LN_10, 1e2)
}

/// Rounds for reading; also makes the decimal text read back as the same number.
fn rounded(value: f64, scale: f64) -> f64 {
    // Adding zero turns -0 into 0.
    (value * scale).round() / scale + 0.0
}

/// What everything in a step proves so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The greatest of the metrics' verdicts.
    pub verdict: Verdict,
    /// Calls to the candidate since the step began.
    pub candidate_calls: u64,
    /// Calls to the baseline since the step began.
    pub stable_calls: u64,
    /// Why the counters could not be read, when that made the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_error: Option<String>,
    /// One entry per metric.
    pub metrics: Vec<Evidence>,
}

impl Judgement {
    /// The metric that decided: the first with the verdict of the whole.
    #[must_use]
    pub fn deciding(&self) -> Option<&Evidence> {
        self.metrics
            .iter()
            .find(|evidence| evidence.verdict == self.verdict)
    }

    /// The judgement in one line: how many calls, and the metric that decided.
    #[must_use]
    pub fn brief(&self) -> String {
        let calls = format!("{} after {} calls", self.verdict, self.candidate_calls);
        match (self.verdict, self.deciding(), &self.source_error) {
            (Verdict::Error, _, Some(error)) => format!("{calls}: {error}"),
            (Verdict::Pass, ..) | (_, None, _) => calls,
            (_, Some(evidence), _) => {
                format!(
                    "{calls}: {} {} ({})",
                    evidence.metric,
                    evidence.counts(),
                    evidence.why
                )
            }
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} after {} calls to the candidate and {} to the baseline",
            self.verdict, self.candidate_calls, self.stable_calls
        )?;
        if let Some(error) = &self.source_error {
            write!(f, "\n  counters: {error}")?;
        }
        for evidence in &self.metrics {
            write!(f, "\n  {evidence}")?;
        }
        Ok(())
    }
}

/// Why a metric's verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Why {
    /// The candidate is worse.
    Harm,
    /// Good enough, by this route.
    Shown {
        /// What showed it.
        route: Route,
    },
    /// There were no calls.
    NoData,
    /// The baseline had too few calls to set a threshold by.
    NoBaseline,
    /// There were too few calls.
    TooFewCalls {
        /// Calls so far.
        have: u64,
        /// Calls needed.
        need: u64,
    },
    /// There were enough calls, and they prove neither.
    NotShown,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Harm => f.write_str("worse"),
            Self::Shown {
                route: Route::NotWorse,
            } => f.write_str("not worse"),
            Self::Shown {
                route: Route::WithinBudget,
            } => f.write_str("within budget"),
            Self::NoData => f.write_str("no calls"),
            Self::NoBaseline => f.write_str("too few calls to the baseline for a threshold"),
            Self::TooFewCalls { have, need } => write!(f, "{have} of {need} calls"),
            Self::NotShown => f.write_str("neither shown"),
        }
    }
}

/// One metric's counts and what they prove. Evidence is given as powers of ten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// `errors`, `slow (>1s)`, `slow@p99 (>80ms)`.
    pub metric: String,
    /// What it proves.
    pub verdict: Verdict,
    /// Why.
    pub why: Why,
    /// Calls to the candidate that this metric counted.
    pub candidate_calls: u64,
    /// Those of them that were bad, at most one per session and interval.
    pub candidate_bad: u64,
    /// Those of them that were bad, all of them.
    pub candidate_bad_uncapped: u64,
    /// Calls to the baseline that this metric counted.
    pub stable_calls: u64,
    /// Those of them that were bad.
    pub stable_bad: u64,
    /// The candidate's rate over the baseline's, where both have one.
    pub ratio: Option<f64>,
    /// Evidence that the candidate is worse.
    pub harm_log10: f64,
    /// The evidence that fails it.
    pub fail_log10: f64,
    /// Evidence that the candidate is not as bad as the margin.
    pub harmless_log10: f64,
    /// The evidence that passes it.
    pub pass_log10: f64,
}

impl Evidence {
    /// The counts and their ratio in words: `31 of 612 (5.07%) against 12 of 11630 (0.10%), 49x`.
    #[must_use]
    pub fn counts(&self) -> String {
        let percent =
            |k, n| rate(k, n).map_or("-".to_owned(), |rate| format!("{:.2}%", rate * 100.0));
        let mut text = format!(
            "{} of {} ({}) against {} of {} ({})",
            self.candidate_bad,
            self.candidate_calls,
            percent(self.candidate_bad, self.candidate_calls),
            self.stable_bad,
            self.stable_calls,
            percent(self.stable_bad, self.stable_calls),
        );
        if let Some(ratio) = self.ratio {
            text.push_str(&format!(", {ratio}x"));
        }
        if self.candidate_bad_uncapped > self.candidate_bad {
            text.push_str(&format!(
                "; {} before the cap per session",
                self.candidate_bad_uncapped
            ));
        }
        text
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<20} {:<12} {}: {}; harm 10^{:.2} of 10^{:.2}, harmless 10^{:.2} of 10^{:.2}",
            self.metric,
            self.verdict,
            self.why,
            self.counts(),
            self.harm_log10,
            self.fail_log10,
            self.harmless_log10,
            self.pass_log10
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Counts;
    use crate::quantity::BasisPoints;

    const BOUNDS: [u64; 6] = [10_000, 20_000, 40_000, 80_000, 160_000, 2_000_000];

    fn strategy() -> Strategy {
        Strategy::canary(BasisPoints::percent(5))
    }

    /// `fast` calls in the first bucket, `slow` in the one above 160 ms.
    fn counts(fast: u64, slow: u64, errors: u64) -> Counts {
        Counts {
            calls: fast + slow,
            errors,
            good: fast + slow - errors,
            failures: errors,
            latency: vec![fast, 0, 0, 0, 0, slow, 0],
        }
    }

    fn judge(ticks: &[(Counts, Counts)], history: &[u64]) -> Judge {
        let strategy = strategy();
        let mut judge = Judge::new(&strategy, &strategy.steps[0], history);
        for (candidate, stable) in ticks {
            let stratum = Stratum {
                candidate: candidate.clone(),
                stable: stable.clone(),
            };
            judge.tick(&[stratum], &BOUNDS, true);
        }
        judge
    }

    #[test]
    fn verdicts() {
        let history = [10_000, 0, 0, 0, 0, 0, 0];
        let cases: [(&str, Vec<(Counts, Counts)>, Verdict, Why); 6] = [
            ("no tick", vec![], Verdict::Inconclusive, Why::NoData),
            (
                "no calls",
                vec![(counts(0, 0, 0), counts(900, 0, 0)); 9],
                Verdict::Inconclusive,
                Why::NoData,
            ),
            (
                "few calls",
                vec![(counts(40, 0, 0), counts(900, 0, 0)); 9],
                Verdict::Inconclusive,
                Why::TooFewCalls {
                    have: 360,
                    need: 500,
                },
            ),
            (
                "good",
                vec![(counts(100, 0, 0), counts(1_900, 0, 2)); 9],
                Verdict::Pass,
                Why::Shown {
                    route: Route::WithinBudget,
                },
            ),
            (
                "broken",
                vec![(counts(50, 0, 50), counts(950, 0, 1))],
                Verdict::Fail,
                Why::Harm,
            ),
            (
                "four bad calls are not five",
                vec![(counts(4, 0, 4), counts(1_000_000, 0, 0))],
                Verdict::Inconclusive,
                Why::TooFewCalls { have: 4, need: 500 },
            ),
        ];
        for (name, ticks, verdict, why) in cases {
            let judgement = judge(&ticks, &history).judgement();
            let deciding = judgement.deciding().unwrap();
            assert_eq!(
                (judgement.verdict, deciding.why),
                (verdict, why),
                "{name}: {judgement}"
            );
        }
    }

    #[test]
    fn a_difference_below_the_minimum_effect_fails_nothing() {
        let tick = (counts(1_000_000, 0, 1_900), counts(1_000_000, 0, 1_000));
        let judgement = judge(&[tick], &[]).judgement();
        assert!(judgement.metrics[0].harm_log10 > judgement.metrics[0].fail_log10);
        assert_ne!(judgement.verdict, Verdict::Fail, "{judgement}");
    }

    #[test]
    fn slowness_fails_after_several_ticks_and_not_after_one() {
        let history = [10_000, 0, 0, 0, 0, 0, 0];
        let stall = (counts(0, 100, 0), counts(1_900, 0, 0));
        let calm = (counts(100, 0, 0), counts(1_900, 0, 0));
        let one = judge(&[calm.clone(), stall.clone(), calm], &history);
        assert_ne!(
            one.judgement().verdict,
            Verdict::Fail,
            "{}",
            one.judgement()
        );
        let slow = judge(&vec![stall; 4], &history);
        assert_eq!(
            slow.judgement().verdict,
            Verdict::Fail,
            "{}",
            slow.judgement()
        );
        // All three percentiles fall below the floor of 10 ms and are one metric.
        assert_eq!(slow.tracked.len(), 3);
    }

    #[test]
    fn thresholds_wait_for_the_baseline_and_then_stay() {
        let tick = (counts(10, 0, 0), counts(200, 0, 0));
        let mut judge = judge(&vec![tick; 2], &[]);
        assert!(
            judge
                .judgement()
                .metrics
                .iter()
                .any(|m| m.why == Why::NoBaseline)
        );
        let stratum = |fast, slow| Stratum {
            candidate: counts(10, 0, 0),
            stable: counts(fast, slow, 0),
        };
        judge.tick(&[stratum(0, 500)], &BOUNDS, true);
        judge.tick(&[stratum(0, 500)], &BOUNDS, true);
        let slow = &judge.judgement().metrics[2];
        assert_eq!(
            (slow.metric.as_str(), slow.stable_bad),
            ("slow@p50 (>20ms)", 1_000)
        );
    }

    #[test]
    fn latency_waits_until_the_candidate_is_warm() {
        let strategy = strategy();
        let mut judge = Judge::new(&strategy, &strategy.steps[0], &[]);
        let stratum = Stratum {
            candidate: counts(0, 100, 30),
            stable: counts(1_900, 0, 0),
        };
        judge.tick(&[stratum], &BOUNDS, false);
        let metrics = judge.judgement().metrics;
        assert_eq!(
            (metrics[0].candidate_bad, metrics[1].candidate_calls),
            (30, 0)
        );
    }

    #[test]
    fn unread_counters_are_an_error_which_a_failure_outranks() {
        let mut judge = judge(&[(counts(100, 0, 0), counts(1_900, 0, 0))], &[]);
        for expect in [Verdict::Inconclusive; 4] {
            judge.source_failed("edge-1: timed out");
            assert_eq!(judge.judgement().verdict, expect);
        }
        judge.source_failed("edge-1: timed out");
        assert_eq!(judge.judgement().verdict, Verdict::Error);
        let bad = Stratum {
            candidate: counts(100, 0, 90),
            stable: counts(1_900, 0, 0),
        };
        judge.tick(&[bad], &BOUNDS, true);
        for _ in 0..9 {
            judge.source_failed("edge-1: timed out");
        }
        assert_eq!(judge.judgement().verdict, Verdict::Fail);
    }

    #[test]
    fn the_absolute_route_takes_the_published_number_of_calls() {
        for (budget, calls) in [(0.01, 300), (0.001, 2_996), (0.0001, 29_958)] {
            assert!(within_budget(calls, 0, budget), "{budget}");
            assert!(
                !within_budget(calls - 1, 0, budget) || budget > 0.009,
                "{budget}"
            );
        }
        assert!(!within_budget(300, 1, 0.01));
        assert!(within_budget(600, 1, 0.01));
        assert!(!within_budget(100_000, 1_000, 0.01));
    }

    #[test]
    fn errors_that_the_cap_hides_use_up_the_budget() {
        // One client whose every third call fails, counted once.
        let candidate = Counts {
            errors: 1,
            ..counts(300, 0, 100)
        };
        let judgement = judge(&vec![(candidate, counts(5_700, 0, 0)); 2], &[]).judgement();
        assert_eq!(judgement.metrics[0].why, Why::NotShown, "{judgement}");
        assert!(
            judgement.to_string().contains("200 before the cap"),
            "{judgement}"
        );
    }

    #[test]
    fn a_release_that_mostly_fails_needs_no_statistics() {
        let cases = [
            ("mostly fails", 100, 50, 1_900, 0, true),
            ("fails sometimes", 100, 49, 1_900, 0, false),
            ("too few calls", 49, 49, 1_900, 0, false),
            ("both fail", 100, 90, 1_900, 600, false),
            ("no baseline", 100, 90, 0, 0, true),
        ];
        for (name, n_c, k_c, n_b, k_b, expect) in cases {
            let tick = (counts(n_c - k_c, k_c, k_c), counts(n_b - k_b, k_b, k_b));
            assert_eq!(judge(&[tick], &[]).failing(50).is_some(), expect, "{name}");
        }
    }

    #[test]
    fn evidence_reads_well() {
        let ticks = vec![(counts(612, 0, 31), counts(11_630, 0, 12))];
        insta::assert_snapshot!(judge(&ticks, &[10_000, 0, 0, 0, 0, 0, 0]).judgement(), @r"
        FAIL after 612 calls to the candidate and 11630 to the baseline
          errors               FAIL         worse: 31 of 612 (5.07%) against 12 of 11630 (0.10%), 49.09x; harm 10^27.08 of 10^2.70, harmless 10^-18.56 of 10^1.30
          slow (>1s)           PASS         within budget: 0 of 612 (0.00%) against 0 of 11630 (0.00%); harm 10^0.00 of 10^2.70, harmless 10^0.00 of 10^1.30
          slow@p50 (>20ms)     PASS         within budget: 0 of 612 (0.00%) against 0 of 11630 (0.00%); harm 10^0.00 of 10^2.70, harmless 10^0.00 of 10^1.30
        ");
    }
}
