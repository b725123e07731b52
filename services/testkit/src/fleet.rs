//! One fleet, from `sweetops up` to `sweetops down`.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::client::Client;
use crate::tools::{binary, workspace};

/// What every test fleet has: free ports on loopback.
const BASE: &str = r#"
[edge]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
capnp_listen = "127.0.0.1:0"
"#;

/// A running fleet. Dropping it takes it down; its folder stays if the test is failing.
pub struct Fleet {
    folder: PathBuf,
    /// What `sweetops status -o json` said when it had come up.
    pub status: Status,
    /// A token for calls.
    pub token: String,
    client: Client,
}

/// `sweetops status -o json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Where to call.
    pub endpoints: Endpoints,
    /// What runs.
    pub instances: Vec<Instance>,
}

/// Where to call.
#[derive(Debug, Clone, Deserialize)]
pub struct Endpoints {
    /// Streamable HTTP.
    pub mcp: String,
    /// Plain JSON-RPC.
    pub jsonrpc: String,
    /// JSON-RPC arrays.
    pub batch: String,
    /// GraphQL.
    pub graphql: String,
    /// Cap'n Proto RPC, `host:port`.
    pub capnp: String,
    /// Operators.
    pub admin: String,
}

/// One process.
#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// `edge` or `app`.
    pub role: String,
    /// Its process.
    pub pid: u32,
    /// What it runs.
    pub release: String,
    /// `ready` when it serves.
    pub health: String,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output as JSON.
    ///
    /// # Errors
    /// When it is none; the error shows what the command said.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {self:?}"))
    }

    /// Fails unless the command exited with 0.
    ///
    /// # Errors
    /// With all that the command said.
    pub fn ok(self) -> Result<Ran> {
        if self.code != 0 {
            bail!("exit code {}\n{}\n{}", self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }
}

impl Fleet {
    /// Brings up a fleet with `more` added to the basic configuration. An `[edge]` table of its own
    /// replaces the basic one.
    ///
    /// # Errors
    /// When it does not come up; the error shows what `sweetops` said.
    pub async fn up(more: &str) -> Result<Fleet> {
        let folder = new_folder()?;
        let base = if more.contains("[edge]") { "" } else { BASE };
        std::fs::write(folder.join("sweetmcp.toml"), format!("{base}\n{more}\n"))?;
        let mut fleet = Fleet {
            folder,
            status: Status {
                endpoints: Endpoints {
                    mcp: String::new(),
                    jsonrpc: String::new(),
                    batch: String::new(),
                    graphql: String::new(),
                    capnp: String::new(),
                    admin: String::new(),
                },
                instances: Vec::new(),
            },
            token: String::new(),
            client: Client::new("")?,
        };
        fleet.start().await?;
        Ok(fleet)
    }

    /// Runs `sweetops up` (again) and takes note of what came up.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(&mut self) -> Result<()> {
        let config = self.config().display().to_string();
        self.sweetops(&["up", "--config", &config]).await?.ok()?;
        self.status = self.read_status().await?;
        self.token = self.mint(&[]).await?;
        self.client = Client::new(&self.token)?;
        Ok(())
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("sweetmcp.toml")
    }

    /// The fleet's own folder, for files that a test needs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// A `sweetops` command for this fleet.
    ///
    /// # Errors
    /// When the binary has not been built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("sweetops")?);
        command
            .args(args)
            .env("SWEETOPS_STATE", self.state())
            .env("NO_COLOR", "1")
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `sweetops` to its end.
    ///
    /// # Errors
    /// When it cannot be started or takes longer than five minutes.
    pub async fn sweetops(&self, args: &[&str]) -> Result<Ran> {
        let mut command = self.command(args)?;
        command.kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(300), command.output())
            .await
            .with_context(|| format!("sweetops {args:?} did not end"))??;
        Ok(Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What runs now.
    ///
    /// # Errors
    /// When `sweetops status` fails.
    pub async fn read_status(&self) -> Result<Status> {
        let ran = self.sweetops(&["status", "-o", "json"]).await?.ok()?;
        serde_json::from_str(&ran.stdout).with_context(|| format!("no status: {ran:?}"))
    }

    /// A token with more flags than the usual.
    ///
    /// # Errors
    /// When `sweetops token` fails.
    pub async fn mint(&self, flags: &[&str]) -> Result<String> {
        let mut args = vec!["token", "-o", "json"];
        args.extend_from_slice(flags);
        let ran = self.sweetops(&args).await?.ok()?;
        let json = ran.json()?;
        json["token"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("no token: {ran:?}"))
    }

    /// A client with this fleet's token.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Calls a tool over `/mcp`.
    ///
    /// # Errors
    /// As [`Client::call_tool`].
    pub async fn call_tool(&self, name: &str, arguments: Value) -> Result<Value> {
        self.client
            .call_tool(&self.status.endpoints.mcp, name, arguments)
            .await
    }

    /// Kills a process of this fleet without warning.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn kill_9(&self, pid: u32) -> Result<()> {
        signal(pid, Signal::KILL)
    }
}

/// Interrupts a process, as Ctrl-C does.
///
/// # Errors
/// When there is no such process.
pub fn interrupt(pid: u32) -> Result<()> {
    signal(pid, Signal::INT)
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    rustix::process::kill_process(pid.context("no pid")?, signal)?;
    Ok(())
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let down = binary("sweetops").map(|path| {
            std::process::Command::new(path)
                .arg("down")
                .env("SWEETOPS_STATE", self.state())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
        });
        let clean = matches!(down, Ok(Ok(status)) if status.success());
        if clean && !std::thread::panicking() && std::env::var_os("SWEETMCP_KEEP_FLEETS").is_none()
        {
            // Left behind, it would only take room.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A fresh folder under `target/test-fleets`, named by process and number so that a failing test's logs
/// are easy to find.
fn new_folder() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let test = std::thread::current()
        .name()
        .unwrap_or("test")
        .replace("::", "-");
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = workspace()
        .join("target/test-fleets")
        .join(format!("{test}-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Tries until it holds: polls every 50 ms, and fails with the last reason when `limit` has passed.
///
/// # Errors
/// The last failure.
pub async fn eventually<T, F, Fut>(limit: Duration, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if began.elapsed() >= limit => {
                return Err(error.context(format!("still not so after {limit:?}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
