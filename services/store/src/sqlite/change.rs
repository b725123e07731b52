//! One revision in the making: entries, events and counters change together or not at all.

use rusqlite::{Connection, params};

use super::SqliteOptions;
use super::rows::{integer, number};
use crate::{LeaseId, Revision};

/// What an event costs beside its key and value.
const EVENT_OVERHEAD_BYTES: usize = 64;

/// How much of the log is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogBounds {
    events: u64,
    bytes: u64,
}

impl LogBounds {
    pub(super) fn of(options: &SqliteOptions) -> Self {
        Self {
            events: options.log_events_max,
            bytes: options.log_bytes_max,
        }
    }

    /// Compaction comes in portions of an eighth, so that most writes need none.
    fn exceeded(self, meta: &Meta) -> bool {
        meta.log_events > self.events + self.events / 8
            || meta.log_bytes > self.bytes + self.bytes / 8
    }

    fn kept(self, meta: &Meta) -> bool {
        meta.log_events <= self.events && meta.log_bytes <= self.bytes
    }
}

struct Meta {
    revision: Revision,
    compacted: Revision,
    log_events: u64,
    log_bytes: u64,
}

/// Changes that share the next revision. Without [`Change::finish`] the caller must roll back.
pub(super) struct Change<'c> {
    conn: &'c Connection,
    meta: Meta,
    revision: Revision,
    seq: u32,
}

impl<'c> Change<'c> {
    pub(super) fn begin(conn: &'c Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT revision, compacted, log_events, log_bytes FROM meta";
        let meta = conn.prepare_cached(sql)?.query_row([], |row| {
            Ok(Meta {
                revision: number(row, 0)?,
                compacted: number(row, 1)?,
                log_events: number(row, 2)?,
                log_bytes: number(row, 3)?,
            })
        })?;
        let revision = meta.revision + 1;
        Ok(Self {
            conn,
            meta,
            revision,
            seq: 0,
        })
    }

    /// Sets a key; the lease must be alive.
    pub(super) fn put(
        &mut self,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO entries (key, value, create_revision, mod_revision, version, lease)
            VALUES (?1, ?2, ?3, ?3, 1, ?4)
            ON CONFLICT (key) DO UPDATE SET value = excluded.value, mod_revision = excluded.mod_revision,
                version = version + 1, lease = excluded.lease
            RETURNING create_revision, version";
        let lease = lease.map(|lease| lease.0);
        let (created, version) = self
            .conn
            .prepare_cached(sql)?
            .query_row(params![key, value, integer(self.revision), lease], |row| {
                Ok((number(row, 0)?, number(row, 1)?))
            })?;
        self.log(true, key, value, created, version, lease)
    }

    /// Removes a key; false if there is none.
    pub(super) fn delete(&mut self, key: &str) -> rusqlite::Result<bool> {
        let found = self
            .conn
            .prepare_cached("DELETE FROM entries WHERE key = ?1")?
            .execute([key])?
            > 0;
        if found {
            self.log(false, key, &[], 0, 0, None)?;
        }
        Ok(found)
    }

    fn log(
        &mut self,
        put: bool,
        key: &str,
        value: &[u8],
        created: Revision,
        version: u64,
        lease: Option<i64>,
    ) -> rusqlite::Result<()> {
        let bytes = (key.len() + value.len() + EVENT_OVERHEAD_BYTES) as u64;
        let sql = "INSERT INTO events (revision, seq, put, key, value, create_revision, version, lease, bytes)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        self.conn.prepare_cached(sql)?.execute(params![
            integer(self.revision),
            self.seq,
            put,
            key,
            value,
            integer(created),
            integer(version),
            lease,
            integer(bytes)
        ])?;
        self.seq += 1;
        self.meta.log_events += 1;
        self.meta.log_bytes += bytes;
        Ok(())
    }

    /// Moves the counters and tells the store's revision: the old one if nothing changed.
    pub(super) fn finish(mut self, bounds: LogBounds) -> rusqlite::Result<Revision> {
        if self.seq == 0 {
            return Ok(self.meta.revision);
        }
        self.meta.revision = self.revision;
        if bounds.exceeded(&self.meta) {
            self.compact(bounds)?;
        }
        let sql = "UPDATE meta SET revision = ?1, compacted = ?2, log_events = ?3, log_bytes = ?4";
        self.conn.prepare_cached(sql)?.execute(params![
            integer(self.meta.revision),
            integer(self.meta.compacted),
            integer(self.meta.log_events),
            integer(self.meta.log_bytes)
        ])?;
        Ok(self.revision)
    }

    /// Drops the oldest whole revisions until the log is within its bounds; never the one in the making.
    fn compact(&mut self, bounds: LogBounds) -> rusqlite::Result<()> {
        let sql = "SELECT revision, count(*), sum(bytes) FROM events WHERE revision < ?1
            GROUP BY revision ORDER BY revision";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([integer(self.revision)])?;
        while !bounds.kept(&self.meta)
            && let Some(row) = rows.next()?
        {
            self.meta.compacted = number(row, 0)?;
            self.meta.log_events = self.meta.log_events.saturating_sub(number(row, 1)?);
            self.meta.log_bytes = self.meta.log_bytes.saturating_sub(number(row, 2)?);
        }
        drop(rows);
        let drop_sql = "DELETE FROM events WHERE revision <= ?1";
        self.conn
            .prepare_cached(drop_sql)?
            .execute([integer(self.meta.compacted)])?;
        Ok(())
    }
}
