//! Processor time of the fleet's processes, from the kernel's own accounts.

use std::collections::BTreeMap;

/// The kernel counts processor time in hundredths of a second (`USER_HZ`, proc(5)).
const TICK_US: u64 = 10_000;

/// A process that is measured, under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    name: String,
    pid: u32,
}

/// Reads `NAME=PID`.
///
/// # Errors
/// When it is not of that form.
pub fn parse(text: &str) -> Result<Subject, String> {
    let wrong = || format!("{text:?} is not NAME=PID, such as edge=4711");
    let (name, pid) = text.split_once('=').ok_or_else(wrong)?;
    Ok(Subject {
        name: name.to_owned(),
        pid: pid.parse().map_err(|_| wrong())?,
    })
}

/// Processor time by name, microseconds.
#[derive(Debug, Clone, Default)]
pub struct Measured(BTreeMap<String, u64>);

impl Measured {
    /// What has been used so far. A process that is gone counts nothing.
    pub fn now(subjects: &[Subject]) -> Measured {
        let mut used = BTreeMap::new();
        for subject in subjects {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", subject.pid));
            let us = stat.ok().and_then(|text| processor_us(&text)).unwrap_or(0);
            *used.entry(subject.name.clone()).or_insert(0) += us;
        }
        Measured(used)
    }

    /// What has been used since.
    pub fn until_now(&self, subjects: &[Subject]) -> BTreeMap<String, u64> {
        Measured::now(subjects)
            .0
            .into_iter()
            .map(|(name, us)| {
                let before = self.0.get(&name).copied().unwrap_or(0);
                (name, us.saturating_sub(before))
            })
            .collect()
    }
}

/// User and system time of a line of `/proc/PID/stat`. The name in brackets may hold anything.
fn processor_us(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) * TICK_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_an_odd_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(processor_us(stat), Some(2_000_000));
        assert_eq!(processor_us("nonsense"), None);
    }

    #[test]
    fn a_subject_is_a_name_and_a_pid() {
        assert_eq!(parse("edge=12").unwrap().pid, 12);
        assert!(parse("edge").is_err() && parse("edge=x").is_err());
    }
}
