//! Days of UTC, as numbers and as dates.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

const SECONDS: u64 = 86_400;

/// A day: days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub u32);

impl Day {
    /// The day of a moment, in seconds since 1970.
    #[must_use]
    pub fn of(unix_seconds: u64) -> Day {
        Day(u32::try_from(unix_seconds / SECONDS).unwrap_or(u32::MAX))
    }

    /// Seconds since 1970 at which it ends.
    #[must_use]
    pub fn end(self) -> u64 {
        (u64::from(self.0) + 1) * SECONDS
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(i64::from(self.0));
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is no day.
#[derive(Debug, PartialEq, Eq)]
pub struct NotADay;

impl FromStr for Day {
    type Err = NotADay;

    fn from_str(text: &str) -> Result<Day, NotADay> {
        let mut parts = text.splitn(3, '-');
        let mut part = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits);
            let part = part.filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
            part.and_then(|part| part.parse::<i64>().ok())
        };
        let (year, month, day) = (part(4), part(2), part(2));
        let (Some(year), Some(month), Some(day)) = (year, month, day) else {
            return Err(NotADay);
        };
        let number = number(year, month, day);
        let day = u32::try_from(number).map(Day).map_err(|_| NotADay)?;
        // A month of 13, or a 31st of June, comes back as another date.
        if day.to_string() == text {
            Ok(day)
        } else {
            Err(NotADay)
        }
    }
}

/// The civil date of a day (Hinnant, "chrono-compatible low-level date algorithms"): years of 400 repeat, and begin in March.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

fn number(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (number, text) in [
            (0, "1970-01-01"),
            (19_782, "2024-02-29"),
            (20_781, "2026-11-24"),
            (47_482, "2100-01-01"),
        ] {
            assert_eq!(Day(number).to_string(), text);
            assert_eq!(text.parse(), Ok(Day(number)));
        }
        for text in [
            "",
            "2026-13-01",
            "2026-02-30",
            "26-1-1",
            "2026-11-24x",
            "+026-11-24",
            "1969-12-31",
        ] {
            assert_eq!(text.parse::<Day>(), Err(NotADay), "{text}");
        }
        assert_eq!(Day::of(86_399), Day(0));
        assert_eq!(Day(0).end(), 86_400);
    }
}
