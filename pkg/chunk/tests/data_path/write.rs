//! Writing: cutting, waiting, failing, giving up.

use std::time::Duration;

use cairn_chunk::{Config, Error};
use cairn_types::{Compression, SliceId, SliceRef};
use futures::FutureExt;

use crate::world::{BLOCK, World, append, config, content};

#[tokio::test(start_paused = true)]
async fn a_slice_is_cut_into_blocks_named_after_it() {
    let world = World::with(Config { block_bytes: 4 << 20, ..config() }, 0);
    let slice = world.stored(1, 5_000_000).await;
    assert_eq!(slice, SliceRef { id: SliceId(1), size: 5_000_000 });
    assert_eq!(world.mem.keys(), ["chunks/0/0/1_0_4194304", "chunks/0/0/1_1_805696"]);
    assert_eq!(world.store.read(slice, 0, slice.size).await.unwrap(), content(1, 5_000_000));
    assert_eq!(world.store.stats().buffer_used_bytes, 0, "memory goes back once the store has the bytes");
}

#[tokio::test(start_paused = true)]
async fn full_blocks_leave_by_themselves_and_in_parallel() {
    let world = World::new();
    world.faulty.hold();
    let writer = world.store.writer(SliceId(1));
    append(&world.store, &writer, &content(1, 3 * BLOCK + 10)).await;
    world.faulty.held(3).await;
    assert_eq!((writer.floor(), writer.len(), writer.first_stored()), (3 * BLOCK, 3 * BLOCK + 10, None));
    world.faulty.release();
    assert!(writer.finish().await.is_ok());
    assert_eq!(world.faulty.puts(), 4);
    assert!(writer.first_stored().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_refused_whole() {
    let world = World::new();
    let writer = world.store.writer(SliceId(1));
    append(&world.store, &writer, &content(1, BLOCK + 100)).await;
    let mut room = world.store.reserve(4096).await;
    assert!(!writer.write_at(BLOCK - 1, b"x", &mut room), "below the floor");
    assert!(!writer.write_at(BLOCK + 101, b"x", &mut room), "beyond the end");
    assert!(writer.write_at(BLOCK + 50, b"overwritten", &mut room));
    assert_eq!(writer.len(), BLOCK + 100);
    assert_eq!(writer.read_at(BLOCK + 48, 13).await.unwrap()[2..], b"overwritten"[..]);
    assert!(writer.finish().await.is_ok());
    assert!(!writer.write_at(writer.len(), b"x", &mut room), "sealed");
    assert_eq!(writer.floor(), writer.len());
}

#[tokio::test(start_paused = true)]
async fn a_slice_holds_a_chunk_and_no_more() {
    let world = World::with(Config { block_bytes: 16 << 20, buffer_bytes: 0, ..config() }, 0);
    let writer = world.store.writer(SliceId(1));
    for _ in 0..64 {
        let mut room = world.store.reserve(1 << 20).await;
        assert!(writer.write_at(writer.len(), &vec![3; 1 << 20], &mut room));
    }
    assert!(!writer.write_at(writer.len(), b"x", &mut world.store.reserve(1).await));
    assert_eq!(writer.finish().await.unwrap().slice().size, 64 << 20);
    assert_eq!(world.mem.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_failed_finish_keeps_the_data_and_sends_only_what_is_missing() {
    let world = World::new();
    let data = content(1, 3 * BLOCK + 5000);
    let writer = world.store.writer(SliceId(1));
    append(&world.store, &writer, &data[..BLOCK as usize]).await;
    world.settle().await;
    world.faulty.down();
    append(&world.store, &writer, &data[BLOCK as usize..]).await;
    for _ in 0..2 {
        assert!(matches!(writer.finish().await, Err(Error::Store { .. })));
        assert_eq!(writer.buffered_bytes(), u64::from(2 * BLOCK) + 65536);
        assert_eq!(writer.read_now(BLOCK, 2 * BLOCK + 5000).unwrap(), data[BLOCK as usize..], "still readable");
    }
    world.faulty.up();
    let before = world.faulty.puts();
    let slice = writer.finish().await.unwrap().slice();
    assert_eq!(world.faulty.puts() - before, 3);
    assert_eq!((writer.buffered_bytes(), world.store.stats().buffer_used_bytes), (0, 0));
    assert_eq!(world.store.read(slice, 0, slice.size).await.unwrap(), data);
    assert_eq!(writer.finish().await.unwrap().slice(), slice, "finished stays finished");
    assert_eq!(world.faulty.puts() - before, 3);
}

#[tokio::test(start_paused = true)]
async fn dirty_bytes_are_readable_in_every_state() {
    let world = World::new();
    let data = content(1, 2 * BLOCK + 70_000);
    let writer = world.store.writer(SliceId(1));
    append(&world.store, &writer, &data[..BLOCK as usize]).await;
    world.settle().await;
    world.faulty.hold();
    append(&world.store, &writer, &data[BLOCK as usize..]).await;
    // Block 1 is on its way, the rest open; block 0 is stored and must be fetched.
    assert_eq!(writer.read_now(BLOCK - 1, 1), None);
    let (off, len) = (BLOCK + 1000, BLOCK + 60_000);
    assert_eq!(writer.read_now(off, len).unwrap(), data[off as usize..(off + len) as usize]);
    world.faulty.release();
    assert_eq!(writer.read_at(0, data.len() as u32).await.unwrap(), data);
    assert!(matches!(writer.read_at(1, data.len() as u32).await, Err(Error::OutOfSlice { .. })));
}

#[tokio::test(start_paused = true)]
async fn small_slices_take_small_pages_and_stay_in_the_cache() {
    let world = World::new();
    for (size, held) in [(1, 4096), (4096, 4096), (4097, 16384), (16_385, 65_536), (65_537, 131_072)] {
        let writer = world.store.writer(SliceId(u64::from(size)));
        append(&world.store, &writer, &content(7, size)).await;
        assert_eq!(writer.buffered_bytes(), held, "{size}");
        assert_eq!(world.store.stats().buffer_used_bytes, held, "{size}");
        let slice = writer.finish().await.unwrap().slice();
        assert_eq!(world.store.read_now(slice, 0, size).unwrap(), content(7, size));
    }
    assert_eq!(world.faulty.gets(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_grows_keeps_its_bytes() {
    let world = World::new();
    let data = content(3, 100_000);
    let writer = world.store.writer(SliceId(3));
    for (at, part) in data.chunks(1000).enumerate() {
        let mut room = world.store.try_reserve(part.len()).unwrap();
        assert!(writer.write_at(at as u32 * 1000, part, &mut room));
    }
    assert_eq!(writer.read_now(0, 100_000).unwrap(), data);
    assert_eq!(world.store.stats().buffer_used_bytes, 131_072, "what the small pages took was given back");
}

#[tokio::test(start_paused = true)]
async fn writers_wait_for_room_and_say_so() {
    let world = World::with(Config { buffer_bytes: 0, ..config() }, 0);
    world.faulty.hold();
    let writer = world.store.writer(SliceId(1));
    while let Some(mut room) = world.store.try_reserve(BLOCK as usize) {
        assert!(writer.write_at(writer.len(), &content(1, BLOCK), &mut room));
    }
    assert!(world.store.stats().buffer_used_bytes <= Config::BUFFER_BYTES_MIN);
    assert!(world.store.pressured().now_or_never().is_none());
    let reserve = world.env.spawn({
        let store = world.store.clone();
        async move { drop(store.reserve(BLOCK as usize).await) }
    });
    world.store.pressured().await;
    assert!(world.store.pressure() && world.store.stats().writers_waiting == 1);
    world.faulty.release();
    reserve.await.unwrap();
    assert_eq!(world.store.stats().writers_waiting, 0);
    assert!(writer.finish().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn dirt_never_starves_the_codec() {
    for compression in [Compression::Lz4, Compression::Zstd] {
        let world = World::with(Config { buffer_bytes: 0, compression, ..config() }, 0);
        let data = content(1, 24 << 20);
        let writer = world.store.writer(SliceId(1));
        append(&world.store, &writer, &data).await;
        let slice = writer.finish().await.unwrap().slice();
        assert_eq!(world.store.stats().buffer_used_bytes, 0);
        assert!(world.store.stats().put_stored_bytes < 12 << 20, "it compresses");
        assert!(world.store.read(slice, 0, slice.size).await.unwrap() == data);
    }
}

#[tokio::test(start_paused = true)]
async fn discard_deletes_what_was_stored() {
    let world = World::new();
    let writer = world.store.writer(SliceId(1));
    append(&world.store, &writer, &content(1, 2 * BLOCK + 10)).await;
    world.settle().await;
    assert_eq!(world.mem.len(), 2);
    world.faulty.down();
    assert!(writer.discard().await.is_err());
    world.faulty.up();
    writer.discard().await.unwrap();
    assert_eq!((world.mem.len(), world.store.stats().buffer_used_bytes), (0, 0));
    assert!(matches!(writer.finish().await, Err(Error::Discarded { .. })));
    assert!(matches!(writer.read_at(0, 1).await, Err(Error::Discarded { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_waited_too_long_is_looked_at_again() {
    let world = World::new();
    let writer = world.store.writer(SliceId(1));
    append(&world.store, &writer, &content(1, BLOCK + 10)).await;
    assert!(writer.finish().await.is_ok());
    world.env.sleep(Duration::from_secs(31 * 60)).await;
    assert!(writer.finish().await.is_ok(), "all is still there");
    world.store.object().delete("chunks/0/0/1_0_262144").await.unwrap();
    assert!(matches!(writer.finish().await, Err(Error::Missing { key }) if key.index == 0));
}

#[tokio::test(start_paused = true)]
async fn an_idle_pool_gives_its_memory_back() {
    let world = World::new();
    world.stored(1, 2 * BLOCK).await;
    assert!(world.store.stats().page_memory_bytes >= u64::from(BLOCK));
    world.env.sleep(Duration::from_secs(90)).await;
    assert_eq!(world.store.stats().page_memory_bytes, 0);
    world.store.close().await;
}

#[test]
fn a_write_may_come_from_a_thread_outside_the_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = {
        let _inside = runtime.enter();
        let env = cairn_env::Env::real();
        let cache = cairn_cache::BlockCache::open(env.clone(), crate::world::cache_config(0, vec![])).unwrap();
        let mem = std::sync::Arc::new(cairn_object::testing::MemStore::new(&env));
        cairn_chunk::ChunkStore::new(env, mem, cache, config())
    };
    let writer = store.writer(SliceId(1));
    let mut room = store.try_reserve(BLOCK as usize).unwrap();
    assert!(writer.write_at(0, &content(1, BLOCK), &mut room));
    assert_eq!(runtime.block_on(writer.finish()).unwrap().slice().size, BLOCK);
    runtime.block_on(store.close());
}
