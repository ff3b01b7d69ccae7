//! Attributes of an inode, and their stored form (volume format 5.2.1).

use crate::{Ino, Timestamp, space_of};

/// What kind of thing an inode is. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum FileType {
    /// Regular file.
    #[default]
    File = 1,
    /// Directory.
    Directory = 2,
    /// Symbolic link.
    Symlink = 3,
    /// Named pipe.
    Fifo = 4,
    /// Block device.
    BlockDevice = 5,
    /// Character device.
    CharDevice = 6,
    /// Unix socket.
    Socket = 7,
}

impl FileType {
    /// The type with this stored number, if there is one.
    pub fn from_u8(n: u8) -> Option<FileType> {
        Some(match n {
            1 => FileType::File,
            2 => FileType::Directory,
            3 => FileType::Symlink,
            4 => FileType::Fifo,
            5 => FileType::BlockDevice,
            6 => FileType::CharDevice,
            7 => FileType::Socket,
            _ => return None,
        })
    }
}

/// Inode flags as stored: a bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No change to content, attributes or entries.
    pub const IMMUTABLE: Flags = Flags(1);
    /// Content may only grow at its end; entries may be added, not removed.
    pub const APPEND: Flags = Flags(2);
    /// Windows attributes, stored and otherwise ignored.
    pub const WINDOWS: Flags = Flags(4 | 8 | 16);
    /// Removal bypasses the trash; inherited by new children.
    pub const SKIP_TRASH: Flags = Flags(32);

    /// Every bit of `other` is set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Some bit of `other` is set.
    pub fn has_any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits of both.
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// The bits that are in both.
    pub fn only(self, other: Flags) -> Flags {
        Flags(self.0 & other.0)
    }
}

/// Everything about an inode but its names and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Attr {
    /// Immutable, append-only, skip-trash.
    pub flags: Flags,
    /// Kind of inode.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Directory entries naming it, trash included; directories: 2 + sub-directories.
    pub nlink: u32,
    /// Bytes. Directories 4096, symlinks the target's length, others 0.
    pub length: u64,
    /// Device number in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// The directory that holds it; 0 once it has had several.
    pub parent: Ino,
    /// Access ACL rule, 0 for none.
    pub access_acl: u32,
    /// Default ACL rule of a directory, 0 for none.
    pub default_acl: u32,
    /// Storage tier.
    pub tier: u8,
}

impl Attr {
    /// Is it a directory?
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Is it a regular file?
    pub fn is_file(&self) -> bool {
        self.kind == FileType::File
    }

    /// Space it counts for, in bytes.
    pub fn space(&self) -> u64 {
        if self.is_file() { space_of(self.length) } else { 4096 }
    }

    /// The stored record, 71 to 80 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(80);
        b.push(self.flags.0);
        b.extend((((self.kind as u16) << 12) | (self.mode & 0o7777)).to_be_bytes());
        b.extend(self.uid.to_be_bytes());
        b.extend(self.gid.to_be_bytes());
        for t in [self.atime, self.mtime, self.ctime] {
            b.extend(t.secs.to_be_bytes());
            b.extend(t.nanos.to_be_bytes());
        }
        b.extend(self.nlink.to_be_bytes());
        b.extend(self.length.to_be_bytes());
        b.extend(self.rdev.to_be_bytes());
        b.extend(self.parent.0.to_be_bytes());
        if self.access_acl != 0 || self.default_acl != 0 {
            b.extend(self.access_acl.to_be_bytes());
            b.extend(self.default_acl.to_be_bytes());
        }
        if self.tier != 0 {
            b.push(self.tier);
        }
        b
    }

    /// Reads a stored record; `None` if it is shorter than 63 bytes or names no known type.
    pub fn decode(b: &[u8]) -> Option<Attr> {
        let mut r = Reader(b);
        let flags = Flags(r.take::<1>()?[0]);
        let type_mode = u16::from_be_bytes(r.take()?);
        let (uid, gid) = (r.u32()?, r.u32()?);
        let (atime, mtime, ctime) = (r.time()?, r.time()?, r.time()?);
        let (nlink, length, rdev) = (r.u32()?, r.u64()?, r.u32()?);
        let parent = Ino(r.u64().unwrap_or(0));
        let (access_acl, default_acl) = if r.0.len() >= 8 { (r.u32()?, r.u32()?) } else { (0, 0) };
        let tier = r.take::<1>().map_or(0, |b| b[0]);
        Some(Attr {
            flags,
            kind: FileType::from_u8((type_mode >> 12) as u8)?,
            mode: type_mode & 0o7777,
            uid,
            gid,
            atime,
            mtime,
            ctime,
            nlink,
            length,
            rdev,
            parent,
            access_acl,
            default_acl,
            tier,
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
    fn time(&mut self) -> Option<Timestamp> {
        Some(Timestamp { secs: self.u64()? as i64, nanos: self.u32()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(s: &str) -> Vec<u8> {
        let s: String = s.chars().filter(|c| !c.is_whitespace()).collect();
        (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
    }

    /// The example of the volume format, 5.2.1.
    #[test]
    fn record_equals_the_documented_example() {
        let bytes = unhex(
            "0011a4 000003e8 000003e8 000000006553f100 00000001 000000006553f101 00000002 \
             000000006553f102 00000003 00000001 0000000000001388 00000000 0000000000000001",
        );
        let attr = Attr::decode(&bytes).unwrap();
        assert_eq!((attr.mode, attr.uid, attr.length), (0o644, 1000, 5000));
        assert_eq!(attr.encode(), bytes);
        let tiered = Attr { kind: FileType::Directory, access_acl: 1, default_acl: 2, tier: 1, ..attr };
        assert_eq!(tiered.encode().len(), 80);
        assert_eq!(Attr::decode(&tiered.encode()).unwrap(), tiered);
    }

    #[test]
    fn short_or_unknown_records_are_refused() {
        assert!(Attr::decode(&[0; 40]).is_none());
        assert!(Attr::decode(&[0; 71]).is_none());
    }
}
