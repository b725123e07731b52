//! What is told of each call, in one place: one access line, one set of metrics, one span.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp::{Call, Failure, FrontDoor, Id, Outcome, Reply};
use telemetry::AccessLine;
use telemetry::trace::{Span, SpanKind, TraceContext, tracer};

use crate::admission::Admitted;
use crate::content;
use crate::context::Context;
use crate::counters::Ended;
use crate::edge::Edge;
use crate::egress;
use crate::exchange::{Exchange, Response};
use crate::identity::Caller;
use crate::stream::Told;

/// One call, from its admission to its end. Dropped before [`Record::end`], it tells that the client went
/// away.
pub struct Record<'a> {
    edge: &'a Edge,
    context: &'a Context,
    caller: &'a Caller,
    /// The span of the call; attempts are its children.
    pub trace: TraceContext,
    span: Span,
    began: Instant,
    method: &'static str,
    name: Option<String>,
    tool: Option<String>,
    content: content::Told,
    bytes_in: usize,
    attempts: u32,
    admitted: Option<Admitted>,
    /// For calls that have no end of their own: how long their beginning took.
    opened: Option<Duration>,
    backend: Option<(Arc<str>, Arc<str>)>,
    ended: bool,
}

impl<'a> Record<'a> {
    /// Begins to tell of a call.
    pub fn begin(
        edge: &'a Edge,
        context: &'a Context,
        caller: &'a Caller,
        call: &Call,
    ) -> Record<'a> {
        let trace = context.trace.child();
        let mut span = tracer().span(&trace, SpanKind::Internal, "");
        span.set_mcp(
            call.method.label(),
            call.name.as_deref().unwrap_or_default(),
            context.revision(),
        );
        span.set_caller(&caller.tenant, &caller.subject);
        span.set_request_id(context.request_id.as_str());
        Record {
            edge,
            context,
            caller,
            trace,
            span,
            began: Instant::now(),
            method: call.method.label(),
            name: call.name.clone(),
            tool: edge.catalogue.load().label(call).map(str::to_owned),
            content: edge.content.of_call(call),
            bytes_in: call.body.len(),
            attempts: 0,
            admitted: None,
            opened: None,
            backend: None,
            ended: false,
        }
    }

    /// The tool, if it is one of the catalogue's.
    pub fn tool(&self) -> Option<&str> {
        self.tool.as_deref()
    }

    /// The call was let in.
    pub fn admitted(&mut self, admitted: Admitted) {
        self.admitted = Some(admitted);
    }

    /// An attempt begins; its number, from 1.
    pub fn attempt(&mut self, backend: &Arc<str>, release: &Arc<str>) -> u32 {
        self.attempts += 1;
        self.backend = Some((Arc::clone(backend), Arc::clone(release)));
        self.attempts
    }

    /// A stream without an end of its own has begun: that is what its time measures.
    pub fn opened(&mut self) {
        self.opened.get_or_insert(self.began.elapsed());
    }

    /// Tells how the call ended, after what it has told.
    /// Its number in the account, which is to be waited for before the answer goes out.
    pub fn end(mut self, answer: &Result<Reply, Failure>, told: &Told) -> Option<u64> {
        self.ended = true;
        self.edge
            .content
            .log(&self.content, self.name.as_deref(), answer.as_ref().ok());
        match answer {
            Ok(reply) => {
                let ended = match reply.outcome {
                    Outcome::Ok => Ended::Well,
                    Outcome::ToolError => Ended::ToolFailed,
                    Outcome::Error => Ended::Failed,
                };
                let bytes = told.bytes() + reply.body.len();
                // How long a client listens, and what no instance answered, says nothing of how long calls take.
                let sent = self.attempts > 0 && self.opened.is_none();
                if let Some(admitted) = self.admitted.as_ref().filter(|_| sent) {
                    let kind = self.tool.as_deref().unwrap_or(self.method);
                    self.edge
                        .admission
                        .answered(kind, admitted.at.elapsed(), bytes);
                }
                let origin = if ended == Ended::Well { "" } else { "upstream" };
                self.tell(
                    Some(ended),
                    reply.outcome.as_str(),
                    origin,
                    Some(reply.status),
                    bytes,
                    "",
                )
            }
            Err(failure) => {
                let cause = failure.cause;
                self.span.fail(cause.as_str(), &failure.message);
                self.tell(
                    Some(Ended::Failed),
                    "error",
                    cause.origin().as_str(),
                    Some(cause.http_status()),
                    told.bytes(),
                    &failure.message,
                )
            }
        }
    }

    fn tell(
        &self,
        ended: Option<Ended>,
        outcome: &str,
        origin: &str,
        status: Option<u16>,
        bytes_out: usize,
        detail: &str,
    ) -> Option<u64> {
        let took = self.opened.unwrap_or_else(|| self.began.elapsed());
        let protocol = self.context.protocol;
        // A client that went away proves nothing about a tool or a release.
        if let Some(ended) = ended {
            self.edge
                .counters
                .call(protocol, self.tool.as_deref(), ended, took);
        }
        self.edge
            .metrics
            .call(protocol.as_str(), self.method, outcome, origin, took);
        if let Some(tool) = &self.tool {
            self.edge.metrics.tool(tool, outcome, took);
        }
        let trace_id = self.trace.trace_id().to_string();
        let client = self
            .context
            .client_addr
            .map(|a| a.ip().to_string())
            .unwrap_or_default();
        let (backend, release) = match &self.backend {
            Some((backend, release)) => (&**backend, &**release),
            None => ("", ""),
        };
        AccessLine {
            request_id: self.context.request_id.as_str(),
            trace_id: &trace_id,
            tenant: &self.caller.tenant,
            subject: &self.caller.subject,
            client_addr: &client,
            protocol: protocol.as_str(),
            http_method: self.context.http_method(),
            route: self.context.route(),
            revision: self.context.revision(),
            mcp_method: self.method,
            tool: self.name.as_deref().unwrap_or_default(),
            status,
            outcome,
            origin,
            detail,
            bytes_in: self.bytes_in as u64,
            bytes_out: bytes_out as u64,
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            attempts: Some(self.attempts),
            backend,
            backend_release: release,
            ..AccessLine::default()
        }
        .emit();
        self.account(ended != Some(Ended::Well), bytes_out, took)
    }

    /// Enters the call into the account: each that was let in and sent to an instance, whatever came of it.
    fn account(&self, failed: bool, bytes_out: usize, took: Duration) -> Option<u64> {
        let ledger = self.edge.ledger.get()?;
        let admitted = self.admitted.as_ref().filter(|_| self.attempts > 0)?;
        let entry = account::Entry {
            tenant: self.caller.tenant.clone(),
            subject: self.caller.subject.clone(),
            tool: self.tool.as_deref().unwrap_or(self.method).to_owned(),
            sums: account::Sums {
                calls: 1,
                failed: failed.into(),
                cost: admitted.cost.into(),
                bytes_in: self.bytes_in as u64,
                bytes_out: bytes_out as u64,
                time_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            },
        };
        Some(ledger.note(entry, registry::unix_ms() / 1000))
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if !self.ended && self.opened.is_some() {
            // Listening ends when the client has heard enough.
            self.tell(Some(Ended::Well), "ok", "", Some(200), 0, "");
        } else if !self.ended {
            let detail = "the client went away";
            self.span.fail("abandoned", detail);
            self.tell(None, "abandoned", "client", None, 0, detail);
        }
    }
}

