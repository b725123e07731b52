//! All plugins of this process: started, watched and stopped together.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use mcp::{Cause, Failure, Method, members::Members};
use tokio::sync::{Notify, Semaphore, watch};

use super::{
    Answer, Ask, CallContext, Plugin, State,
    builtin::{Builtin, Set, SetError},
    catalogue::{Catalogue, Contribution, List},
    http::{Http, HttpSpec},
    openapi::{Openapi, OpenapiSpec},
    pins::{PinSpec, Pins},
    stdio::{Stdio, StdioSpec, process::Spawner},
    wasm::{Wasm, WasmSpec},
};

/// How often the files of pins are looked at.
const PINS_EVERY: Duration = Duration::from_secs(2);

/// A plugin as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name, unique in this process.
    pub name: String,
    /// Before every name of its tools and prompts.
    pub prefix: String,
    /// What it is.
    pub kind: Kind,
}

/// What a plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Tools of this process.
    Builtin(Set),
    /// A child process that speaks MCP.
    Stdio(StdioSpec),
    /// A remote MCP server.
    Http(HttpSpec),
    /// An HTTP API.
    Openapi(OpenapiSpec),
    /// A WebAssembly component.
    Wasm(WasmSpec),
}

/// Why the plugins cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A built-in set cannot be served.
    #[error("the built-in plugin {name} cannot be served")]
    Set {
        /// The plugin's name.
        name: String,
        /// Why.
        source: SetError,
    },
    /// The WebAssembly engine cannot be started.
    #[error("the plugin {name} cannot be served")]
    Wasm {
        /// The plugin's name.
        name: String,
        /// Why.
        source: ::wasm::RuntimeError,
    },
    /// There is no thread that could start children.
    #[error("the thread that starts plugin processes cannot be had")]
    Spawner(#[source] std::io::Error),
}

/// A plugin in its place.
#[derive(Debug)]
pub struct Mounted {
    /// Its name.
    pub name: Arc<str>,
    prefix: String,
    pins: Option<Pins>,
    /// What it is.
    pub plugin: Plugin,
}

/// All plugins, and what they offer together.
#[derive(Debug)]
pub struct Mounts {
    mounted: Vec<Mounted>,
    catalogue: ArcSwap<Catalogue>,
    /// Counts the snapshots.
    versions: watch::Sender<u64>,
}

impl Mounts {
    /// Opens the built-in sets and starts the children, without waiting for them.
    ///
    /// # Errors
    /// [`MountError`] when a built-in set cannot be served; a child that does not start costs only its own tools.
    pub fn start(specs: Vec<Spec>) -> Result<Arc<Self>, MountError> {
        Self::start_pinned(specs, BTreeMap::new())
    }

