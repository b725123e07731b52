//! What the screen shows: the last snapshot of the fleet, rates over the last minutes, and where the user is.

use std::collections::{BTreeMap, VecDeque};

use admin_api::{EdgeStatus, LatencyCounts, ReleaseCounters, TrafficReport};
use registry::{Instance, Process, Traffic};

/// Rates that are kept for the sparkline.
const HISTORY: usize = 120;

/// What an edge said.
pub type Asked = (EdgeStatus, TrafficReport);

/// The fleet at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// What each reachable edge said.
    pub edges: Vec<Asked>,
    /// Registered instances.
    pub instances: Vec<Instance>,
    /// Supervised processes.
    pub processes: Vec<Process>,
    /// The split in force.
    pub traffic: Option<Traffic>,
    /// The rollout that is going on, one line a fact.
    pub rollout: Vec<String>,
    /// What could not be asked.
    pub trouble: Vec<String>,
}

/// A page of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tab {
    /// Instances and what they do.
    #[default]
    Fleet,
    /// Tools by calls.
    Tools,
    /// Releases and the rollout between them.
    Rollout,
}

impl Tab {
    /// All tabs, in order.
    pub const ALL: [Tab; 3] = [Tab::Fleet, Tab::Tools, Tab::Rollout];

    /// The tab's title.
    pub fn title(self) -> &'static str {
        match self {
            Tab::Fleet => "Fleet",
            Tab::Tools => "Tools",
            Tab::Rollout => "Rollout",
        }
    }

    fn next(self) -> Tab {
        let at = Tab::ALL.iter().position(|t| *t == self).unwrap_or(0);
        Tab::ALL[(at + 1) % Tab::ALL.len()]
    }
}

/// What a key asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Show or hide the help.
    Help,
    /// The next tab.
    NextTab,
    /// A tab by number, from 0.
    Tab(usize),
    /// Begin to type a filter.
    BeginFilter,
    /// A character of the filter.
    Type(char),
    /// Take the last character of the filter back.
    Backspace,
    /// Keep the filter and go on.
    EndFilter,
    /// Forget the filter, or close the help.
    Escape,
    /// One row down.
    Down,
    /// One row up.
    Up,
    /// Nothing.
    Ignore,
}

/// Calls in the time between two snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Rates {
    /// Calls a second.
    pub calls: f64,
    /// Share of calls that failed, 0 to 1.
    pub errors: f64,
    /// Median, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
}

/// One row of the tools.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolRow {
    /// The tool.
    pub tool: String,
    /// Calls since the edges started.
    pub calls: u64,
    /// Calls a second, of late.
    pub rate: f64,
    /// Failed ones since the edges started.
    pub errors: u64,
    /// Median, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds; the worst edge's.
    pub p99_us: u64,
}

/// Everything that the screen shows.
#[derive(Debug, Default)]
pub struct Model {
    /// Where the user is.
    pub tab: Tab,
    /// Whether the help lies over it.
    pub help: bool,
    /// Whether keys go into the filter.
    pub typing: bool,
    /// Only rows with this text are shown.
    pub filter: String,
    /// The first row that is shown.
    pub scroll: usize,
    /// The last snapshot.
    pub snapshot: Snapshot,
    /// Rates of late, oldest first.
    pub history: VecDeque<Rates>,
    tool_rates: BTreeMap<String, f64>,
    /// Whether to leave.
    pub quit: bool,
}

impl Model {
    /// Takes a new snapshot.
    pub fn observe(&mut self, snapshot: Snapshot) {
        let seconds = snapshot.unix_ms.saturating_sub(self.snapshot.unix_ms) as f64 / 1000.0;
        if self.snapshot.unix_ms > 0 && seconds > 0.0 {
            let rates = rates(&self.snapshot, &snapshot, seconds);
            self.tool_rates = tool_rates(&self.snapshot, &snapshot, seconds);
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(rates);
        }
        self.snapshot = snapshot;
    }

