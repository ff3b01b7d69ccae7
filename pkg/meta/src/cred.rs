//! Who asks, and what that person may do.

use cairn_types::{Attr, Ino};
use smallvec::SmallVec;

use crate::record::Entry;
use crate::txn::Txn;
use crate::{Error, Result};

/// The caller of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cred {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All groups, `gid` included.
    pub gids: SmallVec<[u32; 8]>,
    /// Process, for locks and logs.
    pub pid: u32,
    /// Check read, write and execute permission here. False behind a kernel that did.
    pub check: bool,
}

/// Read, write, execute, as in a mode triplet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want(pub u16);

impl Want {
    /// 4
    pub const READ: Want = Want(4);
    /// 2
    pub const WRITE: Want = Want(2);
    /// 1
    pub const EXEC: Want = Want(1);
    /// What changing a directory's entries needs.
    pub const CHANGE_DIR: Want = Want(3);
}

impl Cred {
    /// The super-user, unchecked: for our own jobs and for tests.
    pub fn root() -> Cred {
        Cred { uid: 0, gid: 0, gids: SmallVec::from_slice(&[0]), pid: 0, check: false }
    }

    /// A user with one group whose permissions the kernel has checked.
    pub fn user(uid: u32, gid: u32) -> Cred {
        Cred { uid, gid, gids: SmallVec::from_slice(&[gid]), pid: 0, check: false }
    }

    /// Is this the super-user?
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Is the caller in this group?
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.gids.contains(&gid)
    }

    /// Checks permission bits or the access ACL, if it is ours to check.
    pub(crate) fn require(&self, tx: &mut dyn Txn, attr: &Attr, want: Want) -> Result<()> {
        if !self.check { Ok(()) } else { self.permits(tx, attr, want) }
    }

    /// Do permission bits or the access ACL grant `want`? `Error::Access` if not.
    pub(crate) fn permits(&self, tx: &mut dyn Txn, attr: &Attr, want: Want) -> Result<()> {
        let granted = if self.is_root() {
            // Root may read and write anything, and execute what somebody may execute.
            want.0 & 1 == 0 || attr.is_dir() || attr.mode & 0o111 != 0
        } else if attr.access_acl != 0 && attr.mode & 0o070 != 0 {
            let rule = tx
                .acl(attr.access_acl)?
                .ok_or_else(|| Error::Corrupt(format!("acl rule {} is missing", attr.access_acl)))?;
            rule.allows(self.uid, &self.gids, attr.uid, attr.gid, want.0)
        } else {
            let shift = match () {
                () if self.uid == attr.uid => 6,
                () if self.in_group(attr.gid) => 3,
                () => 0,
            };
            (attr.mode >> shift) & want.0 == want.0
        };
        if granted { Ok(()) } else { Err(Error::Access) }
    }

    /// The sticky rule: in a sticky directory only owners remove entries.
    pub(crate) fn check_sticky(&self, dir: &Attr, victim: &Attr) -> Result<()> {
        let free = self.is_root() || dir.mode & 0o1000 == 0 || self.uid == dir.uid || self.uid == victim.uid;
        if free { Ok(()) } else { Err(Error::Access) }
    }
}

/// Names that may be created: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
pub(crate) fn check_new_name(name: &[u8]) -> Result<()> {
    check_name(name)?;
    if name == b"." || name == b".." { Err(Error::Exists) } else { Ok(()) }
}

/// Names that may be looked up.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    match name {
        [] => Err(Error::Invalid("empty name")),
        _ if name.len() > crate::MAX_NAME_BYTES => Err(Error::NameTooLong),
        _ if name.contains(&b'/') || name.contains(&0) => Err(Error::Invalid("name contains a slash or NUL")),
        _ => Ok(()),
    }
}

/// An entry to create or replace must not be in the trash, nor be the trash.
pub(crate) fn refuse_trash(parent: Ino) -> Result<()> {
    if parent.is_trash() { Err(Error::NotPermitted) } else { Ok(()) }
}

/// The entry `name` of `parent`, or `NoEntry`.
pub(crate) fn existing_entry(tx: &mut dyn Txn, parent: Ino, name: &[u8]) -> Result<Entry> {
    check_name(name)?;
    tx.entry(parent, name)?.ok_or(Error::NoEntry)
}
