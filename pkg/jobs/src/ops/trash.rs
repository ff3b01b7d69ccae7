//! Hour directories of the trash, and clone trees that were never attached.

use cairn_meta::Result;
use cairn_meta::changelog::log;
use cairn_meta::ops::trash::parse_hour;
use cairn_meta::record::{QuotaKey, QuotaKind};
use cairn_meta::txn::{Context, Counter, Op, Rely, Txn};
use cairn_types::{Attr, Ino};

/// An hour directory.
#[derive(Clone, Debug)]
pub(crate) struct Hour {
    pub(crate) ino: Ino,
    pub(crate) name: Vec<u8>,
}

/// Hour directories that start before a time, oldest first. Other names are left alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrashHours {
    /// Unix seconds.
    pub(crate) before: i64,
}

impl Op for TrashHours {
    type Out = Vec<Hour>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<Hour>> {
        const PAGE: usize = 1000;
        let mut hours = Vec::new();
        let mut after = Vec::new();
        loop {
            let page = tx.entries(Ino::TRASH, &after, PAGE, false)?;
            for named in &page {
                if parse_hour(&named.name).is_some_and(|secs| secs < self.before) {
                    hours.push(Hour { ino: named.entry.ino, name: named.name.clone() });
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after.clone_from(&last.name),
                _ => break,
            }
        }
        hours.sort_unstable_by_key(|h| h.ino);
        Ok(hours)
    }
}

/// Removes an empty hour directory. Answers whether it did.
#[derive(Clone, Debug)]
pub(crate) struct RemoveHour(pub(crate) Hour);

impl Op for RemoveHour {
    type Out = bool;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<bool> {
        let Hour { ino, name } = &self.0;
        if tx.entry(Ino::TRASH, name)?.is_none_or(|e| e.ino != *ino) || !tx.dir_is_empty(*ino)? {
            return Ok(false);
        }
        tx.remove_entry(Ino::TRASH, name)?;
        if let Some(attr) = tx.attr(*ino, Rely::ALL)? {
            remove_dir(cx, tx, *ino, &attr)?;
        }
        let name = String::from_utf8_lossy(name);
        log(cx, tx, "RMDIR", &[&Ino::TRASH, &name, &0], None)?;
        Ok(true)
    }
}

/// Clone trees that were never given a name, with the Unix second of their making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detached;

impl Op for Detached {
    type Out = Vec<(Ino, i64)>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<(Ino, i64)>> {
        tx.detached()
    }
}

/// Removes the empty top of a detached tree. Answers whether it did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RemoveDetached(pub(crate) Ino);

impl Op for RemoveDetached {
    type Out = bool;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<bool> {
        let still = tx.detached()?.iter().any(|(ino, _)| *ino == self.0);
        if !still || !tx.dir_is_empty(self.0)? {
            return Ok(false);
        }
        if let Some(attr) = tx.attr(self.0, Rely::ALL)? {
            remove_dir(cx, tx, self.0, &attr)?;
        }
        tx.remove_detached(self.0)?;
        log(cx, tx, "CLEANUP", &[&self.0], None)?;
        Ok(true)
    }
}

/// Forgets an empty directory that no entry names, and what it counted for.
fn remove_dir(cx: &Context, tx: &mut dyn Txn, ino: Ino, attr: &Attr) -> Result<()> {
    tx.remove_xattrs(ino)?;
    tx.remove_dir_stat(ino)?;
    tx.remove_attr(ino)?;
    let space = -(attr.space() as i64);
    tx.add_counter(Counter::UsedSpace, space)?;
    tx.add_counter(Counter::TotalInodes, -1)?;
    if cx.policy.user_group_quota {
        for (kind, id) in [(QuotaKind::User, attr.uid), (QuotaKind::Group, attr.gid)] {
            tx.add_quota_used(QuotaKey { kind, id: u64::from(id) }, space, -1)?;
        }
    }
    Ok(())
}
