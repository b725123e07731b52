//! Leases: rows with an end. Whoever writes next after that end deletes their keys first.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::change::Change;
use super::clock::Moment;
use super::rows::{integer, number, sql_error};
use super::writer::Writing;
use crate::{Error, LeaseId, Result};

/// Most leases at a time: far above any fleet of one machine.
const LEASES_MAX: u64 = 10_000;

/// Makes a lease.
pub(super) fn grant(writing: &Writing<'_>, ttl: Duration) -> Result<LeaseId> {
    const GRANTING: &str = "granting a lease";
    let grant = || {
        let count = "SELECT count(*) FROM leases";
        if writing
            .conn
            .prepare_cached(count)?
            .query_row([], |row| number(row, 0))?
            >= LEASES_MAX
        {
            return Ok(None);
        }
        let insert = "INSERT INTO leases (ttl_ms, boot, ends_ms) VALUES (?1, ?2, ?3)";
        let ttl_ms = integer(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let ends_ms = writing.now.after(ttl);
        writing
            .conn
            .prepare_cached(insert)?
            .execute(params![ttl_ms, writing.now.boot, ends_ms])?;
        Ok(Some(LeaseId(writing.conn.last_insert_rowid())))
    };
    grant()
        .map_err(sql_error(GRANTING))?
        .ok_or(Error::Full { attempt: GRANTING })
}

/// Sets a lease's end to its full time from now.
pub(super) fn keep_alive(writing: &Writing<'_>, lease: LeaseId) -> Result<()> {
    let sql =
        "UPDATE leases SET ends_ms = ?3 + ttl_ms WHERE id = ?1 AND boot = ?2 AND ends_ms > ?3";
    let kept = writing
        .conn
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![lease.0, writing.now.boot, writing.now.millis])
        })
        .map_err(sql_error("renewing a lease"))?;
    if kept == 0 {
        Err(Error::LeaseExpired(lease))
    } else {
        Ok(())
    }
}

/// Ends a lease, if it still is.
pub(super) fn revoke(writing: &Writing<'_>, lease: LeaseId) -> Result<()> {
    end(writing, lease.0).map_err(sql_error("ending a lease"))
}

/// Whether a lease has time left.
pub(super) fn is_alive(conn: &Connection, now: &Moment, lease: LeaseId) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM leases WHERE id = ?1 AND boot = ?2 AND ends_ms > ?3";
    conn.prepare_cached(sql)?
        .exists(params![lease.0, now.boot, now.millis])
}

/// Ends all leases whose time is over, in the order in which they ran out, each with a revision of its own.
pub(super) fn sweep(writing: &Writing<'_>) -> rusqlite::Result<()> {
    if !is_any_over(writing.conn, &writing.now)? {
        return Ok(());
    }
    let sql =
        "SELECT id FROM leases WHERE boot <> ?1 OR ends_ms <= ?2 ORDER BY boot = ?1, ends_ms, id";
    let over: Vec<i64> = writing
        .conn
        .prepare_cached(sql)?
        .query_map(params![writing.now.boot, writing.now.millis], |row| {
            row.get(0)
        })?
        .collect::<rusqlite::Result<_>>()?;
    over.into_iter().try_for_each(|lease| end(writing, lease))
}

/// Whether there is anything to sweep.
pub(super) fn is_any_over(conn: &Connection, now: &Moment) -> rusqlite::Result<bool> {
    Ok(next_end(conn, now)?.is_some_and(|left| left.is_zero()))
}

/// How long until the next lease ends; zero if one is over, `None` if there are none.
pub(super) fn next_end(conn: &Connection, now: &Moment) -> rusqlite::Result<Option<Duration>> {
    let foreign = "SELECT 1 FROM leases WHERE boot < ?1 OR boot > ?1";
    if conn.prepare_cached(foreign)?.exists([&now.boot])? {
        return Ok(Some(Duration::ZERO));
    }
    let sql = "SELECT min(ends_ms) FROM leases WHERE boot = ?1";
    let ends: Option<i64> = conn
        .prepare_cached(sql)?
        .query_row([&now.boot], |row| row.get(0))?;
    Ok(ends.map(|ends| Duration::from_millis(u64::try_from(ends - now.millis).unwrap_or(0))))
}

fn end(writing: &Writing<'_>, lease: i64) -> rusqlite::Result<()> {
    let sql = "SELECT key FROM entries WHERE lease = ?1 ORDER BY key";
    let keys: Vec<String> = writing
        .conn
        .prepare_cached(sql)?
        .query_map([lease], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut change = Change::begin(writing.conn)?;
    for key in keys {
        change.delete(&key)?;
    }
    change.finish(writing.bounds)?;
    writing
        .conn
        .prepare_cached("DELETE FROM leases WHERE id = ?1")?
        .execute([lease])?;
    Ok(())
}
