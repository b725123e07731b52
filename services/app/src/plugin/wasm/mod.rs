//! WebAssembly components: the `wasm` crate runs them, this module serves them.
//!
//! A component is loaded again when its file changes; one that cannot be loaded leaves the last one that could in service.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ::wasm::{
    CallError, Fetch, FetchError, Grants, Host, Level, Limits, LoadError, Plugin, Runtime, Web,
};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::future::BoxFuture;
use jsonschema::Validator;
use mcp::{Cause, Failure, Method};
use serde_json::{Value, json, value::to_raw_value};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Answer, Ask, Freshness, Item, Listing, Scope, State,
    allowed::Allowed,
    builtin::tool::refused,
    failing::Failing,
    followed::{self, Followed},
    notices::Notices,
    outgoing::{self, BodyError},
    pins::{FilePins, NotPinned, sha256},
    shown::Shown,
    signature::{NotSigned, SignedBy},
};

/// The largest component, in bytes.
const MODULE_BYTES_MAX: u64 = 256 << 20;
/// How long a component may take to name its tools.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may keep the list.
const LIST_TTL_MS: u64 = 60_000;

/// How to serve a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WasmSpec {
    /// The component's file.
    pub module: PathBuf,
    /// SHA-256 that the file must have, in hexadecimal.
    pub digest: Option<String>,
    /// Whose signature the file must have.
    pub signed_by: Option<SignedBy>,
    /// How much a call may take.
    pub limits: Limits,
    /// What a call may do beside computing.
    pub grants: Grants,
    /// Hosts that a call may ask.
    pub allow_hosts: Vec<String>,
    /// Where compiled components are kept; the first plugin's holds for all of a process.
    pub cache: Option<PathBuf>,
    /// How long one call may take, if its client gives it that long.
    pub call_timeout: Duration,
}

/// A plugin that is a component.
#[derive(Debug)]
pub struct Wasm {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    spec: WasmSpec,
    runtime: Runtime,
    pins: Option<FilePins>,
    serving: ArcSwapOption<Serving>,
    shown: Shown,
}

/// A component in service.
#[derive(Debug)]
struct Serving {
    plugin: Plugin,
    /// By tool; `None` for a schema that cannot be checked.
    checks: HashMap<String, Option<Validator>>,
}

