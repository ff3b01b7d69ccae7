//! Small writes that share slices.

use cairn_meta::FallocMode;
use cairn_meta::invariants::CheckVolume;
use cairn_types::{ChunkIndex, SliceRecord};

use super::*;

/// A volume with blocks large enough for packs that matter.
async fn world(pack_bytes: u32) -> World {
    World::with(format(), Config { pack_bytes, ..config() }, Parts::none()).await
}

impl World {
    async fn records(&self, ino: Ino) -> Vec<SliceRecord> {
        self.vfs.meta().raw_slices(ino, ChunkIndex(0)).await.expect("a list")
    }

    async fn is_lawful(&self) {
        let (broken, _) = self.vfs.meta().view(CheckVolume { strict: true }).await.expect("checks");
        assert!(broken.is_empty(), "{broken:?}");
    }

    /// `pages` of `page` bytes each, written where a whole file of zeros was, far apart and in no order.
    async fn scatter(&self, fh: Fh, bytes: &mut [u8], pages: usize, step: usize) {
        for i in 0..pages {
            let at = (i * 7919 % pages) * step;
            let data = pattern(i, 4096);
            self.write(fh, at as u64, &data).await;
            bytes[at..at + 4096].copy_from_slice(&data);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn random_writes_of_a_flush_share_one_object_and_one_commit() {
    let w = world(BLOCK).await;
    let (ino, fh) = w.create("a").await;
    let mut bytes = vec![0; 16 * 20_000];
    w.scatter(fh, &mut bytes, 16, 20_000).await;
    bytes.truncate(15 * 20_000 + 4096);
    assert!(w.read(fh, 0, bytes.len()).await == bytes, "dirty");
    w.fsync(fh).await.expect("stored");
    let records = w.records(ino).await;
    assert_eq!((w.store.puts(), records.len()), (1, 16));
    assert!(records.iter().all(|r| r.id == records[0].id && r.size == BLOCK), "{records:?}");
    assert!(w.content(ino).await == bytes);
    assert!(w.peer().await.content(ino).await == bytes);
    w.is_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pages_take_as_many_objects_as_their_bytes_need() {
    let w = world(BLOCK).await;
    let (ino, fh) = w.create("a").await;
    let mut bytes = vec![0; 1000 * 12_288];
    w.scatter(fh, &mut bytes, 1000, 12_288).await;
    w.fsync(fh).await.expect("stored");
    assert_eq!(w.store.puts(), (1000u64 * 4096).div_ceil(u64::from(BLOCK)));
    assert_eq!(w.records(ino).await.len(), 1000);
    bytes.truncate(999 * 12_288 + 4096);
    assert!(w.peer().await.content(ino).await == bytes);
    w.is_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn without_packs_every_run_is_a_slice() {
    let w = world(0).await;
    let (_, fh) = w.create("a").await;
    let mut bytes = vec![0; 16 * 20_000];
    w.scatter(fh, &mut bytes, 16, 20_000).await;
    w.fsync(fh).await.expect("stored");
    assert_eq!(w.store.puts(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_no_patch_even_if_it_begins_beside_others() {
    let w = world(BLOCK).await;
    let (ino, fh) = w.create("a").await;
    let (mut a, mut b) = (0, 10 << 20);
    for i in 0..500 {
        w.write(fh, a, &pattern(i, 4096)).await;
        w.write(fh, b, &pattern(i + 1, 4096)).await;
        (a, b) = (a + 4096, b + 4096);
    }
    w.env.sleep(Duration::from_millis(10)).await;
    let sent = w.store.puts() * u64::from(BLOCK);
    assert!(sent > 3 << 20, "blocks of both streams leave while they are written, not {sent}");
    w.fsync(fh).await.expect("stored");
    assert!(w.records(ino).await.len() < 20);
    w.is_lawful().await;
}

/// A file of zeros, every second page of which was written since.
async fn half_dirty(w: &World) -> (Ino, Fh, Vec<u8>) {
    let (ino, fh) = w.create("a").await;
    let mut bytes = pattern(99, 100 * 8192);
    w.write(fh, 0, &bytes).await;
    w.fsync(fh).await.expect("stored");
    w.content(ino).await;
    w.scatter(fh, &mut bytes, 100, 8192).await;
    (ino, fh, bytes)
}

#[tokio::test(start_paused = true)]
async fn half_dirty_spans_are_shown_by_one_record() {
    let w = world(BLOCK).await;
    let (ino, fh, bytes) = half_dirty(&w).await;
    assert!(w.content(ino).await == bytes);
    w.fsync(fh).await.expect("stored");
    let records = w.records(ino).await;
    assert_eq!(records.len(), 2, "the file as it was, and all of the pages with what lies between: {records:?}");
    assert!(w.content(ino).await == bytes);
    assert!(w.peer().await.content(ino).await == bytes);
    w.is_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_wrote_between_pages_is_never_undone() {
    let w = world(BLOCK).await;
    let (ino, fh, mut bytes) = half_dirty(&w).await;
    w.store.hold();
    let other = w.peer().await;
    let (flushed, ()) = tokio::join!(w.fsync(fh), async {
        w.store.held(1).await;
        let at = 8192 * 50 + 5000;
        let theirs = other.open(ino).await;
        let punch = FallocMode::from_bits(3).expect("a mode");
        other.vfs.fallocate(&other.root, theirs, punch, at, 100).await.expect("punches");
        bytes[at as usize..at as usize + 100].fill(0);
        w.store.release();
    });
    flushed.expect("ours is stored");
    let records = w.records(ino).await;
    assert!(records.len() > 100, "run by run, since the list had changed: {}", records.len());
    assert!(w.peer().await.content(ino).await == bytes);
    w.is_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_never_grows_beyond_its_bound_by_one_flush() {
    let w = world(BLOCK).await;
    let (ino, fh) = w.create("a").await;
    let mut bytes = vec![0; 1500 * 6000];
    w.scatter(fh, &mut bytes, 1500, 6000).await;
    bytes.truncate(1499 * 6000 + 4096);
    w.fsync(fh).await.expect("stored");
    assert_eq!(w.records(ino).await.len(), 1, "everything between was a hole, and at hand");
    assert!(w.peer().await.content(ino).await == bytes);
    w.is_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_pack_whose_file_is_over_its_limit_keeps_what_fits() {
    let full = Format { capacity: 64 << 10, ..format() };
    let w = World::with(full, config(), Parts::none()).await;
    let (ino, fh) = w.create("a").await;
    for page in [0u64, 3, 9, 30, 50, 70] {
        w.write(fh, page * 4096, &pattern(page as usize, 4096)).await;
    }
    assert!(w.fsync(fh).await.is_err(), "told");
    w.fsync(fh).await.expect("once");
    assert_eq!(w.length(ino).await, 10 * 4096);
    assert_eq!(w.records(ino).await.len(), 3);
    let peer = w.peer().await;
    assert_eq!(peer.content(ino).await[3 * 4096..4 * 4096], pattern(3, 4096));
    w.is_lawful().await;
    w.vfs.unlink(&w.root, Ino::ROOT, b"a").await.expect("unlinks");
}

#[tokio::test(start_paused = true)]
async fn a_failed_pack_is_kept_and_stored_later() {
    let w = world(BLOCK).await;
    let (ino, fh) = w.create("a").await;
    let mut bytes = vec![0; 16 * 20_000];
    w.store.down();
    w.scatter(fh, &mut bytes, 16, 20_000).await;
    bytes.truncate(15 * 20_000 + 4096);
    assert!(w.fsync(fh).await.is_err());
    assert!(w.read(fh, 0, bytes.len()).await == bytes, "it stays readable");
    w.write(fh, 20_000, b"newer").await;
    bytes[20_000..20_005].copy_from_slice(b"newer");
    w.store.up();
    w.fsync(fh).await.expect("stored");
    assert!(w.peer().await.content(ino).await == bytes);
    assert_eq!(w.chunk.stats().buffer_used_bytes, 0, "memory goes back");
    w.is_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn small_files_closed_at_the_same_moment_share_objects() {
    let w = world(BLOCK).await;
    w.store.set_faults(cairn_object::testing::Faults { delay_max: Duration::from_millis(5), ..Default::default() });
    let mut files = Vec::new();
    for i in 0..100 {
        let (ino, fh) = w.create(&format!("f{i}")).await;
        w.write(fh, 0, &pattern(i, 1000 + i)).await;
        files.push((i, ino, fh));
    }
    let closes = files.iter().map(|(_, _, fh)| w.close(*fh));
    futures::future::join_all(closes).await;
    assert!(w.store.puts() <= 8, "two alone, the rest in company: {} objects", w.store.puts());
    assert_eq!(w.vfs.dirty(), (0, 0));
    let peer = w.peer().await;
    for (i, ino, _) in &files {
        assert!(peer.content(*ino).await == pattern(*i, 1000 + i), "file {i}");
    }
    w.is_lawful().await;
    for (i, ..) in files.iter().skip(1) {
        w.vfs.unlink(&w.root, Ino::ROOT, format!("f{i}").as_bytes()).await.expect("unlinks");
    }
    w.is_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn in_company_each_file_hears_its_own_verdict() {
    // The first of a pack, and one in its middle.
    for gone in [1, 2, 9] {
        let w = world(BLOCK).await;
        w.store.set_faults(cairn_object::testing::Faults { delay_max: Duration::from_millis(5), ..Default::default() });
        let mut files = Vec::new();
        for i in 0..20 {
            let (ino, fh) = w.create(&format!("f{i}")).await;
            w.write(fh, 0, &pattern(i, 1000)).await;
            files.push((i, ino, fh));
        }
        // Another client removes one of them for good: it has no inode any more.
        let other = w.peer().await;
        other.vfs.unlink(&w.root, Ino::ROOT, format!("f{gone}").as_bytes()).await.expect("unlinks");
        let flushes = files.iter().map(|(_, _, fh)| w.flush(*fh));
        let outcomes = futures::future::join_all(flushes).await;
        let failed: Vec<usize> = outcomes.iter().enumerate().filter(|(_, o)| o.is_err()).map(|(i, _)| i).collect();
        assert_eq!(failed, [gone]);
        let peer = w.peer().await;
        for (i, ino, _) in files.iter().filter(|(i, ..)| *i != gone) {
            assert!(peer.content(*ino).await == pattern(*i, 1000), "file {i} without {gone}");
        }
        w.is_lawful().await;
    }
}

#[tokio::test(start_paused = true)]
async fn synced_appends_leave_few_records() {
    let w = world(BLOCK).await;
    let (ino, fh) = w.create("log").await;
    let mut bytes = Vec::new();
    for i in 0..200 {
        let line = pattern(i, 300);
        w.write(fh, bytes.len() as u64, &line).await;
        bytes.extend(line);
        w.fsync(fh).await.expect("stored");
    }
    let records = w.records(ino).await;
    assert!(records.len() <= 8, "{records:?}");
    assert!(w.content(ino).await == bytes);
    assert!(w.peer().await.content(ino).await == bytes);
    w.is_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_others_wrote_to_is_not_replaced() {
    let w = world(BLOCK).await;
    let (ino, fh) = w.create("log").await;
    w.write(fh, 0, &pattern(1, 300)).await;
    w.fsync(fh).await.expect("stored");
    let other = w.peer().await;
    let theirs = other.open(ino).await;
    other.write(theirs, 100, b"theirs").await;
    other.fsync(theirs).await.expect("stored");
    w.write(fh, 300, &pattern(2, 300)).await;
    w.fsync(fh).await.expect("stored");
    let mut bytes = pattern(1, 300);
    bytes[100..106].copy_from_slice(b"theirs");
    bytes.extend(pattern(2, 300));
    assert!(w.peer().await.content(ino).await == bytes);
    assert_eq!(w.records(ino).await.len(), 3);
    w.is_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn who_only_writes_leaves_caches_out_as_long_as_nobody_else_has_them() {
    let w = world(BLOCK).await;
    let (ino, reader) = w.create("a").await;
    let writing = OpenFlags { write: true, uncached: true, ..OpenFlags::default() };
    let beside = w.vfs.open(&w.root, ino, writing).await.expect("opens");
    assert!(!beside.uncached, "somebody has it open with caches");
    for fh in [reader, beside.fh] {
        w.vfs.release(&w.root, fh).await.expect("releases");
    }
    let alone = w.vfs.open(&w.root, ino, writing).await.expect("opens");
    assert!(alone.uncached && !w.vfs.is_watched(alone.fh));
    let later = w.vfs.open(&w.root, ino, OpenFlags::reading()).await.expect("opens");
    assert!(later.uncached, "the mode is the inode's");
    assert!(w.vfs.is_watched(alone.fh));
    w.vfs.release(&w.root, alone.fh).await.expect("releases");
    let last = w.vfs.open(&w.root, ino, OpenFlags::reading()).await.expect("opens");
    assert!(last.uncached, "one is left that leaves caches out");
    for fh in [later.fh, last.fh] {
        w.vfs.release(&w.root, fh).await.expect("releases");
    }
    assert!(!w.vfs.open(&w.root, ino, OpenFlags::reading()).await.expect("opens").uncached);
}
