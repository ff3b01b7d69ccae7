//! The journal on a disk that forgets: seeded runs cut at every kind of moment.

use std::collections::{BTreeMap, BTreeSet};

use cairn_types::{ChunkIndex, Ino, SliceRecord, Timestamp};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const SEGMENT: u64 = 8 * 1024;

fn settings() -> Settings {
    Settings { volume: "vol-1".into(), segment_bytes: SEGMENT, staged_bytes_max: 0, keep_free: 0.0 }
}

fn key(id: u64) -> BlockKey {
    BlockKey { id: SliceId(id), index: (id % 3) as u32, len: 10_000 }
}

fn content(key: BlockKey) -> Bytes {
    let len = 20 + key.id.0 * 37 % 1500;
    (0..len).map(|i| (i * 7 + key.id.0 * 13) as u8).collect::<Vec<_>>().into()
}

fn intent(number: u64, ids: &[u64]) -> Intent {
    let slice = |id: &u64| IntentSlice {
        index: ChunkIndex(0),
        record: SliceRecord { pos: 0, id: SliceId(*id), size: 10, off: 0, len: 10 },
        mtime: Timestamp { secs: number as i64, nanos: 1 },
    };
    let base = (Timestamp { secs: 1, nanos: 2 }, 3);
    Intent { ino: Ino(number), base, set_mtime: None, slices: ids.iter().map(slice).collect() }
}

fn in_simulation<T>(seed: u64, run: impl AsyncFnOnce(Env) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async { run(Env::simulated(seed)).await })
}

async fn open(env: &Env, disk: &SimulatedDisk) -> Result<(Arc<Journal>, Recovered), OpenError> {
    tokio::time::advance(Duration::from_millis(1)).await;
    Journal::open(env, disk.door(), settings()).await
}

/// What the journal has promised, and what it was told without a promise yet.
#[derive(Clone, Default)]
struct Promises {
    /// Staged, in order; those of a sync are sure to be there.
    staged: BTreeSet<u64>,
    synced: BTreeSet<u64>,
    /// Told to be done; those of a sync are sure to be gone.
    done: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    noted: BTreeMap<u64, Intent>,
    synced_intents: BTreeSet<u64>,
    settled: BTreeSet<u64>,
    gone_intents: BTreeSet<u64>,
}

impl Promises {
    fn sync(&mut self) {
        self.synced.extend(&self.staged);
        self.gone.extend(&self.done);
        self.synced_intents.extend(self.noted.keys());
        self.gone_intents.extend(&self.settled);
    }

    /// Anything that contradicts them.
    async fn broken_by(&self, journal: &Journal, recovered: &Recovered) -> Option<String> {
        for id in &self.synced {
            if !self.done.contains(id) && !journal.contains(key(*id)) {
                return Some(format!("block {id} was synced and is not there"));
            }
        }
        for id in &self.gone {
            if journal.contains(key(*id)) {
                return Some(format!("block {id} was done and is back"));
            }
        }
        let mut after = 0;
        while let Some(staged) = journal.next_staged(after) {
            after = staged.number;
            let id = staged.key.id.0;
            match journal.read(staged.key).await.expect("it was just listed") {
                Ok(bytes) if bytes == content(staged.key) => {}
                Ok(_) => return Some(format!("block {id} turned into something else")),
                Err(fault) if self.synced.contains(&id) => return Some(format!("block {id}: {fault:?}")),
                Err(_) => {}
            }
        }
        let open: BTreeMap<_, _> = recovered.open.iter().map(|(id, intent)| (id.0, intent)).collect();
        for id in &self.synced_intents {
            if !self.settled.contains(id) && open.get(id) != Some(&&self.noted[id]) {
                return Some(format!("intent {id} was synced and is not there"));
            }
        }
        let back = self.gone_intents.iter().find(|id| open.contains_key(id));
        back.map(|id| format!("intent {id} was settled and is back"))
    }
}

