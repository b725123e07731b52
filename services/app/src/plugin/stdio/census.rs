//! Which processes there are, and which of them come from one child: its guard's descendants, and what was seen to be.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal};

/// The kernel tells of computing in hundredths of a second, whatever its own clock (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// One process, as the kernel tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    parent: i32,
    group: i32,
    /// When it was started, in ticks since the system was: the same number and start is the same process.
    started: u64,
    /// What it and its children that have ended have computed, in ticks.
    cpu_ticks: u64,
    zombie: bool,
}

/// Reads a line of `/proc/PID/stat`. The name in it is the process's own choice and may hold anything.
fn parse_stat(line: &str) -> Option<Entry> {
    let (_, rest) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let id = |at: usize| fields.get(at)?.parse::<i32>().ok();
    Some(Entry {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: id(1)?,
        group: id(2)?,
        cpu_ticks: [11, 12, 13, 14]
            .into_iter()
            .try_fold(0u64, |sum, at| sum.checked_add(number(at)?))?,
        started: number(19)?,
    })
}

/// All processes at one moment.
type Table = BTreeMap<i32, Entry>;

fn read_table() -> Table {
    let Ok(folder) = fs::read_dir("/proc") else {
        return Table::new();
    };
    folder
        .flatten()
        .filter_map(|entry| {
            let id: i32 = entry.file_name().to_str()?.parse().ok()?;
            Some((id, read_entry(id)?))
        })
        .collect()
}

fn read_entry(id: i32) -> Option<Entry> {
    parse_stat(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// Returns the last table, or a new one if it is older than `age_max`: many children are looked after at once.
fn table(age_max: Duration) -> Arc<Table> {
    static LAST: Mutex<Option<(Instant, Arc<Table>)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((read, table)) if read.elapsed() < age_max => Arc::clone(table),
        _ => {
            let table = Arc::new(read_table());
            *last = Some((Instant::now(), Arc::clone(&table)));
            table
        }
    }
}

/// Returns the leader, everything in its group, everything known that is still there, and all that these have started.
fn family(table: &Table, leader: i32, known: &HashMap<i32, u64>) -> HashMap<i32, u64> {
    let mut family: HashMap<i32, u64> = table
        .iter()
        .filter(|(id, entry)| {
            **id == leader || entry.group == leader || known.get(id) == Some(&entry.started)
        })
        .map(|(id, entry)| (*id, entry.started))
        .collect();
    loop {
        let more: Vec<_> = table
            .iter()
            .filter(|(id, entry)| !family.contains_key(id) && family.contains_key(&entry.parent))
            .map(|(id, entry)| (*id, entry.started))
            .collect();
        if more.is_empty() {
            return family;
        }
        family.extend(more);
    }
}

/// What the processes of one child take together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Memory that is theirs alone, in bytes; swapped-out memory too.
    pub(super) memory_bytes: u64,
    /// What they have computed so far.
    pub(super) cpu: Duration,
    /// How many there are.
    pub(super) processes: usize,
}

/// The processes of one child: its guard, the program, and all that came of it. All but the guard are killed on drop.
#[derive(Debug)]
pub(super) struct Kin {
    /// The guard. What it takes is not the child's, but for what it has reaped.
    leader: i32,
    known: HashMap<i32, u64>,
}

impl Kin {
    /// Begins with a leader that has not been reaped.
    pub(super) fn of(leader: i32) -> Self {
        Self {
            leader,
            known: HashMap::new(),
        }
    }

    /// Looks who is there, or was `age_max` ago. Only while the leader has not been reaped: later its number may be another's.
    pub(super) fn look(&mut self, age_max: Duration) {
        self.look_at(&table(age_max));
    }

    fn look_at(&mut self, table: &Table) {
        self.known = family(table, self.leader, &self.known);
    }

