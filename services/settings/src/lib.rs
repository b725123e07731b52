//! The configuration of a fleet: one file and the environment, to checked values.
//!
//! `sweetmcp.toml` describes edge, app and fleet; each process reads its part. Precedence is defaults, then
//! the file, then the environment (`SWEETMCP__EDGE__HTTP__BODY_LIMIT=1MiB`). Everything that is wrong is told
//! at once, with its place, what was found, what is allowed and what to write.
//!
//! Every key stands once, in [`keys`], with its type, bounds, default and meaning; the reader, the reference,
//! the JSON Schema, digests and differences are made from there.

mod form;
mod keys;
mod nearest;
mod problem;
pub mod quantity;
mod reader;
mod reference;
mod secret;
mod text;
mod written;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

pub use keys::{
    ActAs, AppHttp, BuiltinSet, EdgeAuth, EdgeBalance, EdgeCapnp, EdgeConcurrency, EdgeCost,
    EdgeEvents, EdgeFlags, EdgeGraphql, EdgeHttp, EdgeLog, EdgeQueue, EdgeQuota, EdgeRate,
    EdgeRedis, EdgeSearch, EdgeSession, EdgeSignatures, EdgeUsage, EdgeWebsocket, Fleet, Grant,
    LogFormat, Logged, Pinning, SearchMode, Stderr, Telemetry, Telling, Transport,
};
pub use problem::{Errors, Origin, Problem};
pub use quantity::{Percent, parse_duration, parse_percent, parse_size};
pub use reference::{explain, reference_markdown, schema_json};
pub use secret::Secret;

use keys::{AppListen, AppShutdown, EdgeListen, EdgeShutdown, Kind, PluginKeys, Section as _};
use problem::Problems;
use reader::Reader;

/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The gateway's part.
    pub edge: Edge,
    /// The apps' part.
    pub app: App,
    /// How many of each.
    pub fleet: Fleet,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// What the apps serve, in the file's order; the built-in tools are among them unless they are off.
    pub plugins: Vec<Plugin>,
}

/// The gateway's part.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// Where clients connect.
    pub listen: std::net::SocketAddr,
    /// Where operators connect.
    pub admin_listen: std::net::SocketAddr,
    /// Where Cap'n Proto clients connect.
    pub capnp_listen: std::net::SocketAddr,
    /// Worker threads; 0 takes one a core.
    pub workers: usize,
    /// Origins of web pages that may call, beside those of this machine.
    pub allowed_origins: Vec<String>,
    /// Bounds on HTTP requests.
    pub http: EdgeHttp,
    /// Which tokens are trusted.
    pub auth: EdgeAuth,
    /// Sessions of the older revisions.
    pub session: EdgeSession,
    /// Each principal's bucket.
    pub rate: EdgeRate,
    /// Calls that wait for a place.
    pub queue: EdgeQueue,
    /// How many may be under way.
    pub concurrency: EdgeConcurrency,
    /// What calls cost.
    pub cost: EdgeCost,
    /// What a tenant may use in a day.
    pub quota: EdgeQuota,
    /// The account of calls.
    pub usage: EdgeUsage,
    /// The store through which several edges keep one rate.
    pub redis: EdgeRedis,
    /// Attempts and instances.
    pub balance: EdgeBalance,
    /// Bounds on GraphQL documents.
    pub graphql: EdgeGraphql,
    /// Bounds on Cap'n Proto.
    pub capnp: EdgeCapnp,
    /// Streams of events.
    pub events: EdgeEvents,
    /// Features that are on for some.
    pub flags: EdgeFlags,
    /// What is logged of arguments and results.
    pub log: EdgeLog,
    /// Signed requests.
    pub signatures: EdgeSignatures,
    /// Short lists of tools.
    pub search: EdgeSearch,
    /// Bounds on WebSockets.
    pub websocket: EdgeWebsocket,
    /// How it ends.
    pub shutdown: Shutdown,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long it serves on after it has said that it goes.
    pub grace: std::time::Duration,
    /// How long calls under way may take to end.
    pub drain: std::time::Duration,
}

/// The apps' part.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// Where the edge connects.
    pub listen: std::net::SocketAddr,
    /// Whether the built-in tools are served beside configured plugins.
    pub builtins: bool,
    /// Bounds on HTTP requests.
    pub http: AppHttp,
    /// How it ends.
    pub shutdown: Shutdown,
}

