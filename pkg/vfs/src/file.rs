//! What this client knows of one inode it has open or has not committed fully.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_chunk::{Intent, IntentId, IntentSlice, Patch, Reservation, SliceWriter};
use cairn_types::layout::chunk_start;
use cairn_types::{Attr, ChunkIndex, ChunkSpan, Ino, Timestamp};
use dashmap::DashMap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, RwLock};

use crate::Error;
use crate::packing::Fill;
use crate::passing::Passes;
use crate::patches::Patched;
use crate::pending::{Slot, Upload};
use crate::ranges::{Run, RunBytes};
use crate::tail::{Merge, Tail};

/// Open slots that one chunk may have; older ones take no more data (volume format 11.2).
const OPEN_SLOTS_PER_CHUNK: usize = 4;

/// Slots of a file beyond which writers wait for a flush. A flush may make as many of a patch.
pub(crate) const SLOTS_MAX: usize = 32_768;

/// Slots of a file beyond which they are flushed without waiting for their age.
pub(crate) const SLOTS_SOFT: usize = 2048;

/// One inode. Lock order: `gate`, then `packing`, then `commit`, then `state`.
pub(crate) struct File {
    pub(crate) ino: Ino,
    /// Writers hold it shared while they copy; what changes the length or the list otherwise holds
    /// it alone, so that no write slips in between its drain and its change.
    pub(crate) gate: RwLock<()>,
    /// Held by whoever commits: the order of the file's commits.
    pub(crate) commit: tokio::sync::Mutex<()>,
    /// Held by whoever decides in which slices dirt is stored.
    pub(crate) packing: tokio::sync::Mutex<()>,
    /// Told whenever slots have left the queue.
    pub(crate) drained: Notify,
    state: Mutex<State>,
}

/// The part that is guarded by a plain lock.
pub(crate) struct State {
    /// Handles of this inode.
    pub(crate) opens: usize,
    /// How those are served.
    pub(crate) passes: Passes,
    /// Those of them that leave out caches above.
    pub(crate) uncached: usize,
    /// Attributes as metadata told them last.
    attr: Attr,
    /// Number (of the client's changes) of our last change; attributes asked for before it are old.
    version: u64,
    /// Uncommitted runs, oldest first. `seq` grows by one from slot to slot.
    pub(crate) queue: VecDeque<Slot>,
    pub(crate) next_seq: u64,
    /// The newest slots of each chunk that may take more data, oldest first.
    pub(crate) open: HashMap<ChunkIndex, Vec<u64>>,
    /// Small scattered writes, over all slots of their chunks.
    pub(crate) patches: BTreeMap<ChunkIndex, Patched>,
    /// Pieces of all patches.
    pub(crate) pieces: usize,
    /// Small writes may share slices.
    pub(crate) packs: bool,
    /// Runs that one record may show, if the list is still what it was.
    pub(crate) fills: Vec<Fill>,
    /// Our own records at the end of a list.
    pub(crate) tail: Option<Tail>,
    /// The slot that is stored together with such records.
    pub(crate) merge: Option<Merge>,
    /// End of the uncommitted data; 0 if there is none.
    dirty_end: u64,
    /// mtime of the last change of content, ours or committed.
    mtime: Timestamp,
    /// What utimes said since the last write: the next commit sets just that.
    set_mtime: Option<Timestamp>,
    /// Data dropped for good, in order of events: told once per handle.
    pub(crate) losses: u64,
    last_loss: Option<Error>,
    /// Closes told to metadata once the queue is empty.
    pub(crate) owed_releases: usize,
    /// Failed background flushes in a row, and when to try again.
    pub(crate) failures: u32,
    pub(crate) retry_at: Option<Instant>,
    /// No name is left: what is uncommitted dies with the last handle.
    pub(crate) orphan: bool,
    /// Owners that took POSIX locks through this client.
    pub(crate) lock_owners: HashSet<u64>,
    /// A background flush is under way.
    pub(crate) flushing: bool,
    /// Notes in the journal about slots that are not committed: the newest slot each is about.
    pub(crate) notes: Vec<(u64, IntentId)>,
}

