//! Names that go away, and what becomes of the inode (volume format 6.6).

use cairn_types::{Attr, FileType, Flags, Ino};

use super::account::{self, Usage};
use super::{directory, touch, trash};
use crate::changelog::{Escaped, log};
use crate::cred::{Cred, Want, existing_entry};
use crate::record::{DeletedFile, DirStat, Entry, QuotaKey, QuotaKind};
use crate::txn::{AttrChange, Context, Op, Rely, Txn};
use crate::{Error, Result};

/// What the end of an inode depends on, beside what [`check_may_remove`] looks at: what it counts
/// for, where its names are, how many it has.
pub(crate) const REMOVED: Rely = Rely::KIND.and(Rely::LENGTH).and(Rely::PARENT).and(Rely::NLINK);

/// Removes a name that is not a directory's.
#[derive(Clone, Debug)]
pub struct Unlink {
    /// Caller.
    pub cred: Cred,
    /// Directory.
    pub parent: Ino,
    /// Name.
    pub name: Vec<u8>,
    /// Never to the trash.
    pub skip_trash: bool,
}

/// What became of the inode of a removed name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The inode.
    pub ino: Ino,
    /// Its attributes now; the last ones if it is gone.
    pub attr: Attr,
    /// How it ended.
    pub fate: Fate,
}

/// How an inode ends that lost a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Moved to an hour directory of the trash.
    Trashed(Ino),
    /// Other names remain.
    Linked,
    /// No name is left, but this client has it open.
    Sustained,
    /// A file whose chunks are to be deleted.
    Deleted(DeletedFile),
    /// Gone without anything left to do.
    Gone,
}

impl Op for Unlink {
    type Out = Removed;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Removed> {
        let parent = directory(tx, self.parent)?;
        let entry = existing_entry(tx, self.parent, &self.name)?;
        if entry.kind == FileType::Directory {
            return Err(Error::IsDirectory);
        }
        let old = check_may_remove(tx, &self.cred, self.parent, &parent, entry.ino, REMOVED)?;
        tx.remove_entry(self.parent, &self.name)?;
        let touched = !self.parent.is_trash() && touch(cx, tx, self.parent, &parent, AttrChange::default())?;
        let removed = drop_name(cx, tx, (self.parent, &self.name), entry, old, self.skip_trash)?;
        let (trash, opened) = (trash_of(removed.fate), removed.fate == Fate::Sustained);
        log(cx, tx, "UNLINK", &[&self.parent, &Escaped(&self.name), &trash, &opened, &touched], Some(&entry.ino))?;
        Ok(removed)
    }
}

/// The hour directory a removed inode went to, 0 for none: as the change log says it.
pub(crate) fn trash_of(fate: Fate) -> Ino {
    match fate {
        Fate::Trashed(hour) => hour,
        _ => Ino(0),
    }
}

/// Permissions, flags and the sticky rule for taking a name out of `dir`. Answers the victim's
/// attributes, of which `rely` is relied on too. A dangling entry, which has none, may go.
pub(crate) fn check_may_remove(
    tx: &mut dyn Txn,
    cred: &Cred,
    parent: Ino,
    dir: &Attr,
    victim: Ino,
    rely: Rely,
) -> Result<Option<Attr>> {
    if parent == Ino::TRASH || (parent.is_trash() && !cred.is_root()) {
        return Err(Error::NotPermitted);
    }
    cred.require(tx, dir, Want::CHANGE_DIR)?;
    if dir.flags.has_any(Flags::IMMUTABLE.with(Flags::APPEND)) {
        return Err(Error::NotPermitted);
    }
    let Some(victim) = tx.attr(victim, rely.and(Rely::PERMISSION).and(Rely::FLAGS))? else { return Ok(None) };
    cred.check_sticky(dir, &victim)?;
    if victim.flags.has_any(Flags::IMMUTABLE.with(Flags::APPEND)) {
        return Err(Error::NotPermitted);
    }
    Ok(Some(victim))
}

