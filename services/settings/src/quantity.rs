//! Quantities as people write them: `30s`, `10MiB`, `2.5%`.
//!
//! A number without a unit is refused: nobody can tell whether `30` was meant in seconds or in milliseconds, and the
//! one who finds out is on call. The arithmetic is exact (no floating point), so that writing a value and reading it
//! back gives the same value, and equal values have one written form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One kibibyte, in bytes.
pub const KIB: u64 = 1024;
/// One mebibyte, in bytes.
pub const MIB: u64 = 1024 * KIB;
/// One gibibyte, in bytes.
pub const GIB: u64 = 1024 * MIB;

/// The longest text that is looked at: no quantity needs more.
const TEXT_MAX: usize = 64;
const FRACTION_DIGITS_MAX: u32 = 9;

const DURATION: Measure = Measure {
    what: "duration",
    units: &[
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ],
    words: "a number with a unit (ns, us, ms, s, m, h, d), such as 30s or 1m30s",
};

const SIZE: Measure = Measure {
    what: "size",
    units: &[
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
    ],
    words: "a number with a unit (B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB), such as 10MiB",
};

const PERCENT_WORDS: &str =
    "a number from 0 to 100 with a percent sign and at most two decimals, such as 5%";

/// A text that is no duration, size or percentage, with what would have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a {what}: write {expected}{}", hint.as_ref().map(|hint| format!("; did you mean {hint}?")).unwrap_or_default())]
pub struct QuantityError {
    /// The text as it was found, shortened.
    pub found: String,
    /// `duration`, `size` or `percentage`.
    pub what: &'static str,
    /// What is accepted, in words.
    pub expected: &'static str,
    /// The likeliest meaning, if there is one.
    pub hint: Option<String>,
}

/// Reads a duration such as `30s`, `250ms`, `1.5h` or `1m30s`.
///
/// # Errors
/// Says what was found and what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let nanoseconds = DURATION.parse(text)?;
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).map_err(|_| DURATION.refuse(text))?;
    let rest = u32::try_from(nanoseconds % 1_000_000_000).unwrap_or(0);
    Ok(Duration::new(seconds, rest))
}

/// Reads a size such as `10MiB` (1024) or `10MB` (1000), in bytes.
///
/// # Errors
/// Says what was found and what a size looks like.
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    u64::try_from(SIZE.parse(text)?).map_err(|_| SIZE.refuse(text))
}

/// Reads a percentage such as `5%` or `0.1%`.
///
/// # Errors
/// Says what was found and what a percentage looks like.
pub fn parse_percent(text: &str) -> Result<Percent, QuantityError> {
    let refuse = |hint: Option<String>| QuantityError {
        found: shorten(text),
        what: "percentage",
        expected: PERCENT_WORDS,
        hint,
    };
    let trimmed = text.trim();
    let Some(number) = trimmed.strip_suffix('%') else {
        let guess = format!("{trimmed}%");
        return Err(refuse(
            (!trimmed.contains('%') && parse_percent_number(trimmed).is_some()).then_some(guess),
        ));
    };
    parse_percent_number(number.trim_end()).ok_or_else(|| refuse(None))
}

fn parse_percent_number(number: &str) -> Option<Percent> {
    let (scaled, rest) = leading_number(number, 100)?;
    let basis_points = u16::try_from(scaled).ok()?;
    (rest.is_empty() && basis_points <= Percent::ONE_HUNDRED.0).then_some(Percent(basis_points))
}

/// Writes a duration in its one canonical form: `90s` is `1m30s`, `24h` stays `24h`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    const DAY: u128 = 86_400_000_000_000;
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".to_owned();
    }
    if rest.is_multiple_of(DAY) && rest > DAY {
        return format!("{}d", rest / DAY);
    }
    let mut written = String::new();
    for (unit, factor) in DURATION.units.iter().skip(1) {
        let amount = rest / factor;
        if amount > 0 {
            written.push_str(&format!("{amount}{unit}"));
            rest %= factor;
        }
    }
    written
}

