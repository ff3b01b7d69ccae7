//! Does a step to the real thing and to the model, and compares what they say.

use std::collections::BTreeMap;

use cairn_meta::{Error as MetaError, SetTime};
use cairn_types::{FileType, Ino, Timestamp};
use cairn_vfs::{Cred, Error, Fh, NewNode, OpenFlags, SetAttr, Vfs, Whence};

use crate::model::{Id, ModelFs, ModelSet, NewModelNode, No, Node, ROOT};
use crate::observe::{list, observe};
use crate::step::{Slot, Step, pattern};

/// What a call returns, as far as the model can say.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// The step makes no sense here (no such slot), and is left out on both sides.
    Skipped,
    Done,
    Count(u64),
    Bytes(Vec<u8>),
    Names(Vec<Vec<u8>>),
    Stat(Stat),
    /// Checked against the model when it came back.
    Offset(u64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    kind: FileType,
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    length: Option<u64>,
    rdev: u32,
    mtime: Option<Timestamp>,
}

type Answer = Result<Outcome, No>;

#[derive(Clone, Copy, Debug)]
struct Open {
    id: Id,
    ino: Ino,
    fh: Fh,
    write: bool,
    append: bool,
}

/// A model and the handles that are open on both sides.
pub(crate) struct Runner {
    model: ModelFs,
    slots: BTreeMap<Slot, Open>,
    /// The store may fail: a call may then fail too, and must have changed nothing.
    may_fail: bool,
}

impl Runner {
    pub(crate) fn new(may_fail: bool) -> Runner {
        Runner { model: ModelFs::new(), slots: BTreeMap::new(), may_fail }
    }

    /// Does one step. What it returned, in words; or what was wrong.
    pub(crate) async fn step(&mut self, vfs: &Vfs, step: &Step) -> Result<String, String> {
        if let Step::Create { slot, .. } | Step::Open { slot, .. } | Step::Close { slot } = step {
            self.close(vfs, *slot).await?;
        }
        if self.is_senseless(step) {
            return Ok(describe(&Ok(Outcome::Skipped)));
        }
        let mut opened = None;
        let real = self.real(vfs, step, &mut opened).await.map_err(|e| no_of(&e));
        if real == Err(No::Trouble) && self.may_fail {
            if let Step::Write { sync: true, .. } = step {
                // The bytes were taken before their storing failed: they are kept, and not promised.
                drop(self.right(step, &real, None));
            }
            return Ok("trouble".into());
        }
        let right = self.right(step, &real, opened);
        let real = blur(real, &right);
        if real != right {
            return Err(format!("{}, not {}", describe(&real), describe(&right)));
        }
        Ok(describe(&real))
    }

    /// Compares everything that can be seen.
    pub(crate) async fn compare(&mut self, vfs: &Vfs) -> Result<String, String> {
        let seen = match observe(vfs).await {
            Ok(seen) => seen,
            Err(e) if no_of(&e) == No::Trouble && self.may_fail => return Ok("trouble".into()),
            Err(e) => return Err(format!("cannot be read: {e}")),
        };
        match self.model.seen().difference(&seen) {
            Some(difference) => Err(difference),
            None => Ok(format!("{} paths", seen.nodes.len())),
        }
    }

    /// Closes all handles.
    pub(crate) async fn close_all(&mut self, vfs: &Vfs) -> Result<(), String> {
        for slot in self.slots.keys().copied().collect::<Vec<_>>() {
            self.close(vfs, slot).await?;
        }
        Ok(())
    }

    /// The volume was closed in order.
    pub(crate) fn closed(&mut self) {
        self.slots.clear();
        self.model.all_synced();
    }

    /// The client died; what is left must keep every promise.
    pub(crate) async fn after_crash(&mut self, vfs: &Vfs, power_went: bool) -> Result<String, String> {
        self.slots.clear();
        let seen = observe(vfs).await.map_err(|e| format!("cannot be read after the crash: {e}"))?;
        self.model = self.model.after_crash(&seen, power_went).map_err(|e| format!("after the crash: {e}"))?;
        Ok(format!("{} paths survive", seen.nodes.len()))
    }

