//! Blocks that wait for upload on this machine's disk, and what was about to be named in metadata.
//!
//! A block is *staged* once its record is appended; it survives a power cut once a sync has covered
//! the record. Whoever commits slices notes an *intent* first, waits for [`Journal::sync`], commits,
//! and settles the intent. After a crash [`Journal::open`] answers what is left: blocks still to be
//! uploaded, and intents whose commit may or may not have happened. Bytes are drawn in
//! docs/formats/journal.md.
//!
//! The rules kept: one process at a time (a lock), one volume (its UUID in each segment); a block
//! comes back with the bytes it was staged with or not at all; what was synced is there after any
//! crash, until it was marked done.
//!
//! Not here: uploading (`cairn_chunk`), committing (`cairn_vfs`), and doing it again after a crash.

mod door;
mod format;
mod log;
mod segment;
#[cfg(any(test, feature = "testing"))]
mod simulated;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cairn_env::{Budget, Env, Permit};
use cairn_types::{BlockKey, SliceId};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

pub use door::{Door, DoorFile, RealDoor};
pub use format::{Intent, IntentSlice};
pub use log::Refused;
#[cfg(any(test, feature = "testing"))]
pub use simulated::{Call, SimulatedDisk};

use format::{Header, Kind};
use log::{Log, Place, Rules};
use segment::Found;

/// Bytes of a segment.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Staged bytes are counted in units of this.
const UNIT_BYTES: u64 = 1024;

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// UUID of the volume.
    pub volume: String,
    /// Bytes of one segment: [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// Bytes that may be staged; 0: as many as fit the disk. Beyond it staging waits.
    pub staged_bytes_max: u64,
    /// Share of the file system that stays free: beyond it staging is refused.
    pub keep_free: f64,
}

/// Why a journal cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process stages here.
    #[error("another process stages blocks here")]
    InUse,
    /// It is not this volume's.
    #[error("it belongs to volume {volume}")]
    OtherVolume {
        /// UUID found.
        volume: String,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Names an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntentId(u64);

/// What was found when a journal was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Intents whose commit may or may not have happened, oldest first.
    pub open: Vec<(IntentId, Intent)>,
    /// Intents that are known to have been committed, as far as the journal still has them.
    pub settled: Vec<(IntentId, Intent)>,
    /// The highest slice id in it.
    pub highest: Option<SliceId>,
    /// Blocks to upload.
    pub blocks: usize,
    /// Blocks dropped, since nobody was about to name them.
    pub dropped: usize,
    /// Some record is damaged: what could not be read is not known.
    pub is_damaged: bool,
}

/// What is staged now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of them, as they will be stored.
    pub bytes: u64,
    /// When the oldest was staged.
    pub oldest: Option<SystemTime>,
}

/// A block that waits for upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The block.
    pub key: BlockKey,
    /// Grows from block to block.
    pub number: u64,
    /// When it was staged.
    pub at: SystemTime,
    /// Bytes of it, as they will be stored.
    pub stored_len: u32,
}

/// Why a staged block cannot be read.
#[derive(Debug)]
pub enum ReadFault {
    /// Its bytes are not those that were staged.
    Damaged,
    /// The disk failed.
    Disk(io::Error),
}

/// The journal of one volume on this machine.
pub struct Journal {
    env: Env,
    log: Arc<Log>,
    state: Mutex<State>,
    room: Option<Budget>,
    /// A block was staged, or is no longer.
    changed: Notify,
    _lock: Box<dyn Send + Sync>,
}

#[derive(Default)]
struct State {
    blocks: HashMap<BlockKey, Entry>,
    /// Oldest first.
    order: BTreeMap<u64, BlockKey>,
    intents: BTreeMap<IntentId, u64>,
    next_intent: u64,
    bytes: u64,
}

struct Entry {
    place: Place,
    _room: Option<Permit>,
}

