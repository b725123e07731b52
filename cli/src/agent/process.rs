//! One process, held so that it cannot be mistaken for another.
//!
//! A process id is reused; a pidfd is not. A process that was started by an earlier agent is taken over only
//! when its start time, the machine's boot and its executable's digest are those that were recorded, checked
//! after the pidfd was opened. Everything is then done through the pidfd: waiting for its end, and signals.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::keys::hex;

/// What makes a process that process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The process id.
    pub(crate) pid: u32,
    /// When the kernel started it, in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// Which boot of the machine that was.
    pub(crate) boot_id: String,
    /// SHA-256 of its executable, in hex.
    pub(crate) exe_digest: String,
}

impl Identity {
    /// Reads the identity of a live process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            pid,
            start_ticks: start_ticks(pid)?,
            boot_id: boot_id()?,
            exe_digest: digest_file(&PathBuf::from(format!("/proc/{pid}/exe")))?,
        })
    }

    /// Reads the identity of a process just started from a file whose digest is known.
    fn of_started(pid: u32, exe_digest: &str) -> Result<Self> {
        Ok(Self {
            pid,
            start_ticks: start_ticks(pid)?,
            boot_id: boot_id()?,
            exe_digest: exe_digest.to_owned(),
        })
    }
}

/// The kernel's start time of a process: field 22 of `stat`, after a name that may hold anything.
fn start_ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    stat.rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(19))
        .and_then(|ticks| ticks.parse().ok())
        .with_context(|| format!("{path} has no start time"))
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path)
        .with_context(|| format!("cannot read {path}"))?
        .trim()
        .to_owned())
}

/// SHA-256 of a file, in hex.
pub(crate) fn digest_file(path: &Path) -> Result<String> {
    let attempt = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let mut buffer = vec![0_u8; 256 * 1024];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(context.finish().as_ref())),
                read => context.update(&buffer[..read]),
            }
        }
    };
    attempt().with_context(|| format!("cannot read {}", path.display()))
}

/// Where a process came from, which decides who learns its exit status.
#[derive(Debug)]
enum Origin {
    /// Our child: we collect it, and learn how it ended.
    Started(Child),
    /// A child of an agent that is gone: the system collects it.
    Adopted,
}

/// A live process, to be waited for once.
#[derive(Debug)]
pub(crate) struct Held {
    origin: Origin,
    pidfd: Arc<AsyncFd<OwnedFd>>,
}

/// The means to signal a [`Held`] process and to look into it; harmless after its end.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    /// Who it is.
    pub(crate) identity: Identity,
    pidfd: Arc<AsyncFd<OwnedFd>>,
}

fn pidfd(pid: u32) -> Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "an owned descriptor stays open for as long as the wait"
    )]
    let waiting = AsyncFd::with_interest(pidfd_of(pid)?, Interest::READABLE);
    waiting.context("cannot wait for a process")
}

fn pidfd_of(pid: u32) -> Result<OwnedFd> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .with_context(|| format!("{pid} is no process id"))
        .and_then(|pid| Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?))
        .with_context(|| format!("cannot hold process {pid}"))
}

