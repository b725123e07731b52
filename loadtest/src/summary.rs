//! What a run showed, for people and programs.

use std::collections::BTreeMap;
use std::fmt;

use goose::metrics::GooseMetrics;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::objectives::{Facts, Judged, Objectives, Verdict};

/// Errors that are shown.
const ERRORS_SHOWN: usize = 10;

/// The whole run.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Whether the objectives were met.
    pub verdict: Verdict,
    /// Seconds.
    duration_s: u64,
    /// All requests together.
    total: Line,
    /// By name of the request.
    requests: BTreeMap<String, Line>,
    /// Processor time of the measured processes for one request, microseconds.
    cpu_us_per_request: BTreeMap<String, f64>,
    /// Each objective.
    objectives: Vec<Judged>,
    /// The errors, most frequent first.
    errors: Vec<Error>,
    /// How the process ends.
    exit: Exit,
}

#[derive(Debug, Serialize)]
struct Exit {
    code: u8,
    reason: Verdict,
}

#[derive(Debug, Default, Serialize)]
struct Line {
    count: u64,
    failed: u64,
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

#[derive(Debug, Serialize)]
struct Error {
    request: String,
    error: String,
    count: usize,
}

impl Summary {
    /// Sums a run up.
    pub fn new(
        metrics: &GooseMetrics,
        used: BTreeMap<String, u64>,
        objectives: &Objectives,
    ) -> Summary {
        let seconds = metrics.duration.max(1) as f64;
        let all = collect(metrics, seconds, &|_| true);
        let objectives = objectives.judge(|names| {
            let line = collect(metrics, seconds, names);
            Facts {
                count: line.count,
                failed: line.failed,
                p50_us: line.p50_us,
                p99_us: line.p99_us,
                rate: line.per_second,
            }
        });
        let verdict = objectives
            .iter()
            .map(|j| j.verdict)
            .max()
            .unwrap_or(Verdict::Inconclusive);
        let count = all.count.max(1) as f64;
        Summary {
            exit: Exit {
                code: verdict.code(),
                reason: verdict,
            },
            verdict,
            duration_s: metrics.duration as u64,
            requests: metrics
                .requests
                .values()
                .map(|r| {
                    (
                        r.path.clone(),
                        collect(metrics, seconds, &|name| name == r.path),
                    )
                })
                .collect(),
            total: all,
            cpu_us_per_request: used
                .into_iter()
                .map(|(name, us)| (name, us as f64 / count))
                .collect(),
            objectives,
            errors: errors(metrics),
        }
    }
}

/// Adds up the requests whose name is wanted.
fn collect(metrics: &GooseMetrics, seconds: f64, wanted: &dyn Fn(&str) -> bool) -> Line {
    let mut times = Histogram::<u64>::new(3).expect("three digits are allowed");
    let mut line = Line::default();
    for request in metrics.requests.values().filter(|r| wanted(&r.path)) {
        line.count += (request.success_count + request.fail_count) as u64;
        line.failed += request.fail_count as u64;
        line.max_us = line.max_us.max(request.raw_data.maximum_time_us);
        for (us, count) in request.raw_data.times_us.iter() {
            // The histogram grows as needed, so every time fits.
            let _ = times.record_n(*us, *count as u64);
        }
    }
    line.per_second = line.count as f64 / seconds;
    line.p50_us = times.value_at_quantile(0.5).min(line.max_us);
    line.p99_us = times.value_at_quantile(0.99).min(line.max_us);
    line
}

fn errors(metrics: &GooseMetrics) -> Vec<Error> {
    let mut errors: Vec<Error> = metrics
        .errors
        .values()
        .map(|e| Error {
            request: e.name.clone(),
            error: e.error.clone(),
            count: e.occurrences,
        })
        .collect();
    errors.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.error.cmp(&b.error)));
    errors.truncate(ERRORS_SHOWN);
    errors
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<28} {:>8} {:>7} {:>9} {:>9} {:>9}",
            "request", "count", "failed", "calls/s", "p50 ms", "p99 ms"
        )?;
        let total = "all".to_owned();
        for (name, line) in self
            .requests
            .iter()
            .chain(std::iter::once((&total, &self.total)))
        {
            writeln!(
                f,
                "{name:<28} {:>8} {:>7} {:>9.1} {:>9.2} {:>9.2}",
                line.count,
                line.failed,
                line.per_second,
                line.p50_us as f64 / 1000.0,
                line.p99_us as f64 / 1000.0
            )?;
        }
        for (name, us) in &self.cpu_us_per_request {
            writeln!(f, "{name}: {us:.0} µs of processor time a request")?;
        }
        for error in &self.errors {
            writeln!(
                f,
                "error {}x {}: {}",
                error.count, error.request, error.error
            )?;
        }
        for judged in &self.objectives {
            let word = match judged.verdict {
                Verdict::Met => "met         ",
                Verdict::Inconclusive => "inconclusive",
                Verdict::Missed => "MISSED      ",
            };
            writeln!(f, "{word} {}: {}", judged.objective, judged.measured)?;
        }
        Ok(())
    }
}
