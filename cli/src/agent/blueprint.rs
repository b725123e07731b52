//! How to run an instance of a release on this machine.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use registry::Role;

use super::sockets::Listen;
use crate::context::settings_of;
use crate::release::Release;
use crate::state::StateDir;

/// Beyond an instance's own patience, before it is killed.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// Everything that starting an instance needs.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    /// The program.
    pub(crate) program: PathBuf,
    /// SHA-256 of the program.
    pub(crate) program_digest: String,
    /// Its arguments, but for the name.
    pub(crate) args: Vec<OsString>,
    /// Settings from the environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Where it runs.
    pub(crate) working_dir: PathBuf,
    /// Where it listens, if it is an edge.
    pub(crate) listen: Option<Listen>,
    /// How long it may take to stop.
    pub(crate) stop_max: Duration,
}

/// Reads the blueprint of a release.
pub(crate) fn of_release(state: &StateDir, role: Role, id: &str) -> Result<Blueprint> {
    let release = Release::load(state, id)?;
    let settings = settings_of(&release)?;
    let (listen, shutdown) = match role {
        Role::Edge => {
            let edge = &settings.edge;
            let listen = Listen {
                http: edge.listen.to_string(),
                admin: edge.admin_listen.to_string(),
                capnp: edge.capnp_listen.to_string(),
            };
            (Some(listen), &edge.shutdown)
        }
        Role::App => (None, &settings.app.shutdown),
    };
    let args = [
        "--config".into(),
        release.config().into(),
        "--state".into(),
        state.path().into(),
        "--release".into(),
        id.into(),
    ];
    Ok(Blueprint {
        program: release.program(),
        program_digest: release.binary_digest.clone(),
        args: args.into(),
        environment: release.environment.clone(),
        working_dir: release.working_dir.clone(),
        listen,
        stop_max: shutdown.grace + shutdown.drain + STOP_SLACK,
    })
}