/// The entry is gone from `parent`: decides the fate of its inode and keeps the books.
///
/// Everything but the entry itself and the parent's own attributes happens here, for unlink and
/// for the target that a rename replaces.
pub(crate) fn drop_name(
    cx: &Context,
    tx: &mut dyn Txn,
    (parent, name): (Ino, &[u8]),
    entry: Entry,
    old: Option<Attr>,
    skip_trash: bool,
) -> Result<Removed> {
    let ino = entry.ino;
    let Some(old) = old else { return drop_dangling(cx, tx, parent, entry) };
    if trash::takes(cx, parent, &old, skip_trash)
        && let Some(removed) = move_to_trash(cx, tx, parent, name, entry, &old)?
    {
        return Ok(removed);
    }
    account::entry_removed(cx, tx, parent, &old)?;
    if old.nlink > 1 {
        let change = AttrChange { nlink_add: -1, ctime: Some(cx.now), ..Default::default() };
        tx.change_attr(ino, &change)?;
        if old.parent.0 == 0 {
            tx.add_parent(ino, parent, -1)?;
        }
        return Ok(Removed { ino, attr: change.applied_to(&old), fate: Fate::Linked });
    }
    delete_inode(cx, tx, ino, &old)
}

/// An entry whose inode does not exist: nothing else to do.
fn drop_dangling(cx: &Context, tx: &mut dyn Txn, parent: Ino, entry: Entry) -> Result<Removed> {
    account::dir_stat(cx, tx, parent, DirStat { length: 0, space: -4096, inodes: -1 })?;
    Ok(Removed { ino: entry.ino, attr: Attr { kind: entry.kind, ..Attr::default() }, fate: Fate::Gone })
}

fn move_to_trash(
    cx: &Context,
    tx: &mut dyn Txn,
    parent: Ino,
    name: &[u8],
    entry: Entry,
    old: &Attr,
) -> Result<Option<Removed>> {
    let Some(hour) = trash::hour_directory(cx, tx)? else { return Ok(None) };
    let trash_name = trash::entry_name(parent, entry.ino, name);
    if tx.entry(hour, &trash_name)?.is_some() {
        // Removed under this name within the hour already: only hard links come here.
        return Ok(None);
    }
    let ino = entry.ino;
    tx.insert_entry(hour, &trash_name, entry)?;
    let mut change = AttrChange { ctime: Some(cx.now), ..Default::default() };
    if old.parent.0 == 0 {
        tx.add_parent(ino, hour, 1)?;
        tx.add_parent(ino, parent, -1)?;
    } else {
        change.parent = Some(hour);
    }
    tx.change_attr(ino, &change)?;
    account::entry_removed(cx, tx, parent, old)?;
    account::dir_stat(cx, tx, hour, DirStat::of(old))?;
    Ok(Some(Removed { ino, attr: change.applied_to(old), fate: Fate::Trashed(hour) }))
}

/// The last name is gone: the inode follows, unless this client has the file open.
fn delete_inode(cx: &Context, tx: &mut dyn Txn, ino: Ino, old: &Attr) -> Result<Removed> {
    tx.remove_xattrs(ino)?;
    if old.parent.0 == 0 {
        tx.remove_parents(ino)?;
    }
    if old.kind == FileType::Symlink {
        tx.remove_symlink(ino)?;
    }
    if old.is_file()
        && let Some(sid) = cx.sid
        && cx.claim_for_removal(ino)
    {
        let change = AttrChange { nlink_add: -(old.nlink as i32), ctime: Some(cx.now), ..Default::default() };
        tx.change_attr(ino, &change)?;
        tx.insert_sustained(sid, ino)?;
        return Ok(Removed { ino, attr: change.applied_to(old), fate: Fate::Sustained });
    }
    let fate = forget_inode(cx, tx, ino, old)?;
    Ok(Removed { ino, attr: Attr { nlink: 0, ctime: cx.now, ..*old }, fate })
}