/// Writes a size in its one canonical form: the largest unit of 1024 that divides it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let (unit, factor) = SIZE.units[..4]
        .iter()
        .find(|(_, factor)| bytes > 0 && u128::from(bytes).is_multiple_of(*factor))
        .unwrap_or(&("B", 1));
    format!("{}{unit}", u128::from(bytes) / factor)
}

/// A share of a whole, exact to a hundredth of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u16);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The whole.
    pub const ONE_HUNDRED: Self = Self(10_000);

    /// Makes a percentage from hundredths of a percent; more than the whole becomes the whole.
    #[must_use]
    pub const fn from_basis_points(basis_points: u16) -> Self {
        if basis_points > 10_000 {
            Self::ONE_HUNDRED
        } else {
            Self(basis_points)
        }
    }

    /// Hundredths of a percent, 0 to 10,000.
    #[must_use]
    pub const fn basis_points(self) -> u16 {
        self.0
    }

    /// The share as a number from 0.0 to 1.0.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, hundredths) = (self.0 / 100, self.0 % 100);
        match hundredths {
            0 => write!(formatter, "{whole}%"),
            tenths if tenths % 10 == 0 => write!(formatter, "{whole}.{}%", tenths / 10),
            _ => write!(formatter, "{whole}.{hundredths:02}%"),
        }
    }
}

impl FromStr for Percent {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_percent(text)
    }
}

/// Units of one measure, largest first; a factor counts the smallest unit.
struct Measure {
    what: &'static str,
    units: &'static [(&'static str, u128)],
    words: &'static str,
}

impl Measure {
    /// Sums the parts of `1m30s`, each smaller than the one before.
    fn parse(&self, text: &str) -> Result<u128, QuantityError> {
        let mut rest = text.trim();
        if rest.is_empty() || rest.len() > TEXT_MAX {
            return Err(self.refuse(text));
        }
        let mut total = 0_u128;
        let mut factor_before = u128::MAX;
        while !rest.is_empty() {
            let (amount, factor, after) = self.part(rest).ok_or_else(|| self.refuse(text))?;
            if factor >= factor_before {
                return Err(self.refuse(text));
            }
            factor_before = factor;
            total = total.checked_add(amount).ok_or_else(|| self.refuse(text))?;
            rest = after;
        }
        Ok(total)
    }

    /// Reads one number with its unit: the amount in smallest units, the unit's factor, and what follows.
    fn part<'t>(&self, text: &'t str) -> Option<(u128, u128, &'t str)> {
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, after) = text.split_at(digits);
        let after = after.trim_start_matches(' ');
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let factor = self.units.iter().find(|(name, _)| *name == unit)?.1;
        let (amount, nothing) = leading_number(number, factor)?;
        nothing.is_empty().then_some((amount, factor, after))
    }

    fn refuse(&self, text: &str) -> QuantityError {
        QuantityError {
            found: shorten(text),
            what: self.what,
            expected: self.words,
            hint: self.guess(text),
        }
    }

    /// What was probably meant by `10mib`, `10M` or `10 sec`.
    fn guess(&self, text: &str) -> Option<String> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return None;
        }
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = text.split_at(split);
        leading_number(number, 1_000_000_000)?;
        let unit = unit.trim().to_ascii_lowercase();
        let meant = match (self.what, unit.as_str()) {
            ("duration", "sec" | "secs" | "second" | "seconds") => "s",
            ("duration", "min" | "mins" | "minute" | "minutes") => "m",
            ("duration", "hr" | "hrs" | "hour" | "hours") => "h",
            ("duration", "day" | "days") => "d",
            ("duration", "msec" | "millis" | "milliseconds") => "ms",
            ("size", "k" | "kb") => "KiB",
            ("size", "m") => "MiB",
            ("size", "g") => "GiB",
            ("size", "byte" | "bytes") => "B",
            (_, other) => {
                self.units
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(other))?
                    .0
            }
        };
        Some(format!("{number}{meant}"))
    }
}

