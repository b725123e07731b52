//! `sweetmcp-app`: the process that holds the MCP servers.
//!
//! Start-up in order: settings, log, store, plugins, socket, then the registration that brings traffic. The
//! end is the same backwards: the registration goes first, so that edges stop sending before anything stops
//! answering.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use app::life::Life;
use app::metrics::AppMetrics;
use app::plugin::Telling;
use app::plugin::builtin::Set;
use app::plugin::credential::{Credential, OauthSpec, Users, oauth::SubjectSpec};
use app::plugin::http::{HttpSpec, Transport};
use app::plugin::mounts::{Kind, Mounts, Spec};
use app::plugin::openapi::OpenapiSpec;
use app::plugin::pins::{OnChange, PinSpec};
use app::plugin::signature::SignedBy;
use app::plugin::stdio::{
    self, Instances, StdioSpec, guard, process::Program, sandbox::Sandbox, stderr::Stderr,
};
use app::plugin::wasm::WasmSpec;
use app::plugin::{State, catalogue};
use app::server::listen::{self, Listening};
use app::server::{Fleet, Limits, Server, Sessions};
use aws_lc_rs::digest::{SHA256, digest};
use clap::Parser;
use registry::{Instance, Load, PluginPhase, PluginState, Registration, Role};
use settings::{BuiltinSet, PluginKind, Settings};
use store::Store;
use telemetry::{Metrics, TelemetryOptions, Watchdog};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A runtime that runs no task for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// How often the load is told.
const LOAD_EVERY: Duration = Duration::from_secs(3);
/// Longest wait for plugins before the rest is served without those that still start.
const PLUGINS_PATIENCE: Duration = Duration::from_secs(30);

/// MCP server of a SweetMCP fleet.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Configuration file of the fleet
    #[arg(long)]
    config: Option<PathBuf>,
    /// State folder of the fleet
    #[arg(long)]
    state: PathBuf,
    /// Name of this instance, unique in the fleet
    #[arg(long, default_value = "app-1")]
    name: String,
    /// Release that this instance belongs to
    #[arg(long, default_value = "unreleased")]
    release: String,
}

/// This binary, also after another took its place.
const OWN_FILE: &str = "/proc/self/exe";
/// The exit status by which the supervisor knows that starting this again will not help.
const REFUSED: u8 = 2;

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == guard::ARGUMENT)
    {
        return Ok(guard::run());
    }
    let args = Args::parse();
    let loaded = match Settings::load(args.config.as_deref(), std::env::vars()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            // There is no log yet, and nobody to tell if this stream is gone.
            let _ = writeln!(std::io::stderr(), "{errors}");
            return Ok(ExitCode::from(REFUSED));
        }
    };
    let config_digest = loaded.settings.app_digest();
    let settings = loaded.settings.with_state_folder(&args.state);
    let guard = telemetry::start(&TelemetryOptions {
        service: "sweetmcp-app",
        instance: args.name.clone(),
        release: args.release.clone(),
        log_format: match settings.telemetry.log_format {
            settings::LogFormat::Auto => telemetry::LogFormat::Auto,
            settings::LogFormat::Json => telemetry::LogFormat::Json,
            settings::LogFormat::Pretty => telemetry::LogFormat::Pretty,
        },
        log_filter: settings.telemetry.log_filter.clone(),
        otlp_endpoint: settings.telemetry.otlp_endpoint.clone(),
        sample_ratio: settings.telemetry.sample_ratio,
    })
    .context("cannot start telemetry")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(run(&args, &settings, config_digest));
    runtime.shutdown_timeout(Duration::from_secs(1));
    guard.shutdown();
    ended.map(|()| ExitCode::SUCCESS)
}

