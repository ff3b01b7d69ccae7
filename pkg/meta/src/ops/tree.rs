//! Questions about the tree: nothing here changes anything but `Format`.

use cairn_types::{Attr, ChunkIndex, FileType, Flags, Ino, SliceRecord};

use super::acl::{AclKind, rule_of};
use super::{attr, trash};
use crate::cred::{Cred, Want, check_name};
use crate::record::NamedEntry;
use crate::txn::{Context, Counter, Op, Rely, Txn};
use crate::{Error, Result};

/// What a name stands for.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Caller.
    pub cred: Cred,
    /// Directory.
    pub parent: Ino,
    /// Name; `.` and `..` work.
    pub name: Vec<u8>,
}

impl Op for Lookup {
    type Out = (Ino, Attr);

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<(Ino, Attr)> {
        check_name(&self.name)?;
        let ino = match self.name.as_slice() {
            b"." => self.parent,
            b".." => attr(tx, self.parent, Rely::PARENT)?.parent,
            name => {
                // Most lookups hit: the entry alone decides, and only a miss asks what the parent is.
                if self.cred.check {
                    let dir = attr(tx, self.parent, Rely::PERMISSION.and(Rely::KIND))?;
                    self.cred.require(tx, &dir, Want::EXEC)?;
                }
                match tx.entry(self.parent, name)? {
                    Some(entry) => entry.ino,
                    None => return Err(why_missing(tx, self.parent)?),
                }
            }
        };
        Ok((ino, attr(tx, ino, Rely::ALL)?))
    }
}

fn why_missing(tx: &mut dyn Txn, parent: Ino) -> Result<Error> {
    let dir = attr(tx, parent, Rely::KIND)?;
    Ok(if dir.is_dir() { Error::NoEntry } else { Error::NotDirectory })
}

/// An inode's attributes.
#[derive(Clone, Copy, Debug)]
pub struct GetAttr(pub Ino);

impl Op for GetAttr {
    type Out = Attr;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Attr> {
        attr(tx, self.0, Rely::ALL)
    }
}

/// Does the caller have these permissions?
#[derive(Clone, Debug)]
pub struct CheckAccess {
    /// Caller.
    pub cred: Cred,
    /// The inode.
    pub ino: Ino,
    /// Which.
    pub want: Want,
}

impl Op for CheckAccess {
    type Out = ();

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<()> {
        let attr = attr(tx, self.ino, Rely::PERMISSION.and(Rely::KIND))?;
        self.cred.permits(tx, &attr, self.want)
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// Emptied first.
    pub truncate: bool,
}

/// Checks that a file may be opened so.
#[derive(Clone, Debug)]
pub struct CheckOpen {
    /// Caller.
    pub cred: Cred,
    /// The file.
    pub ino: Ino,
    /// How.
    pub how: OpenHow,
}

impl Op for CheckOpen {
    type Out = Attr;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Attr> {
        let attr = attr(tx, self.ino, Rely::ALL)?;
        if attr.kind == FileType::Directory && self.how.write {
            return Err(Error::IsDirectory);
        }
        if self.how.write || self.how.truncate {
            if attr.flags.has(Flags::IMMUTABLE) || attr.parent.is_trash() {
                return Err(Error::NotPermitted);
            }
            if attr.flags.has(Flags::APPEND) && (!self.how.append || self.how.truncate) {
                return Err(Error::NotPermitted);
            }
            self.cred.require(tx, &attr, Want::WRITE)?;
        }
        if self.how.read {
            self.cred.require(tx, &attr, Want::READ)?;
        }
        Ok(attr)
    }
}

/// A page of a directory.
#[derive(Clone, Debug)]
pub struct ReadDir {
    /// Directory.
    pub dir: Ino,
    /// Names after this one; all if empty.
    pub after: Vec<u8>,
    /// At most this many.
    pub limit: usize,
    /// With attributes.
    pub plus: bool,
}

impl Op for ReadDir {
    type Out = Vec<NamedEntry>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<NamedEntry>> {
        tx.entries(self.dir, &self.after, self.limit, self.plus)
    }
}

/// A symlink's target.
#[derive(Clone, Copy, Debug)]
pub struct ReadLink(pub Ino);

impl Op for ReadLink {
    type Out = Vec<u8>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<u8>> {
        if let Some(target) = tx.symlink(self.0)? {
            return Ok(target);
        }
        let attr = attr(tx, self.0, Rely::KIND)?;
        match attr.kind {
            FileType::Symlink => Err(Error::Corrupt(format!("symlink {} has no target", self.0))),
            _ => Err(Error::Invalid("not a symlink")),
        }
    }
}

/// The directories that hold an inode.
#[derive(Clone, Copy, Debug)]
pub struct Parents(pub Ino);

impl Op for Parents {
    type Out = Vec<(Ino, u32)>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<(Ino, u32)>> {
        let attr = attr(tx, self.0, Rely::PARENT)?;
        super::account::parents_of(tx, self.0, &attr)
    }
}

/// A chunk's slice list.
#[derive(Clone, Copy, Debug)]
pub struct Slices {
    /// File.
    pub ino: Ino,
    /// Chunk.
    pub index: ChunkIndex,
}

impl Op for Slices {
    type Out = Vec<SliceRecord>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<SliceRecord>> {
        tx.slices(self.ino, self.index)
    }
}

/// Chunks of a file that have a list.
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    /// File.
    pub ino: Ino,
    /// From this one on.
    pub from: ChunkIndex,
    /// At most this many.
    pub limit: usize,
}

