//! Instances and what they say about themselves.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What an instance does in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes calls from clients.
    Edge,
    /// Holds the tools.
    App,
}

impl Role {
    /// `edge` or `app`, as in keys and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::App => "app",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an instance takes new calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Takes calls.
    #[default]
    Ready,
    /// Finishes what it has; send nothing new.
    Draining,
}

/// How far a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginPhase {
    /// Not yet able to answer.
    #[default]
    Starting,
    /// Answers calls.
    Ready,
    /// Gave up, or is being restarted after a failure.
    Failed,
    /// Ended on purpose.
    Stopped,
}

/// A plugin of an app instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PluginState {
    /// Its name in the configuration.
    pub name: String,
    /// `stdio`, `builtin`, …
    pub kind: String,
    /// How far it is.
    #[serde(default)]
    pub state: PluginPhase,
    /// Names of the tools it offers, as clients see them.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Scopes of which a caller needs one to see them; none: everybody may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Arguments that calls repeat in their head, by tool: for each, the header and the names that lead to the argument.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub param_headers: BTreeMap<String, Vec<(String, Vec<String>)>>,
    /// Whether its word on what its tools do (read-only, idempotent) is believed.
    #[serde(default)]
    pub trusted: bool,
}

/// What an instance is busy with, reported with each heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Calls being worked on.
    pub in_flight: u64,
    /// CPU time used since start, in milliseconds.
    pub cpu_ms: u64,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
    /// Open connections.
    pub connections: u64,
    /// Calls waiting for their turn.
    pub queue_depth: u64,
}

/// What else an instance makes known about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Version of the program.
    pub version: String,
    /// Protocol capabilities offered.
    pub capabilities: Vec<String>,
    /// Feature flags and their values.
    pub feature_flags: BTreeMap<String, String>,
    /// Region, the larger place around the zone.
    pub region: Option<String>,
    /// Cost tier of the machine.
    pub cost_tier: Option<String>,
    /// Version of the contract of its tools.
    pub contract_version: Option<String>,
    /// Tools that will go, with the date.
    pub deprecations: BTreeMap<String, String>,
    /// What it needs in order to work.
    pub dependencies: Vec<String>,
}

/// One live process of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Unique within its role.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Id of the release it runs.
    pub release: String,
    /// Process id on its machine.
    pub pid: u32,
    /// `host:port` of its HTTP listener.
    pub address: String,
    /// `host:port` of its admin listener.
    #[serde(default)]
    pub admin: Option<String>,
    /// `host:port` of its Cap'n Proto listener.
    #[serde(default)]
    pub capnp: Option<String>,
    /// Where it runs; calls stay within a zone while they can.
    #[serde(default)]
    pub zone: Option<String>,
    /// When it started, in milliseconds of Unix time.
    pub started_unix_ms: u64,
    /// Whether it takes new calls.
    #[serde(default)]
    pub state: InstanceState,
    /// Digest of the configuration it runs with.
    pub config_digest: String,
    /// Digest of the program it runs.
    pub binary_digest: String,
    /// Digest of the tools it offers.
    #[serde(default)]
    pub catalogue_digest: Option<String>,
    /// Its plugins.
    #[serde(default)]
    pub plugins: Vec<PluginState>,
    /// What it is busy with.
    #[serde(default)]
    pub load: Option<Load>,
    /// What else it makes known.
    #[serde(default)]
    pub metadata: Metadata,
}

impl Instance {
    /// An instance of this process, started now, ready; the rest is empty.
    pub fn new(
        role: Role,
        name: impl Into<String>,
        release: impl Into<String>,
        address: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            role,
            release: release.into(),
            pid: std::process::id(),
            address: address.into(),
            admin: None,
            capnp: None,
            zone: None,
            started_unix_ms: crate::unix_ms(),
            state: InstanceState::Ready,
            config_digest: String::new(),
            binary_digest: String::new(),
            catalogue_digest: None,
            plugins: Vec::new(),
            load: None,
            metadata: Metadata::default(),
        }
    }

    /// Whether it takes new calls.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == InstanceState::Ready
    }
}

/// An edge's word that it sends traffic by this generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// `mod_revision` of the traffic record that is in force.
    pub generation: u64,
    /// Since when, in milliseconds of Unix time.
    pub at_unix_ms: u64,
    /// A leased share of this generation ran out, so its traffic goes to stable.
    #[serde(default)]
    pub expired: bool,
}