/// One plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// Its name.
    pub name: String,
    /// What its tools' names begin with.
    pub prefix: String,
    /// Names under which tools and prompts are served, in place of prefix and own name.
    pub names: BTreeMap<String, String>,
    /// Whose signature its files must have.
    pub signature: Option<Signature>,
    /// Whether its word on what its tools do is believed.
    pub trusted: bool,
    /// What happens to its definitions that change.
    pub pins: Pinning,
    /// Scopes of which a caller needs one to see and use what it offers; none: everybody may.
    pub scopes: Vec<String>,
    /// What its tools are told of a call.
    pub context: Telling,
    /// How long one of its calls may take.
    pub call_timeout: std::time::Duration,
    /// What it is.
    pub kind: PluginKind,
}

/// Whose signature a plugin's files must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The minisign public key.
    pub key: String,
    /// Which files; the program or component if it is empty.
    pub files: Vec<PathBuf>,
}

/// How many processes of a program there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instances {
    /// Always.
    pub min: usize,
    /// While calls need them.
    pub max: usize,
    /// How long one that is not needed stays.
    pub idle: std::time::Duration,
}

/// What one process may take, with all that it starts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ChildLimits {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processors.
    pub cpus: Option<f64>,
    /// Processes.
    pub processes: Option<usize>,
}

/// Walls around a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// What it may read.
    pub read: Vec<PathBuf>,
    /// What it may read and write.
    pub write: Vec<PathBuf>,
    /// Whether it may use the network.
    pub network: bool,
}

/// What a plugin is.
#[derive(Debug, Clone, PartialEq)]
pub enum PluginKind {
    /// A child process that speaks MCP over standard input and output.
    Stdio {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Its environment, beside PATH, HOME and LANG.
        env: BTreeMap<String, Secret>,
        /// The folder it runs in, if not its starter's.
        working_dir: Option<PathBuf>,
        /// How many processes of it there are.
        instances: Instances,
        /// What each of them may take.
        limits: ChildLimits,
        /// The walls around each.
        sandbox: Option<Sandbox>,
        /// What becomes of what it writes for people.
        stderr: Stderr,
        /// How long its handshake may take.
        start_timeout: std::time::Duration,
    },
    /// A remote MCP server.
    Http {
        /// Its MCP endpoint.
        url: String,
        /// How messages are carried.
        transport: Transport,
        /// How requests prove who sends them.
        credential: Credential,
        /// How long its handshake may take.
        start_timeout: std::time::Duration,
        /// Largest answer, in bytes.
        response_limit: u64,
    },
    /// An HTTP API with an OpenAPI document.
    Openapi {
        /// The document.
        document: PathBuf,
        /// What its paths are added to.
        url: String,
        /// How requests prove who sends them.
        credential: Credential,
        /// Tools that are served, `*` at the end for all that begin so; all if it is empty.
        operations: Vec<String>,
        /// Whether tools have an `outputSchema`.
        output_schemas: bool,
        /// Largest answer, in bytes.
        response_limit: u64,
    },
    /// A WebAssembly component.
    Wasm {
        /// Its file.
        module: PathBuf,
        /// SHA-256 that the file must have.
        digest: Option<String>,
        /// What it may do beside computing.
        grants: Vec<Grant>,
        /// A folder that it sees.
        root: Option<PathBuf>,
        /// Whether it may change what is in the folder.
        writable: bool,
        /// Memory of one call, in bytes.
        memory_limit: u64,
        /// How much one call may compute.
        fuel: Option<u64>,
        /// Hosts that it may ask.
        allow_hosts: Vec<String>,
        /// Calls under way at once.
        calls_max: usize,
        /// Instances that are made ahead.
        warm: usize,
        /// Largest answer, in bytes.
        response_limit: u64,
    },
    /// Tools that come with SweetMCP.
    Builtin {
        /// Which.
        set: BuiltinSet,
        /// files: the folder that is served.
        root: Option<PathBuf>,
        /// sqlite: the database.
        path: Option<PathBuf>,
        /// http: hosts that may be fetched from.
        allow_hosts: Vec<String>,
    },
}

/// How requests to another server prove who sends them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Credential {
    /// Header fields by name.
    pub headers: BTreeMap<String, Secret>,
    /// A file that holds a bearer token.
    pub token_file: Option<PathBuf>,
    /// Where tokens are got.
    pub oauth: Option<OauthClient>,
    /// In whose name calls are made.
    pub users: Users,
}

/// In whose name a plugin's tools are called.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Users {
    /// The plugin's own.
    #[default]
    Alike,
    /// The calling user's, with its token from this file.
    Stored(PathBuf),
    /// The calling user's, with a token that is got for it.
    Exchange {
        /// The key that signs who the user is.
        key_file: PathBuf,
        /// The `iss` of what it signs.
        issuer: String,
    },
}

