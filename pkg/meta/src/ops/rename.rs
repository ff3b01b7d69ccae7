//! Names that move.

use cairn_types::{Attr, FileType, Flags, Ino};

use super::account::{self, Usage};
use super::remove::{REMOVED, Removed, check_may_remove, drop_directory, drop_name, trash_of};
use super::{attr, directory, touch};
use crate::changelog::{Escaped, log};
use crate::cred::{Cred, Want, check_name, check_new_name, existing_entry};
use crate::record::{DirStat, Entry};
use crate::txn::{AttrChange, Context, Op, Rely, Txn};
use crate::{Error, Result};

/// What to do about an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RenameMode {
    /// Replace it.
    #[default]
    Replace,
    /// Fail.
    NoReplace,
    /// Swap the two.
    Exchange,
}

/// Moves a name.
#[derive(Clone, Debug)]
pub struct Rename {
    /// Caller.
    pub cred: Cred,
    /// Directory it leaves.
    pub parent: Ino,
    /// Its name there.
    pub name: Vec<u8>,
    /// Directory it comes to.
    pub new_parent: Ino,
    /// Its name there.
    pub new_name: Vec<u8>,
    /// About an existing target.
    pub mode: RenameMode,
}

/// What a rename did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// What moved.
    pub ino: Ino,
    /// Its attributes now.
    pub attr: Attr,
    /// What was replaced, and its end.
    pub replaced: Option<Removed>,
    /// What came back, in an exchange.
    pub exchanged: Option<Ino>,
}

/// What moving an inode depends on.
const MOVED: Rely = Rely::KIND.and(Rely::PARENT).and(Rely::LENGTH);

/// One side of a rename.
struct Side {
    parent: Ino,
    dir: Attr,
    entry: Entry,
    attr: Attr,
}

impl Op for Rename {
    type Out = Renamed;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Renamed> {
        for name in [&self.name, &self.new_name] {
            if name == b"." || name == b".." {
                return Err(Error::Invalid("rename of . or .."));
            }
        }
        check_name(&self.name)?;
        check_new_name(&self.new_name)?;
        let source = self.source(tx)?;
        let new_dir = if self.new_parent == self.parent { source.dir } else { directory(tx, self.new_parent)? };
        self.check_target_dir(tx, &source, &new_dir)?;
        let target = tx.entry(self.new_parent, &self.new_name)?;
        match (target, self.mode) {
            (Some(_), RenameMode::NoReplace) => Err(Error::Exists),
            (None, RenameMode::Exchange) => Err(Error::NoEntry),
            (Some(t), _) if t.ino == source.entry.ino => {
                // Two names of one inode: POSIX says nothing happens.
                Ok(Renamed { ino: t.ino, attr: source.attr, replaced: None, exchanged: None })
            }
            (Some(t), RenameMode::Exchange) => self.exchange(cx, tx, source, new_dir, t),
            (target, _) => self.replace(cx, tx, source, new_dir, target),
        }
    }
}

impl Rename {
    fn source(&self, tx: &mut dyn Txn) -> Result<Side> {
        let dir = directory(tx, self.parent)?;
        let entry = existing_entry(tx, self.parent, &self.name)?;
        let attr = check_may_remove(tx, &self.cred, self.parent, &dir, entry.ino, MOVED)?.ok_or(Error::NoEntry)?;
        Ok(Side { parent: self.parent, dir, entry, attr })
    }

    fn check_target_dir(&self, tx: &mut dyn Txn, source: &Side, new_dir: &Attr) -> Result<()> {
        if self.new_parent.is_trash() {
            return Err(Error::NotPermitted);
        }
        if new_dir.parent.is_trash() {
            return Err(Error::NoEntry);
        }
        self.cred.require(tx, new_dir, Want::CHANGE_DIR)?;
        if new_dir.flags.has(Flags::IMMUTABLE) {
            return Err(Error::NotPermitted);
        }
        if source.attr.is_dir() {
            refuse_cycle(tx, source.entry.ino, self.new_parent)?;
            if self.mode != RenameMode::Exchange && self.new_parent != self.parent && new_dir.nlink >= crate::MAX_LINKS
            {
                return Err(Error::TooManyLinks);
            }
            // A directory that changes parents changes its own "..".
            if self.new_parent != self.parent {
                self.cred.require(tx, &source.attr, Want::WRITE)?;
            }
        }
        Ok(())
    }

