//! Stored records that are metadata's alone, and their byte forms (volume format 5.2, 7.2).

use cairn_types::{Attr, FileType, Ino, SessionId, SliceId, SliceRef};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode.
    pub ino: Ino,
    /// Its type, repeated here so that a listing needs no attributes.
    pub kind: FileType,
}

/// A listed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEntry {
    /// Name, 1 to 255 bytes.
    pub name: Vec<u8>,
    /// What it stands for.
    pub entry: Entry,
    /// Attributes, if asked for and present.
    pub attr: Option<Attr>,
}

/// Sums over a directory's direct entries; also a change of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DirStat {
    /// Bytes in regular files.
    pub length: i64,
    /// Space in bytes, 4 KiB steps.
    pub space: i64,
    /// Number of entries.
    pub inodes: i64,
}

impl DirStat {
    /// Sum of both.
    pub fn plus(self, o: DirStat) -> DirStat {
        DirStat { length: self.length + o.length, space: self.space + o.space, inodes: self.inodes + o.inodes }
    }

    /// The opposite change.
    pub fn negated(self) -> DirStat {
        DirStat { length: -self.length, space: -self.space, inodes: -self.inodes }
    }

    /// What one entry for `attr` counts for.
    pub fn of(attr: &Attr) -> DirStat {
        DirStat { length: if attr.is_file() { attr.length as i64 } else { 0 }, space: attr.space() as i64, inodes: 1 }
    }
}

/// Kinds of quota records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaKind {
    /// A directory and everything below it.
    Dir,
    /// Everything a user owns.
    User,
    /// Everything a group owns.
    Group,
}

/// Whose quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuotaKey {
    /// Directory, user or group.
    pub kind: QuotaKind,
    /// Inode, uid or gid.
    pub id: u64,
}

/// Limits and usage. A limit of 0 or less is none (-1 is written).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes allowed.
    pub max_space: i64,
    /// Inodes allowed.
    pub max_inodes: i64,
    /// Bytes used.
    pub used_space: i64,
    /// Inodes used.
    pub used_inodes: i64,
}

impl Quota {
    /// Usage without limits.
    pub const UNLIMITED: Quota = Quota { max_space: -1, max_inodes: -1, used_space: 0, used_inodes: 0 };

    /// Would adding this much go over a limit? Only growth counts.
    pub fn exceeded_by(&self, space: i64, inodes: i64) -> bool {
        (space > 0 && self.max_space > 0 && self.used_space + space > self.max_space)
            || (inodes > 0 && self.max_inodes > 0 && self.used_inodes + inodes > self.max_inodes)
    }
}

/// A removed file whose chunks are still to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletedFile {
    /// The inode it had.
    pub ino: Ino,
    /// Its length in bytes.
    pub length: u64,
    /// When it was removed, Unix seconds.
    pub deleted_secs: i64,
}

/// Slices that a compaction replaced, kept for the trash days. Each item is one reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayedSlices {
    /// The slice that replaced them.
    pub id: SliceId,
    /// When, Unix seconds.
    pub deleted_secs: i64,
    /// The replaced ones, in order, repeats included.
    pub slices: Vec<SliceRef>,
}

impl DelayedSlices {
    /// Stored form of the items: 12 bytes each.
    pub fn encode_slices(&self) -> Vec<u8> {
        self.slices.iter().flat_map(|s| s.id.0.to_be_bytes().into_iter().chain(s.size.to_be_bytes())).collect()
    }

    /// Reads the items; `None` if torn.
    pub fn decode_slices(b: &[u8]) -> Option<Vec<SliceRef>> {
        let (items, rest) = b.as_chunks::<12>();
        rest.is_empty().then(|| {
            items
                .iter()
                .map(|i| SliceRef {
                    id: SliceId(u64::from_be_bytes([i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7]])),
                    size: u32::from_be_bytes([i[8], i[9], i[10], i[11]]),
                })
                .collect()
        })
    }
}

/// Who holds a lock: the kernel's lock owner within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockOwner {
    /// The client.
    pub sid: SessionId,
    /// The owner within it, any unique number.
    pub owner: u64,
}

/// A BSD lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
}

impl FlockKind {
    /// The stored letter, `R` or `W`.
    pub fn letter(self) -> u8 {
        match self {
            FlockKind::Read => b'R',
            FlockKind::Write => b'W',
        }
    }

    /// Reads the stored letter.
    pub fn from_letter(c: u8) -> Option<FlockKind> {
        match c {
            b'R' => Some(FlockKind::Read),
            b'W' => Some(FlockKind::Write),
            _ => None,
        }
    }
}

/// A range a POSIX lock covers; `end` is inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlockRange {
    /// Shared or exclusive.
    pub kind: FlockKind,
    /// Process that set it.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` for "to the end".
    pub end: u64,
}

impl PlockRange {
    /// Stored form of a list: 24 bytes each.
    pub fn encode_list(list: &[PlockRange]) -> Vec<u8> {
        let mut b = Vec::with_capacity(24 * list.len());
        for r in list {
            b.extend(u32::from(r.kind == FlockKind::Write).to_be_bytes());
            b.extend(r.pid.to_be_bytes());
            b.extend(r.start.to_be_bytes());
            b.extend(r.end.to_be_bytes());
        }
        b
    }

    /// Reads a list; `None` if torn or of an unknown type.
    pub fn decode_list(b: &[u8]) -> Option<Vec<PlockRange>> {
        let (items, rest) = b.as_chunks::<24>();
        if !rest.is_empty() {
            return None;
        }
        let u64_at = |i: &[u8; 24], at: usize| u64::from_be_bytes(i[at..at + 8].try_into().expect("8 bytes"));
        items
            .iter()
            .map(|i| {
                let kind = match u32::from_be_bytes([i[0], i[1], i[2], i[3]]) {
                    0 => FlockKind::Read,
                    1 => FlockKind::Write,
                    _ => return None,
                };
                let pid = u32::from_be_bytes([i[4], i[5], i[6], i[7]]);
                Some(PlockRange { kind, pid, start: u64_at(i, 8), end: u64_at(i, 16) })
            })
            .collect()
    }
}

/// A mounted client as the volume knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its number.
    pub sid: SessionId,
    /// When it counts as dead, Unix seconds.
    pub expire_secs: i64,
    /// JSON (volume format 7.2).
    pub info: String,
}
