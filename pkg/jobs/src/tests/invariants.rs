//! Each rule notices when it is broken.

use cairn_meta::invariants::{CheckVolume, Violation};
use cairn_meta::record::{DirStat, Entry, Quota, QuotaKey, QuotaKind};
use cairn_meta::txn::{AttrChange, Counter};
use cairn_meta::{Cred, NewNode, OpenHow};
use cairn_types::{ChunkIndex, FileType, Ino, SessionId, SliceId, SliceRecord, SliceRef};

use super::world::{World, noise};

/// `/d/sub`, `/d/f`, hard link `/g` to it, a symlink, a removed file.
async fn volume() -> (World, Ino, Ino, Ino) {
    let w = World::new(1).await;
    let d = w.dir(Ino::ROOT, "d").await;
    let sub = w.dir(d, "sub").await;
    let f = w.file(d, "f", &noise(9000, 1)).await;
    w.meta.link(&Cred::root(), f, Ino::ROOT, b"g").await.unwrap();
    w.meta.mknod(&Cred::root(), d, b"link", NewNode::symlink(b"target")).await.unwrap();
    w.file(d, "trashed", b"x").await;
    w.meta.unlink(&Cred::root(), d, b"trashed", false).await.unwrap();
    w.assert_lawful().await;
    (w, d, sub, f)
}

async fn rules(w: &World) -> Vec<&'static str> {
    w.broken().await.iter().map(Violation::rule).collect()
}

#[tokio::test(start_paused = true)]
async fn names_without_inodes_and_inodes_without_names() {
    let (w, d, sub, _) = volume().await;
    w.tamper(move |tx| tx.remove_entry(d, b"sub")).await;
    assert_eq!(rules(&w).await, ["nlink", "directory-statistics", "orphan-inode"]);
    w.tamper(move |tx| {
        tx.remove_attr(sub)?;
        tx.insert_entry(d, b"sub", Entry { ino: sub, kind: FileType::Directory })
    })
    .await;
    let strict = rules(&w).await;
    assert!(strict.contains(&"dangling-entry") && strict.contains(&"usage-counters"), "{strict:?}");
    let lenient = w.meta.view(CheckVolume { strict: false }).await.unwrap().0;
    assert!(matches!(lenient.as_slice(), [Violation::DanglingEntry { .. }]), "the rest follows from it: {lenient:?}");
}

