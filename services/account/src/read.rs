//! Reading: the sums of all writers, also while they write and after they were killed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use crate::day::Day;
use crate::{Folded, Key, Sums};

/// A reader that a writer overtakes so often gives up.
const RETRIES_MAX: usize = 16;
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The sums of all writers, by day and key.
pub type Accounts = BTreeMap<Day, HashMap<Key, Sums>>;

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Total {
    /// The day.
    pub day: Day,
    /// Whose, and of what.
    #[serde(flatten)]
    pub key: Key,
    /// How much.
    #[serde(flatten)]
    pub sums: Sums,
}

/// What a writer has of a day.
#[derive(Debug, Default)]
pub(crate) struct Found {
    folded: bool,
    /// In ascending order.
    pub(crate) segments: Vec<u64>,
}

/// Reads what all writers under `root` have from `since` on. A folder that is not there is an empty account.
///
/// # Errors
/// When a file cannot be read.
pub fn read(root: &Path, since: Day) -> io::Result<Accounts> {
    let mut accounts = Accounts::new();
    for folder in writers(root)? {
        for (day, found) in list(&folder)?.range(since..) {
            let sums = settled_sums(&folder, *day, found)?;
            let all = accounts.entry(*day).or_default();
            for (key, sums) in sums {
                all.entry(key).or_default().add(&sums);
            }
        }
    }
    Ok(accounts)
}

/// Units of cost by tenant that all writers but the one of `except` have of a day.
///
/// # Errors
/// When a file cannot be read.
pub fn read_day(root: &Path, day: Day, except: Option<&Path>) -> io::Result<HashMap<String, u64>> {
    let mut costs = HashMap::new();
    for folder in writers(root)? {
        if except == Some(&*folder) {
            continue;
        }
        let Some(found) = list(&folder)?.remove(&day) else {
            continue;
        };
        for (key, sums) in settled_sums(&folder, day, &found)? {
            *costs.entry(key.tenant).or_default() += sums.cost;
        }
    }
    Ok(costs)
}

fn writers(root: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// The sums of a day, although its writer may fold meanwhile: what was read is good if nothing was folded since.
fn settled_sums(folder: &Path, day: Day, found: &Found) -> io::Result<HashMap<Key, Sums>> {
    let mut result = sums(folder, day, found);
    for _ in 0..RETRIES_MAX {
        let now = list(folder)?.remove(&day).unwrap_or_default();
        match &result {
            Ok((through, _)) if now.through(folder, day)? == *through => break,
            Err(error) if error.kind() != io::ErrorKind::NotFound => break,
            _ => result = sums(folder, day, &now),
        }
    }
    result.map(|(_, sums)| sums)
}

/// Number of the last folded segment, and the sums of a day.
pub(crate) fn sums(
    folder: &Path,
    day: Day,
    found: &Found,
) -> io::Result<(u64, HashMap<Key, Sums>)> {
    let folded = found.read_folded(folder, day)?;
    let mut sums: HashMap<Key, Sums> = HashMap::new();
    for row in folded.rows {
        sums.entry(row.key).or_default().add(&row.sums);
    }
    for number in found.segments.iter().filter(|n| **n > folded.through) {
        let text = read_bounded(&folder.join(segment(day, *number)))?;
        // What follows the last newline was cut off with its writer.
        for line in text.split_inclusive(|b| *b == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else {
                continue;
            };
            // A line that cannot be read was damaged on disk; the others are none the worse.
            let Ok((tenant, subject, tool, failed, cost, bytes_in, bytes_out, time_us)) =
                serde_json::from_slice::<crate::Line<'_>>(line)
            else {
                continue;
            };
            let key = Key {
                tenant: tenant.into_owned(),
                subject: subject.into_owned(),
                tool: tool.into_owned(),
            };
            sums.entry(key).or_default().add(&Sums {
                calls: 1,
                failed,
                cost,
                bytes_in,
                bytes_out,
                time_us,
            });
        }
    }
    Ok((folded.through, sums))
}

/// What a writer's folder holds, by day.
pub(crate) fn list(folder: &Path) -> io::Result<BTreeMap<Day, Found>> {
    let mut days: BTreeMap<Day, Found> = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(day) = name.strip_suffix(".json").and_then(|day| day.parse().ok()) {
            days.entry(day).or_default().folded = true;
        } else if let Some((day, number)) = name
            .strip_suffix(".journal")
            .and_then(|stem| stem.rsplit_once('-'))
            && let (Ok(day), Ok(number)) = (day.parse(), number.parse())
        {
            days.entry(day).or_default().segments.push(number);
        }
    }
    for found in days.values_mut() {
        found.segments.sort_unstable();
    }
    Ok(days)
}

pub(crate) fn segment(day: Day, number: u64) -> String {
    format!("{day}-{number:08}.journal")
}

