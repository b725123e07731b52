//! Where words go: the result to stdout, everything else to stderr.
//!
//! A result is one value with two faces, JSON for scripts and text for people. Progress is a line that is
//! redrawn on a terminal and plain lines anywhere else, so that a log of a pipeline reads like a log.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::failure::Told;

/// The form of the result on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object (one per line for streams), with the exit under `exit`.
    Json,
}

/// What is known about the terminal, once, at the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// stdout is a terminal.
    pub(crate) stdout: bool,
    /// stderr is a terminal that can redraw a line.
    pub(crate) redraws: bool,
    /// Colour may be used on stdout.
    pub(crate) color: bool,
    /// Colour may be used on stderr.
    pub(crate) color_stderr: bool,
}

impl Terminal {
    /// Looks at the streams and at `NO_COLOR`, `FORCE_COLOR` and `TERM`.
    pub(crate) fn detect() -> Self {
        let (stdout, stderr) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let wanted = |tty: bool| !set("NO_COLOR") && (set("FORCE_COLOR") || (tty && !dumb));
        Self {
            stdout,
            redraws: stderr && !dumb,
            color: wanted(stdout),
            color_stderr: wanted(stderr),
        }
    }
}

/// A colour with a meaning; the word next to it says the same.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tone {
    /// All is well.
    Good,
    /// Under way, or worth a look.
    Warn,
    /// Broken.
    Bad,
    /// Of less interest.
    Faint,
    /// A heading.
    Strong,
}