#[tokio::test(start_paused = true)]
async fn types_parents_and_link_counts() {
    let (w, d, sub, f) = volume().await;
    w.tamper(move |tx| tx.replace_entry(Ino::ROOT, b"g", Entry { ino: f, kind: FileType::Fifo })).await;
    assert_eq!(rules(&w).await, ["entry-kind"]);
    w.tamper(move |tx| tx.replace_entry(Ino::ROOT, b"g", Entry { ino: f, kind: FileType::File })).await;
    w.tamper(move |tx| tx.change_attr(sub, &AttrChange { parent: Some(Ino::ROOT), ..Default::default() })).await;
    assert_eq!(rules(&w).await, ["parent"]);
    w.tamper(move |tx| tx.change_attr(sub, &AttrChange { parent: Some(d), ..Default::default() })).await;
    w.tamper(move |tx| tx.change_attr(f, &AttrChange { nlink_add: 1, ..Default::default() })).await;
    let broken = w.broken().await;
    assert!(matches!(broken.as_slice(), [Violation::Nlink { found: 3, expected: 2, .. }]), "{broken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cycle_is_named_once() {
    let (w, d, sub, _) = volume().await;
    let deep = w.dir(sub, "deep").await;
    w.tamper(move |tx| {
        tx.remove_entry(Ino::ROOT, b"d")?;
        tx.insert_entry(deep, b"d", Entry { ino: d, kind: FileType::Directory })?;
        tx.change_attr(d, &AttrChange { parent: Some(deep), ..Default::default() })
    })
    .await;
    let broken = w.broken().await;
    let cycles: Vec<_> = broken.iter().filter(|v| v.rule() == "directory-cycle").collect();
    assert_eq!(cycles, [&Violation::Cycle { ino: d }]);
}

#[tokio::test(start_paused = true)]
async fn slice_lists_and_references() {
    let (w, _, _, f) = volume().await;
    let slice = w.list(f, 0).await[0].slice().unwrap();
    w.tamper(move |tx| tx.add_slice_refs(slice, 1).map(drop)).await;
    assert_eq!(w.broken().await, [Violation::SliceRefs { slice, found: 2, expected: 1 }]);
    w.tamper(move |tx| tx.add_slice_refs(slice, -1).map(drop)).await;

    let unknown = SliceRef { id: SliceId(99_999), size: 10 };
    w.tamper(move |tx| tx.append_slices(f, ChunkIndex(0), &[SliceRecord::whole(0, unknown)]).map(drop)).await;
    let broken = rules(&w).await;
    assert!(broken.contains(&"next-id"), "{broken:?}");
    w.tamper(move |tx| tx.remove_chunk(f, ChunkIndex(0))).await;

    w.put_raw_chunk(f, 0, {
        let mut raw = SliceRecord::whole(0, slice).encode().to_vec();
        raw.extend([0, 0]);
        raw
    });
    assert_eq!(rules(&w).await, ["corrupt-slice-list"]);
    w.put_raw_chunk(Ino(7777), 0, SliceRecord::hole(0, 5).encode().to_vec());
    assert_eq!(rules(&w).await, ["corrupt-slice-list", "orphan-slice-list"]);
}

#[tokio::test(start_paused = true)]
async fn sessions_counters_statistics_and_quotas() {
    let (w, d, _, f) = volume().await;
    let sid = w.meta.sid().unwrap();
    w.tamper(move |tx| tx.insert_sustained(sid, f)).await;
    assert_eq!(rules(&w).await, ["sustained-inode"]);
    w.tamper(move |tx| tx.remove_sustained(sid, f).map(drop)).await;

    w.tamper(|tx| tx.set_counter(Counter::NextInode, 2)).await;
    assert_eq!(rules(&w).await, ["next-id"]);
    w.tamper(|tx| tx.set_counter(Counter::NextInode, 5000)).await;

    w.tamper(|tx| tx.add_counter(Counter::UsedSpace, 4096)).await;
    assert_eq!(rules(&w).await, ["usage-counters"]);
    w.tamper(|tx| tx.add_counter(Counter::UsedSpace, -4096)).await;

    w.tamper(move |tx| tx.put_dir_stat(d, &DirStat { length: 1, space: -5, inodes: 77 })).await;
    let broken = w.broken().await;
    assert_eq!(
        broken.iter().map(|v| (v.rule(), v.is_drift(), v.ino())).collect::<Vec<_>>(),
        [("directory-statistics", true, Some(d))]
    );
    w.tamper(move |tx| tx.put_dir_stat(d, &DirStat { length: 9000, space: 4096 * 5, inodes: 3 })).await;
    w.assert_lawful().await;

    let key = QuotaKey { kind: QuotaKind::Dir, id: d.0 };
    let quota = Quota { max_space: 1 << 30, max_inodes: -1, used_space: 4096 * 5, used_inodes: 3 };
    w.tamper(move |tx| tx.put_quota(key, &quota)).await;
    w.assert_lawful().await;
    w.tamper(move |tx| tx.add_quota_used(key, 4096, 0).map(drop)).await;
    assert_eq!(rules(&w).await, ["quota-usage"]);
}

#[tokio::test(start_paused = true)]
async fn unlinked_open_files_and_dead_sessions_are_lawful() {
    let (w, d, _, _) = volume().await;
    let ino = w.file(d, "open", b"bytes").await;
    w.meta.open_file(&Cred::root(), ino, OpenHow::default()).await.unwrap();
    w.meta.unlink(&Cred::root(), d, b"open", true).await.unwrap();
    w.assert_lawful().await;
    w.tamper(|tx| tx.remove_session(SessionId(1))).await;
    let broken = rules(&w).await;
    assert_eq!(broken, ["orphan-inode"], "nobody keeps it");
}
