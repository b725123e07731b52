//! What a child writes for people: to our log, line by line, escaped and bounded. It is no sign of failure.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use mcp::lines::{Line, LineSplitter};

/// The longest line that is logged whole, in bytes.
const LINE_BYTES_MAX: usize = 4096;
/// Lines that are logged in one second; the rest are counted.
const LINES_PER_SECOND: u32 = 50;

/// Copies a child's standard error to the log until it ends.
pub(crate) async fn log<R: AsyncRead + Unpin>(plugin: Arc<str>, mut stderr: R) {
    let mut splitter = LineSplitter::new(LINE_BYTES_MAX);
    let mut chunk = vec![0; 8 << 10];
    let mut second = Second::new(Instant::now());
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        splitter.feed(&chunk[..count], |line| {
            second.log(&plugin, &line, Instant::now());
        });
    }
    splitter.finish(|line| second.log(&plugin, &line, Instant::now()));
}

/// The allowance of the second that runs.
struct Second {
    began: Instant,
    logged: u32,
    dropped: u64,
}

impl Second {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            logged: 0,
            dropped: 0,
        }
    }

    fn log(&mut self, plugin: &str, line: &Line<'_>, now: Instant) {
        if now.duration_since(self.began) >= Duration::from_secs(1) {
            if self.dropped > 0 {
                tracing::warn!(
                    plugin,
                    lines = self.dropped,
                    "lines of the plugin's standard error were dropped"
                );
            }
            *self = Self::new(now);
        }
        if self.logged == LINES_PER_SECOND {
            self.dropped += 1;
            return;
        }
        self.logged += 1;
        match line {
            Line::Whole(text) => {
                tracing::info!(target: "plugin::stderr", plugin, line = %String::from_utf8_lossy(text).escape_debug());
            }
            Line::TooLong { head, .. } => {
                tracing::info!(target: "plugin::stderr", plugin, line = %String::from_utf8_lossy(head).escape_debug(), cut = true);
            }
        }
    }
}