/// Work drawn from a seed until the power goes or `steps` are done.
async fn work(env: &Env, disk: &SimulatedDisk, journal: &Journal, promises: &mut Promises, next: &mut u64, steps: u64) {
    let mut waiting: Vec<u64> = Vec::new();
    for _ in 0..steps {
        let outcome = match env.random_below(10) {
            0..=3 => {
                *next += 1;
                let id = *next;
                let staged =
                    journal.stage(key(id), vec![content(key(id)).slice(..9), content(key(id)).slice(9..)]).await;
                if staged.is_ok() {
                    promises.staged.insert(id);
                    waiting.push(id);
                }
                staged
            }
            4 => note(journal, promises, &mut waiting).await,
            5..=7 => {
                if !waiting.is_empty() && note(journal, promises, &mut waiting).await.is_err() {
                    return;
                }
                // A promise counts what was told before it was asked for.
                let mut promised = promises.clone();
                promised.sync();
                let synced = journal.sync().await;
                if synced.is_ok() {
                    *promises = promised;
                }
                synced
            }
            8 => {
                let due: Vec<u64> =
                    promises.staged.iter().filter(|id| !waiting.contains(id)).copied().take(2).collect();
                promises.done.extend(&due);
                due.iter().for_each(|id| _ = promises.staged.remove(id));
                journal.done(&due.iter().map(|id| key(*id)).collect::<Vec<_>>()).await;
                Ok(())
            }
            _ => {
                let due = promises.noted.keys().find(|id| !promises.settled.contains(id)).copied();
                if let Some(id) = due {
                    promises.settled.insert(id);
                    journal.settle(IntentId(id)).await;
                }
                Ok(())
            }
        };
        // A mark that could not be written is no promise.
        if outcome.is_err() || disk.is_off() {
            return;
        }
    }
}

async fn note(journal: &Journal, promises: &mut Promises, waiting: &mut Vec<u64>) -> Result<(), Refused> {
    let named = intent(1, &std::mem::take(waiting));
    let id = journal.note(&named).await?.0;
    promises.noted.insert(id, named);
    Ok(())
}

/// Blocks that nobody noted, for sure, before the end die with it: not a loss.
fn forgive_unnamed(promises: &mut Promises, only_killed: bool) {
    let sure = |id: &u64| only_killed || promises.synced_intents.contains(id);
    let noted = promises.noted.iter().filter(|(id, _)| sure(id));
    let named: BTreeSet<u64> = noted.flat_map(|(_, i)| i.slices.iter().map(|s| s.record.id.0)).collect();
    promises.synced.retain(|id| named.contains(id));
}

/// What a cut left undone was free to be there or not: from now on it is as it was found.
async fn take_stock(promises: &mut Promises, journal: &Journal, recovered: &Recovered) {
    let is_open = |id: &u64| recovered.open.iter().any(|(open, _)| open.0 == *id);
    for id in std::mem::take(&mut promises.staged) {
        if let Some(Ok(_)) = journal.read(key(id)).await {
            promises.staged.insert(id);
        }
    }
    promises.done.retain(|id| !journal.contains(key(*id)));
    promises.noted.retain(|id, _| is_open(id));
    promises.settled.retain(|id| !is_open(id));
    promises.synced_intents.retain(is_open);
}

