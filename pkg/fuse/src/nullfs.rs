//! The floor of a benchmark: a file system that does nothing, under the same mount settings.
//!
//! Names and lengths are kept in memory, content is not: reads return zeros. With a sink, whatever is
//! written also lands in a folder as files of 4 MiB, which is what any client of an object store has
//! to do at the least. Nothing here is durable, checked or shared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cairn_env::Env;
use cairn_types::{Attr, FileType, Ino, Timestamp};
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::{Mutex, RwLock};

use crate::config::Extra;
use crate::convert::{self, file_attr, kind_to_kernel};
use crate::session::{self, Mounted};
use crate::{Config, Result};

/// Bytes of a file in the sink.
const BLOCK_BYTES: usize = 4 << 20;
/// Longest answer to a read: what the kernel asks at most.
const ZEROS: &[u8] = &[0; 16 << 20];

/// A file system that does nothing.
pub struct NullFs {
    config: Config,
    extra: Extra,
    env: Env,
    sink: Option<PathBuf>,
    next_ino: AtomicU64,
    nodes: RwLock<HashMap<u64, Arc<Mutex<Node>>>>,
}

struct Node {
    attr: Attr,
    names: BTreeMap<Vec<u8>, u64>,
    target: Vec<u8>,
    /// The block that is being filled, and its index.
    block: Option<(u64, Vec<u8>)>,
}

/// Mounts a file system that does nothing; with `sink`, what is written lands there in files of 4 MiB.
///
/// # Errors
/// As [`crate::mount`].
pub fn mount(mountpoint: &Path, config: Config, sink: Option<PathBuf>) -> Result<Mounted> {
    let (session, extra) = config.session()?;
    session::start(NullFs::new(config, extra, sink), mountpoint, &session)
}

impl NullFs {
    fn new(config: Config, extra: Extra, sink: Option<PathBuf>) -> NullFs {
        let env = Env::real();
        let root = Node::new(new_attr(&env, FileType::Directory, 0o777, 0, 0));
        let nodes = RwLock::new(HashMap::from([(1, Arc::new(Mutex::new(root)))]));
        NullFs { config, extra, env, sink, next_ino: AtomicU64::new(2), nodes }
    }

    fn node(&self, ino: u64) -> std::result::Result<Arc<Mutex<Node>>, Errno> {
        self.nodes.read().get(&ino).cloned().ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: u64, name: &OsStr) -> std::result::Result<(u64, Attr), Errno> {
        let ino = *self.node(parent)?.lock().names.get(name.as_bytes()).ok_or(Errno::ENOENT)?;
        Ok((ino, self.node(ino)?.lock().attr))
    }

    fn make(
        &self,
        req: &Request,
        parent: u64,
        name: &OsStr,
        kind: FileType,
        mode: u32,
        target: &[u8],
    ) -> std::result::Result<(u64, Attr), Errno> {
        let dir = self.node(parent)?;
        let mut dir = dir.lock();
        if let Some(ino) = dir.names.get(name.as_bytes()) {
            return Ok((*ino, self.node(*ino)?.lock().attr));
        }
        let ino = self.next_ino.fetch_add(1, Ordering::Relaxed);
        let mut attr = new_attr(&self.env, kind, (mode & 0o7777) as u16, req.uid(), req.gid());
        attr.length = attr.length.max(target.len() as u64);
        let node = Node { target: target.to_vec(), ..Node::new(attr) };
        self.nodes.write().insert(ino, Arc::new(Mutex::new(node)));
        dir.names.insert(name.as_bytes().to_vec(), ino);
        Ok((ino, attr))
    }

    fn unname(&self, parent: u64, name: &OsStr) -> std::result::Result<(), Errno> {
        let ino = self.node(parent)?.lock().names.remove(name.as_bytes()).ok_or(Errno::ENOENT)?;
        self.nodes.write().remove(&ino);
        Ok(())
    }