/// Holds a child just started. Its id is ours until it is collected, so there is nothing to check.
pub(crate) fn hold_child(mut child: Child, exe_digest: &str) -> Result<(Held, Handle)> {
    let attempt = || {
        Ok((
            Identity::of_started(child.id(), exe_digest)?,
            Arc::new(pidfd(child.id())?),
        ))
    };
    match attempt() {
        Ok((identity, pidfd)) => {
            let handle = Handle {
                identity,
                pidfd: Arc::clone(&pidfd),
            };
            Ok((
                Held {
                    origin: Origin::Started(child),
                    pidfd,
                },
                handle,
            ))
        }
        Err(error) => {
            // A child that cannot be held must not be left: neither running nor uncollected.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// Whether the recorded process lives: a cheap look that does not read its executable.
pub(crate) fn lives(recorded: &Identity) -> bool {
    let Ok(pidfd) = pidfd_of(recorded.pid) else {
        return false;
    };
    let same = Identity::of_started(recorded.pid, &recorded.exe_digest)
        .is_ok_and(|found| found == *recorded);
    same && !has_ended(&pidfd).unwrap_or(true)
}

/// Takes over a recorded process, if it is still that process.
pub(crate) fn adopt(recorded: &Identity) -> Result<Option<(Held, Handle)>> {
    // The pidfd comes first: whatever is then read of this id is of the process it holds, provided that
    // the process is still alive afterwards.
    let Ok(pidfd) = pidfd(recorded.pid) else {
        return Ok(None);
    };
    let matches = Identity::of(recorded.pid).is_ok_and(|found| found == *recorded);
    if !matches || has_ended(pidfd.get_ref())? {
        return Ok(None);
    }
    let pidfd = Arc::new(pidfd);
    let handle = Handle {
        identity: recorded.clone(),
        pidfd: Arc::clone(&pidfd),
    };
    Ok(Some((
        Held {
            origin: Origin::Adopted,
            pidfd,
        },
        handle,
    )))
}

/// A pidfd is readable once its process has ended.
fn has_ended(pidfd: &OwnedFd) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut wait = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(rustix::event::poll(&mut wait, Some(&now)).context("cannot look at a process")? > 0)
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It said that it cannot run as it is configured: starting it again will not help.
    Refused,
    /// Otherwise; in the system's words.
    Other(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => write!(f, "exit status: {REFUSED_STATUS}"),
            Self::Other(how) => f.write_str(how),
        }
    }
}

/// The exit status by which edge and app say that their configuration is wrong.
const REFUSED_STATUS: i32 = 2;

impl Held {
    /// Waits for the end and collects the child. Says how it ended.
    pub(crate) async fn ended(mut self) -> End {
        if let Err(e) = self.pidfd.readable().await {
            return End::Other(format!("lost sight of it: {e}"));
        }
        let Origin::Started(child) = &mut self.origin else {
            return End::Other("unknown: it was started by an earlier agent".to_owned());
        };
        // The process has ended, so this does not block.
        match child.wait() {
            Ok(status) if status.code() == Some(REFUSED_STATUS) => End::Refused,
            Ok(status) => End::Other(status.to_string()),
            Err(e) => End::Other(format!("unknown: {e}")),
        }
    }
}

impl Handle {
    /// Sends a signal; a process that has ended is no error.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => {
                Err(e).with_context(|| format!("cannot signal process {}", self.identity.pid))
            }
        }
    }

    /// Waits for the end without collecting it.
    pub(crate) async fn wait(&self) {
        // An error means that there is nothing to wait for.
        let _ = self.pidfd.readable().await;
    }

    /// The pidfd.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        self.pidfd.get_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_process_that_refuses_its_configuration_is_told_from_one_that_fails() {
        for (status, refused) in [(2, true), (1, false)] {
            let child = Command::new("sh")
                .args(["-c", &format!("exit {status}")])
                .spawn()
                .unwrap();
            let (held, _) = hold_child(child, "").unwrap();
            let end = held.ended().await;
            assert_eq!(end == End::Refused, refused);
            assert_eq!(end.to_string(), format!("exit status: {status}"));
        }
    }

    #[tokio::test]
    async fn a_process_is_adopted_only_when_everything_matches() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let (held, handle) = hold_child(child, &identity.exe_digest).unwrap();
        assert_eq!(handle.identity, identity);

        let changes: [fn(&mut Identity); 3] = [
            |i| i.start_ticks += 1,
            |i| i.boot_id = "another".into(),
            |i| i.exe_digest = "another".into(),
        ];
        for change in changes {
            let mut other = identity.clone();
            change(&mut other);
            assert!(adopt(&other).unwrap().is_none(), "{other:?}");
        }

        let (adopted, other_handle) = adopt(&identity).unwrap().unwrap();
        other_handle.signal(Signal::KILL).unwrap();
        assert_eq!(
            adopted.ended().await.to_string(),
            "unknown: it was started by an earlier agent"
        );
        assert_eq!(held.ended().await.to_string(), "signal: 9 (SIGKILL)");
        assert!(adopt(&identity).unwrap().is_none());
        handle.signal(Signal::TERM).unwrap();
    }
}
