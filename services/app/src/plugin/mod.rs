//! Plugins: where tools come from. Every kind has the same inner shape, so that the rest of the app knows no kind.
//!
//! - [`Plugin`]: the kinds, and what each can be asked
//! - [`catalogue`]: the merged, prefixed, ordered snapshot of everything that is offered
//! - [`pins`]: definitions that stay what they were
//! - [`mounts`]: all plugins of this process, started, watched and stopped together
//! - [`builtin`]: tools that need no other process
//! - [`stdio`]: MCP servers as child processes
//! - [`http`]: remote MCP servers
//! - [`openapi`]: HTTP APIs with an OpenAPI document
//! - [`wasm`]: WebAssembly components
//! - [`upstream`], [`outgoing`], [`followed`], [`shown`]: what kinds have in common

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mcp::{Failure, Method, members::Members};
use serde_json::{Map, Value, value::RawValue};
use telemetry::{RequestId, trace::TraceContext};
use tokio_util::sync::CancellationToken;

pub mod builtin;
pub mod catalogue;
mod followed;
pub mod http;
pub mod mounts;
pub mod openapi;
pub mod outgoing;
pub mod pins;
mod shown;
pub mod stdio;
mod upstream;
pub mod wasm;

/// What every piece of work knows of the request that it is done for.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The request's ID, as in every log line and in what upstream servers receive.
    pub request_id: RequestId,
    /// Where in its trace the request is served.
    pub trace: TraceContext,
    /// When nobody waits any more.
    pub deadline: Instant,
    /// Set when nobody waits any more before that.
    pub cancelled: CancellationToken,
}

impl CallContext {
    /// Tells whether nobody waits any more.
    pub fn is_over(&self) -> bool {
        self.cancelled.is_cancelled() || Instant::now() >= self.deadline
    }

    /// Returns how long somebody still waits.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// What a plugin answered.
#[derive(Debug)]
pub enum Answer {
    /// A `result` in the form of 2026-07-28.
    Result(Box<RawValue>),
    /// A JSON-RPC error object of the plugin's own.
    Error(Box<RawValue>),
}

/// One thing that a plugin offers, under its own name or URI.
#[derive(Debug, Clone)]
pub struct Item {
    /// Name (tools, prompts), URI (resources) or URI template (templates).
    pub key: String,
    /// The definition as the plugin wrote it.
    pub raw: Box<RawValue>,
}

/// Who may share a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everybody.
    Public,
    /// One caller.
    Private,
}

impl Scope {
    /// Returns the word of `cacheScope`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// How long and by whom a list may be kept (`ttlMs`, `cacheScope`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Milliseconds; 0 is stale at once.
    pub ttl_ms: u64,
    /// Who may share it.
    pub scope: Scope,
}

impl Default for Freshness {
    /// What a server that says nothing is taken to mean.
    fn default() -> Self {
        Self {
            ttl_ms: 0,
            scope: Scope::Private,
        }
    }
}

/// What a plugin offers.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Tools.
    pub tools: Vec<Item>,
    /// Prompts.
    pub prompts: Vec<Item>,
    /// Resources.
    pub resources: Vec<Item>,
    /// Resource templates.
    pub templates: Vec<Item>,
    /// How long all this holds.
    pub freshness: Freshness,
}

/// Whether a plugin can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has not been up yet.
    Starting,
    /// It takes calls.
    Ready,
    /// It was up or tried to be, failed, and will be started again.
    Restarting {
        /// Why it is not up.
        reason: String,
    },
    /// It was told to stop.
    Stopped,
}

impl State {
    /// Returns the word for logs, health and the registry.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Restarting { .. } => "restarting",
            Self::Stopped => "stopped",
        }
    }
}

/// A request to a plugin, under the plugin's own names.
#[derive(Debug)]
pub struct Ask<'a> {
    /// `tools/call`, `prompts/get`, `resources/read` or `completion/complete`.
    pub method: &'a Method,
    /// Name or URI without prefix.
    pub key: &'a str,
    /// The parameters; the name or URI in them is still the caller's.
    pub params: Members<'a>,
    /// The request that it is for.
    pub context: CallContext,
}

impl Ask<'_> {
    /// Returns `params.arguments`.
    ///
    /// # Errors
    /// [`mcp::Cause::InvalidParams`] when they are no object.
    pub(crate) fn arguments(&self) -> Result<Map<String, Value>, Failure> {
        match self.params.get("arguments") {
            None => Ok(Map::new()),
            Some(raw) => serde_json::from_str(raw.get()).map_err(|_| {
                Failure::say(
                    mcp::Cause::InvalidParams,
                    "params.arguments must be an object",
                )
            }),
        }
    }
}

/// A source of tools.
#[derive(Debug)]
pub enum Plugin {
    /// Tools of this process.
    Builtin(builtin::Builtin),
    /// A child process that speaks MCP.
    Stdio(stdio::Stdio),
    /// A remote MCP server.
    Http(http::Http),
    /// An HTTP API.
    Openapi(openapi::Openapi),
    /// A WebAssembly component.
    Wasm(wasm::Wasm),
}

impl Plugin {
    /// Returns the kind's word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Builtin(_) => "builtin",
            Self::Stdio(_) => "stdio",
            Self::Http(_) => "http",
            Self::Openapi(_) => "openapi",
            Self::Wasm(_) => "wasm",
        }
    }

    /// Returns what is offered now; the last known while the plugin restarts.
    pub fn listing(&self) -> Arc<Listing> {
        match self {
            Self::Builtin(builtin) => builtin.listing(),
            Self::Stdio(stdio) => stdio.listing(),
            Self::Http(http) => http.listing(),
            Self::Openapi(openapi) => openapi.listing(),
            Self::Wasm(wasm) => wasm.listing(),
        }
    }

    /// Returns whether it can be asked.
    pub fn state(&self) -> State {
        match self {
            Self::Builtin(_) => State::Ready,
            Self::Stdio(stdio) => stdio.state(),
            Self::Http(http) => http.state(),
            Self::Openapi(openapi) => openapi.state(),
            Self::Wasm(wasm) => wasm.state(),
        }
    }

    /// Asks and waits for the answer, at most until the context's deadline. Dropping the future cancels the work.
    ///
    /// # Errors
    /// A [`Failure`] when the plugin could not be asked or gave no answer; its cause tells whether the work may have run.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        match self {
            Self::Builtin(builtin) => builtin.call(ask.key, &ask.params, ask.context).await,
            Self::Stdio(stdio) => stdio.ask(ask).await,
            Self::Http(http) => http.ask(ask).await,
            Self::Openapi(openapi) => openapi.ask(ask).await,
            Self::Wasm(wasm) => wasm.ask(ask).await,
        }
    }

    /// Ends the plugin and waits until nothing of it is left.
    pub async fn stop(&self) {
        match self {
            Self::Builtin(_) | Self::Openapi(_) | Self::Wasm(_) => {}
            Self::Stdio(stdio) => stdio.stop().await,
            Self::Http(http) => http.stop().await,
        }
    }
}
