//! What all requests share.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use mcp::session::{KEY_BYTES, KeyRing};
use policy::flags::{self, Flag, Sticks};
use policy::split::Turns;
use telemetry::Watchdog;
use tokio::sync::watch;
use translate::graphql::Limits;

use crate::admission::Admission;
use crate::bridge::Bridge;
use crate::catalogue::Catalogue;
use crate::content::Content;
use crate::context::Context;
use crate::counters::Counters;
use crate::events::Events;
use crate::exchange::Room;
use crate::fleet::FleetView;
use crate::identity::{Caller, Identity, Rules};
use crate::ingress::{Sessions, Sockets};
use crate::ledger::Ledger;
use crate::life::Life;
use crate::metrics::EdgeMetrics;
use crate::shared::Shared;
use crate::signed::Signatures;
use crate::tools::Searched;

/// A runtime that runs no task for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Who this instance is.
#[derive(Debug, Clone)]
pub struct Name {
    /// Instance name, unique in the fleet.
    pub instance: String,
    /// Release that it runs.
    pub release: String,
    /// Digest of its configuration.
    pub config_digest: String,
    /// Milliseconds since 1970 when it started.
    pub started_unix_ms: u64,
}

/// The edge: read by every request, written by the tasks that follow the fleet.
pub struct Edge {
    /// Who this is.
    pub name: Name,
    /// What was configured.
    pub settings: settings::Edge,
    /// Part of requests that begin a sampled trace, 0 to 1.
    pub sample_ratio: f64,
    /// Readiness, drain.
    pub life: Life,
    /// Who calls.
    pub identity: Arc<Identity>,
    /// What they sign.
    pub signatures: Arc<Signatures>,
    /// Sessions of the older era.
    pub sessions: KeyRing,
    /// Who speaks with clients of the older era; set as soon as the store is open.
    pub legacy: OnceLock<Sessions>,
    /// WebSocket connections; set with them.
    pub sockets: OnceLock<Sockets>,
    /// The account of calls, if it is kept; set as soon as the state folder is known.
    pub ledger: OnceLock<Arc<Ledger>>,
    /// The rate that is kept with other edges, if it is.
    pub shared: OnceLock<Arc<Shared>>,
    /// May they now.
    pub admission: Admission,
    /// Where to.
    pub fleet: FleetView,
    /// Positions in the split for calls without a session: evenly spread, so that shares hold closely.
    pub turns: Turns,
    /// Features that are on for some callers.
    flags: Vec<Flag>,
    /// What is logged of arguments and results.
    pub content: Content,
    /// What is on offer.
    pub catalogue: ArcSwap<Catalogue>,
    /// Whether the catalogue has been read.
    pub catalogue_read: watch::Sender<bool>,
    /// What principals are told beside their answers.
    pub events: Events,
    /// Lists of tools that were searched lately.
    pub searched: Searched,
    /// Memory for the bodies of all requests.
    pub body_room: Arc<Room>,
    /// Bounds on GraphQL documents.
    pub graphql_limits: Limits,
    /// The attempts.
    pub bridge: Bridge,
    /// Exact counts, for operators and rollouts.
    pub counters: Counters,
    /// The same facts for Prometheus.
    pub metrics: EdgeMetrics,
    watchdog: Watchdog,
}

