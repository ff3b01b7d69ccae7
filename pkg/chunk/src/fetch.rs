//! Blocks out of the store: cache, then one GET however many readers, decoded and verified.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_cache::BlockCache;
use cairn_env::{Budget, SingleFlight};
use cairn_types::layout::block_spans;
use cairn_types::{BlockKey, Compression, SliceRef};
use futures::future::try_join_all;
use parking_lot::Mutex;

use crate::block_buffer::join;
use crate::chunk_store::ChunkStore;
use crate::heat::Heat;
use crate::stats::add;
use crate::{Config, Error, Result, codec};

/// Blocks up to this are coded where they are: handing them to another thread costs more.
pub(crate) const INLINE_CODEC_BYTES: u32 = 16 * 1024;
/// A random read may ask the store for a part if it is at most one in this of the block.
const PART_SHARE: u32 = 4;

/// What the read path keeps between calls.
pub(crate) struct Fetching {
    flights: SingleFlight<BlockKey, Result<Bytes>>,
    /// Keys of the flights: a small read joins a whole fetch rather than make its own.
    flying: Mutex<HashSet<BlockKey>>,
    /// Memory for blocks on their way in, in bytes.
    room: Budget,
    /// Bytes that may be fetched ahead; `None`: nothing is.
    ahead: Option<Budget>,
    heat: Heat,
}

impl Fetching {
    pub(crate) fn new(config: &Config, cache: &BlockCache) -> Fetching {
        let block_bytes = u64::from(config.block_bytes);
        // More than the cache can hold on to would be fetched in vain.
        let ahead = (config.max_readahead + u64::from(config.prefetch) * block_bytes).min(cache.newcomer_bytes());
        let room = config.buffer_total_bytes() / 2;
        Fetching {
            flights: SingleFlight::new(),
            flying: Mutex::default(),
            room: Budget::new(room),
            ahead: (ahead > 0).then(|| Budget::new(ahead.max(block_bytes))),
            heat: Heat::new(),
        }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.flying.lock().len() as u64
    }
}

impl ChunkStore {
    /// `len` bytes of a slice from `off`. Waits for disk cache or store; one block is a reference into
    /// the cached one, several are joined.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`]: mostly the slice list is stale. [`Error::Corrupt`]: the block came twice and
    /// is not what its key says; logged. [`Error::Store`]: retries are used up.
    pub async fn read(self: &Arc<Self>, slice: SliceRef, off: u32, len: u32) -> Result<Bytes> {
        let mut spans = self.spans(slice, off, len)?;
        if let [(key, range)] = spans.as_slice() {
            return self.read_block(*key, range.clone()).await;
        }
        let pieces = try_join_all(spans.drain(..).map(|(key, range)| self.read_block(key, range))).await?;
        Ok(join(&pieces))
    }

    /// The same if all of it is in memory. Never waits.
    pub fn read_now(&self, slice: SliceRef, off: u32, len: u32) -> Option<Bytes> {
        let spans = self.spans(slice, off, len).ok()?;
        let pieces: Option<Vec<_>> = spans.into_iter().map(|(key, range)| self.cache().get_now(key, range)).collect();
        pieces.map(|pieces| join(&pieces))
    }

    fn spans(&self, slice: SliceRef, off: u32, len: u32) -> Result<Vec<(BlockKey, Range<u32>)>> {
        if u64::from(off) + u64::from(len) > u64::from(slice.size) {
            return Err(Error::OutOfSlice { slice, off, len });
        }
        let spans = block_spans(slice, off, len, self.config().block_bytes).map(|span| {
            let key = BlockKey { id: slice.id, index: span.index, len: span.block_len };
            (key, span.pos..span.pos + span.len)
        });
        Ok(spans.collect())
    }

    /// Bytes `range` of one block.
    pub(crate) async fn read_block(self: &Arc<Self>, key: BlockKey, range: Range<u32>) -> Result<Bytes> {
        if let Some(bytes) = self.cache().get(key, range.clone()).await {
            return Ok(bytes);
        }
        if self.wants_part(key, &range) {
            return self.fetch_part(key, range).await;
        }
        let block = self.fetch(key).await?;
        Ok(block.slice(range.start as usize..range.end as usize))
    }

    /// Is it a small random read, cheaper served by a ranged GET? The start of a block is taken for the
    /// start of a sequential reader. A block that is read again and again is fetched whole behind it.
    fn wants_part(self: &Arc<Self>, key: BlockKey, range: &Range<u32>) -> bool {
        let len = range.end - range.start;
        if self.config().compression != Compression::None || len == key.len || self.is_staged(key) {
            return false;
        }
        if !self.cache().keeps_blocks() {
            return true;
        }
        if range.start == 0 || len > key.len / PART_SHARE || self.fetching().flying.lock().contains(&key) {
            return false;
        }
        let warm = self.fetching().heat.note(key, len);
        !warm || self.fetch_ahead(key)
    }

    async fn fetch_part(&self, key: BlockKey, range: Range<u32>) -> Result<Bytes> {
        let wanted = u64::from(range.start)..u64::from(range.end);
        let mut outcome = self.get_part(key, wanted.clone()).await;
        if matches!(outcome, Err(Error::Corrupt { .. })) {
            add(&self.counters().refetches, 1);
            outcome = self.get_part(key, wanted).await;
        }
        self.note_failure(outcome)
    }

