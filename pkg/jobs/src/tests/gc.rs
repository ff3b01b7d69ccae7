use std::time::Duration;

use cairn_meta::{Commit, Cred, Durability, NewSlice};
use cairn_types::{ChunkIndex, Ino, SliceRecord};

use super::world::{World, noise};
use crate::gc::{Leak, Options, Report, run};
use crate::{Tally, unwatched};

const HOUR: Duration = Duration::from_secs(3600);

async fn gc(w: &World, options: Options) -> Report {
    run(&w.meta, &w.store, &w.chunks, &options, &unwatched).await.unwrap()
}

fn tally(count: u64, bytes: u64) -> Tally {
    Tally { count, bytes }
}

#[tokio::test(start_paused = true)]
async fn every_object_is_judged_by_what_the_metadata_knows() {
    let w = World::new(1).await;
    w.file(Ino::ROOT, "f", &noise(100_000, 1)).await;
    let compacted = w.file(Ino::ROOT, "g", &noise(1000, 2)).await;
    w.write(compacted, 500, &noise(1000, 3)).await;
    crate::compact(&w.meta, &w.chunks, compacted, ChunkIndex(0)).await.unwrap();
    let orphan = w.store_slice(&noise(70, 4)).await;
    w.tamper(move |tx| tx.insert_slice(orphan, 0)).await;
    for (key, len) in [
        ("chunks/0/5/5001_0_10", 10),
        ("chunks/0/0/1_0_99999", 99),
        ("chunks/0/0/readme.txt", 5),
        ("chunks/stray", 5),
        ("elsewhere", 5),
    ] {
        w.put(key, vec![0; len]).await;
    }
    w.pass(2 * HOUR).await;
    w.put("chunks/0/6/6001_0_100", vec![0; 100]).await;
    w.file(Ino::ROOT, "young", &noise(300, 5)).await;

    let report = gc(&w, Options::default()).await;
    assert_eq!(report.used, tally(5, 100_000 + 1500 + 2000 + 300));
    assert_eq!(report.valid, tally(4, 101_800), "the young file's block too");
    assert_eq!(report.compacted, tally(2, 2000));
    assert_eq!(report.pending_delete, tally(1, 70));
    assert_eq!(report.leaked, tally(2, 109));
    assert_eq!(report.skipped, tally(1, 100));
    assert_eq!((report.scanned.count, report.ignored.count, report.deleted), (10, 2, tally(0, 0)));
    assert_eq!(
        report.leaked_keys,
        [
            ("chunks/0/0/1_0_99999".into(), Leak::NoSuchBlock { slice_bytes: 100_000 }),
            ("chunks/0/5/5001_0_10".into(), Leak::UnknownSlice)
        ]
    );
    let all = gc(&w, Options { skip_younger: Duration::ZERO, ..Options::default() }).await;
    assert_eq!((all.leaked.count, all.skipped.count), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn delete_removes_what_nobody_needs_and_nothing_else() {
    let w = World::new(1).await;
    let kept = w.file(Ino::ROOT, "kept", &noise(100_000, 1)).await;
    w.write(kept, 10, &noise(100, 2)).await;
    let before = w.read(kept).await;
    let trashed = w.file(Ino::ROOT, "trashed", &noise(1000, 3)).await;
    w.meta.unlink(&Cred::root(), Ino::ROOT, b"trashed", false).await.unwrap();
    w.file(Ino::ROOT, "removed", &noise(1000, 4)).await;
    w.meta.unlink(&Cred::root(), Ino::ROOT, b"removed", true).await.unwrap();
    w.put("chunks/0/5/5001_0_10", vec![0; 10]).await;
    w.pass(2 * HOUR).await;

    let report = gc(&w, Options { delete: true, compact: true, ..Options::default() }).await;
    assert_eq!(report.cleaned.files, tally(1, 1000));
    assert_eq!(report.cleaned.slices.count, 1);
    assert_eq!(report.compactions.count, 1);
    assert_eq!(report.deleted, tally(1, 10));
    assert_eq!(w.read(kept).await, before);
    w.assert_lawful().await;

    w.pass(30 * HOUR).await;
    let report = gc(&w, Options { delete: true, ..Options::default() }).await;
    assert_eq!((report.cleaned.trash_entries, report.cleaned.delayed.count), (1, 2));
    assert!(w.meta.getattr(trashed).await.is_err());
    assert_eq!(w.read(kept).await, before);
    assert_eq!(w.objects().await.len(), 2, "two blocks of one slice");
    w.assert_lawful().await;
}

/// `count` files of 1000 bytes each in one slice.
async fn packed(w: &World, count: u32) -> Vec<Ino> {
    let bytes = noise(count as usize * 1000, 7);
    let pack = w.store_slice(&bytes).await;
    let mut commits = Vec::new();
    for i in 0..count {
        let ino = w.file(Ino::ROOT, &format!("f{i}"), b"").await;
        let record = SliceRecord { pos: 0, id: pack.id, size: pack.size, off: i * 1000, len: 1000 };
        let new = NewSlice { index: ChunkIndex(0), record, mtime: w.meta.now() };
        commits.push(Commit::new(ino, vec![new], None));
    }
    let files = commits.iter().map(|commit| commit.ino).collect();
    w.meta.commit_many(commits, Durability::Process).await.unwrap();
    files
}

#[tokio::test(start_paused = true)]
async fn a_pack_with_one_live_record_is_kept_until_it_is_moved_out() {
    let w = World::new(0).await;
    let files = packed(&w, 20).await;
    for i in 1..20 {
        w.meta.unlink(&Cred::root(), Ino::ROOT, format!("f{i}").as_bytes(), true).await.unwrap();
    }
    let before = w.read(files[0]).await;
    let report = gc(&w, Options { delete: true, ..Options::default() }).await;
    w.pass(2 * HOUR).await;
    assert_eq!((report.packs.count, report.dead), (1, tally(1, 19_000)));
    assert_eq!((w.read(files[0]).await, w.objects().await.len()), (before.clone(), 1));
    w.assert_lawful().await;

    let report = gc(&w, Options { delete: true, compact: true, ..Options::default() }).await;
    assert_eq!((report.compactions, report.dead), (tally(1, 1000), tally(0, 0)));
    w.pass(2 * HOUR).await;
    gc(&w, Options { delete: true, ..Options::default() }).await;
    assert_eq!(w.list(files[0], 0).await[0].size, 1000, "a slice of its own");
    assert_eq!((w.read(files[0]).await, w.objects().await.len()), (before, 1), "the pack is gone");
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_pack_that_is_mostly_shown_is_left_alone() {
    let w = World::new(0).await;
    packed(&w, 20).await;
    w.meta.unlink(&Cred::root(), Ino::ROOT, b"f3", true).await.unwrap();
    let report = gc(&w, Options { delete: true, compact: true, ..Options::default() }).await;
    assert_eq!((report.compactions.count, report.dead), (0, tally(1, 1000)));
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_list_keeps_every_object_that_it_may_name() {
    let w = World::new(1).await;
    let ino = w.file(Ino::ROOT, "f", &noise(1000, 1)).await;
    w.put_raw_chunk(ino, 0, vec![1, 2, 3]);
    w.pass(2 * HOUR).await;
    let report = gc(&w, Options { delete: true, ..Options::default() }).await;
    assert_eq!((report.corrupt_lists, report.leaked.count, report.deleted.count), (1, 1, 0));
    assert_eq!(w.objects().await.len(), 1);
}
