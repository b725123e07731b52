//! Events of the program (`tracing`, and `log` of libraries) as log lines.
//!
//! Events are rare next to access lines, so this part is written for clarity, not for speed.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, Scope},
};

use crate::{
    error_chain,
    line::{
        Bounded, EVENT_CHARS_MAX, Identity, Now, bounded, with_buffer, write_field, write_json,
        write_plain,
    },
    sink::{Sink, Urgency},
    trace::TraceContext,
};

/// Names the line itself uses; a field of such a name is written as `field.NAME`.
const OWN_NAMES: [&str; 8] = [
    "ts", "level", "kind", "service", "instance", "release", "target", "msg",
];

/// Opens the span in which everything about a request is logged: each event inside carries the
/// request's id and its trace's. Costs about a microsecond; events outside of it do not name a request.
pub fn request_span(request_id: &str, trace: &TraceContext) -> tracing::Span {
    // At error level, so that a filter which only lets errors through does not remove the ids.
    tracing::error_span!(target: "request", "request", request_id, trace_id = %trace.trace_id())
}

/// How lines look and where they go: one per process.
pub(crate) struct Output {
    pub(crate) identity: Identity,
    pub(crate) form: Form,
    pub(crate) sink: Sink,
}

/// For machines or for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Plain { color: bool },
}

/// The layer that writes events to an [`Output`].
pub(crate) struct EventLayer(pub(crate) Arc<Output>);

/// Fields of a span or an event, in order, without duplicates.
#[derive(Default)]
struct Fields {
    message: String,
    named: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => {
                self.message = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
            }
            // What the bridge from `log` adds; the target is already in its place.
            name if name.starts_with("log.") => {}
            name => self.put_named(name, value),
        }
    }

    fn put_named(&mut self, name: &'static str, value: Value) {
        match self.named.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.named.push((name, value)),
        }
    }

    fn put_text(&mut self, field: &Field, text: &str) {
        let (text, cut) = bounded(text, EVENT_CHARS_MAX);
        self.put(
            field,
            Value::String(if cut {
                format!("{text}…")
            } else {
                text.to_owned()
            }),
        );
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put_text(field, &error_chain(value));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for EventLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(Scope::from_root)
        {
            if let Some(outer) = span.extensions().get::<Fields>() {
                outer
                    .named
                    .iter()
                    .for_each(|(name, value)| fields.put_named(name, value.clone()));
            }
        }
        event.record(&mut fields);
        self.0.event(*metadata.level(), metadata.target(), &fields);
    }
}

impl Output {
    fn event(&self, level: Level, target: &str, fields: &Fields) {
        let urgency = if level <= Level::WARN {
            Urgency::Now
        } else {
            Urgency::Batch
        };
        with_buffer(|buffer| {
            match self.form {
                Form::Json => {
                    let line = EventLine {
                        level,
                        identity: &self.identity,
                        target,
                        fields,
                    };
                    if write_json(buffer, &line).is_err() {
                        return;
                    }
                }
                Form::Plain { color } => {
                    plain_start(buffer, level, color);
                    plain_event(buffer, target, fields);
                }
            }
            self.sink.write(buffer, urgency);
        });
    }
}

struct EventLine<'a> {
    level: Level,
    identity: &'a Identity,
    target: &'a str,
    fields: &'a Fields,
}

impl Serialize for EventLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("ts", &Now)?;
        line.serialize_entry("level", level_name(self.level))?;
        line.serialize_entry("kind", "event")?;
        line.serialize_entry("service", self.identity.service)?;
        line.serialize_entry("instance", &self.identity.instance)?;
        line.serialize_entry("release", &self.identity.release)?;
        line.serialize_entry("target", self.target)?;
        line.serialize_entry("msg", &Bounded::<EVENT_CHARS_MAX>(&self.fields.message))?;
        for (name, value) in &self.fields.named {
            let name = if OWN_NAMES.contains(name) {
                Cow::Owned(format!("field.{name}"))
            } else {
                Cow::Borrowed(*name)
            };
            line.serialize_entry(&name, value)?;
        }
        line.end()
    }
}

