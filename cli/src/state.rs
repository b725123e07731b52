//! The one folder that holds everything a fleet on this machine keeps.
//!
//! Two folders are two fleets: nothing is shared between them. Files are written whole or not at all, since
//! a reader may come, or the machine may go, at any moment.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::exit::Exit;
use crate::failure::Failure;

/// Only the owner reads and writes.
const FILE_MODE: u32 = 0o600;
/// Only the owner enters.
const FOLDER_MODE: u32 = 0o700;

/// The paths inside a state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// Finds the folder: the one given, else `$XDG_STATE_HOME/sweetops`, else `~/.local/state/sweetops`.
    pub(crate) fn locate(
        given: Option<&Path>,
        env: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Self> {
        let set = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let path = match given {
            Some(path) => path.to_owned(),
            // The XDG specification says to ignore a relative value.
            None => set("XDG_STATE_HOME")
                .filter(|p| p.is_absolute())
                .or_else(|| set("HOME").map(|home| home.join(".local/state")))
                .map(|base| base.join("sweetops"))
                .ok_or_else(|| {
                    Failure::new("there is no place for the fleet's state: HOME is not set")
                        .hint("name a folder with --state DIR or SWEETOPS_STATE")
                        .exit(Exit::USAGE)
                })?,
        };
        let path = std::path::absolute(&path)
            .with_context(|| format!("cannot resolve the state folder {}", path.display()))?;
        Ok(Self(path))
    }

    /// Makes the folder and its parts, readable by the owner alone.
    pub(crate) fn create(&self) -> Result<()> {
        let parts = [
            self.0.clone(),
            self.keys(),
            self.releases(),
            self.logs(),
            self.agent(),
            self.processes(),
        ];
        for part in parts {
            DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(&part)
                .with_context(|| format!("cannot make the folder {}", part.display()))?;
        }
        Ok(())
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether a fleet was ever started here.
    pub(crate) fn exists(&self) -> bool {
        self.agent().is_dir()
    }

    /// The SQLite store.
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store.db")
    }

    /// The configuration used when none is given.
    pub(crate) fn default_config(&self) -> PathBuf {
        self.0.join("sweetmcp.toml")
    }

    /// Private and public keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// One folder per release, named by its id.
    pub(crate) fn releases(&self) -> PathBuf {
        self.0.join("releases")
    }

    /// The folder of one release.
    pub(crate) fn release(&self, id: &str) -> PathBuf {
        self.releases().join(id)
    }

    /// One log per instance, and the agent's.
    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// The log of one instance.
    pub(crate) fn log(&self, instance: &str) -> PathBuf {
        self.logs().join(format!("{instance}.log"))
    }

    /// The agent's own files.
    pub(crate) fn agent(&self) -> PathBuf {
        self.0.join("agent")
    }

    /// Held by the running agent (`flock`).
    pub(crate) fn agent_lock(&self) -> PathBuf {
        self.agent().join("lock")
    }

    /// Held while `up` or `down` works (`flock`).
    pub(crate) fn command_lock(&self) -> PathBuf {
        self.agent().join("command.lock")
    }

    /// Which process the agent is.
    pub(crate) fn agent_record(&self) -> PathBuf {
        self.agent().join("agent.json")
    }

    /// The addresses the edge's sockets are bound to.
    pub(crate) fn endpoints(&self) -> PathBuf {
        self.agent().join("endpoints.json")
    }

    /// The configuration file that `up` was last given.
    pub(crate) fn config_pointer(&self) -> PathBuf {
        self.agent().join("config-path")
    }

    /// One record per child process.
    pub(crate) fn processes(&self) -> PathBuf {
        self.agent().join("processes")
    }

    /// The record of one child process.
    pub(crate) fn process(&self, instance: &str) -> PathBuf {
        self.processes().join(format!("{instance}.json"))
    }

    /// Removes what `create` and the fleet made here, and the folder if nothing else is in it.
    pub(crate) fn purge(&self) -> Result<()> {
        let store = self.store();
        let store = store.to_string_lossy();
        let files =
            ["", "-wal", "-shm", "-journal"].map(|end| PathBuf::from(format!("{store}{end}")));
        let folders = [
            self.keys(),
            self.releases(),
            self.logs(),
            self.agent(),
            self.0.join("files"),
        ];
        for file in files.iter().chain([&self.default_config()]) {
            gone(fs::remove_file(file))
                .with_context(|| format!("cannot remove {}", file.display()))?;
        }
        for folder in &folders {
            gone(fs::remove_dir_all(folder))
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        match fs::remove_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => gone(other).with_context(|| format!("cannot remove {}", self.0.display())),
        }
    }
}

/// Takes "it is not there" for success.
pub(crate) fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a file whole or not at all, readable by the owner alone, and safe on disk when this returns.
pub(crate) fn write_atomic(path: &Path, contents: &[u8]) -> Result<()> {
    let folder = path
        .parent()
        .with_context(|| format!("{} has no folder", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}.tmp", uuid::Uuid::new_v4().simple()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&draft)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|e| {
        // The draft is useless; if it cannot be removed either, the first error says enough.
        let _ = fs::remove_file(&draft);
        anyhow::Error::new(e).context(format!("cannot write {}", path.display()))
    })
}

/// Reads a file that may not exist.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn locate(given: Option<&str>, env: &[(&str, &str)]) -> Result<StateDir> {
        let env: HashMap<_, _> = env.iter().copied().collect();
        StateDir::locate(given.map(Path::new), |name| env.get(name).map(Into::into))
    }

    #[test]
    fn the_folder_is_the_given_one_then_xdg_then_home() {
        let at = |given, env: &[_]| locate(given, env).unwrap().path().to_owned();
        let both = [("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(at(Some("/g"), &both), Path::new("/g"));
        assert_eq!(at(None, &both), Path::new("/x/sweetops"));
        assert_eq!(at(None, &both[1..]), Path::new("/h/.local/state/sweetops"));
        assert_eq!(
            at(None, &[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]),
            Path::new("/h/.local/state/sweetops")
        );
        assert!(locate(None, &[]).is_err());
    }

    #[test]
    fn only_the_owner_can_read_and_purge_leaves_strangers_alone() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir(home.path().join("fleet"));
        state.create().unwrap();
        write_atomic(&state.keys().join("k"), b"secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(state.path()), 0o700);
        assert_eq!(mode(&state.keys()), 0o700);
        assert_eq!(mode(&state.keys().join("k")), 0o600);
        assert_eq!(fs::read_dir(state.keys()).unwrap().count(), 1);

        fs::write(state.path().join("mine.txt"), "keep").unwrap();
        state.purge().unwrap();
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
        fs::remove_file(state.path().join("mine.txt")).unwrap();
        state.purge().unwrap();
        assert!(!state.path().exists());
    }
}
