//! One slice on its way into the store.
//!
//! Bytes land in the pages of the last block. A block that is full is frozen and leaves at once; the
//! rest leaves with [`SliceWriter::finish`]. A block's memory is given back when the store has it and
//! not before, so a failed upload loses nothing and `finish` can be called again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_env::Permit;
use cairn_types::layout::{block_len, block_spans};
use cairn_types::{BlockKey, CHUNK_BYTES, SliceId, SliceRef};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::block_buffer::{OpenBlock, Rope, join};
use crate::{ChunkStore, Error, Loose, Reservation, Result};

/// Garbage collection elsewhere may delete a block that is older than an hour and not committed: a
/// slice that took longer than this is looked at again before anybody names it.
const UNCOMMITTED_AGE_MAX: Duration = Duration::from_secs(30 * 60);

/// A slice whose every block is in the store. Only [`SliceWriter::finish`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "blocks that no metadata names are garbage"]
pub struct StoredSlice {
    slice: SliceRef,
}

impl StoredSlice {
    /// Its id and size in bytes.
    pub fn slice(&self) -> SliceRef {
        self.slice
    }
}

/// One slice being written, at most 64 MiB. All calls take `&self`; clones are the same slice.
#[derive(Clone)]
pub struct SliceWriter {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<ChunkStore>,
    id: SliceId,
    /// Its blocks may be staged.
    staging: bool,
    state: Mutex<State>,
    /// A block was stored, or failed.
    settled: Notify,
}

struct State {
    len: u32,
    /// All but the last have left.
    blocks: Vec<Block>,
    sealed: bool,
    discarded: bool,
    first_stored: Option<Instant>,
}

enum Block {
    Open(OpenBlock),
    /// Sealed; leaves with `finish`.
    Waiting(Rope),
    Sending(Rope),
    /// Kept until `finish` is called again.
    Failed(Rope, Error),
    Stored,
    /// Given away by `take`: readable here, stored by somebody else.
    Moved(Rope),
}

/// Bytes of a range, in order.
enum Part {
    Here(Bytes),
    Stored(BlockKey, std::ops::Range<u32>),
}

impl SliceWriter {
    pub(crate) fn new(store: Arc<ChunkStore>, id: SliceId, staging: bool) -> SliceWriter {
        let state = State { len: 0, blocks: vec![], sealed: false, discarded: false, first_stored: None };
        SliceWriter {
            shared: Arc::new(Shared { store, id, staging, state: Mutex::new(state), settled: Notify::new() }),
        }
    }

    /// A sealed slice of bytes that are there already; they leave with [`SliceWriter::finish`].
    pub(crate) fn sealed(
        store: Arc<ChunkStore>,
        id: SliceId,
        loose: impl IntoIterator<Item = Loose>,
        staging: bool,
    ) -> SliceWriter {
        let writer = SliceWriter::new(store, id, staging);
        let mut blocks = Blocks::new(writer.block_bytes() as usize);
        loose.into_iter().for_each(|loose| blocks.add(loose));
        let (len, blocks) = blocks.done();
        {
            let mut state = writer.shared.state.lock();
            state.len = u32::try_from(len).expect("a slice is at most a chunk");
            state.blocks = blocks.into_iter().map(Block::Waiting).collect();
            state.sealed = true;
        }
        writer
    }

    /// Takes all bytes out, to be stored as part of another slice, if none has left yet. They stay
    /// readable here; nothing can be added or finished any more.
    pub fn take(&self) -> Option<Loose> {
        let mut state = self.shared.state.lock();
        if state.sealed || !matches!(&state.blocks[..], [Block::Open(_)]) {
            return None;
        }
        let Some(Block::Open(open)) = state.blocks.pop() else { unreachable!("just seen") };
        let rope = open.freeze(state.len as usize);
        let loose = Loose { pieces: rope.pieces(), room: rope.room() };
        state.blocks.push(Block::Moved(rope));
        state.sealed = true;
        Some(loose)
    }

    /// The slice's id.
    pub fn id(&self) -> SliceId {
        self.shared.id
    }

