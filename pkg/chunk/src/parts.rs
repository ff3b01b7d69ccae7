//! Parts of blocks that random reads fetched, kept in memory for their neighbours.
//!
//! Disk holds whole blocks only (volume format 9.2), so parts live here alone, bounded by bytes.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use cairn_types::BlockKey;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::heat::PART_BYTES;

/// Memory for parts of all blocks.
const PARTS_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Copy)]
struct ByBytes;

impl Weighter<(BlockKey, u32), Bytes> for ByBytes {
    fn weight(&self, _: &(BlockKey, u32), part: &Bytes) -> u64 {
        part.len() as u64 + 128
    }
}

/// Whole parts by block and number.
pub(crate) struct Parts {
    parts: Cache<(BlockKey, u32), Bytes, ByBytes>,
}

impl Parts {
    pub(crate) fn new() -> Parts {
        let items = PARTS_BYTES_MAX / u64::from(PART_BYTES);
        Parts { parts: Cache::with_weighter(items as usize, PARTS_BYTES_MAX, ByBytes) }
    }

    /// The bytes if all their parts are here.
    pub(crate) fn get(&self, key: BlockKey, range: &Range<u32>) -> Option<Bytes> {
        if range.is_empty() {
            return None;
        }
        let numbers = range.start / PART_BYTES..range.end.div_ceil(PART_BYTES);
        let cut = |number: u32| {
            let at = number * PART_BYTES;
            let part = self.parts.get(&(key, number))?;
            let (start, end) = (range.start.max(at) - at, (range.end - at).min(part.len() as u32));
            Some(part.slice(start as usize..end as usize))
        };
        if numbers.len() == 1 {
            return cut(numbers.start);
        }
        let pieces: Option<Vec<_>> = numbers.map(cut).collect();
        let mut whole = BytesMut::with_capacity(range.len());
        pieces?.iter().for_each(|piece| whole.extend_from_slice(piece));
        Some(whole.freeze())
    }

    /// Keeps `bytes` that begin at `start`, where a part begins.
    pub(crate) fn put(&self, key: BlockKey, start: u32, bytes: &Bytes) {
        for (number, part) in (start / PART_BYTES..).zip(bytes.chunks(PART_BYTES as usize)) {
            // A copy, or one part that stays would hold on to all that came with it.
            let part = if part.len() == bytes.len() { bytes.clone() } else { Bytes::copy_from_slice(part) };
            self.parts.insert((key, number), part);
        }
    }

    /// Forgets the parts of a block.
    pub(crate) fn remove(&self, key: BlockKey) {
        (0..key.len.div_ceil(PART_BYTES)).for_each(|number| {
            self.parts.remove(&(key, number));
        });
    }

    pub(crate) fn clear(&self) {
        self.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::SliceId;

    use super::*;

    #[test]
    fn a_range_is_found_if_all_its_parts_are() {
        let (parts, key) = (Parts::new(), BlockKey { id: SliceId(1), index: 0, len: 200_000 });
        let content: Vec<u8> = (0..200_000u32).map(|i| (i / 7) as u8).collect();
        parts.put(key, 65536, &Bytes::copy_from_slice(&content[65536..200_000]));
        for range in [70_000..70_001, 65536..200_000, 131_000..131_100, 199_999..200_000] {
            let wanted = &content[range.start as usize..range.end as usize];
            assert_eq!(parts.get(key, &range).as_deref(), Some(wanted), "{range:?}");
        }
        assert_eq!(parts.get(key, &(65_000..70_000)), None);
        parts.remove(key);
        assert_eq!(parts.get(key, &(70_000..70_001)), None);
    }
}