/// Reads decimal digits with an optional fraction as a whole number of `1 / scale`; `None` if it is not exact.
fn leading_number(text: &str, scale: u128) -> Option<(u128, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let places = u32::try_from(fraction.len())
        .ok()
        .filter(|places| *places <= FRACTION_DIGITS_MAX)?;
    let whole: u128 = u128::from(whole.parse::<u64>().ok()?);
    let fraction: u128 = u128::from(fraction.parse::<u64>().ok()?);
    let divisor = 10_u128.pow(places);
    let scaled = fraction.checked_mul(scale)?;
    if !scaled.is_multiple_of(divisor) {
        return None;
    }
    Some((
        whole.checked_mul(scale)?.checked_add(scaled / divisor)?,
        rest,
    ))
}

/// The start of a text, escaped so that it stays on its line.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(TEXT_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(TEXT_MAX).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_and_write() {
        for (text, milliseconds, canonical) in [
            ("30s", 30_000, "30s"),
            ("250ms", 250, "250ms"),
            ("1500ms", 1_500, "1s500ms"),
            ("1.5s", 1_500, "1s500ms"),
            ("90s", 90_000, "1m30s"),
            ("1m30s", 90_000, "1m30s"),
            ("10 m", 600_000, "10m"),
            ("24h", 86_400_000, "24h"),
            ("30d", 2_592_000_000, "30d"),
            ("0s", 0, "0s"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(format_duration(duration), canonical, "{text}");
        }
    }

    #[test]
    fn sizes_read_and_write() {
        for (text, bytes, canonical) in [
            ("10MiB", 10 * MIB, "10MiB"),
            ("1.5KiB", 1536, "1536B"),
            ("10MB", 10_000_000, "10000000B"),
            ("1024KiB", MIB, "1MiB"),
            ("0B", 0, "0B"),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
            assert_eq!(format_size(bytes), canonical, "{text}");
        }
    }

    #[test]
    fn percentages_read_and_write() {
        for (text, basis_points, canonical) in [
            ("5%", 500, "5%"),
            ("0.1%", 10, "0.1%"),
            ("33.33 %", 3333, "33.33%"),
            ("0.05%", 5, "0.05%"),
            ("100%", 10_000, "100%"),
        ] {
            let percent = parse_percent(text).unwrap();
            assert_eq!(percent.basis_points(), basis_points, "{text}");
            assert_eq!(percent.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused_with_a_hint() {
        let message = |text: &str| parse_duration(text).unwrap_err().to_string();
        insta::assert_snapshot!(message("30"), @"`30` is not a duration: write a number with a unit (ns, us, ms, s, m, h, d), such as 30s or 1m30s");
        insta::assert_snapshot!(message("10 sec"), @"`10 sec` is not a duration: write a number with a unit (ns, us, ms, s, m, h, d), such as 30s or 1m30s; did you mean 10s?");
        insta::assert_snapshot!(parse_size("10M").unwrap_err(), @"`10M` is not a size: write a number with a unit (B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB), such as 10MiB; did you mean 10MiB?");
        insta::assert_snapshot!(parse_percent("5").unwrap_err(), @"`5` is not a percentage: write a number from 0 to 100 with a percent sign and at most two decimals, such as 5%; did you mean 5%?");
        for text in [
            "",
            "s",
            "-1s",
            "1s1m",
            "1s1s",
            "1e3s",
            "1.2.3s",
            ".5s",
            "5.s",
            "1.0000000001s",
            "0.5ns",
            "99999999999999999999d",
        ] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        for text in [
            "", "%", "101%", "100.01%", "-1%", "1.234%", "5%%", "1e1%", "%5",
        ] {
            assert!(parse_percent(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in "\\PC{0,80}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
            let _ = parse_percent(&text);
        }

        #[test]
        fn numbers_with_units_never_panic(text in "[0-9]{0,24}\\.?[0-9]{0,12}(ns|us|ms|s|m|h|d|B|TiB|TB|%)") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
            let _ = parse_percent(&text);
        }

        #[test]
        fn what_is_written_reads_back(nanoseconds in any::<u64>(), bytes in any::<u64>(), basis_points in 0..=10_000_u16) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)).unwrap(), duration);
            prop_assert_eq!(parse_size(&format_size(bytes)).unwrap(), bytes);
            let percent = Percent::from_basis_points(basis_points);
            prop_assert_eq!(parse_percent(&percent.to_string()).unwrap(), percent);
        }
    }
}