    /// Does what a key asked for.
    pub fn apply(&mut self, action: Action) {
        match action {
            Action::Quit => self.quit = true,
            Action::Help => self.help = !self.help,
            Action::NextTab => self.go(self.tab.next()),
            Action::Tab(number) => {
                if let Some(tab) = Tab::ALL.get(number) {
                    self.go(*tab);
                }
            }
            Action::BeginFilter => {
                self.typing = true;
                self.filter.clear();
            }
            Action::Type(c) if self.filter.len() < 64 => self.filter.push(c),
            Action::Backspace => _ = self.filter.pop(),
            Action::EndFilter => self.typing = false,
            Action::Escape => {
                self.help = false;
                self.typing = false;
                self.filter.clear();
            }
            Action::Down => self.scroll = self.scroll.saturating_add(1),
            Action::Up => self.scroll = self.scroll.saturating_sub(1),
            Action::Type(_) | Action::Ignore => {}
        }
    }

    fn go(&mut self, tab: Tab) {
        self.tab = tab;
        self.scroll = 0;
    }

    /// Whether a row with these texts is wanted.
    pub fn wants(&self, texts: &[&str]) -> bool {
        let wanted = self.filter.to_lowercase();
        texts
            .iter()
            .any(|text| text.to_lowercase().contains(&wanted))
    }

    /// The calls of each release over all edges.
    pub fn releases(&self) -> Vec<ReleaseCounters> {
        let mut all: BTreeMap<&str, ReleaseCounters> = BTreeMap::new();
        for one in self.snapshot.edges.iter().flat_map(|(_, t)| &t.releases) {
            let sum = all.entry(&one.release).or_default();
            sum.release.clone_from(&one.release);
            sum.calls += one.calls;
            sum.failures += one.failures;
            sum.tool_errors += one.tool_errors;
            sum.capped_failures += one.capped_failures;
            sum.latency.merge(&one.latency);
        }
        all.into_values().collect()
    }

    /// The rates of the last interval.
    pub fn rates(&self) -> Rates {
        self.history.back().copied().unwrap_or_default()
    }

    /// The tools that are wanted, busiest first.
    pub fn tools(&self) -> Vec<ToolRow> {
        let mut rows: BTreeMap<&str, ToolRow> = BTreeMap::new();
        for (edge, _) in &self.snapshot.edges {
            for tool in &edge.tools {
                let row = rows.entry(&tool.tool).or_insert_with(|| ToolRow {
                    tool: tool.tool.clone(),
                    calls: 0,
                    rate: self.tool_rates.get(&tool.tool).copied().unwrap_or(0.0),
                    errors: 0,
                    p50_us: 0,
                    p99_us: 0,
                });
                row.calls += tool.calls;
                row.errors += tool.errors;
                row.p50_us = row.p50_us.max(tool.p50_us);
                row.p99_us = row.p99_us.max(tool.p99_us);
            }
        }
        let mut rows: Vec<ToolRow> = rows
            .into_values()
            .filter(|r| self.wants(&[&r.tool]))
            .collect();
        rows.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.tool.cmp(&b.tool)));
        rows
    }
}

/// Each edge as it is now, with what the same process said before: nothing if it began since. One that was not
/// asked before would show all that it ever did as of this interval, so it waits for the next.
fn intervals<'a>(
    before: &'a Snapshot,
    now: &'a Snapshot,
) -> impl Iterator<Item = (Option<&'a Asked>, &'a Asked)> {
    now.edges.iter().filter_map(|asked| {
        let life = |(_, traffic): &Asked| (traffic.edge.clone(), traffic.started_unix_ms);
        let earlier = before.edges.iter().find(|other| life(other) == life(asked));
        let is_new = asked.1.started_unix_ms >= before.unix_ms;
        (is_new || earlier.is_some()).then_some((earlier, asked))
    })
}

/// All protocols of an edge: calls and errors so far.
fn totals((edge, _): &Asked) -> (u64, u64) {
    edge.protocols.iter().fold((0, 0), |(calls, errors), p| {
        (calls + p.calls, errors + p.errors)
    })
}

fn latency((_, traffic): &Asked) -> LatencyCounts {
    let mut all = LatencyCounts::default();
    for release in &traffic.releases {
        all.merge(&release.latency);
    }
    all
}