/// Removes the attributes and the usage; a file's data is left to be deleted.
fn forget_inode(cx: &Context, tx: &mut dyn Txn, ino: Ino, old: &Attr) -> Result<Fate> {
    tx.remove_attr(ino)?;
    account::volume(cx, tx, old, Usage::of(old).negated())?;
    if !old.is_file() {
        return Ok(Fate::Gone);
    }
    let file = DeletedFile { ino, length: old.length, deleted_secs: cx.now.secs };
    tx.insert_deleted_file(&file)?;
    Ok(Fate::Deleted(file))
}

/// Lets go of an unlinked inode: after the last close, or when its session is dead.
#[derive(Clone, Debug)]
pub struct ReleaseSustained {
    /// Session that kept it.
    pub sid: cairn_types::SessionId,
    /// The inode.
    pub ino: Ino,
}

impl Op for ReleaseSustained {
    type Out = Option<DeletedFile>;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Option<DeletedFile>> {
        if !tx.remove_sustained(self.sid, self.ino)? {
            return Ok(None);
        }
        let Some(old) = tx.attr(self.ino, REMOVED.and(Rely::PERMISSION))? else { return Ok(None) };
        if old.nlink > 0 {
            return Ok(None);
        }
        let fate = forget_inode(cx, tx, self.ino, &old)?;
        log(cx, tx, "DELSUSTAINED", &[&self.sid, &self.ino], None)?;
        Ok(match fate {
            Fate::Deleted(file) => Some(file),
            _ => None,
        })
    }
}

/// Removes an empty directory.
#[derive(Clone, Debug)]
pub struct Rmdir {
    /// Caller.
    pub cred: Cred,
    /// Directory that holds it.
    pub parent: Ino,
    /// Name.
    pub name: Vec<u8>,
    /// Never to the trash.
    pub skip_trash: bool,
}

impl Op for Rmdir {
    type Out = Removed;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Removed> {
        match self.name.as_slice() {
            b"." => return Err(Error::Invalid("rmdir of .")),
            b".." => return Err(Error::NotEmpty),
            _ => {}
        }
        let parent = directory(tx, self.parent)?;
        let entry = existing_entry(tx, self.parent, &self.name)?;
        if entry.kind != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        let old = check_may_remove(tx, &self.cred, self.parent, &parent, entry.ino, REMOVED)?;
        if !tx.dir_is_empty(entry.ino)? {
            return Err(Error::NotEmpty);
        }
        tx.remove_entry(self.parent, &self.name)?;
        if !self.parent.is_trash() {
            touch(cx, tx, self.parent, &parent, AttrChange { nlink_add: -1, ..Default::default() })?;
        }
        let removed = drop_directory(cx, tx, (self.parent, &self.name), entry, old, self.skip_trash)?;
        log(cx, tx, "RMDIR", &[&self.parent, &Escaped(&self.name), &trash_of(removed.fate)], Some(&entry.ino))?;
        Ok(removed)
    }
}

/// An empty directory's entry is gone from `parent`: to the trash with it, or away.
pub(crate) fn drop_directory(
    cx: &Context,
    tx: &mut dyn Txn,
    (parent, name): (Ino, &[u8]),
    entry: Entry,
    old: Option<Attr>,
    skip_trash: bool,
) -> Result<Removed> {
    let ino = entry.ino;
    if tx.any_dir_quota()? {
        tx.remove_quota(QuotaKey { kind: QuotaKind::Dir, id: ino.0 })?;
    }
    tx.remove_dir_stat(ino)?;
    let Some(old) = old else { return drop_dangling(cx, tx, parent, entry) };
    if trash::takes(cx, parent, &old, skip_trash)
        && let Some(removed) = move_to_trash(cx, tx, parent, name, entry, &old)?
    {
        return Ok(removed);
    }
    account::entry_removed(cx, tx, parent, &old)?;
    tx.remove_xattrs(ino)?;
    tx.remove_attr(ino)?;
    account::volume(cx, tx, &old, Usage::of(&old).negated())?;
    Ok(Removed { ino, attr: Attr { nlink: 0, ..old }, fate: Fate::Gone })
}
