//! Rows as a server's text protocol sends them, and typed values out of their columns.

use cairn_types::{Attr, FileType, Flags, Ino, SessionId, SliceId, SliceRef};

use super::columns::time_of;
use crate::record::{DirStat, Entry, LockOwner, Quota};
use crate::{Error, Result};

/// A row: numbers as decimal text, bytes as they are, `None` for NULL.
#[derive(Debug, Default)]
pub struct Row(pub Vec<Option<Vec<u8>>>);

/// What one statement answered.
#[derive(Debug, Default)]
pub struct Answer {
    /// Its rows, if it has any.
    pub rows: Vec<Row>,
}

impl Row {
    /// An integer; NULL, as columns added later have it, is 0.
    pub(super) fn int(&self, column: usize) -> Result<i64> {
        match self.0.get(column) {
            Some(Some(text)) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Error::Corrupt(format!("column {column} of a row holds no number"))),
            Some(None) => Ok(0),
            None => Err(Error::Corrupt(format!("a row has no column {column}"))),
        }
    }

    /// A number that is stored as it is in 64 signed bits.
    pub(super) fn id(&self, column: usize) -> Result<u64> {
        Ok(self.int(column)? as u64)
    }

    /// A small unsigned number.
    pub(super) fn small<T: TryFrom<i64>>(&self, column: usize) -> Result<T> {
        let n = self.int(column)?;
        T::try_from(n).map_err(|_| Error::Corrupt(format!("column {column} of a row holds {n}, which is out of range")))
    }

    /// Bytes; NULL is empty.
    pub(super) fn bytes(&self, column: usize) -> &[u8] {
        self.0.get(column).and_then(Option::as_deref).unwrap_or_default()
    }

    /// Text; what is not UTF-8 is replaced.
    pub(in crate::engine) fn text(&self, column: usize) -> String {
        String::from_utf8_lossy(self.bytes(column)).into_owned()
    }

    pub(super) fn is_null(&self, column: usize) -> bool {
        !matches!(self.0.get(column), Some(Some(_)))
    }

    fn kind(&self, column: usize, ino: Ino) -> Result<FileType> {
        let n: u8 = self.small(column)?;
        FileType::from_u8(n).ok_or_else(|| Error::Corrupt(format!("inode {ino} has the unknown type {n}")))
    }

    /// An attribute record from columns `at..` in the order of `ATTR_COLUMNS`.
    pub(super) fn attr(&self, at: usize, ino: Ino) -> Result<Attr> {
        let time = |column| Ok::<_, Error>(time_of(self.int(column)?, self.int(column + 1)?));
        Ok(Attr {
            kind: self.kind(at, ino)?,
            flags: Flags(self.small(at + 1)?),
            mode: self.small::<u16>(at + 2)? & 0o7777,
            uid: self.small(at + 3)?,
            gid: self.small(at + 4)?,
            atime: time(at + 5)?,
            mtime: time(at + 7)?,
            ctime: time(at + 9)?,
            nlink: self.small(at + 11)?,
            length: self.id(at + 12)?,
            rdev: self.small(at + 13)?,
            parent: Ino(self.id(at + 14)?),
            access_acl: self.small(at + 15)?,
            default_acl: self.small(at + 16)?,
            tier: self.small(at + 17)?,
        })
    }

    pub(super) fn entry(&self, at: usize) -> Result<Entry> {
        let ino = Ino(self.id(at)?);
        Ok(Entry { ino, kind: self.kind(at + 1, ino)? })
    }

    pub(super) fn slice(&self, at: usize) -> Result<SliceRef> {
        Ok(SliceRef { id: SliceId(self.id(at)?), size: self.small(at + 1)? })
    }

    pub(super) fn owner(&self) -> Result<LockOwner> {
        Ok(LockOwner { sid: SessionId(self.id(0)?), owner: self.id(1)? })
    }

    pub(super) fn dir_stat(&self) -> Result<DirStat> {
        Ok(DirStat { length: self.int(0)?, space: self.int(1)?, inodes: self.int(2)? })
    }

    pub(super) fn quota(&self) -> Result<Quota> {
        Ok(Quota {
            max_space: self.int(0)?,
            max_inodes: self.int(1)?,
            used_space: self.int(2)?,
            used_inodes: self.int(3)?,
        })
    }
}
