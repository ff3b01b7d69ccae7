//! A store that can be told to fail, a cache, and slices of known content.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_cache::{BlockCache, ChecksumLevel, Eviction};
use cairn_chunk::{ChunkStore, Config, SliceWriter};
use cairn_crypt::{Algorithm, Cipher, Passphrase, PrivateKey};
use cairn_env::Env;
use cairn_object::ObjectStore;
use cairn_object::testing::{FaultyStore, MemStore};
use cairn_types::{Compression, KeyLayout, SliceId, SliceRef};

pub(crate) const BLOCK: u32 = 256 * 1024;

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) mem: Arc<MemStore>,
    pub(crate) faulty: Arc<FaultyStore>,
    pub(crate) store: Arc<ChunkStore>,
}

pub(crate) fn config() -> Config {
    Config {
        block_bytes: BLOCK,
        compression: Compression::None,
        key_layout: KeyLayout::Plain,
        buffer_bytes: 16 << 20,
        prefetch: 1,
        max_readahead: 8 << 20,
        cache_full_blocks: false,
    }
}

pub(crate) fn cache_config(memory_bytes: u64, dirs: Vec<PathBuf>) -> cairn_cache::Config {
    cairn_cache::Config {
        dirs,
        memory_bytes,
        disk_bytes: 1 << 30,
        disk_items: 0,
        free_space_ratio: 0.0,
        checksum: ChecksumLevel::Extend,
        eviction: Eviction::TwoRandom,
        file_mode: 0o600,
        key_layout: KeyLayout::Plain,
    }
}

impl World {
    pub(crate) fn new() -> World {
        World::with(config(), 8 << 20)
    }

    pub(crate) fn with(config: Config, cache_bytes: u64) -> World {
        World::over(config, cache_config(cache_bytes, vec![]))
    }

    pub(crate) fn over(config: Config, cache: cairn_cache::Config) -> World {
        World::sealed(config, cache, |_| None)
    }

    /// A volume that is encrypted.
    pub(crate) fn encrypted(config: Config, cache: cairn_cache::Config) -> World {
        World::sealed(config, cache, |env| Some(cipher(env)))
    }

    fn sealed(config: Config, cache: cairn_cache::Config, cipher: impl FnOnce(&Env) -> Option<Arc<Cipher>>) -> World {
        let env = Env::simulated(11);
        let cipher = cipher(&env);
        let mem = Arc::new(MemStore::new(&env));
        let faulty = FaultyStore::new(&env, mem.clone());
        let cache = BlockCache::with_cipher(env.clone(), cache, cipher.clone()).unwrap();
        let store = ChunkStore::with_cipher(env.clone(), faulty.clone(), cache, config, cipher);
        World { env, mem, faulty, store }
    }

    /// Lets every task come to rest.
    pub(crate) async fn settle(&self) {
        self.env.sleep(Duration::from_secs(1)).await;
    }

    /// A stored slice of `content(id, size)`.
    pub(crate) async fn stored(&self, id: u64, size: u32) -> SliceRef {
        let writer = self.store.writer(SliceId(id));
        append(&self.store, &writer, &content(id, size)).await;
        writer.finish().await.unwrap().slice()
    }

    pub(crate) async fn put_raw(&self, key: &str, bytes: impl Into<Bytes>) {
        self.mem.put(key, bytes.into().into()).await.unwrap();
    }
}

fn cipher(env: &Env) -> Arc<Cipher> {
    let pem = include_str!("../../../crypt/tests/keys/pkcs1.pem");
    let key = PrivateKey::from_pem(pem, &Passphrase::default()).unwrap();
    let chance = env.clone();
    let cipher = Cipher::new(key, Algorithm::Aes256Gcm, Arc::new(move |bytes| chance.fill_secret(bytes)));
    Arc::new(cipher.unwrap())
}

/// Adds `data` at the end, as many writes as FUSE would make of it.
pub(crate) async fn append(store: &ChunkStore, writer: &SliceWriter, data: &[u8]) {
    for part in data.chunks(128 * 1024) {
        let mut room = store.reserve(part.len()).await;
        assert!(writer.write_at(writer.len(), part, &mut room));
    }
}

/// Bytes that differ from slice to slice and place to place, and compress.
pub(crate) fn content(id: u64, size: u32) -> Vec<u8> {
    (0..size).map(|i| ((i >> 4) as u64 ^ u64::from(i >> 13) ^ id.wrapping_mul(37)) as u8).collect()
}
