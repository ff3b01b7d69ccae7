//! Every call of [`Vfs`], each with its line in the access log.

use std::sync::Arc;

use bytes::Bytes;
use cairn_chunk::ChunkStore;
use cairn_env::Env;
use cairn_meta::record::FlockKind;
use cairn_meta::{Meta, StatFs};
use cairn_types::{Attr, Ino};

use crate::{
    AccessLog, Config, Cred, DirEntry, FallocMode, Fh, LockRange, NewNode, OpenFlags, Opened, Parts, RenameMode,
    Result, SetAttr, Vfs, Whence, XattrMode,
};

/// Life of the volume.
impl Vfs {
    /// Starts the flusher. Must be called within a tokio runtime.
    pub fn new(env: &Env, meta: Arc<Meta>, chunk: Arc<ChunkStore>, parts: Parts, config: Config) -> Arc<Vfs> { todo!() }

    /// Stores and commits everything dirty. Fails with the first error, but tries every file.
    pub async fn flush_all(&self) -> Result<()> { todo!() }

    /// Refuses new work, flushes everything and ends the background tasks. Handles stay readable.
    pub async fn close(&self) -> Result<()> { todo!() }

    /// The access log: what `.accesslog` shows.
    pub fn access_log(&self) -> &AccessLog { todo!() }

    /// Open handles, virtual files included.
    pub fn open_handles(&self) -> usize { todo!() }

    /// Files with uncommitted data, and its bytes.
    pub fn dirty(&self) -> (usize, u64) { todo!() }

    /// The metadata behind it.
    pub fn meta(&self) -> &Arc<Meta> { todo!() }

    /// Is this one of the virtual files (`.stats` and the like; not the trash)?
    pub fn is_virtual(ino: Ino) -> bool { todo!() }
}

