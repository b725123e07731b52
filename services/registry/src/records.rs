//! What should run, what does run, and what is being changed.

use serde::{Deserialize, Serialize};

use crate::Role;

/// What should run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Desired {
    /// Groups of equal instances.
    pub pools: Vec<Pool>,
}

impl Desired {
    /// How many instances of a release should run in a role.
    #[must_use]
    pub fn replicas(&self, role: Role, release: &str) -> u32 {
        let pools = self
            .pools
            .iter()
            .filter(|pool| pool.role == role && pool.release == release);
        pools.map(|pool| pool.replicas).sum()
    }
}

/// A number of equal instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What they do.
    pub role: Role,
    /// Id of the release they run.
    pub release: String,
    /// How many.
    pub replicas: u32,
}

/// A program with its configuration, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// SHA-256 of the content, in hex.
    pub id: String,
    /// Folder of its copy.
    pub path: String,
    /// When it was made known, in milliseconds of Unix time.
    pub created_unix_ms: u64,
    /// Where it came from.
    pub source: String,
    /// Digest of its configuration.
    pub config_digest: String,
    /// Digest of its programs.
    pub binary_digest: String,
}

impl Release {
    /// The first twelve characters of the id, for people.
    #[must_use]
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// How a supervised process fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Started, not yet ready.
    Starting,
    /// Ready.
    Running,
    /// Ended; will be started again after a pause.
    Backoff,
    /// Ended too often; will not be started again.
    Failed,
    /// Asked to end.
    Stopping,
}

/// A process that the local agent looks after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Name of the instance.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Id of the release it runs.
    pub release: String,
    /// Its process id; 0 while there is no process.
    pub pid: u32,
    /// How it fares.
    pub state: ProcessState,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// How it ended the last time.
    #[serde(default)]
    pub last_exit: Option<String>,
    /// The last time it ended by itself saying that it cannot run as it is configured (exit status 2).
    #[serde(default)]
    pub refused: bool,
    /// Since when it is in this state, in milliseconds of Unix time.
    pub since_unix_ms: u64,
}

/// A rollout's own state, kept so that another process can go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRecord {
    /// Name of the rollout.
    pub id: String,
    /// When this was written, in milliseconds of Unix time.
    pub written_unix_ms: u64,
    /// Who wrote it.
    pub author: String,
    /// The rollout's own state; opaque here.
    pub state: serde_json::Value,
    /// What happened, oldest first; only the newest of a long rollout.
    #[serde(default)]
    pub events: Vec<RolloutEvent>,
}

/// Something that happened in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutEvent {
    /// Counts up from 1 within the rollout.
    pub number: u64,
    /// When, in milliseconds of Unix time.
    pub unix_ms: u64,
    /// What; opaque here.
    pub event: serde_json::Value,
}

/// What an operator asks of the rollout under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutCommand {
    /// Its key, to forget it by.
    pub key: String,
    /// What is asked; opaque here.
    pub command: serde_json::Value,
}