    async fn close(&mut self, vfs: &Vfs, slot: Slot) -> Result<(), String> {
        let Some(open) = self.slots.remove(&slot) else { return Ok(()) };
        let cred = Cred::root();
        let flushed = vfs.flush(&cred, open.fh, 0).await.map_err(|e| no_of(&e));
        let released = vfs.release(&cred, open.fh).await.map_err(|e| no_of(&e));
        self.model.close(open.id);
        for result in [flushed, released] {
            match result {
                Ok(()) => {}
                Err(No::Trouble) if self.may_fail => {}
                Err(e) => return Err(format!("close of slot {slot}: {e:?}")),
            }
        }
        Ok(())
    }

    // --- names on both sides

    fn parent_in_model<'p>(&self, path: &'p str) -> Result<(Id, &'p [u8]), No> {
        let (dirs, name) = split(path);
        let mut here = ROOT;
        for dir in dirs {
            here = self.model.lookup(here, dir.as_bytes())?;
            if self.model.node(here)?.kind != FileType::Directory {
                return Err(No::NotDirectory);
            }
        }
        Ok((here, name))
    }

    fn in_model(&self, path: &str) -> Result<Id, No> {
        let (dir, name) = self.parent_in_model(path)?;
        self.model.lookup(dir, name)
    }

    /// Calls that a kernel answers itself, or whose answer POSIX leaves open.
    fn is_senseless(&self, step: &Step) -> bool {
        let kind = |path: &str| self.in_model(path).ok().and_then(|id| self.model.node(id).ok()).map(|n| n.kind);
        let open = |slot: &Slot| self.slots.get(slot);
        match step {
            Step::Open { path, .. } | Step::Create { path, exclusive: false, .. } => {
                kind(path).is_some_and(|k| k != FileType::File)
            }
            Step::Truncate { path, .. } => kind(path).is_some_and(|k| k != FileType::File),
            Step::Readlink { path } => kind(path).is_some_and(|k| k != FileType::Symlink),
            Step::List { path } => kind(path).is_some_and(|k| k != FileType::Directory),
            Step::Chmod { path, .. } => kind(path) == Some(FileType::Symlink),
            Step::Read { slot, .. } | Step::Write { slot, .. } | Step::Fsync { slot } | Step::Seek { slot, .. } => {
                open(slot).is_none()
            }
            Step::TruncateOpen { slot, .. } | Step::Fallocate { slot, .. } => open(slot).is_none_or(|o| !o.write),
            Step::CopyRange { from, to, .. } => open(from).is_none() || open(to).is_none_or(|o| !o.write || o.append),
            Step::Close { .. } => true,
            _ => false,
        }
    }

    // --- the real thing

    async fn real(&self, vfs: &Vfs, step: &Step, opened: &mut Option<(Ino, Fh)>) -> Result<Outcome, Error> {
        let cred = &Cred::root();
        let done = |_| Outcome::Done;
        match step {
            Step::Make { path, kind, mode, by } => {
                let (dir, name) = parent(vfs, path).await?;
                let rdev = if matches!(kind, FileType::CharDevice | FileType::BlockDevice) { 0x103 } else { 0 };
                let node = NewNode { kind: *kind, mode: *mode, umask: 0o022, rdev, target: vec![] };
                vfs.mknod(&Cred::user(by.0, by.1), dir, name, node).await.map(|_| Outcome::Done)
            }
            Step::Symlink { path, target } => {
                let (dir, name) = parent(vfs, path).await?;
                vfs.mknod(cred, dir, name, NewNode::symlink(target.as_bytes())).await.map(|_| Outcome::Done)
            }
            Step::Create { path, exclusive, mode, .. } => {
                let (dir, name) = parent(vfs, path).await?;
                let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
                let made = vfs.create(cred, dir, name, NewNode::file(*mode), flags, *exclusive).await?;
                *opened = Some((made.0, made.1.fh));
                Ok(Outcome::Done)
            }
            Step::Open { path, write, append, truncate, .. } => {
                let ino = find(vfs, path).await?;
                let flags = OpenFlags {
                    read: true,
                    write: *write,
                    append: *append,
                    truncate: *truncate,
                    sync: false,
                    uncached: *write,
                };
                *opened = Some((ino, vfs.open(cred, ino, flags).await?.fh));
                Ok(Outcome::Done)
            }
            Step::Unlink { path } => {
                let (dir, name) = parent(vfs, path).await?;
                vfs.unlink(cred, dir, name).await.map(done)
            }
            Step::Rmdir { path } => {
                let (dir, name) = parent(vfs, path).await?;
                vfs.rmdir(cred, dir, name).await.map(done)
            }
            Step::Rename { from, to, mode } => {
                let (from, to) = (parent(vfs, from).await?, parent(vfs, to).await?);
                vfs.rename(cred, from.0, from.1, to.0, to.1, *mode).await.map(done)
            }
            Step::Link { from, to } => {
                let (ino, (dir, name)) = (find(vfs, from).await?, parent(vfs, to).await?);
                vfs.link(cred, ino, dir, name).await.map(|_| Outcome::Done)
            }
            Step::Readlink { path } => Ok(Outcome::Bytes(vfs.readlink(cred, find(vfs, path).await?).await?.to_vec())),
            Step::Stat { path } => {
                let attr = vfs.getattr(cred, find(vfs, path).await?).await?;
                Ok(Outcome::Stat(Stat {
                    kind: attr.kind,
                    mode: attr.mode,
                    uid: attr.uid,
                    gid: attr.gid,
                    nlink: attr.nlink,
                    length: (attr.kind == FileType::File).then_some(attr.length),
                    rdev: attr.rdev,
                    mtime: Some(attr.mtime),
                }))
            }
            Step::List { path } => {
                let mut names: Vec<_> = list(vfs, find(vfs, path).await?).await?.into_iter().map(|e| e.0).collect();
                names.sort();
                Ok(Outcome::Names(names))
            }
            Step::Truncate { path, length } => {
                let ino = find(vfs, path).await?;
                vfs.setattr(cred, ino, None, SetAttr::default(), Some(*length)).await.map(|_| Outcome::Done)
            }
            Step::Chmod { .. } | Step::Chown { .. } | Step::Utimens { .. } => real_setattr(vfs, step).await,
            Step::SetXattr { .. } | Step::GetXattr { .. } | Step::ListXattr { .. } | Step::RemoveXattr { .. } => {
                real_xattr(vfs, step).await
            }
            _ => self.real_on_handle(vfs, step).await,
        }
    }

    async fn real_on_handle(&self, vfs: &Vfs, step: &Step) -> Result<Outcome, Error> {
        let cred = &Cred::root();
        let fh = |slot: &Slot| self.slots[slot].fh;
        match step {
            Step::Read { slot, offset, len } => {
                Ok(Outcome::Bytes(vfs.read(cred, fh(slot), *offset, *len).await?.to_vec()))
            }
            Step::Write { slot, offset, len, fill, sync } => {
                let bytes = pattern(*fill, *offset, *len);
                let written = match vfs.write_now(cred, fh(slot), *offset, &bytes, *sync) {
                    Some(result) => result?,
                    None => vfs.write(cred, fh(slot), *offset, &bytes, *sync).await?,
                };
                Ok(Outcome::Count(written.into()))
            }
            Step::Fsync { slot } => vfs.fsync(cred, fh(slot), false).await.map(|()| Outcome::Done),
            Step::TruncateOpen { slot, length } => {
                let ino = self.slots[slot].ino;
                vfs.setattr(cred, ino, Some(fh(slot)), SetAttr::default(), Some(*length)).await.map(|_| Outcome::Done)
            }
            Step::Fallocate { slot, mode, offset, len } => {
                vfs.fallocate(cred, fh(slot), *mode, *offset, *len).await.map(|()| Outcome::Done)
            }
            Step::CopyRange { from, from_offset, to, to_offset, len } => {
                vfs.copy_range(cred, fh(from), *from_offset, fh(to), *to_offset, *len).await.map(Outcome::Count)
            }
            Step::Seek { slot, offset, whence } => {
                vfs.lseek(cred, fh(slot), *offset, *whence).await.map(Outcome::Offset)
            }
            other => unreachable!("{other:?} is not a call on a handle"),
        }
    }

    // --- the model

    fn right(&mut self, step: &Step, real: &Answer, opened: Option<(Ino, Fh)>) -> Answer {
        let done = |()| Outcome::Done;
        match step {
            Step::Make { path, kind, mode, by } => {
                let (dir, name) = self.parent_in_model(path)?;
                let rdev = if matches!(kind, FileType::CharDevice | FileType::BlockDevice) { 0x103 } else { 0 };
                let new = NewModelNode { kind: *kind, mode: *mode, umask: 0o022, rdev, target: vec![] };
                self.model.make(*by, dir, name, new).map(|_| Outcome::Done)
            }
            Step::Symlink { path, target } => {
                let (dir, name) = self.parent_in_model(path)?;
                let target = target.as_bytes().to_vec();
                let new = NewModelNode { kind: FileType::Symlink, mode: 0o777, umask: 0, rdev: 0, target };
                self.model.make((0, 0), dir, name, new).map(|_| Outcome::Done)
            }
            Step::Create { path, slot, exclusive, mode } => {
                let (dir, name) = self.parent_in_model(path)?;
                let new = NewModelNode { kind: FileType::File, mode: *mode, umask: 0, rdev: 0, target: vec![] };
                let id = match self.model.make((0, 0), dir, name, new) {
                    Err(No::Exists) if !exclusive => self.model.lookup(dir, name)?,
                    made => made?,
                };
                self.open(id, *slot, opened, true, false)
            }
            Step::Open { path, slot, write, append, truncate } => {
                let id = self.in_model(path)?;
                if *truncate {
                    self.model.truncate(id, 0)?;
                }
                self.open(id, *slot, opened, *write, *append)
            }
            Step::Unlink { path } => {
                let (dir, name) = self.parent_in_model(path)?;
                self.model.unlink(dir, name).map(done)
            }
            Step::Rmdir { path } => {
                let (dir, name) = self.parent_in_model(path)?;
                self.model.rmdir(dir, name).map(done)
            }
            Step::Rename { from, to, mode } => {
                let (from, to) = (self.parent_in_model(from)?, self.parent_in_model(to)?);
                self.model.rename(from, to, *mode).map(done)
            }
            Step::Link { from, to } => {
                let (id, (dir, name)) = (self.in_model(from)?, self.parent_in_model(to)?);
                self.model.link(id, dir, name).map(done)
            }
            Step::Readlink { path } => Ok(Outcome::Bytes(self.node_at(path)?.target.clone())),
            Step::Stat { path } => self.stat(path),
            Step::List { path } => Ok(Outcome::Names(self.node_at(path)?.entries.keys().cloned().collect())),
            Step::Truncate { path, length } => self.model.truncate(self.in_model(path)?, *length).map(done),
            Step::Chmod { path, mode } => self.set(path, ModelSet { mode: Some(*mode), ..ModelSet::default() }),
            Step::Chown { path, uid, gid } => {
                self.set(path, ModelSet { owner: Some((*uid, *gid)), ..ModelSet::default() })
            }
            Step::Utimens { path, secs, nanos } => {
                let mtime = Some(Timestamp { secs: *secs, nanos: *nanos });
                self.set(path, ModelSet { mtime, ..ModelSet::default() })
            }
            Step::SetXattr { path, name, bytes, mode } => {
                let value = pattern(3, 0, u32::from(*bytes));
                self.model.set_xattr(self.in_model(path)?, name.as_bytes(), &value, *mode).map(done)
            }
            Step::GetXattr { path, name } => {
                let value = self.node_at(path)?.xattrs.get(name.as_bytes());
                value.cloned().map(Outcome::Bytes).ok_or(No::NoAttribute)
            }
            Step::ListXattr { path } => Ok(Outcome::Names(self.node_at(path)?.xattrs.keys().cloned().collect())),
            Step::RemoveXattr { path, name } => {
                self.model.remove_xattr(self.in_model(path)?, name.as_bytes()).map(done)
            }
            _ => self.right_on_handle(step, real),
        }
    }

    fn right_on_handle(&mut self, step: &Step, real: &Answer) -> Answer {
        let done = |()| Outcome::Done;
        let id = |slot: &Slot| self.slots[slot].id;
        match step {
            Step::Read { slot, offset, len } => {
                Ok(Outcome::Bytes(self.model.content(id(slot)).read(*offset, u64::from(*len))))
            }
            Step::Write { slot, offset, len, fill, sync } => {
                let Open { id, write, append, .. } = self.slots[slot];
                if !write {
                    return Err(No::BadHandle);
                }
                let at = if append { self.model.content(id).len() } else { *offset };
                self.model.write(id, at, &pattern(*fill, *offset, *len))?;
                if *sync && real.is_ok() {
                    self.model.synced(id);
                }
                Ok(Outcome::Count(u64::from(*len)))
            }
            Step::Fsync { slot } => {
                self.model.synced(id(slot));
                Ok(Outcome::Done)
            }
            Step::TruncateOpen { slot, length } => self.model.truncate(id(slot), *length).map(done),
            Step::Fallocate { slot, mode, offset, len } => {
                self.model.fallocate(id(slot), *mode, *offset, *len).map(done)
            }
            Step::CopyRange { from, from_offset, to, to_offset, len } => {
                let (from, to) = ((id(from), *from_offset), (id(to), *to_offset));
                self.model.copy_range(from, to, *len).map(Outcome::Count)
            }
            Step::Seek { slot, offset, whence } => self.check_seek(id(slot), *offset, *whence, real),
            other => unreachable!("{other:?} is not a call on a handle"),
        }
    }

    fn open(&mut self, id: Id, slot: Slot, opened: Option<(Ino, Fh)>, write: bool, append: bool) -> Answer {
        self.model.open(id)?;
        // Without a handle the real side failed, and the answers differ anyway.
        if let Some((ino, fh)) = opened {
            self.slots.insert(slot, Open { id, ino, fh, write, append });
        }
        Ok(Outcome::Done)
    }

    fn node_at(&self, path: &str) -> Result<&Node, No> {
        self.model.node(self.in_model(path)?)
    }

    fn set(&mut self, path: &str, set: ModelSet) -> Answer {
        self.model.set_attr(self.in_model(path)?, set).map(|()| Outcome::Done)
    }

    fn stat(&self, path: &str) -> Answer {
        let id = self.in_model(path)?;
        let node = self.model.node(id)?;
        Ok(Outcome::Stat(Stat {
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            nlink: node.nlink,
            length: (node.kind == FileType::File).then(|| self.model.content(id).len()),
            rdev: node.rdev,
            mtime: node.mtime,
        }))
    }

    /// Written zeros may count as data or as a hole; other bytes are data.
    fn check_seek(&self, id: Id, offset: u64, whence: Whence, real: &Answer) -> Answer {
        let content = self.model.content(id);
        let is_zero = |from: u64, to: u64| {
            let pages = content.page_starts().filter(|p| p + 4096 > from && *p < to);
            pages
                .into_iter()
                .all(|p| content.read(p.max(from), (p + 4096).min(to) - p.max(from)).iter().all(|b| *b == 0))
        };
        let lawful = match (whence, real) {
            (_, Err(No::NoOffset)) if offset >= content.len() => true,
            (Whence::Data, Err(No::NoOffset)) => is_zero(offset, content.len()),
            (Whence::Data, Ok(Outcome::Offset(at))) => *at >= offset && *at < content.len() && is_zero(offset, *at),
            (Whence::Hole, Ok(Outcome::Offset(at))) => {
                *at >= offset && offset < content.len() && (*at == content.len() || content.read(*at, 1) == [0])
            }
            _ => false,
        };
        if lawful { real.clone() } else { Err(No::NoOffset) }
    }
}

