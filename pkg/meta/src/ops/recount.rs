//! Usage counted anew, over all inodes: for volumes that did not keep it until now.

use std::collections::BTreeMap;

use cairn_types::Ino;

use super::account::Usage;
use crate::Result;
use crate::record::{Quota, QuotaKey, QuotaKind};
use crate::txn::{Context, Op, Txn};

/// Counts what every user and group owns, by the rule the running counts follow: all inodes but the
/// root and the trash root. One transaction: on SQLite others wait, about a second per million inodes.
#[derive(Clone, Copy, Debug)]
pub struct RecountOwners {
    /// Limits stay. Without it every old record goes, as when the counting is switched on.
    pub keep_limits: bool,
}

/// Inodes read at a time.
const PAGE: usize = 1000;

impl Op for RecountOwners {
    type Out = ();

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<()> {
        let mut records = self.limits(tx)?;
        let mut after = Ino(0);
        loop {
            let page = tx.scan_attrs(after, PAGE)?;
            for (_, attr) in page.iter().filter(|(ino, _)| *ino != Ino::ROOT && *ino != Ino::TRASH) {
                let usage = Usage::of(attr);
                for (kind, id) in [(QuotaKind::User, attr.uid), (QuotaKind::Group, attr.gid)] {
                    let record = records.entry(QuotaKey { kind, id: u64::from(id) }).or_insert(Quota::UNLIMITED);
                    record.used_space += usage.space;
                    record.used_inodes += usage.inodes;
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = *last,
                _ => break,
            }
        }
        records.iter().try_for_each(|(key, quota)| tx.put_quota(*key, quota))
    }
}

impl RecountOwners {
    /// The records to start from. Those that go are removed.
    fn limits(&self, tx: &mut dyn Txn) -> Result<BTreeMap<QuotaKey, Quota>> {
        let mut records = BTreeMap::new();
        for kind in [QuotaKind::User, QuotaKind::Group] {
            for (key, quota) in tx.quotas(kind)? {
                if self.keep_limits {
                    records.insert(key, Quota { used_space: 0, used_inodes: 0, ..quota });
                } else {
                    tx.remove_quota(key)?;
                }
            }
        }
        Ok(records)
    }
}
