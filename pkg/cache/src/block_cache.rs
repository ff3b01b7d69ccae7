//! The cache as its users see it: memory in front of disk.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_crypt::Cipher;
use cairn_env::Env;
use cairn_types::BlockKey;

use crate::disk::Disk;
use crate::memory::Memory;
use crate::stats::{Counters, add};
use crate::{CacheStats, Config, Error, Result};

/// Blocks kept nearby. Immutable, so never stale; never the only copy, so never a loss.
pub struct BlockCache {
    memory: Memory,
    memory_bytes_max: u64,
    disk: Arc<Disk>,
    counters: Arc<Counters>,
}

impl BlockCache {
    /// Opens the cache, inside a tokio runtime. Directories that cannot be used are left out with a
    /// warning each; what they hold is indexed in the background.
    ///
    /// # Errors
    ///
    /// Only for settings that make no sense.
    pub fn open(env: Env, config: Config) -> Result<Arc<BlockCache>> {
        BlockCache::with_cipher(env, config, None)
    }

    /// The same; what goes to disk is sealed with `cipher`. Its directories must then be other ones than
    /// those of a cache in clear: each would take the other's files for damaged.
    ///
    /// # Errors
    ///
    /// Those of [`BlockCache::open`].
    pub fn with_cipher(env: Env, config: Config, cipher: Option<Arc<Cipher>>) -> Result<Arc<BlockCache>> {
        if !(0.0..=1.0).contains(&config.free_space_ratio) {
            return Err(Error::FreeSpaceRatio { ratio: config.free_space_ratio });
        }
        let counters = Arc::new(Counters::default());
        Ok(Arc::new(BlockCache {
            memory: Memory::new(config.memory_bytes),
            memory_bytes_max: config.memory_bytes,
            disk: Disk::open(&env, &config, cipher.as_ref(), &counters),
            counters,
        }))
    }

    /// Bytes `range` of a block, from memory or disk; waits for the disk at most.
    ///
    /// What comes from disk is verified. A damaged file is removed and counts as absent.
    pub async fn get(&self, key: BlockKey, range: Range<u32>) -> Option<Bytes> {
        if let Some(bytes) = self.get_now(key, range.clone()) {
            return Some(bytes);
        }
        let found = self.disk.get(key, range).await;
        match &found {
            Some(bytes) => {
                add(&self.counters.disk_hits, 1);
                add(&self.counters.disk_hit_bytes, bytes.len() as u64);
            }
            None => add(&self.counters.misses, 1),
        }
        found
    }

    /// Bytes `range` of a block if they are in memory. Never waits.
    pub fn get_now(&self, key: BlockKey, range: Range<u32>) -> Option<Bytes> {
        assert!(range.start <= range.end && range.end <= key.len, "range {range:?} is outside block {key}");
        let bytes = self.memory.get(key, &range).or_else(|| self.disk.get_waiting(key, &range))?;
        add(&self.counters.memory_hits, 1);
        add(&self.counters.memory_hit_bytes, bytes.len() as u64);
        Some(bytes)
    }

    /// Keeps a whole block: in memory at once, on disk in the background. Never waits; what there is
    /// no room for is dropped.
    pub fn put(&self, key: BlockKey, block: Bytes) {
        assert_eq!(block.len(), key.len as usize, "block {key} has another length");
        self.memory.put(key, block.clone());
        self.disk.put(key, block);
    }

    /// Is the block here, as far as is known? Never waits. A block on disk that is not indexed yet
    /// counts as absent.
    pub fn contains(&self, key: BlockKey) -> bool {
        self.memory.contains(key) || self.disk.contains(key)
    }

    /// Is what [`BlockCache::contains`] denies really absent? Not before each directory was scanned once.
    pub fn is_indexed(&self) -> bool {
        self.disk.is_indexed()
    }

    /// Forgets a block; its file goes in the background.
    pub fn remove(&self, key: BlockKey) {
        self.memory.remove(key);
        self.disk.remove(key);
    }

    /// Gives all memory back; what is on disk stays.
    pub fn clear_memory(&self) {
        self.memory.clear();
    }

    /// Is there a place where a block that is put now may be found later?
    pub fn keeps_blocks(&self) -> bool {
        self.memory_bytes_max > 0 || self.disk.is_usable()
    }

    /// Counters, and what is held now.
    pub fn stats(&self) -> CacheStats {
        let (memory_bytes, memory_blocks) = self.memory.usage();
        let (disk_bytes, disk_blocks, dirs) = self.disk.usage();
        CacheStats { memory_bytes, memory_blocks, disk_bytes, disk_blocks, dirs, ..self.counters.snapshot() }
    }

    /// Writes what is queued and stops the background work. Later puts reach memory only.
    pub async fn close(&self) {
        self.disk.close().await;
    }
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache").field("stats", &self.stats()).finish()
    }
}