/// Lives of one journal: worked on, cut off, looked at. The promise that was broken, if one was.
fn lives(seed: u64, lives: u64) -> Option<String> {
    in_simulation(seed, async |env| {
        let disk = SimulatedDisk::new();
        let mut chance = SmallRng::seed_from_u64(seed);
        let (mut promises, mut next) = (Promises::default(), 0);
        for life in 0..lives {
            disk.cut_after(chance.random_range(0..150));
            match open(&env, &disk).await {
                Ok((journal, recovered)) => {
                    if let Some(broken) = promises.broken_by(&journal, &recovered).await.filter(|_| !disk.is_off()) {
                        return Some(format!("life {life}: {broken}"));
                    }
                    take_stock(&mut promises, &journal, &recovered).await;
                    work(&env, &disk, &journal, &mut promises, &mut next, 60).await;
                }
                Err(e) => assert!(disk.is_off(), "{e}"),
            }
            let only_killed = chance.random_range(0..4) == 0;
            if only_killed {
                disk.killed()
            } else {
                disk.power_cut(|n| chance.random_range(0..n))
            }
            forgive_unnamed(&mut promises, only_killed);
        }
        let (journal, recovered) = open(&env, &disk).await.expect("the power is back");
        promises.broken_by(&journal, &recovered).await
    })
}

#[test]
fn nothing_synced_is_lost_at_any_of_thousands_of_cuts() {
    for seed in 0..2000 {
        assert_eq!(lives(seed, 4), None, "seed {seed}");
    }
}

/// Each sync is needed: without it there is a moment at which a power cut breaks a promise.
#[test]
fn without_any_one_sync_something_is_lost() {
    /// Calls after a sync within which its absence must show.
    const SHOWS_WITHIN: u64 = 16;
    let (broken, syncs) = scripted(0, u64::MAX, None);
    assert_eq!(broken, None);
    assert!(syncs.len() > 20, "{} syncs", syncs.len());
    let loses = |sync: usize| {
        let cuts = syncs[sync]..=syncs[sync] + SHOWS_WITHIN;
        cuts.into_iter().any(|cut_at| (0..12).any(|seed| scripted(seed, cut_at, Some(sync as u64)).0.is_some()))
    };
    let unneeded: Vec<usize> = (0..syncs.len()).filter(|sync| !loses(*sync)).collect();
    assert_eq!(unneeded, Vec::<usize>::new(), "of {} syncs", syncs.len());
    for cut_at in syncs.into_iter().map(|calls| calls + 1) {
        assert_eq!(scripted(1, cut_at, None).0, None, "with all syncs, cut after {cut_at} calls");
    }
}

/// A journal filled, emptied and closed, cut off after `cut_at` calls; `seed` draws what is forgotten.
fn scripted(seed: u64, cut_at: u64, idle_sync: Option<u64>) -> (Option<String>, Vec<u64>) {
    in_simulation(1, async |env| {
        let disk = SimulatedDisk::new();
        if let Some(sync) = idle_sync {
            disk.idle_sync(sync);
        }
        disk.cut_after(cut_at);
        let mut promises = Promises::default();
        let must_be_empty = match open(&env, &disk).await {
            Ok((journal, _)) => fill_and_empty(&disk, &journal, &mut promises).await.is_some(),
            Err(_) => false,
        };
        let syncs = disk.syncs();
        let mut chance = SmallRng::seed_from_u64(seed);
        disk.power_cut(|n| chance.random_range(0..n));
        forgive_unnamed(&mut promises, false);
        if must_be_empty && !disk.files().is_empty() {
            return (Some("a closed journal takes up room".into()), syncs);
        }
        let (journal, recovered) = open(&env, &disk).await.expect("the power is back");
        (promises.broken_by(&journal, &recovered).await, syncs)
    })
}

/// `None` as soon as the power is gone.
async fn fill_and_empty(disk: &SimulatedDisk, journal: &Journal, promises: &mut Promises) -> Option<()> {
    const ROUNDS: u64 = 8;
    let is_on = || (!disk.is_off()).then_some(());
    for round in 0..ROUNDS {
        let mut waiting = Vec::new();
        for id in [round * 3 + 1, round * 3 + 2, round * 3 + 3] {
            journal.stage(key(id), vec![content(key(id))]).await.ok()?;
            promises.staged.insert(id);
            waiting.push(id);
        }
        note(journal, promises, &mut waiting).await.ok()?;
        journal.sync().await.ok()?;
        promises.sync();
        // The first of each round stays, so that no segment goes and every mark counts.
        let done = [round * 3 + 2, round * 3 + 3];
        promises.done.extend(done);
        journal.done(&done.map(key)).await;
        is_on()?;
        journal.sync().await.ok()?;
        promises.sync();
    }
    for id in promises.noted.keys().copied().collect::<Vec<_>>() {
        promises.settled.insert(id);
        journal.settle(IntentId(id)).await;
        is_on()?;
    }
    journal.sync().await.ok()?;
    promises.sync();
    for round in 0..ROUNDS {
        promises.done.insert(round * 3 + 1);
        journal.done(&[key(round * 3 + 1)]).await;
        is_on()?;
    }
    journal.sync().await.ok()?;
    promises.sync();
    journal.close().await;
    is_on()
}