/// What a write did.
pub(crate) struct Placed {
    /// Bytes taken; fewer than asked only when slice ids ran out.
    pub(crate) bytes: usize,
    /// Nothing was dirty before.
    pub(crate) first: bool,
}

impl File {
    pub(crate) fn new(ino: Ino, attr: Attr, packs: bool) -> File {
        File {
            ino,
            gate: RwLock::new(()),
            commit: tokio::sync::Mutex::new(()),
            packing: tokio::sync::Mutex::new(()),
            drained: Notify::new(),
            state: Mutex::new(State {
                opens: 0,
                passes: Passes::default(),
                uncached: 0,
                attr,
                version: 0,
                queue: VecDeque::new(),
                next_seq: 0,
                open: HashMap::new(),
                patches: BTreeMap::new(),
                pieces: 0,
                packs,
                fills: Vec::new(),
                tail: None,
                merge: None,
                dirty_end: 0,
                mtime: attr.mtime,
                set_mtime: None,
                losses: 0,
                last_loss: None,
                owed_releases: 0,
                failures: 0,
                retry_at: None,
                orphan: false,
                lock_owners: HashSet::new(),
                flushing: false,
                notes: Vec::new(),
            }),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Length as this client sees it: committed or not.
    pub(crate) fn length(&self) -> u64 {
        self.dirty_end.max(self.attr.length)
    }

    /// Attributes as this client knows them now.
    pub(crate) fn now(&self) -> Attr {
        self.local(self.attr)
    }

    fn local(&self, mut attr: Attr) -> Attr {
        if !self.is_clean() {
            attr.length = attr.length.max(self.dirty_end);
            attr.mtime = self.mtime;
            attr.ctime = attr.ctime.max(attr.mtime);
        }
        attr
    }

    /// Takes attributes that were asked for after change number `asked_at`, unless we have changed
    /// the inode since. Answers what this client sees.
    pub(crate) fn seen(&mut self, attr: Attr, asked_at: u64) -> Attr {
        if self.version <= asked_at {
            self.attr = attr;
            self.mtime = if self.is_clean() { attr.mtime } else { self.mtime };
        }
        self.local(self.attr)
    }

    /// Takes attributes that a change of our own, number `version`, has answered.
    pub(crate) fn changed(&mut self, attr: Attr, version: u64) {
        self.version = version;
        self.attr = attr;
        if self.is_clean() {
            self.mtime = attr.mtime;
        }
    }

    /// The time of a change of content made now: later than the last one, unless somebody has set
    /// that one into the future.
    fn next_mtime(&mut self, now: Timestamp) -> Timestamp {
        let next = now.max(self.mtime.plus(Duration::from_nanos(1)));
        self.mtime = if self.mtime.since(now) > FUTURE_MTIME { now } else { next };
        self.set_mtime = None;
        self.mtime
    }

    /// What utimes says holds for everything written before it.
    pub(crate) fn override_mtime(&mut self, mtime: Timestamp) {
        self.mtime = mtime;
        if !self.is_clean() {
            self.queue.iter_mut().for_each(|s| s.mtime = mtime);
            self.patches.values_mut().for_each(|p| p.mtime = mtime);
            self.set_mtime = Some(mtime);
        }
    }

    /// The modification time that a commit sets whatever its slices say.
    pub(crate) fn set_mtime(&self) -> Option<Timestamp> {
        self.set_mtime
    }

    /// Newest slot; `None` if there is none.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.queue.back().map(|s| s.seq)
    }

    /// Bytes not committed.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        let slots: u64 = self.queue.iter().map(|s| u64::from(s.len)).sum();
        slots + self.patches.values().map(|p| p.patch.bytes()).sum::<u64>()
    }

    /// Slots up to `upto` take no more data.
    pub(crate) fn freeze(&mut self, upto: u64) {
        self.queue.iter_mut().take_while(|s| s.seq <= upto).for_each(|s| s.frozen = true);
        self.open.retain(|_, seqs| {
            seqs.retain(|seq| *seq > upto);
            !seqs.is_empty()
        });
    }

