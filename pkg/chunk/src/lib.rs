//! Cuts slices into immutable blocks, and reads them back.
//!
//! A slice is cut every `block_bytes`; its last block may be shorter. Nothing here is ever
//! overwritten: writing the same bytes of a file again is a new slice.
//!
//! The order that must hold: [`SliceWriter::finish`] returns a [`StoredSlice`] only after every
//! block is stored, and nobody else can make one, so metadata never names a block that is not there.
//!
//! Cost: a write is copied once, into pages; an uncompressed block leaves as those very pages. A
//! read from memory is a reference into the cached block. A missing block is one GET, however many
//! readers want it.
//!
//! In write-back mode (`staging.rs`) a block counts as stored once this machine's disk has it, and
//! goes to the store behind everybody's back.
//!
//! Not here: which slice a reader sees at an offset (`cairn_meta::overlay`), and files.

mod block_buffer;
mod chunk_store;
mod codec;
mod config;
mod error;
mod fetch;
mod heat;
mod landing;
mod pace;
mod parts;
mod patch;
mod pool;
mod slice_writer;
mod staging;
mod stats;

pub use cairn_cache::journal::{Intent, IntentId, IntentSlice, Recovered};
pub use cairn_cache::{Found, Image, ImageKey, Images};
pub use chunk_store::{ChunkStore, Depth};
pub use codec::Codec;
pub use config::Config;
pub use error::{Error, Result};
pub use patch::{Loose, Patch};
pub use pool::Reservation;
pub use slice_writer::{SliceWriter, StoredSlice};
pub use staging::{RawStaging, Staging, StagingRules, StagingStats, UploadHours};
pub use stats::ChunkStats;
