//! skeleton
#![expect(unused_variables, clippy::unimplemented, clippy::unused_async, reason = "skeleton")]
use crate::*;
use bytes::Bytes;
use cairn_cache::BlockCache;
use cairn_env::Env;
use cairn_object::ObjectStore;
use cairn_types::{BlockKey, SliceId, SliceRef};
use std::sync::Arc;

/// How closely [`ChunkStore::check`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Is the object there, of a possible length? One HEAD a block.
    Head,
    /// Does it decode? One GET a block, past the cache.
    Read,
}
/// Slices in an object store.
pub struct ChunkStore {}
impl ChunkStore {
    /// Inside a tokio runtime.
    pub fn new(env: Env, object: Arc<dyn ObjectStore>, cache: Arc<BlockCache>, config: Config) -> Arc<ChunkStore> {
        unimplemented!()
    }
    /// What it was made with.
    pub fn config(&self) -> &Config {
        unimplemented!()
    }
    /// The cache below.
    pub fn cache(&self) -> &Arc<BlockCache> {
        unimplemented!()
    }
    /// Room for a write of up to `bytes`; waits in line.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        unimplemented!()
    }
    /// Room for a write of up to `bytes` if there is room now and nobody waits.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        unimplemented!()
    }
    /// Writers wait for room, or soon will: flush something.
    pub fn pressure(&self) -> bool {
        unimplemented!()
    }
    /// Waits until a writer has to wait for room.
    pub async fn pressured(&self) {
        unimplemented!()
    }
    /// A new slice. `id` must be durably allocated: it is in the name of the first upload.
    pub fn writer(self: &Arc<Self>, id: SliceId) -> SliceWriter {
        unimplemented!()
    }
    /// Bytes of a slice.
    pub async fn read(self: &Arc<Self>, slice: SliceRef, off: u32, len: u32) -> Result<Bytes> {
        unimplemented!()
    }
    /// Bytes of a slice if they are in memory.
    pub fn read_now(&self, slice: SliceRef, off: u32, len: u32) -> Option<Bytes> {
        unimplemented!()
    }
    /// Fetches blocks behind the caller's back; skips what is cached or what is too much.
    pub fn prefetch(self: &Arc<Self>, slice: SliceRef, off: u32, len: u32) {
        unimplemented!()
    }
    /// One whole block into the cache, if it is not there yet.
    pub async fn warm(self: &Arc<Self>, key: BlockKey) -> Result<()> {
        unimplemented!()
    }
    /// Deletes all blocks of a slice, here and in the caches. Missing ones count as deleted.
    pub async fn delete(&self, slice: SliceRef) -> Result<()> {
        unimplemented!()
    }
    /// What is wrong with the blocks of a slice; empty if nothing.
    pub async fn check(&self, slice: SliceRef, depth: Depth) -> Vec<Error> {
        unimplemented!()
    }
    /// All blocks are there: one HEAD each.
    pub async fn verify(&self, slice: SliceRef) -> Result<()> {
        unimplemented!()
    }
    /// Its blocks, in order.
    pub fn blocks(&self, slice: SliceRef) -> impl Iterator<Item = BlockKey> + use<> {
        std::iter::empty()
    }
    /// Object key of a block.
    pub fn object_key(&self, key: BlockKey) -> String {
        unimplemented!()
    }
    /// Counters.
    pub fn stats(&self) -> ChunkStats {
        unimplemented!()
    }
    /// Waits for uploads and prefetches under way.
    pub async fn close(&self) {
        unimplemented!()
    }
}