    fn replace(
        &self,
        cx: &Context,
        tx: &mut dyn Txn,
        source: Side,
        new_dir: Attr,
        target: Option<Entry>,
    ) -> Result<Renamed> {
        let old = match target {
            Some(target) => {
                account::ensure_dir_stat(cx, tx, self.new_parent)?;
                self.check_replaceable(tx, &source, &new_dir, target)?
            }
            None => None,
        };
        tx.remove_entry(self.parent, &self.name)?;
        let moved = move_usage(tx, &source, self.new_parent)?;
        let replaced = match target {
            None => None,
            Some(target) => {
                tx.remove_entry(self.new_parent, &self.new_name)?;
                let drop = if target.kind == FileType::Directory { drop_directory } else { drop_name };
                Some(drop(cx, tx, (self.new_parent, &self.new_name), target, old, false)?)
            }
        };
        tx.insert_entry(self.new_parent, &self.new_name, source.entry)?;
        let attr = reparent(cx, tx, &source, self.new_parent)?;
        move_stats(cx, tx, &source, self.new_parent, moved)?;

        let dir_moves = source.attr.is_dir() && self.new_parent != self.parent;
        let dir_replaced = target.is_some_and(|t| t.kind == FileType::Directory);
        let nlink_new = i32::from(dir_moves) - i32::from(dir_replaced);
        self.touch_parents(cx, tx, &source.dir, &new_dir, -i32::from(dir_moves), nlink_new)?;
        let (gone, trash) = replaced.map_or((Ino(0), Ino(0)), |r| (r.ino, trash_of(r.fate)));
        self.log(cx, tx, source.entry.ino, gone, trash)?;
        Ok(Renamed { ino: source.entry.ino, attr, replaced, exchanged: None })
    }

    fn check_replaceable(
        &self,
        tx: &mut dyn Txn,
        source: &Side,
        new_dir: &Attr,
        target: Entry,
    ) -> Result<Option<Attr>> {
        let old = check_may_remove(tx, &self.cred, self.new_parent, new_dir, target.ino, REMOVED)?;
        match (source.entry.kind == FileType::Directory, target.kind == FileType::Directory) {
            (true, false) => Err(Error::NotDirectory),
            (false, true) => Err(Error::IsDirectory),
            (true, true) if !tx.dir_is_empty(target.ino)? => Err(Error::NotEmpty),
            _ => Ok(old),
        }
    }

    fn exchange(&self, cx: &Context, tx: &mut dyn Txn, source: Side, new_dir: Attr, target: Entry) -> Result<Renamed> {
        // What comes back would come into the trash, where nothing is put by hand.
        if self.parent.is_trash() || source.dir.parent.is_trash() {
            return Err(Error::NotPermitted);
        }
        let attr = check_may_remove(tx, &self.cred, self.new_parent, &new_dir, target.ino, MOVED)?;
        let attr = attr.ok_or(Error::NoEntry)?;
        let there = Side { parent: self.new_parent, dir: new_dir, entry: target, attr };
        if there.attr.is_dir() {
            refuse_cycle(tx, target.ino, self.parent)?;
            if self.new_parent != self.parent {
                self.cred.require(tx, &there.attr, Want::WRITE)?;
            }
        }
        let moved_there = move_usage(tx, &source, self.new_parent)?;
        let moved_here = move_usage(tx, &there, self.parent)?;
        if self.parent != self.new_parent {
            account::ensure_dir_stat(cx, tx, self.parent)?;
            account::ensure_dir_stat(cx, tx, self.new_parent)?;
        }
        tx.replace_entry(self.parent, &self.name, target)?;
        tx.replace_entry(self.new_parent, &self.new_name, source.entry)?;
        let new_attr = reparent(cx, tx, &source, self.new_parent)?;
        reparent(cx, tx, &there, self.parent)?;
        move_stats(cx, tx, &source, self.new_parent, moved_there)?;
        move_stats(cx, tx, &there, self.parent, moved_here)?;
        let shift = if self.parent == self.new_parent {
            0
        } else {
            i32::from(there.attr.is_dir()) - i32::from(source.attr.is_dir())
        };
        self.touch_parents(cx, tx, &source.dir, &there.dir, shift, -shift)?;
        self.log(cx, tx, source.entry.ino, target.ino, Ino(0))?;
        Ok(Renamed { ino: source.entry.ino, attr: new_attr, replaced: None, exchanged: Some(target.ino) })
    }

