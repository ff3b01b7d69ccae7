//! The kernel's numbers to the house's words, and back.

use std::time::{SystemTime, UNIX_EPOCH};

use cairn_meta::SetTime;
use cairn_types::{Attr, FileType, Ino, Timestamp};
use cairn_vfs::{OpenFlags, RenameMode, SetAttr, Whence, XattrMode};
use fuser::{FileAttr, INodeNo, RenameFlags, TimeOrNow};

use crate::config::Extra;

/// What stat(2) recommends as the size of a read, in bytes.
const IO_BYTES: u32 = 64 << 10;

/// Attributes as the kernel wants them.
pub(crate) fn file_attr(ino: Ino, attr: &Attr) -> FileAttr {
    let device = matches!(attr.kind, FileType::BlockDevice | FileType::CharDevice);
    FileAttr {
        ino: INodeNo(ino.0),
        size: attr.length,
        blocks: attr.length.div_ceil(512),
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: UNIX_EPOCH,
        kind: kind_to_kernel(attr.kind),
        perm: attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: if device { attr.rdev } else { 0 },
        blksize: IO_BYTES,
        flags: 0,
    }
}

/// An entry that says "there is nothing": inode 0, believed as long as its time-out.
pub(crate) fn no_attr() -> FileAttr {
    file_attr(Ino(0), &Attr::default())
}

/// The type as fuser calls it.
pub(crate) fn kind_to_kernel(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::File => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::Socket => fuser::FileType::Socket,
    }
}

/// The type that mknod(2) asks for in its mode; no type bits mean a regular file.
pub(crate) fn kind_of_mode(mode: u32) -> Option<FileType> {
    Some(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => FileType::File,
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::Fifo,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFSOCK => FileType::Socket,
        _ => return None,
    })
}

/// A time somebody sets.
///
/// fuser 0.18 reads a time before 1970 as `-(seconds + nanoseconds)`, where the kernel means
/// `-seconds + nanoseconds`. Both parts survive that, so this takes them apart again.
pub(crate) fn given_time(t: SystemTime) -> Timestamp {
    match t.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(before) => {
            let d = before.duration();
            Timestamp { secs: 0i64.wrapping_sub_unsigned(d.as_secs()), nanos: d.subsec_nanos() }
        }
    }
}

fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::At(given_time(t)),
    }
}

/// The attributes (all but the length) that a SETATTR changes.
pub(crate) fn set_attr(
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
    resizes: bool,
) -> SetAttr {
    let mut set = SetAttr {
        mode: mode.map(|m| (m & 0o7777) as u16),
        uid,
        gid,
        atime: atime.map(set_time),
        mtime: mtime.map(set_time),
        ..SetAttr::default()
    };
    // truncate(2) comes with "mtime now", which the change of length does anyway: one transaction less.
    if resizes && set.mtime == Some(SetTime::Now) {
        set.mtime = None;
    }
    set
}

/// How open(2) wants a file. Where the kernel gathers writes it reads what it writes and places appends. Elsewhere
/// whoever only writes does without its pages.
pub(crate) fn open_flags(flags: i32, extra: Extra) -> OpenFlags {
    let writeback = extra.writeback_cache;
    let access = flags & libc::O_ACCMODE;
    let write = access == libc::O_WRONLY || access == libc::O_RDWR;
    OpenFlags {
        read: access != libc::O_WRONLY || writeback,
        write,
        append: flags & libc::O_APPEND != 0 && !writeback,
        truncate: flags & libc::O_TRUNC != 0 && write,
        sync: is_sync(flags),
        uncached: access == libc::O_WRONLY && !writeback && !extra.no_dio_write,
    }
}

/// Must a write with these flags be durable before it is answered?
pub(crate) fn is_sync(flags: i32) -> bool {
    // O_SYNC contains O_DSYNC.
    flags & libc::O_DSYNC != 0
}

/// renameat2(2) flags; `None` for what we cannot do (whiteouts, and contradictions).
pub(crate) fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    match flags {
        f if f.is_empty() => Some(RenameMode::Replace),
        RenameFlags::RENAME_NOREPLACE => Some(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Some(RenameMode::Exchange),
        _ => None,
    }
}

/// setxattr(2) flags; `None` for contradictions.
pub(crate) fn xattr_mode(flags: i32) -> Option<XattrMode> {
    match flags {
        0 => Some(XattrMode::Set),
        libc::XATTR_CREATE => Some(XattrMode::Create),
        libc::XATTR_REPLACE => Some(XattrMode::Replace),
        _ => None,
    }
}

/// The two kinds of lseek(2) that the kernel does not answer itself.
pub(crate) fn whence(whence: i32) -> Option<Whence> {
    match whence {
        libc::SEEK_DATA => Some(Whence::Data),
        libc::SEEK_HOLE => Some(Whence::Hole),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