/// A message that the edge itself answered, well: a ping, a notification, a document without a call.
/// `method` is the message's label, empty where there is none.
pub fn answered_here(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    method: &'static str,
    status: u16,
) {
    let took = context.started.elapsed();
    let protocol = context.protocol.as_str();
    let label = if method.is_empty() { "none" } else { method };
    edge.metrics.call(protocol, label, "ok", "", took);
    let client = context
        .client_addr
        .map(|a| a.ip().to_string())
        .unwrap_or_default();
    AccessLine {
        request_id: context.request_id.as_str(),
        trace_id: &context.trace.trace_id().to_string(),
        tenant: &caller.tenant,
        subject: &caller.subject,
        client_addr: &client,
        protocol,
        http_method: context.http_method(),
        route: context.route(),
        revision: context.revision(),
        mcp_method: method,
        status: Some(status),
        outcome: "ok",
        duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        attempts: Some(0),
        ..AccessLine::default()
    }
    .emit();
}

/// An HTTP request that never became a call: its answer, told of.
pub fn refused(
    edge: &Edge,
    exchange: &Exchange<'_>,
    protocol: FrontDoor,
    failure: &Failure,
) -> Response {
    tell_refused(edge, exchange, protocol, failure);
    let mut response = egress::failure(protocol, failure, exchange.request_id.as_str());
    egress::finish(&mut response, exchange);
    response
}

