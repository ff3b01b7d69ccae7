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
pub(crate) use tree::{DirCheck, LocksOf, MendSum, RepairDir, Stat, SyncDirStat};
