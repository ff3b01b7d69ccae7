//! Small scattered writes of a file, before they have slices.
//!
//! A small write that goes on nowhere lands in the *patch* of its chunk: an arena of bytes that lies
//! over all slots of that chunk. Where in which object its bytes will lie is decided when it is
//! flushed (`packing`). A patch is not for streams: a run in it that keeps growing goes on in a slot.

use std::collections::BTreeMap;
use std::time::Instant;

use cairn_chunk::{Patch, Reservation};
use cairn_types::layout::chunk_start;
use cairn_types::{ChunkIndex, ChunkSpan, Timestamp};

use crate::file::{SLOTS_MAX, State};
use crate::ranges::{Run, RunBytes};

/// Writes shorter than this may land in a patch.
pub(crate) const SMALL_BYTES: u32 = 64 << 10;

/// A run of a patch this long goes on in a slot.
const RUN_BYTES_MAX: u32 = 256 << 10;

/// Pieces in the patches of a file beyond which they are flushed without waiting for their age.
pub(crate) const PIECES_SOFT: usize = 16_384;

/// Pieces beyond which writers wait for that flush.
pub(crate) const PIECES_MAX: usize = 32_768;

/// The patch of one chunk, and when it was written.
pub(crate) struct Patched {
    pub(crate) patch: Patch,
    pub(crate) born: Instant,
    pub(crate) touched: Instant,
    /// When its last byte was written, or what utimes said since.
    pub(crate) mtime: Timestamp,
}

impl State {
    /// Nothing is uncommitted.
    pub(crate) fn is_clean(&self) -> bool {
        self.queue.is_empty() && self.patches.is_empty()
    }

    /// It takes no more before a flush.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= SLOTS_MAX || self.pieces >= PIECES_MAX
    }

    /// All patches, to be bound to slots.
    pub(crate) fn take_patches(&mut self) -> BTreeMap<ChunkIndex, Patched> {
        self.pieces = 0;
        std::mem::take(&mut self.patches)
    }

    /// End of what patches hold; 0 if they hold nothing.
    pub(crate) fn patched_end(&self) -> u64 {
        self.patches.last_key_value().map_or(0, |(index, p)| chunk_start(*index) + u64::from(p.patch.end()))
    }

    /// What the patch of a chunk shows in `[start, end)`.
    pub(crate) fn patched_runs(&self, index: ChunkIndex, start: u32, end: u32) -> Vec<Run> {
        let Some(patched) = self.patches.get(&index) else { return Vec::new() };
        let pieces = patched.patch.read(start, end).into_iter();
        pieces.map(|(pos, bytes)| Run { pos, len: bytes.len() as u32, bytes: RunBytes::Here(bytes) }).collect()
    }

    /// Does the patch of the chunk hide something in the range? Then newer bytes must go there too.
    pub(crate) fn is_patched(&self, span: ChunkSpan) -> bool {
        self.patches.get(&span.index).is_some_and(|p| p.patch.overlaps(span.pos, span.pos + span.len))
    }

    /// Shall a write that no open slot takes go into a patch rather than begin a slot? The first write
    /// into a chunk begins one: it may be the first of a stream.
    pub(crate) fn wants_patch(&self, span: ChunkSpan) -> bool {
        if !self.packs || span.len >= SMALL_BYTES {
            return false;
        }
        match self.patches.get(&span.index) {
            Some(patched) => !patched.patch.has_run_before(span.pos, RUN_BYTES_MAX),
            None => self.open.contains_key(&span.index),
        }
    }

    /// Copies a piece into the patch of its chunk.
    pub(crate) fn patch(
        &mut self,
        span: ChunkSpan,
        piece: &[u8],
        room: &mut Reservation,
        now: Instant,
        mtime: Timestamp,
        make: impl FnOnce() -> Patch,
    ) {
        let before = self.patches.get(&span.index).map(|p| p.patch.pieces());
        let patched =
            self.patches.entry(span.index).or_insert_with(|| Patched { patch: make(), born: now, touched: now, mtime });
        if before.is_none()
            && let Some(slot) = self.queue.pop_back_if(|slot| slot.index == span.index && slot.is_loose(SMALL_BYTES))
        {
            // It turned out not to be a stream. Its number is used again: nobody waits for a number
            // that may still move.
            let bytes = slot.upload.writer.read_now(0, slot.len).expect("what is loose is in memory");
            patched.patch.write(slot.pos, &bytes, room);
            patched.born = slot.born;
            self.next_seq = slot.seq;
            self.open.values_mut().for_each(|seqs| seqs.retain(|seq| *seq != slot.seq));
        }
        patched.patch.write(span.pos, piece, room);
        patched.touched = now;
        patched.mtime = mtime;
        self.pieces = self.pieces + patched.patch.pieces() - before.unwrap_or(0);
    }
}
