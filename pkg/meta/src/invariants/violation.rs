//! What can be wrong, and how to say it.

use std::fmt;

use cairn_types::{ChunkIndex, FileType, Ino, SessionId, SliceRef};

use crate::record::{DirStat, QuotaKey, QuotaKind};
use crate::txn::Counter;

/// A broken rule and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "found and expected values under the names of the records")]
pub enum Violation {
    /// An entry names an inode that exists.
    DanglingEntry { dir: Ino, name: Vec<u8>, ino: Ino, kind: FileType },
    /// An entry repeats the type of its inode.
    EntryKind { dir: Ino, name: Vec<u8>, ino: Ino, entry: FileType, attr: FileType },
    /// The parent field names the directory that holds the inode, or is 0 if several may.
    Parent { ino: Ino, found: Ino, expected: Ino },
    /// Parent counts of an inode with several names add up to its names.
    ParentCounts { ino: Ino, found: u32, expected: u32 },
    /// Link counts: names of a file, 2 + sub-directories of a directory.
    Nlink { ino: Ino, found: u32, expected: u32 },
    /// Every inode has a name, is kept open by a session, or is the top of a detached clone.
    Orphan { ino: Ino, kind: FileType },
    /// A directory has one name.
    DirectoryNames { ino: Ino, names: u32 },
    /// Directories form a tree.
    Cycle { ino: Ino },
    /// A symbolic link has a target as long as its length.
    Symlink { ino: Ino, found: Option<u64>, expected: u64 },
    /// An ACL id names a rule.
    Acl { ino: Ino, id: u32 },
    /// A slice list is whole records that lie within the chunk and within their slices.
    CorruptChunk { ino: Ino, index: ChunkIndex, reason: String },
    /// A slice list belongs to a file, or to one that waits for deletion.
    OrphanChunk { ino: Ino, index: ChunkIndex },
    /// A slice has as many references as records name it.
    SliceRefs { slice: SliceRef, found: i64, expected: i64 },
    /// A file that waits for deletion has no attributes.
    DeletedFileAlive { ino: Ino },
    /// What a session keeps open is an existing file without names, and the session exists.
    Sustained { sid: SessionId, ino: Ino, reason: &'static str },
    /// Ids in use are below the next free one.
    NextId { counter: Counter, found: i64, in_use: u64 },
    /// Usage counters are the sums over all inodes.
    Usage { found_space: i64, found_inodes: i64, space: i64, inodes: i64 },
    /// A directory's statistics are the sums over its entries.
    DirStats { dir: Ino, found: Option<DirStat>, expected: DirStat },
    /// A quota's usage is the sum over what it governs.
    QuotaUsage { key: QuotaKey, found_space: i64, found_inodes: i64, space: i64, inodes: i64 },
}

impl Violation {
    /// The rule's name.
    pub fn rule(&self) -> &'static str {
        match self {
            Violation::DanglingEntry { .. } => "dangling-entry",
            Violation::EntryKind { .. } => "entry-kind",
            Violation::Parent { .. } => "parent",
            Violation::ParentCounts { .. } => "parent-counts",
            Violation::Nlink { .. } => "nlink",
            Violation::Orphan { .. } => "orphan-inode",
            Violation::DirectoryNames { .. } => "directory-names",
            Violation::Cycle { .. } => "directory-cycle",
            Violation::Symlink { .. } => "symlink-target",
            Violation::Acl { .. } => "acl-rule",
            Violation::CorruptChunk { .. } => "corrupt-slice-list",
            Violation::OrphanChunk { .. } => "orphan-slice-list",
            Violation::SliceRefs { .. } => "slice-references",
            Violation::DeletedFileAlive { .. } => "deleted-file-alive",
            Violation::Sustained { .. } => "sustained-inode",
            Violation::NextId { .. } => "next-id",
            Violation::Usage { .. } => "usage-counters",
            Violation::DirStats { .. } => "directory-statistics",
            Violation::QuotaUsage { .. } => "quota-usage",
        }
    }

    /// Only sums are off: nothing is lost, and a recount repairs it.
    pub fn is_drift(&self) -> bool {
        matches!(self, Violation::Usage { .. } | Violation::DirStats { .. } | Violation::QuotaUsage { .. })
    }

