//! HTTP to calls, and back.
//!
//! - [`router`]: the routes, and the one list of layers around them
//! - the layers in their order: [`identify`], [`record`], [`catch`], [`admit`], [`limit`], [`collect`]
//! - [`intake`]: head and body to a request of 2026-07-28, or the reason why not (pure)
//! - [`entry`]: whose request it is: one of 2026-07-28, or of an older revision
//! - [`older`]: clients of the older era, over the same answers
//! - [`answer`]: a request to its answer; [`rounds`] when it takes several, with [`lot`] and [`seal`];
//!   [`tasks`] when it outlives its request
//! - [`stream`]: the answer's form, JSON or server-sent events; [`changes`]: streams without an end
//! - [`health`]: probes and metrics
//! - [`listen`]: connections, and their drain; [`endless`]: one connection, until a stream without an end takes it over

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
    response::Response,
    routing::{get, post},
};
use mcp::{Cause, Failure};
use telemetry::{Watchdog, trace::TraceContext};
use tokio::sync::Semaphore;
use tower::ServiceBuilder;

use crate::{life::Life, metrics::AppMetrics, plugin::mounts::Mounts};

mod admit;
mod answer;
mod catch;
mod changes;
mod collect;
mod endless;
mod entry;
mod health;
mod identify;
pub mod intake;
mod limit;
pub mod listen;
mod lot;
mod older;
mod record;
mod rounds;
mod seal;
mod story;
pub mod stream;
mod tasks;

pub use older::Sessions;
pub(crate) use story::Story;

/// Bounds of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body_bytes: usize,
    /// How long a request may take from its head to its answer.
    pub request: Duration,
    /// How long a head may take to come; also how long a connection may be idle.
    pub header: Duration,
    /// How many requests are worked on at once; further ones are refused.
    pub in_flight: usize,
    /// How much memory the bodies of all requests may hold, in bytes.
    pub buffer_bytes: usize,
    /// How many clients listen for changes at once; further ones are refused.
    pub listeners: usize,
    /// How many calls wait for their clients' answers at once.
    pub parked: usize,
    /// How many of them may be one caller's.
    pub parked_each: usize,
    /// How long a call waits for its client's answers.
    pub parked_for: Duration,
    /// And how long while it is in the way of others: its server takes one call at a time.
    pub parked_in_the_way_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 10 << 20,
            request: Duration::from_secs(30),
            header: Duration::from_secs(10),
            in_flight: 1024,
            buffer_bytes: 256 << 20,
            listeners: 16_384,
            parked: 1024,
            parked_each: 64,
            parked_for: Duration::from_secs(300),
            parked_in_the_way_for: Duration::from_secs(30),
        }
    }
}

/// This process in its fleet.
#[derive(Debug)]
pub struct Fleet<'a> {
    /// The release that it belongs to.
    pub release: &'a str,
    /// Its name.
    pub instance: &'a str,
    /// What the fleet keeps for older clients.
    pub sessions: Sessions,
}

/// Everything that answering a request takes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server(Arc<Parts>);

/// What a [`Server`] is made of.
#[derive(Debug)]
pub struct Parts {
    pub(crate) mounts: Arc<Mounts>,
    pub(crate) metrics: AppMetrics,
    pub(crate) life: Life,
    pub(crate) watchdog: Watchdog,
    pub(crate) limits: Limits,
    /// The release, for `Sweetmcp-Release`.
    pub(crate) release: String,
    /// Room for requests.
    pub(crate) places: Arc<Semaphore>,
    /// Room for bodies, in units of [`collect::UNIT_BYTES`].
    pub(crate) buffer: Arc<Semaphore>,
    /// Room for those who listen for changes.
    pub(crate) listeners: Arc<Semaphore>,
    /// Calls that wait for their clients' answers.
    pub(crate) lot: Arc<lot::Lot>,
    /// Seals what clients bring back.
    pub(crate) sealer: seal::Sealer,
    /// What the sessions of older clients stand on.
    pub(crate) sessions: Sessions,
}

impl std::ops::Deref for Server {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Server {
    /// Puts the parts together.
    pub fn new(
        mounts: Arc<Mounts>,
        metrics: AppMetrics,
        life: Life,
        watchdog: Watchdog,
        limits: Limits,
        fleet: Fleet<'_>,
    ) -> Self {
        Self(Arc::new(Parts {
            mounts,
            metrics,
            life,
            watchdog,
            limits,
            release: fleet.release.to_owned(),
            places: Arc::new(Semaphore::new(limits.in_flight)),
            buffer: Arc::new(Semaphore::new(limits.buffer_bytes / collect::UNIT_BYTES)),
            listeners: Arc::new(Semaphore::new(limits.listeners)),
            lot: lot::Lot::new(&limits),
            sealer: seal::Sealer::new(fleet.instance, fleet.sessions.keys.clone()),
            sessions: fleet.sessions,
        }))
    }

    /// Returns how many requests are being worked on.
    pub fn in_flight(&self) -> u64 {
        u64::try_from(self.metrics.in_flight.get()).unwrap_or(0)
    }

    /// Returns how many connections are open.
    pub fn connections(&self) -> u64 {
        u64::try_from(self.metrics.connections.get()).unwrap_or(0)
    }
}

/// Returns the routes with the layers around them, outermost first.
pub fn router(server: Server) -> Router {
    let calls = ServiceBuilder::new()
        // Too many at once are refused before any of their bytes are read.
        .layer(from_fn_with_state(server.clone(), admit::admit))
        // Around the body too: a slow body uses up the same time as slow work.
        .layer(from_fn_with_state(server.clone(), limit::limit))
        // Innermost, so that everything above acts on requests whose body never comes.
        .layer(from_fn_with_state(server.clone(), collect::collect));
    let everything = ServiceBuilder::new()
        // First: everything below names the request by it.
        .layer(from_fn(identify::identify))
        // Above whatever answers, so that refusals, time-outs and panics are logged and counted as well.
        .layer(from_fn_with_state(server.clone(), record::record))
        // Above whatever can panic.
        .layer(from_fn_with_state(server.clone(), catch::catch));
    Router::new()
        .route(
            "/mcp",
            post(entry::call)
                .delete(entry::call)
                .layer(calls)
                .get(entry::listen)
                .fallback(entry::wrong_method),
        )
        .route("/health", get(health::report))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/health/startup", get(health::startup))
        .route("/metrics", get(health::metrics))
        .fallback(nowhere)
        // `collect` bounds bodies itself, with the protocol's own error.
        .layer(DefaultBodyLimit::disable())
        .layer(Extension(Arc::new(older::Older::new(server.clone()))))
        .layer(everything)
        .with_state(server)
}

async fn nowhere(story: axum::Extension<Arc<Story>>) -> Response {
    story.fail(&Failure::new(Cause::NoSuchPath))
}

/// Returns the trace in which a request is served.
fn trace_of(headers: &http::HeaderMap) -> TraceContext {
    TraceContext::accept(headers, |id| telemetry::trace::tracer().sample(id))
}