/// The same for a request of MCP, whose id may be known already.
pub fn refused_request(
    edge: &Edge,
    exchange: &Exchange<'_>,
    failure: &Failure,
    id: Option<&Id>,
) -> Response {
    tell_refused(edge, exchange, FrontDoor::Mcp, failure);
    let mut response = egress::json_rpc_failure(failure, id, exchange.request_id.as_str());
    egress::finish(&mut response, exchange);
    response
}

fn tell_refused(edge: &Edge, exchange: &Exchange<'_>, protocol: FrontDoor, failure: &Failure) {
    if failure.cause == mcp::Cause::Unauthenticated {
        edge.counters.unauthorized();
    }
    edge.metrics
        .refused(protocol.as_str(), failure.cause.as_str());
    let client = exchange
        .client_addr()
        .map(|a| a.ip().to_string())
        .unwrap_or_default();
    AccessLine {
        request_id: exchange.request_id.as_str(),
        trace_id: &exchange.trace.trace_id().to_string(),
        client_addr: &client,
        protocol: protocol.as_str(),
        http_method: exchange.method().as_str(),
        route: exchange.route,
        status: Some(failure.cause.http_status()),
        outcome: "error",
        origin: failure.cause.origin().as_str(),
        stage: "ingress",
        detail: &failure.message,
        duration_us: u64::try_from(exchange.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        ..AccessLine::default()
    }
    .emit();
}

/// A request of a session that was answered with an error before it became a call.
pub fn refused_session(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    method: &'static str,
    status: u16,
) {
    let cause = match status {
        404 => "SessionUnknown",
        406 => "NotAcceptable",
        429 => "RateLimited",
        503 => "NoBackend",
        _ => "InvalidRequest",
    };
    edge.metrics.refused(context.protocol.as_str(), cause);
    tell_undecoded(context, Some((caller, method)), status, cause);
}

/// A message, or an entry of a batch, that was no valid request.
pub fn undecoded(edge: &Edge, context: &Context, failure: &Failure) {
    let cause = failure.cause;
    edge.metrics
        .refused(context.protocol.as_str(), cause.as_str());
    tell_undecoded(context, None, cause.http_status(), cause.as_str());
}

/// A GraphQL document that was not executed.
pub fn undecoded_graphql(edge: &Edge, context: &Context) {
    edge.metrics.refused(context.protocol.as_str(), "Document");
    tell_undecoded(context, None, 400, "the document was refused");
}

fn tell_undecoded(
    context: &Context,
    asked: Option<(&Caller, &'static str)>,
    status: u16,
    detail: &str,
) {
    AccessLine {
        tenant: asked.map_or("", |(caller, _)| &caller.tenant),
        subject: asked.map_or("", |(caller, _)| &caller.subject),
        mcp_method: asked.map_or("", |(_, method)| method),
        request_id: context.request_id.as_str(),
        trace_id: &context.trace.trace_id().to_string(),
        protocol: context.protocol.as_str(),
        http_method: context.http_method(),
        route: context.route(),
        revision: context.revision(),
        status: Some(status),
        outcome: "error",
        origin: "client",
        stage: "ingress",
        detail,
        duration_us: u64::try_from(context.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        ..AccessLine::default()
    }
    .emit();
}
