//! Kernel requests to vfs calls, vfs results to replies. One method per request, in the order of
//! `fuser::Filesystem`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use cairn_env::Budget;
use cairn_meta::StatFs;
use cairn_meta::record::FlockKind;
use cairn_types::Ino;
use cairn_vfs::{Cred, FallocMode, Fh, LockRange, NewNode, SetAttr, Vfs};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use crate::Config;
use crate::answer::Answers;
use crate::caller::{self, Groups};
use crate::config::Extra;
use crate::convert::{self, file_attr, kind_to_kernel};
use crate::door::{Call, Door};
use crate::ioctl;
use crate::raw;
use crate::xattr::{self, Served};

/// Bytes of WRITE requests that may wait for room in the write buffer outside of it. More stop the threads that
/// take requests, until uploads make room.
const PARKED_BYTES_MAX: u64 = 128 << 20;

/// Most bytes one copy_file_range reply can report, in whole pages.
const COPY_BYTES_MAX: u64 = u32::MAX as u64 & !4095;

/// Inode numbers are never used again, so every generation is the same.
const GENERATION: Generation = Generation(1);

/// The file system that a session with the kernel serves.
pub(crate) struct KernelFs {
    vfs: Arc<Vfs>,
    extra: Extra,
    answers: Arc<Answers>,
    door: Door,
    groups: Groups,
    parked: Budget,
    /// Entries that fit into a reply lately: of READDIR, of READDIRPLUS.
    fits: Arc<[AtomicUsize; 2]>,
}

impl KernelFs {
    pub(crate) fn new(vfs: Arc<Vfs>, rt: Handle, extra: Extra, answers: Arc<Answers>) -> KernelFs {
        KernelFs {
            vfs,
            extra,
            answers,
            door: Door::new(rt),
            groups: Groups::new(),
            parked: Budget::new(PARKED_BYTES_MAX),
            fits: Arc::new([AtomicUsize::new(128), AtomicUsize::new(32)]),
        }
    }

    fn config(&self) -> &Config {
        &self.answers.config
    }

    /// The vfs, who asks, and the request for the log.
    fn call(&self, req: &Request, name: &'static str, ino: INodeNo) -> (Arc<Vfs>, Cred, Call) {
        let call = Call { name, req: req.unique().0, ino: ino.0, tid: req.pid(), is_read: false };
        (self.vfs.clone(), caller::cred(self.config(), &self.groups, req), call)
    }

    fn make(
        &self,
        req: &Request,
        name: &'static str,
        parent: INodeNo,
        child: &OsStr,
        node: NewNode,
        reply: ReplyEntry,
    ) {
        let (vfs, cred, call) = self.call(req, name, parent);
        let (answers, child) = (self.answers.clone(), child.as_bytes().to_vec());
        self.door.serve(call, async move { vfs.mknod(&cred, Ino(parent.0), &child, node).await }, move |out| {
            answers.entry(reply, out)
        });
    }

    /// Node to create, with the umask that is ours to apply.
    fn node(&self, node: NewNode, umask: u32) -> NewNode {
        NewNode { umask: self.config().umask_for(umask), ..node }
    }

    /// Lists a directory: a batch that about fits, and how many of it did.
    fn list(
        &self,
        (vfs, cred, call): (Arc<Vfs>, Cred, Call),
        fh: FileHandle,
        offset: u64,
        plus: bool,
        reply: impl FnOnce(Result<Vec<cairn_vfs::DirEntry>, Errno>) -> usize + Send + 'static,
    ) {
        let fits = self.fits.clone();
        let limit = fits[usize::from(plus)].load(Ordering::Relaxed);
        self.door.serve(
            call,
            async move {
                let mut entries = vfs.readdir(&cred, Fh(fh.0), offset, limit, plus).await?;
                if plus {
                    fill_attrs(&vfs, &cred, &mut entries).await?;
                }
                Ok(entries)
            },
            move |out| {
                let given = out.as_ref().map_or(0, Vec::len);
                let fit = reply(out);
                // All of a full batch fit: a larger one may. Otherwise fetch little more than fits.
                let next = if given == limit && fit == given { (limit * 2).min(LIST_MAX) } else { fit + fit / 8 + 2 };
                if given == limit {
                    fits[usize::from(plus)].store(next.max(LIST_MIN), Ordering::Relaxed);
                }
            },
        );
    }

