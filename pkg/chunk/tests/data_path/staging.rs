//! Staged blocks: read from the disk they lie on, uploaded in time, and never over anything else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cairn_cache::BlockCache;
use cairn_cache::journal::{Call, Journal, Settings, SimulatedDisk};
use cairn_chunk::{ChunkStore, Intent, IntentSlice, RawStaging, Staging, StagingRules, UploadHours};
use cairn_object::ObjectStore;
use cairn_types::{ChunkIndex, Ino, SliceId, SliceRecord, SliceRef, Timestamp};

use crate::world::{BLOCK, World, append, cache_config, config, content};

fn rules(set_aside: &Path) -> StagingRules {
    StagingRules {
        write_back: true,
        upload_delay: Duration::ZERO,
        upload_hours: None,
        threshold_bytes: 0,
        stage_writes_max: 100,
        uploads_max: 4,
        set_aside: set_aside.to_owned(),
    }
}

/// Another process over the same store, which stages on `disk`.
async fn staging(world: &World, disk: &SimulatedDisk, rules: StagingRules) -> Arc<ChunkStore> {
    let settings = Settings { volume: "v".into(), segment_bytes: 4 << 20, staged_bytes_max: 0, keep_free: 0.0 };
    let (journal, _) = Journal::open(&world.env, disk.door(), settings).await.unwrap();
    let staging = Staging::new(rules, Some(journal), RawStaging::default());
    let cache = BlockCache::open(world.env.clone(), cache_config(0, vec![])).unwrap();
    ChunkStore::with_staging(world.env.clone(), world.faulty.clone(), cache, config(), None, Some(staging))
}

/// A staged slice that somebody is about to commit.
async fn staged(store: &Arc<ChunkStore>, id: u64, size: u32) -> SliceRef {
    let writer = store.staging_writer(SliceId(id));
    append(store, &writer, &content(id, size)).await;
    let slice = writer.finish().await.unwrap().slice();
    let record = SliceRecord::whole(0, slice);
    let slices = vec![IntentSlice { index: ChunkIndex(0), record, mtime: Timestamp::default() }];
    let intent = Intent { ino: Ino(2), base: (Timestamp::default(), 0), set_mtime: None, slices };
    store.about_to_commit(None, || intent).await.unwrap().expect("it is noted");
    slice
}