    /// Does as [`Self::start`], and holds the plugins that are named in `pins` to their first definitions.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub fn start_pinned(
        specs: Vec<Spec>,
        mut pins: BTreeMap<String, PinSpec>,
    ) -> Result<Arc<Self>, MountError> {
        let changed = Arc::new(Notify::new());
        let spawner = Spawner::start().map_err(MountError::Spawner)?;
        let threads = Arc::new(Semaphore::new(
            2 * std::thread::available_parallelism().map_or(2, usize::from),
        ));
        // Only a fleet with components pays for their engine.
        let mut engine: Option<::wasm::Runtime> = None;
        let mounted = specs
            .into_iter()
            .map(|spec| {
                let plugin = match spec.kind {
                    Kind::Builtin(set) => {
                        let opened = Builtin::open(&set, &threads);
                        Plugin::Builtin(opened.map_err(|source| MountError::Set {
                            name: spec.name.clone(),
                            source,
                        })?)
                    }
                    Kind::Stdio(stdio) => {
                        Plugin::Stdio(Stdio::start(&spec.name, stdio, &spawner, &changed))
                    }
                    Kind::Wasm(wasm) => {
                        let started = match &engine {
                            Some(engine) => Ok(engine.clone()),
                            None => ::wasm::Runtime::start(wasm.cache.as_deref()),
                        };
                        let started = started.map_err(|source| MountError::Wasm {
                            name: spec.name.clone(),
                            source,
                        })?;
                        engine = Some(started.clone());
                        Plugin::Wasm(Wasm::start(&spec.name, wasm, started, &changed))
                    }
                    Kind::Http(http) => Plugin::Http(Http::start(&spec.name, http, &changed)),
                    Kind::Openapi(openapi) => {
                        Plugin::Openapi(Openapi::start(&spec.name, openapi, &changed))
                    }
                };
                Ok(Mounted {
                    pins: pins.remove(&spec.name).map(Pins::new),
                    name: spec.name.into(),
                    prefix: spec.prefix,
                    plugin,
                })
            })
            .collect::<Result<Vec<_>, MountError>>()?;
        let mounts = Arc::new(Self {
            mounted,
            catalogue: ArcSwap::default(),
            versions: watch::Sender::new(0),
        });
        mounts.refresh();
        tokio::spawn(follow(Arc::downgrade(&mounts), changed));
        Ok(mounts)
    }

    /// Returns the snapshot in force.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue.load_full()
    }

    /// Returns the plugins in configured order.
    pub fn mounted(&self) -> &[Mounted] {
        &self.mounted
    }

    /// Returns a receiver that sees every new snapshot.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// Waits until no plugin is starting any more, at most for `patience`. Returns the names of those that still are.
    pub async fn settled(&self, patience: Duration) -> Vec<Arc<str>> {
        let mut changes = self.changes();
        let starting = || self.starting().is_empty();
        let wait = changes.wait_for(|_| starting());
        // Either way what counts is what is still starting.
        drop(tokio::time::timeout(patience, wait).await);
        self.starting()
    }

    /// Returns the names of the plugins that have been neither up nor refused so far.
    pub fn starting(&self) -> Vec<Arc<str>> {
        let starting = |one: &&Mounted| one.plugin.state() == State::Starting;
        self.mounted
            .iter()
            .filter(starting)
            .map(|one| Arc::clone(&one.name))
            .collect()
    }

    /// Finds the plugin that stands behind a public name or URI, and asks it.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] for a name or URI that nobody serves; else what [`Plugin::ask`] says.
    pub async fn ask(
        &self,
        method: &Method,
        name: &str,
        params: Members<'_>,
        context: CallContext,
    ) -> Result<Answer, Failure> {
        let catalogue = self.catalogue.load();
        let (plugin, key) = match method {
            Method::ToolsCall => named(&catalogue, List::Tools, name, "tool")?,
            Method::PromptsGet => named(&catalogue, List::Prompts, name, "prompt")?,
            Method::ResourcesRead => {
                let no_such = || {
                    Failure::say(Cause::InvalidParams, "no such resource")
                        .with_data(&serde_json::json!({"uri": name}))
                };
                (catalogue.owner(name).ok_or_else(no_such)?, name.to_owned())
            }
            _ => return Err(Failure::new(Cause::MethodNotFound)),
        };
        drop(catalogue);
        let ask = Ask {
            method,
            key: &key,
            params,
            context,
        };
        self.mounted[plugin].plugin.ask(ask).await
    }

    /// Ends all plugins and waits until nothing of them is left.
    pub async fn stop(&self) {
        futures::future::join_all(self.mounted.iter().map(|one| one.plugin.stop())).await;
    }

    fn refresh(&self) {
        let contributions: Vec<Contribution> = self
            .mounted
            .iter()
            .map(|one| {
                let state = one.plugin.state();
                let (listing, held) = match &one.pins {
                    Some(pins) => pins.apply(&one.name, one.plugin.listing()),
                    None => (one.plugin.listing(), Vec::new()),
                };
                Contribution {
                    plugin: Arc::clone(&one.name),
                    prefix: one.prefix.clone(),
                    listing,
                    state,
                    held,
                }
            })
            .collect();
        self.catalogue
            .store(Arc::new(Catalogue::merge(&contributions)));
        self.versions.send_modify(|version| *version += 1);
    }
}

fn named(
    catalogue: &Catalogue,
    list: List,
    name: &str,
    what: &str,
) -> Result<(usize, String), Failure> {
    let entry = catalogue.find(list, name).ok_or_else(|| {
        Failure::say(Cause::InvalidParams, format!("no such {what}"))
            .with_data(&serde_json::json!({"name": name}))
    })?;
    Ok((entry.plugin, entry.key.clone()))
}

/// Makes a new snapshot after every change, for as long as there is anybody to read it.
async fn follow(mounts: Weak<Mounts>, changed: Arc<Notify>) {
    loop {
        let told = tokio::select! {
            () = changed.notified() => true,
            () = tokio::time::sleep(PINS_EVERY) => false,
        };
        let Some(mounts) = mounts.upgrade() else {
            return;
        };
        let approved = |one: &Mounted| one.pins.as_ref().is_some_and(Pins::changed);
        if told || mounts.mounted.iter().any(approved) {
            mounts.refresh();
        }
    }
}
