//! Starts a child so that it outlives the agent.
//!
//! Each child leads its own session (a signal to the agent's group or terminal does not reach it), writes to
//! a file rather than a pipe (an agent that dies would break the pipe), and gets the listening sockets at the
//! descriptors that systemd's protocol names: 3 and up, with `LISTEN_FDS` and `LISTEN_FDNAMES`.
//! `LISTEN_PID` is left out, because the child's id is not known before it exists.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

/// The first descriptor of systemd's protocol.
const LISTEN_FDS_START: i32 = 3;
/// Descriptors below this are kept for the children's sockets.
const RESERVED_BELOW: i32 = 16;
/// What the environment may hold of the fleet's settings.
pub(crate) const SETTINGS_PREFIX: &str = "SWEETMCP__";

/// Everything about a process to be started.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The executable.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Settings from the environment: exactly these, none of the agent's own.
    pub(crate) settings: &'a [(String, String)],
    /// The working folder.
    pub(crate) working_dir: &'a Path,
    /// The log, appended to.
    pub(crate) log: &'a Path,
    /// Listening sockets with their names.
    pub(crate) sockets: Vec<(&'static str, OwnedFd)>,
}

/// Starts the process. When this returns, its executable runs.
pub(crate) fn launch(launch: Launch<'_>) -> Result<Child> {
    reserve_low_descriptors()?;
    let log = open_log(launch.log)?;
    let errors = log.try_clone().context("cannot share a log")?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .current_dir(launch.working_dir)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    clean_environment(&mut command);
    command.envs(launch.settings.iter().map(|(name, value)| (name, value)));
    let mut sockets = Vec::with_capacity(launch.sockets.len());
    if !launch.sockets.is_empty() {
        let names: Vec<&str> = launch.sockets.iter().map(|(name, _)| *name).collect();
        command
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
    }
    for (name, socket) in launch.sockets {
        // Above the reserved range, so that moving one into place never overwrites another.
        let moved = rustix::io::fcntl_dupfd_cloexec(&socket, RESERVED_BELOW)
            .with_context(|| format!("cannot pass the {name} socket"))?;
        sockets.push(moved);
    }
    prepare_child(&mut command, sockets);
    command
        .spawn()
        .with_context(|| format!("cannot start {}", launch.program.display()))
}

/// Opens a log for appending, made readable by the owner alone.
pub(crate) fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open the log {}", path.display()))
}

/// Takes out what belongs to the agent: its settings and what a service manager said to it.
fn clean_environment(command: &mut Command) {
    let ours = [
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    ];
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(SETTINGS_PREFIX) {
            command.env_remove(name);
        }
    }
    for name in ours {
        command.env_remove(name);
    }
}

#[expect(
    unsafe_code,
    reason = "a session of its own and descriptors 3 and up can only be arranged between fork and exec"
)]
fn prepare_child(command: &mut Command, sockets: Vec<OwnedFd>) {
    let in_child = move || {
        rustix::process::setsid()?;
        for (target, socket) in (LISTEN_FDS_START..).zip(&sockets) {
            // SAFETY: `target` is one of the descriptors that `reserve_low_descriptors` keeps open, so it
            // is valid here and nothing else in this process uses it; `ManuallyDrop` leaves it open.
            let mut slot = std::mem::ManuallyDrop::new(unsafe {
                <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(target)
            });
            debug_assert_ne!(socket.as_raw_fd(), target);
            rustix::io::dup2(socket, &mut slot)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two kinds of system calls, directly and without
    // allocating, locking or panicking; what it reads was built before the fork.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// Keeps every descriptor below [`RESERVED_BELOW`] taken for the life of this process, so that neither a
/// socket nor the pipe on which `spawn` learns of a failed exec ever sits where a child's socket goes.
fn reserve_low_descriptors() -> Result<()> {
    static KEPT: OnceLock<Vec<File>> = OnceLock::new();
    if KEPT.get().is_some() {
        return Ok(());
    }
    let mut kept = Vec::new();
    loop {
        let file = File::open("/dev/null").context("cannot open /dev/null")?;
        if file.as_raw_fd() >= RESERVED_BELOW {
            break;
        }
        kept.push(file);
    }
    // Of two at once, the second finds nothing below the limit and keeps nothing.
    let _ = KEPT.set(kept);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn shell<'a>(script: &str, home: &'a Path, log: &'a Path) -> Launch<'a> {
        Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            settings: &[],
            working_dir: home,
            log,
            sockets: Vec::new(),
        }
    }

    #[test]
    fn a_child_has_its_own_session_log_and_sockets() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("child.log");
        let sockets = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, second) = (sockets(), sockets());
        let script = r#"echo "$LISTEN_FDS $LISTEN_FDNAMES pid=${LISTEN_PID:-none} $SWEETMCP__A"
            readlink /proc/self/fd/3 /proc/self/fd/4; echo end >&2
            [ "$(cut -d' ' -f6 /proc/$$/stat)" = $$ ] && echo leader"#;
        let settings = [("SWEETMCP__A".to_owned(), "b".to_owned())];
        let mut spec = shell(script, home.path(), &log);
        spec.settings = &settings;
        let expected: Vec<String> = [&first, &second]
            .map(|s| std::fs::read_link(format!("/proc/self/fd/{}", s.as_raw_fd())).unwrap())
            .iter()
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        spec.sockets = vec![("http", first.into()), ("admin", second.into())];
        assert!(launch(spec).unwrap().wait().unwrap().success());
        let said = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "2 http:admin pid=none b");
        assert_eq!(lines[1..3], expected);
        assert_eq!(lines[3..], ["end", "leader"]);
    }

    #[test]
    fn a_missing_program_is_an_error_here_and_now() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("child.log");
        let mut spec = shell("", home.path(), &log);
        spec.program = home.path().join("absent");
        assert!(launch(spec).is_err());
    }
}
