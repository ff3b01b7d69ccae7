//! A small volume: engine and store in memory, time that only tests move.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_cache::BlockCache;
use cairn_chunk::ChunkStore;
use cairn_env::Env;
use cairn_meta::engine::mem::MemEngine;
use cairn_meta::invariants::{CheckVolume, Violation};
use cairn_meta::txn::{Context, Engine, Op, Txn};
use cairn_meta::{Cred, Durability, Meta, NewNode, NewSlice, format_volume};
use cairn_object::{MemStore, ObjectStore, Payload};
use cairn_types::{ChunkIndex, Compression, Format, Ino, KeyLayout, SliceRecord, SliceRef, chunk_spans};
use futures::TryStreamExt;

/// Small blocks, so that small slices have several.
pub(crate) const BLOCK: u32 = 64 << 10;

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) engine: Arc<dyn Engine>,
    /// The same engine, if it is the one in memory.
    mem: Option<Arc<MemEngine>>,
    pub(crate) meta: Arc<Meta>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) chunks: Arc<ChunkStore>,
}

pub(crate) fn format(trash_days: u32) -> Format {
    Format {
        name: "vol".into(),
        uuid: "00000000-0000-4000-8000-000000000000".into(),
        block_size: BLOCK / 1024,
        trash_days,
        meta_version: 1,
        dir_stats: true,
        user_group_quota: true,
        change_log: true,
        ..Format::default()
    }
}

pub(crate) fn chunk_store(
    env: &Env,
    store: &Arc<dyn ObjectStore>,
    block_bytes: u32,
    compression: Compression,
) -> Arc<ChunkStore> {
    let cache = cairn_cache::Config {
        dirs: vec![],
        memory_bytes: 0,
        disk_bytes: 0,
        disk_items: 0,
        free_space_ratio: 0.0,
        checksum: cairn_cache::ChecksumLevel::None,
        eviction: cairn_cache::Eviction::None,
        file_mode: 0o600,
        key_layout: KeyLayout::Plain,
    };
    let config = cairn_chunk::Config {
        block_bytes,
        compression,
        key_layout: KeyLayout::Plain,
        buffer_bytes: 32 << 20,
        prefetch: 0,
        max_readahead: 0,
        cache_full_blocks: false,
    };
    let cache = BlockCache::open(env.clone(), cache).expect("a cache without directories");
    ChunkStore::new(env.clone(), store.clone(), cache, config)
}

impl World {
    pub(crate) async fn new(trash_days: u32) -> World {
        World::with(trash_days, Compression::None).await
    }

    pub(crate) async fn with(trash_days: u32, compression: Compression) -> World {
        let env = Env::simulated(7);
        let mem = MemEngine::new(env.clone());
        let mut world = World::on(env, mem.clone(), trash_days, compression).await;
        world.mem = Some(mem);
        world
    }

    /// A fresh volume on any engine.
    pub(crate) async fn on(env: Env, engine: Arc<dyn Engine>, trash_days: u32, compression: Compression) -> World {
        format_volume(&env, &*engine, &format(trash_days)).await.expect("format");
        let store: Arc<dyn ObjectStore> = Arc::new(MemStore::new(&env));
        let chunks = chunk_store(&env, &store, BLOCK, compression);
        let meta = World::client(&env, engine.clone()).await;
        meta.start_session("{}".into()).await.expect("session");
        World { env, engine, mem: None, meta, store, chunks }
    }

    /// Stores a slice list as it is.
    pub(crate) fn put_raw_chunk(&self, ino: Ino, index: u32, raw: Vec<u8>) {
        self.mem.as_ref().expect("the engine in memory").put_raw_chunk(ino, ChunkIndex(index), raw);
    }

    /// Another client of the same volume, without a session.
    pub(crate) async fn client(env: &Env, engine: Arc<dyn Engine>) -> Arc<Meta> {
        Meta::open(env.clone(), engine, cairn_meta::Config::mount()).await.expect("open")
    }

    pub(crate) async fn dir(&self, parent: Ino, name: &str) -> Ino {
        self.meta.mknod(&Cred::root(), parent, name.as_bytes(), NewNode::dir(0o755)).await.expect("mkdir").0
    }

