//! The nouns of CairnFS and their arithmetic: inodes, attributes, chunks, slices, blocks.
//!
//! Every other room speaks in these words (`docs/GLOSSARY.md` defines them). Nothing here does
//! I/O, asks a clock, waits, or knows an errno. Stored encodings that several rooms share live
//! here too, each with the section of `docs/formats/` that draws it.
//!
//! The one rule: only [`layout`] divides by the chunk size or the block size.

mod acl;
mod attr;
mod block;
mod calendar;
mod format;
mod id;
pub mod layout;
mod slice;
mod time;

pub use acl::{AclEntry, AclRule, AclXattrError};
pub use attr::{Attr, FileType, Flags};
pub use block::{BlockKey, KeyLayout};
pub use calendar::Date;
pub use format::{ClientVersion, Compression, Format, Tier, VersionError, is_valid_volume_name};
pub use id::{ChunkIndex, Ino, SessionId, SliceId};
pub use layout::{CHUNK_BYTES, ChunkSpan, MAX_FILE_BYTES, block_spans, chunk_spans};
pub use slice::{CorruptSlices, SLICE_RECORD_BYTES, SliceRecord, SliceRef};
pub use time::Timestamp;

/// Space that `length` bytes of a file occupy in accounting: rounded up to 4 KiB, at least 4 KiB.
///
/// This is the unit of `usedSpace`, directory statistics and quotas (volume format 6.8).
/// A damaged record may hold any length, so this one is the largest that there is.
pub fn space_of(length: u64) -> u64 {
    length.max(1).div_ceil(4096).saturating_mul(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_counted_in_pages_whatever_the_length() {
        assert_eq!([0, 1, 4096, 4097].map(space_of), [4096, 4096, 4096, 8192]);
        assert_eq!([u64::MAX, u64::MAX - 4095].map(space_of), [u64::MAX, u64::MAX - 4095]);
    }
}
