//! Which system calls a child within walls may make.
//!
//! Landlock judges how files are opened and made. What it leaves open is closed here: marks on files that need no opening
//! (modes, owners, times, attributes), sockets, other processes of the same account, and namespaces in which a process is its
//! own root. A call is judged by its number and its numbers alone, so that what marks a file is refused for every file.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

// Calls of Linux 5.9 and later have the same numbers everywhere; not every C library tells them.
const CLONE3: i64 = 435;
const PIDFD_GETFD: i64 = 438;
const PROCESS_MADVISE: i64 = 440;
const PROCESS_MRELEASE: i64 = 448;
const FCHMODAT2: i64 = 452;
const SETXATTRAT: i64 = 463;
const REMOVEXATTRAT: i64 = 466;
const FILE_SETATTR: i64 = 469;

/// Marks on files.
const MARKS: [i64; 15] = [
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    REMOVEXATTRAT,
    FILE_SETATTR,
];
/// The older calls for the same, where there are any.
#[cfg(target_arch = "x86_64")]
const OLD_MARKS: [i64; 6] = [
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_MARKS: [i64; 0] = [];
/// What reaches into other processes, keys that the account's processes share, namespaces, and rings, through which calls
/// are made that no filter sees.
const REACH: [i64; 17] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    PROCESS_MADVISE,
    PROCESS_MRELEASE,
    PIDFD_GETFD,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_perf_event_open,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_io_uring_setup,
];
/// What is done to the process whose number is the first argument; 0 is the caller.
const TO_PROCESS: [i64; 6] = [
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setattr,
    libc::SYS_move_pages,
];
/// Requests to a device or file system that set marks on a file (`FS_IOC_SETFLAGS`, its form for 32 bits, `FS_IOC_FSSETXATTR`)
/// or type into a terminal (`TIOCSTI`, `TIOCLINUX`).
const REQUESTS: [u64; 5] = [0x4008_6602, 0x4004_6602, 0x401c_5820, 0x5412, 0x541c];

/// `PRIO_PROCESS` of `setpriority`.
const PRIO_PROCESS: u64 = 0;
/// `IOPRIO_WHO_PROCESS` of `ioprio_set`.
const IOPRIO_WHO_PROCESS: u64 = 1;
/// Kinds of sockets that can be pointed at another name once they are there; `SOCK_RAW` is one of them in this family.
const POINTABLE: [i32; 2] = [libc::SOCK_DGRAM, libc::SOCK_RAW];
/// The bits of a socket's type that tell its kind.
const KIND: u64 = 0xf;

/// Filters that are to be put up one after the other.
pub(super) fn filters(network: bool) -> Result<Vec<BpfProgram>, BackendError> {
    let mut filters = vec![
        filter(refused(network)?, libc::EPERM)?,
        // Its flags are in memory, where no filter looks: libraries fall back on `clone`, whose flags are not.
        filter(BTreeMap::from([(CLONE3, Vec::new())]), libc::ENOSYS)?,
    ];
    if cfg!(target_arch = "x86_64") {
        filters.push(no_short_pointers());
    }
    Ok(filters)
}

/// Calls with the conditions under which they are refused: any of them, or always if there are none.
type Refused = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(refused: Refused, errno: i32) -> Result<BpfProgram, BackendError> {
    let errno = SeccompAction::Errno(errno.cast_unsigned());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    // Calls in the manner of another architecture end the process.
    SeccompFilter::new(refused, SeccompAction::Allow, errno, arch)?.try_into()
}

fn refused(network: bool) -> Result<Refused, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let always = [&MARKS[..], &OLD_MARKS, &REACH].concat();
    let mut refused: Refused = always.into_iter().map(|call| (call, Vec::new())).collect();
    for call in TO_PROCESS {
        refused.insert(call, vec![if_argument(0, Ne, 0)?]);
    }
    for (call, own_kind) in [
        (libc::SYS_setpriority, PRIO_PROCESS),
        (libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS),
    ] {
        let other = vec![if_argument(0, Ne, own_kind)?, if_argument(1, Ne, 0)?];
        refused.insert(call, other);
    }
    let user = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
    refused.insert(libc::SYS_clone, vec![if_argument(0, MaskedEq(user), user)?]);
    let requests = REQUESTS.map(|request| if_argument(1, Eq, request));
    refused.insert(
        libc::SYS_ioctl,
        requests.into_iter().collect::<Result<_, _>>()?,
    );
    if !network {
        refused.insert(libc::SYS_socket, Vec::new());
        let kinds =
            POINTABLE.map(|kind| if_argument(1, MaskedEq(KIND), u64::from(kind.cast_unsigned())));
        refused.insert(
            libc::SYS_socketpair,
            kinds.into_iter().collect::<Result<_, _>>()?,
        );
    }
    Ok(refused)
}

/// A condition on the lower half of an argument, which is all that these calls look at.
fn if_argument(index: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, is, value)?;
    SeccompRule::new(vec![condition])
}

/// Refuses the second set of calls that x86-64 has, for programs with pointers of 32 bits (x32): numbers from bit 30 on.
fn no_short_pointers() -> BpfProgram {
    use libc::{BPF_ABS, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let step = |code: u32, jt, jf, k| seccompiler::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    vec![
        // The number is the first thing that a filter is shown.
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JGE | BPF_K, 0, 1, 1 << 30),
        step(BPF_RET | BPF_K, 0, 0, refused),
        step(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