impl Edge {
    /// Builds the edge from its settings; reads keys, opens no socket.
    ///
    /// # Errors
    /// When a key file cannot be used or a limit is out of range.
    pub fn new(name: Name, settings: settings::Edge, sample_ratio: f64) -> anyhow::Result<Edge> {
        let now = Instant::now();
        let rules = Rules {
            issuer: settings.auth.issuer.clone(),
            audience: settings.auth.audience.clone(),
            leeway: settings.auth.leeway,
        };
        let jwks = settings
            .auth
            .jwks_file
            .as_deref()
            .context("edge.auth.jwks_file is not set")?;
        let identity = Identity::load(jwks, rules)?;
        let metrics = EdgeMetrics::new(&name).context("cannot register metrics")?;
        Ok(Edge {
            identity: Arc::new(identity),
            signatures: Signatures::new(&settings)?,
            sessions: read_session_keys(&settings)?,
            legacy: OnceLock::new(),
            sockets: OnceLock::new(),
            shared: OnceLock::new(),
            ledger: OnceLock::new(),
            admission: Admission::new(&settings, now).context("edge.rate")?,
            fleet: FleetView::new(&settings),
            turns: Turns::new(rand::random()),
            flags: configured_flags(&settings.flags),
            content: Content::new(&settings.log),
            catalogue: ArcSwap::default(),
            catalogue_read: watch::channel(false).0,
            events: Events::new(&settings.events, &settings.redis),
            searched: Searched::default(),
            body_room: Room::new(settings.http.body_memory_limit),
            graphql_limits: graphql_limits(&settings),
            bridge: Bridge::new(&settings, now),
            counters: Counters::default(),
            life: Life::default(),
            watchdog: Watchdog::start(STUCK_AFTER, metrics.registry()).context("watchdog")?,
            metrics,
            name,
            settings,
            sample_ratio,
        })
    }

    /// Watches a runtime that must go on for this process to be alive.
    pub fn watch_runtime(&self, runtime: &tokio::runtime::Handle, name: &str) {
        self.watchdog.watch(runtime, name);
    }

    /// Whether all watched runtimes go on.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.watchdog.check().is_ok()
    }

    /// Whether some tenant has a quota.
    #[must_use]
    pub fn has_quotas(&self) -> bool {
        let quota = &self.settings.quota;
        !quota.hard.is_empty() || !quota.soft.is_empty()
    }

    /// The flags that are on for a call, separated by blanks.
    #[must_use]
    pub fn flags(&self, context: &Context, caller: &Caller) -> String {
        let facts = flags::Facts {
            tenant: &caller.tenant,
            subject: &caller.subject,
            session: context.sticky,
        };
        let on: Vec<&str> = flags::on(&self.flags, facts).collect();
        on.join(" ")
    }

    /// Whether a trace that begins here is sampled.
    #[must_use]
    pub fn sample(&self) -> bool {
        use rand::RngExt;
        self.sample_ratio > 0.0 && rand::rng().random::<f64>() < self.sample_ratio
    }
}

fn configured_flags(settings: &settings::EdgeFlags) -> Vec<Flag> {
    let by = [
        (&settings.by_tenant, Sticks::ToTenant),
        (&settings.by_subject, Sticks::ToSubject),
        (&settings.by_session, Sticks::ToSession),
    ];
    let flags = by.into_iter().flat_map(|(shares, sticks)| {
        shares.iter().map(move |(name, percent)| Flag {
            name: name.clone(),
            percent: u8::try_from(*percent).unwrap_or(100),
            sticks,
        })
    });
    flags.collect()
}

fn graphql_limits(settings: &settings::Edge) -> Limits {
    let graphql = &settings.graphql;
    Limits {
        depth_max: graphql.depth_max,
        complexity_max: graphql.complexity_max,
        aliases_max: graphql.aliases_max,
        tokens_max: graphql.tokens_max,
        introspection: graphql.introspection,
        ..Limits::default()
    }
}

/// Reads the session keys: one of 64 hexadecimal digits a file.
fn read_session_keys(settings: &settings::Edge) -> anyhow::Result<KeyRing> {
    let mut keys = Vec::new();
    for path in &settings.session.key_files {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the session key {}", path.display()))?;
        let key = parse_hex(text.trim()).with_context(|| {
            format!(
                "{} must hold {} hexadecimal digits",
                path.display(),
                KEY_BYTES * 2
            )
        })?;
        keys.push(key);
    }
    KeyRing::new(&keys).context("edge.session.key_files must name 1 to 16 keys")
}

fn parse_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    if text.len() != KEY_BYTES * 2 || !text.is_ascii() {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_key_is_64_hexadecimal_digits() {
        assert_eq!(parse_hex(&"0f".repeat(32)), Some([15; 32]));
        for text in [
            "",
            "0f",
            &"0g".repeat(32),
            &"0f".repeat(33),
            &"é".repeat(32),
        ] {
            assert_eq!(parse_hex(text), None);
        }
    }
}
