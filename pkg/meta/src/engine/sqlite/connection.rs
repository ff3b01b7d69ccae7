//! Opening connections, and refusing what is no volume with a sentence that says what it is.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::checkpoint::LONG_BYTES;
use super::convert::fail;
use super::schema::{self, Holding};
use super::url::{Journal, Place};
use crate::engine::Options;
use crate::{Error, Result};

/// Statements each connection keeps compiled.
const STATEMENTS: usize = 160;
/// Page caches, in KiB.
const WRITER_CACHE_KIB: i64 = 16_384;
const READER_CACHE_KIB: i64 = 4_096;

/// The connection that changes things. Also says what the database holds.
pub(super) fn writer(place: &Place, options: Options) -> Result<(Connection, Holding)> {
    if !options.create && !place.path.exists() {
        return Err(Error::Refused(format!("there is no database {}: format a volume first", place.path.display())));
    }
    let access = match options.read_only {
        true => OpenFlags::SQLITE_OPEN_READ_ONLY,
        false => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    };
    let conn = connect(place, access, WRITER_CACHE_KIB).map_err(|e| refusal(&place.path, e))?;
    let holding = look(&conn, place, options)?;
    if !options.read_only {
        prepare(&conn, place).map_err(|e| refusal(&place.path, e))?;
    }
    Ok((conn, holding))
}

/// A connection that only reads.
pub(super) fn reader(place: &Place) -> Result<Connection> {
    connect(place, OpenFlags::SQLITE_OPEN_READ_ONLY, READER_CACHE_KIB).map_err(|e| fail("open the database", e))
}

/// A connection for checkpoints.
pub(super) fn checkpointer(place: &Place) -> Result<Connection> {
    connect(place, OpenFlags::SQLITE_OPEN_READ_WRITE, 64).map_err(|e| fail("open the database", e))
}

fn connect(place: &Place, access: OpenFlags, cache_kib: i64) -> rusqlite::Result<Connection> {
    // A connection is used by one thread at a time, so SQLite need not lock it.
    let conn = Connection::open_with_flags(&place.path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(place.busy_timeout)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.execute_batch(&format!("PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = MEMORY;"))?;
    Ok(conn)
}

/// What is in there? Also the first read, which tells whether it is a database at all.
fn look(conn: &Connection, place: &Place, options: Options) -> Result<Holding> {
    let path = place.path.display();
    let encoding: String =
        conn.query_row("PRAGMA encoding", [], |row| row.get(0)).map_err(|e| refusal(&place.path, e))?;
    let tables = schema::table_names(conn).map_err(|e| refusal(&place.path, e))?;
    if encoding != "UTF-8" {
        return Err(Error::Refused(format!("database {path} is encoded in {encoding}: a volume's is in UTF-8")));
    }
    let holding = schema::inspect(conn, &place.prefix)?;
    match holding {
        Holding::Volume { .. } => {}
        _ if options.create => {}
        Holding::Nothing if tables.is_empty() => {
            return Err(Error::Refused(format!("database {path} is empty: format a volume first")));
        }
        Holding::Nothing => {
            return Err(Error::Refused(format!(
                "database {path} holds no tables {}*, only {}: another database, or another table_prefix",
                place.prefix,
                some_of(&tables)
            )));
        }
        Holding::HalfFormatted => {
            return Err(Error::Refused(format!(
                "database {path} has a volume's tables but not its setting: formatting did not end; format it again"
            )));
        }
    }
    Ok(holding)
}

fn some_of(tables: &[String]) -> String {
    let more = if tables.len() > 3 { ", …" } else { "" };
    format!("{}{more}", tables.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", "))
}

fn prepare(conn: &Connection, place: &Place) -> rusqlite::Result<()> {
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case(place.journal.word()) {
        conn.query_row(&format!("PRAGMA journal_mode = {}", place.journal.word()), [], |_| Ok(()))?;
    }
    if place.journal == Journal::Wal {
        // A commit that had to checkpoint would keep its caller waiting; see `checkpoint`.
        conn.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
        conn.query_row(&format!("PRAGMA journal_size_limit = {}", LONG_BYTES / 2), [], |_| Ok(()))?;
    }
    conn.execute_batch("PRAGMA synchronous = NORMAL")
}

/// Why a database could not be opened, with its path.
fn refusal(path: &Path, e: rusqlite::Error) -> Error {
    let shown = path.display();
    let sentence = match e.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => format!("{shown} is not an SQLite database"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("database {shown} is locked: another process did not let go of it in time")
        }
        Some(ErrorCode::CannotOpen) if path.is_dir() => format!("{shown} is a directory, not a database"),
        Some(ErrorCode::CannotOpen) => match fs::File::open(path) {
            Err(why) => format!("cannot open database {shown}: {why}"),
            Ok(_) => format!("cannot open database {shown} or make files beside it ({e})"),
        },
        Some(ErrorCode::PermissionDenied) => format!("cannot open database {shown}: permission denied"),
        Some(ErrorCode::ReadOnly) => format!("database {shown} cannot be written: open it read-only"),
        _ => format!("cannot use database {shown}: {e}"),
    };
    Error::Refused(sentence)
}
