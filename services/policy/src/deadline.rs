//! How long a call may take, and how much of that one attempt may take.
//!
//! A client may ask for less time than the operator allows, never for more. What is left travels with the call, so that
//! no one works on an answer that nobody waits for.
//!
//! An attempt that may be followed by another gets **half of what is left**; the last gets all of it. Equal shares would
//! cut a slow but sound call at a third of its time; giving the first attempt everything would leave nothing to retry
//! with when an instance hangs. A call that must not be repeated has one attempt and therefore all the time.

use std::time::{Duration, Instant};

/// Longest deadline, so that adding it to any instant is safe.
const LIMIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Who set the deadline that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetBy {
    /// The client asked for less than the limit.
    Client,
    /// The client asked for nothing, or for more than the limit.
    Limit,
}

/// The moment after which the call's answer is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    set_by: SetBy,
}

/// The text is not a time to answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected whole milliseconds such as 1500, or a number with ms, s or m such as 30s")]
pub struct NotATimeout;

/// Reads what a client wrote: `1500` (milliseconds), `1500ms`, `30s`, `2m`. Too large a number is the largest duration.
///
/// # Errors
/// [`NotATimeout`] for anything else: signs, fractions, other units, nothing.
pub fn parse(text: &str) -> Result<Duration, NotATimeout> {
    let text = text.trim_ascii();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(NotATimeout);
    }
    let unit_ms: u64 = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(NotATimeout),
    };
    // Only an overflow is left to go wrong, and a huge wish is cut to the limit anyway.
    let number: u64 = number.parse().unwrap_or(u64::MAX);
    Ok(Duration::from_millis(number.saturating_mul(unit_ms)))
}

impl Deadline {
    /// Sets the deadline of a call that arrived at `now`: what the client asked for, at most `limit`.
    #[must_use]
    pub fn new(asked: Option<Duration>, limit: Duration, now: Instant) -> Self {
        let (time, set_by) = match asked {
            Some(asked) if asked < limit => (asked, SetBy::Client),
            _ => (limit, SetBy::Limit),
        };
        Self {
            at: now + time.min(LIMIT_MAX),
            set_by,
        }
    }

    /// The moment itself.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Who set it: decides whether a timeout is the client's wish or the gateway's limit.
    #[must_use]
    pub fn set_by(&self) -> SetBy {
        self.set_by
    }

    /// Time left; zero once it has passed.
    #[must_use]
    pub fn left(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }

    /// Whole milliseconds left, for a header.
    #[must_use]
    pub fn left_ms(&self, now: Instant) -> u64 {
        u64::try_from(self.left(now).as_millis()).unwrap_or(u64::MAX)
    }

    /// Says how long the next attempt may take when at most `attempts_left` attempts may still be made, itself included.
    /// `None` when the deadline has passed or no attempt is left.
    #[must_use]
    pub fn attempt(&self, attempts_left: u32, now: Instant) -> Option<Duration> {
        let left = self.left(now);
        if left.is_zero() {
            return None;
        }
        match attempts_left {
            0 => None,
            1 => Some(left),
            _ => Some(left / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn reads_what_clients_write() {
        for (text, expect) in [
            ("1500", Ok(1_500)),
            (" 0 ", Ok(0)),
            ("250ms", Ok(250)),
            ("30s", Ok(30_000)),
            ("2m", Ok(120_000)),
            ("99999999999999999999999", Ok(u64::MAX)),
            ("18446744073709551615s", Ok(u64::MAX)),
            ("", Err(NotATimeout)),
            ("-1", Err(NotATimeout)),
            ("+1", Err(NotATimeout)),
            ("1.5s", Err(NotATimeout)),
            ("1h", Err(NotATimeout)),
            ("ms", Err(NotATimeout)),
            ("1 s", Err(NotATimeout)),
            ("٣", Err(NotATimeout)),
        ] {
            assert_eq!(parse(text), expect.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn a_client_may_ask_for_less_but_not_for_more() {
        let now = Instant::now();
        for (asked, limit, expect, set_by) in [
            (None, 30 * SECOND, 30 * SECOND, SetBy::Limit),
            (Some(SECOND), 30 * SECOND, SECOND, SetBy::Client),
            (Some(60 * SECOND), 30 * SECOND, 30 * SECOND, SetBy::Limit),
            (Some(Duration::MAX), Duration::MAX, LIMIT_MAX, SetBy::Limit),
            (Some(Duration::ZERO), SECOND, Duration::ZERO, SetBy::Client),
        ] {
            let deadline = Deadline::new(asked, limit, now);
            assert_eq!(
                (deadline.left(now), deadline.set_by()),
                (expect, set_by),
                "{asked:?} of {limit:?}"
            );
        }
    }

    #[test]
    fn an_attempt_leaves_time_for_the_next() {
        let now = Instant::now();
        let deadline = Deadline::new(None, 30 * SECOND, now);
        for (attempts_left, after, expect) in [
            (3, Duration::ZERO, Some(15 * SECOND)),
            (2, 15 * SECOND, Some(SECOND * 15 / 2)),
            (1, SECOND * 45 / 2, Some(SECOND * 15 / 2)),
            (1, Duration::ZERO, Some(30 * SECOND)),
            (0, Duration::ZERO, None),
            (1, 30 * SECOND, None),
            (3, 31 * SECOND, None),
        ] {
            assert_eq!(
                deadline.attempt(attempts_left, now + after),
                expect,
                "{attempts_left} left after {after:?}"
            );
        }
        assert_eq!(deadline.left_ms(now + Duration::from_micros(500)), 29_999);
    }

    proptest! {
        #[test]
        fn attempts_never_outlast_the_deadline(limit_ms in 1_u64..100_000, attempts in 1_u32..10) {
            let start = Instant::now();
            let deadline = Deadline::new(None, Duration::from_millis(limit_ms), start);
            let mut now = start;
            for left in (1..=attempts).rev() {
                let Some(attempt) = deadline.attempt(left, now) else { break };
                now += attempt;
                prop_assert!(now <= deadline.at());
            }
            prop_assert_eq!(now, deadline.at());
        }
    }
}
