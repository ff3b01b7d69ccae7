//! From open to release.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_meta::{Cred, Durability, NewNode};
use cairn_types::{Ino, Timestamp};
use dashmap::DashMap;

use crate::commit::Core;
use crate::file::File;
use crate::handle::{FileHandle, Handle};
use crate::names::Made;
use crate::{Fh, Image, OpenFlags, Opened, Result, Vfs};

/// What content each inode had when it was opened last: mtime and length. It changes with every
/// change of content (volume format 11.1), so equal means that caches above still hold.
#[derive(Default)]
pub(crate) struct SeenTable {
    seen: DashMap<Ino, (Timestamp, u64)>,
}

/// Inodes remembered; the table is emptied when it is full.
const SEEN_MAX: usize = 1 << 17;

impl SeenTable {
    /// Was it opened before?
    fn knows(&self, ino: Ino) -> bool {
        self.seen.contains_key(&ino)
    }

    /// Is the content what it was at the last open?
    fn is_same(&self, ino: Ino, version: (Timestamp, u64)) -> bool {
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(ino, version) == Some(version)
    }
}

impl Vfs {
    pub(crate) async fn open_file(&self, cred: &Cred, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        let made = self.core.open_existing(cred, ino, flags).await?;
        self.opened(cred, made, flags).await
    }

    pub(crate) async fn create_file(
        &self,
        cred: &Cred,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        flags: OpenFlags,
        exclusive: bool,
    ) -> Result<(Ino, Opened)> {
        let made = self.core.create(cred, parent, name, node, flags, exclusive).await?;
        Ok((made.ino, self.opened(cred, made, flags).await?))
    }

    /// Makes a handle of what metadata has opened; on failure metadata is told that it is closed.
    async fn opened(&self, cred: &Cred, made: Made, flags: OpenFlags) -> Result<Opened> {
        let file = self.core.files.open(made.ino, made.attr, made.asked_at);
        let again = self.seen.knows(made.ino);
        let admitted = self.core.admit(&file, flags, again);
        let image = match admitted {
            Ok(image) => image,
            Err(refused) => {
                self.core.closed(&file).await;
                return Err(refused);
            }
        };
        let handle = Arc::new(FileHandle::new(file, flags, image.is_some()));
        let opened = self.finish_open(cred, &made, &handle, image).await;
        if opened.is_err() {
            self.close_handle(&handle).await;
        }
        opened
    }

    async fn finish_open(
        &self,
        cred: &Cred,
        made: &Made,
        handle: &Arc<FileHandle>,
        image: Option<Arc<Image>>,
    ) -> Result<Opened> {
        let file = &handle.file;
        if handle.flags.truncate && !made.is_new && file.state().length() > 0 {
            self.core.truncate(cred, made.ino, 0, true).await?;
        }
        let (attr, is_clean) = {
            let state = file.state();
            (state.now(), state.is_clean())
        };
        let keep_cache = self.seen.is_same(made.ino, (attr.mtime, attr.length)) && is_clean;
        let fh = self.handles.insert(Handle::File(handle.clone()))?;
        Ok(Opened { fh, attr, keep_cache, direct: false, uncached: handle.uncached, created: made.is_new, image })
    }

    /// close(2) of one descriptor.
    pub(crate) async fn flush_handle(&self, handle: &FileHandle, lock_owner: u64) -> Result<()> {
        let file = &handle.file;
        let had_locks = file.state().lock_owners.remove(&lock_owner);
        if had_locks {
            self.core.unlock_all(file.ino, lock_owner).await?;
        }
        // What has no name any more is nobody's to see elsewhere: it need not be stored now.
        let wanted = handle.flags.write && !file.state().orphan;
        let done = match wanted {
            true if self.core.chunk.writes_back() => self.core.close_behind(file).await,
            true => self.core.flush(file, Durability::Process).await,
            false => Ok(()),
        };
        told(handle, done)
    }

    pub(crate) async fn fsync_handle(&self, handle: &FileHandle) -> Result<()> {
        let done = self.core.flush(&handle.file, Durability::Power).await;
        told(handle, done)
    }

    /// The last descriptor of a handle is gone.
    pub(crate) async fn close_handle(&self, handle: &FileHandle) {
        self.core.dismiss(handle);
        self.core.closed(&handle.file).await;
    }

    pub(crate) async fn read_handle(&self, handle: &FileHandle, offset: u64, len: u32) -> Result<bytes::Bytes> {
        if !handle.touched.swap(true, Ordering::Relaxed) {
            let attr = handle.file.state().now();
            self.core.touched(handle.file.ino, &attr).await;
        }
        self.core.read(handle, offset, len).await
    }

    pub(crate) async fn write_handle(
        &self,
        fh: Fh,
        handle: &FileHandle,
        offset: u64,
        data: &[u8],
        sync: bool,
    ) -> Result<u32> {
        let sync = sync || handle.flags.sync;
        let done = self.core.write(handle, offset, data, sync).await;
        match done {
            Ok(_) if sync => told(handle, Ok(())).and(done),
            Err(error) => {
                tracing::debug!(%fh, ino = handle.file.ino.0, offset, %error, "write failed");
                Err(error)
            }
            done => done,
        }
    }
}

/// The outcome of a flush for this handle: its own failure, or a loss it has not heard of.
fn told(handle: &FileHandle, done: Result<()>) -> Result<()> {
    match handle.take_error() {
        Some(loss) => done.and(Err(loss)),
        None => done,
    }
}

impl Core {
    /// One open less, counted in metadata too.
    pub(crate) async fn closed(self: &Arc<Core>, file: &Arc<File>) {
        let abandon = {
            let mut state = file.state();
            state.opens -= 1;
            state.owed_releases += 1;
            state.opens == 0 && state.orphan
        };
        if abandon {
            self.abandon(file).await;
        }
        self.settle_releases(file).await;
        if !file.state().is_clean() {
            self.flusher.kick();
        }
    }

    pub(crate) async fn unlock_all(self: &Arc<Core>, ino: Ino, owner: u64) -> Result<()> {
        Ok(self.meta.set_plock(ino, owner, None, (0, i64::MAX as u64), 0).await?)
    }
}
