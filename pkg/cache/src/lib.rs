//! Blocks kept nearby: plain in memory, plain or sealed on local disks, named by their immutable key.
//!
//! A block is looked for in memory, then on disk; what comes from disk is verified as the level
//! asks, and a file that fails is removed and counts as absent. Storing never waits: memory at
//! once, the disk through a bounded queue that drops what it has no room for. The files lie exactly
//! where JuiceFS looks for them and look exactly as it writes them (volume format 9), so both
//! clients may share a directory. Those of an encrypted volume are sealed, which JuiceFS's are not:
//! whoever opens such a cache gives it a folder of its own.
//!
//! The rule kept: nothing here is the only copy, so every failure is a miss. A directory that fails
//! is taken out with one warning and the others go on.
//!
//! Blocks that wait for upload are another matter: they are the only copy. They lie in [`journal`],
//! which keeps what it promised through a power cut.
//!
//! Not here: fetching a block that is missing, and uploading (`cairn_chunk`).

mod block_cache;
mod block_file;
mod config;
mod dir;
mod disk;
mod error;
mod fifo;
mod images;
mod index;
pub mod journal;
mod memory;
mod ring;
mod room;
mod sealed_file;
pub mod staged;
mod stats;

pub use block_cache::BlockCache;
pub use config::{ChecksumLevel, Config, Eviction};
pub use error::{Error, Result};
pub use images::{Building, Found, Image, ImageKey, Images};
pub use stats::CacheStats;
