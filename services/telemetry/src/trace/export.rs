//! Sending spans to a collector over OTLP/HTTP, from a thread of its own.
//!
//! A span costs the request a bounded queue's entry. When the collector is slow or gone the queue
//! fills, further spans are dropped and counted, and nothing else happens: one line says that it is
//! gone, one that it is back.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TraceId};
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor},
};
use prometheus::{IntCounter, IntCounterVec, Opts};

use crate::error_chain;

/// Spans waiting for the collector; about a kilobyte each.
const QUEUE_SPANS_MAX: usize = 4096;
/// Spans of one request to the collector.
const BATCH_SPANS_MAX: usize = 512;
/// How long a span waits for a batch to fill.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Where OTLP over HTTP takes spans.
const TRACES_PATH: &str = "/v1/traces";

pub(crate) static SPANS_EXPORTED: LazyLock<IntCounter> = LazyLock::new(|| {
    IntCounter::new(
        "sweetmcp_trace_spans_exported_total",
        "Spans the collector has accepted.",
    )
    .expect("the name is valid")
});

pub(crate) static SPANS_LOST: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new(
        "sweetmcp_trace_spans_lost_total",
        "Spans dropped: the queue was full, or the collector refused them or did not answer.",
    );
    let lost = IntCounterVec::new(opts, &["reason"]).expect("name and label are valid");
    for reason in ["queue_full", "collector"] {
        lost.with_label_values(&[reason]);
    }
    lost
});

static TRACER: OnceLock<Tracer> = OnceLock::new();
static NO_TRACER: Tracer = Tracer(None);

/// The process's tracer, as [`start`](crate::start) made it; before that, one that records nothing.
pub fn tracer() -> &'static Tracer {
    TRACER.get().unwrap_or(&NO_TRACER)
}

pub(crate) fn set_tracer(tracer: Tracer) {
    // Set once: `start` refuses to run twice.
    let _ = TRACER.set(tracer);
}

/// Who records spans, and where they go.
#[derive(Clone, Copy, Debug)]
pub struct TracerOptions<'a> {
    /// `service.name`
    pub service: &'a str,
    /// `service.instance.id`
    pub instance: &'a str,
    /// `service.version`
    pub release: &'a str,
    /// OTLP/HTTP collector (`http://host:port`, `/v1/traces` is added); `None` records nothing.
    pub endpoint: Option<&'a str>,
    /// Share of traces that begin here and are recorded, 0 to 1.
    pub sample_ratio: f64,
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The endpoint is not an address of a collector.
    #[error("{found:?} is not the address of an OTLP collector; write http://host:4318")]
    Endpoint {
        /// What was given.
        found: String,
    },
    /// The exporter refused its configuration.
    #[error("cannot start the export to {endpoint}")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// Why.
        #[source]
        source: ExporterBuildError,
    },
}

/// Begins spans, decides on new traces, and hands ended spans to the collector. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Exporting>>);

struct Exporting {
    processor: BatchSpanProcessor,
    queued: Arc<AtomicUsize>,
    closed: AtomicBool,
    threshold: u64,
}

impl fmt::Debug for Exporting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporting")
            .field("queued", &self.queued)
            .finish_non_exhaustive()
    }
}

impl Tracer {
    /// Starts the thread that exports, or, without an endpoint, nothing.
    pub fn new(options: &TracerOptions<'_>) -> Result<Self, TracerError> {
        let Some(endpoint) = options.endpoint else {
            return Ok(Self(None));
        };
        let url = traces_url(endpoint)?;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&url)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|source| TracerError::Exporter {
                endpoint: url.clone(),
                source,
            })?;
        let queued = Arc::new(AtomicUsize::new(0));
        let counted = Counted {
            inner: exporter,
            url,
            queued: Arc::clone(&queued),
            failing: AtomicBool::new(false),
        };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let mut processor = BatchSpanProcessor::builder(counted)
            .with_batch_config(config)
            .build();
        processor.set_resource(&resource(options));
        let threshold = threshold(options.sample_ratio);
        Ok(Self(Some(Arc::new(Exporting {
            processor,
            queued,
            closed: AtomicBool::new(false),
            threshold,
        }))))
    }

    /// Whether spans go anywhere.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a trace that begins here is recorded. All processes of the same ratio decide alike.
    pub fn sample(&self, trace: TraceId) -> bool {
        self.0.as_ref().is_some_and(|exporting| {
            let [.., a, b, c, d, e, f, g] = trace.to_bytes();
            u64::from_be_bytes([0, a, b, c, d, e, f, g]) < exporting.threshold
        })
    }

    /// Hands over an ended span; never waits.
    pub(super) fn record(&self, span: SpanData) {
        let Some(exporting) = &self.0 else { return };
        if exporting.closed.load(Ordering::Relaxed) {
            return;
        }
        if exporting.queued.fetch_add(1, Ordering::Relaxed) >= QUEUE_SPANS_MAX {
            exporting.queued.fetch_sub(1, Ordering::Relaxed);
            SPANS_LOST.with_label_values(&["queue_full"]).inc();
            return;
        }
        exporting.processor.on_end(span);
    }

    /// Sends what is waiting, for at most `timeout`, and records nothing from then on.
    pub fn shutdown(&self, timeout: Duration) {
        if let Some(exporting) = &self.0
            && !exporting.closed.swap(true, Ordering::Relaxed)
            && exporting.processor.shutdown_with_timeout(timeout).is_err()
        {
            let spans = exporting.queued.load(Ordering::Relaxed);
            tracing::warn!(spans, "the collector did not take the last spans in time");
        }
    }
}