/// What the model leaves open is taken from the real answer away.
fn blur(real: Answer, right: &Answer) -> Answer {
    match (real, right) {
        (Ok(Outcome::Stat(stat)), Ok(Outcome::Stat(Stat { mtime: None, .. }))) => {
            Ok(Outcome::Stat(Stat { mtime: None, ..stat }))
        }
        (real, _) => real,
    }
}

fn describe(answer: &Answer) -> String {
    match answer {
        Ok(Outcome::Bytes(bytes)) => {
            let sum =
                bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
            let zeros = bytes.iter().take_while(|b| **b == 0).count();
            format!("{} bytes {:?}… ({zeros} zeros first, sum {sum:x})", bytes.len(), &bytes[..bytes.len().min(8)])
        }
        Ok(Outcome::Names(names)) => {
            format!("{:?}", names.iter().map(|n| String::from_utf8_lossy(n)).collect::<Vec<_>>())
        }
        Ok(other) => format!("{other:?}"),
        Err(no) => format!("{no:?}"),
    }
}

async fn real_setattr(vfs: &Vfs, step: &Step) -> Result<Outcome, Error> {
    let (path, set) = match step {
        Step::Chmod { path, mode } => (path, SetAttr { mode: Some(*mode), ..SetAttr::default() }),
        Step::Chown { path, uid, gid } => (path, SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() }),
        Step::Utimens { path, secs, nanos } => {
            let time = Some(SetTime::At(Timestamp { secs: *secs, nanos: *nanos }));
            (path, SetAttr { atime: time, mtime: time, ..SetAttr::default() })
        }
        other => unreachable!("{other:?} sets no attribute"),
    };
    vfs.setattr(&Cred::root(), find(vfs, path).await?, None, set, None).await.map(|_| Outcome::Done)
}