    /// Looks who is there, or was `age_max` ago, and what they take; memory past `memory_limit` is measured more exactly, at a higher price.
    pub(super) fn usage(&mut self, memory_limit: Option<u64>, age_max: Duration) -> Usage {
        let table = table(age_max);
        self.look_at(&table);
        let alive = || {
            let known = self.known.keys().filter(|id| **id != self.leader);
            known.filter(|id| table.get(id).is_some_and(|entry| !entry.zombie))
        };
        let memory = memory_limit.map_or(0, |limit| {
            let quick: u64 = alive().filter_map(|id| quick_memory(*id)).sum();
            if quick <= limit {
                return quick;
            }
            // Memory that forks share was counted for each of them.
            alive()
                .filter_map(|id| exact_memory(*id).or_else(|| quick_memory(*id)))
                .sum()
        });
        let ticks: u64 = self
            .known
            .keys()
            .filter_map(|id| table.get(id))
            .map(|entry| entry.cpu_ticks)
            .sum();
        Usage {
            memory_bytes: memory,
            cpu: TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)),
            processes: alive().count(),
        }
    }
}

impl Drop for Kin {
    fn drop(&mut self) {
        for (id, started) in &self.known {
            if *id != self.leader {
                kill(*id, *started);
            }
        }
    }
}

/// Kills all that came of a process and lives.
pub(super) fn kill_descendants(ancestor: i32) {
    let table = read_table();
    for (id, started) in family(&table, ancestor, &HashMap::new()) {
        if id != ancestor && table.get(&id).is_some_and(|entry| !entry.zombie) {
            kill(id, started);
        }
    }
}

/// Kills a process if it is still the one that was meant.
fn kill(id: i32, started: u64) {
    let Some(pid) = Pid::from_raw(id) else { return };
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    // From here on the descriptor cannot come to mean another process.
    if read_entry(id).is_some_and(|entry| entry.started == started) {
        // One that is gone already is what is wanted.
        let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
    }
}

/// Anonymous and shared memory, and what of it is swapped out; what forks share counts for each of them.
fn quick_memory(id: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    Some(sum_of_kib(&status, &["RssAnon:", "RssShmem:", "VmSwap:"]))
}

/// The same, with what is shared divided among those that share it.
fn exact_memory(id: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    Some(sum_of_kib(
        &rollup,
        &["Pss_Anon:", "Pss_Shmem:", "SwapPss:"],
    ))
}

fn sum_of_kib(text: &str, wanted: &[&str]) -> u64 {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        let kib: u64 = words.next()?.parse().ok()?;
        wanted.contains(&name).then_some(kib)
    });
    lines.sum::<u64>().saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_process_calls_itself() {
        let rest = "S 7 8 8 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 12345 1 2";
        for name in ["sh", "a b", ") R 1 1 1", "x) S 9 9"] {
            let entry = parse_stat(&format!("42 ({name}) {rest}")).unwrap();
            assert_eq!(
                (
                    entry.parent,
                    entry.group,
                    entry.cpu_ticks,
                    entry.started,
                    entry.zombie
                ),
                (7, 8, 100, 12345, false),
                "{name}"
            );
        }
        for line in ["", "42 (sh)", "42 (sh) S", "42 (sh) S x y z"] {
            assert_eq!(parse_stat(line), None, "{line}");
        }
    }

    #[test]
    fn a_family_is_the_group_and_all_that_came_of_it() {
        let entry = |parent, group, started| Entry {
            parent,
            group,
            started,
            cpu_ticks: 0,
            zombie: false,
        };
        let table = Table::from([
            (1, entry(0, 1, 1)),
            (10, entry(1, 10, 5)),
            (11, entry(10, 10, 6)),
            // Left the group, its parent lives.
            (12, entry(11, 12, 7)),
            (13, entry(12, 12, 8)),
            // Left the group, its parent is gone.
            (14, entry(1, 14, 9)),
            // Has the number of one that is gone.
            (15, entry(1, 15, 99)),
            (20, entry(1, 20, 3)),
        ]);
        let known = HashMap::from([(14, 9), (15, 10), (16, 11)]);
        let mut found: Vec<i32> = family(&table, 10, &known).into_keys().collect();
        found.sort_unstable();
        assert_eq!(found, [10, 11, 12, 13, 14]);
    }

    #[test]
    fn memory_is_summed_from_its_lines() {
        let status = "Name:\tRssAnon: 9 kB\nRssAnon:\t    12 kB\nRssFile:\t 5 kB\nVmSwap:\t 1 kB\n";
        assert_eq!(sum_of_kib(status, &["RssAnon:", "VmSwap:"]), 13 << 10);
    }
}
