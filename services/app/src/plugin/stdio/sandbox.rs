//! Walls around a child, which it puts up itself between fork and exec and which neither it nor what it starts can take down:
//! no capabilities and no new privileges, files by Landlock, and the rest by filters of system calls ([`calls`](super::calls)).

use std::{io, path::PathBuf, sync::LazyLock};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BackendError, BpfProgram};

use super::{calls, process::Program};

/// The least version of Landlock that keeps files from being truncated too (Linux 6.2).
const LANDLOCK_MIN: ABI = ABI::V3;
/// The version that also keeps signals and abstract sockets within the walls (Linux 6.12); used where the kernel has it.
const LANDLOCK_SCOPES: ABI = ABI::V6;
/// What programs, interpreters and their libraries read, and nothing that tells of this machine's own secrets.
const SYSTEM: [&str; 31] = [
    "/bin",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/lib",
    "/lib32",
    "/lib64",
    "/sbin",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
    "/usr",
];
/// What of the kernel's own tables runtimes read to size themselves. Nothing else there: command lines hold secrets.
const TABLES: [&str; 6] = [
    "/proc/cpuinfo",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/version",
];
/// What they write.
const SYSTEM_WRITTEN: [&str; 1] = ["/dev/null"];

/// The tables that there are. The kernel forgets the rule for a table with the table's node, which is made anew for every
/// name that nobody holds: they are held for as long as we live.
static HELD_TABLES: LazyLock<Vec<PathFd>> = LazyLock::new(|| {
    let held = TABLES.iter().map(PathFd::new);
    held.filter_map(Result::ok).collect()
});

const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// What a child may reach beside the system's programs and libraries, its own files and its working directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Files and folders that it may read.
    pub read: Vec<PathBuf>,
    /// Files and folders that it may read and write.
    pub write: Vec<PathBuf>,
    /// Whether it may have sockets, other than pairs within itself.
    pub network: bool,
}

/// Why there are no walls, and so no child.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel lacks what the walls are made of.
    #[error("the sandbox needs Landlock as of Linux 6.2, and this kernel does not have it")]
    Landlock(#[source] RulesetError),
    /// A path that is granted is not there.
    #[error("the sandbox cannot let it have {}", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: PathFdError,
    },
    /// There is no filter for this machine.
    #[error("the sandbox cannot filter system calls on this machine")]
    Filter(#[source] BackendError),
}

/// Walls that are ready to be put up.
pub(super) struct Walls {
    files: Option<RulesetCreated>,
    calls: Vec<BpfProgram>,
}

impl Sandbox {
    /// Makes everything ready that cannot be made between fork and exec.
    pub(super) fn walls(&self, program: &Program) -> Result<Walls, SandboxError> {
        let own = program
            .files()
            .into_iter()
            .chain(program.working_dir.clone());
        let read = AccessFs::from_read(LANDLOCK_MIN);
        let all = AccessFs::from_all(LANDLOCK_MIN);
        let granted = own
            .chain(self.read.iter().cloned())
            .map(|path| (path, read))
            .chain(self.write.iter().map(|path| (path.clone(), all)));
        let mut rules = Vec::new();
        for (path, access) in granted {
            let open = PathFd::new(&path).map_err(|source| SandboxError::Path {
                path: path.clone(),
                source,
            })?;
            // What only folders have cannot be granted for a file.
            let access = if path.is_dir() {
                access
            } else {
                access & AccessFs::from_file(LANDLOCK_MIN)
            };
            rules.push(PathBeneath::new(open, access));
        }
        let files = ruleset(rules).map_err(SandboxError::Landlock)?;
        Ok(Walls {
            files: Some(files),
            calls: calls::filters(self.network).map_err(SandboxError::Filter)?,
        })
    }
}

fn ruleset(granted: Vec<PathBeneath<PathFd>>) -> Result<RulesetCreated, RulesetError> {
    let read = AccessFs::from_read(LANDLOCK_MIN);
    let all = AccessFs::from_all(LANDLOCK_MIN);
    let tables = HELD_TABLES
        .iter()
        .map(|table| PathBeneath::new(table, AccessFs::ReadFile));
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)?
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(LANDLOCK_SCOPES))?
        .create()?
        .set_compatibility(CompatLevel::HardRequirement)
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules(SYSTEM_WRITTEN, all))?
        .add_rules(tables.map(Ok::<_, RulesetError>))?
        .add_rules(granted.into_iter().map(Ok::<_, RulesetError>))
}

impl Walls {
    /// Puts them up around the calling thread and what it will execute. Between fork and exec: only system calls, and no
    /// memory is allocated.
    pub(super) fn put_up(&mut self) -> io::Result<()> {
        let denied = || io::Error::from(rustix::io::Errno::ACCESS);
        // With no new privileges not even root's programs come by them again.
        rustix::thread::set_capabilities(None, NO_CAPABILITIES)?;
        if let Some(files) = self.files.take() {
            // No new privileges comes with it.
            files.restrict_self().map_err(|_| denied())?;
        }
        for filter in &self.calls {
            seccompiler::apply_filter(filter).map_err(|_| denied())?;
        }
        Ok(())
    }
}
