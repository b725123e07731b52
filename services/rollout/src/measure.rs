//! From the edges' running totals to what each release did in one tick.
//!
//! Edges count from their own start and never reset. A tick is the difference of two readings, edge
//! by edge, because edges come, go and restart on their own:
//!
//! - an edge that restarted counts from nothing again, and all that it shows is new;
//! - an edge that is seen for the first time and was running before shows history, which is no
//!   evidence about this rollout;
//! - an edge that is not there is left out, and picks up where it was if it returns.
//!
//! Edges are kept apart in the result: comparing the releases within each edge cancels whatever is
//! particular to one edge.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one release did through one edge since that edge started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseCounters {
    /// The release.
    pub release: String,
    /// Calls that ended.
    pub calls: u64,
    /// Calls that failed: no answer, or a protocol error that is the server's fault.
    pub failures: u64,
    /// Calls that a tool answered with an error.
    pub tool_errors: u64,
    /// Bad calls (failures and tool errors) with at most one per session and interval.
    pub capped_failures: u64,
    /// Calls by latency: one count per bound, and one more for what is slower than the last.
    pub latency: Vec<u64>,
}

/// What one edge counted since it started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeReport {
    /// The edge's name.
    pub edge: String,
    /// When the edge started, unix milliseconds: a changed value means that it counts from nothing.
    pub started_unix_ms: u64,
    /// One entry per release that it has sent calls to.
    pub releases: Vec<ReleaseCounters>,
}

/// What one release did through one edge during one tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that ended.
    pub calls: u64,
    /// Bad calls, capped per session.
    pub errors: u64,
    /// Calls that were neither failures nor tool errors.
    pub good: u64,
    /// Calls that failed by the server's fault, every one of them.
    pub failures: u64,
    /// Calls by latency.
    pub latency: Vec<u64>,
}

/// The two releases through one edge during one tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stratum {
    /// The release that is judged.
    pub candidate: Counts,
    /// The release that it is compared with.
    pub stable: Counts,
}

/// The most edges that are remembered.
const EDGES_MAX: usize = 1_024;
/// An edge that was not seen for this long is forgotten, milliseconds.
const FORGET_MS: u64 = 3_600_000;

/// The last reading of every edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    edges: BTreeMap<String, Book>,
    read_unix_ms: Option<u64>,
    /// Calls to the candidate since the first reading.
    pub candidate_calls: u64,
    /// Those of them that were good.
    pub candidate_good: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    started_unix_ms: u64,
    seen_unix_ms: u64,
    candidate: ReleaseCounters,
    stable: ReleaseCounters,
}

impl Ledger {
    /// When the counters were last read, unix milliseconds.
    #[must_use]
    pub fn read_unix_ms(&self) -> Option<u64> {
        self.read_unix_ms
    }

    /// Takes a reading and returns what happened since the one before, one stratum per edge.
    pub fn take(
        &mut self,
        reports: &[EdgeReport],
        candidate: &str,
        stable: Option<&str>,
        now: u64,
    ) -> Vec<Stratum> {
        let previous_read = self.read_unix_ms;
        let mut strata = Vec::with_capacity(reports.len());
        for report in reports {
            let book = Book {
                started_unix_ms: report.started_unix_ms,
                seen_unix_ms: now,
                candidate: of_release(report, Some(candidate)),
                stable: of_release(report, stable),
            };
            strata.extend(self.stratum(&report.edge, &book, previous_read));
            if self.edges.len() < EDGES_MAX || self.edges.contains_key(&report.edge) {
                self.edges.insert(report.edge.clone(), book);
            }
        }
        self.edges
            .retain(|_, book| now.saturating_sub(book.seen_unix_ms) <= FORGET_MS);
        self.read_unix_ms = Some(now);
        for stratum in &strata {
            self.candidate_calls += stratum.candidate.calls;
            self.candidate_good += stratum.candidate.good;
        }
        strata
    }

