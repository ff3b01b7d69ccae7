//! What the data path has done, in numbers.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Counters since the store was opened, and what it holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ChunkStats {
    /// Blocks stored.
    pub put_blocks: u64,
    /// Plain bytes of those.
    pub put_bytes: u64,
    /// Bytes sent for those, after compression.
    pub put_stored_bytes: u64,
    /// Puts that failed after all retries.
    pub put_errors: u64,
    /// Whole blocks fetched.
    pub get_blocks: u64,
    /// Plain bytes of those.
    pub get_bytes: u64,
    /// Ranged reads of a block.
    pub range_gets: u64,
    /// Bytes of those.
    pub range_get_bytes: u64,
    /// Fetches that failed after all retries.
    pub get_errors: u64,
    /// Blocks fetched a second time because the first did not decode.
    pub refetches: u64,
    /// Blocks that did not decode twice in a row.
    pub corrupt_blocks: u64,
    /// Blocks fetched ahead of a reader.
    pub prefetched_blocks: u64,
    /// Prefetches not begun because enough were in flight.
    pub prefetches_skipped: u64,
    /// Gets made twice because the first was slow to begin.
    pub hedged_gets: u64,
    /// Blocks deleted.
    pub deleted_blocks: u64,
    /// Bytes of buffer in use.
    pub buffer_used_bytes: u64,
    /// Bytes of buffer in all.
    pub buffer_total_bytes: u64,
    /// Writers waiting for buffer.
    pub writers_waiting: u64,
    /// Fetches in flight.
    pub fetching_blocks: u64,
    /// Blocks read ahead that wait for their reader.
    pub ahead_blocks: u64,
    /// Memory held for pages, lent or free, in bytes.
    pub page_memory_bytes: u64,
}

/// The counters behind [`ChunkStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) put_blocks: AtomicU64,
    pub(crate) put_bytes: AtomicU64,
    pub(crate) put_stored_bytes: AtomicU64,
    pub(crate) put_errors: AtomicU64,
    pub(crate) get_blocks: AtomicU64,
    pub(crate) get_bytes: AtomicU64,
    pub(crate) range_gets: AtomicU64,
    pub(crate) range_get_bytes: AtomicU64,
    pub(crate) get_errors: AtomicU64,
    pub(crate) refetches: AtomicU64,
    pub(crate) corrupt_blocks: AtomicU64,
    pub(crate) prefetched_blocks: AtomicU64,
    pub(crate) prefetches_skipped: AtomicU64,
    pub(crate) hedged_gets: AtomicU64,
    pub(crate) deleted_blocks: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

impl Counters {
    /// The counters as they are now; what is held is left at zero.
    pub(crate) fn snapshot(&self) -> ChunkStats {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        ChunkStats {
            put_blocks: get(&self.put_blocks),
            put_bytes: get(&self.put_bytes),
            put_stored_bytes: get(&self.put_stored_bytes),
            put_errors: get(&self.put_errors),
            get_blocks: get(&self.get_blocks),
            get_bytes: get(&self.get_bytes),
            range_gets: get(&self.range_gets),
            range_get_bytes: get(&self.range_get_bytes),
            get_errors: get(&self.get_errors),
            refetches: get(&self.refetches),
            corrupt_blocks: get(&self.corrupt_blocks),
            prefetched_blocks: get(&self.prefetched_blocks),
            prefetches_skipped: get(&self.prefetches_skipped),
            hedged_gets: get(&self.hedged_gets),
            deleted_blocks: get(&self.deleted_blocks),
            ..ChunkStats::default()
        }
    }
}
