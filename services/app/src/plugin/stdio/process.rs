//! A child process that cannot outlive us, nor leave anything behind.
//!
//! Each child is guarded by a process of its own, which ends the program and all that came of it when the program ends or we
//! do ([`guard`]). The program leads a process group, so that what it starts is asked to end with it. The kernel kills it when
//! its guard dies (`PR_SET_PDEATHSIG`).

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use super::{
    guard::{self, Guard, Leash},
    sandbox::{Sandbox, SandboxError, Walls},
};
use rustix::process::{Pid, PidfdFlags};
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
    /// The file that is executed to guard it: `sweetmcp-app`, whose first argument is then [`guard::ARGUMENT`].
    pub guard: PathBuf,
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

/// The one thread that starts children: it is theirs to wait until a child executes.
#[derive(Debug, Clone)]
pub struct Spawner {
    queue: mpsc::Sender<Order>,
}

struct Order {
    command: Command,
    leash: Leash,
    runtime: tokio::runtime::Handle,
    done: oneshot::Sender<io::Result<Process>>,
}

impl Order {
    fn carry_out(mut self) {
        let _runtime = self.runtime.enter();
        let started = self.command.spawn();
        // A caller that is gone drops the child, whose guard ends it then.
        drop(
            self.done
                .send(started.and_then(|child| Process::new(child, self.leash))),
        );
    }
}

impl Spawner {
    /// Starts the thread. It ends when the last clone is gone.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start() -> io::Result<Self> {
        let (queue, mut orders) = mpsc::channel::<Order>(QUEUE);
        std::thread::Builder::new()
            .name("plugin-spawner".into())
            .spawn(move || {
                while let Some(order) = orders.blocking_recv() {
                    order.carry_out();
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
        let (guard, leash) = Guard::new(&program.guard)?;
        let order = Order {
            command: command(program, guard).map_err(io::Error::other)?,
            leash,
            runtime: tokio::runtime::Handle::current(),
            done,
        };
        self.queue.send(order).await.map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

fn command(program: &Program, guard: Guard) -> Result<Command, SandboxError> {
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
        .process_group(0);
    if let Some(folder) = &program.working_dir {
        command.current_dir(folder);
    }
    before_exec(&mut command, guard, walls);
    Ok(command)
}

#[expect(
    unsafe_code,
    reason = "guard and walls can only be put between us and the program between fork and exec"
)]
fn before_exec(command: &mut Command, guard: Guard, mut walls: Option<Walls>) {
    let prepare = move || {
        guard.split()?;
        walls.as_mut().map_or(Ok(()), Walls::put_up)
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; what guard and walls do are plain system calls,
    // and no memory is allocated.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// A running child and all that came of it. Dropping it ends them.
#[derive(Debug)]
pub struct Process {
    /// The guard, which ends last.
    child: Child,
    id: Pid,
    leash: Option<Leash>,
    exited: AsyncFd<OwnedFd>,
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
    fn new(child: Child, leash: Leash) -> io::Result<Self> {
        let id = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| io::Error::other("the child ended before it was seen"))?;
        #[expect(
            deprecated,
            reason = "an owned descriptor stays open for as long as the wait"
        )]
        let exited = AsyncFd::new(rustix::process::pidfd_open(id, PidfdFlags::NONBLOCK)?)?;
        Ok(Self {
            child,
            id,
            leash: Some(leash),
            exited,
        })
    }

    /// Returns the process ID of its guard.
    pub fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    /// Takes the pipes; `None` the second time.
    pub fn streams(&mut self) -> Option<Streams> {
        Some(Streams {
            stdin: self.child.stdin.take()?,
            stdout: self.child.stdout.take()?,
            stderr: self.child.stderr.take()?,
        })
    }

    /// Waits until the program and all that came of it have ended. May be dropped and called again.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.exited.readable().await?.retain_ready();
        self.child.wait().await.map(guard::programs_status)
    }

    /// Ends the child: waits a little (its input is expected to be closed), asks with SIGTERM, insists with SIGKILL.
    pub async fn stop(mut self) {
        if tokio::time::timeout(PATIENCE, self.wait()).await.is_ok() {
            return;
        }
        if let Some(leash) = &self.leash {
            leash.ask_to_end();
        }
        if tokio::time::timeout(PATIENCE, self.wait()).await.is_ok() {
            return;
        }
        self.leash = None;
        // SIGKILL is on its way; only the kernel can make this wait long.
        drop(tokio::time::timeout(PATIENCE, self.wait()).await);
    }
}
