//! Writing: one writer's journal and its sums.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::day::Day;
use crate::read::{self, Found};
use crate::{Entry, Folded, Key, OTHER, Row, Sums};

/// A segment that is larger is folded.
const SEGMENT_BYTES_MAX: u64 = 8 << 20;
/// Rows of one day; what is past it is counted together.
const ROWS_MAX: usize = 100_000;
/// Folders that writers of one name may have at once: an old one that drains, and its successor.
const FOLDERS_MAX: u32 = 16;

/// One writer's account.
#[derive(Debug)]
pub struct Book {
    folder: PathBuf,
    /// Held until the writer is gone.
    _lock: File,
    day: Day,
    number: u64,
    file: Arc<File>,
    length: u64,
    rows: HashMap<Key, Sums>,
    buffer: Vec<u8>,
}

/// The work of folding segments into the sums of their day, to be done where it delays no call.
#[derive(Debug)]
pub struct Fold {
    folder: PathBuf,
    day: Day,
    through: u64,
    rows: HashMap<Key, Sums>,
}

impl Book {
    /// Opens the account of the writer `name` under `root`, folds what its predecessor left, and removes days before `oldest`.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(root: &Path, name: &str, today: Day, oldest: Day) -> io::Result<Book> {
        let (folder, lock) = take_folder(root, name)?;
        let mut number = 0;
        let mut rows = HashMap::new();
        for (day, found) in read::list(&folder)? {
            if day < oldest {
                found.remove(&folder, day)?;
                continue;
            }
            let last = found.segments.last().copied().unwrap_or(0);
            let (through, sums) = read::sums(&folder, day, &found)?;
            let last = last.max(through);
            if last > through {
                Fold {
                    folder: folder.clone(),
                    day,
                    through: last,
                    rows: sums.clone(),
                }
                .run()?;
            }
            if day == today {
                (number, rows) = (last, sums);
            }
        }
        let (number, file) = next_segment(&folder, today, number)?;
        Ok(Book {
            folder,
            _lock: lock,
            day: today,
            number,
            file: Arc::new(file),
            length: 0,
            rows,
            buffer: Vec::new(),
        })
    }

    /// Writes calls that ended on `day`, in one `write`, and counts them. If it says that there is something to fold, that is
    /// to be run soon, one after another.
    ///
    /// # Errors
    /// When they could not be written; then none of them is, and the same may be tried again.
    pub fn write(&mut self, day: Day, entries: &[Entry]) -> io::Result<Option<Fold>> {
        let mut fold = None;
        if day > self.day {
            fold = Some(self.turn_to(day)?);
        } else if self.length >= SEGMENT_BYTES_MAX {
            fold = Some(self.turn_to(self.day)?);
        }
        self.buffer.clear();
        for entry in entries {
            let sums = &entry.sums;
            let line: crate::Line<'_> = (
                entry.tenant.as_str().into(),
                entry.subject.as_str().into(),
                entry.tool.as_str().into(),
                sums.failed,
                sums.cost,
                sums.bytes_in,
                sums.bytes_out,
                sums.time_us,
            );
            serde_json::to_writer(&mut self.buffer, &line)?;
            self.buffer.push(b'\n');
        }
        if let Err(error) = (&*self.file).write_all(&self.buffer) {
            // Half of them would be counted twice when they are written again.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += self.buffer.len() as u64;
        for entry in entries {
            let key = Key {
                tenant: entry.tenant.clone(),
                subject: entry.subject.clone(),
                tool: entry.tool.clone(),
            };
            count(&mut self.rows, key, &entry.sums);
        }
        Ok(fold)
    }

    /// The file that is being written, to be synced where it delays no call.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Units of cost by tenant that it has of the day it is at.
    #[must_use]
    pub fn tenant_costs(&self) -> HashMap<String, u64> {
        let mut costs = HashMap::new();
        for (key, sums) in &self.rows {
            *costs.entry(key.tenant.clone()).or_default() += sums.cost;
        }
        costs
    }

    /// The folder of this writer.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends the account: all of it is folded.
    ///
    /// # Errors
    /// When it cannot be; nothing is lost then.
    pub fn close(mut self) -> io::Result<()> {
        let day = self.day;
        self.turn_to(day)?.run()
    }

    /// Begins a new segment, of this day or a later one.
    fn turn_to(&mut self, day: Day) -> io::Result<Fold> {
        let before = if day == self.day { self.number } else { 0 };
        let (number, file) = next_segment(&self.folder, day, before)?;
        let rows = if day == self.day {
            self.rows.clone()
        } else {
            std::mem::take(&mut self.rows)
        };
        let fold = Fold {
            folder: self.folder.clone(),
            day: self.day,
            through: self.number,
            rows,
        };
        (self.day, self.number, self.file, self.length) = (day, number, Arc::new(file), 0);
        Ok(fold)
    }
}

impl Fold {
    /// Writes the sums and removes the segments that are in them.
    ///
    /// # Errors
    /// When that fails; the segments then stay, and nothing is lost.
    pub fn run(self) -> io::Result<()> {
        let path = self.folder.join(format!("{}.json", self.day));
        let Some(found) = read::list(&self.folder)?.remove(&self.day) else {
            return Ok(());
        };
        // A later one may have been quicker.
        if found.through(&self.folder, self.day)? < self.through {
            let mut rows: Vec<Row> = self
                .rows
                .into_iter()
                .map(|(key, sums)| Row { key, sums })
                .collect();
            rows.sort_by(|a, b| a.key.cmp(&b.key));
            let folded = Folded {
                through: self.through,
                rows,
            };
            let new = path.with_extension("json.new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(&folded)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()?;
        }
        for number in found.segments.iter().filter(|n| **n <= self.through) {
            fs::remove_file(self.folder.join(read::segment(self.day, *number)))?;
        }
        Ok(())
    }
}

/// Adds to the row of a key, or to one that stands for several when there are too many.
fn count(rows: &mut HashMap<Key, Sums>, key: Key, sums: &Sums) {
    let key = if rows.len() < ROWS_MAX || rows.contains_key(&key) {
        key
    } else {
        let other = |text: &str| text.to_owned();
        let tool = Key {
            subject: other(OTHER),
            ..key
        };
        match rows.len() < 2 * ROWS_MAX || rows.contains_key(&tool) {
            true => tool,
            false => Key {
                tenant: other(OTHER),
                subject: other(OTHER),
                tool: other(OTHER),
            },
        }
    };
    rows.entry(key).or_default().add(sums);
}

/// A folder that no other process writes to.
fn take_folder(root: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    for attempt in 0..FOLDERS_MAX {
        let folder = match attempt {
            0 => root.join(name),
            _ => root.join(format!("{name}+{attempt}")),
        };
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => return Ok((folder, lock)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other(
        "all folders of this name are being written to",
    ))
}

fn next_segment(folder: &Path, day: Day, before: u64) -> io::Result<(u64, File)> {
    let last = read::list(folder)?
        .get(&day)
        .map_or(Ok(0), |found: &Found| {
            let through = found.through(folder, day)?;
            io::Result::Ok(through.max(found.segments.last().copied().unwrap_or(0)))
        })?;
    let number = last.max(before) + 1;
    let file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .open(folder.join(read::segment(day, number)))?;
    Ok((number, file))
}
