//! What a run must reach, from a file.
//!
//! ```toml
//! [[objective]]
//! requests = "*"            # all, or the name of a request as the summary shows it; `*` at the end matches any rest
//! error_ratio_max = "0.1%"
//! p99_max = "250ms"
//! ```

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Fewest requests for a statement on the 99th percentile: with fewer, the slowest may all have been missed
/// (0.99^299 is 5 %).
const P99_SAMPLES_MIN: u64 = 299;

/// Whether objectives were reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All of them.
    Met,
    /// Too little was measured to tell.
    Inconclusive,
    /// One was not.
    Missed,
}

impl Verdict {
    /// The process's exit status.
    pub fn code(self) -> u8 {
        match self {
            Self::Met => 0,
            Self::Missed => 3,
            Self::Inconclusive => 5,
        }
    }
}

/// A file of objectives.
#[derive(Debug, Clone)]
pub struct Objectives(Vec<Objective>);

#[derive(Debug, Clone)]
struct Objective {
    requests: String,
    error_ratio_max: Option<f64>,
    p50_max: Option<Duration>,
    p99_max: Option<Duration>,
    rate_min: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    objective: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    requests: String,
    error_ratio_max: Option<String>,
    p50_max: Option<String>,
    p99_max: Option<String>,
    rate_min: Option<f64>,
}

/// What was measured of the requests that an objective names.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Requests.
    pub count: u64,
    /// Failed ones.
    pub failed: u64,
    /// Median, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
    /// Requests a second.
    pub rate: f64,
}

/// One objective and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// What was demanded.
    pub objective: String,
    /// What was measured.
    pub measured: String,
    /// Whether it holds.
    pub verdict: Verdict,
}

impl Default for Objectives {
    /// Without a file: every request succeeds.
    fn default() -> Objectives {
        Objectives(vec![Objective {
            requests: "*".to_owned(),
            error_ratio_max: Some(0.0),
            p50_max: None,
            p99_max: None,
            rate_min: None,
        }])
    }
}

impl Objectives {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, has unknown keys, or demands nothing.
    pub fn read(path: &Path) -> Result<Objectives> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Objectives::parse(&text)
            .with_context(|| format!("{} is no file of objectives", path.display()))
    }

    fn parse(text: &str) -> Result<Objectives> {
        let file: File = toml::from_str(text)?;
        let objectives: Vec<Objective> = file
            .objective
            .into_iter()
            .map(Written::check)
            .collect::<Result<_>>()?;
        if objectives.is_empty() {
            bail!("there is no [[objective]]");
        }
        Ok(Objectives(objectives))
    }

    /// Judges a run. `facts` gives what was measured of the requests that a pattern names.
    pub fn judge(&self, facts: impl Fn(&dyn Fn(&str) -> bool) -> Facts) -> Vec<Judged> {
        self.0
            .iter()
            .flat_map(|objective| {
                objective.judge(&facts(&|name| matches(&objective.requests, name)))
            })
            .collect()
    }
}

impl Written {
    fn check(self) -> Result<Objective> {
        let duration =
            |text: Option<String>| text.map(|t| settings::parse_duration(&t)).transpose();
        let objective = Objective {
            error_ratio_max: self
                .error_ratio_max
                .map(|text| settings::parse_percent(&text).map(settings::Percent::fraction))
                .transpose()
                .context("error_ratio_max")?,
            p50_max: duration(self.p50_max).context("p50_max")?,
            p99_max: duration(self.p99_max).context("p99_max")?,
            rate_min: self.rate_min,
            requests: self.requests,
        };
        if objective.error_ratio_max.is_none()
            && objective.p50_max.is_none()
            && objective.p99_max.is_none()
            && objective.rate_min.is_none()
        {
            bail!("an objective needs error_ratio_max, p50_max, p99_max or rate_min");
        }
        Ok(objective)
    }
}

/// Whether a pattern names a request: the same text, or the same beginning where the pattern ends in `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

impl Objective {
    fn judge(&self, facts: &Facts) -> Vec<Judged> {
        let mut judged = Vec::new();
        let mut add = |objective: String, measured: String, enough: bool, holds: bool| {
            let verdict = match (enough, holds) {
                (false, _) => Verdict::Inconclusive,
                (true, true) => Verdict::Met,
                (true, false) => Verdict::Missed,
            };
            judged.push(Judged {
                objective: format!("{} {objective}", self.requests),
                measured,
                verdict,
            });
        };
        if let Some(max) = self.error_ratio_max {
            let ratio = facts.failed as f64 / facts.count.max(1) as f64;
            add(
                format!("errors <= {:.2}%", max * 100.0),
                format!("{} of {}", facts.failed, facts.count),
                facts.count > 0,
                ratio <= max,
            );
        }
        for (name, max, us, samples) in [
            ("p50", self.p50_max, facts.p50_us, 1),
            ("p99", self.p99_max, facts.p99_us, P99_SAMPLES_MIN),
        ] {
            if let Some(max) = max {
                let took = Duration::from_micros(us);
                add(
                    format!("{name} <= {max:?}"),
                    format!("{took:?} over {}", facts.count),
                    facts.count >= samples,
                    took <= max,
                );
            }
        }
        if let Some(min) = self.rate_min {
            add(
                format!("rate >= {min}/s"),
                format!("{:.1}/s", facts.rate),
                facts.count > 0,
                facts.rate >= min,
            );
        }
        judged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_objective_is_told_from_one_that_cannot_be_judged() {
        let file = r#"
[[objective]]
requests = "session *"
error_ratio_max = "1%"
p99_max = "100ms"
"#;
        let objectives = Objectives::parse(file).unwrap();
        for (count, failed, p99_us, verdicts) in [
            (1000, 10, 100_000, [Verdict::Met, Verdict::Met]),
            (1000, 11, 100_001, [Verdict::Missed, Verdict::Missed]),
            (298, 0, 1, [Verdict::Met, Verdict::Inconclusive]),
            (0, 0, 0, [Verdict::Inconclusive, Verdict::Inconclusive]),
        ] {
            let facts = Facts {
                count,
                failed,
                p99_us,
                ..Facts::default()
            };
            let judged = objectives.judge(|names| {
                assert!(names("session tools/call") && !names("graphql callTool"));
                facts
            });
            let got: Vec<_> = judged.iter().map(|j| j.verdict).collect();
            assert_eq!(got, verdicts, "{count}");
        }
    }

    #[test]
    fn a_file_that_demands_nothing_is_refused() {
        for text in [
            "",
            "[[objective]]\nrequests = \"*\"",
            "[[objective]]\nrequests=\"*\"\np99=\"1s\"",
        ] {
            assert!(Objectives::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_shipped_objectives_are_read() {
        let text = include_str!("../slo.toml");
        assert!(Objectives::parse(text).is_ok());
    }
}
