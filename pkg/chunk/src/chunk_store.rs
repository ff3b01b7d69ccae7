//! Slices in an object store: what vfs and jobs call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_cache::BlockCache;
use cairn_crypt::Cipher;
use cairn_env::{Env, TaskSet};
use cairn_object::{ObjectStore, Payload};
use cairn_types::layout::{block_count, block_len};
use cairn_types::{BlockKey, SliceId, SliceRef};
use futures::StreamExt;
use futures::stream;
use tokio::runtime::Handle;

use crate::fetch::{Fetching, INLINE_CODEC_BYTES};
use crate::pool::Pool;
use crate::stats::{Counters, add};
use crate::{ChunkStats, Codec, Config, Error, Loose, Reservation, Result, SliceWriter, Staging};

/// Blocks of one slice deleted or looked at together.
const BLOCKS_AT_ONCE: usize = 16;
/// Free pages go back to the system after this long without a write.
const IDLE_PERIOD: Duration = Duration::from_secs(10);

/// Slices in an object store, with a bounded buffer in front and the cache beside.
pub struct ChunkStore {
    env: Env,
    object: Arc<dyn ObjectStore>,
    cache: Arc<BlockCache>,
    config: Config,
    codec: Codec,
    pool: Arc<Pool>,
    fetching: Fetching,
    tasks: TaskSet,
    runtime: Handle,
    counters: Counters,
    staging: Option<Arc<Staging>>,
}

/// How closely [`ChunkStore::check`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Is the object there, of a possible length? One HEAD a block.
    Head,
    /// Does it decode? One GET a block, past the cache.
    Read,
}

impl ChunkStore {
    /// Blocks of a volume that is not encrypted. Must be called inside a tokio runtime: that is where
    /// uploads will run.
    pub fn new(env: Env, object: Arc<dyn ObjectStore>, cache: Arc<BlockCache>, config: Config) -> Arc<ChunkStore> {
        ChunkStore::with_cipher(env, object, cache, config, None)
    }

    /// The same; blocks are sealed with `cipher`. The `cache` must not keep them in clear then.
    pub fn with_cipher(
        env: Env,
        object: Arc<dyn ObjectStore>,
        cache: Arc<BlockCache>,
        config: Config,
        cipher: Option<Arc<Cipher>>,
    ) -> Arc<ChunkStore> {
        ChunkStore::with_staging(env, object, cache, config, cipher, None)
    }

