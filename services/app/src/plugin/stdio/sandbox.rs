//! Walls around a child, which it puts up itself between fork and exec and which neither it nor what it starts can take down:
//! no capabilities and no new privileges, files by Landlock, and sockets by a filter of system calls.

use std::{io, path::PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::process::Program;

/// The least version of Landlock that keeps files from being truncated too (Linux 6.2).
const LANDLOCK_MIN: ABI = ABI::V3;
/// The version that also keeps signals and abstract sockets within the walls (Linux 6.12); used where the kernel has it.
const LANDLOCK_SCOPES: ABI = ABI::V6;
/// What programs, interpreters and their libraries read, and nothing that tells of this machine's own secrets.
const SYSTEM: [&str; 32] = [
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
    // Of other processes it shows what everybody may know: Landlock keeps the rest from whoever has no capabilities.
    "/proc",
    "/sbin",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
    "/usr",
];
/// What they write.
const SYSTEM_WRITTEN: [&str; 1] = ["/dev/null"];
/// The same calls have a second number for programs with 32-bit pointers on x86-64.
const X32: i64 = 0x4000_0000;

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
    /// Whether it may have sockets other than those of this machine's file system.
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
    #[error("the sandbox cannot keep it from the network on this machine")]
    Filter(#[source] BackendError),
}

/// Walls that are ready to be put up.
pub(super) struct Walls {
    files: Option<RulesetCreated>,
    sockets: Option<BpfProgram>,
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
        let sockets = match self.network {
            true => None,
            false => Some(no_sockets().map_err(SandboxError::Filter)?),
        };
        Ok(Walls {
            files: Some(files),
            sockets,
        })
    }
}

fn ruleset(granted: Vec<PathBeneath<PathFd>>) -> Result<RulesetCreated, RulesetError> {
    let read = AccessFs::from_read(LANDLOCK_MIN);
    let all = AccessFs::from_all(LANDLOCK_MIN);
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)?
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(LANDLOCK_SCOPES))?
        .create()?
        .set_compatibility(CompatLevel::HardRequirement)
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules(SYSTEM_WRITTEN, all))?
        .add_rules(granted.into_iter().map(Ok::<_, RulesetError>))
}

/// Refuses every socket but those with a name in the file system, and the other way to come by one.
fn no_sockets() -> Result<BpfProgram, BackendError> {
    let refused = SeccompAction::Errno(libc::EACCES.cast_unsigned());
    let other_family = || {
        let unix = u64::from(libc::AF_UNIX.cast_unsigned());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, unix)
            .and_then(|family| SeccompRule::new(vec![family]))
    };
    let sockets = [libc::SYS_socket, libc::SYS_socket | X32];
    let rings = [libc::SYS_io_uring_setup, libc::SYS_io_uring_setup | X32];
    let mut rules = std::collections::BTreeMap::new();
    for call in sockets {
        rules.insert(call, vec![other_family()?]);
    }
    for call in rings {
        rules.insert(call, Vec::new());
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()
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
        if let Some(sockets) = &self.sockets {
            seccompiler::apply_filter(sockets).map_err(|_| denied())?;
        }
        Ok(())
    }
}
