//! Small writes scattered over one chunk, in memory, before they have a slice.
//!
//! Bytes are appended to an arena of pages in the order in which they come; a map says which of
//! them show where, the newest on top. So a random write costs one copy and one entry, and where in
//! which object it will lie is decided when all its neighbours are known ([`ChunkStore::pack`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_env::Permit;

use crate::block_buffer::OpenBlock;
use crate::pool::Pool;
use crate::{ChunkStore, Reservation};

/// Uncommitted small writes of one chunk.
pub struct Patch {
    pool: Arc<Pool>,
    arena: OpenBlock,
    /// Bytes of the arena in use, hidden ones included.
    used: usize,
    /// What shows, by its place in the chunk; pieces do not overlap.
    pieces: BTreeMap<u32, Piece>,
    bytes: u64,
}

/// Bytes of a chunk that lie together in the arena.
#[derive(Clone, Copy)]
struct Piece {
    len: u32,
    at: usize,
}

/// Bytes without a slice, in pieces, and the room in the buffer that they were paid with. Cloning
/// copies no bytes; the room goes back with the last clone.
#[derive(Clone, Default)]
pub struct Loose {
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) room: Vec<Arc<Permit>>,
}

impl ChunkStore {
    /// An empty patch, whose pages come from this store's buffer.
    pub fn patch(&self) -> Patch {
        Patch { pool: self.pool().clone(), arena: OpenBlock::default(), used: 0, pieces: BTreeMap::new(), bytes: 0 }
    }
}

impl Patch {
    /// Copies `data` to `pos` of the chunk, over whatever it held there. Paid from `room`; never waits.
    pub fn write(&mut self, pos: u32, data: &[u8], room: &mut Reservation) {
        let end = pos + data.len() as u32;
        if let Some((&start, &piece)) = self.pieces.range(..=pos).next_back()
            && end <= start + piece.len
        {
            let at = piece.at + (pos - start) as usize;
            return self.arena.write(&self.pool, room, at, data, true);
        }
        self.cut(pos, end);
        self.arena.write(&self.pool, room, self.used, data, true);
        let fresh = Piece { len: data.len() as u32, at: self.used };
        self.used += data.len();
        self.bytes += data.len() as u64;
        match self.pieces.range_mut(..pos).next_back() {
            Some((start, last)) if start + last.len == pos && last.at + last.len as usize == fresh.at => {
                last.len += fresh.len;
            }
            _ => drop(self.pieces.insert(pos, fresh)),
        }
    }

    /// Hides `[start, end)`.
    fn cut(&mut self, start: u32, end: u32) {
        let before = self.pieces.range(..start).next_back().map(|(&at, &piece)| (at, piece));
        let within: Vec<(u32, Piece)> = self.pieces.range(start..end).map(|(&at, &piece)| (at, piece)).collect();
        for (at, piece) in before.into_iter().chain(within) {
            let piece_end = at + piece.len;
            if piece_end <= start {
                continue;
            }
            self.pieces.remove(&at);
            self.bytes -= u64::from(piece_end.min(end) - at.max(start));
            if at < start {
                self.pieces.insert(at, Piece { len: start - at, at: piece.at });
            }
            if piece_end > end {
                let skip = (end - at) as usize;
                self.pieces.insert(end, Piece { len: piece_end - end, at: piece.at + skip });
            }
        }
    }

    /// Does it show some byte of `[start, end)`?
    pub fn overlaps(&self, start: u32, end: u32) -> bool {
        self.pieces.range(..end).next_back().is_some_and(|(at, piece)| at + piece.len > start)
    }

    /// Are at least `bytes` that end at `pos` there, without a gap?
    pub fn has_run_before(&self, pos: u32, bytes: u32) -> bool {
        let mut start = pos;
        for (at, piece) in self.pieces.range(..pos).rev() {
            if at + piece.len != start || pos - start >= bytes {
                break;
            }
            start = *at;
        }
        pos - start >= bytes
    }

    /// End of the last byte it shows.
    pub fn end(&self) -> u32 {
        self.pieces.last_key_value().map_or(0, |(at, piece)| at + piece.len)
    }

    /// Bytes it shows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pieces it consists of.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes of buffer it holds, hidden bytes included.
    pub fn held_bytes(&self) -> u64 {
        self.arena.held()
    }

    /// Copies of what it shows in `[start, end)`, by place in the chunk.
    pub fn read(&self, start: u32, end: u32) -> Vec<(u32, Bytes)> {
        let before = self.pieces.range(..start).next_back();
        let overlapping = before.into_iter().chain(self.pieces.range(start..end));
        overlapping
            .filter(|(at, piece)| *at + piece.len > start)
            .map(|(&at, piece)| {
                let (from, to) = (at.max(start), (at + piece.len).min(end));
                let in_arena = piece.at + (from - at) as usize;
                let mut copy = Vec::with_capacity((to - from) as usize);
                self.arena.read(in_arena..in_arena + (to - from) as usize, &mut copy);
                (from, copy.into())
            })
            .collect()
    }

    /// Ends the writing: what shows, by place in the chunk, in runs as long as they can be.
    pub fn freeze(self) -> Vec<(u32, Loose)> {
        let rope = self.arena.freeze(self.used);
        let room = rope.room();
        let mut runs: Vec<(u32, Loose)> = Vec::new();
        let mut end = 0;
        for (pos, piece) in self.pieces {
            let bytes = rope.range(piece.at..piece.at + piece.len as usize);
            match runs.last_mut() {
                Some((_, last)) if end == pos => last.pieces.extend(bytes),
                _ => runs.push((pos, Loose { pieces: bytes.collect(), room: room.clone() })),
            }
            end = pos + piece.len;
        }
        runs
    }
}

impl Loose {
    /// Bytes.
    pub fn len(&self) -> u32 {
        self.pieces.iter().map(|piece| piece.len() as u32).sum()
    }

    /// Other bytes in the same room.
    pub fn with(&self, pieces: Vec<Bytes>) -> Loose {
        Loose { pieces, room: self.room.clone() }
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }
}

impl From<Reservation> for Loose {
    /// No bytes yet, but room to keep some: see [`Loose::with`].
    fn from(room: Reservation) -> Loose {
        Loose { pieces: vec![], room: vec![Arc::new(room.into_permit())] }
    }
}

impl std::fmt::Debug for Patch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patch({} pieces, {} bytes)", self.pieces.len(), self.bytes)
    }
}

impl std::fmt::Debug for Loose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loose({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests;
