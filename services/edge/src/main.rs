//! `sweetmcp-edge`: the gateway process.
//!
//! It takes MCP of every revision, plain JSON-RPC, GraphQL and Cap'n Proto from clients, knows who calls and
//! what they may do, and sends each call to an app. Start with [`gateway`], which names the stages of a
//! request in order.

mod admin;
mod admission;
mod bridge;
mod catalogue;
mod context;
mod counters;
mod edge;
mod egress;
mod events;
mod exchange;
mod fleet;
mod gaps;
mod gateway;
mod identity;
mod ingress;
mod ledger;
mod life;
mod listen;
mod lists;
mod metrics;
mod record;
mod room;
mod route;
mod server;
mod shared;
mod stream;
mod tools;
mod transport;
mod usage;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use registry::{Instance, Registration, Role};
use store::Store;
use telemetry::TelemetryOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::edge::{Edge, Name};
use crate::ledger::Ledger;
use crate::listen::Sockets;
use crate::server::{Front, Port};
use crate::shared::Shared;

/// Gateway of a SweetMCP fleet.
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
    #[arg(long, default_value = "edge-1")]
    name: String,
    /// Release that this instance belongs to
    #[arg(long, default_value = "unreleased")]
    release: String,
}

/// The exit status by which the supervisor knows that starting this again will not help.
const REFUSED: u8 = 2;

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let loaded = match settings::Settings::load(args.config.as_deref(), std::env::vars()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            // There is no log yet, and nobody to tell if this stream is gone.
            let _ = writeln!(std::io::stderr(), "{errors}");
            return Ok(ExitCode::from(REFUSED));
        }
    };
    let edge_digest = loaded.settings.edge_digest();
    let settings = loaded.settings.with_state_folder(&args.state);
    let options = TelemetryOptions {
        service: "sweetmcp-edge",
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
    };
    let guard = telemetry::start(&options).context("cannot start telemetry")?;
    let name = Name {
        instance: args.name,
        release: args.release,
        config_digest: edge_digest,
        started_unix_ms: registry::unix_ms(),
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if settings.edge.workers > 0 {
        runtime.worker_threads(settings.edge.workers);
    }
    let runtime = runtime.enable_all().build()?;
    let ended = runtime.block_on(run(args.state, name, settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    guard.shutdown();
    ended.map(|()| ExitCode::SUCCESS)
}

/// How long clients wait for an edge that starts to know its fleet.
const KNOWS_WITHIN: Duration = Duration::from_secs(2);

/// From start to drain.
async fn run(state: PathBuf, name: Name, settings: settings::Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    listen::raise_descriptor_limit();
    let sockets = Sockets::open(&settings.edge)?;
    let sample_ratio = settings.telemetry.sample_ratio;
    let edge = Arc::new(Edge::new(name, settings.edge.clone(), sample_ratio)?);
    edge.watch_runtime(&tokio::runtime::Handle::current(), "main");
    let store = Store::open_sqlite(&state.join("store.db"))
        .await
        .context("cannot open the store")?;
    if edge.settings.usage.keep || edge.has_quotas() {
        let now = registry::unix_ms() / 1000;
        let ledger = Ledger::open(&state, &edge.name.instance, &edge.settings, now)
            .context("cannot open the account of calls")?;
        tokio::spawn(Arc::clone(&ledger).follow());
        let _ = edge.ledger.set(ledger);
    }
    let share = edge.settings.redis.share.unwrap_or(settings.fleet.edges);
    if let Some(shared) = Shared::start(&edge.settings, share)? {
        let _ = edge.shared.set(shared);
    }
    let _ = edge.legacy.set(ingress::host(&edge, store.clone()));
    let _ = edge.sockets.set(ingress::Sockets::new(&edge));

    let instance = describe(&edge, &sockets, &settings)?;
    tracing::info!(
        http = instance.address,
        admin = instance.admin,
        capnp = instance.capnp,
        "listening"
    );
    // Follow what changes: keys, fleet, catalogue.
    if let Some(jwks) = edge.settings.auth.jwks_file.clone() {
        tokio::spawn(Arc::clone(&edge.identity).follow(jwks));
    }
    let follower = fleet::Follower::start(Arc::clone(&edge), &store);
    tokio::spawn(catalogue::follow(Arc::clone(&edge)));
    tokio::spawn(events::follow(Arc::clone(&edge)));

    // Serve. Probes answer from here on; readiness comes with the first view of the fleet.
    let (stop, stopped) = watch::channel(false);
    let front = |port| Front::new(&edge, port);
    // Never stopped: operators can watch to the end.
    let (_admin_stop, admin_stopped) = watch::channel(false);
    listen::serve("admin", sockets.admin, front(Port::Admin), admin_stopped)?;
    // Clients' sockets are shared by all edges: who does not know the fleet yet leaves their connections to the others,
    // or in the queue. Without a fleet to know, clients are told so.
    let _ = tokio::time::timeout(KNOWS_WITHIN, fleet::synced(&edge)).await;
    let http = listen::serve("http", sockets.http, front(Port::Public), stopped.clone())?;
    let capnp = ingress::capnp::serve(Arc::clone(&edge), sockets.capnp, stopped)?;

    let registration = tokio::select! {
        () = fleet::synced(&edge) => {
            let registration = Registration::start(store, instance)?;
            registration.registered().await;
            edge.life.set_ready();
            tracing::info!("ready");
            Some(follower.acknowledge_through(registration))
        }
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    if registration.is_some() {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }

    // Drain: be seen to leave, let others take over, end what is under way.
    let shutdown = edge.settings.shutdown;
    edge.life.drain();
    tracing::info!(in_flight = edge.life.in_flight(), "draining");
    stop.send_replace(true);
    let _ = http.await;
    if let Some(registration) = registration {
        registration.stop().await;
    }
    tokio::time::sleep(shutdown.grace).await;
    if !edge.life.wait_idle(shutdown.drain).await {
        tracing::warn!(
            in_flight = edge.life.in_flight(),
            "cut off after the drain time"
        );
    }
    capnp.finish();
    if let Some(ledger) = edge.ledger.get() {
        ledger.close();
    }
    tracing::info!("stopped");
    Ok(())
}

/// What this instance says of itself to the fleet.
fn describe(
    edge: &Edge,
    sockets: &Sockets,
    settings: &settings::Settings,
) -> anyhow::Result<Instance> {
    let mut instance = Instance::new(
        Role::Edge,
        edge.name.instance.clone(),
        edge.name.release.clone(),
        sockets.http.local_addr()?.to_string(),
    );
    instance.admin = Some(sockets.admin.local_addr()?.to_string());
    instance.capnp = Some(sockets.capnp.local_addr()?.to_string());
    instance.zone = settings.fleet.zone.clone();
    instance.started_unix_ms = edge.name.started_unix_ms;
    instance.config_digest.clone_from(&edge.name.config_digest);
    instance.binary_digest = usage::binary_digest()?;
    Ok(instance)
}
