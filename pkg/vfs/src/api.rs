//! Every call of [`Vfs`], each with its line in the access log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cairn_chunk::ChunkStore;
use cairn_env::Env;
use cairn_meta::record::FlockKind;
use cairn_meta::{Durability, Error as MetaError, Meta, StatFs};
use cairn_types::{Attr, FileType, Ino};

use crate::accesslog::Begun;
use crate::commit::Core;
use crate::dir::DirHandle;
use crate::handle::{Handle, HandleTable};
use crate::locks::Lock;
use crate::opening::SeenTable;
use crate::resize::{for_reading, for_writing};
use crate::virtual_files::VirtualFiles;
use crate::{
    AccessLog, Config, Cred, DirEntry, Error, FallocMode, Fh, LockRange, NewNode, OpenFlags, Opened, Parts, RenameMode,
    Result, SetAttr, Vfs, Whence, XattrMode, flusher,
};

/// Runs a call and leaves its line: `op (args)`, and what `shown` makes of the result.
macro_rules! logged {
    ($self:ident, $cred:ident, $done:expr, $($what:tt)+) => {{
        let begun: Option<Begun> = $self.log.begin();
        let done = $done;
        $self.log.end(begun, $cred, &done, || format!($($what)+));
        done
    }};
}

/// A name as a log shows it.
fn show(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

/// Life of the volume.
impl Vfs {
    /// Starts the flusher. Must be called within a tokio runtime.
    pub fn new(env: &Env, meta: Arc<Meta>, chunk: Arc<ChunkStore>, parts: Parts, config: Config) -> Arc<Vfs> {
        let virtuals = VirtualFiles::new(parts, &config, env.now().into());
        let core = Arc::new(Core::new(env.clone(), meta, chunk, config));
        core.tasks.spawn(flusher::run(core.clone()));
        Arc::new(Vfs {
            core,
            handles: HandleTable::new(),
            virtuals,
            seen: SeenTable::default(),
            log: AccessLog::new(env.clone()),
            closing: AtomicBool::new(false),
        })
    }

    /// Stores and commits everything dirty. Fails with the first error, but tries every file.
    pub async fn flush_all(&self) -> Result<()> {
        let dirty = self.core.flusher.dirty();
        let flushes = dirty.iter().map(|file| self.core.flush(file, Durability::Process));
        let mut done = Ok(());
        for outcome in futures::future::join_all(flushes).await {
            done = done.and(outcome);
        }
        done.and(self.core.sync().await)
    }

    /// Refuses new writes and opens, flushes everything and ends the background tasks. What is
    /// open stays readable. Fails if something could not be flushed: that data is lost with us.
    pub async fn close(&self) -> Result<()> {
        self.closing.store(true, Ordering::Release);
        let done = self.flush_all().await;
        self.core.tasks.stop().await;
        done
    }

    /// The access log: what `.accesslog` shows.
    pub fn access_log(&self) -> &AccessLog {
        &self.log
    }

    /// Open handles, virtual files included.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    /// Files with uncommitted data, and its bytes.
    pub fn dirty(&self) -> (usize, u64) {
        let dirty = self.core.flusher.dirty();
        (dirty.len(), dirty.iter().map(|file| file.state().dirty_bytes()).sum())
    }

    /// The metadata behind it.
    pub fn meta(&self) -> &Arc<Meta> {
        &self.core.meta
    }

    /// Is this one of the virtual files (`.stats` and the like; not the trash)?
    pub fn is_virtual(ino: Ino) -> bool {
        ino.is_virtual()
    }

    fn check_open(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) { Err(Error::Closing) } else { Ok(()) }
    }
}

