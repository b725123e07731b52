//! `sweetops logs`: what the instances and the agent have written, old and new.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::Value;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Format, Tone, paint, printable};

/// The end of a log that is looked at; more lines than fit are not shown.
const TAIL_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What is read of one log at a time while following.
const CHUNK_BYTES_MAX: u64 = 1024 * 1024;

/// Show what the instances have written.
///
/// Lines that are JSON are shown for people: time, level, message, the rest as key=value. With `-o json` each
/// line is one JSON object with the instance's name, for `jq`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops logs\n  \
    sweetops logs -f edge-1\n  \
    sweetops logs agent --lines 200\n  \
    sweetops logs -f -o json | jq 'select(.level == \"error\")'")]
pub(crate) struct LogsArgs {
    /// An instance, or `agent` [default: all that run now]
    instance: Option<String>,
    /// Go on with new lines as they come
    #[arg(short, long)]
    follow: bool,
    /// How many lines of each log
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: usize,
}

/// Prints, and follows if asked to.
pub(crate) async fn run(ctx: &Context, args: LogsArgs) -> Result<Exit> {
    let folder = ctx.state.logs();
    let names = choose(ctx, &folder, args.instance.as_deref()).await?;
    // Watched before reading, so that nothing falls between.
    let changes = args.follow.then(|| Changes::new(&folder)).transpose()?;
    let mut logs: BTreeMap<String, Log> = BTreeMap::new();
    for name in names {
        let path = ctx.state.log(&name);
        let (lines, end) = tail(&path, args.lines)?;
        for line in &lines {
            print(ctx, &name, line)?;
        }
        logs.insert(
            name,
            Log {
                path,
                position: end,
                partial: Vec::new(),
            },
        );
    }
    let Some(mut changes) = changes else {
        return Ok(Exit::DONE);
    };
    loop {
        changes.next().await?;
        if args.instance.is_none() {
            // Instances come and go: a log that appears is followed from its beginning.
            for name in names_in(&folder)? {
                let path = ctx.state.log(&name);
                let fresh = ctx.state.process(&name).exists();
                logs.entry(name).or_insert_with(|| Log {
                    position: if fresh {
                        0
                    } else {
                        fs::metadata(&path).map_or(0, |m| m.len())
                    },
                    path,
                    partial: Vec::new(),
                });
            }
        }
        for (name, log) in &mut logs {
            for line in log.new_lines()? {
                print(ctx, name, &line)?;
            }
        }
    }
}

async fn choose(ctx: &Context, folder: &Path, instance: Option<&str>) -> Result<Vec<String>> {
    let all = names_in(folder)?;
    let Some(instance) = instance else {
        let registry = ctx.registry().await?;
        let processes = registry
            .processes()
            .await
            .context("cannot read the processes")?;
        let mut running: Vec<String> = processes
            .into_iter()
            .map(|p| p.name)
            .filter(|n| all.contains(n))
            .collect();
        if running.is_empty() {
            running = all;
        }
        return Ok(running);
    };
    if all.iter().any(|name| name == instance) {
        return Ok(vec![instance.to_owned()]);
    }
    let known = if all.is_empty() {
        "there are no logs yet".to_owned()
    } else {
        format!("there are: {}", all.join(", "))
    };
    Err(Failure::new(format!("there is no log of {instance:?}"))
        .hint(known)
        .exit(Exit::USAGE)
        .into())
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".log")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    Ok(names)
}

/// The last whole lines of a log, and where it ends.
pub(crate) fn tail(path: &Path, lines: usize) -> Result<(Vec<String>, u64)> {
    let attempt = || -> std::io::Result<(Vec<String>, u64)> {
        let mut file = match File::open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok((Vec::new(), 0)),
            other => other?,
        };
        let length = file.metadata()?.len();
        let from = length.saturating_sub(TAIL_BYTES_MAX);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        let end = from + bytes.len() as u64;
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        let kept = all.len().saturating_sub(lines);
        Ok((all[kept..].iter().map(|l| (*l).to_owned()).collect(), end))
    };
    attempt().with_context(|| format!("cannot read {}", path.display()))
}

/// A log being followed.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    position: u64,
    partial: Vec<u8>,
}

impl Log {
    /// The lines that have become whole since the last look.
    fn new_lines(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        while self
            .read_more()
            .with_context(|| format!("cannot read {}", self.path.display()))?
        {
            while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
            }
        }
        Ok(lines)
    }

    fn read_more(&mut self) -> std::io::Result<bool> {
        let mut file = match File::open(&self.path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        if file.metadata()?.len() < self.position {
            // It was rotated: cut to nothing and begun again.
            self.position = 0;
            self.partial.clear();
        }
        file.seek(SeekFrom::Start(self.position))?;
        let read = file.take(CHUNK_BYTES_MAX).read_to_end(&mut self.partial)?;
        self.position += read as u64;
        // A line without end is shown in pieces rather than kept.
        if self.partial.len() as u64 > CHUNK_BYTES_MAX && !self.partial.contains(&b'\n') {
            self.partial.push(b'\n');
        }
        Ok(read > 0)
    }
}

