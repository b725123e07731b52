//! A process between us and a program that ends all that comes of the program when the program or we end, however that is.
//!
//! The kernel knows no set of processes that dies together unless somebody has rights over cgroups or namespaces. What it has
//! is the *subreaper*: whoever of a subreaper's descendants loses its parent becomes its child, whatever session or group it
//! has gone to. So the program gets a parent of its own that is one: this binary once more, as `sweetmcp-app guard`. The guard
//! holds one end of a pipe of which we alone hold the other. A byte in it asks the program to end (SIGTERM to its group); its
//! end means that nobody wants the program any more, or that we are dead. The guard ends last, with the program's status.
//!
//! We are forked once for the guard and it once more for the program, before either executes anything, so that a program that
//! cannot be executed is told of as if there were no guard.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, Read as _},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    },
    path::Path,
    process::{ExitCode, ExitStatus},
    ptr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    pipe::PipeFlags,
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions},
};

use super::census;

/// The first argument that makes this binary a guard.
pub const ARGUMENT: &str = "guard";
/// How it is called by those who list processes.
const NAME: &CStr = c"sweetmcp-guard";
const ARGUMENTS: [&CStr; 2] = [c"sweetmcp-app", c"guard"];
/// How often what will not die is looked at, once it was killed.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For how long; then only the kernel holds it.
const PATIENCE: Duration = Duration::from_secs(5);
/// What shells add to the number of the signal that ended a program.
const SIGNALLED: i32 = 128;

/// What becomes a guard between fork and exec.
pub(super) struct Guard {
    file: CString,
    orders: OwnedFd,
    /// For the guard's first word to itself: who the program is.
    to_orders: OwnedFd,
    null: File,
}

/// Our end of a guard's pipe. When it is dropped the guard ends everything.
#[derive(Debug)]
pub(super) struct Leash(OwnedFd);

impl Leash {
    /// Asks the program and its group to end.
    pub(super) fn ask_to_end(&self) {
        // A guard that has ended is what is wanted.
        let _ = rustix::io::write(&self.0, b"t");
    }
}

impl Guard {
    /// Makes everything ready that cannot be made between fork and exec.
    pub(super) fn new(file: &Path) -> io::Result<(Self, Leash)> {
        let (orders, leash) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let guard = Self {
            file: CString::new(file.as_os_str().as_bytes())?,
            orders,
            to_orders: leash.try_clone()?,
            null: File::options().read(true).write(true).open("/dev/null")?,
        };
        Ok((guard, Leash(leash)))
    }

    /// Forks the process that will be the program, and returns in that; the calling one goes on as the guard. Between fork and
    /// exec: only system calls, and no memory is allocated.
    #[expect(unsafe_code, reason = "a second process is wanted before the exec")]
    pub(super) fn split(&self) -> io::Result<()> {
        let guard = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(guard))?;
        // SAFETY: this process has one thread, and both of it go on to exec or end.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The guard may have died before the line above took effect.
                if rustix::process::getppid() != Some(guard) {
                    return Err(rustix::io::Errno::SRCH.into());
                }
                Ok(rustix::process::setpgid(None, None)?)
            }
            program => Err(self.become_guard(program)),
        }
    }

    /// Executes the guard, with the pipe for its input, nothing else of ours and no signals but those that cannot be held off.
    /// Returns only why it could not.
    #[expect(unsafe_code, reason = "a program is executed in place of this one")]
    fn become_guard(&self, program: libc::pid_t) -> io::Error {
        if let Err(error) = rustix::io::write(&self.to_orders, &program.to_ne_bytes()) {
            return error.into();
        }
        let [name, argument] = ARGUMENTS.map(CStr::as_ptr);
        let arguments = [name, argument, ptr::null()];
        let environment = [ptr::null()];
        let mut signals = MaybeUninit::uninit();
        // SAFETY: plain system calls on descriptors that are open and on memory that outlives them; `sigfillset` makes the set
        // whole before it is read; the lists end with a null pointer.
        unsafe {
            libc::sigfillset(signals.as_mut_ptr());
            let blocked = libc::sigprocmask(libc::SIG_BLOCK, signals.as_ptr(), ptr::null_mut());
            let null = self.null.as_raw_fd();
            let streams = [self.orders.as_raw_fd(), null, null];
            let moved = (0..)
                .zip(streams)
                .all(|(to, from)| libc::dup2(from, to) == to);
            if blocked == 0 && moved {
                libc::execve(self.file.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            }
        }
        io::Error::last_os_error()
    }
}

