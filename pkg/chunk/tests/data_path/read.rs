//! Reading: one GET a block, caches, parts, read-ahead, deletion.

use std::time::Duration;

use cairn_chunk::{Config, Error};
use cairn_types::{Compression, SliceId, SliceRef};
use futures::future::join_all;

use crate::world::{BLOCK, World, cache_config, config, content};

#[tokio::test(start_paused = true)]
async fn many_readers_share_one_get() {
    let world = World::new();
    let slice = world.stored(1, BLOCK).await;
    world.faulty.hold();
    let readers = join_all((0..20).map(|i| world.store.read(slice, 0, 1000 + i)));
    let (outcomes, ()) = tokio::join!(readers, async {
        world.faulty.held(1).await;
        world.faulty.release();
    });
    for (i, bytes) in outcomes.into_iter().enumerate() {
        assert_eq!(bytes.unwrap(), content(1, BLOCK)[..1000 + i]);
    }
    assert_eq!(world.faulty.gets(), 1);
    assert_eq!(world.store.read_now(slice, 5, 7).unwrap(), content(1, BLOCK)[5..12], "now it is in memory");
}

#[tokio::test(start_paused = true)]
async fn a_read_over_several_blocks_is_joined() {
    let world = World::new();
    let slice = world.stored(1, 5 * BLOCK + 77).await;
    let (off, len) = (BLOCK - 3, 3 * BLOCK + 10);
    assert_eq!(
        world.store.read(slice, off, len).await.unwrap(),
        content(1, slice.size)[off as usize..(off + len) as usize]
    );
    assert!(world.store.read(slice, slice.size, 0).await.unwrap().is_empty());
    for (off, len) in [(slice.size, 1), (0, slice.size + 1), (u32::MAX, u32::MAX)] {
        assert!(matches!(world.store.read(slice, off, len).await, Err(Error::OutOfSlice { .. })));
        assert!(world.store.read_now(slice, off, len).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn small_random_reads_ask_for_parts_until_the_block_is_proven() {
    const BIG: u32 = 4 << 20;
    let world = World::with(Config { block_bytes: BIG, ..config() }, 32 << 20);
    let slice = world.stored(1, 2 * BIG).await;
    let data = content(1, 2 * BIG);
    let read = async |off: u32| {
        assert_eq!(world.store.read(slice, off, 100).await.unwrap(), data[off as usize..off as usize + 100]);
        world.settle().await;
    };
    for off in [1000, 50_000, 9000] {
        read(off).await;
    }
    let counts =
        || (world.store.stats().range_gets, world.store.stats().range_get_bytes, world.store.stats().get_blocks);
    assert_eq!(counts(), (1, 65536, 0), "one part serves its neighbours");
    read(65_500).await;
    assert_eq!(counts(), (2, 65536 + 131_072, 0), "a read over a border takes both");
    // 64 parts of credit are needed for a whole block, and the proof lies in one block.
    for i in 2..62 {
        read(i * 65536 + 7).await;
    }
    assert_eq!(counts(), (62, 63 * 65536, 0), "not on credit that was not earned");
    read(62 * 65536 + 7).await;
    assert_eq!(counts(), (63, 64 * 65536, 1), "as much again as its parts were");
    read(BIG).await;
    assert_eq!(counts().2, 2, "the start of a block is taken for a sequential reader");
}

#[tokio::test(start_paused = true)]
async fn prefetch_0_never_fetches_more_than_parts() {
    let world = World::with(Config { prefetch: 0, ..config() }, 8 << 20);
    let slice = world.stored(1, 4 * BLOCK).await;
    for i in 1..16 {
        world.store.read(slice, i * 65536 + 5, 10).await.unwrap();
    }
    world.settle().await;
    assert_eq!(world.store.stats().get_blocks, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_has_its_bytes_when_they_arrive() {
    let world = World::new();
    let slice = world.stored(1, BLOCK).await;
    world.faulty.trickle(32 << 10, Duration::from_secs(1));
    let begun = world.env.instant();
    let took = async |off: u32, len: u32| {
        let bytes = world.store.read(slice, off, len).await.unwrap();
        assert_eq!(bytes, content(1, BLOCK)[off as usize..(off + len) as usize]);
        world.env.instant().duration_since(begun).as_secs()
    };
    let times = tokio::join!(took(0, 4096), took(0, 33 << 10), took(200 << 10, 8 << 10), took(0, BLOCK));
    assert_eq!(times, (1, 2, 7, 8));
    assert_eq!(world.faulty.gets(), 1, "one GET for all of them");
    assert!(world.store.read_now(slice, 0, BLOCK).is_some());
}

#[tokio::test(start_paused = true)]
async fn compressed_blocks_come_whole_or_not_at_all() {
    let world = World::with(Config { compression: Compression::Lz4, ..config() }, 8 << 20);
    let slice = world.stored(1, BLOCK).await;
    world.faulty.trickle(100, Duration::from_secs(1));
    world.store.read(slice, 0, 10).await.unwrap();
    assert!(world.store.read_now(slice, 0, BLOCK).is_some(), "the first bytes came with the last");
    assert_eq!(world.faulty.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_gives_up_does_not_stop_the_others() {
    let world = World::new();
    let slice = world.stored(1, BLOCK).await;
    world.faulty.hold();
    let impatient = world.env.timeout(Duration::from_millis(10), world.store.read(slice, 0, 10)).await;
    assert!(impatient.is_err());
    let (bytes, ()) = tokio::join!(world.store.read(slice, 5, 10), async { world.faulty.release() });
    assert_eq!(bytes.unwrap(), content(1, BLOCK)[5..15]);
    assert_eq!(world.faulty.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_get_that_is_slow_to_begin_is_made_twice() {
    let world = World::with(Config { block_bytes: 64 << 10, ..config() }, 0);
    let slice = world.stored(1, 200 * (64 << 10)).await;
    for i in 0..60 {
        world.store.read(slice, i * (64 << 10), 64 << 10).await.unwrap();
    }
    world.faulty.straggle(1, Duration::from_secs(100));
    let begun = world.env.instant();
    let bytes = world.store.read(slice, 100 * (64 << 10), 64 << 10).await.unwrap();
    assert_eq!(bytes, content(1, slice.size)[100 * (64 << 10)..101 * (64 << 10)]);
    assert!(world.env.instant().duration_since(begun) < Duration::from_secs(1), "the second answered");
    assert_eq!(world.store.stats().hedged_gets, 1);
    world.faulty.straggle(50, Duration::from_secs(1));
    for i in 101..151 {
        world.store.read(slice, i * (64 << 10), 64 << 10).await.unwrap();
    }
    let stats = world.store.stats();
    assert!(stats.hedged_gets * 20 <= 111, "{} of 111 doubled", stats.hedged_gets);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_ahead_waits_for_its_reader_and_then_goes() {
    let world = World::with(Config { buffer_bytes: 16 << 20, ..config() }, 1 << 20);
    let slice = world.stored(1, 16 * BLOCK).await;
    world.store.prefetch(slice, 0, 16 * BLOCK);
    world.settle().await;
    let gets = world.faulty.gets();
    assert_eq!((gets, world.store.stats().ahead_blocks), (16, 16), "4 MiB ahead with a cache of 1 MiB");
    for i in 0..32 {
        assert_eq!(
            world.store.read_now(slice, i * (BLOCK / 2), BLOCK / 2).expect("in memory"),
            content(1, slice.size)[(i * (BLOCK / 2)) as usize..][..BLOCK as usize / 2]
        );
    }
    assert_eq!((world.faulty.gets(), world.store.stats().ahead_blocks), (gets, 0), "its memory is free again");
    let other = world.stored(2, 4 * BLOCK).await;
    world.store.prefetch(other, 0, 4 * BLOCK);
    world.settle().await;
    assert_eq!(world.store.stats().ahead_blocks, 4);
    world.env.sleep(Duration::from_secs(60)).await;
    assert_eq!(world.store.stats().ahead_blocks, 0, "nobody came");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_gets_the_room_of_what_was_only_read_ahead() {
    for compression in [Compression::None, Compression::Lz4] {
        // Room for two blocks of 4 MiB.
        let config = Config { block_bytes: 4 << 20, compression, buffer_bytes: 16 << 20, ..config() };
        let world = World::with(config, 32 << 20);
        let slice = world.stored(1, 12 << 20).await;
        world.store.prefetch(slice, 0, 4 << 20);
        world.settle().await;
        assert_eq!(world.store.stats().ahead_blocks, 1);
        let begun = world.env.instant();
        let both = join_all([4 << 20, 8 << 20].map(|off| world.store.read(slice, off, 4 << 20))).await;
        assert!(both.iter().all(Result::is_ok));
        assert!(world.env.instant().duration_since(begun) < Duration::from_secs(1), "nobody had to give up first");
    }
}

#[tokio::test(start_paused = true)]
async fn compressed_blocks_are_always_fetched_whole() {
    let world = World::with(Config { compression: Compression::Lz4, ..config() }, 8 << 20);
    let slice = world.stored(1, BLOCK).await;
    assert_eq!(world.store.read(slice, 999, 5).await.unwrap(), content(1, BLOCK)[999..1004]);
    assert_eq!((world.store.stats().range_gets, world.store.stats().get_blocks), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn encrypted_blocks_are_fetched_whole_once() {
    let dir = tempfile::tempdir().unwrap();
    for memory_bytes in [8 << 20, 0] {
        let cache = cache_config(memory_bytes, vec![dir.path().join(memory_bytes.to_string())]);
        let world = World::encrypted(config(), cache);
        let slice = world.stored(1, BLOCK).await;
        for off in [100_000, 7, BLOCK - 5, 99_998] {
            let found = world.store.read(slice, off, 5).await.unwrap();
            assert_eq!(found, content(1, BLOCK)[off as usize..off as usize + 5]);
            world.settle().await;
        }
        assert_eq!((world.store.stats().range_gets, world.store.stats().get_blocks), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn without_any_cache_only_what_is_asked_for_is_fetched() {
    let world = World::with(config(), 0);
    let slice = world.stored(1, BLOCK).await;
    for off in [0, 100_000] {
        assert_eq!(world.store.read(slice, off, 10).await.unwrap(), content(1, BLOCK)[off as usize..off as usize + 10]);
    }
    world.store.prefetch(slice, 0, BLOCK);
    world.settle().await;
    assert_eq!((world.store.stats().range_get_bytes, world.store.stats().get_blocks), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn read_ahead_is_bounded_and_joined_by_the_reader() {
    let world = World::with(Config { prefetch: 0, max_readahead: u64::from(4 * BLOCK), ..config() }, 32 << 20);
    let slice = world.stored(1, 16 * BLOCK).await;
    world.faulty.hold();
    world.store.prefetch(slice, 0, slice.size);
    world.store.prefetch(slice, 0, 2 * BLOCK);
    world.faulty.held(4).await;
    assert_eq!(world.store.stats().prefetches_skipped, 12);
    // A small read inside a block that is on its way waits for it.
    let (bytes, ()) = tokio::join!(world.store.read(slice, BLOCK + 10, 10), async {
        world.settle().await;
        world.faulty.release();
    });
    assert_eq!(bytes.unwrap(), content(1, slice.size)[BLOCK as usize + 10..BLOCK as usize + 20]);
    world.settle().await;
    assert_eq!(world.faulty.gets(), 4);
    assert!(world.store.read_now(slice, 0, 4 * BLOCK).is_some());
    world.store.prefetch(slice, 4 * BLOCK, BLOCK);
    world.settle().await;
    assert_eq!((world.faulty.gets(), world.store.stats().fetching_blocks), (5, 0), "there is room again");
}

#[tokio::test(start_paused = true)]
async fn no_read_ahead_means_none() {
    let world = World::with(Config { prefetch: 0, max_readahead: 0, ..config() }, 8 << 20);
    let slice = world.stored(1, 4 * BLOCK).await;
    world.store.prefetch(slice, 0, slice.size);
    world.settle().await;
    assert_eq!(world.faulty.gets(), 0);
}

#[tokio::test(start_paused = true)]
async fn blocks_come_from_disk_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::over(config(), cache_config(0, vec![dir.path().into()]));
    let slice = world.stored(1, 2 * BLOCK + 9).await;
    world.store.read(slice, 0, slice.size).await.unwrap();
    world.store.cache().close().await;
    let gets = world.faulty.gets();
    let cache = cairn_cache::BlockCache::open(world.env.clone(), cache_config(0, vec![dir.path().into()])).unwrap();
    let store = cairn_chunk::ChunkStore::new(world.env.clone(), world.faulty.clone(), cache, config());
    assert_eq!(store.read(slice, 0, slice.size).await.unwrap(), content(1, slice.size));
    assert_eq!(world.faulty.gets(), gets, "nobody asked the store");
}

#[tokio::test(start_paused = true)]
async fn delete_removes_blocks_everywhere_and_forgives_missing_ones() {
    let world = World::new();
    let slice = world.stored(1, 2 * BLOCK + 9).await;
    let other = world.stored(2, 9).await;
    world.store.read(slice, 0, slice.size).await.unwrap();
    world.faulty.down();
    assert!(matches!(world.store.delete(slice).await, Err(Error::Store { .. })));
    world.faulty.up();
    world.store.delete(slice).await.unwrap();
    world.store.delete(slice).await.unwrap();
    assert_eq!(world.mem.keys(), ["chunks/0/0/2_0_9"]);
    assert!(matches!(world.store.read(slice, 0, 10).await, Err(e) if e.is_missing()));
    assert_eq!(world.store.read(other, 0, 9).await.unwrap(), content(2, 9));
}

#[tokio::test(start_paused = true)]
async fn the_blocks_of_a_slice_are_listed_in_order() {
    let world = World::new();
    let slice = SliceRef { id: SliceId(1_234_567), size: BLOCK + 5 };
    let keys: Vec<_> = world.store.blocks(slice).map(|key| world.store.object_key(key)).collect();
    assert_eq!(keys, ["chunks/1/1234/1234567_0_262144", "chunks/1/1234/1234567_1_5"]);
}