/// Changes in the folder of logs, as the kernel tells them.
struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    fn new(folder: &Path) -> Result<Self> {
        let attempt = || -> std::io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(
                &fd,
                folder,
                WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO,
            )?;
            #[expect(
                deprecated,
                reason = "an owned descriptor stays open for as long as the wait"
            )]
            let waiting = AsyncFd::with_interest(fd, Interest::READABLE);
            waiting
        };
        Ok(Self(attempt().with_context(|| {
            format!("cannot watch {}", folder.display())
        })?))
    }

    /// Waits for the next change; many at once count as one.
    async fn next(&mut self) -> Result<()> {
        let mut buffer = [0_u8; 16 * 1024];
        let mut ready = self
            .0
            .readable()
            .await
            .context("cannot wait for new lines")?;
        while rustix::io::read(self.0.get_ref(), &mut buffer).is_ok_and(|read| read > 0) {}
        ready.clear_ready();
        Ok(())
    }
}

fn print(ctx: &Context, instance: &str, line: &str) -> Result<()> {
    let text = match ctx.out.format() {
        Format::Json => as_json(instance, line),
        Format::Text => for_people(ctx.out.terminal().color, instance, line),
    };
    ctx.out.result(&format!("{text}\n"))
}

fn as_json(instance: &str, line: &str) -> String {
    let mut value = match serde_json::from_str(line) {
        Ok(Value::Object(members)) => Value::Object(members),
        _ => serde_json::json!({ "line": line }),
    };
    if let Value::Object(members) = &mut value {
        members.entry("instance").or_insert_with(|| instance.into());
    }
    value.to_string()
}

/// One line of a log for people. Whatever a client may have smuggled in cannot drive the terminal.
pub(crate) fn for_people(color: bool, instance: &str, line: &str) -> String {
    let label = paint(color, Tone::Faint, instance);
    let Ok(Value::Object(mut members)) = serde_json::from_str(line) else {
        return format!("{label} {}", printable(line));
    };
    let mut take = |names: &[&str]| {
        let found = names.iter().find_map(|name| members.remove(*name))?;
        Some(
            found
                .as_str()
                .map_or_else(|| found.to_string(), str::to_owned),
        )
    };
    let time = take(&["time", "timestamp", "ts"]).unwrap_or_default();
    let level = take(&["level", "severity"]).unwrap_or_default();
    // An access line has no message: what it is stands in `kind`.
    let message = take(&["message", "msg", "kind"]).unwrap_or_default();
    for known in ["service", "instance", "release", "target", "kind"] {
        members.remove(known);
    }
    let tone = match level.to_ascii_uppercase().as_str() {
        "ERROR" => Tone::Bad,
        "WARN" => Tone::Warn,
        _ => Tone::Faint,
    };
    let rest: String = members
        .iter()
        .map(|(k, v)| match v.as_str() {
            Some(text) => format!(" {k}={text}"),
            None => format!(" {k}={v}"),
        })
        .collect();
    let level = paint(color, tone, &format!("{:<5}", printable(&level)));
    format!(
        "{label} {} {level} {}{}",
        printable(&time),
        printable(&message),
        printable(&rest)
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_are_shown_for_people_and_for_scripts() {
        let line = r#"{"time":"T1","level":"WARN","message":"slow","instance":"edge-1","ms":12,"path":"/a\u001b[2J"}"#;
        assert_eq!(
            for_people(false, "edge-1", line),
            "edge-1 T1 WARN  slow ms=12 path=/a\\u{1b}[2J"
        );
        assert_eq!(
            for_people(false, "edge-1", "panicked\u{7}"),
            "edge-1 panicked\\u{7}"
        );
        assert_eq!(
            as_json("edge-1", "plain"),
            r#"{"instance":"edge-1","line":"plain"}"#
        );
        assert_eq!(
            as_json("edge-1", r#"{"a":1}"#),
            r#"{"a":1,"instance":"edge-1"}"#
        );
    }

    #[test]
    fn a_log_is_followed_through_its_rotation() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.log");
        let mut writer = crate::agent::open_log(&path).unwrap();
        writer.write_all(b"one\ntwo\nthr").unwrap();
        let (lines, end) = tail(&path, 2).unwrap();
        assert_eq!(lines, ["two", "thr"]);
        let mut log = Log {
            path: path.clone(),
            position: end,
            partial: Vec::new(),
        };
        assert!(log.new_lines().unwrap().is_empty());
        writer.write_all(b"ee\nfour\n").unwrap();
        assert_eq!(log.new_lines().unwrap(), ["ee", "four"]);
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        writer.write_all(b"new\n").unwrap();
        assert_eq!(log.new_lines().unwrap(), ["new"]);
        assert!(tail(&home.path().join("absent"), 5).unwrap().0.is_empty());
    }

    #[tokio::test]
    async fn a_change_wakes_the_follower() {
        let home = tempfile::tempdir().unwrap();
        let mut changes = Changes::new(home.path()).unwrap();
        fs::write(home.path().join("a.log"), "x").unwrap();
        changes.next().await.unwrap();
    }
}
