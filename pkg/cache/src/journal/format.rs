//! The journal's bytes, as docs/formats/journal.md draws them. Pure.
//!
//! A segment begins with its header, twice, in two sectors; records follow, each a header with a
//! checksum of its own, then its payload, padded to 8 bytes. The checksum of a record's header also
//! covers the segment's random number, so that no bytes a user stores can be taken for a record.

use bytes::Bytes;
use cairn_types::{BlockKey, ChunkIndex, Ino, SliceId, SliceRecord, Timestamp};
use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of a segment's header, and where its copy and the first record begin.
pub(crate) const HEADER_BYTES: usize = 128;
pub(crate) const HEADER_COPY_AT: usize = 512;
pub(crate) const RECORDS_AT: u64 = 1024;
/// Bytes of a record's header.
pub(crate) const RECORD_BYTES: usize = 64;
/// Records begin at multiples of this.
pub(crate) const ALIGN: u64 = 8;

const SEGMENT_MAGIC: &[u8; 8] = b"CAIRNJS1";
const RECORD_MAGIC: &[u8; 4] = b"CJR1";
const VERSION: u32 = 1;
const VOLUME_BYTES: usize = 36;

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// UUID of the volume.
    pub(crate) volume: String,
    /// Its place in the journal; grows by one.
    pub(crate) number: u64,
    /// Random; part of every record's checksum.
    pub(crate) nonce: [u8; 16],
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        b[0..8].copy_from_slice(SEGMENT_MAGIC);
        b[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let volume = self.volume.as_bytes();
        assert!(volume.len() <= VOLUME_BYTES, "a volume's UUID has 36 characters");
        b[16..16 + volume.len()].copy_from_slice(volume);
        b[56..64].copy_from_slice(&self.number.to_le_bytes());
        b[64..80].copy_from_slice(&self.nonce);
        let crc = crc_fast::crc32_iscsi(&b[..124]);
        b[124..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// The header; `None` for any other bytes.
    pub(crate) fn decode(b: &[u8; HEADER_BYTES]) -> Option<SegmentHeader> {
        let fits =
            &b[0..8] == SEGMENT_MAGIC && u32_at(b, 8) == VERSION && u32_at(b, 124) == crc_fast::crc32_iscsi(&b[..124]);
        let volume = std::str::from_utf8(&b[16..16 + VOLUME_BYTES]).ok()?.trim_end_matches('\0');
        let nonce = b[64..80].try_into().expect("16 bytes");
        fits.then(|| SegmentHeader { volume: volume.into(), number: u64_at(b, 56), nonce })
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A block, encoded as the store wants it.
    Block,
    /// Slices that are about to be named in metadata.
    Intent,
    /// A block that need not be uploaded any more.
    Done,
    /// An intent whose outcome is known.
    Settled,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Block, Kind::Intent, Kind::Done, Kind::Settled];

    fn code(self) -> u8 {
        match self {
            Kind::Block => 1,
            Kind::Intent => 2,
            Kind::Done => 3,
            Kind::Settled => 4,
        }
    }
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Slice id of a block, number of an intent.
    pub(crate) id: u64,
    /// Which block of the slice.
    pub(crate) index: u32,
    /// Plain bytes of the block.
    pub(crate) len: u32,
    /// Bytes of the payload.
    pub(crate) stored_len: u32,
    pub(crate) payload_crc: u32,
    /// When it was appended, microseconds since 1970.
    pub(crate) at_micros: u64,
    /// Grows by one from record to record, over all segments.
    pub(crate) number: u64,
}

impl Header {
    pub(crate) fn of_block(kind: Kind, key: BlockKey) -> Header {
        Header { index: key.index, len: key.len, ..Header::of(kind, key.id.0) }
    }

    pub(crate) fn of(kind: Kind, id: u64) -> Header {
        Header { kind, id, index: 0, len: 0, stored_len: 0, payload_crc: 0, at_micros: 0, number: 0 }
    }

    /// The block it is about.
    pub(crate) fn key(&self) -> BlockKey {
        BlockKey { id: SliceId(self.id), index: self.index, len: self.len }
    }

    /// Bytes of header, payload and padding.
    pub(crate) fn total(&self) -> u64 {
        total(u64::from(self.stored_len))
    }

    pub(crate) fn encode(&self, nonce: &[u8; 16]) -> [u8; RECORD_BYTES] {
        let mut b = [0; RECORD_BYTES];
        b[0..4].copy_from_slice(RECORD_MAGIC);
        b[4] = self.kind.code();
        b[8..16].copy_from_slice(&self.id.to_le_bytes());
        b[16..20].copy_from_slice(&self.index.to_le_bytes());
        b[20..24].copy_from_slice(&self.len.to_le_bytes());
        b[24..28].copy_from_slice(&self.stored_len.to_le_bytes());
        b[28..32].copy_from_slice(&self.payload_crc.to_le_bytes());
        b[32..40].copy_from_slice(&self.at_micros.to_le_bytes());
        b[40..48].copy_from_slice(&self.number.to_le_bytes());
        let crc = header_crc(&b, nonce);
        b[60..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// The header; `None` for any other bytes.
    pub(crate) fn decode(b: &[u8; RECORD_BYTES], nonce: &[u8; 16]) -> Option<Header> {
        if &b[0..4] != RECORD_MAGIC || u32_at(b, 60) != header_crc(b, nonce) {
            return None;
        }
        Some(Header {
            kind: Kind::ALL.into_iter().find(|kind| kind.code() == b[4])?,
            id: u64_at(b, 8),
            index: u32_at(b, 16),
            len: u32_at(b, 20),
            stored_len: u32_at(b, 24),
            payload_crc: u32_at(b, 28),
            at_micros: u64_at(b, 32),
            number: u64_at(b, 40),
        })
    }
}

/// Bytes that a record with a payload of `stored_len` takes.
pub(crate) fn total(stored_len: u64) -> u64 {
    (RECORD_BYTES as u64 + stored_len).next_multiple_of(ALIGN)
}

fn header_crc(b: &[u8; RECORD_BYTES], nonce: &[u8; 16]) -> u32 {
    crc(&[nonce, &b[..60]])
}

/// The checksum of the pieces joined.
pub(crate) fn crc(pieces: &[impl AsRef<[u8]>]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    pieces.iter().for_each(|piece| digest.update(piece.as_ref()));
    digest.finalize() as u32
}

/// What is about to be named in metadata, and what the file was like before: so that it can be
/// done again after a crash, unless somebody else has changed the file meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The file.
    pub ino: Ino,
    /// Modification time and length that metadata had for it.
    pub base: (Timestamp, u64),
    /// The modification time to set instead of the slices' own.
    pub set_mtime: Option<Timestamp>,
    /// The records, in the order in which they are committed.
    pub slices: Vec<IntentSlice>,
}

/// One record of an [`Intent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntentSlice {
    /// Chunk of the file.
    pub index: ChunkIndex,
    /// What its list is to show.
    pub record: SliceRecord,
    /// When its last byte was written.
    pub mtime: Timestamp,
}

const INTENT_BYTES: usize = 48;
const INTENT_SLICE_BYTES: usize = 40;

impl Intent {
    /// The slices it names, each once.
    pub fn ids(&self) -> Vec<SliceId> {
        let mut ids: Vec<_> = self.slices.iter().map(|s| s.record.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut b = Vec::with_capacity(INTENT_BYTES + self.slices.len() * INTENT_SLICE_BYTES);
        b.extend(self.ino.0.to_le_bytes());
        put_time(&mut b, self.base.0);
        b.extend(self.base.1.to_le_bytes());
        put_time(&mut b, self.set_mtime.unwrap_or_default());
        b.extend(u32::from(self.set_mtime.is_some()).to_le_bytes());
        b.extend((self.slices.len() as u32).to_le_bytes());
        for slice in &self.slices {
            b.extend(slice.index.0.to_le_bytes());
            b.extend(slice.record.encode());
            put_time(&mut b, slice.mtime);
        }
        b.into()
    }

    /// The intent; `None` for any other bytes.
    pub(crate) fn decode(b: &[u8]) -> Option<Intent> {
        let (head, rest) = b.split_at_checked(INTENT_BYTES)?;
        let count = u32_at(head, 44) as usize;
        if rest.len() != count.checked_mul(INTENT_SLICE_BYTES)? {
            return None;
        }
        let slices = rest.chunks_exact(INTENT_SLICE_BYTES).map(|s| IntentSlice {
            index: ChunkIndex(u32_at(s, 0)),
            record: SliceRecord::decode(s[4..28].try_into().expect("24 bytes")),
            mtime: time_at(s, 28),
        });
        Some(Intent {
            ino: Ino(u64_at(head, 0)),
            base: (time_at(head, 8), u64_at(head, 20)),
            set_mtime: (u32_at(head, 40) == 1).then(|| time_at(head, 28)),
            slices: slices.collect(),
        })
    }
}

fn put_time(b: &mut Vec<u8>, time: Timestamp) {
    b.extend(time.secs.to_le_bytes());
    b.extend(time.nanos.to_le_bytes());
}

fn time_at(b: &[u8], at: usize) -> Timestamp {
    Timestamp { secs: u64_at(b, at) as i64, nanos: u32_at(b, at + 8) }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: [u8; 16] = *b"sixteen bytes ok";

    fn intent() -> Intent {
        let time = |secs| Timestamp { secs, nanos: 7 };
        let record = SliceRecord { pos: 5, id: SliceId(9), size: 100, off: 1, len: 99 };
        Intent {
            ino: Ino(77),
            base: (time(-3), 12_345),
            set_mtime: Some(time(8)),
            slices: vec![IntentSlice { index: ChunkIndex(2), record, mtime: time(4) }; 2],
        }
    }

    #[test]
    fn headers_survive_the_round_trip_and_no_flipped_bit_passes() {
        let segment = SegmentHeader { volume: "0e9b-x".into(), number: 3, nonce: NONCE };
        assert_eq!(SegmentHeader::decode(&segment.encode()), Some(segment.clone()));
        let header = Header { stored_len: 77, payload_crc: 5, at_micros: 6, number: 8, ..Header::of(Kind::Intent, 4) };
        assert_eq!(Header::decode(&header.encode(&NONCE), &NONCE), Some(header));
        assert_eq!(Header::decode(&header.encode(&NONCE), &[0; 16]), None, "another segment's");
        for bit in 0..RECORD_BYTES * 8 {
            let mut bytes = header.encode(&NONCE);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes, &NONCE), None, "bit {bit}");
        }
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = segment.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn intents_survive_the_round_trip() {
        for intent in [intent(), Intent { set_mtime: None, slices: vec![], ..intent() }] {
            let bytes = intent.encode();
            assert_eq!(Intent::decode(&bytes), Some(intent));
            assert_eq!(Intent::decode(&bytes[..bytes.len() - 1]), None);
        }
    }

    /// Bytes on disk never change their meaning: this is what version 1 wrote.
    #[test]
    fn a_done_mark_is_the_documented_bytes() {
        let key = BlockKey { id: SliceId(0x1122), index: 3, len: 4096 };
        let header = Header { at_micros: 0x0102, number: 5, ..Header::of_block(Kind::Done, key) };
        let hex: String = header.encode(&NONCE)[..60].iter().map(|b| format!("{b:02x}")).collect();
        let documented = [
            "434a523103000000",
            "2211000000000000",
            "0300000000100000",
            "0000000000000000",
            "0201000000000000",
            "0500000000000000",
            "000000000000000000000000",
        ];
        assert_eq!(hex, documented.concat());
    }

    proptest! {
        #[test]
        fn no_garbage_panics_a_decoder(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(intent) = Intent::decode(&junk) {
                prop_assert_eq!(&intent.encode()[..40], &junk[..40]);
            }
        }
    }
}
