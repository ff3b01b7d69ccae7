use cairn_meta::Durability;
use cairn_types::{ChunkIndex, Ino};

use super::world::{BLOCK, World, noise};
use crate::ops::{ReleaseDelayed, SwapChunk};
use crate::{Compacted, compact, plan};

const FIRST: ChunkIndex = ChunkIndex(0);

/// A file of overlapping writes with a gap, and what it must read as.
async fn patched(w: &World) -> (Ino, Vec<u8>) {
    let ino = w.file(Ino::ROOT, "f", &noise(3 * BLOCK as usize, 1)).await;
    w.write(ino, u64::from(BLOCK) - 10, &noise(100, 2)).await;
    w.write(ino, 7, &noise(5, 3)).await;
    w.write(ino, 5 * u64::from(BLOCK), &noise(1000, 4)).await;
    (ino, w.read(ino).await)
}

#[tokio::test(start_paused = true)]
async fn a_compacted_chunk_reads_the_same_and_keeps_old_slices_for_the_trash_days() {
    let w = World::new(1).await;
    let (ino, before) = patched(&w).await;
    let done = compact(&w.meta, &w.chunks, ino, FIRST).await.unwrap();
    let bytes = u64::from(5 * BLOCK + 1000);
    assert_eq!(done, Compacted::Done { records: 4, bytes, unowned: vec![] });
    assert_eq!(w.list(ino, 0).await.len(), 1);
    assert_eq!(w.read(ino).await, before);
    w.assert_lawful().await;
    assert_eq!(compact(&w.meta, &w.chunks, ino, FIRST).await.unwrap(), Compacted::Nothing);

    let step = w.meta.run(ReleaseDelayed { until: i64::MAX, limit: 10 }).await.unwrap();
    assert_eq!((step.unowned.len(), step.slices, step.done), (4, 4, true));
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn without_trash_the_old_slices_lose_their_owner_at_once() {
    let w = World::new(0).await;
    let (ino, before) = patched(&w).await;
    let old: Vec<_> = w.list(ino, 0).await.iter().filter_map(|r| r.slice()).collect();
    let Compacted::Done { unowned, .. } = compact(&w.meta, &w.chunks, ino, FIRST).await.unwrap() else { panic!() };
    assert_eq!(unowned, old);
    for slice in unowned {
        w.chunks.delete(slice).await.unwrap();
    }
    assert_eq!(w.read(ino).await, before);
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn records_appended_meanwhile_stay_behind_the_new_one() {
    let w = World::new(1).await;
    let (ino, _) = patched(&w).await;
    let read = w.list(ino, 0).await;
    let plan = plan(&read).unwrap();
    let slice = w.store_slice(&w.read(ino).await).await;
    w.write(ino, 3, b"late").await;
    let expected = w.read(ino).await;
    w.meta.run(SwapChunk { ino, index: FIRST, read, plan, slice }).await.unwrap();
    assert_eq!(w.list(ino, 0).await.len(), 2);
    assert_eq!(w.read(ino).await, expected);
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn who_loses_the_race_changes_nothing() {
    let w = World::new(1).await;
    let (ino, before) = patched(&w).await;
    let read = w.list(ino, 0).await;
    let (stale, slice) = (plan(&read).unwrap(), w.store_slice(&before).await);
    compact(&w.meta, &w.chunks, ino, FIRST).await.unwrap();
    let list = w.list(ino, 0).await;
    let lost = w.meta.run_durable(SwapChunk { ino, index: FIRST, read, plan: stale, slice }, Durability::Power).await;
    assert!(matches!(lost, Err(cairn_meta::Error::Changed)), "{lost:?}");
    assert_eq!(w.list(ino, 0).await, list);
    assert_eq!(w.read(ino).await, before);
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_block_stops_a_compaction_and_leaves_no_object() {
    let w = World::new(1).await;
    let (ino, _) = patched(&w).await;
    let list = w.list(ino, 0).await;
    let key = w.chunks.blocks(list[0].slice().unwrap()).last().unwrap();
    w.store.delete(&w.chunks.object_key(key)).await.unwrap();
    let objects = w.objects().await;
    assert_eq!(compact(&w.meta, &w.chunks, ino, FIRST).await.unwrap(), Compacted::Unreadable);
    assert_eq!(w.objects().await, objects);
    assert_eq!(w.list(ino, 0).await, list);
}

#[tokio::test(start_paused = true)]
async fn a_long_list_of_many_chunks_compacts_as_often_as_needed() {
    let w = World::new(0).await;
    let ino = w.file(Ino::ROOT, "f", b"").await;
    for i in 0..1200u64 {
        w.write(ino, i * 3, &[i as u8, 1, 2]).await;
    }
    let before = w.read(ino).await;
    while compact(&w.meta, &w.chunks, ino, FIRST).await.unwrap() != Compacted::Nothing {}
    assert_eq!(w.list(ino, 0).await.len(), 1);
    assert_eq!(w.read(ino).await, before);
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_tree_is_compacted_file_by_file() {
    let w = World::new(0).await;
    let dir = w.dir(Ino::ROOT, "d").await;
    let sub = w.dir(dir, "sub").await;
    for parent in [dir, sub] {
        let ino = w.file(parent, "f", b"one").await;
        w.write(ino, 3, b"two").await;
    }
    let upkeep = crate::Upkeep::start(w.env.clone(), w.meta.clone(), w.chunks.clone(), crate::Config::mount());
    let done = upkeep.compact_tree(dir, 2, &crate::unwatched).await.unwrap();
    assert_eq!((done.count, done.bytes, upkeep.stats().deferred_slices), (2, 12, 4));
    upkeep.stop().await;
    w.assert_lawful().await;
}
