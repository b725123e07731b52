//! Spans with the attributes that OpenTelemetry's conventions name (HTTP, MCP, GenAI).

use std::{borrow::Cow, time::SystemTime};

use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{TraceContext, Tracer};
use crate::line::{TEXT_CHARS_MAX, bounded};

/// Attributes of a span; more are counted, not kept.
const ATTRIBUTES_MAX: usize = 32;

/// Methods that appear by name; a client's invention is `_OTHER`, as the conventions say.
const METHODS: [&str; 9] = [
    "GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH", "CONNECT", "TRACE",
];

/// Something that is being recorded, or, when its trace is not sampled, nothing. Ends when dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Recording>>);

#[derive(Debug)]
struct Recording {
    tracer: Tracer,
    data: SpanData,
}

/// What is known of a request when its first line has been read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerRequest<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Route template.
    pub route: &'a str,
    /// The request's id.
    pub request_id: &'a str,
    /// The client's address, without its port.
    pub client_addr: &'a str,
    /// The protocol above HTTP: `mcp`, `graphql`, …
    pub protocol: &'a str,
}

/// One try to have an app answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempt<'a> {
    /// From 1.
    pub number: u32,
    /// App instance.
    pub backend: &'a str,
    /// Its release.
    pub release: &'a str,
    /// Its `host:port`.
    pub address: &'a str,
}

impl Tracer {
    /// Begins a span, now. `context` is the span's own: make it with [`TraceContext::child`] or
    /// [`TraceContext::accept`], and use it for one span.
    pub fn span(
        &self,
        context: &TraceContext,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
    ) -> Span {
        if !context.sampled() || !self.is_on() {
            return Span(None);
        }
        let state = context
            .tracestate()
            .and_then(|state| state.parse::<TraceState>().ok())
            .unwrap_or_default();
        let now = SystemTime::now();
        let data = SpanData {
            span_context: SpanContext::new(
                context.trace_id(),
                context.span_id(),
                TraceFlags::SAMPLED,
                false,
                state,
            ),
            parent_span_id: context.parent_id().unwrap_or(SpanId::INVALID),
            parent_span_is_remote: context.parent_is_remote(),
            span_kind: kind,
            name: name.into(),
            start_time: now,
            end_time: now,
            attributes: Vec::with_capacity(8),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("sweetmcp").build(),
        };
        Span(Some(Box::new(Recording {
            tracer: self.clone(),
            data,
        })))
    }

    /// Begins the span of a request being served.
    pub fn server_span(&self, context: &TraceContext, request: &ServerRequest<'_>) -> Span {
        let mut span = self.span(context, SpanKind::Server, "");
        if span.is_recording() {
            let method = METHODS
                .iter()
                .find(|known| **known == request.method)
                .copied();
            span.rename(&format!("{} {}", method.unwrap_or("HTTP"), request.route));
            span.set("http.request.method", method.unwrap_or("_OTHER"));
            span.set_text("http.route", request.route);
            span.set_text("client.address", request.client_addr);
            span.set_request_id(request.request_id);
            span.set_text("sweetmcp.protocol", request.protocol);
        }
        span
    }

    /// Begins the span of one attempt at an app.
    pub fn attempt_span(&self, context: &TraceContext, attempt: &Attempt<'_>) -> Span {
        let mut span = self.span(context, SpanKind::Client, "attempt");
        if span.is_recording() {
            let (host, port) = attempt
                .address
                .rsplit_once(':')
                .unwrap_or((attempt.address, ""));
            span.set("http.request.method", "POST");
            span.set_text("server.address", host);
            if let Ok(port) = port.parse::<i64>() {
                span.set("server.port", port);
            }
            if attempt.number > 1 {
                span.set("http.request.resend_count", i64::from(attempt.number) - 1);
            }
            span.set_text("sweetmcp.backend", attempt.backend);
            span.set_text("sweetmcp.backend_release", attempt.release);
        }
        span
    }
}

impl Span {
    /// Whether anything is recorded; ask before computing something only a span would use.
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recording) = &mut self.0 {
            let data = &mut recording.data;
            if data.attributes.len() < ATTRIBUTES_MAX {
                data.attributes.push(KeyValue::new(key, value));
            } else {
                data.dropped_attributes_count += 1;
            }
        }
    }

    /// Adds a text, cut to 256 characters; an empty one is left out.
    pub fn set_text(&mut self, key: &'static str, text: &str) {
        if self.is_recording() && !text.is_empty() {
            self.set(key, bounded(text, TEXT_CHARS_MAX).0.to_owned());
        }
    }

    /// Says which request this is a part of.
    pub fn set_request_id(&mut self, request_id: &str) {
        self.set_text("sweetmcp.request_id", request_id);
    }

    /// Says who asked.
    pub fn set_caller(&mut self, tenant: &str, subject: &str) {
        self.set_text("sweetmcp.tenant", tenant);
        self.set_text("enduser.id", subject);
    }

    /// Says what was asked over MCP: names the span by it, as the MCP conventions want.
    pub fn set_mcp(&mut self, method: &str, tool: &str, revision: &str) {
        if !self.is_recording() {
            return;
        }
        self.set_text("mcp.method.name", method);
        self.set_text("mcp.protocol.version", revision);
        if tool.is_empty() {
            self.rename(method);
        } else {
            self.rename(&format!("{method} {tool}"));
            self.set("gen_ai.operation.name", "execute_tool");
            self.set_text("gen_ai.tool.name", tool);
        }
    }

    /// Says how it was answered. A server's span fails from 500 on, a client's from 400.
    pub fn set_status(&mut self, status: u16) {
        self.set("http.response.status_code", i64::from(status));
        let failing = match &self.0 {
            Some(recording) if recording.data.span_kind == SpanKind::Server => 500,
            Some(_) => 400,
            None => return,
        };
        if status >= failing {
            self.fail(&status.to_string(), "");
        }
    }

    /// Marks the span as failed, with the kind of the error (a short, fixed word) and an explanation.
    pub fn fail(&mut self, error_type: &str, explanation: &str) {
        if let Some(recording) = &mut self.0 {
            recording.data.status =
                Status::error(bounded(explanation, TEXT_CHARS_MAX).0.to_owned());
            recording
                .data
                .attributes
                .retain(|attribute| attribute.key.as_str() != "error.type");
            self.set_text("error.type", error_type);
        }
    }

    /// Gives the span another name.
    pub fn rename(&mut self, name: &str) {
        if let Some(recording) = &mut self.0 {
            recording.data.name = Cow::Owned(bounded(name, TEXT_CHARS_MAX).0.to_owned());
        }
    }

    /// Ends the span, now.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(recording) = self.0.take() {
            let Recording { tracer, mut data } = *recording;
            data.end_time = SystemTime::now();
            tracer.record(data);
        }
    }
}
