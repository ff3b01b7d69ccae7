//! Damage and outages: the right bytes, or an error that names the block.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_cache::BlockCache;
use cairn_chunk::{ChunkStore, Config, Depth, Error};
use cairn_env::Env;
use cairn_object::testing::MemStore;
use cairn_object::{ObjectInfo, ObjectStore, Payload, Result};
use cairn_types::{Compression, SliceId, SliceRef};
use futures::stream::BoxStream;

use crate::world::{BLOCK, World, cache_config, config, content};

/// Gives the first `lies` answers one byte short.
#[derive(Debug)]
struct Liar {
    inner: MemStore,
    lies: AtomicU32,
}

#[async_trait]
impl ObjectStore for Liar {
    fn describe(&self) -> String {
        "liar".into()
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let bytes = self.inner.get(key, range).await?;
        let lie = self.lies.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        Ok(if lie { bytes.slice(..bytes.len() - 1) } else { bytes })
    }
    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        self.inner.put(key, body).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }
    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.inner.head(key).await
    }
    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        self.inner.list(prefix, after)
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_that_does_not_decode_is_fetched_again_once() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let env = Env::simulated(1);
        let liar = Arc::new(Liar { inner: MemStore::new(&env), lies: AtomicU32::new(0) });
        let cache = BlockCache::open(env.clone(), cache_config(1 << 20, vec![])).unwrap();
        let store = ChunkStore::new(env, liar.clone(), cache, Config { compression, ..config() });
        let writer = store.writer(SliceId(1));
        assert!(writer.write_at(0, &content(1, BLOCK), &mut store.reserve(BLOCK as usize).await));
        let slice = writer.finish().await.unwrap().slice();
        liar.lies.store(2, Ordering::SeqCst);
        assert!(matches!(store.read(slice, 0, BLOCK).await, Err(Error::Corrupt { key, .. }) if key.id == SliceId(1)));
        liar.lies.store(1, Ordering::SeqCst);
        assert_eq!(store.read(slice, 0, BLOCK).await.unwrap(), content(1, BLOCK));
        assert_eq!((store.stats().refetches, store.stats().corrupt_blocks), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_part_is_fetched_again_once() {
    let env = Env::simulated(1);
    let liar = Arc::new(Liar { inner: MemStore::new(&env), lies: AtomicU32::new(0) });
    let cache = BlockCache::open(env.clone(), cache_config(0, vec![])).unwrap();
    let store = ChunkStore::new(env, liar.clone(), cache, config());
    let writer = store.writer(SliceId(1));
    assert!(writer.write_at(0, &content(1, BLOCK), &mut store.reserve(BLOCK as usize).await));
    let slice = writer.finish().await.unwrap().slice();
    liar.lies.store(1, Ordering::SeqCst);
    assert_eq!(store.read(slice, 500, 10).await.unwrap(), content(1, BLOCK)[500..510]);
    liar.lies.store(2, Ordering::SeqCst);
    assert!(matches!(store.read(slice, 500, 10).await, Err(Error::Corrupt { .. })));
}

#[tokio::test(start_paused = true)]
async fn objects_of_another_length_are_corrupt() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let world = World::with(Config { compression, ..config() }, 1 << 20);
        let slice = SliceRef { id: SliceId(1), size: 1000 };
        for size in [999, 1001, 1_000_000] {
            let other = World::with(Config { compression, ..config() }, 0);
            let foreign = other.stored(1, size).await;
            let object = other.store.object_key(other.store.blocks(foreign).next().unwrap());
            let stored = other.mem.get(&object, None).await.unwrap();
            world.put_raw("chunks/0/0/1_0_1000", stored).await;
            assert!(
                matches!(world.store.read(slice, 0, 1000).await, Err(Error::Corrupt { .. })),
                "{compression:?} {size}"
            );
        }
        world.put_raw("chunks/0/0/1_0_1000", "").await;
        assert!(matches!(world.store.read(slice, 0, 1000).await, Err(Error::Corrupt { .. })), "{compression:?} empty");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_claims_too_much_reserves_nothing() {
    let world = World::new();
    world.put_raw("chunks/0/0/1_0_4294967295", "x").await;
    let key = cairn_types::BlockKey { id: SliceId(1), index: 0, len: u32::MAX };
    assert!(matches!(world.store.check_block(key, Depth::Read).await, Err(Error::Corrupt { .. })));
}

#[tokio::test(start_paused = true)]
async fn check_names_every_bad_block_and_no_other() {
    let world = World::with(Config { compression: Compression::Zstd, ..config() }, 1 << 20);
    let slice = world.stored(1, 4 * BLOCK).await;
    assert!(world.store.check(slice, Depth::Read).await.is_empty());
    let key = |i: u32| format!("chunks/0/0/1_{i}_{BLOCK}");
    world.mem.delete(&key(1)).await.unwrap();
    world.put_raw(&key(2), vec![0; 2 * BLOCK as usize]).await;
    let stored = world.mem.get(&key(3), None).await.unwrap();
    world.put_raw(&key(3), stored.slice(..stored.len() / 2)).await;
    let found = |errors: Vec<Error>| -> Vec<_> {
        let name = |e| match e {
            Error::Missing { key } => ("missing", key.index),
            Error::Corrupt { key, .. } => ("corrupt", key.index),
            other => panic!("{other}"),
        };
        errors.into_iter().map(name).collect()
    };
    assert_eq!(found(world.store.check(slice, Depth::Head).await), [("missing", 1), ("corrupt", 2)]);
    assert_eq!(found(world.store.check(slice, Depth::Read).await), [("missing", 1), ("corrupt", 2), ("corrupt", 3)]);
    assert!(world.store.verify(slice).await.unwrap_err().is_missing());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_killed_cache_file_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::over(config(), cache_config(0, vec![dir.path().into()]));
    let slice = world.stored(1, BLOCK).await;
    world.store.read(slice, 0, BLOCK).await.unwrap();
    world.settle().await;
    let file = dir.path().join(format!("raw/chunks/0/0/1_0_{BLOCK}"));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4711] ^= 1;
    let harm: [&dyn Fn(); 4] = [
        &|| std::fs::write(&file, &bytes).unwrap(),
        &|| std::fs::write(&file, &bytes[..100]).unwrap(),
        &|| std::fs::remove_file(&file).unwrap(),
        &|| std::fs::remove_dir_all(dir.path().join("raw")).unwrap(),
    ];
    for (i, harm) in harm.into_iter().enumerate() {
        harm();
        assert_eq!(world.store.read(slice, 0, BLOCK).await.unwrap(), content(1, BLOCK), "{i}");
        world.settle().await;
        assert_eq!(world.store.read(slice, 4000, 1000).await.unwrap(), content(1, BLOCK)[4000..5000], "{i}");
    }
    assert_eq!(world.store.cache().stats().damaged, 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_an_error_and_then_it_is_over() {
    let world = World::new();
    let slice = world.stored(1, BLOCK).await;
    world.faulty.down();
    assert!(matches!(world.store.read(slice, 0, 10).await, Err(Error::Store { .. })));
    world.faulty.up();
    assert_eq!(world.store.read(slice, 0, 10).await.unwrap(), content(1, BLOCK)[..10]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_an_error_and_the_next_read_is_right() {
    for trickle in [false, true] {
        let world = World::new();
        let slice = world.stored(1, BLOCK).await;
        if trickle {
            world.faulty.trickle(32 << 10, Duration::from_millis(1));
        }
        world.faulty.cut(1);
        assert!(matches!(world.store.read(slice, 0, BLOCK).await, Err(Error::Store { .. })), "half is not enough");
        assert!(world.store.read_now(slice, 0, 10).is_none(), "half a block is not kept");
        assert_eq!(world.store.read(slice, 0, BLOCK).await.unwrap(), content(1, BLOCK));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_fetched_again_by_the_retry_below() {
    let world = World::new();
    let slice = world.stored(1, BLOCK).await;
    let limits = cairn_object::Limits {
        get_timeout: Duration::from_secs(60),
        put_timeout: Duration::from_secs(60),
        io_retries: 10,
        max_uploads: 20,
        max_downloads: 200,
        upload_bytes_per_sec: 0,
        download_bytes_per_sec: 0,
    };
    let object = cairn_object::stack(&world.env, world.faulty.clone(), &limits);
    let cache = BlockCache::open(world.env.clone(), cache_config(8 << 20, vec![])).unwrap();
    let store = ChunkStore::new(world.env.clone(), object, cache, config());
    world.faulty.trickle(10_000, Duration::from_millis(1));
    world.faulty.cut(3);
    let (first, whole) = tokio::join!(store.read(slice, 0, 50), store.read(slice, 0, BLOCK));
    assert_eq!(first.unwrap(), content(1, BLOCK)[..50]);
    assert_eq!(whole.unwrap(), content(1, BLOCK));
    assert_eq!(world.faulty.gets(), 4);
    // A body slower than the time limit of an attempt is given up, and in the end an error.
    let other = world.stored(2, BLOCK).await;
    world.faulty.trickle(32 << 10, Duration::from_secs(30));
    let (first, whole) = tokio::join!(store.read(other, 0, 50), store.read(other, 0, BLOCK));
    assert_eq!(first.unwrap(), content(2, BLOCK)[..50], "what arrived has arrived");
    assert!(matches!(whole, Err(Error::Store { .. })));
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_store_that_hangs() {
    let world = World::new();
    let slice = world.stored(1, 4 * BLOCK).await;
    world.faulty.hold();
    world.store.prefetch(slice, 0, 2 * BLOCK);
    let (read, ()) = tokio::join!(world.store.read(slice, 3 * BLOCK, BLOCK), async {
        world.faulty.held(3).await;
        world.store.close().await;
    });
    assert!(matches!(read, Err(Error::Store { .. })), "told, not left waiting");
}
