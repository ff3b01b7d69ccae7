//! Columns to typed values and back, and SQLite's complaints as sentences.

use cairn_types::{Attr, FileType, Flags, Ino, Timestamp};
use rusqlite::ErrorCode;
use rusqlite::Row;
use rusqlite::types::ValueRef;

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

/// Columns of `node` without the inode, in the order [`attr`] reads them.
pub(super) const ATTR_COLUMNS: &str = "type, flags, mode, uid, gid, atime, atimensec, mtime, mtimensec, ctime, ctimensec, \
                                       nlink, length, rdev, parent, access_acl_id, default_acl_id, tier_id";

/// An attribute record from columns `at..` in the order of [`ATTR_COLUMNS`].
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

/// A time from its microseconds and the nanoseconds they leave out.
pub(super) fn time_of(micros: i64, nanos: i64) -> Timestamp {
    Timestamp::from_nanos(micros.saturating_mul(1000).saturating_add(nanos))
}

/// The microseconds and the left-over nanoseconds of a time.
///
/// Times before 1970 are stored in whole seconds, because JuiceFS misreads their fractions.
pub(super) fn columns_of(time: Timestamp) -> (i64, i64) {
    let nanos = time.as_nanos();
    if nanos < 0 {
        let secs = nanos.div_euclid(1_000_000_000);
        return (secs.saturating_mul(1_000_000), 0);
    }
    (nanos / 1000, nanos % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_as_juicefs_rounds_them() {
        let t = Timestamp { secs: 1_700_000_001, nanos: 123_456_789 };
        assert_eq!(columns_of(t), (1_700_000_001_123_456, 789));
        assert_eq!(time_of(1_700_000_001_123_456, 789), t);
        assert_eq!(time_of(-1_500_000, 0), Timestamp { secs: -2, nanos: 500_000_000 });
    }

    #[test]
    fn times_before_1970_keep_whole_seconds() {
        assert_eq!(columns_of(Timestamp { secs: -2, nanos: 500_000_000 }), (-2_000_000, 0));
        assert_eq!(time_of(-2_000_000, 0), Timestamp { secs: -2, nanos: 0 });
    }

    #[test]
    fn far_times_are_clamped() {
        let far = Timestamp { secs: 1 << 40, nanos: 5 };
        let (micros, nanos) = columns_of(far);
        assert_eq!(time_of(micros, nanos), Timestamp::from_nanos(i64::MAX));
        assert_eq!(time_of(i64::MAX, 999), Timestamp::from_nanos(i64::MAX));
        let (micros, nanos) = columns_of(Timestamp { secs: -(1 << 40), nanos: 5 });
        assert!(time_of(micros, nanos).secs <= -9_223_372_036);
    }
}
