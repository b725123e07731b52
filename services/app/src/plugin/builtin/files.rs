//! `files`: listing, reading and writing under one root.
//!
//! The root is a directory handle; every path is resolved beneath it by the operating system's own rules (`cap-std`), so
//! neither `..` nor a symbolic link nor a race between check and use leads out. Only regular files are read: a pipe or a
//! device would hang or never end.

use std::{
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions, OpenOptionsExt},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::tool::{About, Hints, Refusal, Tool};
use crate::plugin::CallContext;

/// How many entries one listing has.
const ENTRIES_MAX: usize = 2000;
/// How much one read answers, in bytes.
const READ_BYTES_MAX: u64 = 1 << 20;
/// How much one write takes, in bytes.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// Returns the tools of the set over `root`, which is made if it is not there.
///
/// # Errors
/// When the root cannot be made or opened.
pub(crate) fn tools(root: &Path, threads: &Arc<Semaphore>) -> std::io::Result<Vec<Tool>> {
    std::fs::create_dir_all(root)?;
    let root = Arc::new(Dir::open_ambient_dir(root, ambient_authority())?);
    Ok(vec![
        Tool::blocking(
            About {
                name: "list",
                title: "List files",
                description: "Lists the files and folders in a folder under the served root, in order of their names.",
                hints: Hints::READ_ONLY,
            },
            Arc::clone(&root),
            threads,
            list,
        ),
        Tool::blocking(
            About {
                name: "read",
                title: "Read a file",
                description: "Reads a file, or a part of it, as text; as Base64 where it is not UTF-8.",
                hints: Hints::READ_ONLY,
            },
            Arc::clone(&root),
            threads,
            read,
        ),
        Tool::blocking(
            About {
                name: "write",
                title: "Write a file",
                description: "Creates a text file, replaces one in a single step, or appends to one. Missing folders are made.",
                hints: Hints::DESTRUCTIVE,
            },
            root,
            threads,
            write,
        ),
    ])
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct List {
    /// Folder relative to the root; the root itself unless given.
    #[serde(default)]
    path: String,
    /// How many levels are listed.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    depth: usize,
}

fn one() -> usize {
    1
}

#[derive(Serialize, JsonSchema)]
struct Listed {
    /// The entries.
    entries: Vec<Entry>,
    /// Whether there are more than were answered.
    truncated: bool,
}

#[derive(Serialize, JsonSchema)]
struct Entry {
    /// Path relative to the root.
    path: String,
    /// What it is.
    kind: Kind,
    /// Size in bytes; null unless it is a file.
    bytes: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Folder,
    Link,
    Other,
}

fn list(root: &Arc<Dir>, input: List, context: &CallContext) -> Result<Listed, Refusal> {
    let top = relative(&input.path)?;
    let mut listed = Listed {
        entries: Vec::new(),
        truncated: false,
    };
    // Folders still to list, the next one last: depth first, in order of names.
    let mut todo = vec![(top, 1)];
    while let Some((folder, level)) = todo.pop() {
        let here = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &folder
        };
        let mut entries = root
            .read_dir(here)?
            .take(ENTRIES_MAX + 1)
            .collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(cap_std::fs::DirEntry::file_name);
        let mut folders = Vec::new();
        for entry in entries {
            if listed.entries.len() == ENTRIES_MAX || context.is_over() {
                listed.truncated = true;
                return Ok(listed);
            }
            let path = folder.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() && level < input.depth {
                folders.push((path.clone(), level + 1));
            }
            listed.entries.push(Entry {
                path: path.to_string_lossy().into_owned(),
                bytes: kind
                    .is_file()
                    .then(|| entry.metadata().map(|data| data.len()))
                    .transpose()?,
                kind: if kind.is_file() {
                    Kind::File
                } else if kind.is_dir() {
                    Kind::Folder
                } else if kind.is_symlink() {
                    Kind::Link
                } else {
                    Kind::Other
                },
            });
        }
        todo.extend(folders.into_iter().rev());
    }
    Ok(listed)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadOf {
    /// File relative to the root.
    path: String,
    /// Where to begin, in bytes.
    #[serde(default)]
    offset: u64,
    /// How much to read, in bytes.
    #[serde(default = "most")]
    #[schemars(range(min = 1, max = 1_048_576))]
    length: u64,
}

fn most() -> u64 {
    READ_BYTES_MAX
}

#[derive(Serialize, JsonSchema)]
struct Content {
    /// The text; null if the bytes are not UTF-8.
    text: Option<String>,
    /// The bytes in Base64; null if they are text.
    base64: Option<String>,
    /// Size of the whole file in bytes.
    bytes: u64,
    /// Whether the file goes on after what was read.
    truncated: bool,
}

fn read(root: &Arc<Dir>, input: ReadOf, _: &CallContext) -> Result<Content, Refusal> {
    let path = relative(&input.path)?;
    let mut options = OpenOptions::new();
    // Opening a pipe must not wait for its writer; what is no file is refused below.
    options.read(true).custom_flags(nonblocking());
    let mut file = root.open_with(&path, &options)?;
    let data = file.metadata()?;
    if !data.is_file() {
        return Err(Refusal(format!("{:?} is not a file", input.path)));
    }
    file.seek(SeekFrom::Start(input.offset))?;
    let mut bytes = Vec::new();
    file.take(input.length.min(READ_BYTES_MAX))
        .read_to_end(&mut bytes)?;
    let end = input.offset.saturating_add(bytes.len() as u64);
    let (text, base64) = match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
    };
    Ok(Content {
        text,
        base64,
        bytes: data.len(),
        truncated: end < data.len(),
    })
}

