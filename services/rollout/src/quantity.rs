//! Weights, shares and lengths of time as people write them: `5%`, `0.1%`, `1m30s`.
//!
//! All three are whole numbers inside (basis points, parts per million, milliseconds), so that a
//! plan hashes to the same value everywhere and a journal reads back exactly as it was written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a quantity was not understood: what would have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {allowed}")]
pub struct QuantityError {
    /// The text as it was found.
    pub found: String,
    /// What is allowed, as the end of a sentence.
    pub allowed: &'static str,
}

const PERCENT: &str = "a percentage from 0% to 100% such as \"5%\" or \"0.1%\"";
const WEIGHT: &str = "a percentage from 0% to 100% with at most two decimals such as \"5%\"";
const DURATION: &str = "a length of time such as \"30s\", \"500ms\", \"10m\" or \"1h30m\"";

/// A share of traffic in hundredths of a percent, 0 to 10 000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BasisPoints(u16);

impl BasisPoints {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All traffic.
    pub const FULL: Self = Self(10_000);

    /// The share of `basis_points` hundredths of a percent; `None` above 10 000.
    #[must_use]
    pub const fn new(basis_points: u16) -> Option<Self> {
        if basis_points <= 10_000 {
            Some(Self(basis_points))
        } else {
            None
        }
    }

    /// The whole percentage `percent`; more than 100 counts as 100.
    #[must_use]
    pub const fn percent(percent: u16) -> Self {
        if percent >= 100 {
            Self::FULL
        } else {
            Self(percent * 100)
        }
    }

    /// Hundredths of a percent.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The share as a number from 0 to 1.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// This share of `whole`, rounded up.
    #[must_use]
    pub fn of(self, whole: u32) -> u32 {
        let product = u64::from(whole) * u64::from(self.0);
        u32::try_from(product.div_ceil(10_000)).unwrap_or(whole)
    }
}

impl fmt::Display for BasisPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&percent_text(u32::from(self.0) * 100))
    }
}

impl FromStr for BasisPoints {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse_percent(text)
            .filter(|ppm| ppm % 100 == 0)
            .and_then(|ppm| u16::try_from(ppm / 100).ok())
            .map(Self)
            .ok_or_else(|| refused(text, WEIGHT))
    }
}

impl TryFrom<String> for BasisPoints {
    type Error = QuantityError;

    fn try_from(text: String) -> Result<Self, QuantityError> {
        text.parse()
    }
}

impl From<BasisPoints> for String {
    fn from(weight: BasisPoints) -> Self {
        weight.to_string()
    }
}

/// A share of anything in parts per million, 0 to 1 000 000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fraction(u32);

impl Fraction {
    /// The fraction of `ppm` parts per million; more than a million counts as a million.
    #[must_use]
    pub const fn ppm(ppm: u32) -> Self {
        if ppm > 1_000_000 {
            Self(1_000_000)
        } else {
            Self(ppm)
        }
    }

    /// The nearest fraction to `value`; `None` unless it lies between 0 and 1.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked on the line above"
    )]
    pub fn from_f64(value: f64) -> Option<Self> {
        (0.0..=1.0)
            .contains(&value)
            .then(|| Self((value * 1e6).round() as u32))
    }

    /// Parts per million.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The fraction as a number from 0 to 1.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&percent_text(self.0))
    }
}

impl FromStr for Fraction {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse_percent(text)
            .map(Self)
            .ok_or_else(|| refused(text, PERCENT))
    }
}

impl TryFrom<String> for Fraction {
    type Error = QuantityError;

    fn try_from(text: String) -> Result<Self, QuantityError> {
        text.parse()
    }
}

impl From<Fraction> for String {
    fn from(fraction: Fraction) -> Self {
        fraction.to_string()
    }
}

fn refused(found: &str, allowed: &'static str) -> QuantityError {
    QuantityError {
        found: found.to_owned(),
        allowed,
    }
}

/// Parts per million of a percentage with at most four decimals, 0 to 100.
fn parse_percent(text: &str) -> Option<u32> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str, max: usize| {
        (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !digits(whole, 3) || !digits(decimals, 4) {
        return None;
    }
    let scale = 10_u32.pow(u32::try_from(4 - decimals.len()).ok()?);
    let ppm = whole.parse::<u32>().ok()? * 10_000 + decimals.parse::<u32>().ok()? * scale;
    (ppm <= 1_000_000).then_some(ppm)
}

fn percent_text(ppm: u32) -> String {
    let decimals = format!("{:04}", ppm % 10_000);
    match decimals.trim_end_matches('0') {
        "" => format!("{}%", ppm / 10_000),
        decimals => format!("{}.{decimals}%", ppm / 10_000),
    }
}

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads `"30s"`, `"500ms"`, `"1h30m"`; units fall from days to milliseconds.
///
/// # Errors
/// When the text is anything else, or longer than a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    parse_millis(text.trim())
        .filter(|millis| *millis <= 100 * 365 * 86_400_000)
        .map(Duration::from_millis)
        .ok_or_else(|| refused(text, DURATION))
}

fn parse_millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (_, millis) = units.find(|(unit, _)| *unit == &tail[..letters])?;
        total = total.checked_add(count.checked_mul(*millis)?)?;
        rest = &tail[letters..];
    }
    (!text.is_empty()).then_some(total)
}

/// Writes a length of time the way [`parse_duration`] reads it; parts of a millisecond are lost.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut millis = millis(duration);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in UNITS {
        if millis >= size {
            text.push_str(&format!("{}{unit}", millis / size));
            millis %= size;
        }
    }
    text
}

/// Whole milliseconds, saturating.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a [`Duration`] field as `"1m30s"`, for `#[serde(with = …)]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the field.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format_duration(*value))
    }

    /// Reads the field.
    ///
    /// # Errors
    /// When the text is not a length of time.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_read_and_print() {
        for (text, ppm) in [
            ("5%", 50_000),
            ("0.1%", 1_000),
            ("100%", 1_000_000),
            ("0%", 0),
            ("12.3456%", 123_456),
        ] {
            let fraction: Fraction = text.parse().unwrap();
            assert_eq!(fraction.get(), ppm, "{text}");
            assert_eq!(fraction.to_string(), text);
        }
        for text in [
            "5", "", "%", "-1%", "101%", "1.%", ".5%", "1e1%", "1.00001%", "5 %%",
        ] {
            assert!(text.parse::<Fraction>().is_err(), "{text}");
        }
        assert_eq!("0.25%".parse::<BasisPoints>().unwrap().get(), 25);
        assert!("0.001%".parse::<BasisPoints>().is_err());
    }

    #[test]
    fn durations_read_and_print() {
        for (text, millis) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(super::millis(duration), millis, "{text}");
            assert_eq!(format_duration(duration), text);
        }
        for text in [
            "",
            "30",
            "s",
            "1s1m",
            "1s1s",
            "1.5s",
            "-1s",
            "99999999999999999999s",
            "1y",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_of_instances_rounds_up() {
        for (percent, whole, expect) in [(5, 3, 1), (25, 4, 1), (26, 4, 2), (50, 3, 2), (100, 3, 3)]
        {
            assert_eq!(
                BasisPoints::percent(percent).of(whole),
                expect,
                "{percent}% of {whole}"
            );
        }
    }
}