    /// Parents in ascending order, as everybody locks them.
    fn touch_parents(
        &self,
        cx: &Context,
        tx: &mut dyn Txn,
        old: &Attr,
        new: &Attr,
        old_links: i32,
        new_links: i32,
    ) -> Result<()> {
        let links = |nlink_add| AttrChange { nlink_add, ..Default::default() };
        if self.parent == self.new_parent {
            touch(cx, tx, self.parent, old, links(old_links + new_links))?;
            return Ok(());
        }
        let mut sides = [(self.parent, old, old_links), (self.new_parent, new, new_links)];
        sides.sort_by_key(|s| s.0);
        for (ino, attr, add) in sides {
            if !ino.is_trash() {
                touch(cx, tx, ino, attr, links(add))?;
            }
        }
        Ok(())
    }

    fn log(&self, cx: &Context, tx: &mut dyn Txn, ino: Ino, target: Ino, trash: Ino) -> Result<()> {
        let flags = match self.mode {
            RenameMode::Replace => 0,
            RenameMode::NoReplace => 1,
            RenameMode::Exchange => 2,
        };
        log(
            cx,
            tx,
            "MOVE",
            &[&self.parent, &Escaped(&self.name), &self.new_parent, &Escaped(&self.new_name), &flags, &target, &trash],
            Some(&ino),
        )
    }
}

/// A directory must not come to lie below itself. Relied on: every directory up to the root.
fn refuse_cycle(tx: &mut dyn Txn, moved: Ino, new_parent: Ino) -> Result<()> {
    let mut here = new_parent;
    for _ in 0..account::MAX_DEPTH {
        if here == moved {
            return Err(Error::Invalid("a directory cannot move below itself"));
        }
        if here == Ino::ROOT || here.is_trash() {
            return Ok(());
        }
        here = attr(tx, here, Rely::PARENT)?.parent;
    }
    Err(Error::Corrupt(format!("directory {new_parent} lies in a cycle")))
}

/// Moves usage between directory quotas; answers what one entry counts for.
fn move_usage(tx: &mut dyn Txn, side: &Side, to: Ino) -> Result<DirStat> {
    if side.parent != to && tx.any_dir_quota()? {
        let from_roots = if side.parent.is_trash() { vec![] } else { account::quota_roots(tx, side.parent)? };
        if from_roots != account::quota_roots(tx, to)? {
            let usage = account::tree_usage(tx, side.entry.ino, &side.attr)?;
            account::dir_quotas(tx, side.parent, Usage { space: -usage.space, inodes: -usage.inodes })?;
            account::dir_quotas(tx, to, usage)?;
        }
    }
    Ok(DirStat::of(&side.attr))
}

fn move_stats(cx: &Context, tx: &mut dyn Txn, side: &Side, to: Ino, stat: DirStat) -> Result<()> {
    if side.parent == to {
        return Ok(());
    }
    if side.parent.is_trash() && side.attr.is_dir() && cx.policy.dir_stats {
        // Removal took its own statistics away.
        let counted = account::count_entries(tx, side.entry.ino)?;
        tx.put_dir_stat(side.entry.ino, &counted)?;
    }
    account::dir_stat(cx, tx, side.parent, stat.negated())?;
    account::dir_stat(cx, tx, to, stat)
}

/// The moved inode's own record: ctime, and where it lies.
fn reparent(cx: &Context, tx: &mut dyn Txn, side: &Side, to: Ino) -> Result<Attr> {
    let mut change = AttrChange { ctime: Some(cx.now), ..Default::default() };
    if side.attr.parent.0 == 0 {
        if side.parent != to {
            tx.add_parent(side.entry.ino, side.parent, -1)?;
            tx.add_parent(side.entry.ino, to, 1)?;
        }
    } else {
        change.parent = Some(to);
    }
    tx.change_attr(side.entry.ino, &change)?;
    Ok(change.applied_to(&side.attr))
}
