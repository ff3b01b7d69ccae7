//! What the data path has done, in numbers.

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
    /// Memory held for pages, lent or free, in bytes.
    pub page_memory_bytes: u64,
}