impl Journal {
    /// Opens the journal behind `door`, inside a tokio runtime; makes it if there is none. Waits for
    /// the disk: reads the header of each record.
    ///
    /// # Errors
    ///
    /// It is in use, another volume's, or cannot be read. Nothing was changed then.
    pub async fn open(
        env: &Env,
        door: Arc<dyn Door>,
        settings: Settings,
    ) -> Result<(Arc<Journal>, Recovered), OpenError> {
        let (folder, volume) = (door.clone(), settings.volume.clone());
        let (lock, found) = env.blocking(move || take_over(&*folder, &volume)).await?;
        let is_damaged = found.is_damaged;
        let is_torn = found.segments.iter().any(|segment| segment.is_torn);
        let replay = Replay::of(&found.segments)?;
        // Numbers are not given out again, as long as the clock does not go back.
        let next_intent = replay.next_intent.max(log::micros(env.now()));
        let rules =
            Rules { volume: settings.volume, segment_bytes: settings.segment_bytes, keep_free: settings.keep_free };
        let journal = Arc::new(Journal {
            env: env.clone(),
            log: Log::new(env.clone(), door, rules, found.segments),
            state: Mutex::new(State { next_intent, ..State::default() }),
            room: (settings.staged_bytes_max > 0).then(|| Budget::new(settings.staged_bytes_max.div_ceil(UNIT_BYTES))),
            changed: Notify::new(),
            _lock: lock,
        });
        let recovered = journal.adopt(replay, is_damaged, is_torn).await;
        Ok((journal, recovered))
    }

    async fn adopt(self: &Arc<Self>, replay: Replay, is_damaged: bool, is_torn: bool) -> Recovered {
        let is_damaged = is_damaged || replay.is_damaged;
        let mut unnamed = Vec::new();
        {
            let mut state = self.state.lock();
            for (key, place) in replay.blocks {
                // Nobody was about to name it: its commit was never tried. Where something cannot be
                // read, that may have been the intent: then the block goes to the store, and gc decides.
                if !is_damaged && !is_torn && !replay.named.contains(&key.id) {
                    unnamed.push(key);
                }
                self.log.keep(place.segment);
                let room = self.room.as_ref().and_then(|room| room.try_acquire(units(&place)));
                state.insert(key, Entry { place, _room: room });
            }
            for (id, _, segment) in &replay.open {
                self.log.keep(*segment);
                state.intents.insert(*id, *segment);
            }
        }
        self.done(&unnamed).await;
        let recovered = Recovered {
            open: replay.open.into_iter().map(|(id, intent, _)| (id, intent)).collect(),
            settled: replay.settled,
            highest: replay.highest,
            blocks: self.state.lock().blocks.len(),
            dropped: unnamed.len(),
            is_damaged,
        };
        self.log.reap();
        recovered
    }

    /// Stages a block; waits while as much as allowed is staged, then until the kernel has it.
    ///
    /// # Errors
    ///
    /// The block is not staged: put it into the store.
    pub async fn stage(&self, key: BlockKey, pieces: Vec<Bytes>) -> Result<(), Refused> {
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let room = match &self.room {
            Some(room) => Some(room.acquire(bytes.div_ceil(UNIT_BYTES)).await),
            None => None,
        };
        let place = self.log.append(Header::of_block(Kind::Block, key), pieces).await?;
        self.state.lock().insert(key, Entry { place, _room: room }).inspect(|old| self.log.release(old.place.segment));
        self.changed.notify_one();
        Ok(())
    }

    /// Notes what is about to be committed; waits until the kernel has it. A [`Journal::sync`] from
    /// now on covers it and every block staged before.
    ///
    /// # Errors
    ///
    /// It is not noted: what it names must be in the store before it is committed.
    pub async fn note(&self, intent: &Intent) -> Result<IntentId, Refused> {
        let id = {
            let mut state = self.state.lock();
            state.next_intent += 1;
            IntentId(state.next_intent)
        };
        let place = self.log.append(Header::of(Kind::Intent, id.0), vec![intent.encode()]).await?;
        self.state.lock().intents.insert(id, place.segment);
        Ok(id)
    }

    /// The outcome of an intent is known: it will not be answered after a crash.
    pub async fn settle(&self, id: IntentId) {
        let segment = self.state.lock().intents.remove(&id);
        let Some(segment) = segment else { return };
        // Without the mark a replay finds out once more.
        if let Err(refused) = self.log.append(Header::of(Kind::Settled, id.0), vec![]).await {
            tracing::debug!(?refused, "an intent is not marked as settled");
        }
        self.log.release(segment);
        self.log.reap();
    }