impl Found {
    fn read_folded(&self, folder: &Path, day: Day) -> io::Result<Folded> {
        if !self.folded {
            return Ok(Folded::default());
        }
        let text = read_bounded(&folder.join(format!("{day}.json")))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Number of the last folded segment; 0 if there is none.
    pub(crate) fn through(&self, folder: &Path, day: Day) -> io::Result<u64> {
        Ok(self.read_folded(folder, day)?.through)
    }

    /// Removes the day.
    pub(crate) fn remove(&self, folder: &Path, day: Day) -> io::Result<()> {
        for number in &self.segments {
            fs::remove_file(folder.join(segment(day, *number)))?;
        }
        match self.folded {
            true => fs::remove_file(folder.join(format!("{day}.json"))),
            false => Ok(()),
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "{} is larger than {FILE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Book, Entry};
    use proptest::prelude::*;

    const DAY: Day = Day(20_781);

    fn entry(tenant: &str, cost: u64) -> Entry {
        Entry {
            tenant: tenant.to_owned(),
            subject: "ana \"quoted\"\n".to_owned(),
            tool: "t".to_owned(),
            sums: Sums {
                calls: 1,
                failed: 0,
                cost,
                bytes_in: 10,
                bytes_out: 20,
                time_us: 30,
            },
        }
    }

    fn calls(root: &Path, day: Day) -> (u64, u64) {
        let accounts = read(root, Day(0)).unwrap();
        let rows = accounts.get(&day).map(HashMap::values);
        rows.into_iter()
            .flatten()
            .fold((0, 0), |(calls, cost), sums| {
                (calls + sums.calls, cost + sums.cost)
            })
    }

    fn open(root: &Path) -> Book {
        Book::open(root, "edge-1", DAY, Day(0)).unwrap()
    }

    #[test]
    fn writers_are_counted_together_whether_they_ended_well_or_were_killed() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(calls(root.path(), DAY), (0, 0));
        let mut first = open(root.path());
        first
            .write(DAY, &[entry("a", 1), entry("b", 2), entry("a", 4)])
            .unwrap();
        // Another process of the same name has a folder of its own.
        let mut second = open(root.path());
        second.write(DAY, &[entry("a", 8)]).unwrap();
        assert_ne!(first.folder(), second.folder());
        assert_eq!(calls(root.path(), DAY), (4, 15));
        let others = read_day(root.path(), DAY, Some(first.folder())).unwrap();
        assert_eq!(others, HashMap::from([("a".to_owned(), 8)]));
        first.close().unwrap();
        assert_eq!(calls(root.path(), DAY), (4, 15));
        // Killed: nothing was folded.
        drop(second);
        let mut third = open(root.path());
        third.write(DAY, &[entry("a", 16)]).unwrap();
        let next = Day(DAY.0 + 1);
        let fold = third.write(next, &[entry("a", 32)]).unwrap();
        assert_eq!(calls(root.path(), DAY), (5, 31));
        fold.unwrap().run().unwrap();
        assert_eq!(
            (calls(root.path(), DAY), calls(root.path(), next)),
            ((5, 31), (1, 32))
        );
        drop(third);
        // Days that are old enough go.
        Book::open(root.path(), "edge-1", next, next).unwrap();
        assert_eq!(calls(root.path(), next), (1, 32));
        assert_eq!(list(&root.path().join("edge-1")).unwrap().len(), 1);
    }

    #[test]
    fn segments_are_folded_when_they_are_long() {
        let root = tempfile::tempdir().unwrap();
        let mut book = open(root.path());
        let many = vec![entry("a", 1); 20_000];
        let mut folds = 0;
        for _ in 0..20 {
            if let Some(fold) = book.write(DAY, &many).unwrap() {
                fold.run().unwrap();
                folds += 1;
            }
        }
        assert!(folds >= 1);
        assert_eq!(calls(root.path(), DAY), (400_000, 400_000));
        assert_eq!(list(book.folder()).unwrap()[&DAY].segments.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn mcp_15_what_was_cut_off_at_any_byte_counts_whole_calls_only(cut in 0_usize..400, again in any::<bool>()) {
            let root = tempfile::tempdir().unwrap();
            let mut book = open(root.path());
            book.write(DAY, &vec![entry("a", 1); 5]).unwrap();
            let path = book.folder().join(segment(DAY, 1));
            drop(book);
            let text = fs::read(&path).unwrap();
            let cut = cut.min(text.len());
            fs::write(&path, &text[..cut]).unwrap();
            let whole = text[..cut].iter().filter(|b| **b == b'\n').count() as u64;
            prop_assert_eq!(calls(root.path(), DAY), (whole, whole));
            // The next writer folds what is left, once; killed between the rename and the removal, still once.
            let book = open(root.path());
            drop(book);
            if again {
                fs::write(&path, &text[..cut]).unwrap();
            }
            let mut book = open(root.path());
            book.write(DAY, &[entry("a", 1)]).unwrap();
            prop_assert_eq!(calls(root.path(), DAY), (whole + 1, whole + 1));
        }
    }
}
