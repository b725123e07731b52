//! What the screen shows: the last snapshot of the fleet, rates over the last minutes, and where the user is.

use std::collections::{BTreeMap, VecDeque};

use admin_api::{EdgeStatus, LatencyCounts, TrafficReport};
use registry::{Instance, Process, Traffic};

/// Rates that are kept for the sparkline.
const HISTORY: usize = 120;

/// The fleet at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// What each reachable edge said.
    pub edges: Vec<(EdgeStatus, TrafficReport)>,
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

/// All protocols of all edges: calls and errors so far.
fn totals(snapshot: &Snapshot) -> (u64, u64) {
    let counters = snapshot.edges.iter().flat_map(|(edge, _)| &edge.protocols);
    counters.fold((0, 0), |(calls, errors), p| {
        (calls + p.calls, errors + p.errors)
    })
}

fn latency(snapshot: &Snapshot) -> LatencyCounts {
    let mut all = LatencyCounts::default();
    for release in snapshot
        .edges
        .iter()
        .flat_map(|(_, traffic)| &traffic.releases)
    {
        all.merge(&release.latency);
    }
    all
}

fn rates(before: &Snapshot, now: &Snapshot, seconds: f64) -> Rates {
    let ((calls_before, errors_before), (calls, errors)) = (totals(before), totals(now));
    // A restarted edge begins again at zero: that interval shows what it counted since.
    let calls = calls.checked_sub(calls_before).unwrap_or(calls);
    let errors = errors.checked_sub(errors_before).unwrap_or(errors);
    let latency = {
        let now = latency(now);
        now.since(&latency(before)).unwrap_or(now)
    };
    Rates {
        calls: calls as f64 / seconds,
        errors: if calls == 0 {
            0.0
        } else {
            errors as f64 / calls as f64
        },
        p50_us: latency.quantile_us(0.5).unwrap_or(0),
        p99_us: latency.quantile_us(0.99).unwrap_or(0),
    }
}

fn tool_rates(before: &Snapshot, now: &Snapshot, seconds: f64) -> BTreeMap<String, f64> {
    let calls = |snapshot: &Snapshot| {
        let mut calls: BTreeMap<String, u64> = BTreeMap::new();
        for tool in snapshot.edges.iter().flat_map(|(edge, _)| &edge.tools) {
            *calls.entry(tool.tool.clone()).or_default() += tool.calls;
        }
        calls
    };
    let before = calls(before);
    calls(now)
        .into_iter()
        .map(|(tool, calls)| {
            let since = before
                .get(&tool)
                .and_then(|b| calls.checked_sub(*b))
                .unwrap_or(calls);
            (tool, since as f64 / seconds)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin_api::ProtocolCounters;

    fn snapshot(unix_ms: u64, calls: u64, errors: u64) -> Snapshot {
        let edge = EdgeStatus {
            name: "edge-1".into(),
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
            edge: "edge-1".into(),
            started_unix_ms: 1,
            generation: 1,
            releases: Vec::new(),
            unix_ms,
        };
        Snapshot {
            unix_ms,
            edges: vec![(edge, traffic)],
            ..Snapshot::default()
        }
    }

    #[test]
    fn rates_are_differences_and_survive_a_restart() {
        let mut model = Model::default();
        model.observe(snapshot(1000, 100, 0));
        assert_eq!(model.rates(), Rates::default());
        model.observe(snapshot(3000, 300, 20));
        assert_eq!((model.rates().calls, model.rates().errors), (100.0, 0.1));
        model.observe(snapshot(4000, 5, 0));
        assert_eq!(model.rates().calls, 5.0);
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
