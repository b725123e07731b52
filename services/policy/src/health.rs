//! Which instances may be used, judged by the calls they got.
//!
//! An instance whose calls fail several times in a row is *ejected*: it gets nothing for a while. Each further ejection
//! lasts twice as long, up to a bound, and an instance that has then served well for that bound starts over. When its time is
//! up it returns *on probation*: one call at a time, and the first failure ejects it again, until a call succeeds.
//!
//! Two things keep ejection from doing harm. Evidence from calls that began before the ejection is ignored, so a batch of
//! calls that fail together ejects once. And when more than `panic_threshold_percent` of the instances are out, the
//! fault is probably not theirs (or there is nothing better): then all of them are used, and a success brings an instance
//! back at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::epoch::nanos;

/// What the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row after which an instance is ejected; 0 never ejects.
    pub eject_after_failures: u32,
    /// How long the first ejection lasts.
    pub eject_for: Duration,
    /// How long an ejection lasts at most.
    pub eject_for_max: Duration,
    /// When more than this part of the instances is out, all are used. 100 never does; then there may be none to use.
    pub panic_threshold_percent: u8,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            eject_after_failures: 3,
            eject_for: Duration::from_secs(5),
            eject_for_max: Duration::from_secs(60),
            panic_threshold_percent: 50,
        }
    }
}

/// How a call to an instance ended, as far as it says something about the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; a tool's own error is an answer.
    Success,
    /// It refused the connection, broke it, timed out, or answered with a server's error.
    Failure,
    /// The caller went away first: no evidence either way.
    Abandoned,
}

/// Whether an instance may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It gets its part of the calls.
    In,
    /// Its ejection has ended and no call has succeeded since: one call at a time.
    Probation,
    /// It gets nothing until its ejection ends.
    Ejected,
    /// It is about to stop and gets nothing new.
    Draining,
}

/// What a call's end changed; worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The instance was ejected.
    Ejected {
        /// For how long.
        lasts: Duration,
        /// The failures in a row that led to it.
        failures: u32,
    },
    /// The instance succeeded after an ejection and is fully back.
    Restored,
}

/// An ejection, in time since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Its begin.
    pub from: Duration,
    /// Its end.
    pub until: Duration,
}

/// What is known about one instance: the facts and the outcome of every decision here. Times count from any fixed start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// Failures since the last success.
    pub failures: u32,
    /// Ejections since the instance last started over.
    pub ejections: u32,
    /// The present or the last ejection.
    pub ejection: Option<Ejection>,
    /// Whether no call has succeeded since the ejection.
    pub suspect: bool,
}

impl Record {
    /// Judges one more call, which began at `began` and ended at `now`, and returns what is then known.
    #[must_use]
    pub fn after(
        self,
        rules: &Rules,
        outcome: Outcome,
        began: Duration,
        now: Duration,
    ) -> (Self, Option<Change>) {
        if self.ejection.is_some_and(|ejection| began < ejection.from) {
            return (self, None);
        }
        match outcome {
            Outcome::Abandoned => (self, None),
            Outcome::Success => self.after_success(now),
            Outcome::Failure => self.after_failure(rules, now),
        }
    }

    /// Says whether the instance is ejected at `now`.
    #[must_use]
    pub fn is_out(&self, now: Duration) -> bool {
        self.ejection.is_some_and(|ejection| now < ejection.until)
    }

    fn after_success(self, now: Duration) -> (Self, Option<Change>) {
        let mut next = Self {
            failures: 0,
            suspect: false,
            ..self
        };
        if let Some(ejection) = &mut next.ejection {
            ejection.until = ejection.until.min(now);
        }
        (next, self.suspect.then_some(Change::Restored))
    }

    fn after_failure(self, rules: &Rules, now: Duration) -> (Self, Option<Change>) {
        let failures = self.failures.saturating_add(1);
        let enough = self.suspect || failures >= rules.eject_after_failures;
        if rules.eject_after_failures == 0 || !enough || self.is_out(now) {
            return (Self { failures, ..self }, None);
        }
        let served = self
            .ejection
            .map_or(Duration::ZERO, |last| now.saturating_sub(last.until));
        let starts_over = !self.suspect && served > rules.eject_for_max;
        let ejections = if starts_over { 0 } else { self.ejections };
        let lasts = ejection_time(rules, ejections);
        let ejection = Some(Ejection {
            from: now,
            until: now.saturating_add(lasts),
        });
        let next = Self {
            failures,
            ejections: ejections.saturating_add(1),
            ejection,
            suspect: true,
        };
        (next, Some(Change::Ejected { lasts, failures }))
    }
}

/// Says how long an ejection lasts after `earlier` ones: twice as long each time, up to the bound.
#[must_use]
pub fn ejection_time(rules: &Rules, earlier: u32) -> Duration {
    let factor = 1_u32.checked_shl(earlier).unwrap_or(u32::MAX);
    rules
        .eject_for
        .saturating_mul(factor)
        .min(rules.eject_for_max.max(rules.eject_for))
}

/// Says whether so many of `total` instances are `out` that all are to be used.
#[must_use]
pub fn panics(rules: &Rules, out: usize, total: usize) -> bool {
    out.saturating_mul(100) > total.saturating_mul(usize::from(rules.panic_threshold_percent))
}

/// A [`Record`] that threads share; what every pick and every success reads is mirrored in atomics.
#[derive(Debug, Default)]
pub(crate) struct Health {
    record: Mutex<Record>,
    /// End of the present or last ejection, nanoseconds since the start; 0 without one.
    out_until: AtomicU64,
    /// Whether a success would change the record.
    troubled: AtomicBool,
    suspect: AtomicBool,
}

