//! All plugins of this process: started, watched and stopped together.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use mcp::{Cause, Failure, Method, members::Members};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::{Notify, Semaphore, watch};

use super::{
    Answer, Ask, CallContext, Plugin, Scopes, State, Telling,
    builtin::{Builtin, Set, SetError},
    catalogue::{Can, Catalogue, Contribution, Entry, List, Naming},
    conformance::Conformance,
    http::{Http, HttpSpec},
    hub::{Change, Filter, Hub, Listener},
    openapi::{Openapi, OpenapiSpec},
    pins::{FilePins, PinSpec, Pins},
    stdio::{Stdio, StdioSpec, process::Spawner},
    wasm::{Wasm, WasmSpec},
};

/// How many parts of a snapshot are kept ready.
const PARTS_MAX: usize = 64;
/// How often the files of pins are looked at.
const PINS_EVERY: Duration = Duration::from_secs(2);

/// A plugin as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name, unique in this process.
    pub name: String,
    /// Before every name of its tools and prompts.
    pub prefix: String,
    /// Names under which some of them are served, in place of prefix and own name.
    pub names: BTreeMap<String, String>,
    /// Scopes of which a caller needs one to see and use what it offers; none: everybody may.
    pub scopes: Vec<String>,
    /// What it is told of a call.
    pub telling: Telling,
    /// Whether its word on what its tools do is believed.
    pub trusted: bool,
    /// What it is.
    pub kind: Kind,
}

/// What a plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Tools of this process.
    Builtin(Set),
    /// What the conformance suite expects.
    Conformance,
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
    /// The fixtures of the conformance suite cannot be read.
    #[error("the fixtures of the conformance suite cannot be read")]
    Fixtures(#[source] serde_json::Error),
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
    naming: Arc<Naming>,
    /// Scopes of which a caller needs one to see and use what it offers; none: everybody may.
    pub scopes: Vec<String>,
    telling: Telling,
    /// Whether its word on what its tools do is believed.
    pub trusted: bool,
    pins: Option<Pins>,
    /// What it is.
    pub plugin: Plugin,
}

/// All plugins, and what they offer together.
#[derive(Debug)]
pub struct Mounts {
    mounted: Vec<Mounted>,
    offer: ArcSwap<Offer>,
    /// Counts the snapshots.
    versions: watch::Sender<u64>,
    /// Who listens for changes.
    hub: Arc<Hub>,
}

/// The snapshot in force, and the parts of it that callers have asked for: there are few sets of scopes.
#[derive(Debug, Default)]
struct Offer {
    whole: Arc<Catalogue>,
    parts: Mutex<BTreeMap<Vec<usize>, Arc<Catalogue>>>,
}

impl Offer {
    fn of(whole: Arc<Catalogue>) -> Self {
        Self {
            whole,
            parts: Mutex::default(),
        }
    }

    /// Returns the part without what these plugins offer.
    fn without(&self, hidden: Vec<(usize, Arc<str>)>) -> Arc<Catalogue> {
        if hidden.is_empty() {
            return Arc::clone(&self.whole);
        }
        let key: Vec<usize> = hidden.iter().map(|(index, _)| *index).collect();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get(&key) {
            return Arc::clone(part);
        }
        let part = Arc::new(self.whole.without(&hidden));
        if parts.len() == PARTS_MAX {
            parts.clear();
        }
        parts.insert(key, Arc::clone(&part));
        part
    }
}

/// An answer, and the plugin that gave it.
#[derive(Debug)]
pub struct Asked {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// What it answered.
    pub answer: Answer,
}

impl Mounts {
    /// Opens the built-in sets and starts the children, without waiting for them.
    ///
    /// # Errors
    /// [`MountError`] when a built-in set cannot be served; a child that does not start costs only its own tools.
    pub fn start(specs: Vec<Spec>) -> Result<Arc<Self>, MountError> {
        Self::start_pinned(specs, BTreeMap::new())
    }

