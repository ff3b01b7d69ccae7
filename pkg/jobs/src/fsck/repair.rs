//! What fsck may mend: directories, from their own entries.

use cairn_meta::invariants::Violation;
use cairn_types::FileType;

use super::Fsck;
use crate::Result;
use crate::ops::{RepairDir, SyncDirStat};

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
            Violation::DirStats { dir, .. } if self.options.sync_dir_stat => {
                self.meta.run(SyncDirStat(dir)).await?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        self.meta.run(op).await?;
        Ok(true)
    }
}
