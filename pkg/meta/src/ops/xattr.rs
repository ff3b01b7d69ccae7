//! Extended attributes. POSIX ACLs look like some, but are in `acl`.

use cairn_types::{Flags, Ino};

use super::attr;
use crate::changelog::{Escaped, log};
use crate::txn::{Context, Op, Rely, Txn};
use crate::{Error, MAX_NAME_BYTES, MAX_XATTR_BYTES, Result};

/// Whether the attribute must or must not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Either.
    #[default]
    Set,
    /// It must not exist.
    Create,
    /// It must exist.
    Replace,
}

/// Sets an attribute. Times stay as they are.
#[derive(Clone, Debug)]
pub struct SetXattr {
    /// The inode.
    pub ino: Ino,
    /// Name, 1 to 255 bytes.
    pub name: Vec<u8>,
    /// Value, up to 64 KiB.
    pub value: Vec<u8>,
    /// About an existing one.
    pub mode: XattrMode,
}

impl Op for SetXattr {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        check_xattr_name(&self.name)?;
        if self.value.len() > MAX_XATTR_BYTES {
            return Err(Error::TooBig);
        }
        let inode = attr(tx, self.ino, Rely::FLAGS)?;
        if inode.flags.has_any(Flags::IMMUTABLE.with(Flags::APPEND)) {
            return Err(Error::NotPermitted);
        }
        match self.mode {
            XattrMode::Create if tx.has_xattr(self.ino, &self.name, false)? => return Err(Error::Exists),
            XattrMode::Replace if !tx.has_xattr(self.ino, &self.name, true)? => return Err(Error::NoAttribute),
            _ => {}
        }
        tx.put_xattr(self.ino, &self.name, &self.value)?;
        let flags = match self.mode {
            XattrMode::Set => 0,
            XattrMode::Create => 1,
            XattrMode::Replace => 2,
        };
        log(cx, tx, "SETXATTR", &[&self.ino, &Escaped(&self.name), &Escaped(&self.value), &flags], None)
    }
}

/// Removes an attribute.
#[derive(Clone, Debug)]
pub struct RemoveXattr {
    /// The inode.
    pub ino: Ino,
    /// Name.
    pub name: Vec<u8>,
}

impl Op for RemoveXattr {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        check_xattr_name(&self.name)?;
        let inode = attr(tx, self.ino, Rely::FLAGS)?;
        if inode.flags.has_any(Flags::IMMUTABLE.with(Flags::APPEND)) {
            return Err(Error::NotPermitted);
        }
        if !tx.has_xattr(self.ino, &self.name, true)? {
            return Err(Error::NoAttribute);
        }
        tx.remove_xattr(self.ino, &self.name)?;
        log(cx, tx, "REMOVEXATTR", &[&self.ino, &Escaped(&self.name)], None)
    }
}

pub(crate) fn check_xattr_name(name: &[u8]) -> Result<()> {
    match name {
        [] => Err(Error::Invalid("empty attribute name")),
        _ if name.len() > MAX_NAME_BYTES => Err(Error::Range),
        // SQL engines store the name as text.
        _ if std::str::from_utf8(name).is_err() => Err(Error::Invalid("attribute name is not UTF-8")),
        _ => Ok(()),
    }
}