    /// Does as [`Self::start`], and holds the plugins that are named in `pins` to their first definitions and files.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub fn start_pinned(
        specs: Vec<Spec>,
        mut pins: BTreeMap<String, PinSpec>,
    ) -> Result<Arc<Self>, MountError> {
        let changed = Arc::new(Notify::new());
        let hub = Arc::new(Hub::default());
        let spawner = Spawner::start().map_err(MountError::Spawner)?;
        let threads = Arc::new(Semaphore::new(
            2 * std::thread::available_parallelism().map_or(2, usize::from),
        ));
        // Only a fleet with components pays for their engine.
        let mut engine: Option<::wasm::Runtime> = None;
        let mounted = specs
            .into_iter()
            .map(|spec| {
                let pinned = pins.remove(&spec.name);
                let files = pinned.as_ref().map(FilePins::new);
                let plugin = match spec.kind {
                    Kind::Builtin(set) => {
                        let opened = Builtin::open(&set, &threads);
                        Plugin::Builtin(opened.map_err(|source| MountError::Set {
                            name: spec.name.clone(),
                            source,
                        })?)
                    }
                    Kind::Conformance => {
                        Plugin::Conformance(Conformance::open(&hub).map_err(MountError::Fixtures)?)
                    }
                    Kind::Stdio(stdio) => Plugin::Stdio(Stdio::start(
                        &spec.name, stdio, files, &spawner, &changed, &hub,
                    )),
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
                        Plugin::Wasm(Wasm::start(&spec.name, wasm, started, files, &changed))
                    }
                    Kind::Http(http) => Plugin::Http(Http::start(&spec.name, http, &changed, &hub)),
                    Kind::Openapi(openapi) => {
                        Plugin::Openapi(Openapi::start(&spec.name, openapi, files, &changed))
                    }
                };
                Ok(Mounted {
                    pins: pinned.map(Pins::new),
                    name: spec.name.into(),
                    naming: Arc::new(Naming {
                        prefix: spec.prefix,
                        names: spec.names,
                    }),
                    scopes: spec.scopes,
                    telling: spec.telling,
                    trusted: spec.trusted,
                    plugin,
                })
            })
            .collect::<Result<Vec<_>, MountError>>()?;
        let mounts = Arc::new(Self {
            mounted,
            offer: ArcSwap::default(),
            versions: watch::Sender::new(0),
            hub,
        });
        mounts.refresh();
        tokio::spawn(follow(Arc::downgrade(&mounts), changed));
        Ok(mounts)
    }

    /// Returns the snapshot in force: everything, whoever may see it.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.offer.load().whole)
    }

    /// Returns what of it a caller with these scopes may see.
    pub fn seen_by(&self, scopes: &Scopes) -> Arc<Catalogue> {
        let mounted = self.mounted.iter().enumerate();
        let hidden = mounted.filter(|(_, one)| !scopes.satisfy(&one.scopes));
        let hidden: Vec<_> = hidden
            .map(|(index, one)| (index, Arc::clone(&one.name)))
            .collect();
        self.offer.load().without(hidden)
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

    /// Finds the plugin that stands behind a public name or URI, and asks it. Arguments that do not fit a tool's schema are
    /// answered here, with a result that says so.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] for a name or URI that nobody serves; else what [`Plugin::ask`] says.
    pub async fn ask(
        &self,
        method: &Method,
        name: &str,
        mut params: Members<'_>,
        context: CallContext,
    ) -> Result<Asked, Failure> {
        let catalogue = self.seen_by(&context.client.scopes);
        let (plugin, key) = match method {
            Method::ToolsCall => {
                let entry = named(&catalogue, List::Tools, name, "tool")?;
                if self.mounted[entry.plugin].plugin.wants_checked_arguments()
                    && let Some(refused) = entry.check_arguments(params.get("arguments"))?
                {
                    return Ok(Asked {
                        plugin: Arc::clone(&self.mounted[entry.plugin].name),
                        answer: Answer::Result(refused),
                    });
                }
                (entry.plugin, entry.key.clone())
            }
            Method::PromptsGet => {
                let entry = named(&catalogue, List::Prompts, name, "prompt")?;
                (entry.plugin, entry.key.clone())
            }
            Method::ResourcesRead => (owner(&catalogue, name)?, name.to_owned()),
            Method::Complete => {
                let reference = completed(&catalogue, &params)?;
                params.set("ref", reference.raw);
                (reference.plugin, reference.key)
            }
            _ => return Err(Failure::new(Cause::MethodNotFound)),
        };
        drop(catalogue);
        self.ask_at(plugin, method, &key, params, context).await
    }

    /// Asks the plugin of this name.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] if there is none; else what [`Plugin::ask`] says.
    pub async fn ask_plugin(
        &self,
        plugin: &str,
        method: &Method,
        key: &str,
        params: Members<'_>,
        context: CallContext,
    ) -> Result<Answer, Failure> {
        let found = self.mounted.iter().position(|one| &*one.name == plugin);
        let plugin = found.ok_or_else(|| {
            Failure::say(Cause::InvalidParams, "the plugin is not served any more")
        })?;
        let asked = self.ask_at(plugin, method, key, params, context).await?;
        Ok(asked.answer)
    }

    async fn ask_at(
        &self,
        plugin: usize,
        method: &Method,
        key: &str,
        params: Members<'_>,
        context: CallContext,
    ) -> Result<Asked, Failure> {
        let one = &self.mounted[plugin];
        let ask = Ask {
            method,
            key,
            params,
            context: CallContext {
                telling: one.telling,
                ..context
            },
        };
        let answer = one.plugin.ask(ask).await?;
        Ok(Asked {
            plugin: Arc::clone(&one.name),
            answer,
        })
    }

    /// Listens for changes. Resources that nobody serves, or whose plugin cannot tell, are left out.
    pub fn listen(self: &Arc<Self>, mut asked: Filter, scopes: &Scopes) -> Subscription {
        let catalogue = self.seen_by(scopes);
        let mut watched = Vec::new();
        asked.uris.retain(|uri| {
            let plugin = catalogue.owner(uri);
            let granted = plugin.is_some_and(|plugin| self.mounted[plugin].plugin.watch(uri));
            watched.extend(plugin.filter(|_| granted));
            granted
        });
        Subscription {
            listener: self.hub.listen(asked),
            mounts: Arc::clone(self),
            watched: watched.into(),
        }
    }

    /// Returns how many listen for changes.
    pub fn listeners(&self) -> usize {
        self.hub.listeners()
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
                    naming: Arc::clone(&one.naming),
                    listing,
                    state,
                    can: Can::of(|pointer| one.plugin.has_capability(pointer)),
                    held,
                }
            })
            .collect();
        let mut merged = Catalogue::merge(&contributions);
        if self.mounted.iter().any(|one| !one.scopes.is_empty()) {
            merged = merged.without(&[]);
        }
        let merged = Arc::new(merged);
        let before = self.offer.swap(Arc::new(Offer::of(Arc::clone(&merged))));
        self.versions.send_modify(|version| *version += 1);
        for (lists, change) in [
            (&[List::Tools][..], Change::Tools),
            (&[List::Prompts], Change::Prompts),
            (&[List::Resources, List::Templates], Change::Resources),
        ] {
            if lists
                .iter()
                .any(|list| before.whole.digest_of(*list) != merged.digest_of(*list))
            {
                self.hub.announce(&change);
            }
        }
    }
}