    /// The inode it is about, if there is one.
    pub fn ino(&self) -> Option<Ino> {
        match *self {
            Violation::DanglingEntry { ino, .. }
            | Violation::EntryKind { ino, .. }
            | Violation::Parent { ino, .. }
            | Violation::ParentCounts { ino, .. }
            | Violation::Nlink { ino, .. }
            | Violation::Orphan { ino, .. }
            | Violation::DirectoryNames { ino, .. }
            | Violation::Cycle { ino }
            | Violation::Symlink { ino, .. }
            | Violation::Acl { ino, .. }
            | Violation::CorruptChunk { ino, .. }
            | Violation::OrphanChunk { ino, .. }
            | Violation::DeletedFileAlive { ino }
            | Violation::Sustained { ino, .. } => Some(ino),
            Violation::DirStats { dir, .. } => Some(dir),
            Violation::QuotaUsage { key: QuotaKey { kind: QuotaKind::Dir, id }, .. } => Some(Ino(id)),
            Violation::SliceRefs { .. }
            | Violation::NextId { .. }
            | Violation::Usage { .. }
            | Violation::QuotaUsage { .. } => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |name: &[u8]| name.escape_ascii().to_string();
        match self {
            Violation::DanglingEntry { dir, name, ino, .. } => {
                write!(f, "entry {:?} of directory {dir} names inode {ino}, which does not exist", text(name))
            }
            Violation::EntryKind { dir, name, ino, entry, attr } => {
                write!(
                    f,
                    "entry {:?} of directory {dir} calls inode {ino} a {entry:?}, but it is a {attr:?}",
                    text(name)
                )
            }
            Violation::Parent { ino, found, expected } => {
                write!(f, "parent of inode {ino} should be {expected}, but is {found}")
            }
            Violation::ParentCounts { ino, found, expected } => {
                write!(f, "parent counts of inode {ino} should add up to {expected}, but give {found}")
            }
            Violation::Nlink { ino, found, expected } => {
                write!(f, "nlink of inode {ino} should be {expected}, but is {found}")
            }
            Violation::Orphan { ino, kind } => write!(f, "inode {ino} ({kind:?}) has no name"),
            Violation::DirectoryNames { ino, names } => write!(f, "directory {ino} has {names} names"),
            Violation::Cycle { ino } => write!(f, "directory {ino} is its own ancestor"),
            Violation::Symlink { ino, found: None, .. } => write!(f, "symbolic link {ino} has no target"),
            Violation::Symlink { ino, found: Some(found), expected } => {
                write!(f, "target of symbolic link {ino} should have {expected} bytes, but has {found}")
            }
            Violation::Acl { ino, id } => write!(f, "inode {ino} names ACL rule {id}, which does not exist"),
            Violation::CorruptChunk { ino, index, reason } => {
                write!(f, "slice list of inode {ino}, chunk {index} is corrupt: {reason}")
            }
            Violation::OrphanChunk { ino, index } => {
                write!(f, "slice list of chunk {index} belongs to inode {ino}, which does not exist")
            }
            Violation::SliceRefs { slice, found, expected } => {
                write!(
                    f,
                    "slice {} ({} bytes) should have {expected} references, but has {found}",
                    slice.id, slice.size
                )
            }
            Violation::DeletedFileAlive { ino } => write!(f, "inode {ino} waits for deletion, but still exists"),
            Violation::Sustained { sid, ino, reason } => write!(f, "inode {ino} kept open by session {sid}: {reason}"),
            Violation::NextId { counter, found, in_use } => {
                write!(f, "counter {} is {found}, but {in_use} is in use", counter.name())
            }
            Violation::Usage { found_space, found_inodes, space, inodes } => write!(
                f,
                "usage should be {space} bytes and {inodes} inodes, but is {found_space} bytes and {found_inodes} inodes"
            ),
            Violation::DirStats { dir, found: None, .. } => write!(f, "statistics of directory {dir} are missing"),
            Violation::DirStats { dir, found: Some(found), expected } => write!(
                f,
                "statistics of directory {dir} should be (length {}, space {}, inodes {}), but are ({}, {}, {})",
                expected.length, expected.space, expected.inodes, found.length, found.space, found.inodes
            ),
            Violation::QuotaUsage { key, found_space, found_inodes, space, inodes } => write!(
                f,
                "usage of {:?} quota {} should be {space} bytes and {inodes} inodes, \
                 but is {found_space} bytes and {found_inodes} inodes",
                key.kind, key.id
            ),
        }
    }
}
