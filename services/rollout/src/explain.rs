//! The plan in words: what will happen, how long it takes, and what it would and would not see.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::{Plan, Release};
use crate::power::power;
use crate::quantity::format_duration;
use crate::strategy::{OnInconclusive, Step};

/// The traffic that a plan's power is computed for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assumptions {
    /// Calls per second over the whole fleet.
    pub calls_per_second: f64,
    /// The share of calls that fail on a good release.
    pub error_rate: f64,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            calls_per_second: 200.0,
            error_rate: 0.001,
        }
    }
}

impl Plan {
    /// The plan for people, one line per phase, with the power of each step.
    #[must_use]
    pub fn explain(&self, assume: &Assumptions) -> String {
        let lines: Vec<String> = self.lines(assume);
        lines.join("\n")
    }

    /// The shortest time that the plan can take once the candidate is ready, drain not counted.
    #[must_use]
    pub fn duration_min(&self) -> Duration {
        let strategy = self.strategy();
        let steps = if self.stable().is_some() {
            strategy.steps.iter().map(|step| step.duration).sum()
        } else {
            Duration::ZERO
        };
        steps
            + strategy.soak
            + self
                .stable()
                .map_or(Duration::ZERO, |_| strategy.scale_down_delay)
    }

    fn lines(&self, assume: &Assumptions) -> Vec<String> {
        let strategy = self.strategy();
        let hash = self.hash();
        let mut lines = vec![format!(
            "plan {}: {} -> {}, {}, at least {}",
            short(&hash),
            self.stable()
                .map_or("nothing", |release| short(&release.id)),
            short(&self.candidate().id),
            instances(self.replicas()),
            format_duration(self.duration_min()),
        )];
        lines.push(format!(
            "  start      {}, ready within {}, then verify",
            instances(self.first_replicas()),
            format_duration(strategy.ready_timeout)
        ));
        match self.stable() {
            Some(_) => lines.extend(self.steps(assume)),
            None => lines.push("  no steps   there is no release to compare with".to_owned()),
        }
        lines.push(format!(
            "  promote    100% to {}, guards armed for {}",
            instances(self.replicas()),
            format_duration(strategy.soak)
        ));
        lines.extend(self.stable().map(|release| self.ending(release)));
        lines.push(self.guards());
        lines
    }

    /// Instances to start before the candidate is verified.
    pub(crate) fn first_replicas(&self) -> u32 {
        let first = self.strategy().steps.first();
        match first.filter(|_| self.stable().is_some()) {
            Some(step) => self.replicas_for(step.weight),
            None => self.replicas(),
        }
    }

    fn steps(&self, assume: &Assumptions) -> Vec<String> {
        let strategy = self.strategy();
        let mut lines = Vec::new();
        for (index, step) in strategy.steps.iter().enumerate() {
            lines.push(format!(
                "  step {:<5} {:<5} for {} on {}, at least {} calls, not {} times as bad",
                index + 1,
                step.weight,
                format_duration(step.duration),
                instances(self.replicas_for(step.weight)),
                step.min_samples,
                step.margin,
            ));
            lines.push(format!("             {}", self.sees(step, assume)));
        }
        if lines.is_empty() {
            return lines;
        }
        lines.push(format!(
            "             power is for {} calls/s with {:.2}% errors; false alarms {} per step",
            assume.calls_per_second,
            assume.error_rate * 100.0,
            strategy.alpha,
        ));
        lines.push(format!(
            "             without a verdict: up to {} more times as long, then {}",
            strategy.extend_max,
            match strategy.on_inconclusive {
                OnInconclusive::Abort => "roll back",
                OnInconclusive::Pause => "pause",
            }
        ));
        lines
    }

    fn sees(&self, step: &Step, assume: &Assumptions) -> String {
        let power = power(self.strategy(), step, assume);
        let mut text = match power.ratio {
            Some(ratio) => format!("sees a {ratio}-fold change with 80% power"),
            None => "sees no change: too few calls".to_owned(),
        };
        if power.candidate_calls < step.min_samples {
            let _ = write!(
                text,
                "; only {} calls are expected, so it will be inconclusive",
                power.candidate_calls
            );
        }
        if step.min_samples < 300 && self.strategy().latency.percentiles.contains(&99) {
            text.push_str("; says nothing sure about p99 below 300 calls");
        }
        text
    }