    fn put(&self, ino: u64, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        let Ok(node) = self.node(ino) else { return Ok(()) };
        let mut node = node.lock();
        node.attr.length = node.attr.length.max(offset + data.len() as u64);
        node.attr.mtime = self.env.now().into();
        let Some(sink) = &self.sink else { return Ok(()) };
        while !data.is_empty() {
            let (index, at) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
            if node.block.as_ref().is_some_and(|(open, _)| *open != index) {
                node.store(sink, ino)?;
            }
            let take = data.len().min(BLOCK_BYTES - at);
            let (_, block) = node.block.get_or_insert_with(|| (index, Vec::with_capacity(BLOCK_BYTES)));
            if block.len() < at {
                block.resize(at, 0);
            }
            let over = take.min(block.len() - at);
            block[at..at + over].copy_from_slice(&data[..over]);
            block.extend_from_slice(&data[over..take]);
            if block.len() == BLOCK_BYTES {
                node.store(sink, ino)?;
            }
            (offset, data) = (offset + take as u64, &data[take..]);
        }
        Ok(())
    }

    fn store(&self, ino: u64) -> io::Result<()> {
        match (&self.sink, self.node(ino)) {
            (Some(sink), Ok(node)) => node.lock().store(sink, ino),
            _ => Ok(()),
        }
    }

