//! The edge's metrics, as Prometheus reads them on the operators' port.
//!
//! Labels hold only words of ours: protocols, known methods, tools of the catalogue, releases, causes.

use std::time::Duration;

use telemetry::{
    CounterFamily, GaugeFamily, HistogramFamily, IntCounter, IntGauge, LATENCY_BUCKETS_SECONDS,
    MetricError, Metrics,
};

use crate::edge::{Edge, Name};

/// Most tools with series of their own.
const TOOLS_MAX: usize = 200;
/// Most releases with series of their own.
const RELEASES_MAX: usize = 8;

/// One handle for each metric.
#[derive(Debug)]
pub struct EdgeMetrics {
    registry: Metrics,
    calls: CounterFamily,
    call_seconds: HistogramFamily,
    tool_calls: CounterFamily,
    tool_seconds: HistogramFamily,
    attempts: CounterFamily,
    refused: CounterFamily,
    in_flight: IntGauge,
    waiting: IntGauge,
    limit: IntGauge,
    shed: CounterFamily,
    queue_seconds: HistogramFamily,
    rate_shared: IntGauge,
    quota_exceeded: IntCounter,
    quota_soft: IntGauge,
    usage_unwritten: IntGauge,
    usage_lost: IntGauge,
    backends: GaugeFamily,
}

impl EdgeMetrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// When a name is registered twice: a defect.
    pub fn new(name: &Name) -> Result<EdgeMetrics, MetricError> {
        let registry = Metrics::new("sweetmcp-edge", env!("CARGO_PKG_VERSION"), &name.release)?;
        Ok(EdgeMetrics {
            calls: registry.counters(
                "sweetmcp_edge_calls_total",
                "Calls that have ended, by client protocol, MCP method, outcome and whose fault an error was.",
                &[("protocol", 8), ("method", 20), ("outcome", 4), ("origin", 5)],
            )?,
            call_seconds: registry.histograms(
                "sweetmcp_edge_call_duration_seconds",
                "From taking up a call to its answer.",
                &LATENCY_BUCKETS_SECONDS,
                &[("protocol", 8), ("method", 20)],
            )?,
            tool_calls: registry.counters(
                "sweetmcp_edge_tool_calls_total",
                "Tool calls that have ended, by tool and outcome.",
                &[("tool", TOOLS_MAX), ("outcome", 4)],
            )?,
            tool_seconds: registry.histograms(
                "sweetmcp_edge_tool_duration_seconds",
                "From taking up a tool call to its answer.",
                &LATENCY_BUCKETS_SECONDS,
                &[("tool", TOOLS_MAX)],
            )?,
            attempts: registry.counters(
                "sweetmcp_edge_attempts_total",
                "Attempts at an app, by the app's release and how the attempt ended; a call has one or more.",
                &[("release", RELEASES_MAX), ("outcome", 8)],
            )?,
            refused: registry.counters(
                "sweetmcp_edge_refused_total",
                "Requests that never became a call, by protocol and cause.",
                &[("protocol", 8), ("cause", 40)],
            )?,
            in_flight: registry.gauge("sweetmcp_edge_in_flight", "Calls under way.")?,
            waiting: registry.gauge("sweetmcp_edge_waiting", "Calls that wait for a place.")?,
            limit: registry.gauge(
                "sweetmcp_edge_concurrency_limit",
                "Calls that may be under way; follows latency if edge.concurrency.adaptive is set.",
            )?,
            shed: registry.counters(
                "sweetmcp_edge_shed_total",
                "Calls that got no place, by reason (full, waited, deadline) and class of their tool.",
                &[("reason", 3), ("class", 3)],
            )?,
            queue_seconds: registry.histograms(
                "sweetmcp_edge_queue_duration_seconds",
                "How long calls that got a place had waited for it, by class of their tool.",
                &LATENCY_BUCKETS_SECONDS,
                &[("class", 3)],
            )?,
            rate_shared: registry.gauge(
                "sweetmcp_edge_rate_shared",
                "1 while rates are kept with other edges through Redis, 0 while each edge keeps its own.",
            )?,
            quota_exceeded: registry.counter(
                "sweetmcp_edge_quota_exceeded_total",
                "Calls refused because their tenant had used up its hard quota of the day.",
            )?,
            quota_soft: registry.gauge(
                "sweetmcp_edge_quota_soft_passed",
                "Times that a tenant has passed its soft quota of a day, since the start.",
            )?,
            usage_unwritten: registry.gauge(
                "sweetmcp_edge_usage_unwritten",
                "Calls that are not in the account on disk yet; lasting, the disk takes nothing.",
            )?,
            usage_lost: registry.gauge(
                "sweetmcp_edge_usage_lost",
                "Calls that never came into the account because the disk took nothing for too long, since the start.",
            )?,
            backends: registry.gauges(
                "sweetmcp_edge_backends",
                "App instances as this edge sees them.",
                &[("state", 4)],
            )?,
            registry,
        })
    }

    /// The registry, to be encoded.
    pub fn registry(&self) -> &Metrics {
        &self.registry
    }

    /// A call has ended.
    pub fn call(&self, protocol: &str, method: &str, outcome: &str, origin: &str, took: Duration) {
        self.calls.with(&[protocol, method, outcome, origin]).inc();
        self.call_seconds
            .with(&[protocol, method])
            .observe(took.as_secs_f64());
    }

    /// A call of a known tool has ended.
    pub fn tool(&self, tool: &str, outcome: &str, took: Duration) {
        self.tool_calls.with(&[tool, outcome]).inc();
        self.tool_seconds.with(&[tool]).observe(took.as_secs_f64());
    }

    /// An attempt has ended.
    pub fn attempt(&self, release: &str, outcome: &str) {
        self.attempts.with(&[release, outcome]).inc();
    }

    /// A call got a place.
    pub fn queued(&self, class: &str, waited: Duration) {
        self.queue_seconds
            .with(&[class])
            .observe(waited.as_secs_f64());
    }

    /// A call was refused for its tenant's hard quota.
    pub fn quota_exceeded(&self) {
        self.quota_exceeded.inc();
    }

    /// A call got no place.
    pub fn shed(&self, reason: &str, class: &str) {
        self.shed.with(&[reason, class]).inc();
    }

    /// A request never became a call.
    pub fn refused(&self, protocol: &str, cause: &str) {
        self.refused.with(&[protocol, cause]).inc();
    }

    /// Takes the readings that are taken when somebody looks.
    pub fn observe(&self, edge: &Edge) {
        let figures = edge.admission.figures();
        for (gauge, value) in [
            (&self.in_flight, figures.in_flight),
            (&self.waiting, figures.waiting),
            (&self.limit, figures.limit),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let shared = edge.shared.get().is_some_and(|shared| shared.is_here());
        self.rate_shared.set(shared.into());
        if let Some(ledger) = edge.ledger.get() {
            let (unwritten, lost) = ledger.unwritten();
            for (gauge, value) in [
                (&self.usage_unwritten, unwritten as u64),
                (&self.usage_lost, lost),
                (&self.quota_soft, ledger.soft_passed()),
            ] {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
        let backends = edge.fleet.view().backend_status();
        for state in ["ready", "ejected", "draining"] {
            let count = backends
                .iter()
                .filter(|b| b.state.to_string() == state)
                .count();
            self.backends
                .with(&[state])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
