//! A runtime for all tests, a component that misbehaves on request, and a host that remembers.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use wasm::{CallError, Grants, Host, Level, Limits, Plugin, Runtime};

/// One for the process, as in production.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("components");
    Runtime::start(Some(&folder)).unwrap()
});

/// What a component told its host.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<String>>);

impl Host for Heard {
    fn log(&self, level: Level, message: &str) {
        self.0.lock().unwrap().push(format!("{level:?}: {message}"));
    }

    fn progress(&self, done: f64, total: Option<f64>, message: Option<&str>) {
        let line = format!("{done} of {total:?}: {message:?}");
        self.0.lock().unwrap().push(line);
    }
}

pub const LIMITS: Limits = Limits {
    memory_bytes: 64 << 20,
    answer_bytes: 1 << 20,
    calls: 8,
    warm: 2,
    fuel: None,
};

pub fn load(bytes: &[u8], grants: Grants) -> Plugin {
    Plugin::load(&RUNTIME, bytes, LIMITS, grants).unwrap()
}

pub fn soon(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

pub async fn call(
    plugin: &Plugin,
    tool: &str,
    arguments: &str,
) -> Result<Result<String, String>, CallError> {
    plugin
        .call_tool(tool, arguments, Arc::new(Heard::default()), soon(5_000))
        .await
}

/// A component whose tools are known by their first letter: `echo`, `count` (its calls so far), `loop`, `grow` (without
/// end), `trap`, `deep` (without end), `wild` (an answer outside of its memory), `huge` (4 MiB), `refuse`.
pub fn rude() -> Vec<u8> {
    wat::parse_str(include_str!("rude.wat")).unwrap()
}
