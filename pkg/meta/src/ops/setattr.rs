//! chmod, chown, utimens, chattr (volume format 6.5). Truncation is in `data`.

use cairn_types::{Attr, Flags, Ino, Timestamp};

use super::{account, attr};
use crate::changelog::log;
use crate::cred::{Cred, Want};
use crate::txn::{AttrChange, Context, Op, Rely, Txn};
use crate::{Error, Result};

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The moment of the operation.
    Now,
    /// This one.
    At(Timestamp),
}

/// Attributes to set; absent ones stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits, 12 of them.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Inode flags; only root.
    pub flags: Option<Flags>,
    /// Take setuid and setgid away, as a write by somebody else does.
    pub drop_privilege: bool,
}

/// Sets attributes.
#[derive(Clone, Debug)]
pub struct Set {
    /// Caller.
    pub cred: Cred,
    /// The inode.
    pub ino: Ino,
    /// What.
    pub set: SetAttr,
}

impl Op for Set {
    type Out = Attr;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Attr> {
        let old = attr(tx, self.ino, self.rely())?;
        if self.ino == Ino::TRASH || old.parent.is_trash() {
            return Err(Error::NotPermitted);
        }
        let restricts = self.set.mode.is_some() || self.set.uid.is_some() || self.set.gid.is_some();
        if self.set.flags.is_none() && (old.flags.has(Flags::IMMUTABLE) || (old.flags.has(Flags::APPEND) && restricts))
        {
            return Err(Error::NotPermitted);
        }
        let mut change = AttrChange::default();
        self.set_flags(&old, &mut change)?;
        self.set_owner(&old, &mut change)?;
        self.set_mode(cx, tx, &old, &mut change)?;
        if self.set.drop_privilege {
            drop_privilege(&old, &mut change);
        }
        self.set_times(cx, tx, &old, &mut change)?;
        if change.applied_to(&old) == old && self.set.atime.is_none() && self.set.mtime.is_none() {
            return Ok(old);
        }
        change.ctime = Some(cx.now);
        tx.change_attr(self.ino, &change)?;
        let new = change.applied_to(&old);
        if (new.uid, new.gid) != (old.uid, old.gid) {
            account::owner_changed(cx, tx, &old, &new)?;
        }
        self.log(cx, tx, &new)?;
        Ok(new)
    }
}

impl Set {
    /// Times are set, not looked at; the length counts where the usage moves to another owner.
    fn rely(&self) -> Rely {
        let rely = Rely::KIND.and(Rely::PERMISSION).and(Rely::FLAGS).and(Rely::PARENT);
        let moves = self.set.uid.is_some() || self.set.gid.is_some();
        if moves { rely.and(Rely::LENGTH) } else { rely }
    }

    fn set_flags(&self, old: &Attr, change: &mut AttrChange) -> Result<()> {
        if let Some(flags) = self.set.flags
            && flags != old.flags
        {
            if !self.cred.is_root() {
                return Err(Error::NotPermitted);
            }
            change.flags = Some(flags);
        }
        Ok(())
    }

    fn set_owner(&self, old: &Attr, change: &mut AttrChange) -> Result<()> {
        let (uid, gid) = (self.set.uid.unwrap_or(old.uid), self.set.gid.unwrap_or(old.gid));
        if self.set.uid.is_none() && self.set.gid.is_none() {
            return Ok(());
        }
        if !self.cred.is_root() {
            let own = self.cred.uid == old.uid;
            if uid != old.uid || !own || (gid != old.gid && self.cred.check && !self.cred.in_group(gid)) {
                return Err(Error::NotPermitted);
            }
        }
        if uid != old.uid {
            change.uid = Some(uid);
        }
        if gid != old.gid {
            change.gid = Some(gid);
        }
        if !old.is_dir() {
            let mut mode = old.mode;
            if mode & 0o4000 != 0 {
                mode &= !0o4000;
            }
            if mode & 0o2000 != 0 && (!self.cred.is_root() || mode & 0o010 != 0) {
                mode &= !0o2000;
            }
            if mode != old.mode {
                change.mode = Some(mode);
            }
        }
        Ok(())
    }

