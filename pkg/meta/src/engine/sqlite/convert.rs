//! Columns to typed values and back, and SQLite's complaints as sentences.

use cairn_types::{Attr, FileType, Flags, Ino, Timestamp};
use rusqlite::ErrorCode;
use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::super::sql::columns::time_of;
use crate::{Error, Result};

/// An engine error for what SQLite said while we tried to `action`.
pub(super) fn fail(action: &'static str, e: rusqlite::Error) -> Error {
    let Some(code) = e.sqlite_error_code() else { return Error::engine(action, e) };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            Error::busy(action, "the database is locked: another process did not let go of it in time")
        }
        ErrorCode::DiskFull => Error::engine(action, "no space is left on the disk that holds the database"),
        ErrorCode::NotADatabase => Error::engine(action, "the file is not an SQLite database"),
        ErrorCode::DatabaseCorrupt => Error::engine(action, format!("the database file is damaged ({e})")),
        ErrorCode::ReadOnly => Error::engine(action, "the database cannot be written"),
        ErrorCode::SystemIoFailure => Error::engine(action, format!("reading or writing the database failed ({e})")),
        _ => Error::engine(action, e),
    }
}

/// Did a uniqueness rule say no?
pub(super) fn is_duplicate(e: &rusqlite::Error) -> bool {
    e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}

/// An integer column; NULL, as columns added later have it, is 0.
pub(super) fn int(row: &Row<'_>, column: usize) -> Result<i64> {
    match row.get_ref(column).map_err(|e| fail("read a column", e))? {
        ValueRef::Integer(n) => Ok(n),
        ValueRef::Null => Ok(0),
        other => Err(odd(row, column, &format!("holds {} where a number belongs", other.data_type()))),
    }
}

/// A number that is stored as it is in 64 signed bits.
pub(super) fn id(row: &Row<'_>, column: usize) -> Result<u64> {
    Ok(int(row, column)? as u64)
}

/// A small unsigned number.
pub(super) fn small<T: TryFrom<i64>>(row: &Row<'_>, column: usize) -> Result<T> {
    let n = int(row, column)?;
    T::try_from(n).map_err(|_| odd(row, column, &format!("holds {n}, which is out of range")))
}

/// Bytes, whether stored as a blob or as text; NULL is empty.
pub(super) fn bytes<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8]> {
    match row.get_ref(column).map_err(|e| fail("read a column", e))? {
        ValueRef::Blob(b) | ValueRef::Text(b) => Ok(b),
        ValueRef::Null => Ok(&[]),
        other => Err(odd(row, column, &format!("holds {} where bytes belong", other.data_type()))),
    }
}

/// Text; what is not UTF-8 is replaced.
pub(super) fn text(row: &Row<'_>, column: usize) -> Result<String> {
    Ok(String::from_utf8_lossy(bytes(row, column)?).into_owned())
}

fn odd(row: &Row<'_>, column: usize, what: &str) -> Error {
    let name = row.as_ref().column_name(column).unwrap_or("?").to_string();
    Error::Corrupt(format!("column {name} {what}"))
}

/// A type number of `ino`.
pub(super) fn kind(row: &Row<'_>, column: usize, ino: Ino) -> Result<FileType> {
    let n: u8 = small(row, column)?;
    FileType::from_u8(n).ok_or_else(|| Error::Corrupt(format!("inode {ino} has the unknown type {n}")))
}

/// An attribute record from columns `at..` in the order of `ATTR_COLUMNS`.
pub(super) fn attr(row: &Row<'_>, at: usize, ino: Ino) -> Result<Attr> {
    Ok(Attr {
        kind: kind(row, at, ino)?,
        flags: Flags(small(row, at + 1)?),
        mode: small::<u16>(row, at + 2)? & 0o7777,
        uid: small(row, at + 3)?,
        gid: small(row, at + 4)?,
        atime: time(row, at + 5)?,
        mtime: time(row, at + 7)?,
        ctime: time(row, at + 9)?,
        nlink: small(row, at + 11)?,
        length: id(row, at + 12)?,
        rdev: small(row, at + 13)?,
        parent: Ino(id(row, at + 14)?),
        access_acl: small(row, at + 15)?,
        default_acl: small(row, at + 16)?,
        tier: small(row, at + 17)?,
    })
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    Ok(time_of(int(row, column)?, int(row, column + 1)?))
}