    /// A file of these bytes, in one slice per chunk.
    pub(crate) async fn file(&self, parent: Ino, name: &str, bytes: &[u8]) -> Ino {
        let (ino, _) =
            self.meta.mknod(&Cred::root(), parent, name.as_bytes(), NewNode::file(0o644)).await.expect("create");
        if !bytes.is_empty() {
            self.write(ino, 0, bytes).await;
        }
        ino
    }

    pub(crate) async fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) {
        for span in chunk_spans(offset, bytes.len() as u64) {
            let part = &bytes[span.at as usize..][..span.len as usize];
            let slice = self.store_slice(part).await;
            let record = SliceRecord::whole(span.pos, slice);
            let new = NewSlice { index: span.index, record, mtime: self.meta.now() };
            self.meta.commit(ino, vec![new], None, Durability::Process).await.expect("commit");
        }
    }

    pub(crate) async fn store_slice(&self, bytes: &[u8]) -> SliceRef {
        let writer = self.chunks.writer(self.meta.next_slice_id().await.expect("slice id"));
        for (i, part) in bytes.chunks(64 << 10).enumerate() {
            let mut room = self.chunks.reserve(part.len()).await;
            assert!(writer.write_at((i * (64 << 10)) as u32, part, &mut room));
        }
        writer.finish().await.expect("store").slice()
    }

    pub(crate) async fn read(&self, ino: Ino) -> Vec<u8> {
        read(&self.meta, &self.chunks, ino).await
    }

    pub(crate) async fn list(&self, ino: Ino, index: u32) -> Vec<SliceRecord> {
        self.meta.view(cairn_meta::ops::tree::Slices { ino, index: ChunkIndex(index) }).await.expect("list")
    }

    /// Object keys in order.
    pub(crate) async fn objects(&self) -> Vec<String> {
        self.store.list("", "").map_ok(|o| o.key).try_collect().await.expect("list objects")
    }

    pub(crate) async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.store.put(key, Payload::from(bytes)).await.expect("put");
    }

    pub(crate) async fn broken(&self) -> Vec<Violation> {
        self.meta.view(CheckVolume { strict: true }).await.expect("check").0
    }

    /// Every rule holds, exactly.
    pub(crate) async fn assert_lawful(&self) {
        let broken = self.broken().await;
        assert!(broken.is_empty(), "{}", broken.iter().map(|v| format!("\n  {v}")).collect::<String>());
    }

    /// Lets time pass, for tasks too.
    pub(crate) async fn pass(&self, duration: Duration) {
        self.env.sleep(duration).await;
    }

    /// Changes records behind the back of the rules.
    pub(crate) async fn tamper<F>(&self, change: F)
    where
        F: Fn(&mut dyn Txn) -> cairn_meta::Result<()> + Send + Sync + 'static,
    {
        self.meta.run(Tamper(change)).await.expect("tamper");
    }
}

/// A whole file, straight from its slices.
pub(crate) async fn read(meta: &Meta, chunks: &Arc<ChunkStore>, ino: Ino) -> Vec<u8> {
    let length = meta.getattr(ino).await.expect("attr").length;
    let mut out = vec![0; length as usize];
    for span in chunk_spans(0, length) {
        let list = meta.raw_slices(ino, span.index).await.expect("list");
        let view = cairn_meta::overlay::view(&list);
        for s in cairn_meta::overlay::window(&view, span.pos, span.pos + span.len) {
            if let Some(slice) = s.slice() {
                let at = span.at as usize + (s.pos - span.pos) as usize;
                let bytes: Bytes = chunks.read(slice, s.off, s.len).await.expect("read");
                out[at..at + s.len as usize].copy_from_slice(&bytes);
            }
        }
    }
    out
}

struct Tamper<F>(F);

impl<F> Op for Tamper<F>
where
    F: Fn(&mut dyn Txn) -> cairn_meta::Result<()> + Send + Sync + 'static,
{
    type Out = ();

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> cairn_meta::Result<()> {
        (self.0)(tx)
    }
}

/// Bytes that repeat nowhere nearby.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        })
        .collect()
}