    /// The slot numbered `seq`.
    pub(crate) fn slot_mut(&mut self, seq: u64) -> Option<&mut Slot> {
        let front = self.queue.front()?.seq;
        self.queue.get_mut(usize::try_from(seq.checked_sub(front)?).ok()?)
    }

    /// Removes the `count` oldest slots.
    pub(crate) fn pop(&mut self, count: usize) -> Vec<Slot> {
        let slots: Vec<Slot> = self.queue.drain(..count).collect();
        debug_assert!(slots.iter().all(|s| s.frozen), "only frozen slots leave");
        let front = self.queue.front().map_or(u64::MAX, |s| s.seq);
        self.fills.retain(|fill| fill.slots().start >= front);
        self.merge = self.merge.take().filter(|merge| merge.seq >= front);
        self.dirty_end = self.queue.iter().map(slot_end).max().unwrap_or(0).max(self.patched_end());
        if self.is_clean() {
            self.set_mtime = None;
        }
        slots
    }

    /// What a commit of the stored slots up to `upto` would name, for the journal.
    pub(crate) fn intent(&self, ino: Ino, upto: u64) -> Intent {
        let slots = self.queue.iter().take_while(|s| s.seq <= upto);
        let slices = slots.map_while(|s| {
            let record = s.record(s.upload.stored()?);
            Some(IntentSlice { index: s.index, record, mtime: s.mtime })
        });
        Intent { ino, base: (self.attr.mtime, self.attr.length), set_mtime: self.set_mtime, slices: slices.collect() }
    }

    /// A note that covers the slots up to `upto`.
    pub(crate) fn note_covering(&self, upto: u64) -> Option<IntentId> {
        self.notes.iter().find(|(newest, _)| *newest >= upto).map(|(_, id)| *id)
    }

    /// Notes about slots that are all gone from the queue.
    pub(crate) fn take_settled_notes(&mut self) -> Vec<IntentId> {
        let front = self.queue.front().map_or(u64::MAX, |s| s.seq);
        let (settled, open) = std::mem::take(&mut self.notes).into_iter().partition(|(newest, _)| *newest < front);
        self.notes = open;
        settled.into_iter().map(|(_, id): (u64, IntentId)| id).collect()
    }

    /// Data was dropped for good: every handle will be told.
    pub(crate) fn lost(&mut self, error: Error) {
        self.losses += 1;
        self.last_loss = Some(error);
    }

    /// The loss that a handle which knows of `told` of them has not heard of.
    pub(crate) fn loss_since(&self, told: u64) -> Option<Error> {
        if self.losses > told { self.last_loss.clone() } else { None }
    }

    /// Uncommitted runs in `[pos, pos + len)` of a chunk, oldest first.
    pub(crate) fn runs(&self, index: ChunkIndex, pos: u32, len: u32) -> Vec<Run> {
        let end = pos + len;
        let overlapping = self.queue.iter().filter(|s| s.index == index && s.overlaps(pos, end));
        let run = |s: &Slot| Run { pos: s.pos, len: s.len, bytes: RunBytes::Slice(s.upload.clone(), s.off) };
        overlapping.map(run).chain(self.patched_runs(index, pos, end)).collect()
    }

    /// Chunks that hold uncommitted bytes.
    pub(crate) fn dirty_chunks(&self) -> Vec<ChunkIndex> {
        let mut chunks: Vec<_> = self.queue.iter().map(|s| s.index).chain(self.patches.keys().copied()).collect();
        chunks.sort_unstable();
        chunks.dedup();
        chunks
    }