impl Health {
    /// Judges one more call; times in nanoseconds since the start.
    pub(crate) fn observe(
        &self,
        rules: &Rules,
        outcome: Outcome,
        began: u64,
        now: u64,
    ) -> Option<Change> {
        let boring = match outcome {
            Outcome::Abandoned => true,
            Outcome::Success => !self.troubled.load(Ordering::Acquire),
            Outcome::Failure => false,
        };
        if boring {
            return None;
        }
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, change) = record.after(
            rules,
            outcome,
            Duration::from_nanos(began),
            Duration::from_nanos(now),
        );
        *record = next;
        self.out_until.store(
            next.ejection.map_or(0, |ejection| nanos(ejection.until)),
            Ordering::Release,
        );
        self.suspect.store(next.suspect, Ordering::Release);
        self.troubled
            .store(next.suspect || next.failures > 0, Ordering::Release);
        change
    }

    /// End of the ejection, nanoseconds since the start; in the past or 0 when the instance is in.
    pub(crate) fn out_until(&self) -> u64 {
        self.out_until.load(Ordering::Acquire)
    }

    /// Whether the instance was ejected and no call has succeeded since.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    /// The state of an instance that is not draining.
    pub(crate) fn state(&self, now: u64) -> State {
        if now < self.out_until() {
            State::Ejected
        } else if self.is_suspect() {
            State::Probation
        } else {
            State::In
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ejected(seconds: u64, failures: u32) -> Option<Change> {
        Some(Change::Ejected {
            lasts: s(seconds),
            failures,
        })
    }

    /// Each step: (call began, call ended, outcome) and what it changes.
    fn check(steps: &[(u64, u64, Outcome, Option<Change>)]) {
        let mut record = Record::default();
        for (step, &(began, ended, outcome, expect)) in steps.iter().enumerate() {
            let (next, change) = record.after(&Rules::default(), outcome, s(began), s(ended));
            assert_eq!(change, expect, "step {step}: {record:?}");
            record = next;
        }
    }

    use Outcome::{Abandoned, Failure, Success};

    #[test]
    fn only_failures_in_a_row_eject() {
        check(&[
            (0, 0, Failure, None),
            (0, 0, Failure, None),
            (0, 1, Success, None),
            (1, 1, Failure, None),
            (1, 1, Abandoned, None),
            (1, 1, Failure, None),
            (1, 1, Failure, ejected(5, 3)),
        ]);
    }

    #[test]
    fn ejections_grow_and_the_first_failure_on_probation_ejects_again() {
        check(&[
            (0, 0, Failure, None),
            (0, 0, Failure, None),
            (0, 0, Failure, ejected(5, 3)),
            (5, 5, Failure, ejected(10, 4)),
            (15, 15, Failure, ejected(20, 5)),
            (35, 35, Failure, ejected(40, 6)),
            (75, 75, Failure, ejected(60, 7)),
            (135, 135, Failure, ejected(60, 8)),
            (195, 195, Success, Some(Change::Restored)),
            (195, 196, Success, None),
            // Soon again: the next ejection is still long.
            (200, 200, Failure, None),
            (200, 200, Failure, None),
            (200, 200, Failure, ejected(60, 3)),
            (260, 260, Success, Some(Change::Restored)),
            // Served well for longer than the longest ejection: it starts over.
            (400, 400, Failure, None),
            (400, 400, Failure, None),
            (400, 400, Failure, ejected(5, 3)),
        ]);
    }

    #[test]
    fn calls_from_before_the_ejection_change_nothing() {
        check(&[
            (1, 1, Failure, None),
            (1, 1, Failure, None),
            (1, 1, Failure, ejected(5, 3)),
            (0, 2, Failure, None),
            (0, 2, Success, None),
            (0, 7, Failure, None),
            (0, 7, Success, None),
            (7, 7, Failure, ejected(10, 4)),
            // Used in a panic although ejected: a success ends the ejection at once.
            (8, 9, Success, Some(Change::Restored)),
            (9, 9, Failure, None),
        ]);
    }

    #[test]
    fn zero_never_ejects() {
        let rules = Rules {
            eject_after_failures: 0,
            ..Rules::default()
        };
        let mut record = Record::default();
        for now in 0..100 {
            let (next, change) = record.after(&rules, Failure, s(now), s(now));
            assert_eq!(change, None);
            record = next;
        }
        assert!(!record.is_out(s(100)));
    }

    #[test]
    fn the_panic_threshold_is_a_share_of_all_instances() {
        for (percent, out, total, expect) in [
            (50, 0, 0, false),
            (50, 1, 1, true),
            (50, 1, 2, false),
            (50, 2, 3, true),
            (50, 100, 200, false),
            (50, 101, 200, true),
            (0, 1, 200, true),
            (0, 0, 200, false),
            (100, 200, 200, false),
        ] {
            let rules = Rules {
                panic_threshold_percent: percent,
                ..Rules::default()
            };
            assert_eq!(
                panics(&rules, out, total),
                expect,
                "{out} of {total} at {percent} %"
            );
        }
    }

    proptest! {
        #[test]
        fn an_ejection_is_never_longer_than_the_bound(
            calls in prop::collection::vec((0_u64..30, 0_u64..5, 0_u8..3), 0..200),
        ) {
            let rules = Rules::default();
            let (mut record, mut now) = (Record::default(), 0);
            for (gap, took, outcome) in calls {
                now += gap;
                let outcome = [Success, Failure, Abandoned][usize::from(outcome)];
                let (next, change) = record.after(&rules, outcome, s(now.saturating_sub(took)), s(now));
                if let Some(Change::Ejected { lasts, .. }) = change {
                    prop_assert!(rules.eject_for <= lasts && lasts <= rules.eject_for_max);
                    prop_assert!(next.is_out(s(now)) && !record.is_out(s(now)));
                }
                record = next;
            }
        }
    }
}
