//! What every verb is given: the state folder, the output, and ways into the fleet.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use admin_api::AdminClient;
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use registry::{Registry, Role};
use settings::{Loaded, Settings};
use store::Store;
use tokio::sync::OnceCell;

use crate::agent::{Door, SETTINGS_PREFIX, endpoints};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::keys::{Token, TokenRequest, sign};
use crate::output::Output;
use crate::release::Release;
use crate::state::{StateDir, read_optional};

/// How long a token lives that a command makes for its own calls.
const OWN_TOKEN_TTL: Duration = Duration::from_secs(3600);

/// The surroundings of a verb.
#[derive(Debug)]
pub(crate) struct Context {
    /// The fleet's folder.
    pub(crate) state: StateDir,
    /// Where words go.
    pub(crate) out: Output,
    store: OnceCell<Store>,
}

impl Context {
    /// A context for the fleet of this folder.
    pub(crate) fn new(state: StateDir, out: Output) -> Self {
        Self {
            state,
            out,
            store: OnceCell::new(),
        }
    }

    /// The fleet's store, opened at the first call.
    pub(crate) async fn store(&self) -> Result<&Store> {
        if !self.state.exists() {
            return Err(Failure::new(format!("there is no fleet in {}", self.state.path().display()))
                .hint("start one with `sweetops up`, or name another folder with --state DIR or SWEETOPS_STATE")
                .into());
        }
        self.store
            .get_or_try_init(|| async { Store::open_sqlite(&self.state.store()).await })
            .await
            .with_context(|| format!("cannot open the store in {}", self.state.path().display()))
    }

    /// The fleet's records.
    pub(crate) async fn registry(&self) -> Result<Registry> {
        Ok(Registry::new(self.store().await?.clone()))
    }

    /// The configuration file: the one given, else the one that `up` was last given, else the default one.
    pub(crate) fn config(&self, given: Option<&Path>) -> Result<PathBuf> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => match read_optional(&self.state.config_pointer())? {
                Some(bytes) => PathBuf::from(String::from_utf8_lossy(&bytes).into_owned()),
                None => self.state.default_config(),
            },
        };
        std::path::absolute(&path).with_context(|| format!("cannot resolve {}", path.display()))
    }

    /// Reads and checks a configuration together with this command's environment.
    pub(crate) fn settings(&self, path: &Path) -> Result<Loaded> {
        if let Err(e) = fs::metadata(path) {
            return Err(Failure::new(format!("cannot read the configuration {}", path.display()))
                .source(e)
                .hint("name the file with --config FILE; `sweetops up` writes one if none is given")
                .exit(Exit::USAGE)
                .into());
        }
        load(path, settings_environment())
    }

    /// A token for clients of this fleet.
    pub(crate) fn token(&self, settings: &Settings, request: TokenRequest) -> Result<Token> {
        token(&self.state, settings, request)
    }

    /// A short-lived token for this command's own calls to the edges.
    pub(crate) fn own_token(&self, settings: &Settings, scope: &str) -> Result<Token> {
        own_token(&self.state, settings, scope)
    }

    /// The settings that the edges run with, or, before there are any, those of the configuration.
    pub(crate) async fn edge_settings(&self) -> Result<Settings> {
        match running_edge_settings(&self.state, &self.registry().await?).await? {
            Some(settings) => Ok(settings),
            None => Ok(self.settings(&self.config(None)?)?.settings),
        }
    }

    /// A client of the operators' interface of each live edge, with the edge's name.
    pub(crate) async fn admin_clients(&self) -> Result<Vec<(String, AdminClient)>> {
        admin_clients(&self.state, &self.registry().await?).await
    }

    /// Where clients reach the fleet.
    pub(crate) fn endpoints(&self) -> Result<Endpoints> {
        let bound = endpoints(&self.state)?;
        let at = |door| {
            let found = bound.iter().find(|e| e.door == door && e.slot == 0)?;
            Some(reachable(found.bound))
        };
        let http = |path: &str| at(Door::Http).map(|address| format!("http://{address}{path}"));
        Ok(Endpoints {
            mcp: http("/mcp"),
            jsonrpc: http("/mcp/v1/jsonrpc"),
            batch: http("/mcp/v1/batch"),
            graphql: http("/graphql"),
            capnp: at(Door::Capnp).map(|address| address.to_string()),
            admin: at(Door::Admin).map(|address| format!("http://{address}")),
        })
    }
}

