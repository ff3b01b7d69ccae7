use cairn_meta::Cred;
use cairn_meta::record::{DirStat, Quota, QuotaKey, QuotaKind};
use cairn_meta::txn::{AttrChange, Counter};
use cairn_types::{ChunkIndex, Compression, Ino, SliceRecord};

use super::world::{BLOCK, World, noise};
use crate::fsck::{Finding, Options, Report, run};
use crate::unwatched;

async fn fsck(w: &World, options: Options) -> Report {
    run(&w.meta, &w.store, &w.chunks, &options, &unwatched).await.unwrap()
}

/// Rule, path of the first file, object.
fn shown(report: &Report) -> Vec<(&'static str, Option<&str>, Option<&str>)> {
    report.findings.iter().map(|f| (f.problem.rule(), path_of(f), f.problem.object())).collect()
}

fn path_of(finding: &Finding) -> Option<&str> {
    finding.files.first().and_then(|place| place.path.as_deref())
}

#[tokio::test(start_paused = true)]
async fn a_sound_volume_has_no_findings() {
    let w = World::new(1).await;
    let dir = w.dir(Ino::ROOT, "d").await;
    w.file(dir, "f", &noise(3 * BLOCK as usize, 1)).await;
    w.file(dir, "g", b"gone").await;
    w.meta.unlink(&Cred::root(), dir, b"g", false).await.unwrap();
    for options in [
        Options { verify: true, ..Options::default() },
        Options { path: Some(b"/".to_vec()), recursive: true, ..Options::default() },
        Options { path: Some(b"/d/f".to_vec()), verify: true, ..Options::default() },
    ] {
        let report = fsck(&w, options).await;
        assert!(report.is_clean(), "{:?}", report.findings);
        assert!(report.slices.count > 0);
    }
    let nowhere = Options { path: Some(b"/d/nope".to_vec()), ..Options::default() };
    let missing = run(&w.meta, &w.store, &w.chunks, &nowhere, &unwatched).await;
    assert!(matches!(missing, Err(crate::Error::NoPath { .. })));
}

#[tokio::test(start_paused = true)]
async fn blocks_that_are_gone_cut_or_spoiled_are_found() {
    let w = World::with(1, Compression::Zstd).await;
    let names = ["missing", "emptied", "spoiled", "good"];
    for (i, name) in names.iter().enumerate() {
        w.file(Ino::ROOT, name, &noise(100_000, i as u64)).await;
    }
    w.store.delete("chunks/0/0/1_1_34464").await.unwrap();
    w.put("chunks/0/0/2_0_65536", vec![]).await;
    w.put("chunks/0/0/3_0_65536", noise(500, 9)).await;

    let missing = ("missing-object", Some("/missing"), Some("chunks/0/0/1_1_34464"));
    let emptied = ("wrong-object-length", Some("/emptied"), Some("chunks/0/0/2_0_65536"));
    let spoiled = ("damaged-object", Some("/spoiled"), Some("chunks/0/0/3_0_65536"));
    let report = fsck(&w, Options::default()).await;
    assert_eq!(shown(&report), [missing, emptied], "length alone does not show the spoiled one");
    assert_eq!(report.lost.count, 1);
    let report = fsck(&w, Options { verify: true, ..Options::default() }).await;
    assert_eq!(shown(&report), [missing, emptied, spoiled]);
    let path = Options { path: Some(b"/missing".to_vec()), ..Options::default() };
    assert_eq!(shown(&fsck(&w, path).await), [missing]);
}