fn rates(before: &Snapshot, now: &Snapshot, seconds: f64) -> Rates {
    let (mut calls, mut errors, mut latencies) = (0_u64, 0_u64, LatencyCounts::default());
    for (before, now) in intervals(before, now) {
        let (calls_before, errors_before) = before.map(totals).unwrap_or_default();
        let (calls_now, errors_now) = totals(now);
        calls += calls_now.saturating_sub(calls_before);
        errors += errors_now.saturating_sub(errors_before);
        let since = before.and_then(|before| latency(now).since(&latency(before)));
        latencies.merge(&since.unwrap_or_else(|| latency(now)));
    }
    Rates {
        calls: calls as f64 / seconds,
        errors: if calls == 0 {
            0.0
        } else {
            errors as f64 / calls as f64
        },
        p50_us: latencies.quantile_us(0.5).unwrap_or(0),
        p99_us: latencies.quantile_us(0.99).unwrap_or(0),
    }
}

fn tool_rates(before: &Snapshot, now: &Snapshot, seconds: f64) -> BTreeMap<String, f64> {
    let mut rates: BTreeMap<String, f64> = BTreeMap::new();
    for (before, (edge, _)) in intervals(before, now) {
        for tool in &edge.tools {
            let earlier = before
                .and_then(|(edge, _)| edge.tools.iter().find(|other| other.tool == tool.tool))
                .map_or(0, |other| other.calls);
            let calls = tool.calls.saturating_sub(earlier);
            *rates.entry(tool.tool.clone()).or_default() += calls as f64 / seconds;
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin_api::ProtocolCounters;

    fn snapshot(unix_ms: u64, calls: u64, errors: u64) -> Snapshot {
        Snapshot {
            unix_ms,
            edges: vec![asked("edge-1", 1, calls, errors)],
            ..Snapshot::default()
        }
    }

    fn asked(name: &str, started_unix_ms: u64, calls: u64, errors: u64) -> Asked {
        let edge = EdgeStatus {
            name: name.into(),
            release: "r".into(),
            config_digest: String::new(),
            in_flight: 0,
            rss_bytes: 0,
            cpu_ms: 0,
            tools: Vec::new(),
            backends: Vec::new(),
            protocols: vec![ProtocolCounters {
                protocol: "mcp".into(),
                calls,
                errors,
            }],
            rate_limited: 0,
            unauthorized: 0,
        };
        let traffic = TrafficReport {
            edge: name.into(),
            started_unix_ms,
            generation: 1,
            releases: vec![ReleaseCounters {
                release: "r".into(),
                calls,
                ..ReleaseCounters::default()
            }],
            unix_ms: 0,
        };
        (edge, traffic)
    }

    #[test]
    fn rates_are_differences_and_survive_a_restart() {
        let mut model = Model::default();
        model.observe(snapshot(1000, 100, 0));
        assert_eq!(model.rates(), Rates::default());
        model.observe(snapshot(3000, 300, 20));
        assert_eq!((model.rates().calls, model.rates().errors), (100.0, 0.1));
        // One of two began anew, and another is heard of for the first time.
        let two = |unix_ms, one, other| Snapshot {
            unix_ms,
            edges: vec![asked("edge-1", 3500, one, 0), asked("edge-2", 2, other, 0)],
            ..Snapshot::default()
        };
        model.observe(two(4000, 5, 9000));
        assert_eq!(model.rates().calls, 5.0);
        model.observe(two(5000, 8, 9002));
        assert_eq!(model.rates().calls, 5.0);
        let releases = model.releases();
        assert_eq!((releases.len(), releases[0].calls), (1, 9010));
    }

    #[test]
    fn tabs_go_round_and_a_filter_is_forgotten() {
        let mut model = Model::default();
        for tab in [Tab::Tools, Tab::Rollout, Tab::Fleet] {
            model.apply(Action::NextTab);
            assert_eq!(model.tab, tab);
        }
        for action in [Action::BeginFilter, Action::Type('E'), Action::EndFilter] {
            model.apply(action);
        }
        assert!(model.wants(&["edge-1"]) && !model.wants(&["app"]));
        model.apply(Action::Escape);
        assert!(model.wants(&["app"]));
    }
}