    fn lock_range(start: u64, end: u64, typ: i32, pid: u32) -> Option<LockRange> {
        let kind = match typ {
            libc::F_RDLCK => Some(FlockKind::Read),
            libc::F_WRLCK => Some(FlockKind::Write),
            libc::F_UNLCK => None,
            _ => return None,
        };
        Some(LockRange { kind, start, end, pid })
    }
}

const LIST_MIN: usize = 16;
const LIST_MAX: usize = 4096;

/// READDIRPLUS needs attributes of all but `.` and `..`; what is gone meanwhile is left out.
async fn fill_attrs(vfs: &Vfs, cred: &Cred, entries: &mut Vec<cairn_vfs::DirEntry>) -> cairn_vfs::Result<()> {
    for entry in entries.iter_mut().filter(|e| e.attr.is_none() && !is_dots(&e.name)) {
        entry.attr = match vfs.getattr(cred, entry.ino).await {
            Ok(attr) => Some(attr),
            Err(cairn_vfs::Error::Meta(cairn_meta::Error::NoEntry)) => None,
            Err(err) => return Err(err),
        };
    }
    // The last one stays, since its offset is where the kernel goes on.
    let last = entries.last().map(|e| e.next);
    entries.retain(|e| e.attr.is_some() || is_dots(&e.name) || Some(e.next) == last);
    Ok(())
}

fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// Takes set-uid and set-gid away, as a write by somebody without CAP_FSETID does.
async fn drop_privilege(vfs: &Vfs, answers: &Answers, cred: &Cred, ino: Ino) -> cairn_vfs::Result<()> {
    let attr = vfs.setattr(cred, ino, None, SetAttr { drop_privilege: true, ..SetAttr::default() }, None).await?;
    answers.privilege_dropped(ino, &attr);
    Ok(())
}