/// Appends time and level as people read them.
pub(crate) fn plain_start(buffer: &mut Vec<u8>, level: Level, color: bool) {
    let paint = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        _ => "2",
    };
    let time = jiff::Timestamp::now();
    let name = level.as_str();
    buffer.extend(
        match color {
            true => format!("\x1b[2m{time:.3}\x1b[0m \x1b[{paint}m{name:5}\x1b[0m "),
            false => format!("{time:.3} {name:5} "),
        }
        .bytes(),
    );
}

fn plain_event(buffer: &mut Vec<u8>, target: &str, fields: &Fields) {
    write_plain(buffer, target, EVENT_CHARS_MAX);
    buffer.extend_from_slice(b": ");
    write_plain(buffer, &fields.message, EVENT_CHARS_MAX);
    for (name, value) in &fields.named {
        match value {
            Value::String(text) => write_field(buffer, name, text, EVENT_CHARS_MAX),
            value => write_field(buffer, name, &value.to_string(), EVENT_CHARS_MAX),
        }
    }
    buffer.push(b'\n');
}

pub(crate) fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        io::{self, Write},
        sync::Mutex,
        time::Duration,
    };

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Runs with an output of the given form; returns the lines written, without their times.
    pub(crate) fn written(form: Form, run: impl FnOnce(&Arc<Output>)) -> String {
        let kept = Kept::default();
        let sink = Sink::start(Box::new(kept.clone()), Box::new(|_, _| {})).unwrap();
        let identity = Identity {
            service: "edge",
            instance: "edge-1".into(),
            release: "abc".into(),
        };
        let output = Arc::new(Output {
            identity,
            form,
            sink,
        });
        run(&output);
        output.sink.flush(Duration::from_secs(60));
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let (start, length) = if form == Form::Json { (7, 27) } else { (0, 24) };
        let without_time =
            |line: &str| format!("{}TIME{}\n", &line[..start], &line[start + length..]);
        text.lines().map(without_time).collect()
    }

    fn logged(form: Form, run: impl FnOnce()) -> String {
        written(form, |output| {
            let subscriber = tracing_subscriber::registry().with(EventLayer(Arc::clone(output)));
            tracing::subscriber::with_default(subscriber, run);
        })
    }

    fn story() {
        let trace = TraceContext::from_text(
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            None,
            None,
        );
        let cause = io::Error::other("disk is full");
        request_span("r-1", &trace.unwrap()).in_scope(|| {
            tracing::warn!(target: "edge", tool = "e\ncho", attempts = 2_u64, level = true, "slow \u{1b}[31m call");
            tracing::error!(target: "edge", error = &cause as &dyn std::error::Error, "cannot write");
        });
        tracing::info!(target: "edge", "outside");
    }

    #[test]
    fn trace_05_events_of_a_request_carry_its_ids() {
        insta::assert_snapshot!(logged(Form::Json, story), @r#"
{"ts":"TIME","level":"warn","kind":"event","service":"edge","instance":"edge-1","release":"abc","target":"edge","msg":"slow \u001b[31m call","request_id":"r-1","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","tool":"e\ncho","attempts":2,"field.level":true}
{"ts":"TIME","level":"error","kind":"event","service":"edge","instance":"edge-1","release":"abc","target":"edge","msg":"cannot write","request_id":"r-1","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","error":"disk is full"}
{"ts":"TIME","level":"info","kind":"event","service":"edge","instance":"edge-1","release":"abc","target":"edge","msg":"outside"}
"#);
    }

    #[test]
    fn people_get_one_line_too() {
        insta::assert_snapshot!(logged(Form::Plain { color: false }, story), @r#"
TIME WARN  edge: slow \u{1b}[31m call request_id=r-1 trace_id=4bf92f3577b34da6a3ce929d0e0e4736 tool=e\ncho attempts=2 level=true
TIME ERROR edge: cannot write request_id=r-1 trace_id=4bf92f3577b34da6a3ce929d0e0e4736 error="disk is full"
TIME INFO  edge: outside
"#);
    }
}
