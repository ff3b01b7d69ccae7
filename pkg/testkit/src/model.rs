//! A file system that is obviously right: maps in memory, no concurrency, no clock, no store.
//!
//! It says what every call must return and what a reader must see. It also remembers what a power
//! cut may bring back: everything since the last promise (see [`ModelFs::after_crash`]).
//!
//! Not here: permission bits (the kernel's), quotas, trash, locks. They have tests of their own.

mod content;
mod seen;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cairn_types::{FileType, Timestamp};
use cairn_vfs::{FallocMode, RenameMode, XattrMode};

pub use content::Content;
pub use seen::{Seen, SeenNode};

/// An inode of the model.
pub type Id = usize;

/// Why a call must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named like the conditions of cairn_meta::Error")]
pub enum No {
    NoEntry,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    NotPermitted,
    Invalid,
    NameTooLong,
    TooLarge,
    NoAttribute,
    NoOffset,
    BadHandle,
    Pipe,
    /// The store or the engine is in trouble; nothing a model can foresee.
    Trouble,
}

type Result<T> = std::result::Result<T, No>;

/// Largest length of a file.
const MAX_LENGTH: u64 = cairn_types::MAX_FILE_BYTES;

/// What an inode is, its content apart.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the fields of Attr")]
pub struct Node {
    pub kind: FileType,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub entries: BTreeMap<Vec<u8>, Id>,
    /// A modification time that somebody set and nothing has changed since.
    pub mtime: Option<Timestamp>,
}

/// All inodes at one moment.
type Nodes = BTreeMap<Id, Node>;

/// The file system.
#[derive(Clone, Debug)]
pub struct ModelFs {
    nodes: Nodes,
    opens: BTreeMap<Id, u32>,
    next: Id,
    /// States of the names since the last promise, oldest first; the present one is not among them.
    past: Vec<Nodes>,
    /// Contents since the last promise about each file, oldest first; the last is the present one.
    contents: BTreeMap<Id, Vec<Content>>,
}

impl Default for ModelFs {
    fn default() -> Self {
        ModelFs::new()
    }
}

/// The root directory.
pub const ROOT: Id = 1;

/// Who calls: user and group.
pub type Owner = (u32, u32);

impl ModelFs {
    /// An empty root directory, mode 0777, of root.
    pub fn new() -> ModelFs {
        let nodes = BTreeMap::from([(ROOT, node(FileType::Directory, 0o777, (0, 0)))]);
        ModelFs { nodes, opens: BTreeMap::new(), next: ROOT + 1, past: Vec::new(), contents: BTreeMap::new() }
    }

    /// What `name` in `dir` stands for.
    pub fn lookup(&self, dir: Id, name: &[u8]) -> Result<Id> {
        check_name(name)?;
        self.dir(dir)?.entries.get(name).copied().ok_or(No::NoEntry)
    }

    /// An inode; it may be unlinked as long as it is open.
    pub fn node(&self, id: Id) -> Result<&Node> {
        self.nodes.get(&id).ok_or(No::NoEntry)
    }

    /// Bytes of a file now.
    pub fn content(&self, id: Id) -> &Content {
        static EMPTY: Content = Content::EMPTY;
        self.contents.get(&id).and_then(|v| v.last()).unwrap_or(&EMPTY)
    }

    fn dir(&self, id: Id) -> Result<&Node> {
        let node = self.node(id)?;
        if node.kind == FileType::Directory { Ok(node) } else { Err(No::NotDirectory) }
    }

    fn file(&self, id: Id) -> Result<&Node> {
        let node = self.node(id)?;
        match node.kind {
            FileType::File => Ok(node),
            FileType::Directory => Err(No::IsDirectory),
            FileType::Fifo => Err(No::Pipe),
            _ => Err(No::NotPermitted),
        }
    }

    /// About to change names or attributes: the present state becomes part of the past.
    fn change(&mut self) -> &mut Nodes {
        self.past.push(self.nodes.clone());
        &mut self.nodes
    }

    // --- names