    /// The same, uploading what is staged on this machine, and staging if its rules say so.
    pub fn with_staging(
        env: Env,
        object: Arc<dyn ObjectStore>,
        cache: Arc<BlockCache>,
        config: Config,
        cipher: Option<Arc<Cipher>>,
        staging: Option<Staging>,
    ) -> Arc<ChunkStore> {
        let codec = Codec::new(config.compression, cipher);
        let pool = Pool::new(&config, &codec);
        let tasks = TaskSet::new(env.clone());
        trim_when_idle(&tasks, &pool);
        let store = Arc::new(ChunkStore {
            staging: staging.map(Arc::new),
            fetching: Fetching::new(&config, &cache),
            runtime: Handle::current(),
            counters: Counters::default(),
            env,
            object,
            cache,
            config,
            codec,
            pool,
            tasks,
        });
        rest_when_idle(&store);
        store.start_uploader();
        store
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How its blocks become objects.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// The cache beside it.
    pub fn cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// The store below it.
    pub fn object(&self) -> &Arc<dyn ObjectStore> {
        &self.object
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn staging(&self) -> Option<&Arc<Staging>> {
        self.staging.as_ref()
    }

    pub(crate) fn tasks(&self) -> &TaskSet {
        &self.tasks
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(crate) fn fetching(&self) -> &Fetching {
        &self.fetching
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A task that [`ChunkStore::close`] waits for; also from threads outside the runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _inside = self.runtime.enter();
        self.tasks.spawn(task);
    }

    /// Resolves once [`ChunkStore::close`] was called.
    pub(crate) async fn stopping(&self) {
        self.tasks.stopping().await;
    }

    /// Room for one write of up to `bytes`; waits in line until there is.
    ///
    /// A write may touch one page more than its length needs, so this takes up to 64 KiB more; what is
    /// not used goes back when the reservation is dropped, and the rest when its block is stored.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        self.pool.reserve(bytes).await
    }

    /// The same if there is room now and nobody waits in line. Never waits.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        self.pool.try_reserve(bytes)
    }

    /// Writers wait for room, or soon will: flushing something helps.
    pub fn pressure(&self) -> bool {
        self.pool.under_pressure()
    }

    /// Waits until a writer has begun to wait for room since the last call. For one listener, who then
    /// flushes while [`ChunkStore::pressure`] lasts and there is something to flush.
    pub async fn pressured(&self) {
        self.pool.pressured().await;
    }

    /// A new slice. The id is in the name of its first upload, so it must be taken for good already.
    pub fn writer(self: &Arc<Self>, id: SliceId) -> SliceWriter {
        SliceWriter::new(self.clone(), id, false)
    }

    /// The same, but in write-back mode its blocks count as stored once they are staged. Whoever
    /// commits it must ask [`ChunkStore::about_to_commit`] first.
    pub fn staging_writer(self: &Arc<Self>, id: SliceId) -> SliceWriter {
        SliceWriter::new(self.clone(), id, true)
    }

    /// A slice of bytes gathered elsewhere, one after the other: several records will point into it.
    /// It takes no more; its blocks leave with [`SliceWriter::finish`], staged as those of
    /// [`ChunkStore::staging_writer`] are.
    pub fn pack(self: &Arc<Self>, id: SliceId, loose: impl IntoIterator<Item = Loose>) -> SliceWriter {
        SliceWriter::sealed(self.clone(), id, loose, true)
    }

    /// Its blocks, in order.
    pub fn blocks(&self, slice: SliceRef) -> impl Iterator<Item = BlockKey> + use<> {
        let block_bytes = self.config.block_bytes;
        (0..block_count(slice.size, block_bytes)).map(move |index| BlockKey {
            id: slice.id,
            index,
            len: block_len(slice, index, block_bytes),
        })
    }

    /// The name of a block in the store, without the volume's prefix.
    pub fn object_key(&self, key: BlockKey) -> String {
        key.object_key(self.config.key_layout)
    }

    /// Encodes and stores one block. A short one is kept in the cache: whoever writes small files often
    /// reads them again.
    pub(crate) async fn put_block(&self, key: BlockKey, pieces: Vec<Bytes>, staging: bool) -> Result<()> {
        let plain = Payload(pieces);
        debug_assert_eq!(plain.len(), key.len as usize, "block {key}");
        let outcome = if self.codec.is_plain() {
            self.put_object(key, plain.clone(), staging).await
        } else {
            self.put_encoded(key, plain.clone(), staging).await
        };
        if outcome.is_err() {
            add(&self.counters.put_errors, 1);
            return outcome;
        }
        add(&self.counters.put_blocks, 1);
        add(&self.counters.put_bytes, u64::from(key.len));
        if self.cache.keeps_blocks() && (self.config.cache_full_blocks || key.len < self.config.block_bytes) {
            // A copy: the pages belong to the buffer and must go back to it.
            self.cache.put(key, plain.0.concat().into());
        }
        Ok(())
    }

    async fn put_object(&self, key: BlockKey, body: Payload, staging: bool) -> Result<()> {
        if staging && self.stage(key, body.0.clone()).await {
            return Ok(());
        }
        let bytes = body.len() as u64;
        let put = self.object.put(&self.object_key(key), body).await;
        put.map_err(|source| Error::Store { key, source })?;
        add(&self.counters.put_stored_bytes, bytes);
        Ok(())
    }

    async fn put_encoded(&self, key: BlockKey, plain: Payload, staging: bool) -> Result<()> {
        let codec = self.codec.clone();
        let mut room = self.pool.scratch(codec.scratch_bytes(key.len)).await;
        let encode = move || codec.encode(&plain.0);
        let stored = if key.len <= INLINE_CODEC_BYTES { encode() } else { self.env.blocking(encode).await };
        // What the encoding took on its way is free again; the object stays until it is stored.
        drop(room.split(room.units().saturating_sub(stored.len() as u64)));
        self.put_object(key, stored.into(), staging).await
    }

    /// Deletes all blocks of a slice, in the store and in the caches of this client. Missing ones count
    /// as deleted.
    ///
    /// # Errors
    ///
    /// The first block that could not be deleted; the others are tried all the same.
    pub async fn delete(&self, slice: SliceRef) -> Result<()> {
        self.delete_blocks(self.blocks(slice).collect()).await
    }

    pub(crate) async fn delete_blocks(&self, keys: Vec<BlockKey>) -> Result<()> {
        keys.iter().for_each(|key| self.cache.remove(*key));
        let keys = self.unstage(keys).await;
        let outcomes = stream::iter(keys).map(|key| self.delete_block(key)).buffer_unordered(BLOCKS_AT_ONCE);
        outcomes.fold(Ok(()), |first, outcome| async { first.and(outcome) }).await
    }

    async fn delete_block(&self, key: BlockKey) -> Result<()> {
        self.fetching.forget(key);
        self.cache.remove(key);
        match self.object.delete(&self.object_key(key)).await {
            Err(source) if !source.is_not_found() => Err(Error::Store { key, source }),
            _ => {
                add(&self.counters.deleted_blocks, 1);
                Ok(())
            }
        }
    }

    /// What is wrong with the blocks of a slice, in order; empty if nothing is.
    pub async fn check(&self, slice: SliceRef, depth: Depth) -> Vec<Error> {
        let blocks = stream::iter(self.blocks(slice)).map(|key| self.check_block(key, depth));
        blocks.buffered(BLOCKS_AT_ONCE).filter_map(|outcome| async { outcome.err() }).collect().await
    }

    /// What is wrong with one block, past the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Corrupt`], or [`Error::Store`] if the store cannot say.
    pub async fn check_block(&self, key: BlockKey, depth: Depth) -> Result<()> {
        if depth == Depth::Read {
            return self.get_whole(key).await.map(drop);
        }
        if self.is_staged(key) {
            return Ok(());
        }
        let info = self.object.head(&self.object_key(key)).await.map_err(|e| Error::from_store(key, e))?;
        if self.codec.object_bytes(key.len).contains(&info.bytes) {
            return Ok(());
        }
        Err(Error::Corrupt { key, reason: format!("object of {} bytes for a block of {}", info.bytes, key.len) })
    }

    /// Are all blocks there, of a possible length? One HEAD each.
    ///
    /// # Errors
    ///
    /// The first block that is not.
    pub async fn verify(&self, slice: SliceRef) -> Result<()> {
        self.check(slice, Depth::Head).await.into_iter().next().map_or(Ok(()), Err)
    }

    /// Counters, and what is held now.
    pub fn stats(&self) -> ChunkStats {
        let (buffer_used_bytes, buffer_total_bytes) = self.pool.usage();
        ChunkStats {
            buffer_used_bytes,
            buffer_total_bytes,
            writers_waiting: self.pool.waiting(),
            fetching_blocks: self.fetching.in_flight().0,
            ahead_blocks: self.fetching.in_flight().1,
            page_memory_bytes: self.pool.held(),
            ..self.counters.snapshot()
        }
    }

    /// Waits for uploads and prefetches under way. Slices that are not finished are not stored by this:
    /// finish them first.
    pub async fn close(&self) {
        self.tasks.stop().await;
        if let Some(staging) = &self.staging {
            staging.close().await;
        }
    }
}

impl std::fmt::Debug for ChunkStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkStore").field("object", &self.object).field("config", &self.config).finish()
    }
}

/// Gives back what was read ahead and left alone, and parts once a whole period has passed without one.
fn rest_when_idle(store: &Arc<ChunkStore>) {
    let (set, store) = (store.tasks.clone(), Arc::downgrade(store));
    let tasks = set.clone();
    tasks.spawn(async move {
        let mut seen = 0;
        while set.rest(IDLE_PERIOD).await {
            let Some(store) = store.upgrade() else { return };
            store.fetching.rest(store.env.instant());
            let parts = store.counters.snapshot().range_gets;
            if parts == seen {
                store.fetching.clear_parts();
            }
            seen = parts;
        }
    });
}

/// Gives free pages back once a whole period has passed without a write.
fn trim_when_idle(tasks: &TaskSet, pool: &Arc<Pool>) {
    let (set, pool) = (tasks.clone(), Arc::downgrade(pool));
    tasks.spawn(async move {
        let mut seen = 0;
        while set.rest(IDLE_PERIOD).await {
            let Some(pool) = pool.upgrade() else { return };
            if pool.lent() == seen {
                pool.trim();
            }
            seen = pool.lent();
        }
    });
}