fn nonblocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteOf {
    /// File relative to the root.
    path: String,
    /// The text.
    text: String,
    /// What happens to a file that is there: `create` refuses, `replace` replaces it, `append` adds to its end.
    mode: Mode,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Create,
    Replace,
    Append,
}

#[derive(Serialize, JsonSchema)]
struct Written {
    /// Path relative to the root.
    path: String,
    /// How much was written, in bytes.
    bytes: usize,
}

fn write(root: &Arc<Dir>, input: WriteOf, _: &CallContext) -> Result<Written, Refusal> {
    if input.text.len() > WRITE_BYTES_MAX {
        return Err(Refusal(format!(
            "a write takes at most {WRITE_BYTES_MAX} bytes"
        )));
    }
    let path = relative(&input.path)?;
    if path.as_os_str().is_empty() {
        return Err(Refusal("the path names no file".into()));
    }
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        match root.create_dir_all(folder) {
            // What is there but no folder, opening the file tells better.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    match input.mode {
        Mode::Create => fill(
            root,
            &path,
            OpenOptions::new().write(true).create_new(true),
            &input.text,
        )?,
        Mode::Append => fill(
            root,
            &path,
            OpenOptions::new()
                .append(true)
                .create(true)
                .custom_flags(nonblocking()),
            &input.text,
        )?,
        Mode::Replace => replace(root, &path, &input.text)?,
    }
    Ok(Written {
        path: input.path,
        bytes: input.text.len(),
    })
}

/// Writes beside the file and renames, so that no reader sees half of it.
fn replace(root: &Dir, path: &Path, text: &str) -> Result<(), Refusal> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let turn = COUNTER.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_file_name(format!(".writing-{}-{turn}", std::process::id()));
    let done = fill(
        root,
        &beside,
        OpenOptions::new().write(true).create_new(true),
        text,
    )
    .and_then(|()| Ok(root.rename(&beside, root, path)?));
    if done.is_err() {
        // What cannot be removed is a left-over, not a second failure to tell of.
        drop(root.remove_file(&beside));
    }
    done
}

fn fill(root: &Dir, path: &Path, options: &OpenOptions, text: &str) -> Result<(), Refusal> {
    let mut file = root.open_with(path, options)?;
    if !file.metadata()?.is_file() {
        return Err(Refusal("the path names no file".into()));
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(())
}

/// Reads a path from the root. `cap-std` holds the wall; this gives the plain answer to the plain mistake.
fn relative(path: &str) -> Result<PathBuf, Refusal> {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Refusal(format!(
                    "{path:?} leaves the root; write a path below it, without `..`"
                )));
            }
        }
    }
    Ok(clean)
}
