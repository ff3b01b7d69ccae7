//! Hard links, and symlink targets.

use cairn_types::{Attr, Flags, Ino};

use super::{account, attr, directory, touch};
use crate::changelog::{Escaped, log};
use crate::cred::{Cred, Want, check_new_name, refuse_trash};
use crate::record::Entry;
use crate::txn::{AttrChange, Context, Op, Rely, Txn};
use crate::{Error, MAX_LINKS, Result};

/// Gives an inode another name.
#[derive(Clone, Debug)]
pub struct Link {
    /// Caller.
    pub cred: Cred,
    /// The inode.
    pub ino: Ino,
    /// Directory of the new name.
    pub parent: Ino,
    /// The new name.
    pub name: Vec<u8>,
}

impl Op for Link {
    type Out = Attr;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Attr> {
        check_new_name(&self.name)?;
        refuse_trash(self.parent)?;
        let parent = directory(tx, self.parent)?;
        if parent.parent.is_trash() {
            return Err(Error::NoEntry);
        }
        self.cred.require(tx, &parent, Want::CHANGE_DIR)?;
        if parent.flags.has(Flags::IMMUTABLE) {
            return Err(Error::NotPermitted);
        }
        let old = attr(tx, self.ino, Rely::KIND.and(Rely::FLAGS).and(Rely::NLINK).and(Rely::PARENT).and(Rely::LENGTH))?;
        self.check_linkable(&old)?;
        if tx.entry(self.parent, &self.name)?.is_some() {
            return Err(Error::Exists);
        }
        tx.insert_entry(self.parent, &self.name, Entry { ino: self.ino, kind: old.kind })?;
        if old.parent.0 != 0 {
            tx.add_parent(self.ino, old.parent, 1)?;
        }
        tx.add_parent(self.ino, self.parent, 1)?;
        let change = AttrChange { nlink_add: 1, ctime: Some(cx.now), parent: Some(Ino(0)), ..Default::default() };
        tx.change_attr(self.ino, &change)?;
        let touched = touch(cx, tx, self.parent, &parent, AttrChange::default())?;
        account::entry_added(cx, tx, self.parent, &old)?;
        let new = change.applied_to(&old);
        log(cx, tx, "LINK", &[&self.ino, &self.parent, &Escaped(&self.name), &touched], Some(&new.nlink))?;
        Ok(new)
    }
}

impl Link {
    fn check_linkable(&self, old: &Attr) -> Result<()> {
        if old.is_dir() || old.flags.has_any(Flags::IMMUTABLE.with(Flags::APPEND)) || old.parent.is_trash() {
            return Err(Error::NotPermitted);
        }
        match old.nlink {
            0 => Err(Error::NoEntry),
            n if n >= MAX_LINKS => Err(Error::TooManyLinks),
            _ => Ok(()),
        }
    }
}