/// Is the guard, until the program and all that came of it have ended.
pub fn run() -> ExitCode {
    // For those who list processes; it is called otherwise if that cannot be.
    let _ = rustix::thread::set_name(NAME);
    let mut id = [0; size_of::<libc::pid_t>()];
    let told = io::stdin().read_exact(&mut id);
    let Some(program) = told
        .ok()
        .and_then(|()| Pid::from_raw(i32::from_ne_bytes(id)))
    else {
        return ExitCode::FAILURE;
    };
    let living = Arc::new(Mutex::new(Some(program)));
    let obeying = Arc::clone(&living);
    let started = thread::Builder::new().spawn(move || obey(&obeying));
    if started.is_err() {
        // Without ears it must not run on.
        signal(&living, |program| {
            rustix::process::kill_process(program, Signal::KILL)
        });
    }
    let ended = reap_until_program(&living);
    end_the_rest();
    ended.map_or(ExitCode::FAILURE, |status| ExitCode::from(code(status)))
}

/// Does what comes through the pipe.
fn obey(living: &Mutex<Option<Pid>>) {
    let mut byte = [0];
    while matches!(io::stdin().read(&mut byte), Ok(1)) {
        signal(living, |program| {
            rustix::process::kill_process_group(program, Signal::TERM)
        });
    }
    // The rest follows it.
    signal(living, |program| {
        rustix::process::kill_process(program, Signal::KILL)
    });
}

/// Signals the program unless it was reaped: then its number may be another's.
fn signal(living: &Mutex<Option<Pid>>, send: impl FnOnce(Pid) -> rustix::io::Result<()>) {
    if let Some(program) = *living.lock().unwrap_or_else(PoisonError::into_inner) {
        // One that has ended is what is wanted.
        let _ = send(program);
    }
}

/// Reaps children, the program's orphans among them, until the program was. `None` if there is none.
fn reap_until_program(living: &Mutex<Option<Pid>>) -> Option<ExitStatus> {
    loop {
        let looked =
            rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        if matches!(looked, Err(rustix::io::Errno::INTR)) {
            continue;
        }
        looked.ok()?;
        let mut program = living.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, status) = rustix::process::wait(WaitOptions::NOHANG).ok()??;
        if *program == Some(id) {
            *program = None;
            return Some(ExitStatus::from_raw(status.as_raw()));
        }
    }
}

/// Kills and reaps all that came of the program.
fn end_the_rest() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let began = Instant::now();
    loop {
        census::kill_descendants(own);
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                // Nobody is left.
                Err(_) => return,
            }
        }
        if began.elapsed() > PATIENCE {
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The guard's exit status for the program's.
fn code(status: ExitStatus) -> u8 {
    let signalled = || Some(SIGNALLED + status.signal()?);
    let code = status.code().or_else(signalled);
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

/// The program's exit status for the guard's. One that ends by itself with such a number says, as shells do, that what it ran
/// was ended by a signal.
pub(super) fn programs_status(guards: ExitStatus) -> ExitStatus {
    let signal = guards.code().and_then(|code| code.checked_sub(SIGNALLED));
    match signal {
        Some(signal @ 1..=64) => ExitStatus::from_raw(signal),
        _ => guards,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_s_status_is_told_through_its_guard() {
        for raw in [
            0,
            1 << 8,
            3 << 8,
            127 << 8,
            libc::SIGKILL,
            libc::SIGSEGV,
            255 << 8,
        ] {
            let through = i32::from(code(ExitStatus::from_raw(raw))) << 8;
            let told = programs_status(ExitStatus::from_raw(through));
            assert_eq!(told, ExitStatus::from_raw(raw));
        }
        // A core was dumped; the signal is told.
        let dumped = code(ExitStatus::from_raw(libc::SIGABRT | 0x80));
        let told = programs_status(ExitStatus::from_raw(i32::from(dumped) << 8));
        assert_eq!(told.signal(), Some(libc::SIGABRT));
    }
}