fn token(state: &StateDir, settings: &Settings, request: TokenRequest) -> Result<Token> {
    let auth = &settings.edge.auth;
    let request = TokenRequest {
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        ..request
    };
    sign(state, &request, Timestamp::now())
}

fn own_token(state: &StateDir, settings: &Settings, scope: &str) -> Result<Token> {
    let request = TokenRequest {
        issuer: String::new(),
        audience: String::new(),
        subject: "sweetops".to_owned(),
        tenant: None,
        scope: scope.to_owned(),
        ttl: OWN_TOKEN_TTL,
    };
    token(state, settings, request)
}

/// The settings of the edges that should run, if any should.
async fn running_edge_settings(state: &StateDir, registry: &Registry) -> Result<Option<Settings>> {
    let desired = registry
        .desired()
        .await
        .context("cannot read what should run")?;
    let pool = desired.and_then(|d| d.value.pools.into_iter().find(|p| p.role == Role::Edge));
    pool.map(|pool| settings_of(&Release::load(state, &pool.release)?))
        .transpose()
}

/// A client of the operators' interface of each live edge, with the edge's name.
pub(crate) async fn admin_clients(
    state: &StateDir,
    registry: &Registry,
) -> Result<Vec<(String, AdminClient)>> {
    let settings = running_edge_settings(state, registry)
        .await?
        .context("no edge should run")?;
    let token = own_token(state, &settings, "admin")?;
    let instances = registry
        .instances()
        .await
        .context("cannot read the instances")?;
    instances
        .into_iter()
        .filter(|i| i.role == Role::Edge)
        .filter_map(|i| Some((i.name, i.admin?)))
        .map(|(name, address)| {
            let client = AdminClient::new(&format!("http://{address}"), &token.token)
                .with_context(|| format!("cannot reach {name}"))?;
            Ok((name, client))
        })
        .collect()
}

/// An address that listens on every interface is reached on this machine by loopback.
fn reachable(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr = match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    address
}

/// The addresses of the front doors; absent while nothing is bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Endpoints {
    /// MCP over streamable HTTP, as a URL.
    pub(crate) mcp: Option<String>,
    /// Plain JSON-RPC, as a URL.
    pub(crate) jsonrpc: Option<String>,
    /// JSON-RPC batches, as a URL.
    pub(crate) batch: Option<String>,
    /// GraphQL, as a URL.
    pub(crate) graphql: Option<String>,
    /// Cap'n Proto RPC, as host:port.
    pub(crate) capnp: Option<String>,
    /// The operators' interface, as a URL.
    pub(crate) admin: Option<String>,
}

/// The settings of the environment of this command.
pub(crate) fn settings_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(SETTINGS_PREFIX))
        .collect()
}

fn load(path: &Path, environment: Vec<(String, String)>) -> Result<Loaded> {
    Settings::load(Some(path), environment.into_iter()).map_err(|errors| {
        Failure::new(errors.to_string().trim_end())
            .hint(format!("correct {} and try again", path.display()))
            .exit(Exit::USAGE)
            .into()
    })
}

/// The settings that instances of a release run with.
pub(crate) fn settings_of(release: &Release) -> Result<Settings> {
    Ok(loaded_of(release)?.settings)
}

/// The settings that instances of a release run with, with their origins.
pub(crate) fn loaded_of(release: &Release) -> Result<Loaded> {
    load(&release.config(), release.environment.clone())
}
