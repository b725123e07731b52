//! A child process that cannot outlive us, nor leave anything behind.
//!
//! Each child leads a process group of its own, so that what it starts can be ended with it; the kernel kills it when we
//! die, however we die (`PR_SET_PDEATHSIG`). That signal follows the *thread* that started the child, so all children are
//! started by one thread that lives as long as the [`Spawner`]. When a child ends, its group is killed before the child is
//! reaped: until then the group's number cannot belong to anybody else.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use super::sandbox::{Sandbox, SandboxError, Walls};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::{
    io::unix::AsyncFd,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot},
};

/// How long a child may take to end by itself after its input was closed, and again after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);
/// Children that may wait to be started at once.
const QUEUE: usize = 64;
/// The variables of our own environment that a child sees.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program, looked up in `PATH` unless it has a slash.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, beside `PATH`, `HOME` and `LANG`.
    pub env: BTreeMap<String, String>,
    /// Its working directory; ours if none.
    pub working_dir: Option<PathBuf>,
    /// The walls around it, if there are any.
    pub sandbox: Option<Sandbox>,
}

impl Program {
    /// Returns the files that it is made of, as far as its command line names them: the executable as it is found, and
    /// arguments that are files, such as an interpreter's script.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let arguments = self.args.iter().map(|argument| self.at(argument));
        self.executable()
            .into_iter()
            .chain(arguments.filter(|file| file.is_file()))
            .collect()
    }

    fn at(&self, name: &str) -> PathBuf {
        match &self.working_dir {
            Some(folder) => folder.join(name),
            None => PathBuf::from(name),
        }
    }

    /// Returns the program's own file, as far as it is found.
    pub(crate) fn executable(&self) -> Option<PathBuf> {
        if self.command.contains('/') {
            Some(self.at(&self.command))
        } else {
            let path = self.env.get("PATH").map(OsString::from);
            let path = path
                .or_else(|| std::env::var_os("PATH"))
                .unwrap_or_default();
            std::env::split_paths(&path)
                .map(|folder| folder.join(&self.command))
                .find(|file| file.is_file())
        }
    }
}

/// The one thread that starts children.
#[derive(Debug, Clone)]
pub struct Spawner {
    queue: mpsc::Sender<Order>,
}

struct Order {
    command: Command,
    runtime: tokio::runtime::Handle,
    done: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread. It ends, and takes the children with it, when the last clone is gone.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start() -> io::Result<Self> {
        let (queue, mut orders) = mpsc::channel::<Order>(QUEUE);
        std::thread::Builder::new()
            .name("plugin-spawner".into())
            .spawn(move || {
                while let Some(mut order) = orders.blocking_recv() {
                    let _runtime = order.runtime.enter();
                    // A caller that is gone drops the child, which kills it.
                    drop(order.done.send(order.command.spawn()));
                }
            })?;
        Ok(Self { queue })
    }

    /// Starts a program with its three streams piped to us.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub async fn spawn(&self, program: &Program) -> io::Result<Process> {
        let gone = || io::Error::other("the spawner has stopped");
        let (done, child) = oneshot::channel();
        let order = Order {
            command: command(program).map_err(io::Error::other)?,
            runtime: tokio::runtime::Handle::current(),
            done,
        };
        self.queue.send(order).await.map_err(|_| gone())?;
        Process::new(child.await.map_err(|_| gone())??)
    }
}

fn command(program: &Program) -> Result<Command, SandboxError> {
    let sandbox = program.sandbox.as_ref();
    let walls = sandbox.map(|sandbox| sandbox.walls(program)).transpose()?;
    let inherited = INHERITED
        .iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let mut command = Command::new(&program.command);
    command
        .args(&program.args)
        .env_clear()
        .envs(inherited)
        .envs(&program.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(folder) = &program.working_dir {
        command.current_dir(folder);
    }
    before_exec(&mut command, walls);
    Ok(command)
}

#[expect(
    unsafe_code,
    reason = "the kernel's parent-death signal can only be asked for between fork and exec, and so can walls"
)]
fn before_exec(command: &mut Command, mut walls: Option<Walls>) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died before the line above took effect.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        walls.as_mut().map_or(Ok(()), Walls::put_up)
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; `prctl`, `getppid`, `landlock_restrict_self`
    // and `seccomp` are plain system calls, and no memory is allocated.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// A running child and everything in its group. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Group,
    exited: AsyncFd<OwnedFd>,
}

/// A process group, killed on drop.
#[derive(Debug)]
struct Group {
    leader: Pid,
    reaped: bool,
}

impl Group {
    fn signal(&self, signal: Signal) {
        if !self.reaped {
            // A group that is gone already is what is wanted.
            let _ = rustix::process::kill_process_group(self.leader, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The three ends of the pipes.
#[derive(Debug)]
pub struct Streams {
    /// To the child.
    pub stdin: ChildStdin,
    /// From the child.
    pub stdout: ChildStdout,
    /// What it tells people.
    pub stderr: ChildStderr,
}

impl Process {
    fn new(child: Child) -> io::Result<Self> {
        let leader = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| io::Error::other("the child ended before it was seen"))?;
        let group = Group {
            leader,
            reaped: false,
        };
        #[expect(
            deprecated,
            reason = "an owned descriptor stays open for as long as the wait"
        )]
        let exited = AsyncFd::new(rustix::process::pidfd_open(leader, PidfdFlags::NONBLOCK)?)?;
        Ok(Self {
            child,
            group,
            exited,
        })
    }

    /// Returns the process ID.
    pub fn id(&self) -> i32 {
        self.group.leader.as_raw_nonzero().get()
    }

    /// Takes the pipes; `None` the second time.
    pub fn streams(&mut self) -> Option<Streams> {
        Some(Streams {
            stdin: self.child.stdin.take()?,
            stdout: self.child.stdout.take()?,
            stderr: self.child.stderr.take()?,
        })
    }

    /// Waits until the child ends, then ends its group and reaps it. May be dropped and called again.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.exited.readable().await?.retain_ready();
        self.group.signal(Signal::KILL);
        self.group.reaped = true;
        self.child.wait().await
    }

    /// Ends the child: waits a little (its input is expected to be closed), asks with SIGTERM, insists with SIGKILL.
    pub async fn stop(mut self) {
        for signal in [Signal::TERM, Signal::KILL] {
            if tokio::time::timeout(PATIENCE, self.wait()).await.is_ok() {
                return;
            }
            self.group.signal(signal);
        }
        // SIGKILL was sent; only the kernel can make this wait long.
        drop(tokio::time::timeout(PATIENCE, self.wait()).await);
    }
}