#[tokio::test(start_paused = true)]
async fn staged_blocks_are_read_where_they_lie_and_uploaded_once_the_store_is_back() {
    let (world, disk, aside) = (World::new(), SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let store = staging(&world, &disk, rules(aside.path())).await;
    world.faulty.down();
    let slice = staged(&store, 7, 2 * BLOCK + 100).await;
    assert_eq!(store.read(slice, 5, BLOCK).await.unwrap(), content(7, slice.size)[5..][..BLOCK as usize]);
    store.verify(slice).await.expect("a staged block is not missing");
    world.env.sleep(Duration::from_secs(3600)).await;
    assert_eq!((world.mem.len(), store.staging_stats().blocks), (0, 3));
    assert!(store.staging_stats().oldest_age >= Duration::from_secs(3600));
    world.faulty.up();
    world.env.sleep(Duration::from_secs(60)).await;
    assert_eq!((world.mem.len(), store.staging_stats().blocks), (3, 0));
    assert_eq!(world.store.read(slice, 0, slice.size).await.unwrap(), content(7, slice.size));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_staged_is_never_put_over_other_bytes() {
    let (world, disk, aside) = (World::new(), SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let kept = StagingRules { upload_delay: Duration::from_secs(3600), ..rules(aside.path()) };
    let store = staging(&world, &disk, kept).await;
    staged(&store, 1, 100).await;
    staged(&store, 2, 100).await;
    store.close().await;
    disk.killed();
    // The upload of one got there without its mark; the other's name was given to somebody else's bytes.
    world.put_raw("chunks/0/0/1_0_100", content(1, 100)).await;
    world.put_raw("chunks/0/0/2_0_100", content(99, 100)).await;
    let puts = world.faulty.puts();
    let store = staging(&world, &disk, rules(aside.path())).await;
    world.settle().await;
    assert_eq!(world.faulty.puts(), puts, "nothing is put");
    assert_eq!(store.staging_stats().blocks, 0);
    assert_eq!(world.mem.get("chunks/0/0/2_0_100", None).await.unwrap(), content(99, 100));
    assert_eq!(std::fs::read(aside.path().join("2_0_100")).unwrap(), content(2, 100));
    assert!(!aside.path().join("1_0_100").exists());
}

#[tokio::test(start_paused = true)]
async fn uploads_keep_to_their_hours_and_their_delay_until_somebody_hurries() {
    let (world, disk, aside) = (World::new(), SimulatedDisk::new(), tempfile::tempdir().unwrap());
    // The simulated world begins at 8 o'clock.
    let hours = UploadHours { from: 20, to: 21, utc_offset_secs: 0 };
    let delayed =
        StagingRules { upload_hours: Some(hours), upload_delay: Duration::from_secs(2 * 3600), ..rules(aside.path()) };
    let store = staging(&world, &disk, delayed).await;
    staged(&store, 1, 100).await;
    world.env.sleep(Duration::from_secs(11 * 3600 + 1800)).await;
    assert_eq!(world.mem.len(), 0, "half past seven in the evening");
    world.env.sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.mem.len(), 1, "half past eight");
    staged(&store, 2, 100).await;
    world.env.sleep(Duration::from_secs(600)).await;
    assert_eq!(world.mem.len(), 1, "its delay is not over");
    store.drain(|_| {}).await;
    assert_eq!((world.mem.len(), store.staging_stats().blocks), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_block_deleted_while_it_waits_never_reaches_the_store() {
    let (world, disk, aside) = (World::new(), SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let store = staging(&world, &disk, rules(aside.path())).await;
    world.faulty.down();
    let slice = staged(&store, 3, 100).await;
    store.delete(slice).await.expect("nothing in the store need be deleted");
    world.faulty.up();
    world.env.sleep(Duration::from_secs(120)).await;
    assert_eq!((world.mem.len(), store.staging_stats().blocks), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_written_without_staging_goes_to_the_store_at_once() {
    let (world, disk, aside) = (World::new(), SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let kept = StagingRules { upload_delay: Duration::from_secs(3600), ..rules(aside.path()) };
    let store = staging(&world, &disk, kept).await;
    let writer = store.writer(SliceId(5));
    append(&store, &writer, &content(5, 100)).await;
    _ = writer.finish().await.unwrap();
    assert_eq!((world.mem.len(), store.staging_stats().blocks), (1, 0), "compaction never stages");
}

#[tokio::test(start_paused = true)]
async fn a_block_that_neither_disk_nor_store_keeps_is_not_to_be_committed() {
    for is_stored in [true, false] {
        let (world, disk, aside) = (World::new(), SimulatedDisk::new(), tempfile::tempdir().unwrap());
        let kept = StagingRules { upload_delay: Duration::from_secs(3600), ..rules(aside.path()) };
        let store = staging(&world, &disk, kept).await;
        let writer = store.staging_writer(SliceId(8));
        append(&store, &writer, &content(8, 100)).await;
        let slice = writer.finish().await.unwrap().slice();
        let (name, bytes) = disk.files().remove(0);
        let at = bytes.windows(100).position(|at| *at == content(8, 100)[..]).expect("it is staged");
        disk.flip_bit(&name, 8 * at as u64 + 3);
        disk.fail(Some((Call::Sync, std::io::ErrorKind::Other)));
        if is_stored {
            world.put_raw("chunks/0/0/8_0_100", content(8, 100)).await;
        }
        assert_eq!(store.check_staged(slice).await.is_ok(), is_stored);
        let record = SliceRecord::whole(0, slice);
        let slices = vec![IntentSlice { index: ChunkIndex(0), record, mtime: Timestamp::default() }];
        let intent = Intent { ino: Ino(2), base: (Timestamp::default(), 0), set_mtime: None, slices };
        assert_eq!(store.about_to_commit(None, || intent).await.is_ok(), is_stored);
        assert_eq!(store.staging_stats().lost_blocks, u64::from(!is_stored));
    }
}
