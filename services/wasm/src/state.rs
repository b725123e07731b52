//! What belongs to one instance: its limits, what it was granted, and whom it works for.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::{
    StoreLimits, StoreLimitsBuilder,
    component::{HasSelf, Linker, ResourceTable},
};
use wasmtime_wasi::{FsPerms, HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};

use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::interface::sweetmcp::plugin::host;
pub use crate::interface::sweetmcp::plugin::host::Level;
use crate::web::{Requests, Web};

/// Log lines of one call.
const LOG_LINES_MAX: usize = 100;
/// Length of a log line or progress message, in characters.
const LOG_CHARS_MAX: usize = 1024;
/// What is asked for when random bytes are read at once.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// The name under which the interface for secure randomness is linked.
const RANDOM: &str = "wasi:random/random@0.2.12";

/// What a component may ask of whoever calls it.
pub trait Host: Send + Sync + 'static {
    /// Writes a line to the log; it is the component's text, cut to 1,024 characters.
    fn log(&self, level: Level, message: &str);
    /// Says how far the call is.
    fn progress(&self, done: f64, total: Option<f64>, message: Option<&str>);
}

/// How much an instance may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of each of its memories; a component in one language has one.
    pub memory_bytes: usize,
    /// Bytes of an answer.
    pub answer_bytes: usize,
    /// Calls under way at once.
    pub calls: usize,
    /// Instances that wait for a call, so that it need not wait for one.
    pub warm: usize,
    /// How much it may compute, in WebAssembly instructions or what weighs as much; without one time alone ends it.
    pub fuel: Option<u64>,
}

/// What an instance may do beside computing. Nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Whether it is told the time; else every clock stands at zero.
    pub clock: bool,
    /// Whether it gets secure randomness; else asking for it is a trap.
    pub random: bool,
    /// A folder that it sees as `/data`.
    pub folder: Option<Folder>,
    /// A way to other servers; without one a component that wants it is not loaded.
    pub web: Option<Web>,
}

/// A folder that is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// What may be done in it.
    pub rights: Rights,
}

/// What may be done in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Reading.
    Read,
    /// Reading, writing, making and removing.
    ReadWrite,
}

/// What a store holds.
pub(crate) struct State {
    pub(crate) limits: StoreLimits,
    /// When the call ends, wherever it is.
    pub(crate) deadline: Instant,
    /// Whom it works for; nobody before its call.
    pub(crate) host: Option<Arc<dyn Host>>,
    lines: usize,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    pub(crate) requests: Requests,
    table: ResourceTable,
}

impl State {
    pub(crate) fn new(
        limits: &Limits,
        grants: &Grants,
        deadline: Instant,
    ) -> wasmtime::Result<Self> {
        let mut wasi = WasiCtx::builder();
        wasi.allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM_BYTES_MAX);
        if !grants.clock {
            wasi.wall_clock(Stopped).monotonic_clock(Stopped);
        }
        if let Some(folder) = &grants.folder {
            let rights = match folder.rights {
                Rights::Read => FsPerms::ReadOnly,
                Rights::ReadWrite => FsPerms::ReadWrite,
            };
            wasi.preopened_dir(&folder.path, "/data", rights)?;
        }
        Ok(Self {
            limits: StoreLimitsBuilder::new()
                .memory_size(limits.memory_bytes)
                .table_elements(crate::runtime::TABLE_ELEMENTS_MAX)
                .instances(64)
                .memories(16)
                .tables(64)
                .trap_on_grow_failure(true)
                .build(),
            deadline,
            host: None,
            lines: 0,
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            requests: Requests {
                web: grants.web.clone(),
                deadline,
            },
            table: ResourceTable::new(),
        })
    }
}

/// Links what a component may import: its host, and the standard interfaces, each as far as it is granted.
pub(crate) fn link(linker: &mut Linker<State>, grants: &Grants) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    host::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    if grants.web.is_some() {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    }
    if !grants.random {
        linker.allow_shadowing(true);
        let mut random = linker.instance(RANDOM)?;
        let refused = || wasmtime::format_err!("the plugin was not granted randomness");
        random.func_wrap("get-random-bytes", move |_, (_,): (u64,)| {
            Err::<(Vec<u8>,), _>(refused())
        })?;
        random.func_wrap("get-random-u64", move |_, ()| Err::<(u64,), _>(refused()))?;
        linker.allow_shadowing(false);
    }
    Ok(())
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.requests,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl host::Host for State {
    fn log(&mut self, level: Level, message: String) {
        self.lines += 1;
        if let (Some(host), ..=LOG_LINES_MAX) = (&self.host, self.lines) {
            host.log(level, cut(&message));
        }
    }

    fn progress(&mut self, done: f64, total: Option<f64>, message: Option<String>) {
        if let Some(host) = &self.host {
            host.progress(done, total, message.as_deref().map(cut));
        }
    }
}

fn cut(text: &str) -> &str {
    text.char_indices()
        .nth(LOG_CHARS_MAX)
        .map_or(text, |(at, _)| &text[..at])
}

/// A clock for whoever was not granted one.
struct Stopped;

impl HostWallClock for Stopped {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Stopped {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}
