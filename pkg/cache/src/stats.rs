//! What the cache has done, in numbers.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Counters since the cache was opened, and what it holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Reads answered from memory.
    pub memory_hits: u64,
    /// Bytes of those.
    pub memory_hit_bytes: u64,
    /// Reads answered from disk.
    pub disk_hits: u64,
    /// Bytes of those.
    pub disk_hit_bytes: u64,
    /// Reads that found nothing.
    pub misses: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Blocks in memory.
    pub memory_blocks: u64,
    /// Bytes on disk, as far as indexed, 4096 for each file added.
    pub disk_bytes: u64,
    /// Files on disk, as far as indexed.
    pub disk_blocks: u64,
    /// Files written.
    pub disk_writes: u64,
    /// Bytes of those.
    pub disk_write_bytes: u64,
    /// Blocks the queue or a full disk had no room for.
    pub disk_drops: u64,
    /// Files evicted.
    pub evictions: u64,
    /// Bytes of those.
    pub evicted_bytes: u64,
    /// Files removed because their checksum or size was wrong.
    pub damaged: u64,
    /// Failed calls to a cache directory.
    pub disk_errors: u64,
    /// Directories in use.
    pub dirs: u64,
    /// Directories taken out of use.
    pub dirs_failed: u64,
}

/// The counters behind [`CacheStats`], shared by all parts of the cache.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) memory_hits: AtomicU64,
    pub(crate) memory_hit_bytes: AtomicU64,
    pub(crate) disk_hits: AtomicU64,
    pub(crate) disk_hit_bytes: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) disk_writes: AtomicU64,
    pub(crate) disk_write_bytes: AtomicU64,
    pub(crate) disk_drops: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) evicted_bytes: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) disk_errors: AtomicU64,
    pub(crate) dirs_failed: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

impl Counters {
    /// The counters as they are now; what the parts hold is left at zero.
    pub(crate) fn snapshot(&self) -> CacheStats {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        CacheStats {
            memory_hits: get(&self.memory_hits),
            memory_hit_bytes: get(&self.memory_hit_bytes),
            disk_hits: get(&self.disk_hits),
            disk_hit_bytes: get(&self.disk_hit_bytes),
            misses: get(&self.misses),
            disk_writes: get(&self.disk_writes),
            disk_write_bytes: get(&self.disk_write_bytes),
            disk_drops: get(&self.disk_drops),
            evictions: get(&self.evictions),
            evicted_bytes: get(&self.evicted_bytes),
            damaged: get(&self.damaged),
            disk_errors: get(&self.disk_errors),
            dirs_failed: get(&self.dirs_failed),
            ..CacheStats::default()
        }
    }
}