/// Who we are at an OAuth token endpoint, and what we want there.
#[derive(Debug, Clone, PartialEq)]
pub struct OauthClient {
    /// The endpoint.
    pub token_url: String,
    /// Our name there.
    pub client_id: String,
    /// A file with our secret.
    pub client_secret_file: Option<PathBuf>,
    /// `scope`.
    pub scope: Option<String>,
    /// `audience`.
    pub audience: Option<String>,
    /// `resource`.
    pub resource: Option<String>,
}

/// A configuration with what is known about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked values.
    pub settings: Settings,
    /// Digest of all of it.
    pub digest: String,
    /// Where each value came from that is not a default, by key.
    pub origins: BTreeMap<String, Origin>,
}

/// A key in which two configurations differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyDiff {
    /// The key.
    pub key: String,
    /// What it is in the first; absent if it has none there. Secrets are masked.
    pub from: Option<String>,
    /// What it is in the second.
    pub to: Option<String>,
}

impl Settings {
    /// Loads a file, or only defaults without one, under the environment.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Loaded, Errors> {
        let Some(path) = path else {
            return load_named("(no file)", "", environment);
        };
        let name = path.display().to_string();
        let unreadable = |found: String| {
            let mut problems = Problems::default();
            problems.add(|| Problem {
                origin: Origin::File {
                    file: name.as_str().into(),
                },
                key: String::new(),
                found,
                allowed: format!("a readable UTF-8 file of at most {FILE_BYTES_MAX} bytes"),
                write: None,
            });
            problems.finish::<Loaded>(None)
        };
        match std::fs::metadata(path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                return unreadable(format!("{} bytes", meta.len()));
            }
            Ok(_) => {}
            Err(error) => return unreadable(error.to_string()),
        }
        match std::fs::read_to_string(path) {
            Ok(text) => load_named(&name, &text, environment),
            Err(error) => unreadable(error.to_string()),
        }
    }

    /// Fills in what depends on the state folder: keys of the local fleet, the folder that is served.
    #[must_use]
    pub fn with_state_folder(mut self, state: &Path) -> Settings {
        let keys = state.join("keys");
        let auth = &mut self.edge.auth;
        auth.jwks_file.get_or_insert_with(|| keys.join("jwks.json"));
        if self.edge.session.key_files.is_empty() {
            self.edge.session.key_files.push(keys.join("session.key"));
        }
        for plugin in &mut self.plugins {
            if let PluginKind::Builtin {
                set: BuiltinSet::Files,
                root,
                ..
            } = &mut plugin.kind
            {
                root.get_or_insert_with(|| state.join("files"));
            }
        }
        self
    }

    /// Digest of what an edge reads: its own part and telemetry.
    #[must_use]
    pub fn edge_digest(&self) -> String {
        digest(self.canonical().into_iter().filter(|(key, _)| is_edge(key)))
    }

    /// Digest of what an app reads: its own part, sessions, telemetry and the plugins.
    #[must_use]
    pub fn app_digest(&self) -> String {
        digest(self.canonical().into_iter().filter(|(key, _)| is_app(key)))
    }

    /// Canonical values by key, secrets masked: for people and for comparing.
    #[must_use]
    pub fn shown(&self) -> BTreeMap<String, Json> {
        self.values(|_| Json::from(Secret::MASK))
    }

    fn canonical(&self) -> BTreeMap<String, Json> {
        self.values(|secret| Json::from(secret.expose()))
    }

    fn values(&self, secret: impl Fn(&Secret) -> Json) -> BTreeMap<String, Json> {
        let mut out = BTreeMap::new();
        let edge = &self.edge;
        EdgeListen {
            listen: edge.listen,
            admin_listen: edge.admin_listen,
            capnp_listen: edge.capnp_listen,
            workers: edge.workers,
            allowed_origins: edge.allowed_origins.clone(),
        }
        .show(&mut out);
        edge.http.show(&mut out);
        edge.auth.show(&mut out);
        edge.session.show(&mut out);
        edge.rate.show(&mut out);
        edge.queue.show(&mut out);
        edge.concurrency.show(&mut out);
        edge.cost.show(&mut out);
        edge.quota.show(&mut out);
        edge.usage.show(&mut out);
        edge.redis.show(&mut out);
        edge.balance.show(&mut out);
        edge.graphql.show(&mut out);
        edge.capnp.show(&mut out);
        edge.websocket.show(&mut out);
        edge.flags.show(&mut out);
        edge.log.show(&mut out);
        edge.signatures.show(&mut out);
        edge.search.show(&mut out);
        edge.events.show(&mut out);
        EdgeShutdown {
            grace: edge.shutdown.grace,
            drain: edge.shutdown.drain,
        }
        .show(&mut out);
        AppListen {
            listen: self.app.listen,
            builtins: self.app.builtins,
        }
        .show(&mut out);
        self.app.http.show(&mut out);
        let shutdown = &self.app.shutdown;
        AppShutdown {
            grace: shutdown.grace,
            drain: shutdown.drain,
        }
        .show(&mut out);
        self.fleet.show(&mut out);
        self.telemetry.show(&mut out);
        for (index, plugin) in self.plugins.iter().enumerate() {
            out.extend(plugin.values(index, &secret));
        }
        out
    }
}

