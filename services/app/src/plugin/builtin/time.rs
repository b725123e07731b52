//! `time`: what time it is, there and then.

use jiff::{Timestamp, Unit, Zoned, civil::DateTime, tz::TimeZone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tool::{About, Hints, Refusal, Tool};

/// Returns the tools of the set.
pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::inline(
            About {
                name: "now",
                title: "Current time",
                description: "Tells the current date and time in a time zone (UTC unless one is named).",
                // Not idempotent in its answer, but asking twice harms nothing.
                hints: Hints::READ_ONLY,
            },
            now,
        ),
        Tool::inline(
            About {
                name: "convert",
                title: "Convert time between zones",
                description: "Converts a point in time to another time zone, daylight saving rules of the date included.",
                hints: Hints::READ_ONLY,
            },
            convert,
        ),
        Tool::inline(
            About {
                name: "between",
                title: "Time between two instants",
                description: "Tells how long it is from one point in time to another, exactly and in calendar units.",
                hints: Hints::READ_ONLY,
            },
            between,
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Now {
    /// IANA time zone such as `Europe/Berlin`.
    zone: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Convert {
    /// RFC 3339 (`2026-03-29T02:30:00Z`), or a local time without offset (`2026-03-29T02:30:00`) together with `from`.
    time: String,
    /// IANA time zone of a `time` without offset; UTC unless given.
    from: Option<String>,
    /// IANA time zone to convert to.
    to: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Between {
    /// RFC 3339 start.
    start: String,
    /// RFC 3339 end; may be before the start.
    end: String,
    /// IANA time zone in which days and months are counted; UTC unless given.
    zone: Option<String>,
}

/// A point in time as seen in one zone.
#[derive(Serialize, JsonSchema)]
struct Moment {
    /// RFC 3339 with the zone's offset.
    time: String,
    /// The same instant in UTC.
    utc: String,
    /// IANA time zone.
    zone: String,
    /// Offset from UTC, such as `+02:00`.
    offset: String,
    /// Whether daylight saving time is in force.
    daylight_saving: bool,
    /// English weekday.
    weekday: String,
    /// Milliseconds since the Unix epoch.
    unix_ms: i64,
}

#[derive(Serialize, JsonSchema)]
struct Converted {
    /// The instant in its own zone.
    from: Moment,
    /// The instant in the wanted zone.
    to: Moment,
    /// Whether the local time named happens twice or never on that day; the earlier offset is taken when twice, the time is
    /// moved on by the gap when never.
    ambiguous: bool,
}

#[derive(Serialize, JsonSchema)]
struct Elapsed {
    /// Whole and broken seconds; negative if the end comes first.
    seconds: f64,
    /// ISO 8601 duration in calendar units.
    iso: String,
    /// For people.
    text: String,
}

fn now(input: Now) -> Result<Moment, Refusal> {
    let zone = zone(input.zone.as_deref())?;
    Ok(moment(&Timestamp::now().to_zoned(zone)))
}

fn convert(input: Convert) -> Result<Converted, Refusal> {
    let to = zone(Some(&input.to))?;
    let (from, ambiguous) = instant(&input.time, input.from.as_deref())?;
    Ok(Converted {
        to: moment(&from.with_time_zone(to)),
        from: moment(&from),
        ambiguous,
    })
}

fn between(input: Between) -> Result<Elapsed, Refusal> {
    let zone = zone(input.zone.as_deref())?;
    let start = timestamp(&input.start)?.to_zoned(zone.clone());
    let end = timestamp(&input.end)?.to_zoned(zone);
    let span = start.until((Unit::Year, &end))?;
    let exact = end.timestamp().duration_since(start.timestamp());
    Ok(Elapsed {
        seconds: exact.as_secs_f64(),
        iso: span.to_string(),
        text: format!("{span:#}"),
    })
}

fn zone(name: Option<&str>) -> Result<TimeZone, Refusal> {
    let Some(name) = name else {
        return Ok(TimeZone::UTC);
    };
    TimeZone::get(name).map_err(|_| {
        Refusal(format!(
            "{name:?} is not an IANA time zone; write for example Europe/Berlin or UTC"
        ))
    })
}

fn timestamp(text: &str) -> Result<Timestamp, Refusal> {
    text.parse()
        .map_err(|error| Refusal(format!("{text:?} is not an RFC 3339 time: {error}")))
}

/// Reads an instant; a time without offset is local to `from`. The flag tells whether the zone has it twice or never.
fn instant(text: &str, from: Option<&str>) -> Result<(Zoned, bool), Refusal> {
    let home = zone(from)?;
    if let Ok(exact) = text.parse::<Timestamp>() {
        return Ok((exact.to_zoned(home), false));
    }
    let local: DateTime = text.parse().map_err(|error| {
        Refusal(format!(
            "{text:?} is neither an RFC 3339 time nor a local time: {error}"
        ))
    })?;
    let choice = home.to_ambiguous_zoned(local);
    let ambiguous = choice.is_ambiguous();
    Ok((choice.compatible()?, ambiguous))
}

fn moment(at: &Zoned) -> Moment {
    Moment {
        time: at.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string(),
        utc: at.timestamp().to_string(),
        zone: at.time_zone().iana_name().unwrap_or("UTC").to_owned(),
        offset: at.strftime("%:z").to_string(),
        daylight_saving: at.time_zone().to_offset_info(at.timestamp()).dst().is_dst(),
        weekday: at.strftime("%A").to_string(),
        unix_ms: at.timestamp().as_millisecond(),
    }
}
