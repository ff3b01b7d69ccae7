//! Sequential readers of a store that is far away, in virtual time: what waiting alone costs them.

use std::sync::Arc;
use std::time::Duration;

use cairn_cache::{BlockCache, ChecksumLevel, Eviction};
use cairn_chunk::ChunkStore;
use cairn_env::Env;
use cairn_meta::engine::mem::MemEngine;
use cairn_meta::{Cred, Meta, NewNode};
use cairn_object::Limits;
use cairn_object::testing::{FaultyStore, MemStore};
use cairn_types::{Compression, Format, Ino, KeyLayout};

use super::{MIB, config, format};
use crate::{Config, OpenFlags, Parts, Vfs};

const BLOCK_MIB: u64 = 4;
const FILE_MIB: usize = 192;
const BUFFER_BYTES: u64 = 300 << 20;
const AHEAD_BYTES: u64 = BUFFER_BYTES / 100 * 40;

struct Far {
    env: Env,
    store: Arc<FaultyStore>,
    vfs: Arc<Vfs>,
    ino: Ino,
}

impl Far {
    /// A file in a store with so many connections, each request of which waits so long.
    async fn new(connections: u32, delay: Duration) -> Far {
        let env = Env::simulated(3);
        let engine = MemEngine::new(env.clone());
        let store = FaultyStore::new(&env, Arc::new(MemStore::new(&env)));
        let format = Format { block_size: BLOCK_MIB as u32 * 1024, ..format() };
        cairn_meta::format_volume(&env, &*engine, &format).await.expect("formats");
        let meta = Meta::open(env.clone(), engine, cairn_meta::Config::mount()).await.expect("opens");
        drop(meta.upkeep());
        meta.start_session(r#"{"Version":"1.4.1"}"#.into()).await.expect("a session");
        let cache = cairn_cache::Config {
            dirs: vec![],
            memory_bytes: 32 << 20,
            disk_bytes: 0,
            disk_items: 0,
            free_space_ratio: 0.1,
            checksum: ChecksumLevel::Extend,
            eviction: Eviction::default(),
            file_mode: 0o600,
            key_layout: KeyLayout::Plain,
        };
        let chunks = cairn_chunk::Config {
            block_bytes: format.block_bytes(),
            compression: Compression::None,
            key_layout: KeyLayout::Plain,
            buffer_bytes: BUFFER_BYTES,
            prefetch: 1,
            max_readahead: AHEAD_BYTES,
            cache_full_blocks: false,
        };
        let limits = Limits {
            get_timeout: Duration::from_secs(60),
            put_timeout: Duration::from_secs(60),
            io_retries: 10,
            max_uploads: 20,
            max_downloads: connections,
            upload_bytes_per_sec: 0,
            download_bytes_per_sec: 0,
        };
        let object = cairn_object::stack(&env, store.clone(), &limits);
        let cache = BlockCache::open(env.clone(), cache).expect("a cache");
        let chunk = ChunkStore::new(env.clone(), object, cache, chunks);
        let config = Config { readahead_max_bytes: AHEAD_BYTES, readahead_total_bytes: AHEAD_BYTES, ..config() };
        let vfs = Vfs::new(&env, meta, chunk, Parts::none(), config);
        let (flags, node) = (OpenFlags::writing(), NewNode::file(0o644));
        let (ino, opened) = vfs.create(&Cred::root(), Ino::ROOT, b"f", node, flags, true).await.expect("creates");
        for at in 0..FILE_MIB {
            vfs.write(&Cred::root(), opened.fh, (at * MIB) as u64, &vec![at as u8; MIB], false).await.expect("writes");
        }
        vfs.flush(&Cred::root(), opened.fh, 0).await.expect("flushes");
        vfs.release(&Cred::root(), opened.fh).await.expect("releases");
        store.straggle(u32::MAX, delay);
        Far { env, store, vfs, ino }
    }

    /// Reads the file as a kernel would; MiB a second.
    async fn stream(&self) -> f64 {
        let begun = self.env.instant();
        let opened = self.vfs.open(&Cred::root(), self.ino, OpenFlags::reading()).await.expect("opens");
        for at in (0..FILE_MIB * MIB).step_by(128 << 10) {
            let bytes = self.vfs.read(&Cred::root(), opened.fh, at as u64, 128 << 10).await.expect("reads");
            assert!(bytes.len() == 128 << 10 && bytes[0] == (at / MIB) as u8 && bytes[bytes.len() - 1] == bytes[0]);
        }
        self.vfs.release(&Cred::root(), opened.fh).await.expect("releases");
        FILE_MIB as f64 / self.env.instant().duration_since(begun).as_secs_f64()
    }
}

#[tokio::test(start_paused = true)]
async fn one_stream_keeps_32_connections_of_30_ms_busy() {
    let far = Far::new(32, Duration::from_millis(30)).await;
    let gets = far.store.gets();
    let speed = far.stream().await;
    println!("{speed:.0} MiB/s");
    assert!(speed >= 400.0, "{speed} MiB/s");
    assert_eq!(far.store.gets() - gets, FILE_MIB as u64 / BLOCK_MIB, "one GET a block");
}

#[tokio::test(start_paused = true)]
async fn the_window_grows_with_the_delay() {
    // Eight blocks ahead, the most there once was, would give 107 MiB/s.
    let far = Far::new(64, Duration::from_millis(300)).await;
    let speed = far.stream().await;
    println!("{speed:.0} MiB/s");
    assert!(speed >= 90.0, "{speed} MiB/s over the whole of a short file");
}

#[tokio::test(start_paused = true)]
async fn a_first_read_at_the_end_brings_the_index_with_it() {
    let far = Far::new(32, Duration::from_millis(30)).await;
    let (gets, length) = (far.store.gets(), (FILE_MIB * MIB) as u64);
    let opened = far.vfs.open(&Cred::root(), far.ino, OpenFlags::reading()).await.expect("opens");
    for (at, len) in [(length - 8, 8), (length - 200_000, 100_000), (length - 90_000, 90_000)] {
        let bytes = far.vfs.read(&Cred::root(), opened.fh, at, len).await.expect("reads");
        assert_eq!(&bytes[..], vec![(FILE_MIB - 1) as u8; len as usize]);
    }
    assert_eq!(far.store.gets() - gets, 1, "the footer came with its last eight bytes");
}