    /// Copies `data` into the slots of the chunks it falls into. `new_writer` begins a slice; it
    /// answers `None` when there is no id at hand.
    pub(crate) fn place(
        &mut self,
        spans: impl Iterator<Item = ChunkSpan>,
        data: &[u8],
        room: &mut Reservation,
        clock: (Instant, Timestamp),
        mut new_writer: impl FnMut() -> Option<SliceWriter>,
        new_patch: impl Fn() -> Patch,
    ) -> Placed {
        let mut placed = Placed { bytes: 0, first: self.is_clean() };
        let mtime = self.next_mtime(clock.1);
        for span in spans {
            let piece = &data[span.at as usize..][..span.len as usize];
            if self.is_patched(span) {
                self.patch(span, piece, room, clock.0, mtime, &new_patch);
            } else if self.extend(span, piece, room, clock.0, mtime).is_none() {
                if self.wants_patch(span) {
                    self.patch(span, piece, room, clock.0, mtime, &new_patch);
                } else if let Some(writer) = new_writer() {
                    self.begin(span, piece, room, clock.0, mtime, writer);
                } else {
                    break;
                }
            }
            self.dirty_end = self.dirty_end.max(chunk_start(span.index) + u64::from(span.pos + span.len));
            placed.bytes += piece.len();
        }
        placed
    }

    /// Goes on in an open slot: the newest that accepts, as long as none newer overlaps the range.
    fn extend(
        &mut self,
        span: ChunkSpan,
        piece: &[u8],
        room: &mut Reservation,
        now: Instant,
        mtime: Timestamp,
    ) -> Option<u64> {
        let count = self.open.get(&span.index)?.len();
        for i in (0..count).rev() {
            let seq = self.open.get(&span.index)?[i];
            let slot = self.slot_mut(seq)?;
            let off = span.pos.checked_sub(slot.pos);
            if let Some(off) = off
                && slot.accepts(span.pos)
                && slot.upload.writer.write_at(off, piece, room)
            {
                slot.len = slot.len.max(off + span.len);
                slot.touched = now;
                slot.mtime = mtime;
                return Some(seq);
            }
            if slot.overlaps(span.pos, span.pos + span.len) {
                return None;
            }
        }
        None
    }

    fn begin(
        &mut self,
        span: ChunkSpan,
        piece: &[u8],
        room: &mut Reservation,
        now: Instant,
        mtime: Timestamp,
        writer: SliceWriter,
    ) {
        let taken = writer.write_at(0, piece, room);
        assert!(taken, "a fresh slice takes its first bytes");
        let seq = self.next_seq;
        self.next_seq += 1;
        self.queue.push_back(Slot {
            seq,
            index: span.index,
            pos: span.pos,
            len: span.len,
            off: 0,
            upload: Upload::new(writer),
            frozen: false,
            leaving: false,
            born: now,
            touched: now,
            mtime,
        });
        let open = self.open.entry(span.index).or_default();
        open.push(seq);
        if open.len() > OPEN_SLOTS_PER_CHUNK {
            let oldest = open.remove(0);
            if let Some(slot) = self.slot_mut(oldest) {
                slot.frozen = true;
            }
        }
    }
}

/// An mtime this far ahead of the clock was set by somebody, not by writes in quick succession.
const FUTURE_MTIME: Duration = Duration::from_secs(1);

fn slot_end(slot: &Slot) -> u64 {
    chunk_start(slot.index) + u64::from(slot.end())
}

/// All inodes this client has open or has not committed fully.
pub(crate) struct FileTable {
    files: DashMap<Ino, Arc<File>>,
    /// Small writes may share slices.
    packs: bool,
}

impl FileTable {
    pub(crate) fn new(packs: bool) -> FileTable {
        FileTable { files: DashMap::new(), packs }
    }

    /// Counts a handle of an inode whose attributes were asked for after change `asked_at`.
    pub(crate) fn open(&self, ino: Ino, attr: Attr, asked_at: u64) -> Arc<File> {
        let file = self.files.entry(ino).or_insert_with(|| Arc::new(File::new(ino, attr, self.packs)));
        {
            let mut state = file.state();
            state.opens += 1;
            state.seen(attr, asked_at);
        }
        file.clone()
    }

    /// Forgets an inode without handles whose data is committed. True if that is so.
    pub(crate) fn forget_if_idle(&self, ino: Ino) -> bool {
        self.files
            .remove_if(&ino, |_, file| {
                let state = file.state();
                state.opens == 0 && state.is_clean()
            })
            .is_some()
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<File>> {
        self.files.get(&ino).map(|f| f.clone())
    }
}