/// One client's wish to know of changes, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    listener: Listener,
    mounts: Arc<Mounts>,
    /// The plugins of the resources, in the order of their URIs.
    watched: Box<[usize]>,
}

impl Subscription {
    /// Returns what is told.
    pub fn wants(&self) -> &Filter {
        self.listener.wants()
    }

    /// Waits for the next change. May be dropped and called again.
    pub async fn next(&self) -> Change {
        self.listener.next().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for (plugin, uri) in self.watched.iter().zip(&self.listener.wants().uris) {
            self.mounts.mounted[*plugin].plugin.unwatch(uri);
        }
    }
}

fn named<'a>(
    catalogue: &'a Catalogue,
    list: List,
    name: &str,
    what: &str,
) -> Result<&'a Entry, Failure> {
    catalogue.find(list, name).ok_or_else(|| {
        Failure::say(Cause::InvalidParams, format!("no such {what}"))
            .with_data(&serde_json::json!({"name": name}))
    })
}

fn owner(catalogue: &Catalogue, uri: &str) -> Result<usize, Failure> {
    catalogue.owner(uri).ok_or_else(|| {
        Failure::say(Cause::InvalidParams, "no such resource")
            .with_data(&serde_json::json!({"uri": uri}))
    })
}

/// What a `completion/complete` is about.
struct Reference {
    plugin: usize,
    key: String,
    /// `params.ref` under the plugin's own name.
    raw: Box<RawValue>,
}

fn completed(catalogue: &Catalogue, params: &Members<'_>) -> Result<Reference, Failure> {
    let invalid = || {
        Failure::say(
            Cause::InvalidParams,
            "params.ref must be a ref/prompt with a name or a ref/resource with a uri",
        )
    };
    let given = params.get("ref").ok_or_else(invalid)?;
    let mut reference = Members::parse(given).map_err(|_| invalid())?;
    let (plugin, key) = match reference.get_str("type").as_deref() {
        Some("ref/prompt") => {
            let name = reference.get_str("name").ok_or_else(invalid)?;
            let entry = named(catalogue, List::Prompts, &name, "prompt")?;
            let own = to_raw_value(&entry.key).map_err(|_| Failure::new(Cause::Internal))?;
            reference.set("name", own);
            (entry.plugin, entry.key.clone())
        }
        Some("ref/resource") => {
            let uri = reference.get_str("uri").ok_or_else(invalid)?;
            // The URI of a template is the template itself.
            let template = catalogue.find(List::Templates, &uri);
            let plugin = match template {
                Some(entry) => entry.plugin,
                None => owner(catalogue, &uri)?,
            };
            (plugin, uri)
        }
        _ => return Err(invalid()),
    };
    Ok(Reference {
        plugin,
        key,
        raw: reference.to_raw(),
    })
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