impl Plugin {
    fn values(&self, index: usize, secret: impl Fn(&Secret) -> Json) -> Vec<(String, Json)> {
        let mut values = vec![
            ("order".to_owned(), Json::from(index)),
            ("prefix".to_owned(), Json::from(self.prefix.as_str())),
            ("names".to_owned(), Json::from_iter(self.names.clone())),
            ("trusted".to_owned(), Json::from(self.trusted)),
            (
                "pins".to_owned(),
                Json::from(format!("{:?}", self.pins).to_lowercase()),
            ),
            ("scopes".to_owned(), Json::from(self.scopes.clone())),
            (
                "context".to_owned(),
                Json::from(format!("{:?}", self.context).to_lowercase()),
            ),
            (
                "call_timeout".to_owned(),
                Json::from(quantity::format_duration(self.call_timeout)),
            ),
        ];
        let shown = |path: &Option<PathBuf>| {
            path.as_ref()
                .map_or(Json::Null, |p| p.to_string_lossy().into_owned().into())
        };
        if let Some(signature) = &self.signature {
            let key = Json::from(signature.key.as_str());
            values.push(("signed_by".to_owned(), key));
            values.push(("signed_files".to_owned(), paths(&signature.files)));
        }
        match &self.kind {
            PluginKind::Stdio {
                command,
                args,
                env,
                working_dir,
                instances,
                limits,
                sandbox,
                stderr,
                start_timeout,
            } => {
                values.push(("stderr".to_owned(), Json::from(stderr.as_str())));
                values.extend(instances.values());
                values.extend(limits.values());
                values.push(("sandbox".to_owned(), Json::from(sandbox.is_some())));
                if let Some(sandbox) = sandbox {
                    values.push(("read_paths".to_owned(), paths(&sandbox.read)));
                    values.push(("write_paths".to_owned(), paths(&sandbox.write)));
                    values.push(("network".to_owned(), Json::from(sandbox.network)));
                }
                values.push(("command".to_owned(), Json::from(command.as_str())));
                values.push(("args".to_owned(), Json::from(args.clone())));
                values.push(("working_dir".to_owned(), shown(working_dir)));
                values.push((
                    "start_timeout".to_owned(),
                    Json::from(quantity::format_duration(*start_timeout)),
                ));
                values.extend(
                    env.iter()
                        .map(|(name, value)| (format!("env.{name}"), secret(value))),
                );
            }
            PluginKind::Http {
                url,
                transport,
                credential,
                start_timeout,
                response_limit,
            } => {
                values.push(("url".to_owned(), Json::from(url.as_str())));
                values.push(("transport".to_owned(), Json::from(transport.as_str())));
                values.push((
                    "start_timeout".to_owned(),
                    Json::from(quantity::format_duration(*start_timeout)),
                ));
                values.push((
                    "response_limit".to_owned(),
                    Json::from(quantity::format_size(*response_limit)),
                ));
                values.extend(credential.values(&secret));
            }
            PluginKind::Openapi {
                document,
                url,
                credential,
                operations,
                output_schemas,
                response_limit,
            } => {
                values.push(("document".to_owned(), shown(&Some(document.clone()))));
                values.push(("url".to_owned(), Json::from(url.as_str())));
                values.push(("operations".to_owned(), Json::from(operations.clone())));
                values.push(("output_schemas".to_owned(), Json::from(*output_schemas)));
                values.push((
                    "response_limit".to_owned(),
                    Json::from(quantity::format_size(*response_limit)),
                ));
                values.extend(credential.values(&secret));
            }
            PluginKind::Wasm {
                module,
                digest,
                grants,
                root,
                writable,
                memory_limit,
                fuel,
                allow_hosts,
                calls_max,
                warm,
                response_limit,
            } => {
                let grants: Vec<String> = grants
                    .iter()
                    .map(|grant| format!("{grant:?}").to_lowercase())
                    .collect();
                let size = |bytes: u64| Json::from(quantity::format_size(bytes));
                values.extend([
                    ("module".to_owned(), shown(&Some(module.clone()))),
                    ("digest".to_owned(), Json::from(digest.clone())),
                    ("grants".to_owned(), Json::from(grants)),
                    ("root".to_owned(), shown(root)),
                    ("writable".to_owned(), Json::from(*writable)),
                    ("memory_limit".to_owned(), size(*memory_limit)),
                    ("fuel".to_owned(), Json::from(*fuel)),
                    ("allow_hosts".to_owned(), Json::from(allow_hosts.clone())),
                    ("calls_max".to_owned(), Json::from(*calls_max)),
                    ("warm".to_owned(), Json::from(*warm)),
                    ("response_limit".to_owned(), size(*response_limit)),
                ]);
            }
            PluginKind::Builtin {
                set,
                root,
                path,
                allow_hosts,
            } => {
                values.push((
                    "set".to_owned(),
                    Json::from(format!("{set:?}").to_lowercase()),
                ));
                values.push(("root".to_owned(), shown(root)));
                values.push(("path".to_owned(), shown(path)));
                values.push(("allow_hosts".to_owned(), Json::from(allow_hosts.clone())));
            }
        }
        values
            .into_iter()
            .map(|(key, value)| (format!("plugin.{}.{key}", self.name), value))
            .collect()
    }
}

