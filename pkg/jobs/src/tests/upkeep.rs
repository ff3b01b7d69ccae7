use std::time::Duration;

use cairn_meta::record::{FlockKind, SessionRecord};
use cairn_meta::{Cred, OpenHow};
use cairn_types::{ChunkIndex, Ino, SessionId, SliceRecord};

use super::world::{World, noise};
use crate::{Config, Upkeep};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn started(w: &World, config: Config) -> Upkeep {
    Upkeep::start(w.env.clone(), w.meta.clone(), w.chunks.clone(), config)
}

#[tokio::test(start_paused = true)]
async fn a_removed_file_loses_its_objects_a_minute_later() {
    let w = World::new(0).await;
    let upkeep = started(&w, Config::mount());
    let ino = w.file(Ino::ROOT, "f", &noise(100_000, 1)).await;
    w.meta.unlink(&Cred::root(), Ino::ROOT, b"f", false).await.unwrap();
    w.pass(Duration::from_secs(50)).await;
    assert_eq!(w.objects().await.len(), 2, "readers elsewhere may still hold the list");
    assert!(w.list(ino, 0).await.is_empty());
    assert_eq!(upkeep.stats().deferred_slices, 1);
    w.pass(Duration::from_secs(20)).await;
    assert_eq!(w.objects().await, [""; 0]);
    let stats = upkeep.stats();
    assert_eq!((stats.deleted_files, stats.deleted_slices, stats.deleted_bytes), (1, 1, 100_000));
    upkeep.stop().await;
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn without_deletes_nothing_is_deleted() {
    let w = World::new(0).await;
    let upkeep = started(&w, Config { max_deletes: 0, ..Config::mount() });
    w.file(Ino::ROOT, "f", b"bytes").await;
    w.meta.unlink(&Cred::root(), Ino::ROOT, b"f", false).await.unwrap();
    w.pass(3 * 60 * MINUTE).await;
    assert_eq!(w.objects().await.len(), 1);
    upkeep.stop().await;
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn many_commits_to_a_chunk_bring_a_compaction() {
    let w = World::new(0).await;
    let upkeep = started(&w, Config::mount());
    let ino = w.file(Ino::ROOT, "f", b"").await;
    for i in 0..99u64 {
        w.write(ino, i * 4, b"four").await;
    }
    w.pass(Duration::from_secs(1)).await;
    assert_eq!(w.list(ino, 0).await.len(), 1);
    assert_eq!(w.read(ino).await, b"four".repeat(99));
    w.pass(2 * MINUTE).await;
    assert_eq!(w.objects().await.len(), 1, "the old slices are gone");
    assert_eq!(upkeep.stats().compactions, 1);
    upkeep.stop().await;
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_list_makes_its_writer_wait_for_compaction() {
    let w = World::new(0).await;
    let upkeep = started(&w, Config::mount());
    let ino = w.file(Ino::ROOT, "f", b"first").await;
    let holes: Vec<_> = (0..2499).map(|i| SliceRecord::hole(10 + i * 2, 1)).collect();
    w.tamper(move |tx| tx.append_slices(ino, ChunkIndex(0), &holes).map(drop)).await;
    w.write(ino, 2, b"last").await;
    assert_eq!(w.list(ino, 0).await.len(), 1502, "the oldest thousand became one before the commit returned");
    assert_eq!(w.read(ino).await, b"filast");
    upkeep.stop().await;
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_session_loses_its_locks_and_its_unlinked_files() {
    let w = World::new(0).await;
    let dead = World::client(&w.env, w.engine.clone()).await;
    let sid = dead.start_session("{}".into()).await.unwrap();
    let ino = w.file(Ino::ROOT, "f", &noise(1000, 1)).await;
    let locked = w.file(Ino::ROOT, "locked", b"").await;
    dead.open_file(&Cred::root(), ino, OpenHow { read: true, ..OpenHow::default() }).await.unwrap();
    dead.flock(locked, 1, Some(FlockKind::Write)).await.unwrap();
    dead.unlink(&Cred::root(), Ino::ROOT, b"f", false).await.unwrap();
    w.assert_lawful().await;

    let upkeep = started(&w, Config::mount());
    assert!(w.meta.flock(locked, 2, Some(FlockKind::Write)).await.is_err());
    w.pass(3 * MINUTE).await;
    w.meta.flock(locked, 2, Some(FlockKind::Write)).await.unwrap();
    let sids: Vec<_> = w.meta.sessions().await.unwrap().iter().map(|s| s.sid).collect();
    assert!(!sids.contains(&sid) && sids.contains(&w.meta.sid().unwrap()), "{sids:?}");
    w.pass(2 * MINUTE).await;
    assert_eq!(w.objects().await, [""; 0]);
    assert_eq!(upkeep.stats().reaped_sessions, 1);
    upkeep.stop().await;
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_came_back_is_left_alone() {
    let w = World::new(0).await;
    let record = SessionRecord { sid: SessionId(77), expire_secs: w.meta.now().secs + 5, info: "{}".into() };
    w.tamper(move |tx| tx.put_session(&record)).await;
    let upkeep = started(&w, Config { no_bgjob: true, ..Config::mount() });
    w.pass(5 * MINUTE).await;
    assert_eq!(w.meta.sessions().await.unwrap().len(), 2, "no background jobs, no reaping");
    let alive = SessionRecord { sid: SessionId(77), expire_secs: w.meta.now().secs + 500, info: "{}".into() };
    w.tamper(move |tx| tx.put_session(&alive)).await;
    upkeep.run_jobs_now().await.unwrap();
    assert_eq!(w.meta.sessions().await.unwrap().len(), 2);
    upkeep.stop().await;
}

#[tokio::test(start_paused = true)]
async fn trash_goes_after_its_days_and_two_hours_of_grace() {
    let w = World::new(1).await;
    let upkeep = started(&w, Config::mount());
    let dir = w.dir(Ino::ROOT, "d").await;
    w.file(dir, "f", &noise(1000, 1)).await;
    let options = crate::tree::RemoveOptions::default();
    crate::tree::remove(&w.meta, &Cred::root(), Ino::ROOT, b"d", &options, &crate::unwatched).await.unwrap();
    w.assert_lawful().await;
    w.pass(DAY).await;
    assert_eq!(w.meta.readdir(Ino::TRASH, b"", 10, false).await.unwrap().len(), 1, "a day is not over");
    w.pass(6 * 60 * MINUTE).await;
    assert!(w.meta.readdir(Ino::TRASH, b"", 10, false).await.unwrap().is_empty());
    assert_eq!(w.objects().await, [""; 0]);
    assert_eq!(upkeep.stats().expired_entries, 2);
    upkeep.stop().await;
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_left_behind_is_found_by_the_hourly_jobs() {
    let w = World::new(0).await;
    let gone = World::client(&w.env, w.engine.clone()).await;
    w.file(Ino::ROOT, "f", &noise(1000, 1)).await;
    let ino = w.file(Ino::ROOT, "g", &noise(1000, 2)).await;
    // A client that removes and dies: nobody drains its queue.
    gone.unlink(&Cred::root(), Ino::ROOT, b"f", false).await.unwrap();
    w.write(ino, 0, &noise(2000, 3)).await;
    crate::compact(&gone, &w.chunks, ino, ChunkIndex(0)).await.unwrap();
    assert_eq!(w.objects().await.len(), 4);
    let upkeep = started(&w, Config::mount());
    w.pass(4 * 60 * MINUTE).await;
    assert_eq!(w.objects().await.len(), 1);
    upkeep.stop().await;
    w.assert_lawful().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_setting_is_seen_and_a_foreign_one_is_fatal() {
    let w = World::new(1).await;
    let upkeep = started(&w, Config::mount());
    let mut state = upkeep.state();
    let changed = cairn_types::Format { trash_days: 5, ..super::world::format(1) }.to_json();
    w.tamper(move |tx| tx.put_setting(&changed)).await;
    state.changed().await.unwrap();
    assert_eq!(state.borrow_and_update().format.trash_days, 5);
    let foreign = cairn_types::Format { uuid: "other".into(), ..super::world::format(1) }.to_json();
    w.tamper(move |tx| tx.put_setting(&foreign)).await;
    state.changed().await.unwrap();
    assert!(state.borrow().lost.is_some());
    upkeep.stop().await;
}
