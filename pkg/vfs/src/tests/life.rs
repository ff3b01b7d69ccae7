//! When things are stored, committed, kept and dropped; locks.

use std::sync::atomic::{AtomicBool, Ordering};

use cairn_meta::RenameMode;
use cairn_meta::record::FlockKind;

use super::*;
use crate::{Error, LockRange};

#[tokio::test(start_paused = true)]
async fn an_idle_file_is_committed_after_a_second() {
    let w = World::new().await;
    let (_, fh) = w.create("a").await;
    w.write(fh, 0, b"x").await;
    let took = w.settle().await;
    assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1500), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_file_is_committed_after_five_seconds() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    let mut at = 0;
    while w.vfs.meta().getattr(ino).await.expect("attributes").length == 0 {
        w.write(fh, at, b"x").await;
        at += 1;
        w.env.sleep(Duration::from_millis(100)).await;
    }
    assert!((49..=60).contains(&at), "{at}");
}

#[tokio::test(start_paused = true)]
async fn fsync_survives_a_power_cut_and_close_need_not() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, b"durable").await;
    w.fsync(fh).await.expect("stored");
    assert_eq!(w.engine.power_cut(), 0);
    w.write(fh, 0, b"renewed").await;
    w.flush(fh).await.expect("stored");
    w.fsync(fh).await.expect("what close committed is now durable too");
    assert_eq!(w.engine.power_cut(), 0);
    assert_eq!(&w.peer().await.content(ino).await[..], b"renewed");
    let dir = w.vfs.opendir(&w.root, Ino::ROOT).await.expect("opens");
    w.vfs.unlink(&w.root, Ino::ROOT, b"a").await.expect("removed");
    w.vfs.fsyncdir(&w.root, dir).await.expect("durable");
    assert_eq!(w.engine.power_cut(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_durable_write_needs_no_fsync() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.vfs.write(&w.root, fh, 0, b"now", true).await.expect("stored");
    assert_eq!(w.engine.power_cut(), 0);
    assert_eq!(&w.peer().await.content(ino).await[..], b"now");
    let flags = OpenFlags { sync: true, ..OpenFlags::writing() };
    let fh = w.vfs.open(&w.root, ino, flags).await.expect("opens").fh;
    assert!(w.vfs.write_now(&w.root, fh, 0, b"and", false).is_none());
    w.write(fh, 0, b"and").await;
    assert_eq!(&w.peer().await.content(ino).await[..], b"and");
}

#[tokio::test(start_paused = true)]
async fn an_unlinked_open_file_lives_until_its_last_handle() {
    let w = World::new().await;
    let (ino, fh) = w.create("tmp").await;
    let other = w.open(ino).await;
    w.write(fh, 0, b"scratch").await;
    w.vfs.unlink(&w.root, Ino::ROOT, b"tmp").await.expect("removed");
    w.close(fh).await;
    assert_eq!(&w.read(other, 0, 100).await[..], b"scratch");
    w.write(other, 7, b" pad").await;
    assert_eq!(w.read(other, 0, 100).await.len(), 11);
    w.close(other).await;
    assert_eq!(w.vfs.dirty(), (0, 0));
    assert_eq!(w.store.puts(), 0, "nobody can ever read it: nothing was stored");
    assert!(w.vfs.getattr(&w.root, ino).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_rename_over_a_file_commits_the_source_first() {
    let w = World::new().await;
    let (old, fh) = w.create("config").await;
    w.write(fh, 0, b"old").await;
    w.close(fh).await;
    let (new, fh) = w.create("config.tmp").await;
    w.write(fh, 0, b"new").await;
    let rename = w.vfs.rename(&w.root, Ino::ROOT, b"config.tmp", Ino::ROOT, b"config", RenameMode::Replace);
    rename.await.expect("renamed");
    assert_eq!(w.vfs.dirty(), (0, 0));
    assert_ne!(old, new);
    assert_eq!(&w.peer().await.content(new).await[..], b"new");
}

#[tokio::test(start_paused = true)]
async fn closing_the_volume_flushes_and_refuses_new_writes() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, b"last").await;
    w.vfs.close().await.expect("all is stored");
    assert!(matches!(w.vfs.write(&w.root, fh, 0, b"x", false).await, Err(Error::Closing)));
    assert_eq!(&w.read(fh, 0, 10).await[..], b"last");
    assert_eq!(&w.peer().await.content(ino).await[..], b"last");
}

#[tokio::test(start_paused = true)]
async fn unchanged_content_may_stay_cached_above() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, b"x").await;
    w.close(fh).await;
    let keep = |w: &World| {
        let (vfs, root) = (w.vfs.clone(), w.root.clone());
        async move { vfs.open(&root, ino, OpenFlags::reading()).await.expect("opens").keep_cache }
    };
    assert!(!keep(&w).await);
    assert!(keep(&w).await);
    let peer = w.peer().await;
    let fh = peer.open(ino).await;
    peer.write(fh, 0, b"y").await;
    peer.close(fh).await;
    assert!(!keep(&w).await, "somebody wrote");
    assert!(keep(&w).await);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_lock_is_taken_when_it_is_released() {
    let w = World::new().await;
    let (ino, a) = w.create("a").await;
    let b = w.open(ino).await;
    let never = || false;
    w.vfs.flock(&w.root, a, Some(FlockKind::Write), false, never).await.expect("free");
    let held = w.vfs.flock(&w.root, b, Some(FlockKind::Read), false, never).await;
    assert!(matches!(held, Err(Error::Meta(cairn_meta::Error::WouldBlock))), "{held:?}");
    let begun = w.env.instant();
    let wait = w.vfs.flock(&w.root, b, Some(FlockKind::Read), true, never);
    let release = async {
        w.env.sleep(Duration::from_millis(3333)).await;
        w.vfs.release(&w.root, a).await.expect("releases");
    };
    let (taken, ()) = tokio::join!(wait, release);
    taken.expect("taken");
    assert!(w.env.instant() - begun < Duration::from_millis(3400), "told, not polled");
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_another_client_is_found_free_by_asking() {
    let w = World::new().await;
    let (ino, a) = w.create("a").await;
    let peer = w.peer().await;
    let b = peer.open(ino).await;
    let range = LockRange { kind: Some(FlockKind::Write), start: 0, end: u64::MAX, pid: 7 };
    w.vfs.setlk(&w.root, a, 1, range, false, || false).await.expect("free");
    let found = peer.vfs.getlk(&w.root, b, 2, range).await.expect("asked").expect("a lock");
    assert_eq!((found.kind, found.start), (Some(FlockKind::Write), 0));
    let wait = peer.vfs.setlk(&w.root, b, 2, range, true, || false);
    let release = async {
        w.env.sleep(Duration::from_secs(5)).await;
        w.vfs.flush(&w.root, a, 1).await.expect("close drops the owner's locks");
    };
    let (taken, ()) = tokio::join!(wait, release);
    taken.expect("taken");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_can_be_interrupted() {
    let w = World::new().await;
    let (ino, a) = w.create("a").await;
    let b = w.open(ino).await;
    w.vfs.flock(&w.root, a, Some(FlockKind::Write), false, || false).await.expect("free");
    let signal = AtomicBool::new(false);
    let begun = w.env.instant();
    let wait = w.vfs.flock(&w.root, b, Some(FlockKind::Write), true, || signal.load(Ordering::Relaxed));
    let kill = async {
        w.env.sleep(Duration::from_secs(20)).await;
        signal.store(true, Ordering::Relaxed);
    };
    let (waited, ()) = tokio::join!(wait, kill);
    assert!(matches!(waited, Err(Error::Interrupted)), "{waited:?}");
    assert!(w.env.instant() - begun <= Duration::from_millis(20_100));
}

#[tokio::test(start_paused = true)]
async fn a_flush_beside_another_returns_only_when_its_data_is_committed() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    for i in 0..20u64 {
        w.write(fh, i * 100_000, &pattern(i as usize, 1000)).await;
        let (a, b, c) = tokio::join!(w.fsync(fh), w.flush(fh), w.fsync(fh));
        a.and(b).and(c).expect("stored");
        let length = w.vfs.meta().getattr(ino).await.expect("attributes").length;
        assert_eq!(length, i * 100_000 + 1000);
    }
}
