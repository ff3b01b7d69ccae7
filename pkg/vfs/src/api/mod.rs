//! Every call of [`Vfs`], each with its line in the access log.

mod open;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cairn_chunk::ChunkStore;
use cairn_env::Env;
use cairn_meta::{Durability, Error as MetaError, Meta, StatFs};
use cairn_types::{Attr, FileType, Ino};

use crate::commit::Core;
use crate::handle::HandleTable;
use crate::opening::SeenTable;
use crate::virtual_files::VirtualFiles;
use crate::{
    AccessLog, Config, Cred, Error, Fh, NewNode, OpenFlags, Opened, Parts, RenameMode, Result, SetAttr, Vfs, XattrMode,
    flusher,
};

/// Runs a call and leaves its line: `op (args)`, and what `shown` makes of the result.
macro_rules! logged {
    ($self:ident, $cred:ident, $done:expr, $($what:tt)+) => {{
        let begun = $self.log.begin();
        let done = $done;
        $self.log.end(begun, $cred, &done, || format!($($what)+));
        done
    }};
}

use logged;

/// A name as a log shows it.
fn show(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

/// Life of the volume.
impl Vfs {
    /// Starts the flusher, which runs until [`Vfs::close`]. Must be called within a tokio runtime.
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