/// From start to drain.
async fn run(args: &Args, settings: &Settings, config_digest: String) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let life = Life::default();
    let all = Metrics::new("sweetmcp-app", env!("CARGO_PKG_VERSION"), &args.release)?;
    let watchdog = Watchdog::start(STUCK_AFTER, &all).context("watchdog")?;
    watchdog.watch(&tokio::runtime::Handle::current(), "main");
    let store = Store::open_sqlite(&args.state.join("store.db"))
        .await
        .context("cannot open the store")?;

    let mounts = Mounts::start_pinned(specs(settings, &args.state), pins(settings, &args.state))
        .context("cannot start the plugins")?;
    let metrics = AppMetrics::new(all).context("cannot register metrics")?;
    let server = Server::new(
        Arc::clone(&mounts),
        metrics,
        life.clone(),
        watchdog,
        limits(settings),
        Fleet {
            release: &args.release,
            instance: &args.name,
            sessions: sessions(settings, &args.state, &store)?,
        },
    );
    listen::raise_descriptor_limit();
    let listener = TcpListener::bind(settings.app.listen)
        .await
        .with_context(|| format!("cannot listen on {} (app.listen)", settings.app.listen))?;
    let address = listener.local_addr()?.to_string();
    let listening = Listening::start(listener, server.clone());
    tracing::info!(address, "listening");

    let mut instance = Instance::new(Role::App, args.name.clone(), args.release.clone(), address);
    instance.config_digest = config_digest;
    instance.binary_digest = binary_digest()?;
    instance.zone.clone_from(&settings.fleet.zone);
    let registration = tokio::select! {
        registration = register(&life, &mounts, &server, store, instance) => Some(registration?),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    if let Some(registration) = registration {
        tokio::select! {
            () = tell(&registration, &mounts, &server) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        life.drain();
        registration.stop().await;
        // Edges see within moments that this instance has gone; until then it serves on.
        tokio::time::sleep(settings.app.shutdown.grace).await;
    }
    life.drain();
    tracing::info!(in_flight = server.in_flight(), "draining");
    let cut = listening.drain(settings.app.shutdown.drain).await;
    if cut > 0 {
        tracing::warn!(connections = cut, "cut off after the drain time");
    }
    mounts.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Waits for the plugins, then takes this instance's place in the fleet.
async fn register(
    life: &Life,
    mounts: &Arc<Mounts>,
    server: &Server,
    store: Store,
    mut instance: Instance,
) -> anyhow::Result<Registration> {
    let starting = mounts.starting();
    life.waiting_for(
        starting
            .iter()
            .map(|name| format!("plugin {name}"))
            .collect(),
    );
    for name in mounts.settled(PLUGINS_PATIENCE).await {
        tracing::warn!(plugin = &*name, "not up yet; the rest is served without it");
    }
    describe(&mut instance, mounts, server);
    life.waiting_for(vec!["registration".to_owned()]);
    let registration = Registration::start(store, instance)?;
    registration.registered().await;
    life.ready();
    tracing::info!(
        tools = mounts.catalogue().len(catalogue::List::Tools),
        "ready"
    );
    Ok(registration)
}

/// Keeps what the fleet knows of this instance current: its plugins at once, its load now and then.
async fn tell(registration: &Registration, mounts: &Arc<Mounts>, server: &Server) {
    let mut changes = mounts.changes();
    let mut ticks = tokio::time::interval(LOAD_EVERY);
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
        }
        registration.update(|instance| describe(instance, mounts, server));
    }
}

fn describe(instance: &mut Instance, mounts: &Mounts, server: &Server) {
    let catalogue = mounts.catalogue();
    instance.catalogue_digest = Some(catalogue.digest().to_owned());
    let described = mounts
        .mounted()
        .iter()
        .enumerate()
        .map(|(index, one)| PluginState {
            name: one.name.to_string(),
            kind: one.plugin.kind().to_owned(),
            state: match one.plugin.state() {
                State::Starting => PluginPhase::Starting,
                State::Ready => PluginPhase::Ready,
                State::Restarting { .. } => PluginPhase::Failed,
                State::Stopped => PluginPhase::Stopped,
            },
            tools: catalogue.tools_of(index).map(str::to_owned).collect(),
            scopes: one.scopes.clone(),
            param_headers: catalogue
                .mirrors_of(index)
                .map(|(tool, mirrors)| {
                    let pairs = mirrors.iter();
                    let pairs = pairs.map(|mirror| (mirror.header.clone(), mirror.path.clone()));
                    (tool.to_owned(), pairs.collect())
                })
                .collect(),
            trusted: one.trusted,
        });
    instance.plugins = described.collect();
    instance.load = Some(Load {
        in_flight: server.in_flight(),
        connections: server.connections(),
        ..instance.load.unwrap_or_default()
    });
}