    /// Copies `data` to `off`, paid from `room`. Never waits; blocks that become full leave for upload
    /// by themselves.
    ///
    /// `false`, and nothing is written, unless `floor() <= off <= len()`, the end is within 64 MiB, and
    /// neither `finish` nor `discard` was called.
    #[must_use = "false means that nothing was written"]
    pub fn write_at(&self, off: u32, data: &[u8], room: &mut Reservation) -> bool {
        let mut full = Vec::new();
        {
            let mut state = self.shared.state.lock();
            let end = u64::from(off) + data.len() as u64;
            if state.sealed || off < state.floor(self.block_bytes()) || off > state.len || end > CHUNK_BYTES {
                return false;
            }
            let largest = SliceRef { id: self.shared.id, size: CHUNK_BYTES as u32 };
            for span in block_spans(largest, off, data.len() as u32, self.block_bytes()) {
                let part = &data[span.at as usize..(span.at + span.len) as usize];
                let open = state.open_block(span.index);
                open.write(self.shared.store.pool(), room, span.pos as usize, part, span.index == 0);
                state.len = state.len.max(off + span.at + span.len);
                if span.pos + span.len == self.block_bytes() {
                    full.push((span.index, state.freeze_last(self.block_bytes())));
                }
            }
        }
        full.into_iter().for_each(|(index, pieces)| self.send(index, self.block_bytes(), pieces));
        true
    }

    /// Bytes written so far.
    pub fn len(&self) -> u32 {
        self.shared.state.lock().len
    }

    /// Nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Start of the part that may still be overwritten: what lies below has left for upload. It is
    /// `len()` once the slice is sealed.
    pub fn floor(&self) -> u32 {
        self.shared.state.lock().floor(self.block_bytes())
    }

    /// Bytes of buffer it holds at the moment, uploads under way included.
    pub fn buffered_bytes(&self) -> u64 {
        let state = self.shared.state.lock();
        let held = |block: &Block| match block {
            Block::Open(open) => open.held(),
            Block::Waiting(rope) | Block::Sending(rope) | Block::Failed(rope, _) => rope.held(),
            Block::Stored | Block::Moved(_) => 0,
        };
        state.blocks.iter().map(held).sum()
    }

    /// When its first block was stored; `None` before.
    pub fn first_stored(&self) -> Option<Instant> {
        self.shared.state.lock().first_stored
    }

    /// The range if all of it is in memory: pages, or cached blocks. Never waits.
    pub fn read_now(&self, off: u32, len: u32) -> Option<Bytes> {
        let pieces: Option<Vec<_>> = self
            .parts(off, len)
            .ok()?
            .into_iter()
            .map(|part| match part {
                Part::Here(bytes) => Some(bytes),
                Part::Stored(key, range) => self.shared.store.cache().get_now(key, range),
            })
            .collect();
        pieces.map(|pieces| join(&pieces))
    }

    /// The range: from memory what is there, from disk cache or store what is uploaded already.
    ///
    /// # Errors
    ///
    /// Those of [`ChunkStore::read`].
    pub async fn read_at(&self, off: u32, len: u32) -> Result<Bytes> {
        let mut pieces = Vec::new();
        for part in self.parts(off, len)? {
            pieces.push(match part {
                Part::Here(bytes) => bytes,
                Part::Stored(key, range) => self.shared.store.read_block(key, range).await?,
            });
        }
        Ok(join(&pieces))
    }

    fn parts(&self, off: u32, len: u32) -> Result<Vec<Part>> {
        let state = self.shared.state.lock();
        let slice = self.slice(&state);
        if u64::from(off) + u64::from(len) > u64::from(slice.size) {
            return Err(Error::OutOfSlice { slice, off, len });
        }
        if state.discarded {
            return Err(Error::Discarded { id: slice.id });
        }
        let mut parts = Vec::new();
        for span in block_spans(slice, off, len, self.block_bytes()) {
            let range = span.pos as usize..(span.pos + span.len) as usize;
            match &state.blocks[span.index as usize] {
                Block::Open(open) => {
                    let mut copy = Vec::with_capacity(range.len());
                    open.read(range, &mut copy);
                    parts.push(Part::Here(copy.into()));
                }
                Block::Waiting(rope) | Block::Sending(rope) | Block::Failed(rope, _) | Block::Moved(rope) => {
                    parts.extend(rope.range(range).map(Part::Here));
                }
                Block::Stored => {
                    let key = BlockKey { id: slice.id, index: span.index, len: span.block_len };
                    parts.push(Part::Stored(key, span.pos..span.pos + span.len));
                }
            }
        }
        Ok(parts)
    }