/// A process dies between taking a segment away and making that last; the next one takes the next
/// segment away, in which the marks were.
#[test]
fn a_segment_taken_away_by_the_dead_does_not_come_back_alone() {
    let run = |killed_after: u64, cut_after: u64, seed: u64| {
        in_simulation(1, async |env| {
            let disk = SimulatedDisk::new();
            let mut promises = Promises::default();
            disk.cut_after(killed_after);
            if let Ok((journal, _)) = open(&env, &disk).await {
                fill_and_empty(&disk, &journal, &mut promises).await;
            }
            disk.killed();
            disk.cut_after(cut_after);
            if let Ok((journal, _)) = open(&env, &disk).await {
                journal.close().await;
            }
            let mut chance = SmallRng::seed_from_u64(seed);
            disk.power_cut(|n| chance.random_range(0..n));
            forgive_unnamed(&mut promises, false);
            let (journal, recovered) = open(&env, &disk).await.expect("the power is back");
            promises.broken_by(&journal, &recovered).await
        })
    };
    let calls = *scripted(0, u64::MAX, None).1.last().unwrap();
    for killed_after in calls - 12..calls {
        for cut_after in 0..90 {
            let broken = (0..4).find_map(|seed| run(killed_after, cut_after, seed));
            assert_eq!(broken, None, "killed after {killed_after} calls, cut after {cut_after} more");
        }
    }
}

#[test]
fn one_sync_of_the_disk_serves_all_who_wait() {
    in_simulation(1, async |env| {
        let disk = SimulatedDisk::new();
        let (journal, _) = open(&env, &disk).await.unwrap();
        let before = disk.syncs().len();
        let close = async |id: u64| {
            journal.stage(key(id), vec![content(key(id))]).await.unwrap();
            journal.sync().await.unwrap();
        };
        let closes: Vec<_> = (1..=20).map(close).collect();
        futures_join(closes).await;
        let syncs = disk.syncs().len() - before;
        assert!(syncs <= 8, "{syncs} syncs for 20 who waited");
    });
}

