//! Closing in write-back mode, and what a crash right after it leaves.

use std::path::Path;

use cairn_cache::journal::{Journal, Settings, SimulatedDisk};
use cairn_chunk::{Intent, IntentSlice, RawStaging, StagingRules, StoredSlice};
use cairn_meta::engine::mem::Faults;
use cairn_meta::invariants::{CheckVolume, Violation};
use cairn_meta::{Commit, Durability, NewSlice, SetTime};
use cairn_types::{ChunkIndex, SliceRecord, Timestamp};

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
        self.staging_peer_with(disk, rules(set_aside), config()).await
    }

    async fn staging_peer_with(&self, disk: &SimulatedDisk, rules: StagingRules, config: Config) -> (World, Replayed) {
        let settings = Settings { volume: format().uuid, segment_bytes: 1 << 20, staged_bytes_max: 0, keep_free: 0.0 };
        let (journal, recovered) = Journal::open(&self.env, disk.door(), settings).await.expect("opens");
        let staging = Staging::new(rules, Some(journal), RawStaging::default());
        let staging = Some((staging, recovered));
        let (client, replayed) =
            staging_client(&self.env, &self.engine, &self.store, config, Parts::none(), staging).await;
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

    /// A staged slice that nobody has named.
    async fn staged(&self, bytes: &[u8]) -> StoredSlice {
        let core = &self.vfs.core;
        let id = core.ids.several(&core.meta, 1).await.unwrap()[0];
        let writer = self.chunk.staging_writer(id);
        let mut room = self.chunk.reserve(bytes.len()).await;
        assert!(writer.write_at(0, bytes, &mut room));
        writer.finish().await.unwrap()
    }

    /// What a client notes that is about to name `slices` of a file it knows as it is.
    async fn intent(&self, ino: Ino, slices: Vec<IntentSlice>) -> Intent {
        let attr = self.vfs.core.meta.getattr(ino).await.unwrap();
        Intent { ino, base: (attr.mtime, attr.length), set_mtime: None, slices }
    }

    /// Commits slices of an intent without a word to the journal.
    async fn commit(&self, ino: Ino, slices: &[IntentSlice]) {
        let slices = slices.iter().map(|s| NewSlice { index: s.index, record: s.record, mtime: s.mtime }).collect();
        self.vfs.core.meta.commit_as(Commit::new(ino, slices, None), Durability::Power).await.unwrap();
    }

    async fn references_are_right(&self) {
        let broken = self.vfs.core.meta.view(CheckVolume { strict: false }).await.unwrap().0;
        let references: Vec<_> = broken.iter().filter(|v| matches!(v, Violation::SliceRefs { .. })).collect();
        assert!(references.is_empty(), "{references:?}");
    }

    fn refuse_commits(&self) {
        self.engine.set_faults(Faults { fail_percent: 100, ..Faults::default() });
    }
}