    /// Everything staged and noted until now survives a power cut when this returns. All who wait
    /// share one sync of the disk.
    ///
    /// # Errors
    ///
    /// The disk failed: what is staged must reach the store before it counts as safe.
    pub async fn sync(&self) -> Result<(), Refused> {
        self.log.sync(self.log.written()).await
    }

    /// These blocks need no upload any more: the store has them, or nobody wants them.
    pub async fn done(&self, keys: &[BlockKey]) {
        for key in keys {
            let entry = self.state.lock().remove(*key);
            let Some(entry) = entry else { continue };
            // Without the mark a replay uploads the block again: the same bytes under the same name.
            if let Err(refused) = self.log.append(Header::of_block(Kind::Done, *key), vec![]).await {
                tracing::debug!(%key, ?refused, "a block is not marked as done");
            }
            self.log.release(entry.place.segment);
        }
        if !keys.is_empty() {
            self.changed.notify_one();
            self.log.reap();
        }
    }

    /// Is the block staged? Never waits.
    pub fn contains(&self, key: BlockKey) -> bool {
        self.state.lock().blocks.contains_key(&key)
    }

    /// A staged block as the store wants it, verified; `None` if it is not staged.
    ///
    /// # Errors
    ///
    /// It is staged and cannot be read.
    pub async fn read(&self, key: BlockKey) -> Option<Result<Bytes, ReadFault>> {
        let place = self.state.lock().blocks.get(&key)?.place.clone();
        let read = move || segment::payload(&*place.file, place.at, place.header.stored_len, place.header.payload_crc);
        Some(match self.env.blocking(read).await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(ReadFault::Damaged),
            Err(e) => Err(ReadFault::Disk(e)),
        })
    }

    /// The oldest staged block behind number `after`.
    pub fn next_staged(&self, after: u64) -> Option<Staged> {
        let state = self.state.lock();
        let (number, key) = state.order.range(after + 1..).next()?;
        Some(state.blocks[key].staged(*key, *number))
    }

    /// The staged blocks of these slices.
    pub fn staged_of(&self, ids: &[SliceId]) -> Vec<BlockKey> {
        self.state.lock().blocks.keys().filter(|key| ids.contains(&key.id)).copied().collect()
    }

    /// Bytes, blocks, age.
    pub fn usage(&self) -> Usage {
        let state = self.state.lock();
        let oldest = state.order.first_key_value().map(|(number, key)| state.blocks[key].staged(*key, *number).at);
        Usage { blocks: state.blocks.len() as u64, bytes: state.bytes, oldest }
    }

    /// Told whenever a block was staged or is no longer. For one listener.
    pub fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Ends the background work; segments that nobody needs go. What is staged stays on disk.
    pub async fn close(&self) {
        self.log.close().await;
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("usage", &self.usage()).finish()
    }
}

impl State {
    /// A block staged twice is the later one; the earlier one comes back.
    fn insert(&mut self, key: BlockKey, entry: Entry) -> Option<Entry> {
        let (number, bytes) = (entry.place.header.number, u64::from(entry.place.header.stored_len));
        let old = self.remove(key);
        self.order.insert(number, key);
        self.bytes += bytes;
        self.blocks.insert(key, entry);
        old
    }

    fn remove(&mut self, key: BlockKey) -> Option<Entry> {
        let entry = self.blocks.remove(&key)?;
        self.order.remove(&entry.place.header.number);
        self.bytes -= u64::from(entry.place.header.stored_len);
        Some(entry)
    }
}

impl Entry {
    fn staged(&self, key: BlockKey, number: u64) -> Staged {
        let header = &self.place.header;
        let at = UNIX_EPOCH + Duration::from_micros(header.at_micros);
        Staged { key, number, at, stored_len: header.stored_len }
    }
}

fn units(place: &Place) -> u64 {
    u64::from(place.header.stored_len).div_ceil(UNIT_BYTES)
}