async fn futures_join<F: Future>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(|f| Some(Box::pin(f))).collect();
    std::future::poll_fn(|cx| {
        for slot in &mut futures {
            if slot.as_mut().is_some_and(|f| f.as_mut().poll(cx).is_ready()) {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn a_second_process_is_kept_out_and_another_volume_refused() {
    in_simulation(1, async |env| {
        let disk = SimulatedDisk::new();
        let (journal, _) = open(&env, &disk).await.unwrap();
        journal.stage(key(1), vec![content(key(1))]).await.unwrap();
        assert!(matches!(open(&env, &disk).await, Err(OpenError::InUse)));
        journal.close().await;
        drop(journal);
        let other = Settings { volume: "vol-2".into(), ..settings() };
        let refused = Journal::open(&env, disk.door(), other).await;
        assert!(matches!(refused, Err(OpenError::OtherVolume { volume }) if volume == "vol-1"));
        let (_, recovered) = open(&env, &disk).await.expect("nothing was changed");
        assert_eq!(recovered.dropped, 1);
    });
}

#[test]
fn a_flipped_bit_costs_its_record_and_no_other() {
    in_simulation(3, async |env| {
        let disk = SimulatedDisk::new();
        let (journal, _) = open(&env, &disk).await.unwrap();
        for id in 1..=5 {
            journal.stage(key(id), vec![content(key(id))]).await.unwrap();
        }
        journal.note(&intent(1, &[1, 2, 3, 4, 5])).await.unwrap();
        journal.sync().await.unwrap();
        drop(journal);
        let (name, bytes) = disk.files().remove(0);
        let bits = bytes.iter().rposition(|b| *b != 0).unwrap() as u64 * 8;
        for bit in (0..bits).step_by(61) {
            disk.killed();
            disk.flip_bit(&name, bit);
            let (journal, recovered) = open(&env, &disk).await.unwrap();
            let mut unread = 0;
            for id in 1..=5 {
                match journal.read(key(id)).await {
                    Some(Ok(read)) => assert_eq!(read, content(key(id)), "bit {bit}"),
                    Some(Err(_)) | None => unread += 1,
                }
            }
            assert!(unread + usize::from(recovered.open.is_empty()) <= 1, "bit {bit} costs {unread} blocks");
            drop(journal);
            disk.killed();
            disk.flip_bit(&name, bit);
        }
    });
}

#[test]
fn a_full_disk_refuses_and_takes_more_later_and_a_broken_one_refuses_for_good() {
    in_simulation(4, async |env| {
        let disk = SimulatedDisk::new();
        let (journal, _) = open(&env, &disk).await.unwrap();
        disk.set_capacity(2 * SEGMENT);
        let (mut id, mut staged) = (0, Vec::new());
        loop {
            id += 1;
            match journal.stage(key(id), vec![content(key(id))]).await {
                Ok(()) => staged.push(key(id)),
                Err(refused) => break assert_eq!(refused, Refused::Full),
            }
        }
        journal.done(&staged).await;
        disk.set_capacity(3 * SEGMENT);
        journal.stage(key(id), vec![content(key(id))]).await.expect("there is room again");
        disk.fail(Some((Call::Sync, io::ErrorKind::Other)));
        assert_eq!(journal.sync().await, Err(Refused::Broken));
        disk.fail(None);
        assert_eq!(journal.sync().await, Err(Refused::Broken), "a second sync proves nothing");
        assert_eq!(journal.stage(key(999), vec![content(key(999))]).await, Err(Refused::Broken));
        assert_eq!(journal.read(key(id)).await.unwrap().unwrap(), content(key(id)));
    });
}

#[test]
fn staging_waits_at_its_cap_and_goes_on() {
    in_simulation(4, async |env| {
        let disk = SimulatedDisk::new();
        let capped = Settings { staged_bytes_max: 4096, ..settings() };
        let (journal, _) = Journal::open(&env, disk.door(), capped).await.unwrap();
        let piece = || vec![Bytes::from_static(&[5; 2048])];
        journal.stage(key(1), piece()).await.unwrap();
        journal.stage(key(2), piece()).await.unwrap();
        let third = journal.clone();
        let waiting = env.spawn(async move { third.stage(key(3), piece()).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && !journal.contains(key(3)), "the third must wait");
        journal.done(&[key(1)]).await;
        waiting.await.unwrap().unwrap();
        assert!(journal.contains(key(3)));
        assert_eq!(journal.usage().blocks, 2);
    });
}

#[test]
fn segments_go_when_nothing_in_them_is_needed() {
    in_simulation(4, async |env| {
        let disk = SimulatedDisk::new();
        let (journal, _) = open(&env, &disk).await.unwrap();
        for id in 1..=40 {
            journal.stage(key(id), vec![content(key(id))]).await.unwrap();
        }
        let full = disk.files().len();
        assert!(full > 2);
        journal.done(&(1..=40).map(key).collect::<Vec<_>>()).await;
        journal.close().await;
        assert_eq!(disk.files().len(), 0, "of {full} segments");
    });
}