fn paths(paths: &[PathBuf]) -> Json {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    paths.iter().map(text).collect()
}

impl Instances {
    fn values(&self) -> [(String, Json); 3] {
        [
            ("instances_min".to_owned(), Json::from(self.min)),
            ("instances_max".to_owned(), Json::from(self.max)),
            (
                "instances_idle".to_owned(),
                Json::from(quantity::format_duration(self.idle)),
            ),
        ]
    }
}

impl ChildLimits {
    fn values(&self) -> [(String, Json); 3] {
        let memory = self.memory_bytes.map(quantity::format_size);
        [
            ("child_memory_limit".to_owned(), Json::from(memory)),
            ("child_cpu_limit".to_owned(), Json::from(self.cpus)),
            (
                "child_processes_limit".to_owned(),
                Json::from(self.processes),
            ),
        ]
    }
}

impl Credential {
    fn values(&self, secret: impl Fn(&Secret) -> Json) -> Vec<(String, Json)> {
        let mut values: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (format!("headers.{name}"), secret(value)))
            .collect();
        let path = |path: Option<&PathBuf>| {
            path.map_or(Json::Null, |p| p.to_string_lossy().into_owned().into())
        };
        let mut add = |key: &str, value: Json| values.push((key.to_owned(), value));
        add("token_file", path(self.token_file.as_ref()));
        if let Some(oauth) = &self.oauth {
            add("token_url", Json::from(oauth.token_url.as_str()));
            add("client_id", Json::from(oauth.client_id.as_str()));
            let secret = path(oauth.client_secret_file.as_ref());
            add("client_secret_file", secret);
            add("scope", Json::from(oauth.scope.clone()));
            add("token_audience", Json::from(oauth.audience.clone()));
            add("token_resource", Json::from(oauth.resource.clone()));
        }
        match &self.users {
            Users::Alike => {}
            Users::Stored(file) => {
                add("act_as", Json::from("stored"));
                add("grants_file", path(Some(file)));
            }
            Users::Exchange { key_file, issuer } => {
                add("act_as", Json::from("exchange"));
                add("subject_key_file", path(Some(key_file)));
                add("subject_issuer", Json::from(issuer.as_str()));
            }
        }
        values
    }
}

fn is_edge(key: &str) -> bool {
    key.starts_with("edge.") || key.starts_with("telemetry.") || key == "fleet.zone"
}

fn is_app(key: &str) -> bool {
    key.starts_with("app.")
        || key.starts_with("telemetry.")
        || key.starts_with("plugin.")
        // Older clients that call an app directly have its sessions.
        || key.starts_with("edge.session.")
        || key == "fleet.zone"
}

