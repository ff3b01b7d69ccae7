//! A volume in memory, and the facts about its files.

mod dirs;
mod errors;
mod files;
mod life;
mod model;
mod packs;
mod streams;
mod virtuals;
mod write_back;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_cache::{BlockCache, ChecksumLevel, Eviction};
use cairn_chunk::{ChunkStore, Recovered, Staging};
use cairn_env::Env;
use cairn_meta::engine::mem::MemEngine;
use cairn_meta::{Cred, Meta, NewNode};
use cairn_object::testing::{FaultyStore, MemStore};
use cairn_types::{Compression, Format, Ino, KeyLayout};

use crate::{Config, Fh, OpenFlags, Parts, Replayed, Result, Vfs};

pub(crate) const BLOCK: u32 = 64 << 10;
pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;

/// One engine, one store, and a client.
pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) engine: Arc<MemEngine>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) chunk: Arc<ChunkStore>,
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) root: Cred,
}

pub(crate) fn config() -> Config {
    Config {
        readahead_max_bytes: 8 * u64::from(BLOCK),
        readahead_total_bytes: 64 * u64::from(BLOCK),
        flush_age: Duration::from_secs(5),
        flush_idle: Duration::from_secs(1),
        reupload_age: Duration::from_secs(30 * 60),
        pack_bytes: BLOCK,
        read_retries: 10,
        readdir_page: 16,
        hide_internal: false,
        prefix_internal: false,
        subdir: false,
    }
}

pub(crate) fn format() -> Format {
    Format {
        name: "test".into(),
        uuid: "00000000-0000-4000-8000-000000000000".into(),
        bucket: "/nowhere/".into(),
        block_size: BLOCK / 1024,
        meta_version: 1,
        ..Format::default()
    }
}

impl World {
    pub(crate) async fn new() -> World {
        World::with(format(), config(), Parts::none()).await
    }

    /// Must run under a paused clock.
    pub(crate) async fn with(format: Format, config: Config, parts: Parts) -> World {
        World::within(Env::simulated(7), format, config, parts).await
    }

    pub(crate) async fn within(env: Env, format: Format, config: Config, parts: Parts) -> World {
        let engine = MemEngine::new(env.clone());
        let store = FaultyStore::new(&env, Arc::new(MemStore::new(&env)));
        cairn_meta::format_volume(&env, &*engine, &format).await.expect("formats");
        let (vfs, chunk) = client(&env, &engine, &store, config, parts).await;
        World { env, engine, store, chunk, vfs, root: Cred::root() }
    }

    /// Another client of the same volume.
    pub(crate) async fn peer(&self) -> World {
        let (vfs, chunk) = client(&self.env, &self.engine, &self.store, config(), Parts::none()).await;
        World {
            env: self.env.clone(),
            engine: self.engine.clone(),
            store: self.store.clone(),
            chunk,
            vfs,
            root: Cred::root(),
        }
    }

    pub(crate) async fn create(&self, name: &str) -> (Ino, Fh) {
        let (flags, node) = (OpenFlags::writing(), NewNode::file(0o644));
        let made = self.vfs.create(&self.root, Ino::ROOT, name.as_bytes(), node, flags, true).await;
        let (ino, opened) = made.expect("creates");
        (ino, opened.fh)
    }

    pub(crate) async fn open(&self, ino: Ino) -> Fh {
        self.vfs.open(&self.root, ino, OpenFlags::writing()).await.expect("opens").fh
    }

    pub(crate) async fn write(&self, fh: Fh, offset: u64, data: &[u8]) {
        let taken = self.vfs.write(&self.root, fh, offset, data, false).await.expect("writes");
        assert_eq!(taken as usize, data.len());
    }

    pub(crate) async fn read(&self, fh: Fh, offset: u64, len: usize) -> Bytes {
        self.vfs.read(&self.root, fh, offset, len as u32).await.expect("reads")
    }

    pub(crate) async fn fsync(&self, fh: Fh) -> Result<()> {
        self.vfs.fsync(&self.root, fh, false).await
    }

    pub(crate) async fn flush(&self, fh: Fh) -> Result<()> {
        self.vfs.flush(&self.root, fh, 0).await
    }

    pub(crate) async fn close(&self, fh: Fh) {
        self.flush(fh).await.expect("flushes");
        self.vfs.release(&self.root, fh).await.expect("releases");
    }

    pub(crate) async fn length(&self, ino: Ino) -> u64 {
        self.vfs.getattr(&self.root, ino).await.expect("attributes").length
    }

    /// The whole file as this client reads it through a handle of its own.
    pub(crate) async fn content(&self, ino: Ino) -> Bytes {
        let fh = self.vfs.open(&self.root, ino, OpenFlags::reading()).await.expect("opens").fh;
        let len = self.length(ino).await as usize;
        let bytes = self.read(fh, 0, len + 1).await;
        self.vfs.release(&self.root, fh).await.expect("releases");
        bytes
    }

    /// Lets time pass until nothing is dirty any more; answers how much passed.
    pub(crate) async fn settle(&self) -> Duration {
        let begun = self.env.instant();
        while self.vfs.dirty().0 > 0 {
            self.env.sleep(Duration::from_millis(50)).await;
            assert!(self.env.instant() - begun < Duration::from_secs(3600), "it never settles");
        }
        self.env.instant() - begun
    }
}

async fn client(
    env: &Env,
    engine: &Arc<MemEngine>,
    store: &Arc<FaultyStore>,
    config: Config,
    parts: Parts,
) -> (Arc<Vfs>, Arc<ChunkStore>) {
    staging_client(env, engine, store, config, parts, None).await.0
}

/// The same with blocks staged, or with those that a dead client had staged; and its metadata.
async fn staging_client(
    env: &Env,
    engine: &Arc<MemEngine>,
    store: &Arc<FaultyStore>,
    config: Config,
    parts: Parts,
    staging: Option<(Staging, Recovered)>,
) -> ((Arc<Vfs>, Arc<ChunkStore>), Replayed) {
    let meta = Meta::open(env.clone(), engine.clone(), cairn_meta::Config::mount()).await.expect("opens");
    // Nobody compacts here: a writer must not wait for it.
    drop(meta.upkeep());
    meta.start_session(r#"{"Version":"1.4.1"}"#.into()).await.expect("a session");
    let cache = cairn_cache::Config {
        dirs: vec![],
        memory_bytes: 4 << 20,
        disk_bytes: 0,
        disk_items: 0,
        free_space_ratio: 0.1,
        checksum: ChecksumLevel::Extend,
        eviction: Eviction::TwoRandom,
        file_mode: 0o600,
        key_layout: KeyLayout::Plain,
    };
    let cache = BlockCache::open(env.clone(), cache).expect("a cache");
    let chunks = cairn_chunk::Config {
        block_bytes: BLOCK,
        compression: Compression::None,
        key_layout: KeyLayout::Plain,
        buffer_bytes: 8 << 20,
        prefetch: 1,
        max_readahead: 8 * u64::from(BLOCK),
        cache_full_blocks: true,
    };
    let (staging, recovered) = staging.unzip();
    let chunk = ChunkStore::with_staging(env.clone(), store.clone(), cache, chunks, None, staging);
    let replayed = crate::replay(&meta, &chunk, recovered.unwrap_or_default()).await.expect("replays");
    ((Vfs::new(env, meta, chunk.clone(), parts, config), chunk), replayed)
}

/// Bytes that tell where they are.
pub(crate) fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + seed * 7 + i / 251) % 255 + 1) as u8).collect()
}
