//! When the store, the engine or the volume say no.

use cairn_meta::engine::mem::Faults;
use cairn_meta::{Error as MetaError, SetAttr};
use cairn_types::ChunkIndex;

use super::*;
use crate::Error;

#[tokio::test(start_paused = true)]
async fn an_outage_fails_fsync_and_loses_nothing() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.store.down();
    w.write(fh, 0, b"precious").await;
    let failed = w.fsync(fh).await;
    assert!(matches!(failed, Err(Error::Chunk(_))), "{failed:?}");
    assert_eq!(&w.read(fh, 0, 100).await[..], b"precious", "it stays readable");
    assert!(w.fsync(fh).await.is_err(), "fsync succeeds only once the data got there");
    w.store.up();
    w.fsync(fh).await.expect("the data got there");
    w.fsync(fh).await.expect("and nothing is left to tell");
    assert_eq!(&w.peer().await.content(ino).await[..], b"precious");
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_close_leaves_behind_is_stored_later() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.store.down();
    w.write(fh, 0, b"late").await;
    assert!(w.flush(fh).await.is_err());
    w.vfs.release(&w.root, fh).await.expect("releases");
    w.env.sleep(Duration::from_secs(100)).await;
    assert_eq!(w.vfs.dirty(), (1, 4));
    w.store.up();
    w.settle().await;
    assert_eq!(&w.peer().await.content(ino).await[..], b"late");
    assert_eq!(w.vfs.meta().opens().count(ino), 0, "the close has reached metadata");
}

#[tokio::test(start_paused = true)]
async fn an_engine_outage_is_outlived_too() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, b"data").await;
    w.engine.set_faults(Faults { fail_percent: 100, ..Faults::default() });
    assert!(w.fsync(fh).await.is_err());
    w.engine.set_faults(Faults::default());
    w.fsync(fh).await.expect("committed");
    assert_eq!(w.vfs.meta().raw_slices(ino, ChunkIndex(0)).await.expect("a list").len(), 1);
    assert_eq!(w.store.puts(), 1, "stored once");
}

#[tokio::test(start_paused = true)]
async fn a_full_volume_drops_the_data_and_tells_every_handle_once() {
    let full = Format { capacity: 64 << 10, ..format() };
    let w = World::with(full, config(), Parts::none()).await;
    let (ino, a) = w.create("a").await;
    let b = w.open(ino).await;
    w.write(a, 0, &pattern(1, 4096)).await;
    w.fsync(a).await.expect("fits");
    w.write(a, 4096, &pattern(2, 100 * KIB)).await;
    w.write(a, 0, b"over").await;
    for fh in [a, b] {
        let told = w.fsync(fh).await;
        assert!(matches!(told, Err(Error::Meta(MetaError::NoSpace))), "{told:?}");
        w.fsync(fh).await.expect("told once");
    }
    assert_eq!(w.length(ino).await, 4096);
    let mut expected = pattern(1, 4096);
    expected[..4].copy_from_slice(b"over");
    assert_eq!(w.peer().await.content(ino).await, expected, "the slice that fits was kept");
    let c = w.open(ino).await;
    w.fsync(c).await.expect("it was lost before this one was opened");
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_a_dead_store_but_not_for_ever() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.store.down();
    let begun = w.env.instant();
    let mut taken = 0u64;
    let failed = loop {
        match w.vfs.write(&w.root, fh, taken, &pattern(0, 256 * KIB), false).await {
            Ok(n) => taken += u64::from(n),
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, Error::Chunk(_)), "{failed:?}");
    let waited = w.env.instant() - begun;
    assert!(waited >= Duration::from_secs(60) && waited < Duration::from_secs(200), "{waited:?}");
    w.store.up();
    w.fsync(fh).await.expect("all that was taken is stored");
    assert_eq!(w.peer().await.length(ino).await, taken);
}

#[tokio::test(start_paused = true)]
async fn a_truncate_that_cannot_drain_changes_nothing() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, b"12345678").await;
    w.store.down();
    assert!(w.vfs.setattr(&w.root, ino, Some(fh), SetAttr::default(), Some(2)).await.is_err());
    w.store.up();
    assert_eq!(&w.content(ino).await[..], b"12345678");
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_waits_long_for_its_commit_is_stored_again() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    let data = pattern(5, 150 * KIB);
    w.write(fh, 0, &data).await;
    w.engine.set_faults(Faults { fail_percent: 100, ..Faults::default() });
    assert!(w.fsync(fh).await.is_err());
    let stored = w.store.puts();
    w.env.sleep(Duration::from_secs(25 * 60)).await;
    assert_eq!(w.store.puts(), stored, "not yet");
    w.env.sleep(Duration::from_secs(6 * 60)).await;
    assert_eq!(w.store.puts(), 2 * stored);
    assert_eq!(w.read(fh, 0, data.len()).await, data);
    w.engine.set_faults(Faults::default());
    w.settle().await;
    assert_eq!(w.peer().await.content(ino).await, data);
}

#[tokio::test(start_paused = true)]
async fn a_flush_nobody_waits_for_still_ends() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, b"x").await;
    w.store.hold();
    {
        let flush = w.flush(fh);
        tokio::pin!(flush);
        tokio::select! {
            _ = &mut flush => unreachable!("the store stands still"),
            () = w.store.held(1) => {}
        }
    }
    w.store.release();
    let took = w.settle().await;
    assert!(took < Duration::from_millis(500), "not by the timer: {took:?}");
    assert_eq!(&w.peer().await.content(ino).await[..], b"x");
}

#[tokio::test(start_paused = true)]
async fn bad_handles_are_refused() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    let reading = w.vfs.open(&w.root, ino, OpenFlags::reading()).await.expect("opens").fh;
    let refused = w.vfs.write(&w.root, reading, 0, b"x", false).await;
    assert!(matches!(refused, Err(Error::BadHandle { .. })), "{refused:?}");
    w.vfs.release(&w.root, fh).await.expect("releases");
    assert!(matches!(w.fsync(fh).await, Err(Error::BadHandle { .. })));
    assert!(matches!(w.vfs.write_now(&w.root, Fh(0), 0, b"x", false), Some(Err(Error::BadHandle { .. }))));
}
