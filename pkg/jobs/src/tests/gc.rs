use std::time::Duration;

use cairn_meta::Cred;
use cairn_types::Ino;

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
    crate::compact(&w.meta, &w.chunks, compacted, cairn_types::ChunkIndex(0)).await.unwrap();
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
