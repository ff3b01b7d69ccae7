//! Listing directories.

use bytes::Bytes;
use cairn_types::{Attr, FileType, Ino};

/// A listed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Bytes,
    /// What it stands for.
    pub ino: Ino,
    /// Its type.
    pub kind: FileType,
    /// Attributes, if `plus` was asked and they are there (never for `.` and `..`).
    pub attr: Option<Attr>,
    /// Offset to go on from after this entry.
    pub next: u64,
}
