//! Starting telemetry once per process, and ending it without losing the last lines.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal},
    panic::PanicHookInfo,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tracing::Level;
use tracing_subscriber::{
    filter::{LevelFilter, ParseError, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    events::{EventLayer, Form, Output, plain_start},
    line::{Identity, Now, write_json},
    sink::Sink,
    trace::{self, Tracer, TracerError, TracerOptions},
};

/// Libraries that log what a client or a network does, each line once per connection: the access
/// line tells it already, and a client must not be able to flood the log.
const QUIET: [(&str, LevelFilter); 7] = [
    ("pingora_core", LevelFilter::WARN),
    ("pingora_core::apps", LevelFilter::OFF),
    ("pingora_core::protocols", LevelFilter::OFF),
    ("h2", LevelFilter::WARN),
    ("hyper", LevelFilter::WARN),
    ("hyper_util", LevelFilter::WARN),
    ("rustls", LevelFilter::WARN),
];

/// How long ending waits for the log's reader.
const LOG_FLUSH_MAX: Duration = Duration::from_secs(1);
/// How long ending waits for the collector.
const SPAN_FLUSH_MAX: Duration = Duration::from_secs(2);
/// How long a panic waits for the log's reader: it may be about to end the process.
const PANIC_FLUSH_MAX: Duration = Duration::from_millis(200);

static OUTPUT: OnceLock<Arc<Output>> = OnceLock::new();

/// What a process says about itself, and where to.
#[derive(Clone, Debug)]
pub struct TelemetryOptions {
    /// Which program this is: `sweetmcp-edge`, `sweetmcp-app`, …
    pub service: &'static str,
    /// Which instance of it, such as `edge-1`.
    pub instance: String,
    /// Which release it runs.
    pub release: String,
    /// Shape of the log lines on standard error.
    pub log_format: LogFormat,
    /// Least level that is logged, as `LEVEL` or `TARGET=LEVEL`, separated by commas; empty is `info`.
    /// Release builds hold no lines below `info`. `access=off` ends access lines.
    pub log_filter: String,
    /// OTLP/HTTP collector, such as `http://127.0.0.1:4318`; without one no span is recorded.
    pub otlp_endpoint: Option<String>,
    /// Share of traces that begin here and are recorded, 0 to 1. Others follow their parent.
    pub sample_ratio: f64,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
    /// For people if standard error is a terminal, else JSON.
    #[default]
    Auto,
}

/// Why telemetry did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The filter is not a list of levels and targets.
    #[error("the log filter {found:?} is not understood; write for example \"info,edge=debug\"")]
    Filter {
        /// What was given.
        found: String,
        /// What is wrong.
        #[source]
        source: ParseError,
    },
    /// The system gave no thread to write the log.
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
    /// Spans cannot be sent to the endpoint given.
    #[error("cannot send spans")]
    Tracer(#[from] TracerError),
    /// It was started before in this process, or another logger was installed.
    #[error("telemetry has already been started in this process")]
    AlreadyStarted,
}

/// Keeps telemetry running; what is still waiting is written when it goes.
#[derive(Debug)]
#[must_use = "dropping the guard ends the export of spans"]
pub struct Guard(());

impl Guard {
    /// Writes what is waiting: log lines for at most one second, spans for at most two.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        trace::tracer().shutdown(SPAN_FLUSH_MAX);
        if let Some(output) = OUTPUT.get() {
            output.sink.flush(LOG_FLUSH_MAX);
        }
    }
}

/// Starts logging to standard error and, with an endpoint, the export of spans. Panics are logged from
/// now on. To be called once, early, and before threads that log; it needs no runtime.
pub fn start(options: &TelemetryOptions) -> Result<Guard, StartError> {
    let filter = filter(&options.log_filter)?;
    let identity = Identity {
        service: options.service,
        instance: options.instance.clone(),
        release: options.release.clone(),
    };
    let form = form(options.log_format);
    let describe_loss = {
        let identity = identity.clone();
        Box::new(move |lost, batch: &mut Vec<u8>| describe_loss(&identity, form, lost, batch))
    };
    let tracer = Tracer::new(&TracerOptions {
        service: options.service,
        instance: &options.instance,
        release: &options.release,
        endpoint: options.otlp_endpoint.as_deref(),
        sample_ratio: options.sample_ratio,
    })?;
    let sink = Sink::start(Box::new(io::stderr()), describe_loss).map_err(StartError::Thread)?;
    let output = Arc::new(Output {
        identity,
        form,
        sink,
    });
    OUTPUT
        .set(Arc::clone(&output))
        .map_err(|_| StartError::AlreadyStarted)?;
    tracing_subscriber::registry()
        .with(filter)
        .with(EventLayer(output))
        .try_init()
        .map_err(|_| StartError::AlreadyStarted)?;
    trace::set_tracer(tracer);
    std::panic::set_hook(Box::new(log_panic));
    if !cfg!(debug_assertions)
        && (options.log_filter.contains("debug") || options.log_filter.contains("trace"))
    {
        tracing::warn!(
            filter = options.log_filter,
            "release builds hold no lines below info"
        );
    }
    Ok(Guard(()))
}