    fn set_mode(&self, cx: &Context, tx: &mut dyn Txn, old: &Attr, change: &mut AttrChange) -> Result<()> {
        let Some(mode) = self.set.mode else { return Ok(()) };
        let mut mode = mode & 0o7777;
        if !self.cred.is_root() && self.cred.uid != old.uid {
            return Err(Error::NotPermitted);
        }
        let gid = change.gid.unwrap_or(old.gid);
        if mode & 0o2000 != 0 && !self.cred.is_root() && !self.cred.in_group(gid) {
            mode &= !0o2000;
        }
        if cx.policy.acl && old.access_acl != 0 {
            let rule = tx
                .acl(old.access_acl)?
                .ok_or_else(|| Error::Corrupt(format!("acl rule {} is missing", old.access_acl)))?;
            let rule = rule.with_mode(mode);
            change.access_acl = Some(tx.intern_acl(&rule)?);
            mode = (mode & 0o7000) | rule.mode_bits();
        }
        change.mode = Some(mode);
        Ok(())
    }

    fn set_times(&self, cx: &Context, tx: &mut dyn Txn, old: &Attr, change: &mut AttrChange) -> Result<()> {
        for (wanted, field) in [(self.set.atime, &mut change.atime), (self.set.mtime, &mut change.mtime)] {
            let Some(wanted) = wanted else { continue };
            if old.flags.has(Flags::APPEND) && wanted != SetTime::Now {
                return Err(Error::NotPermitted);
            }
            let owner = self.cred.is_root() || self.cred.uid == old.uid;
            *field = Some(match wanted {
                SetTime::Now => {
                    if !owner && self.cred.check {
                        self.cred.permits(tx, old, Want::WRITE)?;
                    }
                    cx.now
                }
                SetTime::At(_) if !owner => return Err(Error::NotPermitted),
                SetTime::At(t) => t,
            });
        }
        Ok(())
    }

    fn log(&self, cx: &Context, tx: &mut dyn Txn, new: &Attr) -> Result<()> {
        // The bits FUSE gives these fields; the flags have none there and take JuiceFS's.
        let bits = [
            (self.set.mode.is_some(), 1),
            (self.set.uid.is_some(), 2),
            (self.set.gid.is_some(), 4),
            (self.set.atime.is_some(), 16),
            (self.set.mtime.is_some(), 32),
            (self.set.atime == Some(SetTime::Now), 128),
            (self.set.mtime == Some(SetTime::Now), 256),
            (self.set.flags.is_some(), 1 << 15),
        ];
        let set: u32 = bits.iter().filter(|b| b.0).map(|b| b.1).sum();
        log(
            cx,
            tx,
            "SETATTR",
            &[
                &self.ino,
                &set,
                &0,
                &new.uid,
                &new.gid,
                &new.mode,
                &new.flags.0,
                &new.atime.secs,
                &new.mtime.secs,
                &new.atime.nanos,
                &new.mtime.nanos,
                &new.ctime.secs,
                &new.ctime.nanos,
                &new.access_acl,
            ],
            None,
        )
    }
}

/// Setuid goes; setgid goes where it means execution as the group.
pub(crate) fn drop_privilege(old: &Attr, change: &mut AttrChange) {
    if !old.is_file() {
        return;
    }
    let mode = change.mode.unwrap_or(old.mode);
    let mut kept = mode & !0o4000;
    if mode & 0o010 != 0 {
        kept &= !0o2000;
    }
    if kept != mode {
        change.mode = Some(kept);
    }
}

/// Sets the access time only, if it is due: reads call it.
#[derive(Clone, Debug)]
pub struct Access {
    /// The inode.
    pub ino: Ino,
    /// `relatime` (due after a change, or a day) or `strictatime` (due after a second).
    pub strict: bool,
}

impl Op for Access {
    type Out = Attr;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Attr> {
        let old = attr(tx, self.ino, Rely::TIMES)?;
        if !atime_is_due(cx.now, &old, self.strict) {
            return Ok(old);
        }
        let change = AttrChange { atime: Some(cx.now), ..Default::default() };
        tx.change_attr(self.ino, &change)?;
        log(cx, tx, "ACCESS", &[&self.ino], None)?;
        Ok(change.applied_to(&old))
    }
}

/// Is an access to be recorded? (Volume format 6.2.)
pub fn atime_is_due(now: Timestamp, attr: &Attr, strict: bool) -> bool {
    let age = now.since(attr.atime).as_secs();
    attr.atime <= attr.mtime || attr.atime <= attr.ctime || age >= 24 * 3600 || (strict && age >= 1)
}
