//! Directories looked at and mended one by one, and what `info` shows.

use cairn_meta::changelog::log;
use cairn_meta::invariants::{DirSums, Rules, Violation, check_directory, expected_dir_nlink};
use cairn_meta::record::{DirStat, FlockKind, LockOwner, NamedEntry, PlockRange, QuotaKey, QuotaKind};
use cairn_meta::txn::{AttrChange, Context, Counter, Op, Rely, Txn};
use cairn_meta::{Error, Result};
use cairn_types::{Attr, FileType, Ino};

/// Checks one directory by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DirCheck(pub(crate) Ino);

/// What [`DirCheck`] found.
#[derive(Debug, Default)]
pub(crate) struct DirChecked {
    pub(crate) broken: Vec<Violation>,
    /// Files, and directories whose attributes exist.
    pub(crate) files: Vec<Ino>,
    pub(crate) dirs: Vec<Ino>,
}

impl Op for DirCheck {
    type Out = DirChecked;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<DirChecked> {
        let attr = tx.attr(self.0, Rely::ALL)?.ok_or(Error::NoEntry)?;
        let rules = Rules::of(&cx.policy);
        let mut out = DirChecked::default();
        let DirChecked { broken, files, dirs } = &mut out;
        let mut visit = |named: &NamedEntry| match named.entry.kind {
            FileType::File if named.attr.is_some() => files.push(named.entry.ino),
            FileType::Directory if named.attr.is_some() => dirs.push(named.entry.ino),
            _ => {}
        };
        let sums = check_directory(tx, self.0, &attr, &mut visit, &mut |v| broken.push(v))?;
        if rules.dir_stats && self.0 != Ino::TRASH && sums.dangling == 0 {
            let (found, expected) = (tx.dir_stat(self.0)?, sums.stat);
            if found.unwrap_or_default() != expected {
                broken.push(Violation::DirStats { dir: self.0, found, expected });
            }
        }
        Ok(out)
    }
}

fn sums(tx: &mut dyn Txn, dir: Ino) -> Result<DirSums> {
    check_directory(tx, dir, &Attr::default(), &mut |_| {}, &mut |_| {})
}

/// Sets a directory's link count right; makes the directory's attributes anew if they are gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RepairDir {
    pub(crate) dir: Ino,
    /// Where its entry is.
    pub(crate) parent: Ino,
    /// Mode of attributes made anew.
    pub(crate) mode: u16,
}

impl Op for RepairDir {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        let nlink = expected_dir_nlink(self.dir, &sums(tx, self.dir)?);
        match tx.attr(self.dir, Rely::ALL)? {
            Some(attr) if !attr.is_dir() => return Err(Error::NotDirectory),
            Some(attr) => {
                let nlink_add = (i64::from(nlink) - i64::from(attr.nlink)) as i32;
                let parent = (attr.parent != self.parent).then_some(self.parent);
                tx.change_attr(self.dir, &AttrChange { nlink_add, parent, ctime: Some(cx.now), ..Default::default() })?;
            }
            None => self.make_anew(cx, tx, nlink)?,
        }
        log(cx, tx, "REPAIRDIR", &[&self.dir], None)
    }
}

impl RepairDir {
    fn make_anew(&self, cx: &Context, tx: &mut dyn Txn, nlink: u32) -> Result<()> {
        let attr = Attr {
            kind: FileType::Directory,
            mode: self.mode,
            atime: cx.now,
            mtime: cx.now,
            ctime: cx.now,
            nlink,
            length: 4096,
            parent: self.parent,
            ..Attr::default()
        };
        tx.insert_attr(self.dir, &attr)?;
        tx.add_counter(Counter::UsedSpace, attr.space() as i64)?;
        tx.add_counter(Counter::TotalInodes, 1)?;
        if cx.policy.user_group_quota {
            for kind in [QuotaKind::User, QuotaKind::Group] {
                tx.add_quota_used(QuotaKey { kind, id: 0 }, attr.space() as i64, 1)?;
            }
        }
        Ok(())
    }
}

/// Counts a directory's statistics anew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyncDirStat(pub(crate) Ino);

impl Op for SyncDirStat {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        if tx.attr(self.0, Rely::KIND)?.is_none_or(|a| !a.is_dir()) {
            return Err(Error::NotDirectory);
        }
        let stat = sums(tx, self.0)?.stat;
        tx.put_dir_stat(self.0, &stat)?;
        log(cx, tx, "DIRSTAT", &[&self.0, &stat.length, &stat.space, &stat.inodes], None)
    }
}

/// Puts a sum right that has drifted: adds what it lacks.
///
/// Adding is right whatever happened since the drift was measured: each change moves the sum and what
/// it sums up together.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MendSum {
    /// What the volume uses.
    Usage { space: i64, inodes: i64 },
    /// What a quota has counted.
    Quota { key: QuotaKey, space: i64, inodes: i64 },
    /// The next number to give out.
    Next { counter: Counter, by: i64 },
}

impl Op for MendSum {
    type Out = ();

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<()> {
        match *self {
            MendSum::Usage { space, inodes } => {
                tx.add_counter(Counter::UsedSpace, space)?;
                tx.add_counter(Counter::TotalInodes, inodes).map(drop)
            }
            MendSum::Quota { key, space, inodes } => tx.add_quota_used(key, space, inodes).map(drop),
            MendSum::Next { counter, by } => tx.add_counter(counter, by).map(drop),
        }
    }
}

/// A directory's statistics, if the volume keeps them and has some.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat(pub(crate) Ino);

impl Op for Stat {
    type Out = Option<DirStat>;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Option<DirStat>> {
        if !cx.policy.dir_stats {
            return Ok(None);
        }
        let stat = tx.dir_stat(self.0)?;
        // What cannot be true is worth a count.
        Ok(stat.filter(|s| s.length >= 0 && s.space >= 0 && s.inodes >= 0))
    }
}

/// All locks on an inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocksOf(pub(crate) Ino);

impl Op for LocksOf {
    type Out = (Vec<(LockOwner, FlockKind)>, Vec<(LockOwner, Vec<PlockRange>)>);

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Self::Out> {
        Ok((tx.flocks(self.0)?, tx.plocks(self.0)?))
    }
}