fn done(reply: ReplyEmpty) -> impl FnOnce(Result<(), Errno>) + Send + 'static {
    move |out| match out {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn written(reply: ReplyWrite, out: Result<u32, Errno>) {
    match out {
        Ok(bytes) => reply.written(bytes),
        Err(errno) => reply.error(errno),
    }
}

fn bytes(reply: ReplyData, out: Result<Bytes, Errno>) {
    match out {
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(errno),
    }
}

/// Gives back a handle whose opener has been told EINTR.
async fn give_back(vfs: Arc<Vfs>, cred: Cred, fh: Fh) {
    if let Err(err) = vfs.release(&cred, fh).await {
        tracing::debug!(%fh, "release after an interrupted open: {err}");
    }
}

impl Filesystem for KernelFs {
    fn init(&mut self, _req: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        let agreed = crate::session::negotiate(kernel, self.config(), self.extra);
        // Who opens the file while it is written past the pages must still be able to map it.
        self.extra.no_dio_write |= !agreed.contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        Ok(())
    }

    fn destroy(&mut self) {
        let vfs = self.vfs.clone();
        self.door.close(async move {
            if let Err(err) = vfs.flush_all().await {
                tracing::error!("flush at unmount: {err}");
            }
        });
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, cred, call) = self.call(req, "lookup", parent);
        let (answers, name) = (self.answers.clone(), name.as_bytes().to_vec());
        self.door.serve(call, async move { vfs.lookup(&cred, Ino(parent.0), &name).await }, move |out| {
            answers.lookup(reply, out)
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, _nlookup: u64) {
        self.answers.known.forget(Ino(ino.0));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (vfs, cred, call) = self.call(req, "getattr", ino);
        let answers = self.answers.clone();
        self.door.serve(call, async move { vfs.getattr(&cred, Ino(ino.0)).await }, move |out| {
            answers.attr(reply, Ino(ino.0), out)
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (vfs, cred, call) = self.call(req, "setattr", ino);
        let (answers, ino) = (self.answers.clone(), Ino(ino.0));
        let mut set = convert::set_attr(mode, uid, gid, atime, mtime, size.is_some());
        set.drop_privilege = raw::setattr_drops_privilege(req) && answers.known.is_privileged(ino);
        self.door.serve(
            call,
            async move { vfs.setattr(&cred, ino, fh.map(|fh| Fh(fh.0)), set, size).await },
            move |out| answers.attr(reply, ino, out),
        );
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let (vfs, cred, call) = self.call(req, "readlink", ino);
        self.door.serve(call, async move { vfs.readlink(&cred, Ino(ino.0)).await }, move |out| bytes(reply, out));
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let Some(kind) = convert::kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
        let node = NewNode { kind, rdev, ..NewNode::file((mode & 0o7777) as u16) };
        self.make(req, "mknod", parent, name, self.node(node, umask), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let node = NewNode::dir((mode & 0o7777) as u16);
        self.make(req, "mkdir", parent, name, self.node(node, umask), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, cred, call) = self.call(req, "unlink", parent);
        let name = name.as_bytes().to_vec();
        self.door.serve(call, async move { vfs.unlink(&cred, Ino(parent.0), &name).await }, done(reply));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, cred, call) = self.call(req, "rmdir", parent);
        let name = name.as_bytes().to_vec();
        self.door.serve(call, async move { vfs.rmdir(&cred, Ino(parent.0), &name).await }, done(reply));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.make(req, "symlink", parent, link_name, NewNode::symlink(target.as_os_str().as_bytes()), reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::rename_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (vfs, cred, call) = self.call(req, "rename", parent);
        let (name, newname) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        self.door.serve(
            call,
            async move { vfs.rename(&cred, Ino(parent.0), &name, Ino(newparent.0), &newname, mode).await },
            done(reply),
        );
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (vfs, cred, call) = self.call(req, "link", ino);
        let (answers, ino, newname) = (self.answers.clone(), Ino(ino.0), newname.as_bytes().to_vec());
        self.door.serve(
            call,
            async move { vfs.link(&cred, ino, Ino(newparent.0), &newname).await.map(|attr| (ino, attr)) },
            move |out| answers.entry(reply, out),
        );
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, cred, call) = self.call(req, "open", ino);
        let (answers, ino) = (self.answers.clone(), Ino(ino.0));
        let how = convert::open_flags(flags.0, self.extra);
        let drops = raw::open_drops_privilege(req) && answers.known.is_privileged(ino);
        let (late_vfs, late_cred, op_answers) = (vfs.clone(), cred.clone(), answers.clone());
        let told = vfs.clone();
        self.door.serve_or(
            call,
            async move {
                if drops {
                    drop_privilege(&vfs, &op_answers, &cred, ino).await?;
                }
                vfs.open(&cred, ino, how).await
            },
            move |out| match out {
                Ok(opened) => {
                    let reply = match &opened.image {
                        Some(image) => answers.backings.pass(reply, ino, opened.fh, image),
                        None => Some(reply),
                    };
                    let Some(reply) = reply else { return };
                    if opened.image.is_some() {
                        told.not_passed(opened.fh);
                    }
                    reply.opened(FileHandle(opened.fh.0), answers.opened(ino, &opened));
                }
                Err(errno) => reply.error(errno),
            },
            move |opened| give_back(late_vfs, late_cred, opened.fh),
        );
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (vfs, cred, call) = self.call(req, "read", ino);
        self.door.serve(call.read(), async move { vfs.read(&cred, Fh(fh.0), offset, size).await }, move |out| {
            bytes(reply, out)
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (vfs, cred, call) = self.call(req, "write", ino);
        let (ino, fh, sync) = (Ino(ino.0), Fh(fh.0), convert::is_sync(flags.0));
        let drops = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) && self.answers.known.is_privileged(ino);
        // What comes out of the pages need not be dropped from them.
        let past_pages = !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if !drops && let Some(out) = self.door.inline(call, || vfs.write_now(&cred, fh, offset, data, sync)) {
            let watched = past_pages && vfs.is_watched(fh);
            let taken = out.as_ref().copied().unwrap_or(0);
            written(reply, out);
            if watched {
                self.answers.wrote_past_pages(ino, offset, taken);
            }
            return;
        }
        // It has to wait, and the bytes are only lent: take them along.
        let permit = self.door.acquire(&self.parked, data.len() as u64);
        let (answers, data) = (self.answers.clone(), Bytes::copy_from_slice(data));
        let (late_vfs, late_answers) = (vfs.clone(), answers.clone());
        self.door.serve(
            call,
            async move {
                let _parked = permit;
                if drops {
                    drop_privilege(&vfs, &answers, &cred, ino).await?;
                }
                vfs.write(&cred, fh, offset, &data, sync).await
            },
            move |out| {
                let taken = out.as_ref().copied().unwrap_or(0);
                written(reply, out);
                if past_pages && late_vfs.is_watched(fh) {
                    late_answers.wrote_past_pages(ino, offset, taken);
                }
            },
        );
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        let (vfs, cred, call) = self.call(req, "flush", ino);
        self.answers.known.heard_of(Ino(ino.0), Fh(fh.0));
        self.door.serve(call, async move { vfs.flush(&cred, Fh(fh.0), lock_owner.0).await }, done(reply));
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (vfs, cred, call) = self.call(req, "release", ino);
        self.answers.backings.released(Fh(fh.0));
        self.door.serve(call.unwatched(), async move { vfs.release(&cred, Fh(fh.0)).await }, done(reply));
    }

    fn fsync(&self, req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let (vfs, cred, call) = self.call(req, "fsync", ino);
        self.door.serve(call, async move { vfs.fsync(&cred, Fh(fh.0), datasync).await }, done(reply));
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, cred, call) = self.call(req, "opendir", ino);
        let mut flags = FopenFlags::empty();
        if self.config().readdir_cache {
            flags |= FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        }
        let (late_vfs, late_cred) = (vfs.clone(), cred.clone());
        self.door.serve_or(
            call,
            async move { vfs.opendir(&cred, Ino(ino.0)).await },
            move |out| match out {
                Ok(fh) => reply.opened(FileHandle(fh.0), flags),
                Err(errno) => reply.error(errno),
            },
            move |fh| async move {
                if let Err(err) = late_vfs.releasedir(&late_cred, fh).await {
                    tracing::debug!(%fh, "releasedir after an interrupted opendir: {err}");
                }
            },
        );
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.list(self.call(req, "readdir", ino), fh, offset, false, move |out| match out {
            Ok(entries) => {
                let full = |e: &cairn_vfs::DirEntry| {
                    reply.add(INodeNo(e.ino.0), e.next, kind_to_kernel(e.kind), OsStr::from_bytes(&e.name))
                };
                let fit = entries.iter().position(full).unwrap_or(entries.len());
                reply.ok();
                fit
            }
            Err(errno) => {
                reply.error(errno);
                0
            }
        });
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let answers = self.answers.clone();
        self.list(self.call(req, "readdir", ino), fh, offset, true, move |out| match out {
            Ok(entries) => {
                let full = |e: &cairn_vfs::DirEntry| {
                    let attr = e.attr.unwrap_or(cairn_types::Attr { kind: e.kind, ..Default::default() });
                    let ttl = answers.listed(e, &attr);
                    let attr = file_attr(e.ino, &attr);
                    reply.add(INodeNo(e.ino.0), e.next, OsStr::from_bytes(&e.name), &ttl, &attr, GENERATION)
                };
                let fit = entries.iter().position(full).unwrap_or(entries.len());
                reply.ok();
                fit
            }
            Err(errno) => {
                reply.error(errno);
                0
            }
        });
    }

    fn releasedir(&self, req: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let (vfs, cred, call) = self.call(req, "releasedir", ino);
        self.door.serve(call.unwatched(), async move { vfs.releasedir(&cred, Fh(fh.0)).await }, done(reply));
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (vfs, cred, call) = self.call(req, "fsyncdir", ino);
        self.door.serve(call, async move { vfs.fsyncdir(&cred, Fh(fh.0)).await }, done(reply));
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u64 = 4096;
        let (vfs, cred, call) = self.call(req, "statfs", ino);
        self.door.serve(call, async move { vfs.statfs(&cred, Ino(ino.0)).await }, move |out| match out {
            Ok(StatFs { total_bytes, avail_bytes, used_inodes, avail_inodes }) => {
                let (blocks, free) = (total_bytes / BLOCK, avail_bytes / BLOCK);
                let files = used_inodes.saturating_add(avail_inodes);
                reply.statfs(blocks, free, free, files, avail_inodes, BLOCK as u32, 255, BLOCK as u32);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        if !self.config().xattr_served() {
            return reply.error(Errno::ENOSYS);
        }
        if xattr::served(self.config(), name.as_bytes()) != Served::Yes {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let Some(mode) = convert::xattr_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (vfs, cred, call) = self.call(req, "setxattr", ino);
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        self.door.serve(call, async move { vfs.setxattr(&cred, Ino(ino.0), &name, &value, mode).await }, done(reply));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !self.config().xattr_served() {
            return reply.error(Errno::ENOSYS);
        }
        if let Some(errno) = xattr::absent(self.config(), name.as_bytes()) {
            return reply.error(errno);
        }
        let (vfs, cred, call) = self.call(req, "getxattr", ino);
        let name = name.as_bytes().to_vec();
        self.door.serve(call, async move { vfs.getxattr(&cred, Ino(ino.0), &name).await }, move |out| {
            xattr::answer(reply, size, out)
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if !self.config().xattr_served() {
            return reply.error(Errno::ENOSYS);
        }
        let (vfs, cred, call) = self.call(req, "listxattr", ino);
        let is_root = cred.is_root();
        let answers = self.answers.clone();
        self.door.serve(call, async move { vfs.listxattr(&cred, Ino(ino.0)).await }, move |out| {
            xattr::answer(reply, size, out.map(|names| xattr::joined(&answers.config, is_root, names)))
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if !self.config().xattr_served() {
            return reply.error(Errno::ENOSYS);
        }
        if let Some(errno) = xattr::absent(self.config(), name.as_bytes()) {
            return reply.error(errno);
        }
        let (vfs, cred, call) = self.call(req, "removexattr", ino);
        let name = name.as_bytes().to_vec();
        self.door.serve(call, async move { vfs.removexattr(&cred, Ino(ino.0), &name).await }, done(reply));
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let (vfs, cred, call) = self.call(req, "access", ino);
        let mask = (mask.bits() & 7) as u16;
        self.door.serve(call, async move { vfs.access(&cred, Ino(ino.0), mask).await }, done(reply));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (vfs, cred, call) = self.call(req, "create", parent);
        let (answers, name) = (self.answers.clone(), name.as_bytes().to_vec());
        let node = self.node(NewNode::file((mode & 0o7777) as u16), umask);
        let (how, exclusive) = (convert::open_flags(flags, self.extra), flags & libc::O_EXCL != 0);
        let drops = raw::create_drops_privilege(req);
        let (late_vfs, late_cred, op_answers) = (vfs.clone(), cred.clone(), answers.clone());
        let told = vfs.clone();
        self.door.serve_or(
            call,
            async move {
                let (ino, opened) = vfs.create(&cred, Ino(parent.0), &name, node, how, exclusive).await?;
                if drops
                    && !opened.created
                    && op_answers.known.is_privileged(ino)
                    && let Err(error) = drop_privilege(&vfs, &op_answers, &cred, ino).await
                {
                    give_back(vfs, cred, opened.fh).await;
                    return Err(error);
                }
                Ok((ino, opened))
            },
            move |out| match out {
                Ok((ino, opened)) => {
                    if opened.image.is_some() {
                        told.not_passed(opened.fh);
                    }
                    let ttl = answers.entry_and_attr(ino, &opened.attr);
                    let (fh, attr) = (FileHandle(opened.fh.0), file_attr(ino, &opened.attr));
                    reply.created(&ttl, &attr, GENERATION, fh, answers.opened(ino, &opened));
                }
                Err(errno) => reply.error(errno),
            },
            move |(_, opened)| give_back(late_vfs, late_cred, opened.fh),
        );
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(range) = Self::lock_range(start, end, typ, pid) else { return reply.error(Errno::EINVAL) };
        let (vfs, cred, call) = self.call(req, "getlk", ino);
        self.door.serve(
            call,
            async move { vfs.getlk(&cred, Fh(fh.0), lock_owner.0, range).await },
            move |out| match out {
                Ok(None) => reply.locked(0, 0, libc::F_UNLCK, 0),
                Ok(Some(LockRange { kind, start, end, pid })) => {
                    let typ = match kind {
                        Some(FlockKind::Read) => libc::F_RDLCK,
                        Some(FlockKind::Write) => libc::F_WRLCK,
                        None => libc::F_UNLCK,
                    };
                    reply.locked(start, end.min(i64::MAX as u64), typ, pid);
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let Some(range) = Self::lock_range(start, end, typ, pid) else { return reply.error(Errno::EINVAL) };
        let flock = raw::is_flock(req);
        let (vfs, cred, call) = self.call(req, if flock { "flock" } else { "setlk" }, ino);
        let (fh, owner, interrupted) = (Fh(fh.0), lock_owner.0, self.door.interrupted(req.pid()));
        let (answers, ino, granted) = (self.answers.clone(), Ino(ino.0), range.kind.is_some());
        // The wait for the lock ends by itself; a lock that was got is never told EINTR.
        self.door.serve(
            call.unwatched(),
            async move {
                if flock {
                    vfs.flock(&cred, fh, range.kind, sleep, interrupted).await
                } else {
                    vfs.setlk(&cred, fh, owner, range, sleep, interrupted).await
                }
            },
            move |out: Result<(), Errno>| {
                if granted && out.is_ok() {
                    answers.locked(ino);
                }
                done(reply)(out);
            },
        );
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        let ino = Ino(ino.0);
        if !self.config().enable_ioctl || Vfs::is_virtual(ino) {
            return reply.error(Errno::ENOTTY);
        }
        let ask = match ioctl::ask(cmd, in_data, out_size) {
            Ok(ask) => ask,
            Err(errno) => return reply.error(errno),
        };
        let (vfs, cred, call) = self.call(req, "ioctl", INodeNo(ino.0));
        self.door.serve(
            call,
            async move {
                let mut flags = vfs.getattr(&cred, ino).await?.flags;
                if let Some(new) = ask.applied_to(flags) {
                    let set = SetAttr { flags: Some(new), ..SetAttr::default() };
                    flags = vfs.setattr(&cred, ino, None, set, None).await?.flags;
                }
                Ok(ask.answer(flags))
            },
            move |out| match out {
                Ok(data) => reply.ioctl(0, &data),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel takes it from here: files are always ready.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (vfs, cred, call) = self.call(req, "fallocate", ino);
        let (answers, ino) = (self.answers.clone(), Ino(ino.0));
        let drops = req.uid() != 0 && answers.known.is_privileged(ino);
        self.door.serve(
            call,
            async move {
                let mode = FallocMode::from_bits(mode)?;
                if drops {
                    drop_privilege(&vfs, &answers, &cred, ino).await?;
                }
                vfs.fallocate(&cred, Fh(fh.0), mode, offset, length).await
            },
            done(reply),
        );
    }

    fn lseek(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let Some(whence) = convert::whence(whence) else { return reply.error(Errno::EINVAL) };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let (vfs, cred, call) = self.call(req, "lseek", ino);
        self.door.serve(call, async move { vfs.lseek(&cred, Fh(fh.0), offset, whence).await }, move |out| match out {
            Ok(offset) => reply.offset(offset as i64),
            Err(errno) => reply.error(errno),
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (vfs, cred, call) = self.call(req, "copy_file_range", ino_out);
        let (answers, ino_out, len) = (self.answers.clone(), Ino(ino_out.0), len.min(COPY_BYTES_MAX));
        let drops = req.uid() != 0 && answers.known.is_privileged(ino_out);
        self.door.serve(
            call,
            async move {
                if drops {
                    drop_privilege(&vfs, &answers, &cred, ino_out).await?;
                }
                let copied = vfs.copy_range(&cred, Fh(fh_in.0), offset_in, Fh(fh_out.0), offset_out, len).await?;
                Ok(copied.min(COPY_BYTES_MAX) as u32)
            },
            move |out| written(reply, out),
        );
    }
}
