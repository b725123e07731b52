//! What the edge counts for operators and for the judge of a release: since its start, never reset.
//!
//! Prometheus gets the same facts in its own form ([`crate::metrics`]); these here are exact, per attempt,
//! and readable in one request. A release answers for each attempt it was given, even if another
//! instance then saved the call.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use admin_api::{
    LATENCY_BUCKETS, LatencyCounts, ProtocolCounters, ReleaseCounters, ToolCounters, bucket_index,
};
use mcp::FrontDoor;

/// Releases that are counted apart; a fleet has two or three.
const RELEASES_MAX: usize = 32;
/// Tools that are counted apart.
const TOOLS_MAX: usize = 1024;
/// Where everything past a bound is counted.
const OTHER: &str = "other";
/// Within this time one session counts as at most one failure: errors come in clusters, and one broken
/// client must not decide on a release.
const CAP_INTERVAL: Duration = Duration::from_secs(10);
/// Sessions that are told apart in one interval.
const CAP_SESSIONS_MAX: usize = 10_000;

/// How an attempt or a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With a result.
    Well,
    /// With a result that says the tool failed.
    ToolFailed,
    /// With an error, or not at all.
    Failed,
}

/// Counters of one thing, lock-free.
#[derive(Debug)]
struct Series {
    calls: AtomicU64,
    failed: AtomicU64,
    tool_failed: AtomicU64,
    capped: AtomicU64,
    latency: [AtomicU64; LATENCY_BUCKETS],
    cap: Mutex<Cap>,
}

#[derive(Debug, Default)]
struct Cap {
    began: Option<Instant>,
    sessions: HashSet<u64>,
}

impl Series {
    fn new() -> Series {
        Series {
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            tool_failed: AtomicU64::new(0),
            capped: AtomicU64::new(0),
            latency: [const { AtomicU64::new(0) }; LATENCY_BUCKETS],
            cap: Mutex::default(),
        }
    }

