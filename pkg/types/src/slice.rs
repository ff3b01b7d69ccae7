//! Slices and their 24-byte records (volume format 4.2).

use thiserror::Error;

use crate::SliceId;

/// Bytes of one encoded [`SliceRecord`].
pub const SLICE_RECORD_BYTES: usize = 24;

/// A whole slice: what its objects are named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceRef {
    /// Never 0.
    pub id: SliceId,
    /// Total bytes of the slice, 1 byte to 64 MiB.
    pub size: u32,
}

/// One entry of a chunk's slice list: `len` bytes of a slice, shown at `pos` of the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SliceRecord {
    /// Where it starts in the chunk, in bytes.
    pub pos: u32,
    /// The slice, or 0 for a hole.
    pub id: SliceId,
    /// Total size of the slice in bytes; 0 for a hole.
    pub size: u32,
    /// Where in the slice the shown bytes start.
    pub off: u32,
    /// How many bytes are shown.
    pub len: u32,
}

/// A stored slice list that is not a whole number of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("slice list of {bytes} bytes is not a multiple of 24")]
pub struct CorruptSlices {
    /// Length found.
    pub bytes: usize,
}

impl SliceRecord {
    /// A record that hides what is below it with zeros.
    pub fn hole(pos: u32, len: u32) -> Self {
        SliceRecord { pos, len, ..Default::default() }
    }

    /// A record that shows the whole of a fresh slice.
    pub fn whole(pos: u32, slice: SliceRef) -> Self {
        SliceRecord { pos, id: slice.id, size: slice.size, off: 0, len: slice.size }
    }

    /// Does it show zeros instead of a slice?
    pub fn is_hole(&self) -> bool {
        self.id.0 == 0
    }

    /// End of the shown range in the chunk.
    pub fn end(&self) -> u32 {
        self.pos + self.len
    }

    /// The slice it points into; `None` for a hole.
    pub fn slice(&self) -> Option<SliceRef> {
        (!self.is_hole()).then_some(SliceRef { id: self.id, size: self.size })
    }

    /// The stored 24 bytes.
    pub fn encode(&self) -> [u8; SLICE_RECORD_BYTES] {
        let mut b = [0; SLICE_RECORD_BYTES];
        b[0..4].copy_from_slice(&self.pos.to_be_bytes());
        b[4..12].copy_from_slice(&self.id.0.to_be_bytes());
        b[12..16].copy_from_slice(&self.size.to_be_bytes());
        b[16..20].copy_from_slice(&self.off.to_be_bytes());
        b[20..24].copy_from_slice(&self.len.to_be_bytes());
        b
    }

    /// Reads 24 stored bytes.
    pub fn decode(b: &[u8; SLICE_RECORD_BYTES]) -> Self {
        let u32_at = |i: usize| u32::from_be_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let id = (u64::from(u32_at(4)) << 32) | u64::from(u32_at(8));
        SliceRecord { pos: u32_at(0), id: SliceId(id), size: u32_at(12), off: u32_at(16), len: u32_at(20) }
    }

    /// Reads a stored list, oldest record first.
    pub fn decode_list(bytes: &[u8]) -> Result<Vec<SliceRecord>, CorruptSlices> {
        let (records, rest) = bytes.as_chunks::<SLICE_RECORD_BYTES>();
        if !rest.is_empty() {
            return Err(CorruptSlices { bytes: bytes.len() });
        }
        Ok(records.iter().map(SliceRecord::decode).collect())
    }

    /// The stored form of a list.
    pub fn encode_list(records: &[SliceRecord]) -> Vec<u8> {
        records.iter().flat_map(SliceRecord::encode).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_equals_the_documented_example() {
        let r = SliceRecord { pos: 100, id: SliceId(3), size: 2, off: 0, len: 2 };
        let hex: String = r.encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "000000640000000000000003000000020000000000000002");
        assert_eq!(SliceRecord::decode_list(&r.encode()), Ok(vec![r]));
    }

    #[test]
    fn a_torn_list_is_corrupt() {
        assert_eq!(SliceRecord::decode_list(&[0; 26]), Err(CorruptSlices { bytes: 26 }));
    }
}