struct TakenOver {
    segments: Vec<segment::Segment>,
    is_damaged: bool,
}

/// Locks the folder and reads every segment in it, oldest first.
fn take_over(door: &dyn Door, volume: &str) -> Result<(Box<dyn Send + Sync>, TakenOver), OpenError> {
    door.make_folder()?;
    door.sync_folder()?;
    let lock = door.lock()?.ok_or(OpenError::InUse)?;
    let mut names: Vec<_> = door.list()?.into_iter().filter(|name| segment::number(name).is_some()).collect();
    names.sort_unstable();
    if !names.is_empty() {
        // Whoever was here before may have died between taking a segment away and its sync.
        door.sync_names()?;
    }
    let (mut segments, mut empty, mut is_damaged) = (Vec::new(), Vec::new(), false);
    for name in names {
        match segment::read(door, &name)? {
            Found::Segment(found) if found.header.volume != volume => {
                return Err(OpenError::OtherVolume { volume: found.header.volume });
            }
            Found::Segment(found) => {
                if found.is_damaged {
                    tracing::error!(name, "a journal segment is damaged: what can be read of it is used");
                }
                is_damaged |= found.is_damaged;
                segments.push(found);
            }
            Found::Empty => empty.push(name),
            // Left where it is: somebody may still save bytes out of it.
            Found::Unreadable => {
                tracing::error!(name, "a journal segment has no readable header: it is left alone");
                is_damaged = true;
            }
        }
    }
    for name in empty {
        door.remove(&name)?;
    }
    Ok((lock, TakenOver { segments, is_damaged }))
}

/// What records add up to.
struct Replay {
    blocks: Vec<(BlockKey, Place)>,
    open: Vec<(IntentId, Intent, u64)>,
    settled: Vec<(IntentId, Intent)>,
    named: HashSet<SliceId>,
    highest: Option<SliceId>,
    next_intent: u64,
    is_damaged: bool,
}

impl Replay {
    fn of(segments: &[segment::Segment]) -> io::Result<Replay> {
        let mut blocks: BTreeMap<u64, (BlockKey, Place)> = BTreeMap::new();
        let mut numbers: HashMap<BlockKey, u64> = HashMap::new();
        let mut intents = BTreeMap::new();
        let mut settled = HashSet::new();
        let (mut highest, mut is_damaged) = (None, false);
        for segment in segments {
            for (header, at) in &segment.records {
                let place =
                    Place { segment: segment.header.number, file: segment.file.clone(), at: *at, header: *header };
                match header.kind {
                    Kind::Block => {
                        let key = header.key();
                        highest = highest.max(Some(key.id));
                        if let Some(earlier) = numbers.insert(key, header.number) {
                            blocks.remove(&earlier);
                        }
                        blocks.insert(header.number, (key, place));
                    }
                    Kind::Done => {
                        highest = highest.max(Some(header.key().id));
                        if let Some(number) = numbers.remove(&header.key()) {
                            blocks.remove(&number);
                        }
                    }
                    Kind::Settled => _ = settled.insert(IntentId(header.id)),
                    Kind::Intent => {
                        let bytes = segment::payload(&*place.file, *at, header.stored_len, header.payload_crc)?;
                        match bytes.and_then(|bytes| Intent::decode(&bytes)) {
                            Some(intent) => _ = intents.insert(IntentId(header.id), (intent, place.segment)),
                            None => is_damaged = true,
                        }
                    }
                }
            }
        }
        let next_intent = intents.keys().chain(&settled).map(|id| id.0).max().unwrap_or(0);
        let named = intents.values().flat_map(|(intent, _)| intent.ids()).collect();
        let (done, open): (Vec<_>, Vec<_>) = intents.into_iter().partition(|(id, _)| settled.contains(id));
        Ok(Replay {
            blocks: blocks.into_values().collect(),
            open: open.into_iter().map(|(id, (intent, segment))| (id, intent, segment)).collect(),
            settled: done.into_iter().map(|(id, (intent, _))| (id, intent)).collect(),
            named,
            highest,
            next_intent,
            is_damaged,
        })
    }
}