    fn record(&self, ended: Ended, took: Duration) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.latency[bucket_index(took)].fetch_add(1, Ordering::Relaxed);
        match ended {
            Ended::Well => {}
            Ended::ToolFailed => _ = self.tool_failed.fetch_add(1, Ordering::Relaxed),
            Ended::Failed => _ = self.failed.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Counts a failure once per session and interval; one without a session stands for itself.
    fn record_capped(&self, session: Option<u64>, now: Instant) {
        let counts = session.is_none_or(|session| {
            let mut cap = self.cap.lock().unwrap_or_else(PoisonError::into_inner);
            if cap
                .began
                .is_none_or(|began| now.duration_since(began) >= CAP_INTERVAL)
            {
                cap.began = Some(now);
                cap.sessions.clear();
            }
            cap.sessions.len() < CAP_SESSIONS_MAX && cap.sessions.insert(session)
        });
        if counts {
            self.capped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn latency(&self) -> LatencyCounts {
        let counts: Vec<u64> = self
            .latency
            .iter()
            .map(|c| c.load(Ordering::Relaxed))
            .collect();
        LatencyCounts::try_from(counts).unwrap_or_default()
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn errors(&self) -> u64 {
        self.failed.load(Ordering::Relaxed) + self.tool_failed.load(Ordering::Relaxed)
    }
}

/// A bounded set of series by name.
#[derive(Debug)]
struct ByName {
    series: RwLock<HashMap<Box<str>, Arc<Series>>>,
    max: usize,
}

impl ByName {
    fn new(max: usize) -> ByName {
        ByName {
            series: RwLock::default(),
            max,
        }
    }

    fn get(&self, name: &str) -> Arc<Series> {
        if let Some(series) = self
            .series
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
        {
            return Arc::clone(series);
        }
        let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
        let name = if all.len() < self.max { name } else { OTHER };
        Arc::clone(
            all.entry(name.into())
                .or_insert_with(|| Arc::new(Series::new())),
        )
    }

    fn sorted(&self) -> Vec<(String, Arc<Series>)> {
        let all = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = all
            .iter()
            .map(|(name, series)| (name.to_string(), Arc::clone(series)))
            .collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }
}

/// All counters of an edge.
#[derive(Debug)]
pub struct Counters {
    releases: ByName,
    tools: ByName,
    protocols: ByName,
    rate_limited: AtomicU64,
    unauthorized: AtomicU64,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            releases: ByName::new(RELEASES_MAX),
            tools: ByName::new(TOOLS_MAX),
            protocols: ByName::new(8),
            rate_limited: AtomicU64::new(0),
            unauthorized: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// An attempt that a release was given has ended.
    pub fn attempt(
        &self,
        release: &str,
        ended: Ended,
        took: Duration,
        session: Option<u64>,
        now: Instant,
    ) {
        let series = self.releases.get(release);
        series.record(ended, took);
        if ended != Ended::Well {
            series.record_capped(session, now);
        }
    }

    /// A call has ended. `tool` is a tool of the catalogue, never a client's own words.
    pub fn call(&self, protocol: FrontDoor, tool: Option<&str>, ended: Ended, took: Duration) {
        self.protocols.get(protocol.as_str()).record(ended, took);
        if let Some(tool) = tool {
            self.tools.get(tool).record(ended, took);
        }
    }

    /// A call was refused for its rate.
    pub fn rate_limited(&self) {
        self.rate_limited.fetch_add(1, Ordering::Relaxed);
    }

    /// A request had no valid token.
    pub fn unauthorized(&self) {
        self.unauthorized.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls refused for their rate so far.
    pub fn rate_limited_total(&self) -> u64 {
        self.rate_limited.load(Ordering::Relaxed)
    }

    /// Requests without a valid token so far.
    pub fn unauthorized_total(&self) -> u64 {
        self.unauthorized.load(Ordering::Relaxed)
    }

    /// By release, sorted by name.
    pub fn releases(&self) -> Vec<ReleaseCounters> {
        self.releases
            .sorted()
            .into_iter()
            .map(|(release, series)| ReleaseCounters {
                release,
                calls: series.calls(),
                failures: series.failed.load(Ordering::Relaxed),
                tool_errors: series.tool_failed.load(Ordering::Relaxed),
                capped_failures: series.capped.load(Ordering::Relaxed),
                latency: series.latency(),
            })
            .collect()
    }

    /// By tool, sorted by name.
    pub fn tools(&self) -> Vec<ToolCounters> {
        self.tools
            .sorted()
            .into_iter()
            .map(|(tool, series)| {
                let latency = series.latency();
                ToolCounters {
                    tool,
                    calls: series.calls(),
                    errors: series.errors(),
                    p50_us: latency.quantile_us(0.5).unwrap_or(0),
                    p99_us: latency.quantile_us(0.99).unwrap_or(0),
                }
            })
            .collect()
    }

    /// By protocol, sorted by name.
    pub fn protocols(&self) -> Vec<ProtocolCounters> {
        self.protocols
            .sorted()
            .into_iter()
            .map(|(protocol, series)| ProtocolCounters {
                protocol,
                calls: series.calls(),
                errors: series.errors(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_session_is_one_failure_an_interval() {
        let counters = Counters::default();
        let start = Instant::now();
        let fail =
            |session, after| counters.attempt("r", Ended::Failed, MS, session, start + after);
        for _ in 0..5 {
            fail(Some(1), Duration::ZERO);
        }
        fail(Some(2), MS);
        fail(None, MS);
        fail(None, MS);
        fail(Some(1), CAP_INTERVAL);
        let report = &counters.releases()[0];
        assert_eq!(
            (report.calls, report.failures, report.capped_failures),
            (9, 9, 5)
        );
    }

    #[test]
    fn names_past_the_bound_are_counted_together() {
        let counters = Counters::default();
        for n in 0..RELEASES_MAX + 5 {
            counters.attempt(&format!("r{n}"), Ended::Well, MS, None, Instant::now());
        }
        let releases = counters.releases();
        assert_eq!(releases.len(), RELEASES_MAX + 1);
        let other = releases.iter().find(|r| r.release == OTHER).unwrap();
        assert_eq!(other.calls, 5);
    }
}
