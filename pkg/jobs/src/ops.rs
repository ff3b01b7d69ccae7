//! Operations that only upkeep needs, as values over `cairn_meta`'s transaction seam.
//!
//! What files and directories mean is not here: entries leave through `Meta::unlink` and
//! `Meta::rmdir`, which know what is open.

mod chunk;
mod scan;
mod session;
mod trash;
mod tree;

pub(crate) use chunk::{ReleaseDelayed, SliceOwners, SwapChunk, UnownedSlices, WaitingFiles};
pub(crate) use scan::{ChunkPage, ChunksOf, LiveSlices, NameOf, PathsOf, Resolve, SlicePage};
pub(crate) use session::{EndDead, ReleaseLocks, TrimChangeLog};
pub(crate) use trash::{Detached, Hour, RemoveDetached, RemoveHour, TrashHours};
pub(crate) use tree::{DirCheck, LocksOf, RepairDir, Stat, SyncDirStat};

use std::fmt::{Display, Write};

use cairn_meta::Result;
use cairn_meta::txn::{Context, Txn};

/// Leaves a record of `op(args)` if the volume keeps a change log (volume format, appendix A).
fn log(cx: &Context, tx: &mut dyn Txn, op: &str, args: &[&dyn Display]) -> Result<()> {
    if !cx.policy.change_log {
        return Ok(());
    }
    let mut line = format!("{}.{:09}|{op}(", cx.now.secs, cx.now.nanos);
    for (i, arg) in args.iter().enumerate() {
        write!(line, "{}{arg}", if i == 0 { "" } else { "," }).expect("a String takes all text");
    }
    write!(line, ")|({},{})", cx.sid.map_or(0, |s| s.0), cx.sequence).expect("a String takes all text");
    tx.log_change(&line)
}
