//! What a child writes for people: to our log, line by line, escaped, bounded and without secrets. It is no sign of failure.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use telemetry::Redaction;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use mcp::lines::{Line, LineSplitter};

/// The longest line that is logged whole, in bytes.
const LINE_BYTES_MAX: usize = 4096;
/// Lines that are logged in one second; the rest are counted.
const LINES_PER_SECOND: u32 = 50;

/// Shorter values of a child's environment are no secrets, in bytes: they would blot out ordinary words.
const SECRET_BYTES_MIN: usize = 6;
/// What stands in place of such a value.
const MASK: &str = "[redacted]";

/// What becomes of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stderr {
    /// It is logged, without what is a secret or looks like one.
    #[default]
    Log,
    /// It is read and forgotten.
    Drop,
}

/// What must not be logged: the values that were configured for the child's environment, whatever they look like, and what
/// looks like a secret.
struct Secrets {
    values: Vec<String>,
    looks: Redaction,
}

impl Secrets {
    fn of(environment: &BTreeMap<String, String>) -> Self {
        // A value of many lines comes by in lines.
        let lines = environment.values().flat_map(|value| value.lines());
        let mut values: Vec<String> = lines
            .map(str::trim)
            .filter(|value| value.len() >= SECRET_BYTES_MIN)
            .map(str::to_owned)
            .collect();
        // One that holds another goes first.
        values.sort_unstable_by_key(|value| std::cmp::Reverse(value.len()));
        Self {
            values,
            looks: Redaction::default(),
        }
    }

    /// Returns a line for the log.
    fn hide(&self, line: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(line);
        for value in &self.values {
            if text.contains(value) {
                text = Cow::Owned(text.replace(value, MASK));
            }
        }
        self.looks.line(&text).escape_debug().to_string()
    }

    /// Returns the beginning of a line for the log. Where it was cut may stand the beginning of a secret, or of a word.
    fn hide_beginning(&self, head: &[u8]) -> String {
        let longest = self.values.first().map_or(0, String::len);
        let sure = &head[..head.len().saturating_sub(longest)];
        let words = sure.iter().rposition(u8::is_ascii_whitespace);
        self.hide(&sure[..words.unwrap_or_default()])
    }
}

/// Reads a child's standard error until it ends, and logs it if that is wanted.
pub(super) async fn attend<R: AsyncRead + Unpin>(
    plugin: Arc<str>,
    mut stderr: R,
    wanted: Stderr,
    environment: &BTreeMap<String, String>,
) {
    match wanted {
        Stderr::Log => log(plugin, stderr, &Secrets::of(environment)).await,
        Stderr::Drop => {
            // One that cannot be read has ended.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        }
    }
}

async fn log<R: AsyncRead + Unpin>(plugin: Arc<str>, mut stderr: R, secrets: &Secrets) {
    let mut splitter = LineSplitter::new(LINE_BYTES_MAX);
    let mut chunk = vec![0; 8 << 10];
    let mut second = Second::new(Instant::now());
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        splitter.feed(&chunk[..count], |line| {
            second.log(&plugin, &line, secrets, Instant::now());
        });
    }
    splitter.finish(|line| second.log(&plugin, &line, secrets, Instant::now()));
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

    fn log(&mut self, plugin: &str, line: &Line<'_>, secrets: &Secrets, now: Instant) {
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
                tracing::info!(target: "plugin::stderr", plugin, line = secrets.hide(text));
            }
            Line::TooLong { head, .. } => {
                tracing::info!(target: "plugin::stderr", plugin, line = secrets.hide_beginning(head), cut = true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_a_line_ends() {
        let environment = [
            ("A", "hunter2 x"),
            ("B", "first line\nsecond line"),
            ("C", "on"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let secrets = Secrets::of(&BTreeMap::from(environment));
        for (line, shown) in [
            ("up and on", "up and on"),
            ("with hunter2 x.", "with [redacted]."),
            ("a second line", "a [redacted]"),
            ("password=abc\tdone", "password=[redacted]\\tdone"),
        ] {
            assert_eq!(secrets.hide(line.as_bytes()), shown);
        }
        for (head, shown) in [
            ("an ordinary beginning of hunter2", "an ordinary"),
            (
                "an ordinary beginning of ghp_abcdefgh",
                "an ordinary beginning of",
            ),
            ("word", ""),
        ] {
            assert_eq!(secrets.hide_beginning(head.as_bytes()), shown);
        }
    }
}
