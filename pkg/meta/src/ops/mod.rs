//! What operations mean: POSIX semantics, written once, for every engine.
//!
//! Each file holds one family. An operation is a value with public fields and an
//! [`crate::txn::Op`] implementation; [`crate::Meta`] fills in ids and runs it.

pub(crate) mod account;
pub mod acl;
pub mod create;
pub mod data;
pub mod link;
pub mod lock;
pub mod recount;
pub mod remove;
pub mod rename;
pub mod session;
pub mod setattr;
pub mod trash;
pub mod tree;
pub mod xattr;

use cairn_types::{Attr, Ino, Timestamp};

use crate::txn::{AttrChange, Context, Rely, Txn};
use crate::{Error, Result};

/// The attributes of an inode that must exist.
pub(crate) fn attr(tx: &mut dyn Txn, ino: Ino, rely: Rely) -> Result<Attr> {
    tx.attr(ino, rely)?.ok_or(Error::NoEntry)
}

/// The attributes of a directory in which names are to be changed.
///
/// A directory that lies in the trash takes no new names.
pub(crate) fn directory(tx: &mut dyn Txn, ino: Ino) -> Result<Attr> {
    let dir = attr(tx, ino, Rely::DIRECTORY)?;
    if dir.is_dir() { Ok(dir) } else { Err(Error::NotDirectory) }
}

/// Sets a directory's mtime and ctime to now, unless they are young and `change` is otherwise
/// empty. Returns whether the directory was written.
pub(crate) fn touch(cx: &Context, tx: &mut dyn Txn, dir: Ino, attr: &Attr, mut change: AttrChange) -> Result<bool> {
    let window = cx.policy.skip_dir_mtime;
    let young = !window.is_zero() && cx.now.since(attr.mtime) < window && cx.now >= attr.mtime;
    if change.is_empty() && young {
        return Ok(false);
    }
    (change.mtime, change.ctime) = (Some(cx.now), Some(cx.now));
    tx.change_attr(dir, &change)?;
    Ok(true)
}

/// The modification time of a content change made at `when`: it must differ from `old`, or readers
/// elsewhere keep their caches, and grow, unless somebody had set it into the future.
pub(crate) fn content_time(cx: &Context, when: Timestamp, old: Timestamp) -> Timestamp {
    if when > old || old > cx.now { when } else { Timestamp::from_nanos(old.as_nanos().saturating_add(1)) }
}