/// Names.
impl Vfs {
    /// What `name` in `parent` stands for. Virtual files are found in the root, `.control` everywhere.
    pub async fn lookup(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<(Ino, Attr)> {
        let lookup = async {
            match self.lookup_virtual(parent, name).await {
                Some(found) => found,
                None => self.core.lookup(cred, parent, name).await,
            }
        };
        logged!(self, cred, lookup.await, "lookup ({parent},{})", show(name))
    }

    /// Makes a file, directory, symlink, fifo, socket or device: `node.kind` says which.
    pub async fn mknod(&self, cred: &Cred, parent: Ino, name: &[u8], node: NewNode) -> Result<(Ino, Attr)> {
        let op = match node.kind {
            FileType::Directory => "mkdir",
            FileType::Symlink => "symlink",
            _ => "mknod",
        };
        let (mode, umask) = (node.mode, node.umask);
        let make = async {
            self.refuse_new(parent, name)?;
            self.core.mknod(cred, parent, name, node).await
        };
        logged!(self, cred, make.await, "{op} ({parent},{},{mode:#o}:{umask:#o})", show(name))
    }

    /// Makes (unless it exists and `exclusive` is false) and opens a file.
    pub async fn create(
        &self,
        cred: &Cred,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        flags: OpenFlags,
        exclusive: bool,
    ) -> Result<(Ino, Opened)> {
        let (mode, umask) = (node.mode, node.umask);
        let create = async {
            self.check_open()?;
            self.refuse_new(parent, name)?;
            self.create_file(cred, parent, name, node, flags, exclusive).await
        };
        logged!(self, cred, create.await, "create ({parent},{},{mode:#o}:{umask:#o})", show(name))
    }

    /// Removes a name that is not a directory.
    pub async fn unlink(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<()> {
        let unlink = async {
            self.refuse_removal(parent, name)?;
            self.core.unlink(cred, parent, name).await
        };
        logged!(self, cred, unlink.await, "unlink ({parent},{})", show(name))
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<()> {
        let rmdir = async {
            self.refuse_removal(parent, name)?;
            self.core.rmdir(cred, parent, name).await
        };
        logged!(self, cred, rmdir.await, "rmdir ({parent},{})", show(name))
    }

    /// Renames. Dirty data of the source is flushed first if it replaces something.
    pub async fn rename(
        &self,
        cred: &Cred,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let rename = async {
            self.refuse_removal(parent, name)?;
            self.refuse_removal(new_parent, new_name)?;
            self.core.rename(cred, (parent, name), (new_parent, new_name), mode).await
        };
        let (from, to) = (show(name), show(new_name));
        logged!(self, cred, rename.await, "rename ({parent},{from},{new_parent},{to},{mode:?})")
    }

    /// Gives `ino` another name.
    pub async fn link(&self, cred: &Cred, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Attr> {
        let link = async {
            self.refuse_virtual(ino)?;
            self.refuse_new(new_parent, new_name)?;
            self.core.link(cred, ino, new_parent, new_name).await
        };
        logged!(self, cred, link.await, "link ({ino},{new_parent},{})", show(new_name))
    }

    /// Target of a symlink.
    pub async fn readlink(&self, cred: &Cred, ino: Ino) -> Result<Bytes> {
        logged!(self, cred, self.core.readlink(ino).await, "readlink ({ino})")
    }
}

/// Attributes.
impl Vfs {
    /// Attributes; length and mtime are this client's own, uncommitted writes included.
    pub async fn getattr(&self, cred: &Cred, ino: Ino) -> Result<Attr> {
        let getattr = async {
            if ino.is_virtual() || ino == Ino::TRASH {
                return self.attr_virtual(ino).await;
            }
            self.core.getattr(ino).await
        };
        logged!(self, cred, getattr.await, "getattr ({ino})")
    }

    /// Sets the length if it is given, then the other attributes. `fh` is a handle open for
    /// writing, if the caller has one: its permission was checked when it was opened.
    pub async fn setattr(
        &self,
        cred: &Cred,
        ino: Ino,
        fh: Option<Fh>,
        set: SetAttr,
        length: Option<u64>,
    ) -> Result<Attr> {
        let setattr = async {
            self.refuse_virtual(ino)?;
            let handle = fh.and_then(|fh| self.handles.file(fh).ok());
            let by_handle = handle.is_some_and(|h| h.flags.write && h.file.ino == ino);
            self.core.setattr(cred, ino, by_handle, set, length).await
        };
        logged!(self, cred, setattr.await, "setattr ({ino},{length:?},{set:?})")
    }

    /// access(2): `mask` is 4 read, 2 write, 1 execute.
    pub async fn access(&self, cred: &Cred, ino: Ino, mask: u16) -> Result<()> {
        let access = async {
            if ino.is_virtual() {
                return self.attr_virtual(ino).await.map(drop);
            }
            self.core.access(cred, ino, mask).await
        };
        logged!(self, cred, access.await, "access ({ino},{mask:#o})")
    }

    /// One extended attribute (ACLs by their `system.posix_acl_*` names).
    pub async fn getxattr(&self, cred: &Cred, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let get = async {
            if ino.is_virtual() {
                return Err(MetaError::NoAttribute.into());
            }
            Ok(self.core.meta.getxattr(ino, name).await?)
        };
        logged!(self, cred, get.await, "getxattr ({ino},{})", show(name))
    }

    /// Sets one.
    pub async fn setxattr(&self, cred: &Cred, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let set = async {
            self.refuse_virtual(ino)?;
            self.core.setxattr(cred, ino, name, value, mode).await
        };
        logged!(self, cred, set.await, "setxattr ({ino},{},{},{mode:?})", show(name), value.len())
    }

    /// All names.
    pub async fn listxattr(&self, cred: &Cred, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let list = async {
            if ino.is_virtual() {
                return Ok(Vec::new());
            }
            Ok(self.core.meta.listxattr(ino).await?)
        };
        logged!(self, cred, list.await, "listxattr ({ino})")
    }

    /// Removes one.
    pub async fn removexattr(&self, cred: &Cred, ino: Ino, name: &[u8]) -> Result<()> {
        let remove = async {
            self.refuse_virtual(ino)?;
            self.core.removexattr(cred, ino, name).await
        };
        logged!(self, cred, remove.await, "removexattr ({ino},{})", show(name))
    }

    /// Space and inodes of the volume, capped by the quotas above the mount's root.
    pub async fn statfs(&self, cred: &Cred, ino: Ino) -> Result<StatFs> {
        let statfs = async { Ok(self.core.meta.statfs().await?) };
        logged!(self, cred, statfs.await, "statfs ({ino})")
    }
}

/// Open files.
impl Vfs {
    /// Opens a file (or a virtual file).
    pub async fn open(&self, cred: &Cred, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        let open = async {
            self.check_open()?;
            if ino.is_virtual() {
                return self.open_virtual(ino, flags);
            }
            self.open_file(cred, ino, flags).await
        };
        let done = open.await;
        let begun = self.log.begin();
        self.log.end(begun, cred, &done, || {
            let fh = done.as_ref().map_or(0, |o| o.fh.0);
            format!("open ({ino},{flags:?}): [fh:{fh}]")
        });
        done
    }

    /// Reads up to `len` bytes; fewer only at the end of the file. One piece; holes are zeros.
    pub async fn read(&self, cred: &Cred, fh: Fh, offset: u64, len: u32) -> Result<Bytes> {
        let handle = match self.handles.get(fh)? {
            Handle::File(handle) => handle,
            Handle::Dir(_) => return Err(MetaError::IsDirectory.into()),
            // Left out of the log: whoever reads the log would otherwise write it.
            other => return Ok(self.read_virtual(&other, offset, len).await),
        };
        let begun = self.log.begin();
        let ino = handle.file.ino;
        let read = async {
            let handle = for_reading(handle, fh)?;
            self.read_handle(&handle, offset, len).await
        };
        let done = read.await;
        self.log.end(begun, cred, &done, || {
            let got = done.as_ref().map_or(0, Bytes::len);
            format!("read ({ino},{len},{offset},{fh}): ({got})")
        });
        done
    }

    /// Writes at `offset` (at the end, if opened for appending). `sync`: replies after the data is
    /// durable (O_SYNC, O_DSYNC on this write). Waits for memory. Returns the bytes taken: all of them.
    pub async fn write(&self, cred: &Cred, fh: Fh, offset: u64, data: &[u8], sync: bool) -> Result<u32> {
        let begun = self.log.begin();
        let mut ino = Ino(0);
        let write = async {
            match self.handles.get(fh)? {
                Handle::File(handle) => {
                    self.check_open()?;
                    ino = handle.file.ino;
                    let handle = for_writing(handle, fh)?;
                    self.write_handle(fh, &handle, offset, data, sync).await
                }
                other => self.write_virtual(cred, fh, &other, data),
            }
        };
        let done = write.await;
        self.log.end(begun, cred, &done, || format!("write ({ino},{},{offset},{fh})", data.len()));
        done
    }

    /// The same without waiting: `None` if it would have to wait. Nothing was taken then: own the
    /// bytes and call [`Vfs::write`]. May take fewer bytes than given, as write(2) may.
    pub fn write_now(&self, cred: &Cred, fh: Fh, offset: u64, data: &[u8], sync: bool) -> Option<Result<u32>> {
        let handle = match self.handles.get(fh) {
            Ok(Handle::File(handle)) => handle,
            Ok(other) => return Some(self.write_virtual(cred, fh, &other, data)),
            Err(error) => return Some(Err(error)),
        };
        if let Err(error) = self.check_open().and(for_writing(handle.clone(), fh).map(drop)) {
            return Some(Err(error));
        }
        if sync || handle.flags.sync {
            return None;
        }
        let begun = self.log.begin();
        let done = self.core.write_now(&handle, offset, data)?;
        self.log.end(begun, cred, &done, || format!("write ({},{},{offset},{fh})", handle.file.ino, data.len()));
        Some(done)
    }

    /// close(2) of one descriptor: stores and commits the file's data, drops the POSIX locks of
    /// `lock_owner`.
    pub async fn flush(&self, cred: &Cred, fh: Fh, lock_owner: u64) -> Result<()> {
        let flush = async {
            match self.handles.get(fh)? {
                Handle::File(handle) => self.flush_handle(&handle, lock_owner).await,
                Handle::Control(control) => {
                    control.cancel();
                    Ok(())
                }
                _ => Ok(()),
            }
        };
        logged!(self, cred, flush.await, "flush ({fh},{lock_owner:016X})")
    }

    /// Stores and commits the file's data, to survive a power cut.
    pub async fn fsync(&self, cred: &Cred, fh: Fh, data_only: bool) -> Result<()> {
        let fsync = async {
            match self.handles.get(fh)? {
                Handle::File(handle) => self.fsync_handle(&handle).await,
                _ => Ok(()),
            }
        };
        logged!(self, cred, fsync.await, "fsync ({fh},{})", u8::from(data_only))
    }

    /// The last descriptor is gone. Drops the flock of `flock_owner` if there is one.
    pub async fn release(&self, cred: &Cred, fh: Fh, flock_owner: Option<u64>) -> Result<()> {
        let release = async {
            match self.handles.take(fh)? {
                Handle::File(handle) => {
                    let unlocked = match flock_owner {
                        Some(owner) => self.core.meta.flock(handle.file.ino, owner, None).await,
                        None => Ok(()),
                    };
                    self.close_handle(&handle).await;
                    unlocked?;
                }
                Handle::Log(reader) => self.log.close(&reader),
                Handle::Control(control) => control.cancel(),
                Handle::Dir(_) | Handle::Text(_) => {}
            }
            Ok(())
        };
        logged!(self, cred, release.await, "release ({fh})")
    }

    /// fallocate(2).
    pub async fn fallocate(&self, cred: &Cred, fh: Fh, mode: FallocMode, offset: u64, len: u64) -> Result<()> {
        let fallocate = async {
            self.check_open()?;
            let handle = for_writing(self.handles.file(fh)?, fh)?;
            self.core.fallocate(cred, &handle, mode, offset, len).await
        };
        logged!(self, cred, fallocate.await, "fallocate ({fh},{mode:?},{offset},{len})")
    }

    /// copy_file_range(2): no data moves. Returns the bytes copied.
    pub async fn copy_range(
        &self,
        cred: &Cred,
        from: Fh,
        from_offset: u64,
        to: Fh,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        let copy = async {
            self.check_open()?;
            let input = for_reading(self.handles.file(from)?, from)?;
            let output = for_writing(self.handles.file(to)?, to)?;
            self.core.copy_range(cred, (&input, from_offset), (&output, to_offset), len).await
        };
        logged!(self, cred, copy.await, "copy_file_range ({from},{from_offset},{to},{to_offset},{len})")
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    pub async fn lseek(&self, cred: &Cred, fh: Fh, offset: u64, whence: Whence) -> Result<u64> {
        let lseek = async {
            let handle = self.handles.file(fh)?;
            self.core.seek(&handle.file, offset, whence).await
        };
        logged!(self, cred, lseek.await, "lseek ({fh},{offset},{whence:?})")
    }
}

/// Open directories.
impl Vfs {
    /// Opens a directory for listing.
    pub async fn opendir(&self, cred: &Cred, ino: Ino) -> Result<Fh> {
        let opendir = async {
            let attr =
                if ino == Ino::TRASH { self.attr_virtual(ino).await? } else { self.core.meta.getattr(ino).await? };
            if !attr.is_dir() {
                return Err(MetaError::NotDirectory.into());
            }
            if cred.check {
                self.core.access(cred, ino, 4).await?;
            }
            self.core.touched(ino, &attr).await;
            let parent =
                if attr.parent == self.core.meta.config().root || ino == Ino::ROOT { Ino::ROOT } else { attr.parent };
            self.handles.insert(Handle::Dir(Arc::new(DirHandle::new(ino, parent, self.virtuals.listed(ino)))))
        };
        logged!(self, cred, opendir.await, "opendir ({ino})")
    }

    /// Up to `limit` entries from `offset` on (0: the start, else `next` of the last entry seen).
    /// Empty at the end.
    pub async fn readdir(&self, cred: &Cred, fh: Fh, offset: u64, limit: usize, plus: bool) -> Result<Vec<DirEntry>> {
        let begun = self.log.begin();
        let readdir = async {
            let dir = self.handles.dir(fh)?;
            dir.read(&self.core, offset, limit, plus).await
        };
        let done = readdir.await;
        self.log.end(begun, cred, &done, || {
            let got = done.as_ref().map_or(0, Vec::len);
            format!("readdir ({fh},{limit},{offset}): ({got})")
        });
        done
    }

    /// Closes it.
    pub async fn releasedir(&self, cred: &Cred, fh: Fh) -> Result<()> {
        let done = self.handles.dir(fh).and_then(|_| self.handles.take(fh)).map(drop);
        logged!(self, cred, done, "releasedir ({fh})")
    }

    /// Names are committed when their call returns; now they survive a power cut too.
    pub async fn fsyncdir(&self, cred: &Cred, fh: Fh) -> Result<()> {
        logged!(self, cred, self.core.sync().await, "fsync ({fh},0)")
    }
}

/// Locks.
impl Vfs {
    /// flock(2): `None` unlocks. Waits if `block`, until `interrupted` (asked every 100 ms) says so.
    pub async fn flock(
        &self,
        cred: &Cred,
        fh: Fh,
        owner: u64,
        kind: Option<FlockKind>,
        block: bool,
        interrupted: impl Fn() -> bool + Send + Sync,
    ) -> Result<()> {
        let flock = async {
            let handle = self.handles.file(fh)?;
            self.core.lock(handle.file.ino, owner, Lock::Flock { kind }, block, interrupted).await
        };
        logged!(self, cred, flock.await, "flock ({fh},{owner:016X},{kind:?},{block})")
    }

    /// The lock that stands in the way of `range`, if any.
    pub async fn getlk(&self, cred: &Cred, fh: Fh, owner: u64, range: LockRange) -> Result<Option<LockRange>> {
        let getlk = async {
            let handle = self.handles.file(fh)?;
            self.core.lock_in_the_way(handle.file.ino, owner, range).await
        };
        logged!(self, cred, getlk.await, "getlk ({fh},{owner:016X},{range:?})")
    }

    /// fcntl(2) F_SETLK and (if `block`) F_SETLKW.
    pub async fn setlk(
        &self,
        cred: &Cred,
        fh: Fh,
        owner: u64,
        range: LockRange,
        block: bool,
        interrupted: impl Fn() -> bool + Send + Sync,
    ) -> Result<()> {
        let setlk = async {
            let handle = self.handles.file(fh)?;
            self.core.posix_lock(&handle, owner, range, block, interrupted).await
        };
        logged!(self, cred, setlk.await, "setlk ({fh},{owner:016X},{range:?},{block})")
    }
}
