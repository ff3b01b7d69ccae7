//! What fsck may mend: directories, from their own entries, and sums, from what they sum up.

use cairn_meta::invariants::Violation;
use cairn_meta::txn::Counter;
use cairn_types::FileType;

use super::Fsck;
use crate::Result;
use crate::ops::{MendSum, RepairDir, SyncDirStat};

impl Fsck<'_> {
    /// Mends what was asked for and can be mended. Answers whether it did.
    pub(super) async fn repair(&self, violation: &Violation) -> Result<bool> {
        if !self.options.repair {
            return Ok(false);
        }
        let mode = self.options.repair_dir_mode;
        let op = match *violation {
            Violation::DanglingEntry { dir, ino, kind: FileType::Directory, .. } => {
                RepairDir { dir: ino, parent: dir, mode }
            }
            Violation::Nlink { ino, .. } => match self.meta.getattr(ino).await {
                Ok(attr) if attr.is_dir() => RepairDir { dir: ino, parent: attr.parent, mode },
                _ => return Ok(false),
            },
            Violation::Parent { ino, expected, .. } => match self.meta.getattr(ino).await {
                Ok(attr) if attr.is_dir() => RepairDir { dir: ino, parent: expected, mode },
                _ => return Ok(false),
            },
            Violation::DirStats { dir, .. } => {
                self.meta.run(SyncDirStat(dir)).await?;
                return Ok(true);
            }
            _ => return self.mend_sum(violation).await,
        };
        self.meta.run(op).await?;
        Ok(true)
    }

    async fn mend_sum(&self, violation: &Violation) -> Result<bool> {
        let op = match *violation {
            Violation::Usage { found_space, found_inodes, space, inodes } => {
                MendSum::Usage { space: space - found_space, inodes: inodes - found_inodes }
            }
            Violation::QuotaUsage { key, found_space, found_inodes, space, inodes } => {
                MendSum::Quota { key, space: space - found_space, inodes: inodes - found_inodes }
            }
            // The trash's holds the last number given out, the others the next.
            Violation::NextId { counter, found, in_use } => {
                MendSum::Next { counter, by: in_use as i64 - found + i64::from(counter != Counter::NextTrash) }
            }
            _ => return Ok(false),
        };
        self.meta.run(op).await?;
        Ok(true)
    }
}