#[derive(Debug, thiserror::Error)]
enum NotServed {
    #[error("its file {path} cannot be read")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("its file has the SHA-256 {found}, and not the one that is configured")]
    Digest { found: String },
    #[error("its component is not let in")]
    Pins(#[from] NotPinned),
    #[error("its component is not let in")]
    Signature(#[from] NotSigned),
    #[error("it cannot be given a way to other servers")]
    Client(#[from] reqwest::Error),
    #[error("its component cannot be used")]
    Load(#[from] LoadError),
    #[error("it does not name its tools")]
    List(#[from] CallError),
    #[error("it has no tools: {0}")]
    NoTools(String),
}

impl Wasm {
    /// Loads the component in the background, if `pins` let it in. `changed` is told of every change of state or tools.
    pub(crate) fn start(
        name: &str,
        spec: WasmSpec,
        runtime: Runtime,
        pins: Option<FilePins>,
        changed: &Arc<Notify>,
    ) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            name: name.into(),
            spec,
            runtime,
            pins,
            serving: ArcSwapOption::empty(),
            shown: Shown::new(changed),
        });
        tokio::spawn(serve(Arc::clone(&shared), stop.clone()));
        Self {
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// Returns what is offered, or was.
    pub fn listing(&self) -> Arc<Listing> {
        self.shared.shown.listing()
    }

    /// Returns how often it failed for a reason.
    pub fn failures(&self, why: Failing) -> u64 {
        self.shared.shown.failures(why)
    }

    /// Returns whether there is a component to serve from.
    pub fn state(&self) -> State {
        self.shared.shown.state()
    }

    /// Runs a tool in an instance of its own.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] and [`Cause::Overloaded`] when it did not run, [`Cause::UpstreamBroken`] when it trapped,
    /// [`Cause::Timeout`], [`Cause::UpstreamInvalid`].
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        let shared = &self.shared;
        if *ask.method != Method::ToolsCall {
            return Err(Failure::new(Cause::MethodNotFound));
        }
        let serving = shared.serving.load_full().ok_or_else(|| {
            let state = shared.shown.state();
            let what = format!("is {}; the call was not sent", state.as_str());
            shared.failure(Cause::NoBackend, &what)
        })?;
        let check = serving.checks.get(ask.key);
        let check = check.ok_or_else(|| Failure::say(Cause::InvalidParams, "no such tool"))?;
        let arguments = Value::Object(ask.arguments()?);
        let misfits = check
            .as_ref()
            .map_or_else(Vec::new, |check| crate::schema::misfits(check, &arguments));
        let result = match misfits.as_slice() {
            misfits @ [_, ..] => crate::schema::refusal(misfits),
            [] => {
                let deadline = ask
                    .context
                    .deadline
                    .min(Instant::now() + shared.spec.call_timeout);
                let host = shared.host(ask.context.request_id.as_str(), ask.context.notices);
                let arguments = arguments.to_string();
                let called = serving
                    .plugin
                    .call_tool(ask.key, &arguments, host, deadline);
                match called.await.map_err(|error| shared.lost(&error))? {
                    Ok(text) => result(text),
                    Err(reason) => refused(&reason),
                }
            }
        };
        let result = to_raw_value(&result).map_err(|_| Failure::new(Cause::Internal))?;
        Ok(Answer::Result(result))
    }
}

impl Shared {
    fn host(&self, request_id: &str, notices: Notices) -> Arc<dyn Host> {
        Arc::new(Logger {
            plugin: Arc::clone(&self.name),
            request_id: request_id.to_owned(),
            notices,
        })
    }

    fn failure(&self, cause: Cause, what: &str) -> Failure {
        Failure::say(cause, format!("the plugin {} {what}", self.name))
    }

    /// Says what a call without an answer means for its caller, and logs why.
    fn lost(&self, error: &CallError) -> Failure {
        let reason = error.to_string();
        tracing::warn!(plugin = %self.name, reason, "a call of the plugin has no answer");
        match error {
            CallError::Busy => self.failure(Cause::Overloaded, "has too many calls under way"),
            CallError::Unmade(_) => {
                self.failure(Cause::NoBackend, "cannot be started; the call did not run")
            }
            CallError::Late => self.failure(
                Cause::Timeout,
                "did not answer in time; the call may have run",
            ),
            CallError::Trapped(_) => self.failure(
                Cause::UpstreamBroken,
                "ended while the call was under way; the call may have run",
            ),
            CallError::TooLong(_) => {
                self.failure(Cause::UpstreamInvalid, "answered more than is taken")
            }
        }
    }

    /// Reads, checks and compiles the component.
    fn compile(&self) -> Result<Plugin, NotServed> {
        let path = &self.spec.module;
        let bytes = followed::read(path, MODULE_BYTES_MAX).map_err(|source| NotServed::File {
            path: path.clone(),
            source,
        })?;
        let found = sha256(&bytes);
        if let Some(wanted) = &self.spec.digest
            && found != *wanted
        {
            return Err(NotServed::Digest { found });
        }
        if let Some(by) = &self.spec.signed_by {
            by.check(path, &bytes)?;
        }
        if let Some(pins) = &self.pins {
            pins.check(&self.name, [(path.clone(), found)])?;
        }
        let (limits, mut grants) = (self.spec.limits, self.spec.grants.clone());
        if !self.spec.allow_hosts.is_empty() {
            grants.web = Some(Web(Arc::new(Fetcher {
                plugin: Arc::clone(&self.name),
                allowed: Allowed::new(&self.spec.allow_hosts)?,
                answer_bytes_max: limits.answer_bytes,
            })));
        }
        Ok(Plugin::load(&self.runtime, &bytes, limits, grants)?)
    }

    async fn load(self: &Arc<Self>) -> Result<(), NotServed> {
        let shared = Arc::clone(self);
        let plugin = tokio::task::spawn_blocking(move || shared.compile())
            .await
            .unwrap_or_else(|lost| {
                let path = self.spec.module.clone();
                let source = std::io::Error::other(lost);
                Err(NotServed::File { path, source })
            })?;
        let deadline = Instant::now() + LIST_TIMEOUT;
        let listed = plugin
            .list_tools(self.host("-", Notices::default()), deadline)
            .await?;
        let (mut tools, mut checks) = (Vec::new(), HashMap::new());
        for text in
            listed.map_err(|reason| NotServed::NoTools(reason.escape_debug().to_string()))?
        {
            let definition: Option<Value> = serde_json::from_str(&text).ok();
            let named = definition.as_ref().and_then(|definition| {
                let name = definition.get("name")?.as_str()?.to_owned();
                Some((name, definition.get("inputSchema")?))
            });
            match (named, serde_json::from_str(&text)) {
                (Some((key, schema)), Ok(raw)) => {
                    checks.insert(key.clone(), crate::schema::options().build(schema).ok());
                    tools.push(Item { key, raw });
                }
                _ => {
                    tracing::warn!(plugin = %self.name, "a tool without name and inputSchema is not served");
                }
            }
        }
        tracing::info!(plugin = %self.name, tools = tools.len(), "the plugin is in service");
        self.serving
            .store(Some(Arc::new(Serving { plugin, checks })));
        self.shown.set_listing(Listing {
            tools,
            freshness: Freshness {
                ttl_ms: LIST_TTL_MS,
                scope: Scope::Public,
            },
            ..Listing::default()
        });
        self.shown.set_state(State::Ready);
        Ok(())
    }
}

/// Keeps the component that the file has in service, until `stop`.
async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    let pins = shared.pins.as_ref().map(|pins| pins.path().to_owned());
    let mut file = Followed::new([shared.spec.module.clone()].into_iter().chain(pins));
    while file.changed(&stop).await {
        if let Err(error) = shared.load().await {
            let reason = telemetry::error_chain(&error);
            tracing::warn!(plugin = %shared.name, reason, "the plugin's component cannot be put into service");
            if shared.serving.load().is_none() {
                shared.shown.set_state(State::Restarting {
                    failing: Failing::Unreachable,
                    reason,
                });
            }
        }
    }
    shared.shown.set_state(State::Stopped);
}

/// Makes a result from a tool's JSON; what is no object is text alone.
fn result(text: String) -> Value {
    let mut result = json!({"resultType": "complete", "isError": false});
    if let Ok(structured @ Value::Object(_)) = serde_json::from_str(&text) {
        result["structuredContent"] = structured;
    }
    result["content"] = json!([{"type": "text", "text": text}]);
    result
}

/// Sends a component's requests to the hosts that it was granted.
struct Fetcher {
    plugin: Arc<str>,
    allowed: Allowed,
    answer_bytes_max: usize,
}

impl Fetch for Fetcher {
    fn fetch(
        &self,
        request: http::Request<Bytes>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<http::Response<Bytes>, FetchError>> {
        let (allowed, limit) = (self.allowed.clone(), self.answer_bytes_max);
        let plugin = Arc::clone(&self.plugin);
        Box::pin(async move {
            let denied = |reason: String| {
                tracing::warn!(
                    plugin = &*plugin,
                    reason,
                    "a request of the plugin was not sent"
                );
                FetchError::Denied
            };
            let request = reqwest::Request::try_from(request)
                .map_err(|error| denied(error.without_url().to_string()))?;
            allowed
                .admits(request.url())
                .map_err(|error| denied(error.to_string()))?;
            let lost = |error: reqwest::Error| {
                let why = if error.is_timeout() {
                    FetchError::Late
                } else if error.is_redirect() {
                    FetchError::Denied
                } else {
                    FetchError::Unreachable
                };
                let error = telemetry::error_chain(&error.without_url());
                tracing::warn!(
                    plugin = &*plugin,
                    error,
                    "a request of the plugin has no answer"
                );
                why
            };
            let exchange = async {
                let mut response = allowed.client().execute(request).await.map_err(lost)?;
                let mut answer = http::Response::new(Bytes::new());
                *answer.status_mut() = response.status();
                *answer.headers_mut() = std::mem::take(response.headers_mut());
                // These are of the connection, and of the body as it was sent.
                for name in [http::header::TRANSFER_ENCODING, http::header::CONNECTION] {
                    answer.headers_mut().remove(name);
                }
                match outgoing::body(response, limit).await {
                    Ok(body) => Ok(answer.map(|_| body.into())),
                    Err(BodyError::TooLong) => Err(FetchError::TooLong),
                    Err(BodyError::Broken(error)) => Err(lost(error)),
                }
            };
            tokio::time::timeout_at(deadline.into(), exchange)
                .await
                .unwrap_or(Err(FetchError::Late))
        })
    }
}

/// Writes what a component says into our log, escaped, and tells its client how far it is.
struct Logger {
    plugin: Arc<str>,
    request_id: String,
    notices: Notices,
}

impl Host for Logger {
    fn log(&self, level: Level, message: &str) {
        let (plugin, request_id) = (&*self.plugin, self.request_id.as_str());
        let said = message.escape_debug().to_string();
        match level {
            Level::Debug => tracing::debug!(plugin, request_id, said, "the plugin says"),
            Level::Info => tracing::info!(plugin, request_id, said, "the plugin says"),
            Level::Warn => tracing::warn!(plugin, request_id, said, "the plugin says"),
            Level::Error => tracing::error!(plugin, request_id, said, "the plugin says"),
        }
    }

    fn progress(&self, done: f64, total: Option<f64>, message: Option<&str>) {
        let mut params = json!({"progress": done});
        if let Some(total) = total {
            params["total"] = total.into();
        }
        if let Some(message) = message {
            params["message"] = message.into();
        }
        if let Ok(params) = to_raw_value(&params) {
            self.notices.pass_progress(&params);
        }
        let said = message.map(|message| message.escape_debug().to_string());
        tracing::debug!(
            plugin = &*self.plugin,
            request_id = self.request_id,
            done,
            total,
            said,
            "the plugin goes on"
        );
    }
}