/// What the sessions of older clients stand on. The fleet's key is made if nobody has made it yet.
fn sessions(settings: &Settings, state: &Path, store: &Store) -> anyhow::Result<Sessions> {
    let session = &settings.edge.session;
    let own = state.join("keys").join("session.key");
    if session.key_files.contains(&own) {
        legacy::keys::ensure(&own)?;
    }
    Ok(Sessions {
        keys: legacy::keys::read(&session.key_files)?,
        shared: Arc::new(legacy::Records::new(store.clone())),
        life: session.ttl,
    })
}

fn limits(settings: &Settings) -> Limits {
    let http = &settings.app.http;
    Limits {
        body_bytes: usize::try_from(http.body_limit).unwrap_or(usize::MAX),
        request: http.request_timeout,
        header: http.header_timeout,
        ..Limits::default()
    }
}

/// The plugins of the settings, in their order.
fn specs(settings: &Settings, state: &Path) -> Vec<Spec> {
    settings
        .plugins
        .iter()
        .map(|plugin| Spec {
            name: plugin.name.clone(),
            prefix: plugin.prefix.clone(),
            names: plugin.names.clone(),
            scopes: plugin.scopes.clone(),
            telling: match plugin.context {
                settings::Telling::Request => Telling::Request,
                settings::Telling::Caller => Telling::Caller,
            },
            trusted: plugin.trusted,
            kind: kind(plugin, state),
        })
        .collect()
}

/// The plugins that are held to their first definitions.
fn pins(settings: &Settings, state: &Path) -> BTreeMap<String, PinSpec> {
    let pinned = settings.plugins.iter().filter_map(|plugin| {
        let on_change = match plugin.pins {
            settings::Pinning::Off => return None,
            settings::Pinning::Report => OnChange::Report,
            settings::Pinning::Refuse => OnChange::Refuse,
        };
        let file = state.join("pins").join(format!("{}.json", plugin.name));
        Some((plugin.name.clone(), PinSpec { file, on_change }))
    });
    pinned.collect()
}

