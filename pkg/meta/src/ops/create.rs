//! New inodes: files, directories, links, special files.

use cairn_types::{Attr, FileType, Flags, Ino};

use super::{account, directory, touch};
use crate::changelog::{Escaped, log};
use crate::cred::{Cred, Want, check_new_name, refuse_trash};
use crate::record::{DirStat, Entry};
use crate::txn::{AttrChange, Context, Op, Rely, Txn};
use crate::{Error, MAX_SYMLINK_BYTES, Result};

/// What to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Kind.
    pub kind: FileType,
    /// Requested permission bits, 12 of them.
    pub mode: u16,
    /// Bits to take away, unless the parent has a default ACL.
    pub umask: u16,
    /// Device number of device files.
    pub rdev: u32,
    /// Target of symlinks.
    pub target: Vec<u8>,
}

impl NewNode {
    /// A regular file.
    pub fn file(mode: u16) -> NewNode {
        NewNode { kind: FileType::File, mode, umask: 0, rdev: 0, target: vec![] }
    }

    /// A directory.
    pub fn dir(mode: u16) -> NewNode {
        NewNode { kind: FileType::Directory, ..NewNode::file(mode) }
    }

    /// A symbolic link.
    pub fn symlink(target: &[u8]) -> NewNode {
        NewNode { kind: FileType::Symlink, target: target.to_vec(), ..NewNode::file(0o777) }
    }
}

/// Creates `name` in `parent`.
#[derive(Clone, Debug)]
pub struct Create {
    /// Caller; owner of the new inode.
    pub cred: Cred,
    /// Directory.
    pub parent: Ino,
    /// New name.
    pub name: Vec<u8>,
    /// What.
    pub node: NewNode,
    /// Its number, from a range that is ours.
    pub ino: Ino,
    /// Answer an existing name with what it stands for, instead of an error.
    pub or_existing: bool,
}

/// What [`Create`] found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// The inode.
    pub ino: Ino,
    /// Its attributes.
    pub attr: Attr,
    /// It is new.
    pub is_new: bool,
    /// The parent's attributes after the change.
    pub parent: Attr,
}

impl Op for Create {
    type Out = Created;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Created> {
        check_new_name(&self.name)?;
        check_target(&self.node)?;
        let parent = directory(tx, self.parent)?;
        if let Some(found) = tx.entry(self.parent, &self.name)? {
            return self.existing(tx, found, parent);
        }
        refuse_trash(self.parent)?;
        if parent.parent.is_trash() {
            return Err(Error::NoEntry);
        }
        if parent.flags.has(Flags::IMMUTABLE) {
            return Err(Error::NotPermitted);
        }
        self.cred.require(tx, &parent, Want::CHANGE_DIR)?;
        let attr = self.new_attr(cx, tx, &parent)?;
        if attr.is_dir() && parent.nlink >= crate::MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        tx.insert_entry(self.parent, &self.name, Entry { ino: self.ino, kind: attr.kind })?;
        tx.insert_attr(self.ino, &attr)?;
        if attr.kind == FileType::Symlink {
            tx.insert_symlink(self.ino, &self.node.target)?;
        }
        if attr.is_dir() && cx.policy.dir_stats {
            tx.put_dir_stat(self.ino, &DirStat::default())?;
        }
        let change = AttrChange { nlink_add: i32::from(attr.is_dir()), ..Default::default() };
        let touched = touch(cx, tx, self.parent, &parent, change)?;
        account::volume(cx, tx, &attr, account::Usage::of(&attr))?;
        account::entry_added(cx, tx, self.parent, &attr)?;
        self.log(cx, tx, touched)?;
        let parent = if touched {
            AttrChange { mtime: Some(cx.now), ctime: Some(cx.now), ..change }.applied_to(&parent)
        } else {
            parent
        };
        Ok(Created { ino: self.ino, attr, is_new: true, parent })
    }
}

impl Create {
    fn existing(&self, tx: &mut dyn Txn, found: Entry, parent: Attr) -> Result<Created> {
        if !self.or_existing {
            return Err(Error::Exists);
        }
        let attr = super::attr(tx, found.ino, Rely::ALL)?;
        Ok(Created { ino: found.ino, attr, is_new: false, parent })
    }

    fn new_attr(&self, cx: &Context, tx: &mut dyn Txn, parent: &Attr) -> Result<Attr> {
        let node = &self.node;
        let is_dir = node.kind == FileType::Directory;
        let mut attr = Attr {
            flags: parent.flags.only(Flags::SKIP_TRASH),
            kind: node.kind,
            mode: node.mode & 0o7777,
            uid: self.cred.uid,
            gid: self.cred.gid,
            atime: cx.now,
            mtime: cx.now,
            ctime: cx.now,
            nlink: if is_dir { 2 } else { 1 },
            length: match node.kind {
                FileType::Directory => 4096,
                FileType::Symlink => node.target.len() as u64,
                _ => 0,
            },
            rdev: if matches!(node.kind, FileType::BlockDevice | FileType::CharDevice) { node.rdev } else { 0 },
            parent: self.parent,
            tier: parent.tier,
            ..Attr::default()
        };
        inherit_acl(cx, tx, parent, node, &mut attr)?;
        if parent.mode & 0o2000 != 0 {
            attr.gid = parent.gid;
            if is_dir {
                attr.mode |= 0o2000;
            } else if attr.mode & 0o2010 == 0o2010 && !self.cred.is_root() && !self.cred.in_group(parent.gid) {
                attr.mode &= !0o2000;
            }
        }
        Ok(attr)
    }

    fn log(&self, cx: &Context, tx: &mut dyn Txn, touched: bool) -> Result<()> {
        let node = &self.node;
        let kind = node.kind as u8;
        log(
            cx,
            tx,
            "CREATE",
            &[
                &self.parent,
                &Escaped(&self.name),
                &self.cred.uid,
                &self.cred.gid,
                &kind,
                &node.mode,
                &node.umask,
                &Escaped(&node.target),
                &"linux",
                &touched,
            ],
            Some(&self.ino),
        )
    }
}

fn check_target(node: &NewNode) -> Result<()> {
    match (node.kind, node.target.as_slice()) {
        (FileType::Symlink, []) => Err(Error::NoEntry),
        (FileType::Symlink, t) if t.len() >= MAX_SYMLINK_BYTES => Err(Error::NameTooLong),
        (FileType::Symlink, t) if t.contains(&0) => Err(Error::Invalid("symlink target contains NUL")),
        _ => Ok(()),
    }
}

/// Mode and ACLs of a new inode: the umask counts only where the parent has no default ACL.
fn inherit_acl(cx: &Context, tx: &mut dyn Txn, parent: &Attr, node: &NewNode, attr: &mut Attr) -> Result<()> {
    let inherits = cx.policy.acl && parent.default_acl != 0 && node.kind != FileType::Symlink;
    if !inherits {
        attr.mode &= !(node.umask & 0o777);
        return Ok(());
    }
    let rule = tx
        .acl(parent.default_acl)?
        .ok_or_else(|| Error::Corrupt(format!("acl rule {} is missing", parent.default_acl)))?;
    if attr.is_dir() {
        attr.default_acl = parent.default_acl;
    }
    let child = if rule.is_minimal() {
        attr.mode = (attr.mode & 0o7000) | (attr.mode & rule.mode_bits());
        return Ok(());
    } else {
        rule.for_child(attr.mode)
    };
    attr.access_acl = tx.intern_acl(&child)?;
    attr.mode = (attr.mode & 0o7000) | child.mode_bits();
    Ok(())
}