    fn stratum(&self, edge: &str, now: &Book, previous_read: Option<u64>) -> Option<Stratum> {
        let nothing = ReleaseCounters::default();
        let (candidate, stable) = match self.edges.get(edge) {
            Some(book) if book.started_unix_ms == now.started_unix_ms => {
                (&book.candidate, &book.stable)
            }
            Some(_) => (&nothing, &nothing),
            None if previous_read.is_some_and(|read| now.started_unix_ms >= read) => {
                (&nothing, &nothing)
            }
            None => return None,
        };
        Some(Stratum {
            candidate: difference(&now.candidate, candidate),
            stable: difference(&now.stable, stable),
        })
    }

    /// The stable release's latencies since the edges started, over all edges.
    #[must_use]
    pub fn stable_latency(&self) -> Vec<u64> {
        let mut total = Vec::new();
        for book in self.edges.values() {
            add(&mut total, &book.stable.latency);
        }
        total
    }
}

fn of_release(report: &EdgeReport, release: Option<&str>) -> ReleaseCounters {
    let found = report
        .releases
        .iter()
        .find(|counters| Some(counters.release.as_str()) == release);
    found.cloned().unwrap_or_default()
}

/// What was counted between two readings of the same release through the same edge.
fn difference(now: &ReleaseCounters, before: &ReleaseCounters) -> Counts {
    let nothing = ReleaseCounters::default();
    // Counters that fell were reset, whatever the start time says.
    let before = if now.calls < before.calls {
        &nothing
    } else {
        before
    };
    let calls = now.calls - before.calls;
    let failures = now.failures.saturating_sub(before.failures).min(calls);
    let bad = failures + now.tool_errors.saturating_sub(before.tool_errors);
    let latency = |(index, count): (usize, &u64)| {
        count.saturating_sub(before.latency.get(index).copied().unwrap_or(0))
    };
    Counts {
        calls,
        errors: now
            .capped_failures
            .saturating_sub(before.capped_failures)
            .min(calls),
        good: calls.saturating_sub(bad),
        failures,
        latency: now.latency.iter().enumerate().map(latency).collect(),
    }
}

/// Adds one histogram to another, bucket by bucket.
pub fn add(to: &mut Vec<u64>, counts: &[u64]) {
    if to.len() < counts.len() {
        to.resize(counts.len(), 0);
    }
    for (to, count) in to.iter_mut().zip(counts) {
        *to += count;
    }
}

/// The smallest bound, in the bounds' unit, that at least `percentile` percent of the calls do not
/// exceed; `None` without calls or when it is beyond the last bound.
#[must_use]
pub fn percentile(latency: &[u64], bounds: &[u64], percentile: u8) -> Option<u64> {
    let total: u64 = latency.iter().sum();
    let rank = (total * u64::from(percentile)).div_ceil(100);
    let mut seen = 0;
    let bucket = latency.iter().position(|count| {
        seen += count;
        seen >= rank && total > 0
    })?;
    bounds.get(bucket).copied()
}

