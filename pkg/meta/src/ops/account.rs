//! Space and inodes: counters, limits, directory statistics, quotas.
//!
//! Usage counts every inode but the root and the trash root once, trash and sustained ones
//! included. Directory statistics count a directory's direct entries; directory quotas count all
//! below the directory, itself excluded, and nothing in the trash (volume format 6.8, 6.9).

use cairn_types::{Attr, Ino};

use crate::record::{DirStat, Quota, QuotaKey, QuotaKind};
use crate::txn::{Context, Counter, Rely, Txn};
use crate::{Error, Result};

/// Directories deeper than this are taken for a cycle.
pub(crate) const MAX_DEPTH: usize = 65_536;

/// A change of space in bytes and of inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) space: i64,
    pub(crate) inodes: i64,
}

impl Usage {
    pub(crate) fn of(attr: &Attr) -> Usage {
        Usage { space: attr.space() as i64, inodes: 1 }
    }

    pub(crate) fn negated(self) -> Usage {
        Usage { space: -self.space, inodes: -self.inodes }
    }

    fn is_zero(self) -> bool {
        self == Usage::default()
    }
}

/// Inodes that come into being or go away, or grow: the volume's counters, and the owner's.
pub(crate) fn volume(cx: &Context, tx: &mut dyn Txn, owner: &Attr, change: Usage) -> Result<()> {
    if change.is_zero() {
        return Ok(());
    }
    check_volume(cx, tx, change)?;
    add_to_volume(tx, change)?;
    owner_usage(cx, tx, owner.uid, owner.gid, change)
}

/// The same for what nobody asked for, like an hour directory: no limit stops it.
pub(crate) fn volume_without_limit(cx: &Context, tx: &mut dyn Txn, owner: &Attr, change: Usage) -> Result<()> {
    add_to_volume(tx, change)?;
    if cx.policy.user_group_quota {
        add_owner_usage(tx, QuotaKind::User, owner.uid, change)?;
        add_owner_usage(tx, QuotaKind::Group, owner.gid, change)?;
    }
    Ok(())
}

fn check_volume(cx: &Context, tx: &mut dyn Txn, change: Usage) -> Result<()> {
    for (limit, counter, add) in [
        (cx.policy.capacity, Counter::UsedSpace, change.space),
        (cx.policy.inodes, Counter::TotalInodes, change.inodes),
    ] {
        if limit > 0 && add > 0 && !tx.counter_room(counter, add, i64::try_from(limit).unwrap_or(i64::MAX))? {
            return Err(Error::NoSpace);
        }
    }
    Ok(())
}

fn add_to_volume(tx: &mut dyn Txn, change: Usage) -> Result<()> {
    tx.add_counter(Counter::UsedSpace, change.space)?;
    tx.add_counter(Counter::TotalInodes, change.inodes)
}

/// What a user and a group own.
pub(crate) fn owner_usage(cx: &Context, tx: &mut dyn Txn, uid: u32, gid: u32, change: Usage) -> Result<()> {
    if !cx.policy.user_group_quota {
        return Ok(());
    }
    for (kind, id) in [(QuotaKind::User, uid), (QuotaKind::Group, gid)] {
        if !tx.quota_room(QuotaKey { kind, id: u64::from(id) }, change.space, change.inodes)? {
            return Err(Error::Quota);
        }
        add_owner_usage(tx, kind, id, change)?;
    }
    Ok(())
}

/// An inode changed owners: only the user or group that did is asked for room.
pub(crate) fn owner_changed(cx: &Context, tx: &mut dyn Txn, old: &Attr, new: &Attr) -> Result<()> {
    if !cx.policy.user_group_quota {
        return Ok(());
    }
    let usage = Usage::of(old);
    for (kind, from, to) in [(QuotaKind::User, old.uid, new.uid), (QuotaKind::Group, old.gid, new.gid)] {
        if from == to {
            continue;
        }
        if !tx.quota_room(QuotaKey { kind, id: u64::from(to) }, usage.space, usage.inodes)? {
            return Err(Error::Quota);
        }
        add_owner_usage(tx, kind, from, usage.negated())?;
        add_owner_usage(tx, kind, to, usage)?;
    }
    Ok(())
}

/// Records are made on demand: they double as usage statistics.
fn add_owner_usage(tx: &mut dyn Txn, kind: QuotaKind, id: u32, Usage { space, inodes }: Usage) -> Result<()> {
    let key = QuotaKey { kind, id: u64::from(id) };
    if !tx.add_quota_used(key, space, inodes)? {
        tx.put_quota(key, &Quota { used_space: space, used_inodes: inodes, ..Quota::UNLIMITED })?;
    }
    Ok(())
}

/// Something below `dir` came, went or grew: the quotas of `dir` and of all directories above it.
pub(crate) fn dir_quotas(tx: &mut dyn Txn, dir: Ino, change: Usage) -> Result<()> {
    if change.is_zero() || dir.is_trash() || !tx.any_dir_quota()? {
        return Ok(());
    }
    for key in quota_roots(tx, dir)? {
        if !tx.quota_room(key, change.space, change.inodes)? {
            return Err(Error::Quota);
        }
        tx.add_quota_used(key, change.space, change.inodes)?;
    }
    Ok(())
}