    /// Seals the slice, stores what is still buffered, and waits until the store has all of it.
    ///
    /// Call again after an error: only missing blocks are sent, their bytes stay buffered until they
    /// are stored. A caller that gives up waiting stops nothing.
    ///
    /// # Panics
    ///
    /// If nothing was written.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] for the first block that used up its retries; [`Error::Missing`] if a slice that
    /// waited long for its commit was collected as garbage meanwhile.
    pub async fn finish(&self) -> Result<StoredSlice> {
        let slice = self.seal()?;
        self.wait_settled().await;
        self.first_failure()?;
        let since = self.first_stored().expect("a slice with bytes has a block");
        if self.shared.store.env().instant().saturating_duration_since(since) > UNCOMMITTED_AGE_MAX {
            self.shared.store.verify(slice).await?;
        }
        Ok(StoredSlice { slice })
    }

    /// Nothing may be added any more; everything that is not stored is on its way.
    fn seal(&self) -> Result<SliceRef> {
        let (slice, to_send) = {
            let mut state = self.shared.state.lock();
            if state.discarded {
                return Err(Error::Discarded { id: self.shared.id });
            }
            assert!(state.len > 0, "slice {} is finished empty", self.shared.id);
            assert!(!state.is_moved(), "the bytes of slice {} belong to another", self.shared.id);
            let mut to_send = state.send_again();
            let rest = state.len - state.floor(self.block_bytes());
            if rest > 0 {
                to_send.push((state.blocks.len() as u32 - 1, state.freeze_last(rest)));
            }
            state.sealed = true;
            (self.slice(&state), to_send)
        };
        for (index, pieces) in to_send {
            self.send(index, block_len(slice, index, self.block_bytes()), pieces);
        }
        Ok(slice)
    }

    async fn wait_settled(&self) {
        loop {
            let settled = self.shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if !self.shared.state.lock().blocks.iter().any(|b| matches!(b, Block::Sending(_))) {
                return;
            }
            settled.await;
        }
    }

    fn first_failure(&self) -> Result<()> {
        let state = self.shared.state.lock();
        let failure = state.blocks.iter().find_map(|block| match block {
            Block::Failed(_, error) => Some(error.clone()),
            _ => None,
        });
        failure.map_or(Ok(()), Err)
    }

    /// Gives the slice up: drops what is buffered, waits for uploads under way and deletes what was
    /// stored. May be called again after an error.
    ///
    /// # Errors
    ///
    /// A block could not be deleted; it is garbage that gc finds.
    pub async fn discard(&self) -> Result<()> {
        {
            let mut state = self.shared.state.lock();
            state.sealed = true;
            if state.is_moved() {
                return Ok(());
            }
            state.discarded = true;
            state.blocks.retain(|block| !matches!(block, Block::Open(_) | Block::Waiting(_)));
        }
        self.wait_settled().await;
        let keys: Vec<_> = {
            let mut state = self.shared.state.lock();
            let slice = self.slice(&state);
            // A failed upload may have arrived all the same. Only its room is given back.
            state.blocks.iter_mut().for_each(|block| *block = Block::Stored);
            self.shared.store.blocks(slice).take(state.blocks.len()).collect()
        };
        self.shared.store.delete_blocks(keys).await
    }

    /// One upload in a task of its own. The slice keeps the bytes until it has settled.
    fn send(&self, index: u32, len: u32, pieces: Vec<Bytes>) {
        let upload = Upload { shared: self.shared.clone(), index, outcome: None };
        let key = BlockKey { id: self.shared.id, index, len };
        self.shared.store.spawn(async move {
            let mut upload = upload;
            let store = upload.shared.store.clone();
            upload.outcome = Some(store.put_block(key, pieces, upload.shared.staging).await);
        });
    }

    fn slice(&self, state: &State) -> SliceRef {
        SliceRef { id: self.shared.id, size: state.len }
    }

    fn block_bytes(&self) -> u32 {
        self.shared.store.config().block_bytes
    }
}

