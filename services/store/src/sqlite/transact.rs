//! Compare, then change.

use super::change::Change;
use super::leases;
use super::rows::{one, revision, sql_error};
use super::writer::Writing;
use crate::{Compare, Error, Op, Result, TxnOutcome};

const WRITING: &str = "writing a transaction";

/// Applies a transaction within bounds. Ended leases were swept before, so what stands in the tables is alive.
pub(super) fn apply(writing: &Writing<'_>, compares: &[Compare], ops: &[Op]) -> Result<TxnOutcome> {
    for (index, compare) in compares.iter().enumerate() {
        if !holds(writing, compare).map_err(sql_error(WRITING))? {
            let revision = revision(writing.conn).map_err(sql_error(WRITING))?;
            return Ok(TxnOutcome::Conflict {
                compare: index,
                revision,
            });
        }
    }
    let mut change = Change::begin(writing.conn).map_err(sql_error(WRITING))?;
    let mut deleted = 0;
    for op in ops {
        match op {
            Op::Put { key, value, lease } => {
                if let Some(lease) = *lease
                    && !leases::is_alive(writing.conn, &writing.now, lease)
                        .map_err(sql_error(WRITING))?
                {
                    return Err(Error::LeaseExpired(lease));
                }
                change.put(key, value, *lease).map_err(sql_error(WRITING))?;
            }
            Op::Delete { key } => {
                deleted += usize::from(change.delete(key).map_err(sql_error(WRITING))?);
            }
        }
    }
    let revision = change.finish(writing.bounds).map_err(sql_error(WRITING))?;
    Ok(TxnOutcome::Committed { revision, deleted })
}

fn holds(writing: &Writing<'_>, compare: &Compare) -> rusqlite::Result<bool> {
    let entry = |key: &str| one(writing.conn, &writing.now, key);
    Ok(match compare {
        Compare::ModRevision { key, revision } => {
            entry(key)?.map_or(0, |entry| entry.mod_revision) == *revision
        }
        Compare::CreateRevision { key, revision } => {
            entry(key)?.map_or(0, |entry| entry.create_revision) == *revision
        }
        Compare::LeaseAlive { lease } => leases::is_alive(writing.conn, &writing.now, *lease)?,
    })
}
