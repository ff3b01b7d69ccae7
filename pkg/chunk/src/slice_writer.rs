//! skeleton
#![expect(unused_variables, clippy::unimplemented, clippy::unused_async, reason = "skeleton")]
use crate::*;
use bytes::Bytes;
use cairn_types::{SliceId, SliceRef};
use std::time::Instant;

/// A slice whose every block is in the store. Only [`SliceWriter::finish`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSlice {
    slice: SliceRef,
}
impl StoredSlice {
    /// Its id and size in bytes.
    pub fn slice(&self) -> SliceRef {
        self.slice
    }
}
/// One slice being written. All calls take `&self`; share it with `Arc`.
pub struct SliceWriter {}
impl SliceWriter {
    /// The slice's id.
    pub fn id(&self) -> SliceId {
        unimplemented!()
    }
    /// Copies `data` to `off`. `false`, and nothing is written, unless `floor() <= off <= len()`,
    /// the end is within 64 MiB and neither `finish` nor `discard` has been called.
    /// Never waits; full blocks leave for upload by themselves.
    #[must_use = "false means that nothing was written"]
    pub fn write_at(&self, off: u32, data: &[u8], room: &mut Reservation) -> bool {
        unimplemented!()
    }
    /// Bytes written so far.
    pub fn len(&self) -> u32 {
        unimplemented!()
    }
    /// Nothing written yet.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    /// Start of the part that may still be overwritten: what lies below has left for upload.
    pub fn floor(&self) -> u32 {
        unimplemented!()
    }
    /// Bytes of buffer it holds at the moment.
    pub fn buffered_bytes(&self) -> u64 {
        unimplemented!()
    }
    /// The range if it is all in memory (pages or cache); never waits.
    pub fn read_now(&self, off: u32, len: u32) -> Option<Bytes> {
        unimplemented!()
    }
    /// The range, from pages, or cache and store for what is uploaded.
    pub async fn read_at(&self, off: u32, len: u32) -> Result<Bytes> {
        unimplemented!()
    }
    /// Seals the slice, stores what is left, waits for all blocks. Again after an error: only
    /// missing blocks are sent.
    pub async fn finish(&self) -> Result<StoredSlice> {
        unimplemented!()
    }
    /// When its first block was stored.
    pub fn first_stored(&self) -> Option<Instant> {
        unimplemented!()
    }
    /// Gives the slice up: drops what is buffered, deletes what was stored.
    pub async fn discard(&self) -> Result<()> {
        unimplemented!()
    }
}