    /// Makes an inode.
    pub fn make(&mut self, by: Owner, dir: Id, name: &[u8], new: NewModelNode) -> Result<Id> {
        check_new_name(name)?;
        if new.kind == FileType::Symlink && new.target.is_empty() {
            return Err(No::NoEntry);
        }
        let parent = self.dir(dir)?;
        if parent.entries.contains_key(name) {
            return Err(No::Exists);
        }
        let setgid = parent.mode & 0o2000 != 0;
        let mut made = node(new.kind, new.mode & !new.umask & 0o7777, by);
        (made.rdev, made.target) = (new.rdev, new.target);
        if setgid {
            made.gid = parent.gid;
            if new.kind == FileType::Directory {
                made.mode |= 0o2000;
            } else if made.mode & 0o2010 == 0o2010 && by.0 != 0 && by.1 != parent.gid {
                // Nobody makes a file run as a group that is not his own.
                made.mode &= !0o2000;
            }
        }
        let id = self.next;
        self.next += 1;
        let nodes = self.change();
        let parent = nodes.get_mut(&dir).expect("it was just looked at");
        parent.entries.insert(name.to_vec(), id);
        parent.nlink += u32::from(made.kind == FileType::Directory);
        parent.mtime = None;
        nodes.insert(id, made);
        self.contents.insert(id, vec![Content::default()]);
        Ok(id)
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<()> {
        let id = self.lookup(dir, name)?;
        if self.node(id)?.kind == FileType::Directory {
            return Err(No::IsDirectory);
        }
        self.change();
        self.detach(dir, name);
        self.forget_if_gone(id);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<()> {
        if name == b"." || name == b".." {
            return Err(if name == b"." { No::Invalid } else { No::NotEmpty });
        }
        let id = self.lookup(dir, name)?;
        if !self.dir(id)?.entries.is_empty() {
            return Err(No::NotEmpty);
        }
        self.change();
        self.detach(dir, name);
        self.forget_if_gone(id);
        Ok(())
    }

    /// Gives `id` another name.
    pub fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<()> {
        check_new_name(name)?;
        let parent = self.dir(dir)?;
        let node = self.node(id)?;
        if node.kind == FileType::Directory {
            return Err(No::NotPermitted);
        }
        if node.nlink == 0 {
            return Err(No::NoEntry);
        }
        if parent.entries.contains_key(name) {
            return Err(No::Exists);
        }
        self.change();
        self.attach(dir, name, id);
        Ok(())
    }

    /// Moves a name.
    pub fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), mode: RenameMode) -> Result<()> {
        check_name(from.1)?;
        check_new_name(to.1)?;
        let id = self.lookup(from.0, from.1)?;
        self.dir(to.0)?;
        self.refuse_cycle(id, to.0)?;
        let target = self.dir(to.0)?.entries.get(to.1).copied();
        match (target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(No::Exists),
            (None, RenameMode::Exchange) => return Err(No::NoEntry),
            (Some(t), _) if t == id => return Ok(()),
            _ => {}
        }
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                self.refuse_cycle(target, from.0)?;
            } else {
                self.check_replaceable(id, target)?;
            }
        }
        self.change();
        self.detach(from.0, from.1);
        if let Some(target) = target {
            self.detach(to.0, to.1);
            if mode == RenameMode::Exchange {
                self.attach(from.0, from.1, target);
            } else {
                self.forget_if_gone(target);
            }
        }
        self.attach(to.0, to.1, id);
        Ok(())
    }

    fn check_replaceable(&self, id: Id, target: Id) -> Result<()> {
        let is_dir = |id| Ok(self.node(id)?.kind == FileType::Directory);
        match (is_dir(id)?, is_dir(target)?) {
            (true, false) => Err(No::NotDirectory),
            (false, true) => Err(No::IsDirectory),
            (true, true) if !self.dir(target)?.entries.is_empty() => Err(No::NotEmpty),
            _ => Ok(()),
        }
    }

    /// A directory must not come to lie below itself.
    fn refuse_cycle(&self, moved: Id, dir: Id) -> Result<()> {
        let below = |top: Id| {
            let mut all = vec![top];
            let mut next = 0;
            while next < all.len() {
                all.extend(self.nodes[&all[next]].entries.values());
                next += 1;
            }
            all
        };
        let is_dir = self.node(moved)?.kind == FileType::Directory;
        if is_dir && below(moved).contains(&dir) { Err(No::Invalid) } else { Ok(()) }
    }

    fn detach(&mut self, dir: Id, name: &[u8]) {
        let parent = self.nodes.get_mut(&dir).expect("callers looked at it");
        let id = parent.entries.remove(name).expect("callers looked it up");
        parent.mtime = None;
        let is_dir = self.nodes[&id].kind == FileType::Directory;
        self.nodes.get_mut(&dir).expect("still there").nlink -= u32::from(is_dir);
        if !is_dir {
            self.nodes.get_mut(&id).expect("names stand for inodes").nlink -= 1;
        }
    }

    fn attach(&mut self, dir: Id, name: &[u8], id: Id) {
        let is_dir = self.nodes[&id].kind == FileType::Directory;
        let parent = self.nodes.get_mut(&dir).expect("callers looked at it");
        parent.entries.insert(name.to_vec(), id);
        parent.nlink += u32::from(is_dir);
        parent.mtime = None;
        if !is_dir {
            self.nodes.get_mut(&id).expect("callers looked at it").nlink += 1;
        }
    }

    /// An inode without a name lives on while it is open.
    fn forget_if_gone(&mut self, id: Id) {
        let gone = self.nodes.get(&id).is_some_and(|n| n.kind == FileType::Directory || n.nlink == 0);
        if let Some(node) = self.nodes.get_mut(&id).filter(|_| gone) {
            node.xattrs.clear();
            if !self.opens.contains_key(&id) {
                self.nodes.remove(&id);
            }
        }
    }

    // --- attributes

    /// Changes permission bits, owner, group, modification time.
    pub fn set_attr(&mut self, id: Id, set: ModelSet) -> Result<()> {
        self.node(id)?;
        let node = self.change().get_mut(&id).expect("it was just looked at");
        if let Some((uid, gid)) = set.owner {
            (node.uid, node.gid) = (uid, gid);
            if node.kind != FileType::Directory {
                node.mode &= !0o4000;
                if node.mode & 0o010 != 0 {
                    node.mode &= !0o2000;
                }
            }
        }
        if let Some(mode) = set.mode {
            node.mode = mode & 0o7777;
        }
        if set.mtime.is_some() {
            node.mtime = set.mtime;
        }
        Ok(())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let exists = self.node(id)?.xattrs.contains_key(name);
        match mode {
            XattrMode::Create if exists => return Err(No::Exists),
            XattrMode::Replace if !exists => return Err(No::NoAttribute),
            _ => {}
        }
        let node = self.change().get_mut(&id).expect("it was just looked at");
        node.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    /// Removes one.
    pub fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Result<()> {
        if !self.node(id)?.xattrs.contains_key(name) {
            return Err(No::NoAttribute);
        }
        self.change().get_mut(&id).expect("it was just looked at").xattrs.remove(name);
        Ok(())
    }

    // --- content

    /// Counts an open.
    pub fn open(&mut self, id: Id) -> Result<()> {
        match self.node(id)?.kind {
            FileType::File => {}
            FileType::Directory => return Err(No::IsDirectory),
            _ => return Err(No::NotPermitted),
        }
        *self.opens.entry(id).or_default() += 1;
        Ok(())
    }

    /// Takes an open back.
    pub fn close(&mut self, id: Id) {
        let left = self.opens.get_mut(&id).map_or(0, |n| {
            *n -= 1;
            *n
        });
        if left == 0 {
            self.opens.remove(&id);
            self.forget_if_gone(id);
        }
    }

    fn edit(&mut self, id: Id, change: impl FnOnce(&mut Content)) -> Result<()> {
        self.file(id)?;
        let versions = self.contents.entry(id).or_insert_with(|| vec![Content::default()]);
        let mut new = versions.last().expect("never empty").clone();
        change(&mut new);
        versions.push(new);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.mtime = None;
        }
        Ok(())
    }

    /// Puts bytes at an offset.
    pub fn write(&mut self, id: Id, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset.saturating_add(bytes.len() as u64) > MAX_LENGTH {
            return Err(No::TooLarge);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.edit(id, |c| c.write(offset, bytes))
    }

    /// Sets the length.
    pub fn truncate(&mut self, id: Id, length: u64) -> Result<()> {
        self.file(id)?;
        if length > MAX_LENGTH {
            return Err(No::TooLarge);
        }
        if self.content(id).len() == length {
            return Ok(());
        }
        self.edit(id, |c| c.resize(length))
    }

    /// fallocate(2).
    pub fn fallocate(&mut self, id: Id, mode: FallocMode, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Err(No::Invalid);
        }
        let end = offset.checked_add(len).filter(|&e| e <= MAX_LENGTH).ok_or(No::TooLarge)?;
        self.edit(id, |c| {
            if mode.punch_hole || mode.zero_range {
                c.zero(offset, len);
            }
            if !mode.keep_size && end > c.len() {
                c.resize(end);
            }
        })
    }

    /// copy_file_range(2); the bytes copied.
    pub fn copy_range(&mut self, from: (Id, u64), to: (Id, u64), len: u64) -> Result<u64> {
        self.file(from.0)?;
        self.file(to.0)?;
        let bytes = self.content(from.0).read(from.1, len);
        let copied = bytes.len() as u64;
        if copied == 0 {
            return Ok(0);
        }
        if to.1.saturating_add(copied) > MAX_LENGTH {
            return Err(No::TooLarge);
        }
        if from.0 == to.0 && from.1 < to.1 + copied && to.1 < from.1 + copied {
            return Err(No::Invalid);
        }
        self.edit(to.0, |c| c.write(to.1, &bytes))?;
        Ok(copied)
    }

    // --- promises

    /// A file was synced: its bytes are promised, and with them every name so far.
    pub fn synced(&mut self, id: Id) {
        self.past.clear();
        if let Some(versions) = self.contents.get_mut(&id) {
            versions.drain(..versions.len() - 1);
        }
        self.drop_unreachable();
    }

    /// Everything was synced: an orderly close.
    pub fn all_synced(&mut self) {
        self.past.clear();
        for versions in self.contents.values_mut() {
            versions.drain(..versions.len() - 1);
        }
        self.opens.clear();
        self.nodes.retain(|_, n| n.nlink > 0);
        self.drop_unreachable();
    }

    fn drop_unreachable(&mut self) {
        let nodes = &self.nodes;
        self.contents.retain(|id, _| nodes.contains_key(id));
    }

    /// What a reader sees now.
    pub fn seen(&self) -> Seen {
        Seen::of_model(&self.nodes, |id| self.content(id).clone())
    }

    /// The file system after a power cut that left what `seen` shows, if that keeps every promise:
    /// the names are those of one moment since the last promise, and each byte of a file is one
    /// that it had since that file's last promise. Otherwise what is broken. If only the process
    /// died (`power_went` is false), a later power cut may still take back what is seen now.
    pub fn after_crash(&self, seen: &Seen, power_went: bool) -> std::result::Result<ModelFs, String> {
        let mut complaint = String::new();
        for nodes in std::iter::once(&self.nodes).chain(self.past.iter().rev()) {
            let candidate = Seen::of_model(nodes, |_| Content::default());
            if let Some(difference) = candidate.difference_in_names(seen) {
                if complaint.is_empty() {
                    complaint = format!("names (against the newest of {} states): {difference}", self.past.len() + 1);
                }
                continue;
            }
            let mut after = self.adopt(nodes, seen)?;
            if !power_went {
                after.remember(self);
            }
            return Ok(after);
        }
        Err(complaint)
    }

    /// Everything that was possible before is still possible later.
    fn remember(&mut self, before: &ModelFs) {
        self.past = before.past.iter().chain([&before.nodes]).cloned().collect();
        for (id, versions) in &before.contents {
            let now = self.contents.remove(id);
            self.contents.insert(*id, versions.iter().cloned().chain(now.into_iter().flatten()).collect());
        }
    }

    fn adopt(&self, nodes: &Nodes, seen: &Seen) -> std::result::Result<ModelFs, String> {
        let mut contents = BTreeMap::new();
        for (path, id) in seen::walk(nodes) {
            let Some(found) = seen.nodes.get(&path).filter(|n| n.kind == FileType::File) else { continue };
            let versions = self.contents.get(&id).map_or(&[][..], Vec::as_slice);
            if let Some(at) = found.content.first_foreign_byte(versions) {
                return Err(format!(
                    "{}: byte {at} is none of the {} it had since its last fsync (length {}, was {:?})",
                    seen::show(&path),
                    versions.len(),
                    found.content.len(),
                    versions.iter().map(Content::len).collect::<Vec<_>>(),
                ));
            }
            contents.insert(id, vec![found.content.clone()]);
        }
        let mut nodes = nodes.clone();
        nodes.retain(|_, n| n.nlink > 0);
        // A content change that was lost takes the loss of a set time with it, and the other way round.
        nodes.values_mut().for_each(|n| n.mtime = None);
        Ok(ModelFs { nodes, opens: BTreeMap::new(), next: self.next, past: Vec::new(), contents })
    }
}

/// What to make.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named like the fields of NewNode")]
pub struct NewModelNode {
    pub kind: FileType,
    pub mode: u16,
    pub umask: u16,
    pub rdev: u32,
    pub target: Vec<u8>,
}

/// Attributes to set; absent ones stay.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "named like the fields of SetAttr")]
pub struct ModelSet {
    pub mode: Option<u16>,
    pub owner: Option<Owner>,
    pub mtime: Option<Timestamp>,
}

fn node(kind: FileType, mode: u16, (uid, gid): Owner) -> Node {
    let nlink = if kind == FileType::Directory { 2 } else { 1 };
    let (target, xattrs, entries) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    Node { kind, mode, uid, gid, nlink, rdev: 0, target, xattrs, entries, mtime: None }
}

fn check_name(name: &[u8]) -> Result<()> {
    match name {
        [] => Err(No::Invalid),
        _ if name.len() > 255 => Err(No::NameTooLong),
        _ => Ok(()),
    }
}

fn check_new_name(name: &[u8]) -> Result<()> {
    check_name(name)?;
    if name == b"." || name == b".." { Err(No::Exists) } else { Ok(()) }
}
