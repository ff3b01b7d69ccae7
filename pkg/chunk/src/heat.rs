//! Is a block read so often in small pieces that it is better fetched whole?

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use cairn_types::BlockKey;
use quick_cache::sync::Cache;

/// Blocks remembered.
const BLOCKS_MAX: usize = 4096;
/// So many small reads make a block worth fetching whole,
const HITS_MAX: u32 = 4;
/// or so many of its bytes: one in this.
const COVERAGE: u32 = 4;

/// Small reads of late, by block.
pub(crate) struct Heat {
    reads: Cache<BlockKey, Arc<Reads>>,
}

#[derive(Default)]
struct Reads {
    hits: AtomicU32,
    bytes: AtomicU32,
}

impl Heat {
    pub(crate) fn new() -> Heat {
        Heat { reads: Cache::new(BLOCKS_MAX) }
    }

    /// Notes a small read; `true` once the block has had enough of them.
    pub(crate) fn note(&self, key: BlockKey, bytes: u32) -> bool {
        let reads = self.reads.get(&key).unwrap_or_else(|| {
            let fresh = Arc::new(Reads::default());
            self.reads.insert(key, fresh.clone());
            fresh
        });
        let hits = reads.hits.fetch_add(1, Relaxed) + 1;
        let bytes = reads.bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        hits >= HITS_MAX || bytes >= key.len / COVERAGE
    }
}
