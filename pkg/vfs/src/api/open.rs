//! Calls on open files and directories, and locks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairn_meta::Error as MetaError;
use cairn_meta::record::FlockKind;
use cairn_types::Ino;

use super::logged;
use crate::dir::DirHandle;
use crate::handle::Handle;
use crate::locks::Lock;
use crate::resize::{for_reading, for_writing};
use crate::{Cred, DirEntry, FallocMode, Fh, LockRange, OpenFlags, Opened, Result, Vfs, Whence};

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

    /// Does somebody else have the file open that this handle writes past all caches? Then what was
    /// written must be dropped from the caches above, where pages of it may be mapped.
    pub fn is_watched(&self, fh: Fh) -> bool {
        self.handles.file(fh).is_ok_and(|handle| handle.uncached && handle.file.state().opens > 1)
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

    /// The last descriptor is gone, and with it the handle's flock.
    pub async fn release(&self, cred: &Cred, fh: Fh) -> Result<()> {
        let release = async {
            match self.handles.take(fh)? {
                Handle::File(handle) => {
                    let unlocked = if handle.flocked.load(Ordering::Acquire) {
                        self.core.meta.flock(handle.file.ino, fh.0, None).await
                    } else {
                        Ok(())
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
    ///
    /// The handle is the owner. What the kernel calls one may be used again for the next open before we
    /// are told of this one's release.
    pub async fn flock(
        &self,
        cred: &Cred,
        fh: Fh,
        kind: Option<FlockKind>,
        block: bool,
        interrupted: impl Fn() -> bool + Send + Sync,
    ) -> Result<()> {
        let flock = async {
            let handle = self.handles.file(fh)?;
            if kind.is_some() {
                handle.flocked.store(true, Ordering::Release);
            }
            self.core.lock(handle.file.ino, fh.0, Lock::Flock { kind }, block, interrupted).await?;
            if kind.is_none() {
                handle.flocked.store(false, Ordering::Release);
            }
            Ok(())
        };
        logged!(self, cred, flock.await, "flock ({fh},{kind:?},{block})")
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
