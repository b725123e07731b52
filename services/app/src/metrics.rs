//! Every metric of the app, in one place.
//!
//! Labels hold what the app itself names: methods that it knows, tools that it lists, plugins that are configured. What a
//! client invents is counted under `other`.

use mcp::Outcome;
use telemetry::{
    CounterFamily, GaugeFamily, HistogramFamily, IntCounter, IntGauge, LATENCY_BUCKETS_SECONDS,
    MetricError, Metrics,
};

use crate::plugin::{Plugin, State, failing::Failing, mounts::Mounts};

/// Tools that get series of their own.
const TOOLS_MAX: usize = 512;
/// Plugins that get series of their own.
const PLUGINS_MAX: usize = 128;
/// Methods of the protocol, `other` included.
const METHODS_MAX: usize = 20;
/// Routes of the server, with room.
const ROUTES_MAX: usize = 10;

/// The app's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppMetrics {
    all: Metrics,
    /// `sweetmcp_app_http_requests_total{route,status}`
    pub http_requests: CounterFamily,
    /// `sweetmcp_app_requests_total{method,outcome}`
    pub requests: CounterFamily,
    /// `sweetmcp_app_request_duration_seconds{method}`
    pub request_seconds: HistogramFamily,
    /// `sweetmcp_app_tool_calls_total{tool,outcome}`
    pub tool_calls: CounterFamily,
    /// `sweetmcp_app_tool_duration_seconds{tool}`
    pub tool_seconds: HistogramFamily,
    /// `sweetmcp_app_requests_in_flight`
    pub in_flight: IntGauge,
    /// `sweetmcp_app_connections`
    pub connections: IntGauge,
    /// `sweetmcp_app_panics_total`
    pub panics: IntCounter,
    /// `sweetmcp_app_body_buffer_bytes`
    pub body_buffer: IntGauge,
    /// `sweetmcp_app_parked_calls`
    pub parked: IntGauge,
    /// `sweetmcp_app_listeners`
    pub listeners: IntGauge,
    plugin_up: GaugeFamily,
    plugin_restarts: GaugeFamily,
    plugin_in_flight: GaugeFamily,
    plugin_failures: GaugeFamily,
    catalogue_tools: IntGauge,
}

impl AppMetrics {
    /// Registers all of them with `all`.
    ///
    /// # Errors
    /// [`MetricError`] when a name is taken: a mistake in the program.
    pub fn new(all: Metrics) -> Result<Self, MetricError> {
        let plugin = [("plugin", PLUGINS_MAX)];
        Ok(Self {
            http_requests: all.counters(
                "sweetmcp_app_http_requests_total",
                "HTTP requests answered.",
                &[("route", ROUTES_MAX), ("status", 32)],
            )?,
            requests: all.counters(
                "sweetmcp_app_requests_total",
                "MCP requests answered, by how they ended.",
                &[("method", METHODS_MAX), ("outcome", 3)],
            )?,
            request_seconds: all.histograms(
                "sweetmcp_app_request_duration_seconds",
                "Time from an MCP request's head to its answer.",
                &LATENCY_BUCKETS_SECONDS,
                &[("method", METHODS_MAX)],
            )?,
            tool_calls: all.counters(
                "sweetmcp_app_tool_calls_total",
                "Tool calls answered, by how they ended.",
                &[("tool", TOOLS_MAX), ("outcome", 3)],
            )?,
            tool_seconds: all.histograms(
                "sweetmcp_app_tool_duration_seconds",
                "Time from a tool call's head to its answer.",
                &LATENCY_BUCKETS_SECONDS,
                &[("tool", TOOLS_MAX)],
            )?,
            in_flight: all.gauge(
                "sweetmcp_app_requests_in_flight",
                "HTTP requests being worked on.",
            )?,
            connections: all.gauge("sweetmcp_app_connections", "Open HTTP connections.")?,
            panics: all.counter(
                "sweetmcp_app_panics_total",
                "Requests that ended in a panic of ours.",
            )?,
            body_buffer: all.gauge(
                "sweetmcp_app_body_buffer_bytes",
                "Memory held by request bodies.",
            )?,
            parked: all.gauge(
                "sweetmcp_app_parked_calls",
                "Calls that wait for their clients' answers.",
            )?,
            listeners: all.gauge("sweetmcp_app_listeners", "Clients that listen for changes.")?,
            plugin_up: all.gauges(
                "sweetmcp_app_plugin_up",
                "Whether the plugin takes calls.",
                &plugin,
            )?,
            plugin_restarts: all.gauges(
                "sweetmcp_app_plugin_restarts",
                "How often the plugin's process was started again since the app started.",
                &plugin,
            )?,
            plugin_in_flight: all.gauges(
                "sweetmcp_app_plugin_requests_in_flight",
                "Requests that the plugin works on.",
                &plugin,
            )?,
            plugin_failures: all.gauges(
                "sweetmcp_app_plugin_failures",
                "How often the plugin went down or did not come up since the app started, by why.",
                &[("plugin", PLUGINS_MAX), ("cause", Failing::ALL.len())],
            )?,
            catalogue_tools: all
                .gauge("sweetmcp_app_catalogue_tools", "Tools that are offered.")?,
            all,
        })
    }

    /// Counts one MCP request. `tool` is a name of the catalogue.
    pub fn answered(&self, method: &str, tool: Option<&str>, outcome: Outcome, seconds: f64) {
        self.requests.with(&[method, outcome.as_str()]).inc();
        self.request_seconds.with(&[method]).observe(seconds);
        if let Some(tool) = tool {
            self.tool_calls.with(&[tool, outcome.as_str()]).inc();
            self.tool_seconds.with(&[tool]).observe(seconds);
        }
    }

    /// Returns everything in the text format, with the plugins as they are now.
    pub fn encode(&self, mounts: &Mounts) -> String {
        for one in mounts.mounted() {
            let up = one.plugin.state() == State::Ready;
            self.plugin_up.with(&[&one.name]).set(i64::from(up));
            for why in Failing::ALL {
                let count = i64::try_from(one.plugin.failures(why)).unwrap_or(i64::MAX);
                self.plugin_failures
                    .with(&[&one.name, why.as_str()])
                    .set(count);
            }
            if let Plugin::Stdio(stdio) = &one.plugin {
                self.plugin_restarts
                    .with(&[&one.name])
                    .set(i64::try_from(stdio.restarts()).unwrap_or(i64::MAX));
                self.plugin_in_flight
                    .with(&[&one.name])
                    .set(i64::try_from(stdio.in_flight()).unwrap_or(i64::MAX));
            }
        }
        let tools = mounts
            .catalogue()
            .len(crate::plugin::catalogue::List::Tools);
        self.catalogue_tools
            .set(i64::try_from(tools).unwrap_or(i64::MAX));
        self.all.encode()
    }
}
