//! Closing in write-back mode, and what a crash right after it leaves.

use std::path::Path;

use cairn_cache::journal::{Journal, Settings, SimulatedDisk};
use cairn_chunk::{RawStaging, StagingRules};
use cairn_meta::engine::mem::Faults;

use super::*;

fn rules(set_aside: &Path) -> StagingRules {
    StagingRules {
        write_back: true,
        upload_delay: Duration::from_secs(3600),
        upload_hours: None,
        threshold_bytes: 0,
        stage_writes_max: 100,
        uploads_max: 4,
        set_aside: set_aside.to_owned(),
    }
}

impl World {
    /// A client of the same volume that stages on `disk`; what it did again at its start.
    async fn staging_peer(&self, disk: &SimulatedDisk, set_aside: &Path) -> (World, Replayed) {
        let settings = Settings { volume: format().uuid, segment_bytes: 1 << 20, staged_bytes_max: 0, keep_free: 0.0 };
        let (journal, recovered) = Journal::open(&self.env, disk.door(), settings).await.expect("opens");
        let staging = Staging::new(rules(set_aside), Some(journal), RawStaging::default());
        let staging = Some((staging, recovered));
        let (client, replayed) =
            staging_client(&self.env, &self.engine, &self.store, config(), Parts::none(), staging).await;
        let (vfs, chunk) = client;
        let (env, engine, store) = (self.env.clone(), self.engine.clone(), self.store.clone());
        (World { env, engine, store, chunk, vfs, root: Cred::root() }, replayed)
    }

    /// Dies with its commits not done: the engine refuses them all meanwhile.
    async fn die(self) {
        self.vfs.core.tasks.stop().await;
        self.chunk.close().await;
        self.engine.set_faults(Faults::default());
    }

    fn refuse_commits(&self) {
        self.engine.set_faults(Faults { fail_percent: 100, ..Faults::default() });
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_in_write_back_mode_waits_for_neither_commit_nor_store() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, fh) = writer.create("a").await;
    writer.write(fh, 0, &pattern(1, 100_000)).await;
    let before = world.env.instant();
    writer.close(fh).await;
    assert_eq!(world.env.instant(), before, "nothing was waited for");
    world.env.sleep(Duration::from_millis(20)).await;
    assert_eq!(world.length(ino).await, 100_000, "others see it a moment later");
    assert_eq!(writer.content(ino).await, pattern(1, 100_000), "its bytes come from the journal");
    assert_eq!(writer.chunk.stats().put_stored_bytes, 0, "nothing is uploaded before its time");
    assert_eq!(writer.chunk.staging_stats().blocks, 2);
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_close_and_commit_loses_nothing() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, fh) = writer.create("a").await;
    for round in 1..=3 {
        writer.write(fh, 1000 * round as u64, &pattern(round, 70_000)).await;
        if round == 2 {
            writer.refuse_commits();
        }
        writer.flush(fh).await.expect("the journal takes it");
        if round == 1 {
            writer.settle().await;
        }
    }
    writer.die().await;
    disk.killed();
    assert_eq!(world.length(ino).await, 71_000, "two closes are not committed");
    let (next, replayed) = world.staging_peer(&disk, aside.path()).await;
    assert_eq!(replayed, Replayed { committed: 2, set_aside: 0 });
    let mut right = pattern(1, 70_000);
    right.splice(1000.., pattern(2, 70_000));
    right.splice(2000.., pattern(3, 70_000));
    assert_eq!(next.content(ino).await[1000..], right);
    // A second replay finds nothing to do.
    next.die().await;
    disk.killed();
    assert_eq!(world.staging_peer(&disk, aside.path()).await.1, Replayed::default());
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_wrote_meanwhile_stays_and_ours_is_set_aside() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, fh) = writer.create("a").await;
    writer.write(fh, 0, b"old").await;
    writer.fsync(fh).await.unwrap();
    writer.write(fh, 0, b"ours").await;
    writer.refuse_commits();
    writer.flush(fh).await.expect("the journal takes it");
    writer.die().await;
    disk.killed();
    world.env.sleep(Duration::from_millis(1)).await;
    let other = world.open(ino).await;
    world.write(other, 0, b"theirs").await;
    world.close(other).await;
    let (next, replayed) = world.staging_peer(&disk, aside.path()).await;
    assert_eq!(replayed, Replayed { committed: 0, set_aside: 1 });
    assert_eq!(next.content(ino).await, b"theirs"[..]);
    let kept: Vec<_> =
        std::fs::read_dir(aside.path()).unwrap().map(|e| std::fs::read(e.unwrap().path()).unwrap()).collect();
    assert_eq!(kept, [b"ours".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn utimes_after_a_close_is_not_taken_for_somebody_elses_change() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, fh) = writer.create("a").await;
    writer.write(fh, 0, b"content").await;
    writer.flush(fh).await.unwrap();
    let time = cairn_types::Timestamp { secs: 5, nanos: 6 };
    let set = crate::SetAttr { mtime: Some(cairn_meta::SetTime::At(time)), ..Default::default() };
    writer.vfs.setattr(&writer.root, ino, None, set, None).await.unwrap();
    writer.refuse_commits();
    writer.die().await;
    disk.killed();
    let (next, replayed) = world.staging_peer(&disk, aside.path()).await;
    assert_eq!(replayed.set_aside, 0);
    assert_eq!(next.content(ino).await, b"content"[..]);
    assert_eq!(world.vfs.getattr(&world.root, ino).await.unwrap().mtime, time);
}

#[tokio::test(start_paused = true)]
async fn a_broken_journal_is_done_without() {
    use cairn_cache::journal::Call;
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, fh) = writer.create("a").await;
    writer.write(fh, 0, &pattern(1, 100_000)).await;
    disk.fail(Some((Call::Sync, std::io::ErrorKind::Other)));
    writer.fsync(fh).await.expect("the store takes it");
    assert_eq!(writer.chunk.staging_stats().blocks, 0);
    assert_eq!(world.content(ino).await, pattern(1, 100_000), "others read it from the store");
    writer.write(fh, 100_000, b"more").await;
    writer.fsync(fh).await.expect("the store takes it");
    writer.close(fh).await;
    assert_eq!(world.length(ino).await, 100_004);
}
