//! Plugins: where tools come from. Every kind has the same inner shape, so that the rest of the app knows no kind.
//!
//! - [`Plugin`]: the kinds, and what each can be asked
//! - [`context`]: whom work is done for; [`notices`]: what it tells before its result
//! - [`hub`]: who listens for changes
//! - [`catalogue`]: the merged, prefixed, ordered snapshot of everything that is offered
//! - [`pins`]: definitions that stay what they were; [`signature`]: files that somebody vouches for
//! - [`mounts`]: all plugins of this process, started, watched and stopped together
//! - [`builtin`]: tools that need no other process
//! - [`conformance`]: what the protocol's conformance suite expects
//! - [`stdio`]: MCP servers as child processes
//! - [`http`]: remote MCP servers
//! - [`openapi`]: HTTP APIs with an OpenAPI document
//! - [`wasm`]: WebAssembly components
//! - [`credential`]: how requests to other servers prove who sends them
//! - [`failing`]: why one is not up, in words for metrics
//! - [`upstream`], [`outgoing`], [`allowed`], [`followed`], [`shown`]: what kinds have in common

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use futures::future::BoxFuture;
use mcp::{Failure, Method, members::Members};
use serde_json::{Map, Value, value::RawValue};

mod allowed;
pub mod builtin;
pub mod catalogue;
pub mod conformance;
pub mod context;
pub mod credential;
pub mod failing;
mod followed;
pub mod http;
pub mod hub;
pub mod mounts;
pub mod notices;
pub mod openapi;
pub mod outgoing;
pub mod pins;
mod shown;
pub mod signature;
pub mod stdio;
mod upstream;
pub mod wasm;

pub use context::{CallContext, Client, Scopes, Telling};

/// What a plugin answered.
#[derive(Debug)]
pub enum Answer {
    /// A `result` in the form of 2026-07-28.
    Result(Box<RawValue>),
    /// A JSON-RPC error object of the plugin's own.
    Error(Box<RawValue>),
    /// Questions to the client. The work goes on when they are answered; it is given up when this is dropped.
    Questions(Box<dyn Parked>),
}

/// The client's answers by the keys of the questions: each the `result` of that question.
pub type Inputs = BTreeMap<String, Box<RawValue>>;

/// Work that waits for its client's answers.
pub trait Parked: std::fmt::Debug + Send + Sync {
    /// Returns the questions by their keys, each with `method` and `params`. Only such that the client declared to take.
    fn questions(&self) -> Inputs;

    /// Returns since when an answer has been owed.
    fn asked_at(&self) -> Instant;

    /// Resolves when other work waits for what this keeps to itself.
    fn is_in_the_way(&self) -> BoxFuture<'static, ()>;

    /// Goes on with the answers that there are; what is still unanswered is asked again. `context` is that of the request
    /// that brought them.
    fn resume(
        self: Box<Self>,
        inputs: Inputs,
        context: CallContext,
    ) -> BoxFuture<'static, Result<Answer, Failure>>;
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
        /// Why it is not up, in a word.
        failing: failing::Failing,
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
    /// `tools/call`, `prompts/get`, `resources/read`, `completion/complete` or a method of the tasks extension.
    pub method: &'a Method,
    /// Name or URI without prefix; a task's id.
    pub key: &'a str,
    /// The parameters; the name or URI in them is still the caller's, save that in `ref`.
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
    /// What the conformance suite expects.
    Conformance(conformance::Conformance),
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
            Self::Builtin(_) | Self::Conformance(_) => "builtin",
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
            Self::Conformance(fixtures) => fixtures.listing(),
            Self::Stdio(stdio) => stdio.listing(),
            Self::Http(http) => http.listing(),
            Self::Openapi(openapi) => openapi.listing(),
            Self::Wasm(wasm) => wasm.listing(),
        }
    }

    /// Returns whether it can be asked.
    pub fn state(&self) -> State {
        match self {
            Self::Builtin(_) | Self::Conformance(_) => State::Ready,
            Self::Stdio(stdio) => stdio.state(),
            Self::Http(http) => http.state(),
            Self::Openapi(openapi) => openapi.state(),
            Self::Wasm(wasm) => wasm.state(),
        }
    }

    /// Returns how often it failed for a reason since the app started.
    pub fn failures(&self, why: failing::Failing) -> u64 {
        match self {
            Self::Builtin(_) | Self::Conformance(_) => 0,
            Self::Stdio(stdio) => stdio.failures(why),
            Self::Http(http) => http.failures(why),
            Self::Openapi(openapi) => openapi.failures(why),
            Self::Wasm(wasm) => wasm.failures(why),
        }
    }

    /// Asks and waits for the answer, at most until the context's deadline. Dropping the future cancels the work.
    ///
    /// # Errors
    /// A [`Failure`] when the plugin could not be asked or gave no answer; its cause tells whether the work may have run.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        match self {
            Self::Builtin(builtin) => builtin.call(ask.key, &ask.params, ask.context).await,
            Self::Conformance(fixtures) => fixtures.ask(ask).await,
            Self::Stdio(stdio) => stdio.ask(ask).await,
            Self::Http(http) => http.ask(ask).await,
            Self::Openapi(openapi) => openapi.ask(ask).await,
            Self::Wasm(wasm) => wasm.ask(ask).await,
        }
    }

    /// Tells whether it told that it can do what stands under this JSON Pointer of its capabilities.
    pub fn has_capability(&self, pointer: &str) -> bool {
        match self {
            Self::Builtin(_) | Self::Openapi(_) | Self::Wasm(_) => false,
            Self::Conformance(fixtures) => fixtures.has_capability(pointer),
            Self::Stdio(stdio) => stdio.has_capability(pointer),
            Self::Http(http) => http.has_capability(pointer),
        }
    }

    /// Tells whether the arguments of a tool call are to be checked before it is asked: whether it does not do so itself.
    pub fn wants_checked_arguments(&self) -> bool {
        !matches!(self, Self::Builtin(_) | Self::Openapi(_) | Self::Wasm(_))
    }

    /// Wants to know of a resource's changes from now on, by the [`hub::Hub`]. False if it cannot tell.
    pub fn watch(&self, uri: &str) -> bool {
        match self {
            Self::Builtin(_) | Self::Openapi(_) | Self::Wasm(_) => false,
            Self::Conformance(_) => true,
            Self::Stdio(stdio) => stdio.watch(uri),
            Self::Http(http) => http.watch(uri),
        }
    }

    /// Takes one [`Plugin::watch`] back.
    pub fn unwatch(&self, uri: &str) {
        match self {
            Self::Builtin(_) | Self::Conformance(_) | Self::Openapi(_) | Self::Wasm(_) => {}
            Self::Stdio(stdio) => stdio.unwatch(uri),
            Self::Http(http) => http.unwatch(uri),
        }
    }

    /// Ends the plugin and waits until nothing of it is left.
    pub async fn stop(&self) {
        match self {
            Self::Builtin(_) | Self::Conformance(_) | Self::Openapi(_) | Self::Wasm(_) => {}
            Self::Stdio(stdio) => stdio.stop().await,
            Self::Http(http) => http.stop().await,
        }
    }
}
