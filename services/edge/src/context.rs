//! What is known of a request apart from its calls: handed down unchanged to every stage.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use mcp::headers::{DEADLINE_MS, RELEASE};
use mcp::{FrontDoor, Revision};
use policy::deadline::Deadline;
use policy::fair;
use telemetry::RequestId;
use telemetry::trace::TraceContext;

use crate::admission::StreamPlace;
use crate::edge::Edge;
use crate::exchange::Exchange;
use crate::identity::Caller;
use crate::tools::{self, ToolsWanted};

/// The scope that lets a caller name the release that serves it.
pub const RELEASE_SCOPE: &str = "release";

/// One client request. A batch or a GraphQL document runs several calls in one context.
#[derive(Debug, Clone)]
pub struct Context {
    /// In the answer, every log line, and what plugins get.
    pub request_id: RequestId,
    /// The trace of which each attempt is a span.
    pub trace: TraceContext,
    /// The protocol that the client speaks.
    pub protocol: FrontDoor,
    /// The HTTP method and the template of the path, where the request came by HTTP.
    pub http: Option<(Method, &'static str)>,
    /// The revision of MCP that the client speaks, where it speaks MCP.
    pub revision: Option<Revision>,
    /// How urgent the client says it is among its tenant's calls, from 0 (RFC 9218).
    pub urgency: u8,
    /// When nobody waits any more.
    pub deadline: Deadline,
    /// What a release split should hold on to: the session, where there is one.
    pub sticky: Option<u64>,
    /// The release that the caller asked for, and may.
    pub pinned: Option<String>,
    /// The language that the client wants, a tag of BCP 47.
    pub locale: Option<String>,
    /// Which list of tools the client wants, if its head says.
    pub tools: Option<ToolsWanted>,
    /// The place that the request has already among its principal's streams: it reads that of its session.
    pub stream: Option<Arc<StreamPlace>>,
    /// Where the client is.
    pub client_addr: Option<SocketAddr>,
    /// When the request had been taken up.
    pub started: Instant,
}

impl Context {
    /// The context of an HTTP request.
    pub fn of(
        edge: &Edge,
        exchange: &Exchange<'_>,
        protocol: FrontDoor,
        caller: &Caller,
    ) -> Context {
        let asked = exchange
            .header(DEADLINE_MS)
            .and_then(|text| text.parse().ok());
        let pinned = exchange
            .header(RELEASE)
            .filter(|_| caller.has_scope(RELEASE_SCOPE))
            .map(str::to_owned);
        Context {
            request_id: exchange.request_id.clone(),
            trace: exchange.trace.clone(),
            protocol,
            http: Some((exchange.method().clone(), exchange.route)),
            revision: None,
            urgency: exchange
                .header("priority")
                .map_or(fair::URGENCY_DEFAULT, fair::urgency),
            deadline: deadline(edge, asked.map(Duration::from_millis), exchange.started),
            sticky: None,
            pinned,
            locale: exchange
                .header("accept-language")
                .and_then(mcp::locale::preferred),
            tools: tools::wanted(exchange),
            stream: None,
            client_addr: exchange.client_addr(),
            started: exchange.started,
        }
    }

    /// The context of a call that came over Cap'n Proto, or is the edge's own.
    pub fn of_rpc(
        edge: &Edge,
        client_addr: Option<SocketAddr>,
        asked: Option<Duration>,
        traceparent: Option<&str>,
    ) -> Context {
        let started = Instant::now();
        let trace = TraceContext::from_text(traceparent, None, None).map_or_else(
            || TraceContext::new_root(edge.sample()),
            |parent| parent.child(),
        );
        Context {
            request_id: RequestId::fresh(),
            trace,
            protocol: FrontDoor::Capnp,
            http: None,
            revision: None,
            urgency: fair::URGENCY_DEFAULT,
            deadline: deadline(edge, asked, started),
            sticky: None,
            pinned: None,
            locale: None,
            tools: None,
            stream: None,
            client_addr,
            started,
        }
    }
}

fn deadline(edge: &Edge, asked: Option<Duration>, now: Instant) -> Deadline {
    Deadline::new(asked, edge.settings.http.request_timeout, now)
}

impl Context {
    /// The context of a further message of the same client, on a connection that carries many.
    #[must_use]
    pub fn of_message(&self, edge: &Edge) -> Context {
        let started = Instant::now();
        Context {
            request_id: RequestId::fresh(),
            trace: TraceContext::new_root(edge.sample()),
            deadline: deadline(edge, None, started),
            started,
            ..self.clone()
        }
    }

    /// The HTTP method; empty where there is none.
    #[must_use]
    pub fn http_method(&self) -> &str {
        self.http.as_ref().map_or("", |(method, _)| method.as_str())
    }

    /// The template of the path; empty where there is none.
    #[must_use]
    pub fn route(&self) -> &'static str {
        self.http.as_ref().map_or("", |(_, route)| route)
    }

    /// The revision's name; empty where there is none.
    #[must_use]
    pub fn revision(&self) -> &'static str {
        self.revision.map_or("", Revision::as_str)
    }
}
