//! What a child and everything that it starts may take. The kernel has no such limit that every account may set, so the child
//! is looked at a few times a second, and ended when it takes more.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::census::{Kin, Usage};

/// How often a child with limits is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often one without is looked at, to know what left its group.
const KIN_EVERY: Duration = Duration::from_secs(2);
/// Over how long computing is averaged.
const CPU_WINDOW: Duration = Duration::from_secs(5);

/// What a child and all that it starts may take; `None` is without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processors, averaged over five seconds.
    pub cpus: Option<f64>,
    /// Processes, the child itself included.
    pub processes: Option<usize>,
}

// A configured limit is a number.
impl Eq for Limits {}

/// A child took more than it may.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Excess {
    /// Memory, in bytes.
    #[error("it took {found} bytes of memory and may take {limit}")]
    Memory {
        /// What it took.
        found: u64,
        /// What it may take.
        limit: u64,
    },
    /// Processors.
    #[error("it took {found:.2} processors for {} seconds and may take {limit}", CPU_WINDOW.as_secs())]
    Cpu {
        /// What it took.
        found: f64,
        /// What it may take.
        limit: f64,
    },
    /// Processes.
    #[error("it had {found} processes and may have {limit}")]
    Processes {
        /// How many it had.
        found: usize,
        /// How many it may have.
        limit: usize,
    },
}

/// Judges one child's usage as time passes.
#[derive(Debug, Default)]
struct Judge {
    /// What had been computed when, over the last window.
    computed: VecDeque<(Instant, Duration)>,
}

impl Judge {
    fn judge(&mut self, limits: &Limits, usage: &Usage, now: Instant) -> Result<(), Excess> {
        if let Some(limit) = limits.memory_bytes
            && usage.memory_bytes > limit
        {
            let found = usage.memory_bytes;
            return Err(Excess::Memory { found, limit });
        }
        if let Some(limit) = limits.processes
            && usage.processes > limit
        {
            let found = usage.processes;
            return Err(Excess::Processes { found, limit });
        }
        if let Some(limit) = limits.cpus {
            let found = self.cpus(usage.cpu, now);
            if found.is_some_and(|found| found > limit) {
                let found = found.unwrap_or_default();
                return Err(Excess::Cpu { found, limit });
            }
        }
        Ok(())
    }

    /// Returns how many processors were busy over the window, once it is full.
    fn cpus(&mut self, computed: Duration, now: Instant) -> Option<f64> {
        self.computed.push_back((now, computed));
        let full = |at: &Instant| now.duration_since(*at) >= CPU_WINDOW;
        while self.computed.get(1).is_some_and(|(at, _)| full(at)) {
            self.computed.pop_front();
        }
        let (at, before) = self.computed.front().filter(|(at, _)| full(at))?;
        let spent = computed.saturating_sub(*before).as_secs_f64();
        Some(spent / now.duration_since(*at).as_secs_f64())
    }
}

/// Looks after a child until it takes more than it may; for ever if it does not. May be dropped.
pub(super) async fn watch(kin: &mut Kin, limits: &Limits) -> Excess {
    let limited = *limits != Limits::default();
    let every = if limited { LOOK_EVERY } else { KIN_EVERY };
    let mut judge = Judge::default();
    loop {
        tokio::time::sleep(every).await;
        if !limited {
            kin.look();
            continue;
        }
        let usage = kin.usage(limits.memory_bytes);
        if let Err(excess) = judge.judge(limits, &usage, Instant::now()) {
            return excess;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processes_are_judged_at_once_and_computing_over_a_window() {
        let limits = Limits {
            memory_bytes: Some(100),
            cpus: Some(1.5),
            processes: Some(3),
        };
        let usage = |memory_bytes, processes, cpu| Usage {
            memory_bytes,
            processes,
            cpu: Duration::from_millis(cpu),
        };
        let began = Instant::now();
        let mut judge = Judge::default();
        let mut at = |millis: u64, usage| {
            judge.judge(&limits, &usage, began + Duration::from_millis(millis))
        };
        assert_eq!(at(0, usage(100, 3, 0)), Ok(()));
        assert_eq!(
            at(0, usage(101, 3, 0)),
            Err(Excess::Memory {
                found: 101,
                limit: 100
            })
        );
        assert_eq!(
            at(0, usage(0, 4, 0)),
            Err(Excess::Processes { found: 4, limit: 3 })
        );
        // Two processors, but not for long enough.
        assert_eq!(at(4_900, usage(0, 1, 9_800)), Ok(()));
        // Then one: 1.4 on average.
        assert_eq!(at(5_000, usage(0, 1, 7_000)), Ok(()));
        assert_eq!(
            at(10_000, usage(0, 1, 17_000)),
            Err(Excess::Cpu {
                found: 2.0,
                limit: 1.5
            })
        );
    }

    #[test]
    fn without_limits_nothing_is_too_much() {
        let usage = Usage {
            memory_bytes: u64::MAX,
            processes: usize::MAX,
            cpu: Duration::MAX,
        };
        let judged = Judge::default().judge(&Limits::default(), &usage, Instant::now());
        assert_eq!(judged, Ok(()));
    }
}