async fn real_xattr(vfs: &Vfs, step: &Step) -> Result<Outcome, Error> {
    let cred = &Cred::root();
    match step {
        Step::SetXattr { path, name, bytes, mode } => {
            let value = pattern(3, 0, u32::from(*bytes));
            vfs.setxattr(cred, find(vfs, path).await?, name.as_bytes(), &value, *mode).await.map(|()| Outcome::Done)
        }
        Step::GetXattr { path, name } => {
            vfs.getxattr(cred, find(vfs, path).await?, name.as_bytes()).await.map(Outcome::Bytes)
        }
        Step::ListXattr { path } => {
            let mut names = vfs.listxattr(cred, find(vfs, path).await?).await?;
            names.sort();
            Ok(Outcome::Names(names))
        }
        Step::RemoveXattr { path, name } => {
            vfs.removexattr(cred, find(vfs, path).await?, name.as_bytes()).await.map(|()| Outcome::Done)
        }
        other => unreachable!("{other:?} is not about attributes"),
    }
}

fn split(path: &str) -> (Vec<&str>, &[u8]) {
    let mut names: Vec<&str> = path.split('/').collect();
    let name = names.pop().expect("split gives at least one part");
    (names, name.as_bytes())
}

/// As the kernel does it: a lookup for each name, and a look at the type before the next.
async fn parent<'p>(vfs: &Vfs, path: &'p str) -> Result<(Ino, &'p [u8]), Error> {
    let (dirs, name) = split(path);
    let mut here = Ino::ROOT;
    for dir in dirs {
        let (ino, attr) = vfs.lookup(&Cred::root(), here, dir.as_bytes()).await?;
        if attr.kind != FileType::Directory {
            return Err(Error::Meta(MetaError::NotDirectory));
        }
        here = ino;
    }
    Ok((here, name))
}

async fn find(vfs: &Vfs, path: &str) -> Result<Ino, Error> {
    let (dir, name) = parent(vfs, path).await?;
    Ok(vfs.lookup(&Cred::root(), dir, name).await?.0)
}

fn no_of(error: &Error) -> No {
    let Error::Meta(error) = error else {
        return if matches!(error, Error::BadHandle { .. }) { No::BadHandle } else { No::Trouble };
    };
    match error {
        MetaError::NoEntry => No::NoEntry,
        MetaError::Exists => No::Exists,
        MetaError::NotDirectory => No::NotDirectory,
        MetaError::IsDirectory => No::IsDirectory,
        MetaError::NotEmpty => No::NotEmpty,
        MetaError::NotPermitted => No::NotPermitted,
        MetaError::Invalid(_) => No::Invalid,
        MetaError::NameTooLong => No::NameTooLong,
        MetaError::TooLarge => No::TooLarge,
        MetaError::NoAttribute => No::NoAttribute,
        MetaError::NoOffset => No::NoOffset,
        MetaError::Pipe => No::Pipe,
        _ => No::Trouble,
    }
}