impl std::fmt::Debug for SliceWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SliceWriter({}, {} bytes)", self.id(), self.len())
    }
}

impl State {
    fn floor(&self, block_bytes: u32) -> u32 {
        if self.sealed {
            return self.len;
        }
        let open = matches!(self.blocks.last(), Some(Block::Open(_)));
        (self.blocks.len() as u32 - u32::from(open)) * block_bytes
    }

    fn open_block(&mut self, index: u32) -> &mut OpenBlock {
        if index as usize == self.blocks.len() {
            self.blocks.push(Block::Open(OpenBlock::default()));
        }
        match &mut self.blocks[index as usize] {
            Block::Open(open) => open,
            _ => unreachable!("what lies above the floor is open"),
        }
    }

    /// The last block leaves; the pieces to send.
    fn freeze_last(&mut self, len: u32) -> Vec<Bytes> {
        let Some(Block::Open(open)) = self.blocks.pop() else { unreachable!("only an open block is frozen") };
        let rope = open.freeze(len as usize);
        let pieces = rope.pieces();
        self.blocks.push(Block::Sending(rope));
        pieces
    }

    fn is_moved(&self) -> bool {
        matches!(self.blocks.first(), Some(Block::Moved(_)))
    }

    /// Blocks that wait or have failed are sending now; what to send of each.
    fn send_again(&mut self) -> Vec<(u32, Vec<Bytes>)> {
        let mut again = Vec::new();
        for (index, block) in self.blocks.iter_mut().enumerate() {
            *block = match std::mem::replace(block, Block::Stored) {
                Block::Waiting(rope) | Block::Failed(rope, _) => {
                    again.push((index as u32, rope.pieces()));
                    Block::Sending(rope)
                }
                other => other,
            };
        }
        again
    }

    fn settle(&mut self, index: usize, outcome: Result<()>, now: Option<Instant>) {
        let Block::Sending(rope) = std::mem::replace(&mut self.blocks[index], Block::Stored) else {
            unreachable!("a block settles once for each time it is sent")
        };
        match outcome {
            Ok(()) => self.first_stored = self.first_stored.or(now),
            Err(error) => self.blocks[index] = Block::Failed(rope, error),
        }
    }
}

/// Cuts loose bytes into blocks.
struct Blocks {
    block_bytes: usize,
    len: usize,
    full: Vec<Rope>,
    pieces: Vec<Bytes>,
    /// Bytes in `pieces`.
    filled: usize,
    room: Vec<Arc<Permit>>,
}

impl Blocks {
    fn new(block_bytes: usize) -> Blocks {
        Blocks { block_bytes, len: 0, full: vec![], pieces: vec![], filled: 0, room: vec![] }
    }

    fn add(&mut self, loose: Loose) {
        for mut piece in loose.pieces {
            self.len += piece.len();
            while !piece.is_empty() {
                let part = piece.split_to(piece.len().min(self.block_bytes - self.filled));
                self.filled += part.len();
                self.pieces.push(part);
                self.share(&loose.room);
                if self.filled == self.block_bytes {
                    self.close();
                }
            }
        }
    }

    /// A block holds what its bytes were paid with until it is stored.
    fn share(&mut self, room: &[Arc<Permit>]) {
        for paid in room {
            if !self.room.iter().rev().any(|held| Arc::ptr_eq(held, paid)) {
                self.room.push(paid.clone());
            }
        }
    }

    fn close(&mut self) {
        self.filled = 0;
        self.full.push(Rope::new(std::mem::take(&mut self.pieces), std::mem::take(&mut self.room)));
    }

    fn done(mut self) -> (usize, Vec<Rope>) {
        if self.filled > 0 {
            self.close();
        }
        (self.len, self.full)
    }
}

/// An upload under way. However its task ends, the slice hears of it.
struct Upload {
    shared: Arc<Shared>,
    index: u32,
    outcome: Option<Result<()>>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        let shared = &self.shared;
        let outcome = self.outcome.take().unwrap_or_else(|| Err(Error::Interrupted { id: shared.id }));
        let now = shared.store.env().instant();
        shared.state.lock().settle(self.index as usize, outcome, Some(now));
        shared.settled.notify_waiters();
    }
}