/// Names.
impl Vfs {
    /// What `name` in `parent` stands for. Virtual files are found in the root, `.control` everywhere.
    pub async fn lookup(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<(Ino, Attr)> { todo!() }

    /// Makes a file, directory (kind), fifo, socket or device. Symlinks too.
    pub async fn mknod(&self, cred: &Cred, parent: Ino, name: &[u8], node: NewNode) -> Result<(Ino, Attr)> { todo!() }

    /// Makes (unless it exists and `exclusive` is false) and opens a file.
    pub async fn create(&self, cred: &Cred, parent: Ino, name: &[u8], node: NewNode, flags: OpenFlags, exclusive: bool) -> Result<(Ino, Opened)> { todo!() }

    /// Removes a name that is not a directory.
    pub async fn unlink(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<()> { todo!() }

    /// Removes an empty directory.
    pub async fn rmdir(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<()> { todo!() }

    /// Renames. Dirty data of the source is flushed first if it replaces something.
    pub async fn rename(&self, cred: &Cred, parent: Ino, name: &[u8], new_parent: Ino, new_name: &[u8], mode: RenameMode) -> Result<()> { todo!() }

    /// Gives `ino` another name.
    pub async fn link(&self, cred: &Cred, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Attr> { todo!() }

    /// Target of a symlink.
    pub async fn readlink(&self, cred: &Cred, ino: Ino) -> Result<Bytes> { todo!() }
}

/// Attributes.
impl Vfs {
    /// Attributes; length and mtime are this client's own, uncommitted writes included.
    pub async fn getattr(&self, cred: &Cred, ino: Ino) -> Result<Attr> { todo!() }

    /// Changes attributes, then (or only) the length. `fh` is a handle open for writing, if the caller has one.
    pub async fn setattr(&self, cred: &Cred, ino: Ino, fh: Option<Fh>, set: SetAttr, length: Option<u64>) -> Result<Attr> { todo!() }

    /// access(2): `mask` is 4 read, 2 write, 1 execute.
    pub async fn access(&self, cred: &Cred, ino: Ino, mask: u16) -> Result<()> { todo!() }

    /// One extended attribute (ACLs by their `system.posix_acl_*` names).
    pub async fn getxattr(&self, cred: &Cred, ino: Ino, name: &[u8]) -> Result<Vec<u8>> { todo!() }

    /// Sets one.
    pub async fn setxattr(&self, cred: &Cred, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> { todo!() }

    /// All names.
    pub async fn listxattr(&self, cred: &Cred, ino: Ino) -> Result<Vec<Vec<u8>>> { todo!() }

    /// Removes one.
    pub async fn removexattr(&self, cred: &Cred, ino: Ino, name: &[u8]) -> Result<()> { todo!() }

    /// Space and inodes of the volume (or of what the quotas of `ino`'s tree leave).
    pub async fn statfs(&self, cred: &Cred, ino: Ino) -> Result<StatFs> { todo!() }
}

/// Open files.
impl Vfs {
    /// Opens a file (or a virtual file).
    pub async fn open(&self, cred: &Cred, ino: Ino, flags: OpenFlags) -> Result<Opened> { todo!() }

    /// Reads up to `len` bytes; fewer only at the end of the file. One piece; holes are zeros.
    pub async fn read(&self, cred: &Cred, fh: Fh, offset: u64, len: u32) -> Result<Bytes> { todo!() }

    /// Writes at `offset` (at the end, if opened for appending). `sync`: replies after the data is
    /// durable (O_SYNC, O_DSYNC on this write). Returns the bytes taken: all of them.
    pub async fn write(&self, cred: &Cred, fh: Fh, offset: u64, data: &[u8], sync: bool) -> Result<u32> { todo!() }

    /// The same without waiting: `None` if it would have to wait (nothing was taken; own the bytes and call [`Vfs::write`]).
    pub fn write_now(&self, cred: &Cred, fh: Fh, offset: u64, data: &[u8], sync: bool) -> Option<Result<u32>> { todo!() }

    /// close(2) of one descriptor: stores and commits the file's data, drops the POSIX locks of `lock_owner`.
    pub async fn flush(&self, cred: &Cred, fh: Fh, lock_owner: u64) -> Result<()> { todo!() }

    /// Stores and commits the file's data, to survive a power cut.
    pub async fn fsync(&self, cred: &Cred, fh: Fh, data_only: bool) -> Result<()> { todo!() }

    /// The last descriptor is gone. Drops the flock of `flock_owner` if there is one.
    pub async fn release(&self, cred: &Cred, fh: Fh, flock_owner: Option<u64>) -> Result<()> { todo!() }

    /// fallocate(2).
    pub async fn fallocate(&self, cred: &Cred, fh: Fh, mode: FallocMode, offset: u64, len: u64) -> Result<()> { todo!() }

    /// copy_file_range(2): no data moves. Returns the bytes copied.
    pub async fn copy_range(&self, cred: &Cred, from: Fh, from_offset: u64, to: Fh, to_offset: u64, len: u64) -> Result<u64> { todo!() }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    pub async fn lseek(&self, cred: &Cred, fh: Fh, offset: u64, whence: Whence) -> Result<u64> { todo!() }
}

/// Open directories.
impl Vfs {
    /// Opens a directory for listing.
    pub async fn opendir(&self, cred: &Cred, ino: Ino) -> Result<Fh> { todo!() }

    /// Up to `limit` entries from `offset` on (0: the start; else `next` of the last entry seen). Empty at the end.
    pub async fn readdir(&self, cred: &Cred, fh: Fh, offset: u64, limit: usize, plus: bool) -> Result<Vec<DirEntry>> { todo!() }

    /// Closes it.
    pub async fn releasedir(&self, cred: &Cred, fh: Fh) -> Result<()> { todo!() }

    /// Entries are durable when their call returns; what a power cut may take is committed now.
    pub async fn fsyncdir(&self, cred: &Cred, fh: Fh) -> Result<()> { todo!() }
}

/// Locks.
impl Vfs {
    /// flock(2): `None` unlocks. Waits if `block`, until `interrupted` (asked every 100 ms) says so.
    pub async fn flock(&self, cred: &Cred, fh: Fh, owner: u64, kind: Option<FlockKind>, block: bool, interrupted: impl Fn() -> bool + Send) -> Result<()> { todo!() }

    /// The lock that stands in the way of `range`, if any.
    pub async fn getlk(&self, cred: &Cred, fh: Fh, owner: u64, range: LockRange) -> Result<Option<LockRange>> { todo!() }

    /// fcntl(2) F_SETLK and (if `block`) F_SETLKW.
    pub async fn setlk(&self, cred: &Cred, fh: Fh, owner: u64, range: LockRange, block: bool, interrupted: impl Fn() -> bool + Send) -> Result<()> { todo!() }
}
