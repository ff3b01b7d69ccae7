//! Whole blocks in memory, bounded by bytes.

use std::ops::Range;

use bytes::Bytes;
use cairn_types::BlockKey;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

/// What an entry counts for beyond its block.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
/// A shard holds several of the largest blocks, or they would never be admitted.
const SHARD_BYTES_MIN: u64 = 64 << 20;
const SHARDS_MAX: u64 = 8;
/// Half stays with the newcomers, so that read-ahead is still there when its reader arrives.
const HOT_SHARE: f64 = 0.5;

#[derive(Clone, Copy)]
struct ByBytes;

impl Weighter<BlockKey, Bytes> for ByBytes {
    fn weight(&self, _: &BlockKey, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// The memory cache; holds nothing if it was given no room.
pub(crate) struct Memory {
    blocks: Option<Cache<BlockKey, Bytes, ByBytes>>,
}

impl Memory {
    pub(crate) fn new(bytes: u64) -> Memory {
        let cache = || {
            let options = OptionsBuilder::new()
                .weight_capacity(bytes)
                .estimated_items_capacity((bytes >> 18).clamp(64, 1 << 16) as usize)
                .shards((bytes / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX) as usize)
                .hot_allocation(HOT_SHARE)
                .build()
                .expect("all options are given");
            Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
        };
        Memory { blocks: (bytes > 0).then(cache) }
    }

    pub(crate) fn get(&self, key: BlockKey, range: &Range<u32>) -> Option<Bytes> {
        let block = self.blocks.as_ref()?.get(&key)?;
        Some(block.slice(range.start as usize..range.end as usize))
    }

    pub(crate) fn put(&self, key: BlockKey, block: Bytes) {
        if let Some(blocks) = &self.blocks {
            blocks.insert(key, block);
        }
    }

    pub(crate) fn contains(&self, key: BlockKey) -> bool {
        self.blocks.as_ref().is_some_and(|blocks| blocks.contains_key(&key))
    }

    pub(crate) fn remove(&self, key: BlockKey) {
        if let Some(blocks) = &self.blocks {
            blocks.remove(&key);
        }
    }

    pub(crate) fn clear(&self) {
        if let Some(blocks) = &self.blocks {
            blocks.clear();
        }
    }

    /// Bytes and blocks held.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.blocks.as_ref().map_or((0, 0), |blocks| (blocks.weight(), blocks.len() as u64))
    }
}
