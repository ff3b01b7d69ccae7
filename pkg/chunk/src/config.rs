//! What shapes blocks and how much memory they may take on their way.

use cairn_types::{Compression, KeyLayout};

/// How slices become blocks and come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Plain bytes of a full block; fixed at format.
    pub block_bytes: u32,
    /// Block codec; fixed at format.
    pub compression: Compression,
    /// Object names; fixed at format.
    pub key_layout: KeyLayout,
    /// Memory for blocks that wait for the store, upload scratch included, in bytes. Less than
    /// [`Config::BUFFER_BYTES_MIN`] or four blocks counts as that. Blocks on their way in may take half
    /// as much again.
    pub buffer_bytes: u64,
    /// Blocks that a random read may fetch whole behind the reader's back; 0 for none.
    pub prefetch: u32,
    /// Bytes that [`crate::ChunkStore::prefetch`] may have in flight; 0 for none.
    pub max_readahead: u64,
    /// Keep full blocks that were just written in the cache too, not only short ones.
    pub cache_full_blocks: bool,
}

impl Config {
    /// The smallest buffer that lets writes of any usual size through.
    pub const BUFFER_BYTES_MIN: u64 = 8 << 20;

    /// Full blocks that fit any buffer: with fewer, one writer could never fill a block.
    const BUFFER_BLOCKS_MIN: u64 = 4;

    /// The buffer that is really used, in bytes.
    pub(crate) fn buffer_total_bytes(&self) -> u64 {
        let blocks = Self::BUFFER_BLOCKS_MIN * u64::from(self.block_bytes);
        self.buffer_bytes.max(Self::BUFFER_BYTES_MIN).max(blocks)
    }
}