    fn ending(&self, stable: &Release) -> String {
        format!(
            "  scale down {} stops {} later",
            short(&stable.id),
            format_duration(self.strategy().scale_down_delay)
        )
    }

    fn guards(&self) -> String {
        let guards = self.strategy().guards;
        format!(
            "  rolls back at once on {} restarts, lost readiness, no success or half failed in {} calls, a wrong \
             digest; a weight that nobody renews for {} falls to 0%",
            guards.restarts,
            guards.first_calls,
            format_duration(self.strategy().weight_lease)
        )
    }
}

fn instances(count: u32) -> String {
    match count {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    }
}

/// The first twelve characters of a hash.
pub(crate) fn short(hash: &str) -> &str {
    hash.char_indices()
        .nth(12)
        .map_or(hash, |(end, _)| &hash[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::BasisPoints;
    use crate::strategy::Strategy;

    #[test]
    fn a_canary_in_words() {
        let strategy = Strategy::canary(BasisPoints::percent(5));
        let stable = Some(Release::named("0123456789abcdef"));
        let plan = Plan::new(Release::named("fedcba9876543210"), stable, 3, strategy).unwrap();
        insta::assert_snapshot!(plan.explain(&Assumptions::default()), @r"
        plan d01980433249: 0123456789ab -> fedcba987654, 3 instances, at least 30m30s
          start      1 instance, ready within 1m, then verify
          step 1     5%    for 10m on 1 instance, at least 500 calls, not 5 times as bad
                     sees a 4-fold change with 80% power
          step 2     25%   for 10m on 1 instance, at least 500 calls, not 2 times as bad
                     sees a 2.5-fold change with 80% power
          step 3     50%   for 10m on 2 instances, at least 500 calls, not 1.5 times as bad
                     sees a 2.5-fold change with 80% power
                     power is for 200 calls/s with 0.10% errors; false alarms 1% per step
                     without a verdict: up to 2 more times as long, then roll back
          promote    100% to 3 instances, guards armed for 0s
          scale down 0123456789ab stops 30s later
          rolls back at once on 2 restarts, lost readiness, no success or half failed in 50 calls, a wrong digest; a weight that nobody renews for 30s falls to 0%
        ");
    }

    #[test]
    fn little_traffic_in_words() {
        let mut strategy = Strategy::canary(BasisPoints::percent(50));
        strategy.steps[0].min_samples = 200;
        strategy.steps[0].duration = Duration::from_secs(60);
        let plan = Plan::new(Release::named("b"), Some(Release::named("a")), 1, strategy).unwrap();
        let assume = Assumptions {
            calls_per_second: 1.0,
            error_rate: 0.001,
        };
        insta::assert_snapshot!(plan.explain(&assume), @r"
        plan 89eebf4a5664: a -> b, 1 instance, at least 1m30s
          start      1 instance, ready within 1m, then verify
          step 1     50%   for 1m on 1 instance, at least 200 calls, not 1.5 times as bad
                     sees no change: too few calls; only 30 calls are expected, so it will be inconclusive; says nothing sure about p99 below 300 calls
                     power is for 1 calls/s with 0.10% errors; false alarms 1% per step
                     without a verdict: up to 2 more times as long, then roll back
          promote    100% to 1 instance, guards armed for 0s
          scale down a stops 30s later
          rolls back at once on 2 restarts, lost readiness, no success or half failed in 50 calls, a wrong digest; a weight that nobody renews for 30s falls to 0%
        ");
    }

    #[test]
    fn a_first_deployment_in_words() {
        let plan = Plan::new(Release::named("b"), None, 1, Strategy::default()).unwrap();
        insta::assert_snapshot!(plan.explain(&Assumptions::default()), @r"
        plan 05ef19080869: nothing -> b, 1 instance, at least 0s
          start      1 instance, ready within 1m, then verify
          no steps   there is no release to compare with
          promote    100% to 1 instance, guards armed for 0s
          rolls back at once on 2 restarts, lost readiness, no success or half failed in 50 calls, a wrong digest; a weight that nobody renews for 30s falls to 0%
        ");
    }
}