/// The quotas that hold for entries of `dir`, innermost first.
pub(crate) fn quota_roots(tx: &mut dyn Txn, dir: Ino) -> Result<Vec<QuotaKey>> {
    let mut roots = Vec::new();
    let mut here = dir;
    for _ in 0..MAX_DEPTH {
        let key = QuotaKey { kind: QuotaKind::Dir, id: here.0 };
        if tx.has_quota(key)? {
            roots.push(key);
        }
        if here == Ino::ROOT || here.is_trash() {
            return Ok(roots);
        }
        here = match tx.attr(here, Rely::PARENT)? {
            Some(attr) => attr.parent,
            None => return Ok(roots),
        };
    }
    Err(Error::Corrupt(format!("directory {dir} lies in a cycle")))
}

/// A directory's direct entries changed. The statistics are recounted where they are missing, so
/// this comes after the change itself.
pub(crate) fn dir_stat(cx: &Context, tx: &mut dyn Txn, dir: Ino, change: DirStat) -> Result<()> {
    if !cx.policy.dir_stats || change == DirStat::default() || dir == Ino::TRASH || dir.0 == 0 {
        return Ok(());
    }
    if !tx.add_dir_stat(dir, &change)? {
        let counted = count_entries(tx, dir)?;
        tx.put_dir_stat(dir, &counted)?;
    }
    Ok(())
}

/// Makes missing statistics now: for operations that change a directory in steps, since a count
/// between two of them would be wrong.
pub(crate) fn ensure_dir_stat(cx: &Context, tx: &mut dyn Txn, dir: Ino) -> Result<()> {
    if cx.policy.dir_stats && dir != Ino::TRASH && !tx.has_dir_stat(dir)? {
        let counted = count_entries(tx, dir)?;
        tx.put_dir_stat(dir, &counted)?;
    }
    Ok(())
}

/// Statistics of a directory, counted entry by entry.
pub(crate) fn count_entries(tx: &mut dyn Txn, dir: Ino) -> Result<DirStat> {
    let mut total = DirStat::default();
    let mut after = Vec::new();
    loop {
        let page = tx.entries(dir, &after, COUNT_PAGE, true)?;
        for e in &page {
            total = total.plus(match &e.attr {
                Some(attr) => DirStat::of(attr),
                None => DirStat { length: 0, space: 4096, inodes: 1 },
            });
        }
        match page.last() {
            Some(last) if page.len() == COUNT_PAGE => after.clone_from(&last.name),
            _ => return Ok(total),
        }
    }
}

const COUNT_PAGE: usize = 1000;

/// A regular file's length is about to change: counters, the statistics and quotas of every parent.
pub(crate) fn resized(cx: &Context, tx: &mut dyn Txn, ino: Ino, old: &Attr, new_length: u64) -> Result<()> {
    let new = Attr { length: new_length, ..*old };
    let length = new.length as i64 - old.length as i64;
    let change = Usage { space: new.space() as i64 - old.space() as i64, inodes: 0 };
    volume(cx, tx, old, change)?;
    if old.nlink == 0 {
        return Ok(());
    }
    for (parent, names) in parents_of(tx, ino, old)? {
        let n = i64::from(names);
        dir_quotas(tx, parent, Usage { space: change.space * n, inodes: 0 })?;
        let grown = DirStat { length: length * n, space: change.space * n, inodes: 0 };
        if cx.policy.dir_stats && grown != DirStat::default() && !tx.add_dir_stat(parent, &grown)? {
            // A count still finds the old length.
            let counted = count_entries(tx, parent)?.plus(grown);
            tx.put_dir_stat(parent, &counted)?;
        }
    }
    Ok(())
}

/// The directories that hold an inode, with the number of names in each.
pub(crate) fn parents_of(tx: &mut dyn Txn, ino: Ino, attr: &Attr) -> Result<Vec<(Ino, u32)>> {
    if attr.parent.0 != 0 { Ok(vec![(attr.parent, 1)]) } else { tx.parents(ino) }
}

/// Everything at and below `ino`: what moves with it between quotas.
pub(crate) fn tree_usage(tx: &mut dyn Txn, ino: Ino, attr: &Attr) -> Result<Usage> {
    let mut total = Usage::of(attr);
    let mut dirs = if attr.is_dir() { vec![ino] } else { vec![] };
    while let Some(dir) = dirs.pop() {
        let mut after = Vec::new();
        loop {
            let page = tx.entries(dir, &after, COUNT_PAGE, true)?;
            for e in &page {
                let usage = e.attr.as_ref().map_or(Usage { space: 4096, inodes: 1 }, Usage::of);
                total = Usage { space: total.space + usage.space, inodes: total.inodes + usage.inodes };
                if e.attr.is_some_and(|a| a.is_dir()) {
                    dirs.push(e.entry.ino);
                }
            }
            match page.last() {
                Some(last) if page.len() == COUNT_PAGE => after.clone_from(&last.name),
                _ => break,
            }
        }
    }
    Ok(total)
}

/// An entry for `attr` appeared in (or, negated, left) `parent`: statistics and quotas of parents.
pub(crate) fn entry_added(cx: &Context, tx: &mut dyn Txn, parent: Ino, attr: &Attr) -> Result<()> {
    dir_quotas(tx, parent, Usage::of(attr))?;
    dir_stat(cx, tx, parent, DirStat::of(attr))
}

/// The opposite of [`entry_added`].
pub(crate) fn entry_removed(cx: &Context, tx: &mut dyn Txn, parent: Ino, attr: &Attr) -> Result<()> {
    dir_quotas(tx, parent, Usage::of(attr).negated())?;
    dir_stat(cx, tx, parent, DirStat::of(attr).negated())
}