    fn entry(&self, reply: ReplyEntry, out: std::result::Result<(u64, Attr), Errno>) {
        match out {
            Ok((ino, attr)) => {
                let entry_ttl = if attr.is_dir() { self.config.dir_entry_timeout } else { self.config.entry_timeout };
                reply.entry_with_ttls(
                    &self.config.attr_timeout,
                    &entry_ttl,
                    &file_attr(Ino(ino), &attr),
                    Generation(1),
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn attr(&self, reply: ReplyAttr, ino: u64) {
        match self.node(ino) {
            Ok(node) => reply.attr(&self.config.attr_timeout, &file_attr(Ino(ino), &node.lock().attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn listing(&self, ino: u64, offset: u64) -> Vec<(u64, u64, Vec<u8>, Attr)> {
        let Ok(node) = self.node(ino) else { return vec![] };
        let names: Vec<(Vec<u8>, u64)> = {
            let node = node.lock();
            let dots = [&b"."[..], b".."].map(|dots| (dots, ino));
            let named = node.names.iter().map(|(name, ino)| (name.as_slice(), *ino));
            let page = dots.into_iter().chain(named).skip(offset as usize).take(512);
            page.map(|(name, ino)| (name.to_vec(), ino)).collect()
        };
        let with_attr = |(n, (name, ino)): (usize, (Vec<u8>, u64))| {
            let attr = self.node(ino).map(|node| node.lock().attr).unwrap_or_default();
            (ino, offset + n as u64 + 1, name, attr)
        };
        names.into_iter().enumerate().map(with_attr).collect()
    }
}

impl Node {
    fn new(attr: Attr) -> Node {
        Node { attr, names: BTreeMap::new(), target: vec![], block: None }
    }

    fn store(&mut self, sink: &Path, ino: u64) -> io::Result<()> {
        match self.block.take() {
            Some((index, block)) => fs::write(sink.join(format!("{ino}_{index}")), block),
            None => Ok(()),
        }
    }
}

fn new_attr(env: &Env, kind: FileType, mode: u16, uid: u32, gid: u32) -> Attr {
    let now: Timestamp = env.now().into();
    let (nlink, length) = if kind == FileType::Directory { (2, 4096) } else { (1, 0) };
    Attr { kind, mode, uid, gid, nlink, length, atime: now, mtime: now, ctime: now, ..Attr::default() }
}

fn done(reply: ReplyEmpty, out: std::result::Result<(), Errno>) {
    match out {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for NullFs {
    fn init(&mut self, _req: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        session::negotiate(kernel, &self.config, self.extra);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, self.child(parent.0, name));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.attr(reply, ino.0);
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Ok(node) = self.node(ino.0) {
            let attr = &mut node.lock().attr;
            attr.mode = mode.map_or(attr.mode, |m| (m & 0o7777) as u16);
            (attr.uid, attr.gid) = (uid.unwrap_or(attr.uid), gid.unwrap_or(attr.gid));
            attr.length = size.unwrap_or(attr.length);
            if let Some(TimeOrNow::SpecificTime(t)) = mtime {
                attr.mtime = convert::given_time(t);
            }
        }
        self.attr(reply, ino.0);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino.0) {
            Ok(node) => reply.data(&node.lock().target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = convert::kind_of_mode(mode).unwrap_or(FileType::File);
        self.entry(reply, self.make(req, parent.0, name, kind, mode, &[]));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        self.entry(reply, self.make(req, parent.0, name, FileType::Directory, mode, &[]));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.unname(parent.0, name));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.unname(parent.0, name));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        self.entry(reply, self.make(req, parent.0, name, FileType::Symlink, 0o777, target));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let moved = || {
            let (from, to) = (self.node(parent.0)?, self.node(newparent.0)?);
            let ino = from.lock().names.remove(name.as_bytes()).ok_or(Errno::ENOENT)?;
            if let Some(old) = to.lock().names.insert(newname.as_bytes().to_vec(), ino) {
                self.nodes.write().remove(&old);
            }
            Ok(())
        };
        done(reply, moved());
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::empty());
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.node(ino.0) {
            Ok(node) => {
                let left = node.lock().attr.length.saturating_sub(offset);
                reply.data(&ZEROS[..left.min(u64::from(size)).min(ZEROS.len() as u64) as usize]);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.put(ino.0, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(err) => reply.error(err.into()),
        }
    }

    fn flush(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        done(reply, self.store(ino.0).map_err(Errno::from));
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        done(reply, self.store(ino.0).map_err(Errno::from));
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        for (ino, next, name, attr) in self.listing(ino.0, offset) {
            if reply.add(INodeNo(ino), next, kind_to_kernel(attr.kind), OsStr::from_bytes(&name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        for (ino, next, name, attr) in self.listing(ino.0, offset) {
            let (attr, ttl) = (file_attr(Ino(ino), &attr), self.config.attr_timeout);
            if reply.add(INodeNo(ino), next, OsStr::from_bytes(&name), &ttl, &attr, Generation(1)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 38;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.make(req, parent.0, name, FileType::File, mode, &[]);
        match made {
            Ok((ino, mut attr)) => {
                if flags & libc::O_TRUNC != 0
                    && let Ok(node) = self.node(ino)
                {
                    node.lock().attr.length = 0;
                    attr.length = 0;
                }
                let ttl: Duration = self.config.entry_timeout.min(self.config.attr_timeout);
                reply.created(&ttl, &file_attr(Ino(ino), &attr), Generation(1), FileHandle(1), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::config::tests::settings;

    #[test]
    fn written_bytes_land_in_the_sink_in_files_of_four_mebibytes() {
        let sink = tempfile::tempdir().unwrap();
        let null = NullFs::new(settings(), Extra::default(), Some(sink.path().into()));
        let node = Node::new(new_attr(&null.env, FileType::File, 0o644, 0, 0));
        null.nodes.write().insert(7, Arc::new(Mutex::new(node)));
        let data = vec![9u8; BLOCK_BYTES + 100];
        for (n, piece) in data.chunks(1 << 20).enumerate() {
            null.put(7, (n << 20) as u64, piece).unwrap();
        }
        null.store(7).unwrap();
        let bytes = |name: &str| fs::metadata(sink.path().join(name)).unwrap().len();
        assert_eq!((bytes("7_0"), bytes("7_1")), (BLOCK_BYTES as u64, 100));
    }

    /// Needs /dev/fuse and the right to mount.
    #[test]
    fn the_null_file_system_mounts_and_unmounts() {
        let (place, sink) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let Ok(mounted) = mount(place.path(), settings(), Some(sink.path().into())) else {
            return eprintln!("skipped: cannot mount here");
        };
        let path = place.path().join("a");
        fs::File::create(&path).unwrap().write_all(&[1; 5000]).unwrap();
        let mut back = vec![];
        fs::File::open(&path).unwrap().read_to_end(&mut back).unwrap();
        assert_eq!(back.len(), 5000);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(sink.path()).unwrap().count(), 1);
        mounted.unmount(false).unwrap();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(mounted.wait()).unwrap();
        assert_eq!(mounted.state(), crate::State::Ended);
    }
}