impl Op for Chunks {
    type Out = Vec<ChunkIndex>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<ChunkIndex>> {
        tx.chunks(self.ino, self.from, self.limit)
    }
}

/// One extended attribute, POSIX ACLs included.
#[derive(Clone, Debug)]
pub struct GetXattr {
    /// The inode.
    pub ino: Ino,
    /// Name.
    pub name: Vec<u8>,
}

impl Op for GetXattr {
    type Out = Vec<u8>;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Vec<u8>> {
        if let Some(kind) = AclKind::of_xattr(&self.name) {
            if !cx.policy.acl {
                return Err(Error::NotSupported);
            }
            return rule_of(tx, self.ino, kind)?.map(|r| r.to_xattr()).ok_or(Error::NoAttribute);
        }
        super::xattr::check_xattr_name(&self.name)?;
        match tx.xattr(self.ino, &self.name)? {
            Some(value) => Ok(value),
            None => attr(tx, self.ino, Rely::KIND).and(Err(Error::NoAttribute)),
        }
    }
}

/// Names of all extended attributes, POSIX ACLs included.
#[derive(Clone, Copy, Debug)]
pub struct ListXattr(pub Ino);

impl Op for ListXattr {
    type Out = Vec<Vec<u8>>;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Vec<Vec<u8>>> {
        let attr = attr(tx, self.0, Rely::PERMISSION)?;
        let mut names = tx.xattr_names(self.0)?;
        if cx.policy.acl {
            let acls = [AclKind::Access, AclKind::Default];
            names.extend(acls.into_iter().filter(|k| k.id(&attr) != 0).map(|k| k.xattr_name().to_vec()));
        }
        Ok(names)
    }
}

/// Bytes and inodes used.
#[derive(Clone, Copy, Debug)]
pub struct UsedTotals;

impl Op for UsedTotals {
    type Out = (i64, i64);

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<(i64, i64)> {
        Ok((tx.counter(Counter::UsedSpace)?, tx.counter(Counter::TotalInodes)?))
    }
}

/// All counters, by stored name.
#[derive(Clone, Copy, Debug)]
pub struct Counters;

impl Op for Counters {
    type Out = Vec<(&'static str, i64)>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<(&'static str, i64)>> {
        Counter::ALL.into_iter().map(|c| Ok((c.name(), tx.counter(c)?))).collect()
    }
}

/// The quotas that hold below a directory, innermost first.
#[derive(Clone, Copy, Debug)]
pub struct QuotasAbove(pub Ino);

impl Op for QuotasAbove {
    type Out = Vec<crate::record::Quota>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<crate::record::Quota>> {
        if !tx.any_dir_quota()? {
            return Ok(vec![]);
        }
        let roots = super::account::quota_roots(tx, self.0)?;
        roots.into_iter().filter_map(|key| tx.quota(key).transpose()).collect()
    }
}

/// The stored setting.
#[derive(Clone, Copy, Debug)]
pub struct GetSetting;

impl Op for GetSetting {
    type Out = Option<String>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Option<String>> {
        tx.setting()
    }
}

/// Stores the setting; makes the root, the trash and the counters of a new volume.
#[derive(Clone, Debug)]
pub struct PutSetting {
    /// The setting's text.
    pub json: String,
    /// The volume has a trash.
    pub trash: bool,
    /// Directory statistics are switched on now: old ones are no good.
    pub reset_dir_stats: bool,
}

impl Op for PutSetting {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        if tx.attr(Ino::ROOT, Rely::KIND)?.is_none() {
            let root = Attr { mode: 0o777, parent: Ino::ROOT, ..trash::trash_root(cx.now) };
            tx.insert_attr(Ino::ROOT, &root)?;
            for (counter, value) in [(Counter::NextInode, 2), (Counter::NextChunk, 1)] {
                tx.set_counter(counter, value)?;
            }
            for counter in [Counter::NextSession, Counter::UsedSpace, Counter::TotalInodes, Counter::NextCleanupSlices]
            {
                tx.set_counter(counter, 0)?;
            }
        }
        if self.trash && tx.attr(Ino::TRASH, Rely::KIND)?.is_none() {
            tx.insert_attr(Ino::TRASH, &trash::trash_root(cx.now))?;
        }
        if self.reset_dir_stats {
            let mut after = Ino(0);
            loop {
                let page = tx.scan_attrs(after, 1000)?;
                for (ino, _) in page.iter().filter(|(_, a)| a.is_dir()) {
                    tx.remove_dir_stat(*ino)?;
                }
                match page.last() {
                    Some((last, _)) if page.len() == 1000 => after = *last,
                    _ => break,
                }
            }
        }
        tx.put_setting(&self.json)
    }
}
