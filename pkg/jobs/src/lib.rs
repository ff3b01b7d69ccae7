//! Upkeep that nobody waits for: compaction, deletion, dead sessions, expired trash; and the
//! commands that look at a whole volume: gc, fsck, info, summary, recursive removal.
//!
//! Jobs turn what metadata no longer needs into free space, and what metadata says into findings.
//! Rules kept here: metadata first and durably, objects after; nothing young or owned is ever
//! deleted; every step may be repeated, cut short, or run by two clients at once.
//!
//! Not here: what a file operation means (`cairn-meta`), and how a block is stored (`cairn-chunk`).

mod compact;
mod deferred;
mod error;
pub mod fsck;
pub mod gc;
mod ops;
mod pack_space;
mod plan;
mod progress;
mod reclaim;
mod slice_index;
#[cfg(test)]
mod tests;
pub mod tree;
mod upkeep;
pub mod warm;

pub use compact::{Compacted, compact};
pub use error::{Error, Result};
pub use plan::{Plan, RECORDS_MAX, plan};
pub use progress::{Phase, Progress, Tally, Watch, unwatched};
pub use upkeep::{Config, State, Upkeep, UpkeepStats};
