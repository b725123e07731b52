//! Reading: entries as of one snapshot, events after a revision.

use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, Row, params};

use super::clock::Moment;
use crate::backend::{Batch, Keys};
use crate::limits::{RANGE_BYTES_MAX, RANGE_ENTRIES_MAX};
use crate::{Entry, Error, Event, EventKind, LeaseId, Range, Result, Revision};

/// A batch ends at the first whole revision past either bound.
const BATCH_EVENTS_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Keys of ended leases are hidden here: whoever deletes them may be late.
const VISIBLE: &str = "SELECT key, value, create_revision, mod_revision, version, lease FROM entries
    WHERE (lease IS NULL OR EXISTS (SELECT 1 FROM leases WHERE id = lease AND boot = ?1 AND ends_ms > ?2))";

/// Turns SQLite's errors into ours.
pub(super) fn sql_error(attempt: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Full { attempt },
        _ => Error::Backend {
            attempt,
            source: Arc::new(error),
        },
    }
}

/// The revision of the snapshot.
pub(super) fn revision(conn: &Connection) -> rusqlite::Result<Revision> {
    conn.prepare_cached("SELECT revision FROM meta")?
        .query_row([], |row| number(row, 0))
}

/// Reads a column that is never negative.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let found: i64 = row.get(column)?;
    u64::try_from(found).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, found))
}

/// Writes a number that stays far below 2^63: a counter of changes.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads the entries of `keys`.
pub(super) fn range(conn: &Connection, now: &Moment, keys: &Keys) -> Result<Range> {
    let revision = revision(conn).map_err(sql_error("reading the revision"))?;
    let entries = match keys {
        Keys::One(key) => one(conn, now, key)
            .map_err(sql_error("reading a key"))?
            .into_iter()
            .collect(),
        Keys::Prefix(prefix) => with_prefix(conn, now, prefix)?,
    };
    Ok(Range { entries, revision })
}

/// Reads one key.
pub(super) fn one(conn: &Connection, now: &Moment, key: &str) -> rusqlite::Result<Option<Entry>> {
    let mut statement = conn.prepare_cached(&format!("{VISIBLE} AND key = ?3"))?;
    let mut rows = statement.query(params![now.boot, now.millis, key])?;
    rows.next()?.map(entry).transpose()
}

fn with_prefix(conn: &Connection, now: &Moment, prefix: &str) -> Result<Vec<Entry>> {
    const READING: &str = "reading a range";
    let sql = format!("{VISIBLE} AND key >= ?3 AND (?4 IS NULL OR key < ?4) ORDER BY key");
    let mut statement = conn.prepare_cached(&sql).map_err(sql_error(READING))?;
    let mut rows = statement
        .query(params![now.boot, now.millis, prefix, prefix_end(prefix)])
        .map_err(sql_error(READING))?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(sql_error(READING))? {
        let entry = entry(row).map_err(sql_error(READING))?;
        bytes += entry.key.len() + entry.value.len();
        if entries.len() == RANGE_ENTRIES_MAX || bytes > RANGE_BYTES_MAX {
            let detail = format!(
                "more than {RANGE_ENTRIES_MAX} entries or {RANGE_BYTES_MAX} bytes under `{prefix}`"
            );
            return Err(Error::Invalid {
                what: "range",
                detail,
            });
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: row.get::<_, Vec<u8>>(1)?.into(),
        create_revision: number(row, 2)?,
        mod_revision: number(row, 3)?,
        version: number(row, 4)?,
        lease: row.get::<_, Option<i64>>(5)?.map(LeaseId),
    })
}

/// The first text after all that begin with `prefix`; `None` if there is none. Texts are ordered by code points,
/// which is the order of their UTF-8 bytes.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut head = prefix.to_owned();
    while let Some(last) = head.pop() {
        // The range skips the surrogates, which are no characters.
        if let Some(next) = (last..=char::MAX).nth(1) {
            head.push(next);
            return Some(head);
        }
    }
    None
}

/// Reads events after revision `after`; the batch's `through` says how far was looked.
pub(super) fn events(conn: &Connection, prefix: &str, after: Revision) -> Result<Batch> {
    const READING: &str = "reading events";
    let (revision, compacted) = conn
        .prepare_cached("SELECT revision, compacted FROM meta")
        .and_then(|mut statement| {
            statement.query_row([], |row| Ok((number(row, 0)?, number(row, 1)?)))
        })
        .map_err(sql_error(READING))?;
    if after < compacted {
        return Err(Error::Compacted { after, compacted });
    }
    if after >= revision {
        return Ok(Batch {
            events: Vec::new(),
            through: after,
        });
    }
    let sql = "SELECT key, value, create_revision, revision, version, lease, put FROM events
        WHERE revision > ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3) ORDER BY revision, seq";
    let mut statement = conn.prepare_cached(sql).map_err(sql_error(READING))?;
    let mut rows = statement
        .query(params![integer(after), prefix, prefix_end(prefix)])
        .map_err(sql_error(READING))?;
    let (mut events, mut bytes) = (Vec::<Event>::new(), 0);
    while let Some(row) = rows.next().map_err(sql_error(READING))? {
        let event = event(row).map_err(sql_error(READING))?;
        let full = events.len() >= BATCH_EVENTS_MAX || bytes >= BATCH_BYTES_MAX;
        if let Some(last) = events.last()
            && full
            && last.revision < event.revision
        {
            let through = last.revision;
            return Ok(Batch { events, through });
        }
        bytes += event.entry.key.len() + event.entry.value.len();
        events.push(event);
    }
    Ok(Batch {
        events,
        through: revision,
    })
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let entry = entry(row)?;
    let kind = if row.get::<_, bool>(6)? {
        EventKind::Put
    } else {
        EventKind::Delete
    };
    Ok(Event {
        kind,
        revision: entry.mod_revision,
        entry,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::prefix_end;

    #[test]
    fn ends_of_prefixes() {
        let cases = [
            ("", None),
            ("a", Some("b")),
            ("instances/", Some("instances0")),
            ("\u{d7ff}", Some("\u{e000}")),
            ("a\u{10ffff}", Some("b")),
            ("\u{10ffff}", None),
        ];
        for (prefix, end) in cases {
            assert_eq!(prefix_end(prefix).as_deref(), end, "{prefix:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_within_the_bounds_just_when_it_begins_so(prefix in ".{0,3}", key in ".{0,5}", joined: bool) {
            let key = if joined { format!("{prefix}{key}") } else { key };
            let end = prefix_end(&prefix);
            let within = key >= prefix && end.is_none_or(|end| key < end);
            prop_assert_eq!(within, key.starts_with(&prefix));
        }
    }
}
