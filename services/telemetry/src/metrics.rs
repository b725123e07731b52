//! The process's metrics, in the text format of Prometheus.
//!
//! Every metric is registered here, with its help, and with a number of values that each of its labels
//! may take. Names are checked when they are registered: base units, and `_total` for counters.

use std::sync::Arc;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, MetricVec, MetricVecBuilder},
    process_collector::ProcessCollector,
    proto::LabelPair,
};

use crate::{
    labels::BoundedLabels,
    sink::LINES_LOST,
    trace::{SPANS_EXPORTED, SPANS_LOST},
};

/// `Content-Type` of [`Metrics::encode`].
pub const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Buckets for the latency of requests: 100 µs to 52 s, doubling.
pub const LATENCY_BUCKETS_SECONDS: [f64; 20] = latency_buckets();

const fn latency_buckets() -> [f64; 20] {
    let mut buckets = [0.0; 20];
    let mut i = 0;
    while i < buckets.len() {
        // From integers, so that bounds print as 0.0256 and not as 0.025600000000000001.
        buckets[i] = (1_u64 << i) as f64 / 10_000.0;
        i += 1;
    }
    buckets
}

/// Why a metric was not registered: a mistake in the program.
#[derive(Debug, thiserror::Error)]
pub enum MetricError {
    /// The name breaks a rule of naming.
    #[error("the metric name {name:?} must end in {suffixes}")]
    Name {
        /// What was given.
        name: String,
        /// What is allowed.
        suffixes: &'static str,
    },
    /// The name is taken, or not a valid name.
    #[error("cannot register the metric {name:?}")]
    Register {
        /// What was given.
        name: String,
        /// Why.
        #[source]
        source: prometheus::Error,
    },
}

/// All metrics of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    overflows: IntCounterVec,
}