/// Contents of a folder's files.
fn files_in(folder: &Path) -> Vec<Vec<u8>> {
    std::fs::read_dir(folder).unwrap().map(|e| std::fs::read(e.unwrap().path()).unwrap()).collect()
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
    assert_eq!(files_in(aside.path()), [b"ours".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn utimes_after_a_close_is_not_taken_for_somebody_elses_change() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, fh) = writer.create("a").await;
    writer.write(fh, 0, b"content").await;
    writer.flush(fh).await.unwrap();
    let time = Timestamp { secs: 5, nanos: 6 };
    let set = crate::SetAttr { mtime: Some(SetTime::At(time)), ..Default::default() };
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

/// `len` bytes at `off` of a slice, at the start of a chunk, written `nanos` from now.
fn part(world: &World, stored: &StoredSlice, chunk: u32, off: u32, len: u32, nanos: u64) -> IntentSlice {
    let slice = stored.slice();
    let record = SliceRecord { pos: 0, id: slice.id, size: slice.size, off, len };
    let now: Timestamp = world.env.now().into();
    IntentSlice { index: ChunkIndex(chunk), record, mtime: now.plus(Duration::from_nanos(nanos)) }
}

const CHUNK: u64 = 64 << 20;

#[tokio::test(start_paused = true)]
async fn a_pack_of_several_notes_is_registered_once() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let bytes = pattern(3, 3000);
    let pack = writer.staged(&bytes).await;
    let (mut inos, mut slices) = (Vec::new(), Vec::new());
    for (i, name) in ["settled", "open", "also open"].into_iter().enumerate() {
        let (ino, _) = writer.create(name).await;
        let slice = part(&writer, &pack, 0, 1000 * i as u32, 1000, 5);
        let note = writer.chunk.note(&writer.intent(ino, vec![slice]).await).await.unwrap();
        if i == 0 {
            writer.commit(ino, &[slice]).await;
            writer.chunk.settle(note).await;
        }
        inos.push(ino);
        slices.push(slice);
    }
    writer.die().await;
    disk.killed();
    let (next, replayed) = world.staging_peer(&disk, aside.path()).await;
    assert_eq!(replayed, Replayed { committed: 2, set_aside: 0 });
    for (ino, piece) in inos.iter().zip(bytes.chunks(1000)) {
        assert_eq!(next.content(*ino).await, piece.to_vec());
    }
    world.references_are_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_pack_whose_first_note_is_gone_does_not_keep_anybody_from_mounting() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let bytes = pattern(4, 2000);
    let pack = writer.staged(&bytes).await;
    let (first, _) = writer.create("first").await;
    writer.commit(first, &[part(&writer, &pack, 0, 0, 1000, 5)]).await;
    let (second, _) = writer.create("second").await;
    let slice = part(&writer, &pack, 0, 1000, 1000, 5);
    writer.chunk.note(&writer.intent(second, vec![slice]).await).await.unwrap();
    writer.die().await;
    disk.killed();
    let (next, replayed) = world.staging_peer(&disk, aside.path()).await;
    assert_eq!(replayed, Replayed { committed: 1, set_aside: 0 });
    assert_eq!(next.content(second).await, bytes[1000..].to_vec());
    world.references_are_right().await;
}

#[tokio::test(start_paused = true)]
async fn a_note_that_cannot_be_done_again_is_set_aside_and_the_others_go_on() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, _) = writer.create("a").await;
    let (bad, good) = (writer.staged(b"bad").await, writer.staged(b"good").await);
    // Metadata appends nothing to a directory.
    for (ino, stored, len) in [(Ino::ROOT, &bad, 3), (ino, &good, 4)] {
        let slice = part(&writer, stored, 0, 0, len, 5);
        writer.chunk.note(&writer.intent(ino, vec![slice]).await).await.unwrap();
    }
    writer.die().await;
    disk.killed();
    let (next, replayed) = world.staging_peer(&disk, aside.path()).await;
    assert_eq!(replayed, Replayed { committed: 1, set_aside: 1 });
    assert_eq!(next.content(ino).await, b"good"[..]);
    assert_eq!(files_in(aside.path()), [b"bad".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn what_a_partly_committed_note_lacks_is_committed() {
    // Runs of a patch share one time; others have one each.
    for step in [0, 7] {
        let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
        let (writer, _) = world.staging_peer(&disk, aside.path()).await;
        let (ino, _) = writer.create("a").await;
        let bytes = pattern(5, 2000);
        let pack = writer.staged(&bytes).await;
        let slices: Vec<_> = (0..2).map(|i| part(&writer, &pack, i, 1000 * i, 1000, 5 + step * u64::from(i))).collect();
        writer.chunk.note(&writer.intent(ino, slices.clone()).await).await.unwrap();
        writer.commit(ino, &slices[..1]).await;
        writer.die().await;
        disk.killed();
        let (next, replayed) = world.staging_peer(&disk, aside.path()).await;
        assert_eq!(replayed, Replayed { committed: 1, set_aside: 0 }, "times {step} apart");
        let fh = next.open(ino).await;
        assert_eq!(next.read(fh, CHUNK, 2000).await, bytes[1000..].to_vec());
        assert_eq!(next.read(fh, 0, 1000).await, bytes[..1000].to_vec());
        world.references_are_right().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_that_utimes_set_before_the_close_does_not_count_as_its_commit() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, fh) = writer.create("a").await;
    writer.write(fh, 0, b"content").await;
    let time = Timestamp { secs: 5, nanos: 6 };
    let set = crate::SetAttr { mtime: Some(SetTime::At(time)), ..Default::default() };
    writer.vfs.setattr(&writer.root, ino, None, set, None).await.unwrap();
    writer.refuse_commits();
    writer.flush(fh).await.expect("the journal takes it");
    writer.die().await;
    disk.killed();
    let (next, replayed) = world.staging_peer(&disk, aside.path()).await;
    assert_eq!(replayed, Replayed { committed: 1, set_aside: 0 });
    assert_eq!(next.content(ino).await, b"content"[..]);
    assert_eq!(world.vfs.getattr(&world.root, ino).await.unwrap().mtime, time);
}

#[tokio::test(start_paused = true)]
async fn what_a_replay_commits_survives_a_power_cut() {
    for write_back in [true, false] {
        let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
        let (writer, _) = world.staging_peer(&disk, aside.path()).await;
        let (ino, _) = writer.create("a").await;
        let stored = writer.staged(&pattern(6, 100_000)).await;
        let slice = part(&writer, &stored, 0, 0, 100_000, 5);
        writer.chunk.note(&writer.intent(ino, vec![slice]).await).await.unwrap();
        // Dies before anybody has had the disk sync that.
        writer.die().await;
        disk.killed();
        let rules = StagingRules { write_back, ..rules(aside.path()) };
        let (second, replayed) = world.staging_peer_with(&disk, rules, config()).await;
        assert_eq!(replayed, Replayed { committed: 1, set_aside: 0 });
        second.die().await;
        disk.power_cut(|_| 0);
        let (third, _) = world.staging_peer(&disk, aside.path()).await;
        assert_eq!(third.content(ino).await, pattern(6, 100_000), "write-back {write_back}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_takes_its_note_when_no_commit_of_the_file_is_under_way() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, fh) = writer.create("a").await;
    writer.write(fh, 0, b"content").await;
    let file = writer.vfs.core.files.get(ino).unwrap();
    let committing = file.commit.lock().await;
    let close = writer.flush(fh);
    tokio::pin!(close);
    tokio::select! {
        biased;
        _ = &mut close => panic!("it took its note in the middle of a commit"),
        () = world.env.sleep(Duration::from_millis(10)) => {}
    }
    assert!(file.state().notes.is_empty());
    drop(committing);
    close.await.expect("the journal takes it");
    writer.settle().await;
    assert_eq!(world.length(ino).await, 7);
}

#[tokio::test(start_paused = true)]
async fn utimes_that_waited_for_a_close_waits_for_its_commit() {
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let (writer, _) = world.staging_peer(&disk, aside.path()).await;
    let (ino, fh) = writer.create("a").await;
    writer.write(fh, 0, b"content").await;
    let file = writer.vfs.core.files.get(ino).unwrap();
    let committing = file.commit.lock().await;
    let set = crate::SetAttr { mtime: Some(SetTime::At(Timestamp { secs: 5, nanos: 6 })), ..Default::default() };
    let utimes = async {
        writer.vfs.setattr(&writer.root, ino, None, set, None).await.unwrap();
        assert!(file.state().notes.is_empty(), "what is noted knows the time before");
    };
    let release = async {
        world.env.sleep(Duration::from_millis(10)).await;
        drop(committing);
    };
    let (closed, (), ()) = tokio::join!(writer.flush(fh), utimes, release);
    closed.expect("the journal takes it");
    writer.settle().await;
    let attr = world.vfs.getattr(&world.root, ino).await.unwrap();
    assert_eq!((attr.mtime, attr.length), (Timestamp { secs: 5, nanos: 6 }, 7));
}

#[tokio::test(start_paused = true)]
async fn slices_renewed_before_their_commit_are_still_noted() {
    use crate::pending::Upto;
    let (world, disk, aside) = (World::new().await, SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let renewing = Config { reupload_age: Duration::ZERO, ..config() };
    let (writer, _) = world.staging_peer_with(&disk, rules(aside.path()), renewing).await;
    let (ino, fh) = writer.create("a").await;
    writer.write(fh, 0, &pattern(1, 100_000)).await;
    writer.write(fh, 3 * CHUNK, &pattern(2, 100_000)).await;
    writer.refuse_commits();
    writer.flush(fh).await.expect("the journal takes it");
    let core = &writer.vfs.core;
    let file = core.files.get(ino).unwrap();
    // The close's own commit has failed by then.
    world.env.sleep(Duration::from_millis(20)).await;
    // A flush of the older part renews its slice, and fails.
    core.flush_upto(&file, Upto::Slot(0), Durability::Process).await.expect_err("the engine refuses");
    writer.die().await;
    disk.killed();
    let (next, replayed) = world.staging_peer(&disk, aside.path()).await;
    assert_eq!(replayed, Replayed { committed: 1, set_aside: 0 });
    let fh = next.open(ino).await;
    assert_eq!(next.read(fh, 0, 100_000).await, pattern(1, 100_000));
    assert_eq!(next.read(fh, 3 * CHUNK, 100_000).await, pattern(2, 100_000));
}
