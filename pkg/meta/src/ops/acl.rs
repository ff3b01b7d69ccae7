//! POSIX ACLs (volume format 6.10).

use cairn_types::{AclRule, Attr, Flags, Ino};

use super::attr;
use crate::changelog::{Escaped, log};
use crate::cred::Cred;
use crate::txn::{AttrChange, Context, Op, Rely, Txn};
use crate::{Error, Result};

/// Which of the two ACLs of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclKind {
    /// Who may do what with the inode.
    Access,
    /// What new entries of a directory inherit.
    Default,
}

impl AclKind {
    /// The kind an attribute name stands for.
    pub fn of_xattr(name: &[u8]) -> Option<AclKind> {
        match name {
            b"system.posix_acl_access" => Some(AclKind::Access),
            b"system.posix_acl_default" => Some(AclKind::Default),
            _ => None,
        }
    }

    /// The attribute's name.
    pub fn xattr_name(self) -> &'static [u8] {
        match self {
            AclKind::Access => b"system.posix_acl_access",
            AclKind::Default => b"system.posix_acl_default",
        }
    }

    /// The rule's id in an inode.
    pub fn id(self, attr: &Attr) -> u32 {
        match self {
            AclKind::Access => attr.access_acl,
            AclKind::Default => attr.default_acl,
        }
    }
}

/// Sets or (with an empty rule) removes an ACL.
#[derive(Clone, Debug)]
pub struct SetAcl {
    /// Caller.
    pub cred: Cred,
    /// The inode.
    pub ino: Ino,
    /// Which.
    pub kind: AclKind,
    /// The rule.
    pub rule: AclRule,
}

impl Op for SetAcl {
    type Out = Attr;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Attr> {
        let old = attr(tx, self.ino, Rely::KIND.and(Rely::PERMISSION).and(Rely::FLAGS).and(Rely::PARENT))?;
        if !self.cred.is_root() && self.cred.uid != old.uid {
            return Err(Error::NotPermitted);
        }
        if old.flags.has(Flags::IMMUTABLE) || old.parent.is_trash() {
            return Err(Error::NotPermitted);
        }
        if self.kind == AclKind::Default && !old.is_dir() {
            return if self.rule.is_empty() { Ok(old) } else { Err(Error::Access) };
        }
        let change = self.change(tx, &old)?;
        if change.applied_to(&old) == old {
            return Ok(old);
        }
        let change = AttrChange { ctime: Some(cx.now), ..change };
        tx.change_attr(self.ino, &change)?;
        let kind = match self.kind {
            AclKind::Access => 1,
            AclKind::Default => 2,
        };
        log(cx, tx, "SETFACL", &[&self.ino, &kind, &Escaped(&self.rule.encode())], None)?;
        Ok(change.applied_to(&old))
    }
}

impl SetAcl {
    fn change(&self, tx: &mut dyn Txn, old: &Attr) -> Result<AttrChange> {
        let mut change = AttrChange::default();
        if self.kind == AclKind::Default {
            let mut rule = self.rule.clone();
            change.default_acl = Some(if rule.is_empty() {
                0
            } else {
                rule.fill_from_mode(old.mode);
                tx.intern_acl(&rule)?
            });
            return Ok(change);
        }
        let mut mode = old.mode;
        if mode & 0o2000 != 0 && !self.cred.is_root() && !self.cred.in_group(old.gid) {
            mode &= !0o2000;
        }
        change.access_acl = Some(0);
        if !self.rule.is_empty() {
            let mut rule = self.rule.clone();
            rule.fill_from_mode(old.mode);
            mode = (mode & 0o7000) | rule.mode_bits();
            if !rule.is_minimal() {
                change.access_acl = Some(tx.intern_acl(&rule)?);
            }
        }
        change.mode = Some(mode);
        Ok(change)
    }
}

/// The rule of an inode, as it shows now.
pub(crate) fn rule_of(tx: &mut dyn Txn, ino: Ino, kind: AclKind) -> Result<Option<AclRule>> {
    let attr = attr(tx, ino, Rely::NOTHING)?;
    match kind.id(&attr) {
        0 => Ok(None),
        id => tx.acl(id),
    }
}
