//! Opening the file: made private, set to WAL and full durability, refused if it is something else.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::SqliteOptions;
use super::rows::sql_error;
use crate::{Error, Result};

/// Marks the file as ours ("SWMC").
const APPLICATION_ID: i64 = 0x5357_4d43;
/// Version of the tables.
const SCHEMA_VERSION: i64 = 1;
/// The journal is cut back to this after a burst.
const JOURNAL_BYTES_MAX: i64 = 16 << 20;

const OPENING: &str = "opening the store";

/// Makes the file if needed and opens it for writing.
pub(super) fn writable(path: &Path, options: &SqliteOptions) -> Result<Connection> {
    make_private(path)
        .map_err(|error| Error::backend("making the store's file private to its owner", error))?;
    let mut conn = connect(path, options)?;
    enter_wal(&conn, options.busy_timeout).map_err(|error| not_ours(path, error))?;
    prepare_tables(path, &mut conn)?;
    Ok(conn)
}

/// Opens the file for reading alone; the tables must be there.
pub(super) fn readable(path: &Path, options: &SqliteOptions) -> Result<Connection> {
    let conn = connect(path, options)?;
    conn.pragma_update(None, "query_only", true)
        .map_err(sql_error(OPENING))?;
    Ok(conn)
}

/// Makes the file with mode 0600, or takes other people's rights away.
///
/// An existing file is never opened and closed here: that would drop the locks that this process's SQLite holds on it
/// (POSIX locks belong to the process, not to the descriptor).
fn make_private(path: &Path) -> std::io::Result<()> {
    match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            fs::File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn connect(path: &Path, options: &SqliteOptions) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(options.busy_timeout)?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "trusted_schema", false)?;
        conn.pragma_update(None, "temp_store", "MEMORY")?;
        conn.pragma_update(None, "max_page_count", options.pages_max)?;
        conn.pragma_update(None, "journal_size_limit", JOURNAL_BYTES_MAX)?;
        conn.set_prepared_statement_cache_capacity(64);
        Ok(conn)
    };
    open().map_err(|error| not_ours(path, error))
}

/// Changes to WAL, which SQLite refuses at once rather than waits for while another process does the same.
fn enter_wal(conn: &Connection, patience: Duration) -> rusqlite::Result<()> {
    let enter = || {
        let pages = conn.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))?;
        if pages == 0 {
            // Before anything is written, or it has no effect: free pages can be given back.
            conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
    };
    let began = Instant::now();
    loop {
        match enter() {
            Ok(_) => return Ok(()),
            Err(error) if is_busy(&error) && began.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Makes the tables in an empty file; refuses a file that has others.
fn prepare_tables(path: &Path, conn: &mut Connection) -> Result<()> {
    let incompatible = |detail: String| Error::Incompatible {
        path: path.to_owned(),
        detail,
    };
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sql_error(OPENING))?;
    let number = |sql: &str| {
        tx.query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(sql_error(OPENING))
    };
    let (id, version) = (
        number("PRAGMA application_id")?,
        number("PRAGMA user_version")?,
    );
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    match (id, version, tables) {
        (APPLICATION_ID, SCHEMA_VERSION, _) => Ok(()),
        (0, 0, 0) => {
            let make = || {
                tx.pragma_update(None, "application_id", APPLICATION_ID)?;
                tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
                tx.execute_batch(include_str!("schema.sql"))?;
                tx.commit()
            };
            make().map_err(sql_error(OPENING))
        }
        (APPLICATION_ID, found, _) => Err(incompatible(format!(
            "its tables have version {found}, this program knows {SCHEMA_VERSION}"
        ))),
        _ => Err(incompatible("it is another program's database".to_owned())),
    }
}

fn not_ours(path: &Path, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::Incompatible {
            path: path.to_owned(),
            detail: "it is not an SQLite database".to_owned(),
        },
        _ => sql_error(OPENING)(error),
    }
}