    async fn get_part(&self, key: BlockKey, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end - range.start;
        let got = self.object().get(&self.object_key(key), Some(range)).await;
        let bytes = got.map_err(|e| Error::from_store(key, e))?;
        if bytes.len() as u64 != wanted {
            return Err(Error::Corrupt { key, reason: format!("{} bytes instead of {wanted}", bytes.len()) });
        }
        add(&self.counters().range_gets, 1);
        add(&self.counters().range_get_bytes, wanted);
        Ok(bytes)
    }

    /// The whole block, fetched once for everybody who wants it now, and kept in the cache.
    pub(crate) async fn fetch(self: &Arc<Self>, key: BlockKey) -> Result<Bytes> {
        let store = self.clone();
        self.fetching().flights.run(key, move || store.fetch_alone(key)).await
    }

    async fn fetch_alone(self: Arc<Self>, key: BlockKey) -> Result<Bytes> {
        let _flying = Flying::start(&self, key);
        // A flight may have landed between this caller's look into the cache and now.
        if let Some(block) = self.cache().get_now(key, 0..key.len) {
            return Ok(block);
        }
        let copies = if self.config().compression == Compression::None { 1 } else { 2 };
        let _room = self.fetching().room.acquire(u64::from(key.len) * copies).await;
        let mut outcome = self.get_whole(key).await;
        if matches!(outcome, Err(Error::Corrupt { .. })) {
            add(&self.counters().refetches, 1);
            outcome = self.get_whole(key).await;
        }
        if let Ok(block) = &outcome {
            self.cache().put(key, block.clone());
        }
        self.note_failure(outcome)
    }

    /// One GET and one decode, past the cache.
    pub(crate) async fn get_whole(&self, key: BlockKey) -> Result<Bytes> {
        let (codec, block_bytes) = (self.config().compression, self.config().block_bytes);
        let corrupt = |reason| Error::Corrupt { key, reason };
        if key.len > block_bytes {
            return Err(corrupt(format!("longer than a block of {block_bytes}")));
        }
        if let Some(block) = self.staged_plain(key).await? {
            return Ok(block);
        }
        let stored = self.object().get(&self.object_key(key), None).await.map_err(|e| Error::from_store(key, e))?;
        let len = key.len as usize;
        let block = if codec == Compression::None || key.len <= INLINE_CODEC_BYTES {
            codec::decode(codec, stored, len)
        } else {
            self.env().blocking(move || codec::decode(codec, stored, len)).await
        };
        add(&self.counters().get_blocks, 1);
        add(&self.counters().get_bytes, u64::from(key.len));
        block.map_err(corrupt)
    }

    fn note_failure<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            add(&self.counters().get_errors, 1);
            if let Error::Corrupt { key, reason } = error {
                add(&self.counters().corrupt_blocks, 1);
                tracing::error!(%key, object = self.object_key(*key), reason, "block is damaged");
            }
        }
        outcome
    }

    /// Fetches the blocks of a range behind the caller's back. Blocks that are cached or on their way
    /// are left out, and so is what exceeds the read-ahead limit.
    pub fn prefetch(self: &Arc<Self>, slice: SliceRef, off: u32, len: u32) {
        for (key, _) in self.spans(slice, off, len).unwrap_or_default() {
            if !self.cache().contains(key) {
                self.fetch_ahead(key);
            }
        }
    }

    /// Is the block on its way, by this call or an earlier one?
    fn fetch_ahead(self: &Arc<Self>, key: BlockKey) -> bool {
        if !self.cache().keeps_blocks() {
            return false;
        }
        let Some(ahead) = &self.fetching().ahead else { return false };
        if self.fetching().flying.lock().contains(&key) {
            return true;
        }
        let Some(room) = ahead.try_acquire(u64::from(key.len)) else {
            add(&self.counters().prefetches_skipped, 1);
            return false;
        };
        let flying = Flying::start(self, key);
        self.spawn(async move {
            let store = flying.store.clone();
            match store.warm(key).await {
                Ok(()) => add(&store.counters().prefetched_blocks, 1),
                // Whoever wants the block will meet the error and tell it.
                Err(error) => tracing::debug!(%key, %error, "read-ahead failed"),
            }
            drop((room, flying));
        });
        true
    }

    /// One whole block into the cache, if it is not there yet.
    ///
    /// # Errors
    ///
    /// Those of [`ChunkStore::read`].
    pub async fn warm(self: &Arc<Self>, key: BlockKey) -> Result<()> {
        // The disk may hold a block that is not indexed yet: one byte shows it.
        if self.cache().contains(key) || self.cache().get(key, 0..key.len.min(1)).await.is_some() {
            return Ok(());
        }
        self.fetch(key).await.map(drop)
    }
}

/// Marks a block as on its way in.
struct Flying {
    store: Arc<ChunkStore>,
    key: BlockKey,
    /// Another mark was there before: it stays when this one goes.
    again: bool,
}

impl Flying {
    fn start(store: &Arc<ChunkStore>, key: BlockKey) -> Flying {
        let again = !store.fetching().flying.lock().insert(key);
        Flying { store: store.clone(), key, again }
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        if !self.again {
            self.store.fetching().flying.lock().remove(&self.key);
        }
    }
}