/// As many of 2^56 equally likely values as the ratio asks for.
fn threshold(ratio: f64) -> u64 {
    let ratio = if ratio.is_nan() {
        0.0
    } else {
        ratio.clamp(0.0, 1.0)
    };
    (ratio * (1_u64 << 56) as f64) as u64
}

fn traces_url(endpoint: &str) -> Result<String, TracerError> {
    let refused = || TracerError::Endpoint {
        found: endpoint.rsplit('@').next().unwrap_or_default().to_owned(),
    };
    let uri: http::Uri = endpoint.parse().map_err(|_| refused())?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    // Credentials would end up in messages; collectors take them by header (OTEL_EXPORTER_OTLP_HEADERS).
    let plain = uri
        .authority()
        .is_some_and(|authority| !authority.as_str().contains('@'));
    if !http || !plain || uri.query().is_some() {
        return Err(refused());
    }
    let base = endpoint.trim_end_matches('/');
    Ok(if base.ends_with(TRACES_PATH) {
        base.to_owned()
    } else {
        format!("{base}{TRACES_PATH}")
    })
}

fn resource(options: &TracerOptions<'_>) -> Resource {
    Resource::builder()
        .with_attributes([
            KeyValue::new("service.name", options.service.to_owned()),
            KeyValue::new("service.namespace", "sweetmcp"),
            KeyValue::new("service.instance.id", options.instance.to_owned()),
            KeyValue::new("service.version", options.release.to_owned()),
        ])
        .build()
}

/// Counts what the collector took, and says once when it stops and when it is back.
#[derive(Debug)]
struct Counted {
    inner: opentelemetry_otlp::SpanExporter,
    url: String,
    queued: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl SpanExporter for Counted {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let spans = batch.len();
        async move {
            let result = self.inner.export(batch).await;
            self.queued.fetch_sub(spans, Ordering::Relaxed);
            match &result {
                Ok(()) => {
                    SPANS_EXPORTED.inc_by(spans as u64);
                    if self.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!(collector = self.url, "the collector takes spans again");
                    }
                }
                Err(error) => {
                    SPANS_LOST
                        .with_label_values(&["collector"])
                        .inc_by(spans as u64);
                    if !self.failing.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            collector = self.url,
                            error = error_chain(error),
                            "the collector takes no spans; they are dropped"
                        );
                    }
                }
            }
            result
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TraceContext;

    #[test]
    fn endpoints_get_their_path_and_secrets_are_refused() {
        for (endpoint, expect) in [
            (
                "http://127.0.0.1:4318",
                Some("http://127.0.0.1:4318/v1/traces"),
            ),
            (
                "https://otel.example/",
                Some("https://otel.example/v1/traces"),
            ),
            (
                "http://h:1/otlp/v1/traces",
                Some("http://h:1/otlp/v1/traces"),
            ),
            ("http://user:hunter2@h:1", None),
            ("127.0.0.1:4318", None),
            ("grpc://h:1", None),
            ("http://h:1?x", None),
            ("", None),
        ] {
            match traces_url(endpoint) {
                Ok(url) => assert_eq!(Some(url.as_str()), expect),
                Err(error) => assert!(
                    expect.is_none() && !error.to_string().contains("hunter2"),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn the_ratio_is_the_share_that_is_sampled() {
        for (ratio, expect) in [
            (0.0, 0..=0),
            (1.0, 10_000..=10_000),
            (0.25, 2_200..=2_800),
            (f64::NAN, 0..=0),
            (7.0, 10_000..=10_000),
        ] {
            let options = TracerOptions {
                service: "test",
                instance: "test",
                release: "test",
                endpoint: Some("http://127.0.0.1:9"),
                sample_ratio: ratio,
            };
            let tracer = Tracer::new(&options).unwrap();
            let sampled = (0..10_000)
                .filter(|_| tracer.sample(TraceContext::new_root(false).trace_id()))
                .count();
            assert!(expect.contains(&sampled), "{sampled} at {ratio}");
        }
        assert!(!Tracer::default().sample(TraceContext::new_root(true).trace_id()));
    }
}