/// The process's output, once started.
pub(crate) fn output() -> Option<&'static Arc<Output>> {
    OUTPUT.get()
}

fn form(format: LogFormat) -> Form {
    let terminal = io::stderr().is_terminal();
    match format {
        LogFormat::Auto if !terminal => Form::Json,
        LogFormat::Json => Form::Json,
        LogFormat::Pretty | LogFormat::Auto => Form::Plain {
            color: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        },
    }
}

fn filter(asked: &str) -> Result<Targets, StartError> {
    let quiet = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(QUIET);
    if asked.trim().is_empty() {
        return Ok(quiet);
    }
    let asked: Targets = asked.parse().map_err(|source| StartError::Filter {
        found: asked.to_owned(),
        source,
    })?;
    let default = asked.default_level().unwrap_or(LevelFilter::INFO);
    Ok(quiet.with_default(default).with_targets(asked))
}

fn describe_loss(identity: &Identity, form: Form, lost: u64, batch: &mut Vec<u8>) {
    #[derive(serde::Serialize)]
    struct Loss<'a> {
        ts: Now,
        level: &'static str,
        kind: &'static str,
        #[serde(flatten)]
        identity: &'a Identity,
        target: &'static str,
        msg: &'static str,
        lost: u64,
    }
    const MESSAGE: &str = "log lines were dropped: the log is not read fast enough";
    match form {
        Form::Json => {
            let line = Loss {
                ts: Now,
                level: "warn",
                kind: "event",
                identity,
                target: "telemetry",
                msg: MESSAGE,
                lost,
            };
            // Writing to memory, of plain fields: an error cannot come.
            let _ = write_json(batch, &line);
        }
        Form::Plain { color } => {
            plain_start(batch, Level::WARN, color);
            batch.extend(format!("telemetry: {MESSAGE} lost={lost}\n").bytes());
        }
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("(no message)");
    let location = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let trace = Backtrace::capture();
    match trace.status() {
        BacktraceStatus::Captured => {
            tracing::error!(target: "panic", location, thread, backtrace = %trace, "panicked: {message}");
        }
        _ => tracing::error!(target: "panic", location, thread, "panicked: {message}"),
    }
    if let Some(output) = OUTPUT.get() {
        output.sink.flush(PANIC_FLUSH_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_asked() {
        for (asked, target, level, logged) in [
            ("", "edge", Level::INFO, true),
            ("", "edge", Level::DEBUG, false),
            ("", "pingora_core::apps::http_app", Level::ERROR, false),
            ("", "pingora_core::services::listening", Level::ERROR, true),
            ("", "pingora_core::services::listening", Level::INFO, false),
            ("debug", "edge::route", Level::DEBUG, true),
            ("debug", "hyper::proto", Level::DEBUG, false),
            ("edge=debug", "edge", Level::DEBUG, true),
            ("edge=debug", "app", Level::INFO, true),
            (
                "warn,pingora_core::apps=error",
                "pingora_core::apps::http_app",
                Level::ERROR,
                true,
            ),
            ("warn", "edge", Level::INFO, false),
            ("access=off", "access", Level::INFO, false),
        ] {
            assert_eq!(
                filter(asked).unwrap().would_enable(target, &level),
                logged,
                "{asked:?} {target} {level}"
            );
        }
    }

    #[test]
    fn a_wrong_filter_says_what_to_write() {
        let error = filter("edge=loud").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"the log filter "edge=loud" is not understood; write for example "info,edge=debug""#
        );
    }
}