/// Calls that took longer than `threshold` and all calls. A bucket that the threshold falls into
/// counts as not slow.
#[must_use]
pub fn slower_than(latency: &[u64], bounds: &[u64], threshold: u64) -> (u64, u64) {
    let first_slow = bounds.partition_point(|bound| *bound < threshold) + 1;
    let slow = latency.iter().skip(first_slow).sum();
    (slow, latency.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(edge: &str, started: u64, new: u64, old: u64) -> EdgeReport {
        let counters = |release: &str, calls| ReleaseCounters {
            release: release.to_owned(),
            calls,
            failures: calls / 10,
            tool_errors: calls / 10,
            capped_failures: calls / 20,
            latency: vec![calls, 0],
        };
        EdgeReport {
            edge: edge.to_owned(),
            started_unix_ms: started,
            releases: vec![counters("new", new), counters("old", old)],
        }
    }

    /// Total calls per tick, candidate and stable.
    fn ticks(readings: &[Vec<EdgeReport>]) -> Vec<(u64, u64)> {
        let mut ledger = Ledger::default();
        let tick = |(index, reports): (usize, &Vec<EdgeReport>)| {
            let now = 1_000 + 10 * index as u64;
            let strata = ledger.take(reports, "new", Some("old"), now);
            let sum = |of: fn(&Stratum) -> u64| strata.iter().map(of).sum();
            (sum(|s| s.candidate.calls), sum(|s| s.stable.calls))
        };
        readings.iter().enumerate().map(tick).collect()
    }

    #[test]
    fn ticks_are_differences_per_edge() {
        let cases: [(&str, Vec<Vec<EdgeReport>>, &[(u64, u64)]); 6] = [
            (
                "history is no evidence",
                vec![
                    vec![report("e", 1, 50, 900)],
                    vec![report("e", 1, 60, 1_000)],
                ],
                &[(0, 0), (10, 100)],
            ),
            (
                "a restarted edge counts from nothing",
                vec![
                    vec![report("e", 1, 50, 900)],
                    vec![report("e", 1_005, 20, 40)],
                ],
                &[(0, 0), (20, 40)],
            ),
            (
                "counters that fell were reset",
                vec![vec![report("e", 1, 50, 900)], vec![report("e", 1, 20, 40)]],
                &[(0, 0), (20, 40)],
            ),
            (
                "a new edge counts, one that ran before does not",
                vec![
                    vec![],
                    vec![report("new", 1_001, 3, 30), report("old", 7, 500, 500)],
                    vec![report("new", 1_001, 4, 40), report("old", 7, 501, 510)],
                ],
                &[(0, 0), (3, 30), (2, 20)],
            ),
            (
                "a lost edge picks up where it was",
                vec![
                    vec![report("e", 1, 10, 100)],
                    vec![],
                    vec![report("e", 1, 15, 150)],
                ],
                &[(0, 0), (0, 0), (5, 50)],
            ),
            (
                "edges add up",
                vec![
                    vec![report("a", 1, 0, 0), report("b", 2, 0, 0)],
                    vec![report("a", 1, 1, 2), report("b", 2, 10, 20)],
                ],
                &[(0, 0), (11, 22)],
            ),
        ];
        for (name, readings, expect) in cases {
            assert_eq!(ticks(&readings), expect, "{name}");
        }
    }

    #[test]
    fn a_tick_has_errors_good_calls_and_latency() {
        let mut ledger = Ledger::default();
        ledger.take(&[report("e", 1, 100, 0)], "new", None, 10);
        let strata = ledger.take(&[report("e", 1, 200, 50)], "new", None, 20);
        let expect = Counts {
            calls: 100,
            errors: 5,
            good: 80,
            failures: 10,
            latency: vec![100, 0],
        };
        assert_eq!(strata[0].candidate, expect);
        assert_eq!(strata[0].stable, Counts::default());
        assert_eq!((ledger.candidate_calls, ledger.candidate_good), (100, 80));
    }

    #[test]
    fn edges_are_forgotten_in_time_and_number() {
        let mut ledger = Ledger::default();
        let many: Vec<_> = (0..2_000)
            .map(|n| report(&n.to_string(), 1, 1, 1))
            .collect();
        ledger.take(&many, "new", None, 0);
        assert_eq!(ledger.edges.len(), EDGES_MAX);
        ledger.take(&[], "new", None, FORGET_MS + 1);
        assert_eq!(ledger.edges.len(), 0);
    }

    #[test]
    fn percentiles_and_slow_calls_fall_on_bounds() {
        let bounds = [1, 2, 4, 8];
        let latency = [50, 40, 9, 0, 1];
        for (p, expect) in [
            (1, Some(1)),
            (50, Some(1)),
            (51, Some(2)),
            (90, Some(2)),
            (99, Some(4)),
        ] {
            assert_eq!(percentile(&latency, &bounds, p), expect, "p{p}");
        }
        assert_eq!(percentile(&[0, 0], &bounds, 50), None);
        assert_eq!(percentile(&[0, 0, 0, 0, 7], &bounds, 50), None);
        for (threshold, slow) in [(1, 50), (2, 10), (3, 1), (4, 1), (8, 1), (9, 0)] {
            assert_eq!(
                slower_than(&latency, &bounds, threshold),
                (slow, 100),
                "{threshold}"
            );
        }
    }
}