fn kind(plugin: &settings::Plugin, state: &Path) -> Kind {
    match &plugin.kind {
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
            let env: BTreeMap<String, String> = env
                .iter()
                .map(|(name, value)| (name.clone(), value.expose().to_owned()))
                .collect();
            Kind::Stdio(StdioSpec {
                program: Program {
                    command: command.clone(),
                    args: args.clone(),
                    env,
                    working_dir: working_dir.clone(),
                    sandbox: sandbox.as_ref().map(|sandbox| Sandbox {
                        read: sandbox.read.clone(),
                        write: sandbox.write.clone(),
                        network: sandbox.network,
                    }),
                    guard: PathBuf::from(OWN_FILE),
                },
                instances: Instances {
                    min: instances.min,
                    max: instances.max,
                    idle: instances.idle,
                },
                limits: stdio::limits::Limits {
                    memory_bytes: limits.memory_bytes,
                    cpus: limits.cpus,
                    processes: limits.processes,
                },
                stderr: match stderr {
                    settings::Stderr::Log => Stderr::Log,
                    settings::Stderr::Drop => Stderr::Drop,
                },
                signed_by: signed_by(plugin),
                start_timeout: *start_timeout,
                call_timeout: plugin.call_timeout,
            })
        }
        PluginKind::Http {
            url,
            transport,
            credential,
            start_timeout,
            response_limit,
        } => Kind::Http(HttpSpec {
            url: url.clone(),
            transport: match transport {
                settings::Transport::Auto => Transport::Auto,
                settings::Transport::Streamable => Transport::Streamable,
                settings::Transport::Sse => Transport::Sse,
            },
            credential: exposed(credential),
            start_timeout: *start_timeout,
            call_timeout: plugin.call_timeout,
            answer_bytes_max: usize::try_from(*response_limit).unwrap_or(usize::MAX),
        }),
        PluginKind::Openapi {
            document,
            url,
            credential,
            operations,
            output_schemas,
            response_limit,
        } => Kind::Openapi(OpenapiSpec {
            document: document.clone(),
            url: url.clone(),
            credential: exposed(credential),
            options: openapi::Options {
                operations: operations.clone(),
                name_bytes_max: catalogue::NAME_BYTES_MAX - plugin.prefix.len(),
                output_schemas: *output_schemas,
            },
            response_bytes_max: usize::try_from(*response_limit).unwrap_or(usize::MAX),
            call_timeout: plugin.call_timeout,
        }),
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
        } => Kind::Wasm(WasmSpec {
            module: module.clone(),
            digest: digest.clone(),
            signed_by: signed_by(plugin),
            limits: wasm::Limits {
                memory_bytes: usize::try_from(*memory_limit).unwrap_or(usize::MAX),
                answer_bytes: usize::try_from(*response_limit).unwrap_or(usize::MAX),
                calls: *calls_max,
                warm: *warm,
                fuel: *fuel,
            },
            grants: wasm::Grants {
                clock: grants.contains(&settings::Grant::Clock),
                random: grants.contains(&settings::Grant::Random),
                folder: root.clone().map(|path| wasm::Folder {
                    path,
                    rights: if *writable {
                        wasm::Rights::ReadWrite
                    } else {
                        wasm::Rights::Read
                    },
                }),
                web: None,
            },
            allow_hosts: allow_hosts.clone(),
            cache: Some(state.join("components")),
            call_timeout: plugin.call_timeout,
        }),
        PluginKind::Builtin {
            set,
            root,
            path,
            allow_hosts,
        } => Kind::Builtin(match set {
            BuiltinSet::Conformance => return Kind::Conformance,
            BuiltinSet::Time => Set::Time,
            BuiltinSet::Text => Set::Text,
            BuiltinSet::Json => Set::Json,
            BuiltinSet::Hash => Set::Hash,
            BuiltinSet::Sqlite => Set::Sqlite { path: path.clone() },
            BuiltinSet::Files => Set::Files {
                root: root.clone().unwrap_or_else(|| state.join("files")),
            },
            BuiltinSet::Http => Set::Http {
                allow_hosts: allow_hosts.clone(),
            },
        }),
    }
}

fn signed_by(plugin: &settings::Plugin) -> Option<SignedBy> {
    plugin.signature.as_ref().map(|signature| SignedBy {
        key: signature.key.clone(),
        files: signature.files.clone(),
    })
}

fn exposed(credential: &settings::Credential) -> Credential {
    Credential {
        headers: credential
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), value.expose().to_owned()))
            .collect(),
        token_file: credential.token_file.clone(),
        oauth: credential.oauth.as_ref().map(|oauth| OauthSpec {
            token_url: oauth.token_url.clone(),
            client_id: oauth.client_id.clone(),
            client_secret_file: oauth.client_secret_file.clone(),
            scope: oauth.scope.clone(),
            audience: oauth.audience.clone(),
            resource: oauth.resource.clone(),
        }),
        users: match &credential.users {
            settings::Users::Alike => Users::Alike,
            settings::Users::Stored(file) => Users::Stored(file.clone()),
            settings::Users::Exchange { key_file, issuer } => Users::Exchange(SubjectSpec {
                key_file: key_file.clone(),
                issuer: issuer.clone(),
            }),
        },
    }
}

/// SHA-256 of the running binary, in hexadecimal: what a release says must run.
fn binary_digest() -> anyhow::Result<String> {
    let binary = std::fs::read(OWN_FILE).context("cannot read this binary")?;
    Ok(digest(&SHA256, &binary)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
