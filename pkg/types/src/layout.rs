//! Where a byte lies: file to chunk, slice to block. The only place that divides by either size.

use crate::{ChunkIndex, SliceRef};

/// A chunk is this many bytes of a file.
pub const CHUNK_BYTES: u64 = 64 << 20;

/// Longest file, in bytes: 2^31 chunks.
pub const MAX_FILE_BYTES: u64 = CHUNK_BYTES << 31;

/// A piece of a byte range that lies within one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSpan {
    /// The chunk.
    pub index: ChunkIndex,
    /// Start within the chunk, in bytes.
    pub pos: u32,
    /// Bytes.
    pub len: u32,
    /// How far into the whole range this piece starts, in bytes.
    pub at: u64,
}

/// Cuts `[offset, offset + len)` of a file at chunk borders. Each byte is covered once, in order.
pub fn chunk_spans(offset: u64, len: u64) -> impl Iterator<Item = ChunkSpan> {
    let end = offset.saturating_add(len);
    let mut here = offset;
    std::iter::from_fn(move || {
        if here >= end {
            return None;
        }
        let pos = here % CHUNK_BYTES;
        let take = (CHUNK_BYTES - pos).min(end - here);
        let span = ChunkSpan {
            index: ChunkIndex((here / CHUNK_BYTES) as u32),
            pos: pos as u32,
            len: take as u32,
            at: here - offset,
        };
        here += take;
        Some(span)
    })
}

/// The chunk that holds byte `offset` of a file, and the byte's place in it.
pub fn chunk_at(offset: u64) -> (ChunkIndex, u32) {
    (ChunkIndex((offset / CHUNK_BYTES) as u32), (offset % CHUNK_BYTES) as u32)
}

/// Offset in the file at which chunk `index` starts.
pub fn chunk_start(index: ChunkIndex) -> u64 {
    u64::from(index.0) * CHUNK_BYTES
}

/// Number of chunks a file of `length` bytes reaches into.
pub fn chunk_count(length: u64) -> u64 {
    length.div_ceil(CHUNK_BYTES)
}

/// A piece of a slice's byte range that lies within one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSpan {
    /// Which block of the slice, from 0.
    pub index: u32,
    /// Plain bytes of that whole block.
    pub block_len: u32,
    /// Start within the block, in bytes.
    pub pos: u32,
    /// Bytes.
    pub len: u32,
    /// How far into the whole range this piece starts, in bytes.
    pub at: u32,
}

/// Cuts `[off, off + len)` of `slice` at block borders. The range must lie within the slice.
pub fn block_spans(slice: SliceRef, off: u32, len: u32, block_bytes: u32) -> impl Iterator<Item = BlockSpan> {
    debug_assert!(u64::from(off) + u64::from(len) <= u64::from(slice.size));
    let end = off + len;
    let mut here = off;
    std::iter::from_fn(move || {
        if here >= end {
            return None;
        }
        let (index, pos) = (here / block_bytes, here % block_bytes);
        let block_len = block_len(slice, index, block_bytes);
        let take = (block_len - pos).min(end - here);
        let span = BlockSpan { index, block_len, pos, len: take, at: here - off };
        here += take;
        Some(span)
    })
}

/// Number of blocks of a slice of `size` bytes.
pub fn block_count(size: u32, block_bytes: u32) -> u32 {
    size.div_ceil(block_bytes)
}

/// Plain bytes of block `index` of `slice`; the last block may be shorter than `block_bytes`.
pub fn block_len(slice: SliceRef, index: u32, block_bytes: u32) -> u32 {
    block_bytes.min(slice.size - index * block_bytes)
}

/// Index of the block that holds byte `off` of a slice.
pub fn block_at(off: u32, block_bytes: u32) -> u32 {
    off / block_bytes
}

/// Does a block named (`index`, `len`) fit a slice of `size` bytes? (Volume format 11.5.)
pub fn block_fits(size: u32, index: u32, len: u32, block_bytes: u32) -> bool {
    let (size, index, len, block) = (u64::from(size), u64::from(index), u64::from(len), u64::from(block_bytes));
    if len == block { (index + 1) * block <= size } else { index * block + len == size }
}
