//! What an agent leaves for the next one: a file per process, and one about itself.
//!
//! A record is written right after its process was started. An agent that dies between the two leaves a
//! process without a record; it is found again because it runs a program from this fleet's releases and
//! carries its name on its command line.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use registry::Role;
use serde::{Deserialize, Serialize};

use super::process::Identity;
use crate::binaries::program_name;
use crate::state::{StateDir, gone, read_optional, write_atomic};

/// A child process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    /// The instance's name.
    pub(crate) name: String,
    /// Edge or app.
    pub(crate) role: Role,
    /// The release it runs.
    pub(crate) release: String,
    /// Which process it is.
    pub(crate) identity: Identity,
    /// An edge's place among the edges; see `sockets`.
    pub(crate) slot: u32,
    /// When it was started, in milliseconds of Unix time.
    pub(crate) started_unix_ms: u64,
    /// How often it was started again before.
    pub(crate) restarts: u32,
}

/// The agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentRecord {
    /// Which process it is.
    pub(crate) identity: Identity,
    /// When it was started, in milliseconds of Unix time.
    pub(crate) started_unix_ms: u64,
}

/// Writes a process down.
pub(crate) fn save(state: &StateDir, record: &ProcessRecord) -> Result<()> {
    let text = serde_json::to_vec_pretty(record).context("cannot encode a process record")?;
    write_atomic(&state.process(&record.name), &text)
}

/// Forgets a process.
pub(crate) fn remove(state: &StateDir, name: &str) -> Result<()> {
    gone(fs::remove_file(state.process(name)))
        .with_context(|| format!("cannot remove the record of {name}"))
}

/// Reads all records, then looks for processes without one. A record that cannot be read is reported and
/// left out: its process, if it lives, is found the other way.
pub(crate) fn load(state: &StateDir) -> Result<Vec<ProcessRecord>> {
    let folder = state.processes();
    let mut records: Vec<ProcessRecord> = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        match fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(record)) => records.push(record),
            unreadable => {
                tracing::warn!(path = %path.display(), found = ?unreadable.map(Result::err), "a process record cannot be read")
            }
        }
    }
    for stray in strays(state) {
        // An instance that is just starting a plugin shows up twice for a moment: its record tells which is it.
        let alive =
            |r: &ProcessRecord| Identity::of(r.identity.pid).is_ok_and(|found| found == r.identity);
        let known = records.iter().find(|r| r.name == stray.name);
        if !known.is_some_and(alive) {
            records.retain(|r| r.name != stray.name);
            tracing::info!(
                process = stray.name,
                pid = stray.identity.pid,
                "found a process without a record"
            );
            save(state, &stray)?;
            records.push(stray);
        }
    }
    Ok(records)
}

/// Processes of this user that run a program from this fleet's releases.
fn strays(state: &StateDir) -> Vec<ProcessRecord> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            stray(state, &process.path(), pid)
        })
        .collect()
}

fn stray(state: &StateDir, process: &Path, pid: u32) -> Option<ProcessRecord> {
    let exe = fs::read_link(process.join("exe")).ok()?;
    let releases = fs::canonicalize(state.releases()).ok()?;
    let mut inside = exe.strip_prefix(releases).ok()?.iter();
    let release = inside.next()?.to_str()?.to_owned();
    // A removed file's link says so at its end.
    let program = inside.next()?.to_str()?.trim_end_matches(" (deleted)");
    let role = [Role::Edge, Role::App]
        .into_iter()
        .find(|r| program_name(*r) == program)?;
    let command = fs::read(process.join("cmdline")).ok()?;
    let name = command
        .split(|b| *b == 0)
        .skip_while(|word| *word != b"--name")
        .nth(1)?;
    let name = registry::check_name(std::str::from_utf8(name).ok()?)
        .ok()?
        .to_owned();
    let identity = Identity::of(pid).ok()?;
    Some(ProcessRecord {
        name,
        role,
        release,
        identity,
        slot: 0,
        started_unix_ms: registry::unix_ms(),
        restarts: 0,
    })
}

/// Writes down who the agent is.
pub(crate) fn save_agent(state: &StateDir) -> Result<()> {
    let record = AgentRecord {
        identity: Identity::of(std::process::id())?,
        started_unix_ms: registry::unix_ms(),
    };
    let text = serde_json::to_vec_pretty(&record).context("cannot encode the agent's record")?;
    write_atomic(&state.agent_record(), &text)
}

/// Forgets the agent.
pub(crate) fn remove_agent(state: &StateDir) -> Result<()> {
    gone(fs::remove_file(state.agent_record())).context("cannot remove the agent's record")
}

/// Reads who the agent is; whether it lives is another question.
pub(crate) fn load_agent(state: &StateDir) -> Result<Option<AgentRecord>> {
    let path = state.agent_record();
    read_optional(&path)?
        .map(|bytes| {
            serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is not the agent's record", path.display()))
        })
        .transpose()
}