#[tokio::test(start_paused = true)]
async fn only_files_that_show_a_bad_block_are_blamed() {
    let w = World::new(1).await;
    let pack = w.store_slice(&noise(2 * BLOCK as usize, 1)).await;
    for (name, off) in [("head", 0), ("tail", BLOCK), ("tail2", BLOCK + 5)] {
        let ino = w.file(Ino::ROOT, name, b"").await;
        w.tamper(move |tx| {
            let record = SliceRecord { pos: 0, id: pack.id, size: pack.size, off, len: 5 };
            tx.append_slices(ino, ChunkIndex(0), &[record]).map(drop)
        })
        .await;
    }
    w.tamper(move |tx| tx.insert_slice(pack, 3)).await;
    w.store.delete("chunks/0/0/1_1_65536").await.unwrap();
    let report = fsck(&w, Options::default()).await;
    let blamed: Vec<_> = report.findings[0].files.iter().map(|f| f.path.as_deref()).collect();
    assert_eq!(blamed, [Some("/tail"), Some("/tail2")]);
}

#[tokio::test(start_paused = true)]
async fn directories_are_mended_as_the_reference_does() {
    let w = World::new(1).await;
    let dir = w.dir(Ino::ROOT, "d").await;
    let lost = w.dir(dir, "lost").await;
    w.file(lost, "inside", b"x").await;
    w.tamper(move |tx| {
        tx.change_attr(dir, &AttrChange { nlink_add: 6, ..Default::default() })?;
        tx.remove_attr(lost)?;
        tx.put_dir_stat(dir, &DirStat { length: 1, space: -5, inodes: 77 })
    })
    .await;
    let whole = Options { path: Some(b"/".to_vec()), recursive: true, repair: true, ..Options::default() };
    let first = fsck(&w, whole.clone()).await;
    let rules: Vec<_> = first.findings.iter().map(|f| (f.problem.rule(), f.repaired)).collect();
    assert_eq!(rules, [("dangling-entry", true), ("nlink", true)]);
    let second = fsck(&w, whole.clone()).await;
    let rules: Vec<_> = second.findings.iter().map(|f| (f.problem.rule(), f.repaired)).collect();
    assert_eq!(rules, [("directory-statistics", true)]);
    assert_eq!(w.meta.getattr(lost).await.unwrap().mode, 0o755);
    assert!(fsck(&w, whole).await.findings.is_empty());
}

#[tokio::test(start_paused = true)]
async fn sums_that_drifted_are_mended_by_what_they_lack() {
    let w = World::new(1).await;
    let dir = w.dir(Ino::ROOT, "d").await;
    w.file(dir, "f", &noise(10_000, 1)).await;
    let key = QuotaKey { kind: QuotaKind::Dir, id: dir.0 };
    let quota = Quota { max_space: 1 << 30, max_inodes: 100, used_space: 7, used_inodes: 70 };
    w.tamper(move |tx| {
        tx.put_quota(key, &quota)?;
        tx.add_counter(Counter::UsedSpace, -4096)?;
        tx.add_counter(Counter::TotalInodes, 5)?;
        tx.add_counter(Counter::NextChunk, -1_000_000)?;
        tx.put_dir_stat(dir, &DirStat { length: 1, space: -5, inodes: 77 })
    })
    .await;
    let drift = ["directory-statistics", "next-id", "usage-counters", "quota-usage"];
    let rules = |report: &Report| report.findings.iter().map(|f| (f.problem.rule(), f.repaired)).collect::<Vec<_>>();
    assert_eq!(rules(&fsck(&w, Options::default()).await), drift.map(|rule| (rule, false)));
    let mend = Options { repair: true, ..Options::default() };
    assert_eq!(rules(&fsck(&w, mend.clone()).await), drift.map(|rule| (rule, true)));
    assert_eq!(rules(&fsck(&w, mend).await), []);
}

#[tokio::test(start_paused = true)]
async fn a_report_is_readable_by_machines() {
    let w = World::new(1).await;
    w.file(Ino::ROOT, "f", b"bytes").await;
    w.store.delete("chunks/0/0/1_0_5").await.unwrap();
    let report = serde_json::to_value(fsck(&w, Options::default()).await).unwrap();
    let finding = &report["findings"][0];
    assert_eq!(finding["rule"], "missing-object");
    assert_eq!(finding["object"], "chunks/0/0/1_0_5");
    assert_eq!(finding["files"][0]["path"], "/f");
}