fn digest(values: impl Iterator<Item = (String, Json)>) -> String {
    let canonical: BTreeMap<String, Json> = values.collect();
    let bytes = serde_json::to_vec(&canonical).unwrap_or_default();
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The keys in which two configurations differ, secrets masked; a secret that differs is shown as such.
#[must_use]
pub fn diff(from: &Settings, to: &Settings) -> Vec<KeyDiff> {
    let (a, b) = (from.canonical(), to.canonical());
    let (shown_a, shown_b) = (from.shown(), to.shown());
    let text = |shown: &BTreeMap<String, Json>, key: &String| shown.get(key).map(Json::to_string);
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter()
        .filter(|key| a.get(*key) != b.get(*key))
        .map(|key| KeyDiff {
            key: key.clone(),
            from: text(&shown_a, key),
            to: text(&shown_b, key),
        })
        .collect()
}

/// Loads a configuration from a text: for tools and tests.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load_str(
    text: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, Errors> {
    load_named("sweetmcp.toml", text, environment)
}

fn load_named(
    name: &str,
    text: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, Errors> {
    let (mut reader, tables) = Reader::new(name, text, environment);
    let edge = edge(&mut reader);
    let app = app(&mut reader);
    let fleet = Fleet::read(&mut reader);
    let telemetry = Telemetry::read(&mut reader);
    let mut plugins = Vec::new();
    for table in tables {
        if let Some(plugin) = reader.within(table, |reader| plugin(reader, &plugins)) {
            plugins.push(plugin);
        }
    }
    let settings = (|| {
        let app = app?;
        if app.builtins {
            add_builtins(&mut plugins);
        }
        Some(Settings {
            edge: edge?,
            app,
            fleet: fleet?,
            telemetry: telemetry?,
            plugins,
        })
    })();
    let origins = std::mem::take(&mut reader.origins);
    let settings = reader.problems.finish(settings)?;
    Ok(Loaded {
        digest: digest(settings.canonical().into_iter()),
        settings,
        origins,
    })
}

fn edge(reader: &mut Reader<'_>) -> Option<Edge> {
    let listen = EdgeListen::read(reader);
    let http = EdgeHttp::read(reader);
    let auth = EdgeAuth::read(reader);
    let session = EdgeSession::read(reader);
    let rate = EdgeRate::read(reader);
    let queue = EdgeQueue::read(reader);
    let concurrency = EdgeConcurrency::read(reader);
    let cost = EdgeCost::read(reader);
    let quota = EdgeQuota::read(reader);
    let usage = EdgeUsage::read(reader);
    let redis = EdgeRedis::read(reader);
    let balance = EdgeBalance::read(reader);
    let graphql = EdgeGraphql::read(reader);
    let capnp = EdgeCapnp::read(reader);
    let websocket = EdgeWebsocket::read(reader);
    let flags = EdgeFlags::read(reader).filter(|flags| are_distinct(reader, flags));
    let log = EdgeLog::read(reader);
    let signatures = EdgeSignatures::read(reader).filter(|own| have_keys(reader, own));
    let search = EdgeSearch::read(reader);
    let events = EdgeEvents::read(reader);
    let shutdown =
        EdgeShutdown::read(reader).map(|EdgeShutdown { grace, drain }| Shutdown { grace, drain });
    let EdgeListen {
        listen,
        admin_listen,
        capnp_listen,
        workers,
        allowed_origins,
    } = listen?;
    Some(Edge {
        listen,
        admin_listen,
        capnp_listen,
        workers,
        allowed_origins,
        http: http?,
        auth: auth?,
        session: session?,
        rate: rate?,
        queue: queue?,
        concurrency: concurrency?,
        cost: cost?,
        quota: quota?,
        usage: usage?,
        redis: redis?,
        balance: balance?,
        graphql: graphql?,
        capnp: capnp?,
        websocket: websocket?,
        flags: flags?,
        log: log?,
        signatures: signatures?,
        search: search?,
        events: events?,
        shutdown: shutdown?,
    })
}

/// Who must sign needs a key that is known.
fn have_keys(reader: &mut Reader<'_>, signatures: &EdgeSignatures) -> bool {
    let nobody = signatures.required_paths.is_empty() && signatures.required_subjects.is_empty();
    let fits = nobody || signatures.keys_file.is_some();
    if !fits {
        let write = "keys_file = \"/etc/sweetmcp/signing-keys.json\"".to_owned();
        let allowed = "a file of keys, since some must sign";
        reader.table_problem("edge.signatures.keys_file", "nothing", allowed, Some(write));
    }
    fits
}

/// A flag sticks to one thing.
fn are_distinct(reader: &mut Reader<'_>, flags: &EdgeFlags) -> bool {
    let by = [
        ("edge.flags.by_tenant", &flags.by_tenant),
        ("edge.flags.by_subject", &flags.by_subject),
        ("edge.flags.by_session", &flags.by_session),
    ];
    let mut seen = BTreeMap::new();
    for (key, names) in by {
        for name in names.keys() {
            if let Some(other) = seen.insert(name, key) {
                let found = format!("{name}, which {other} has too");
                reader.table_problem(key, &found, "each flag in one of the three", None);
                return false;
            }
        }
    }
    true
}

fn app(reader: &mut Reader<'_>) -> Option<App> {
    let listen = AppListen::read(reader);
    let http = AppHttp::read(reader);
    let shutdown =
        AppShutdown::read(reader).map(|AppShutdown { grace, drain }| Shutdown { grace, drain });
    let AppListen { listen, builtins } = listen?;
    Some(App {
        listen,
        builtins,
        http: http?,
        shutdown: shutdown?,
    })
}

/// Reads one plugin's table; its kind decides which keys it needs and which it may not have.
fn plugin(reader: &mut Reader<'_>, others: &[Plugin]) -> Option<Plugin> {
    let mut keys = PluginKeys::read(reader)?;
    if others.iter().any(|other| other.name == keys.name) {
        reader.table_problem(
            "plugin.name",
            "a name that another plugin has",
            "a name of its own",
            None,
        );
        return None;
    }
    let needed = |reader: &mut Reader<'_>, key: &str, allowed: &str, write: &str| {
        reader.table_problem(key, "nothing", allowed, Some(write.to_owned()));
    };
    for (key, url) in [
        ("plugin.url", &keys.url),
        ("plugin.token_url", &keys.token_url),
    ] {
        if let Some(url) = url
            && !["http://", "https://"]
                .iter()
                .any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
        {
            let allowed = "an http or https URL with a host";
            reader.table_problem(key, &problem::quote(url), allowed, None);
            return None;
        }
    }
    let credential = credential(reader, &mut keys)?;
    let signature = signature(reader, &mut keys)?;
    let kind = match keys.kind {
        Kind::Stdio => {
            let Some(command) = keys.command else {
                needed(
                    reader,
                    "plugin.command",
                    "the program that speaks MCP",
                    "command = \"npx\"",
                );
                return None;
            };
            let instances = Instances {
                min: keys.instances_min,
                max: keys.instances_max.unwrap_or(keys.instances_min),
                idle: keys.instances_idle,
            };
            if instances.max < instances.min {
                let found = instances.max.to_string();
                let allowed = format!("at least instances_min, {}", instances.min);
                let write = format!("instances_max = {}", instances.min);
                reader.table_problem("plugin.instances_max", &found, &allowed, Some(write));
                return None;
            }
            let sandbox = Sandbox {
                read: keys.read_paths,
                write: keys.write_paths,
                network: keys.network,
            };
            if !keys.sandbox && sandbox != Sandbox::default() {
                let allowed = "true, for read_paths, write_paths and network say what is let through its walls";
                needed(reader, "plugin.sandbox", allowed, "sandbox = true");
                return None;
            }
            PluginKind::Stdio {
                command,
                args: keys.args,
                env: keys.env,
                working_dir: keys.working_dir,
                instances,
                limits: ChildLimits {
                    memory_bytes: keys.child_memory_limit,
                    cpus: keys.child_cpu_limit,
                    processes: keys.child_processes_limit,
                },
                sandbox: keys.sandbox.then_some(sandbox),
                stderr: keys.stderr,
                start_timeout: keys.start_timeout,
            }
        }
        Kind::Http => {
            let Some(url) = keys.url else {
                let write = "url = \"https://mcp.example/mcp\"";
                needed(reader, "plugin.url", "the server's MCP endpoint", write);
                return None;
            };
            PluginKind::Http {
                url,
                transport: keys.transport,
                credential,
                start_timeout: keys.start_timeout,
                response_limit: keys.response_limit,
            }
        }
        Kind::Openapi => {
            if keys.document.is_none() {
                let allowed = "the path of an OpenAPI 3.0 or 3.1 document";
                let write = "document = \"/etc/sweetmcp/api.yaml\"";
                needed(reader, "plugin.document", allowed, write);
            }
            if keys.url.is_none() {
                let allowed = "the API's base URL; the document's own `servers` are not used";
                let write = "url = \"https://api.example/v1\"";
                needed(reader, "plugin.url", allowed, write);
            }
            PluginKind::Openapi {
                document: keys.document?,
                url: keys.url?,
                credential,
                operations: keys.operations,
                output_schemas: keys.output_schemas,
                response_limit: keys.response_limit,
            }
        }
        Kind::Wasm => {
            let Some(module) = keys.module else {
                let allowed = "the file of a component of the world sweetmcp:plugin";
                needed(reader, "plugin.module", allowed, "module = \"plugin.wasm\"");
                return None;
            };
            PluginKind::Wasm {
                module,
                digest: keys.digest,
                grants: keys.grants,
                root: keys.root,
                writable: keys.writable,
                memory_limit: keys.memory_limit,
                fuel: keys.fuel,
                allow_hosts: keys.allow_hosts,
                calls_max: keys.calls_max,
                warm: keys.warm,
                response_limit: keys.response_limit,
            }
        }
        Kind::Builtin => {
            let Some(set) = keys.set else {
                let allowed = "one of time, text, json, hash, sqlite, files, http, conformance";
                needed(reader, "plugin.set", allowed, "set = \"time\"");
                return None;
            };
            PluginKind::Builtin {
                set,
                root: keys.root,
                path: keys.path,
                allow_hosts: keys.allow_hosts,
            }
        }
    };
    // The conformance suite calls its fixtures by their own names.
    let bare = matches!(
        kind,
        PluginKind::Builtin {
            set: BuiltinSet::Conformance,
            ..
        }
    );
    let prefix = || match bare {
        true => String::new(),
        false => format!("{}_", keys.name),
    };
    Some(Plugin {
        prefix: keys.prefix.unwrap_or_else(prefix),
        names: keys.names,
        signature,
        name: keys.name,
        // What an operation does follows from its method.
        trusted: keys.trusted || matches!(keys.kind, Kind::Builtin | Kind::Openapi),
        pins: keys.pins,
        context: keys.context.unwrap_or(match keys.kind {
            Kind::Http | Kind::Openapi => Telling::Request,
            Kind::Stdio | Kind::Wasm | Kind::Builtin => Telling::Caller,
        }),
        scopes: keys.scopes,
        call_timeout: keys.call_timeout,
        kind,
    })
}

/// Reads whose signature a plugin's files must have.
#[expect(clippy::option_option, reason = "no signature, or a mistake")]
fn signature(reader: &mut Reader<'_>, keys: &mut PluginKeys) -> Option<Option<Signature>> {
    let files = std::mem::take(&mut keys.signed_files);
    let Some(key) = keys.signed_by.take() else {
        if files.is_empty() {
            return Some(None);
        }
        let allowed = "the public key whose signature the files must have";
        let write = "signed_by = \"RW…\"".to_owned();
        reader.table_problem("plugin.signed_by", "nothing", allowed, Some(write));
        return None;
    };
    if !matches!(keys.kind, Kind::Stdio | Kind::Wasm) {
        let allowed = "no key: only the files of stdio and wasm plugins are signed";
        reader.table_problem("plugin.signed_by", "a key", allowed, None);
        return None;
    }
    Some(Some(Signature { key, files }))
}

/// Reads how a plugin's requests prove who sends them.
fn credential(reader: &mut Reader<'_>, keys: &mut PluginKeys) -> Option<Credential> {
    let mut needed = |key: &str, allowed: &str, write: &str| {
        reader.table_problem(key, "nothing", allowed, Some(write.to_owned()));
    };
    if keys.token_url.is_some() && keys.client_id.is_none() {
        let allowed = "the name under which token_url knows this plugin";
        needed("plugin.client_id", allowed, "client_id = \"sweetmcp\"");
        return None;
    }
    if keys.act_as == ActAs::Exchange && keys.token_url.is_none() {
        let allowed = "the token endpoint at which users' tokens are got";
        let write = "token_url = \"https://login.example/token\"";
        needed("plugin.token_url", allowed, write);
        return None;
    }
    let users = match keys.act_as {
        ActAs::Service => Users::Alike,
        ActAs::Stored => {
            let Some(file) = keys.grants_file.take() else {
                let write = "grants_file = \"/run/secrets/grants.json\"";
                needed("plugin.grants_file", "the file of users' tokens", write);
                return None;
            };
            Users::Stored(file)
        }
        ActAs::Exchange => {
            let Some(key_file) = keys.subject_key_file.take() else {
                let allowed = "the private key that says at token_url who the user is";
                let write = "subject_key_file = \"/run/secrets/subject.pem\"";
                needed("plugin.subject_key_file", allowed, write);
                return None;
            };
            let issuer = std::mem::take(&mut keys.subject_issuer);
            Users::Exchange { key_file, issuer }
        }
    };
    let oauth = keys
        .token_url
        .take()
        .zip(keys.client_id.take())
        .map(|(token_url, client_id)| OauthClient {
            token_url,
            client_id,
            client_secret_file: keys.client_secret_file.take(),
            scope: keys.scope.take(),
            audience: keys.token_audience.take(),
            resource: keys.token_resource.take(),
        });
    Some(Credential {
        headers: std::mem::take(&mut keys.headers),
        token_file: keys.token_file.take(),
        oauth,
        users,
    })
}

/// The sets that need nothing to be configured, unless a plugin has their name already.
fn add_builtins(plugins: &mut Vec<Plugin>) {
    for (name, set) in [
        ("time", BuiltinSet::Time),
        ("text", BuiltinSet::Text),
        ("json", BuiltinSet::Json),
        ("hash", BuiltinSet::Hash),
        ("sqlite", BuiltinSet::Sqlite),
        ("files", BuiltinSet::Files),
    ] {
        if plugins.iter().all(|plugin| plugin.name != name) {
            plugins.push(Plugin {
                name: name.to_owned(),
                prefix: format!("{name}_"),
                names: BTreeMap::new(),
                signature: None,
                trusted: true,
                pins: Pinning::Off,
                context: Telling::Caller,
                scopes: Vec::new(),
                call_timeout: std::time::Duration::from_secs(30),
                kind: PluginKind::Builtin {
                    set,
                    root: None,
                    path: None,
                    allow_hosts: Vec::new(),
                },
            });
        }
    }
}

#[cfg(test)]
mod tests;