/// A metric with labels, each of a bounded number of values. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Family<V> {
    vector: V,
    labels: Arc<[(&'static str, BoundedLabels)]>,
}

/// Counters by label.
pub type CounterFamily = Family<IntCounterVec>;
/// Gauges by label.
pub type GaugeFamily = Family<IntGaugeVec>;
/// Histograms by label.
pub type HistogramFamily = Family<HistogramVec>;

impl Metrics {
    /// A registry with what every process tells of itself: its build, its use of processor, memory
    /// and files, and what its telemetry had to drop.
    pub fn new(service: &str, version: &str, release: &str) -> Result<Self, MetricError> {
        let metrics = Self {
            registry: Registry::new(),
            overflows: overflows()?,
        };
        metrics.add(
            "sweetmcp_metric_label_overflows_total",
            metrics.overflows.clone(),
        )?;
        metrics
            .registry
            .register(Box::new(ProcessCollector::for_self()))
            .map_err(refused("process"))?;
        metrics.add("sweetmcp_log_lines_lost_total", LINES_LOST.clone())?;
        metrics.add(
            "sweetmcp_trace_spans_exported_total",
            SPANS_EXPORTED.clone(),
        )?;
        metrics.add("sweetmcp_trace_spans_lost_total", SPANS_LOST.clone())?;
        let build = metrics.gauges(
            "sweetmcp_build_info",
            "What runs here; always 1.",
            &[("service", 1), ("version", 1), ("release", 1)],
        )?;
        build.with(&[service, version, release]).set(1);
        Ok(metrics)
    }

    /// A counter without labels; `name` ends in `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricError> {
        ends(name, &["_total"], "_total")?;
        self.add(name, IntCounter::new(name, help).map_err(refused(name))?)
    }

    /// Counters by label; `name` ends in `_total`, and each label has the number of its values.
    pub fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[(&'static str, usize)],
    ) -> Result<CounterFamily, MetricError> {
        ends(name, &["_total"], "_total")?;
        let vector =
            IntCounterVec::new(Opts::new(name, help), &names(labels)).map_err(refused(name))?;
        Ok(self.family(name, self.add(name, vector)?, labels))
    }

    /// A gauge without labels.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricError> {
        self.add(name, IntGauge::new(name, help).map_err(refused(name))?)
    }

    /// Gauges by label.
    pub fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[(&'static str, usize)],
    ) -> Result<GaugeFamily, MetricError> {
        let vector =
            IntGaugeVec::new(Opts::new(name, help), &names(labels)).map_err(refused(name))?;
        Ok(self.family(name, self.add(name, vector)?, labels))
    }

    /// A histogram without labels; `name` ends in its unit, `_seconds` or `_bytes`.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, MetricError> {
        ends(name, &["_seconds", "_bytes"], "_seconds or _bytes")?;
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(name, Histogram::with_opts(opts).map_err(refused(name))?)
    }

    /// Histograms by label; `name` ends in its unit, `_seconds` or `_bytes`.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[(&'static str, usize)],
    ) -> Result<HistogramFamily, MetricError> {
        ends(name, &["_seconds", "_bytes"], "_seconds or _bytes")?;
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let vector = HistogramVec::new(opts, &names(labels)).map_err(refused(name))?;
        Ok(self.family(name, self.add(name, vector)?, labels))
    }

    /// All metrics in the text format. A family that cannot be written is logged and left out.
    pub fn encode(&self) -> String {
        let mut text = Vec::new();
        for family in self.registry.gather() {
            let before = text.len();
            if let Err(error) = TextEncoder::new().encode(std::slice::from_ref(&family), &mut text)
            {
                text.truncate(before);
                tracing::error!(
                    metric = family.name(),
                    error = crate::error_chain(&error),
                    "cannot write a metric"
                );
            }
        }
        String::from_utf8(text)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    fn add<C: Collector + Clone + 'static>(
        &self,
        name: &str,
        collector: C,
    ) -> Result<C, MetricError> {
        self.registry
            .register(Box::new(collector.clone()))
            .map_err(refused(name))?;
        Ok(collector)
    }

    fn family<V>(&self, name: &str, vector: V, labels: &[(&'static str, usize)]) -> Family<V> {
        let bound = |&(label, values_max)| {
            (
                label,
                BoundedLabels::new(values_max, self.overflows.with_label_values(&[name, label])),
            )
        };
        Family {
            vector,
            labels: labels.iter().map(bound).collect(),
        }
    }
}

impl<B: MetricVecBuilder> Family<MetricVec<B>> {
    /// The metric of these label values, in the order of registration. Values beyond a label's number
    /// become `other`. Keep the result where it is used often.
    ///
    /// # Panics
    ///
    /// If the number of values is not that of the labels.
    pub fn with(&self, values: &[&str]) -> B::M {
        assert_eq!(values.len(), self.labels.len(), "a value for each label");
        let bounded: Vec<_> = self
            .labels
            .iter()
            .zip(values)
            .map(|((_, label), value)| label.admit(value))
            .collect();
        self.vector.with_label_values(&bounded)
    }

    /// Drops all series in which a label has this value, and makes room for another.
    pub fn forget(&self, label: &str, value: &str) {
        for family in self.vector.collect() {
            for metric in family.get_metric() {
                let value_of = |name: &str| {
                    metric
                        .get_label()
                        .iter()
                        .find(|pair| pair.name() == name)
                        .map(LabelPair::value)
                };
                if value_of(label) == Some(value) {
                    let series: Vec<_> = self
                        .labels
                        .iter()
                        .filter_map(|(name, _)| value_of(name))
                        .collect();
                    // Gone already, if another thread forgets the same value.
                    let _ = self.vector.remove_label_values(&series);
                }
            }
        }
        self.labels
            .iter()
            .filter(|(name, _)| *name == label)
            .for_each(|(_, values)| values.forget(value));
    }
}

fn overflows() -> Result<IntCounterVec, MetricError> {
    let name = "sweetmcp_metric_label_overflows_total";
    let help = "Uses of a label value beyond the number its label may have; counted under `other` instead.";
    IntCounterVec::new(Opts::new(name, help), &["metric", "label"]).map_err(refused(name))
}

fn names(labels: &[(&'static str, usize)]) -> Vec<&'static str> {
    labels.iter().map(|(name, _)| *name).collect()
}

fn ends(name: &str, allowed: &[&str], suffixes: &'static str) -> Result<(), MetricError> {
    if allowed.iter().any(|suffix| name.ends_with(suffix)) {
        return Ok(());
    }
    Err(MetricError::Name {
        name: name.to_owned(),
        suffixes,
    })
}

fn refused(name: &str) -> impl FnOnce(prometheus::Error) -> MetricError {
    let name = name.to_owned();
    move |source| MetricError::Register { name, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("sweetmcp-edge", "0.1.0", "abc").unwrap()
    }

    fn series(metrics: &Metrics, prefix: &str) -> Vec<String> {
        metrics
            .encode()
            .lines()
            .filter(|line| line.starts_with(prefix))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn metr_06_a_client_cannot_make_series() {
        let metrics = metrics();
        let calls = metrics
            .counters("calls_total", "Calls.", &[("tool", 2), ("outcome", 3)])
            .unwrap();
        for tool in ["a", "b", "c", "d\"}\n"] {
            calls.with(&[tool, "ok"]).inc();
        }
        assert_eq!(
            series(&metrics, "calls_total"),
            [
                r#"calls_total{outcome="ok",tool="a"} 1"#,
                r#"calls_total{outcome="ok",tool="b"} 1"#,
                r#"calls_total{outcome="ok",tool="other"} 2"#,
            ]
        );
        let overflow =
            r#"sweetmcp_metric_label_overflows_total{label="tool",metric="calls_total"} 2"#;
        assert!(series(&metrics, "sweetmcp_metric_label").contains(&overflow.to_owned()));
    }

    #[test]
    fn what_has_gone_makes_room() {
        let metrics = metrics();
        let up = metrics
            .gauges("backend_up", "Backends.", &[("zone", 2), ("backend", 1)])
            .unwrap();
        up.with(&["a", "app-1"]).set(1);
        up.with(&["b", "app-1"]).set(1);
        up.forget("backend", "app-1");
        up.with(&["a", "app-2"]).set(1);
        assert_eq!(
            series(&metrics, "backend_up"),
            [r#"backend_up{backend="app-2",zone="a"} 1"#]
        );
    }

    #[test]
    fn names_tell_kind_and_unit() {
        let metrics = metrics();
        assert!(metrics.counter("calls", "Calls.").is_err());
        assert!(metrics.counter("calls_total", "Calls.").is_ok());
        assert!(metrics.counter("calls_total", "Calls.").is_err(), "taken");
        assert!(
            metrics
                .histogram("latency_ms", "Latency.", &LATENCY_BUCKETS_SECONDS)
                .is_err()
        );
        assert!(
            metrics
                .histogram("latency_seconds", "Latency.", &LATENCY_BUCKETS_SECONDS)
                .is_ok()
        );
    }

    #[test]
    fn metr_03_the_process_tells_what_it_uses() {
        let text = metrics().encode();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
        ] {
            assert!(text.contains(&format!("\n{name} ")), "{name} in {text}");
        }
        assert!(text.contains(
            r#"sweetmcp_build_info{release="abc",service="sweetmcp-edge",version="0.1.0"} 1"#
        ));
    }
}