/// Wraps `text` in the colour of `tone` when colour is on.
pub(crate) fn paint(color: bool, tone: Tone, text: &str) -> String {
    if !color {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Faint => "2",
        Tone::Strong => "1",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// A result with a face for people; its `Serialize` is the face for scripts.
pub(crate) trait Report: Serialize {
    /// The text, with its final newline.
    fn text(&self, color: bool) -> String;
}

/// Prints results and progress in the chosen form.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    terminal: Terminal,
    /// The progress line now on the screen, so that it is drawn and logged only when it changes.
    line: Mutex<Option<String>>,
}

impl Output {
    /// An output for `format` on this terminal.
    pub(crate) fn new(format: Format, terminal: Terminal) -> Self {
        Self {
            format,
            terminal,
            line: Mutex::new(None),
        }
    }

    /// The chosen form.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The terminal's facts.
    pub(crate) fn terminal(&self) -> Terminal {
        self.terminal
    }

    /// Prints the result and hands the exit on, so that a verb can end with it.
    pub(crate) fn report(&self, report: &impl Report, exit: Exit) -> Result<Exit> {
        self.clear_progress();
        match self.format {
            Format::Text => self.result(&report.text(self.terminal.color))?,
            Format::Json => {
                let mut value = serde_json::to_value(report).context("cannot encode the result")?;
                if let Value::Object(members) = &mut value {
                    members.insert("exit".into(), exit_json(exit, exit.reason));
                }
                self.result(&format!("{value:#}\n"))?;
            }
        }
        Ok(exit)
    }

    /// Writes to stdout as is. A reader that has gone away (`| head`) is not an error.
    pub(crate) fn result(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        let written = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            other => other.context("cannot write to stdout"),
        }
    }

    /// Says a step that has been done, on stderr.
    pub(crate) fn step(&self, text: &str) {
        self.clear_progress();
        self.stderr(&format!("{text}\n"));
    }

    /// Says something to take note of, on stderr.
    pub(crate) fn warn(&self, text: &str) {
        let label = paint(self.terminal.color_stderr, Tone::Warn, "warning:");
        self.step(&format!("{label} {text}"));
    }

    /// Says what is being waited for, on stderr: one line that is redrawn, or one line per change.
    pub(crate) fn progress(&self, text: &str) {
        let mut line = self
            .line
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if line.as_deref() == Some(text) {
            return;
        }
        if self.terminal.redraws {
            let width = crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns));
            let shown: String = text.chars().take(width.saturating_sub(1)).collect();
            self.stderr(&format!("\r\u{1b}[K{shown}"));
        } else {
            self.stderr(&format!("{text}\n"));
        }
        *line = Some(text.to_owned());
    }

    /// Takes the redrawn line off the screen.
    pub(crate) fn clear_progress(&self) {
        let mut line = self
            .line
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if line.take().is_some() && self.terminal.redraws {
            self.stderr("\r\u{1b}[K");
        }
    }

    /// Shows an error: the chain and the hint on stderr, and the exit on stdout for scripts.
    pub(crate) fn fail(&self, told: &Told) {
        self.clear_progress();
        self.stderr(&error_text(told, self.terminal.color_stderr));
        if self.format == Format::Json {
            let mut exit = exit_json(told.exit, &told.lines.join(": "));
            if let (Value::Object(members), Some(hint)) = (&mut exit, &told.hint) {
                members.insert("hint".into(), json!(hint));
            }
            // Nothing is left to tell if stdout is gone too.
            let _ = self.result(&format!("{:#}\n", json!({ "exit": exit })));
        }
    }

    /// stderr is the last resort: if it is gone there is nobody to tell.
    fn stderr(&self, text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

fn exit_json(exit: Exit, reason: &str) -> Value {
    json!({ "code": exit.code, "reason": reason })
}

/// The text of an error for people.
pub(crate) fn error_text(told: &Told, color: bool) -> String {
    let mut text = String::new();
    for (depth, line) in told.lines.iter().enumerate() {
        if depth == 0 {
            text.push_str(&paint(color, Tone::Bad, "error:"));
            text.push_str(&format!(" {line}\n"));
        } else {
            text.push_str(&format!("  because: {line}\n"));
        }
    }
    if let Some(hint) = &told.hint {
        let mut label = paint(color, Tone::Strong, "hint:");
        for line in hint.lines() {
            text.push_str(&format!("{label} {line}\n"));
            label = "     ".to_owned();
        }
    }
    text
}

/// A table of left-aligned columns, two spaces apart, with a heading. Cells may carry colour: widths are
/// of the plain text, so colour the cell by `(tone, text)`.
pub(crate) fn table(color: bool, heading: &[&str], rows: &[Vec<(Option<Tone>, String)>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, (_, cell)) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: Vec<(Option<Tone>, &str)>| {
        let last = cells.len().saturating_sub(1);
        for (index, (tone, cell)) in cells.into_iter().enumerate() {
            text.push_str(&tone.map_or_else(|| cell.to_owned(), |t| paint(color, t, cell)));
            if index < last {
                let gap = widths[index] + 2 - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', gap));
            }
        }
        text.push('\n');
    };
    line(heading.iter().map(|h| (Some(Tone::Faint), *h)).collect());
    for row in rows {
        line(
            row.iter()
                .map(|(tone, cell)| (*tone, cell.as_str()))
                .collect(),
        );
    }
    text
}

/// Text from elsewhere, made safe to print: control characters become `\u{..}` escapes.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let keep = c == '\t' || !c.is_control();
            let escaped = (!keep).then(|| c.escape_default());
            escaped.into_iter().flatten().chain(keep.then_some(c))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_causes_and_the_next_step() {
        let told = Told {
            lines: vec!["cannot start the edge".into(), "port 8700 is taken".into()],
            hint: Some("change `edge.listen`\nor stop the other".into()),
            exit: Exit::ERROR,
        };
        insta::assert_snapshot!(error_text(&told, false), @r"
        error: cannot start the edge
          because: port 8700 is taken
        hint: change `edge.listen`
              or stop the other
        ");
    }

    #[test]
    fn a_table_aligns_by_the_plain_text() {
        let rows = vec![
            vec![(None, "edge-1".into()), (Some(Tone::Good), "ready".into())],
            vec![(None, "app-1a2b3c4d-1".into()), (None, "starting".into())],
        ];
        insta::assert_snapshot!(table(false, &["NAME", "HEALTH"], &rows), @r"
        NAME            HEALTH
        edge-1          ready
        app-1a2b3c4d-1  starting
        ");
    }

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\tc"), "a\\u{1b}[2Jb\tc");
    }
}
