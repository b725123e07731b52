//! The wire types.

use serde::{Deserialize, Serialize};

use crate::LatencyCounts;

/// What one edge counted per release since it started: the evidence a rollout is judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// The edge's instance name.
    pub edge: String,
    /// When the edge's process started; a change means that all counters began again at zero.
    pub started_unix_ms: u64,
    /// The traffic record the edge obeys now.
    pub generation: u64,
    /// One entry for each release that got a call.
    pub releases: Vec<ReleaseCounters>,
    /// When the report was made, by the edge's clock.
    pub unix_ms: u64,
}

impl TrafficReport {
    /// The counters of a release, if it got a call.
    pub fn release(&self, release: &str) -> Option<&ReleaseCounters> {
        self.releases
            .iter()
            .find(|counters| counters.release == release)
    }
}

/// Calls answered by one release, through one edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseCounters {
    /// Release id.
    pub release: String,
    /// Calls that were given to the release and have ended.
    pub calls: u64,
    /// Calls the release failed: no answer, a late one, or a gateway-class error.
    pub failures: u64,
    /// Calls whose tool said that it failed. The release did its work; they are not failures.
    pub tool_errors: u64,
    /// `failures`, with each principal counted at most up to the edge's cap, so that one client
    /// alone cannot decide a rollout.
    pub capped_failures: u64,
    /// How long the calls took.
    pub latency: LatencyCounts,
}

/// An edge as an operator looks at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// Instance name.
    pub name: String,
    /// The release the edge itself runs.
    pub release: String,
    /// Digest of the configuration in force.
    pub config_digest: String,
    /// Calls being answered now.
    pub in_flight: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Processor time used since the start, milliseconds.
    pub cpu_ms: u64,
    /// Counters by tool, bounded by the edge.
    pub tools: Vec<ToolCounters>,
    /// The app instances the edge knows.
    pub backends: Vec<BackendStatus>,
    /// Counters by client protocol.
    pub protocols: Vec<ProtocolCounters>,
    /// Calls refused for their rate since the start.
    pub rate_limited: u64,
    /// Calls refused for missing or wrong credentials since the start.
    pub unauthorized: u64,
}

/// Calls of one tool since the edge started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCounters {
    /// Tool name as clients call it.
    pub tool: String,
    /// Calls that have ended.
    pub calls: u64,
    /// Calls that ended in any error, the tool's own included.
    pub errors: u64,
    /// Median latency, microseconds.
    pub p50_us: u64,
    /// 99th percentile of latency, microseconds.
    pub p99_us: u64,
}

/// Calls over one client protocol since the edge started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolCounters {
    /// `mcp`, `jsonrpc`, `graphql`, `capnp`, …
    pub protocol: String,
    /// Calls that have ended.
    pub calls: u64,
    /// Calls that ended in any error.
    pub errors: u64,
}

/// One app instance as an edge sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Instance name.
    pub name: String,
    /// Release the instance runs.
    pub release: String,
    /// `host:port`.
    pub address: String,
    /// Whether it is given calls.
    pub state: BackendState,
    /// Calls it is answering for this edge now.
    pub in_flight: u64,
    /// Weighted recent latency, microseconds.
    pub ewma_us: u64,
}

/// Whether an edge gives calls to an app instance, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// Gets calls.
    Ready,
    /// Gets none for a while: it failed too often.
    Ejected,
    /// Gets no new calls: it is leaving.
    Draining,
    /// A state that this version of the tools does not know.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for BackendState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_a_later_release_is_still_read() {
        let status: BackendStatus = serde_json::from_str(
            r#"{"name":"app-1","release":"r","address":"127.0.0.1:1","state":"hibernating",
                "in_flight":1,"ewma_us":2,"mood":"fine"}"#,
        )
        .unwrap();
        assert_eq!(status.state, BackendState::Unknown);
    }

    #[test]
    fn traffic_report_keeps_its_wire_form() {
        let mut counters = ReleaseCounters {
            release: "abc".into(),
            calls: 1,
            ..Default::default()
        };
        counters
            .latency
            .record(std::time::Duration::from_micros(90));
        let report = TrafficReport {
            edge: "edge-1".into(),
            started_unix_ms: 1,
            generation: 7,
            releases: vec![counters],
            unix_ms: 2,
        };
        let json = serde_json::to_string(&report).unwrap();
        let start = r#"{"edge":"edge-1","started_unix_ms":1,"generation":7,"releases":[{"release":"abc","calls":1,"failures":0,"tool_errors":0,"capped_failures":0,"latency":[1,0,"#;
        assert!(json.starts_with(start), "{json}");
        let back: TrafficReport = serde_json::from_str(&json).unwrap();
        assert_eq!(back, report);
        assert_eq!(back.release("abc").map(|counters| counters.calls), Some(1));
    }
}
