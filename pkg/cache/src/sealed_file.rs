//! One cached file of an encrypted volume: a header, then pieces sealed each by itself
//! (docs/formats/sealed-cache-file.md).
//!
//! It is read in whole pieces, which prove themselves: there are no checksums, and no level at which
//! nothing is verified.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use cairn_crypt::{Cipher, LocalFile, PIECE_BYTES};

use crate::block_file::Fault;

/// A piece as it lies in the file.
const SEALED_PIECE_BYTES: usize = PIECE_BYTES + LocalFile::TAG_BYTES;

/// Writes the whole file of the block `name`.
pub(crate) fn write(file: &mut File, data: &[u8], cipher: &Cipher, name: &str) -> io::Result<()> {
    let (header, sealing) = cipher.new_file(name);
    file.write_all(&header)?;
    file.write_all(&sealing.seal(data))
}

/// What it takes to read an open file.
#[derive(Debug)]
pub(crate) struct SealedFile {
    key: LocalFile,
    header_bytes: usize,
    len: usize,
}

impl SealedFile {
    /// Reads the header of a file that should hold the block `name` of `len` bytes.
    pub(crate) fn open(file: &File, len: u32, cipher: &Cipher, name: &str) -> Result<SealedFile, Fault> {
        let (header_bytes, len) = (cipher.file_header_bytes(), len as usize);
        let tags = len.div_ceil(PIECE_BYTES) * LocalFile::TAG_BYTES;
        if file.metadata()?.len() != (header_bytes + len + tags) as u64 {
            return Err(Fault::Damaged);
        }
        let mut header = vec![0; header_bytes];
        file.read_exact_at(&mut header, 0)?;
        let key = cipher.open_file(&header, name).map_err(|_| Fault::Damaged)?;
        Ok(SealedFile { key, header_bytes, len })
    }

    /// The bytes of `range`, which always prove themselves.
    pub(crate) fn read(&self, file: &File, range: Range<usize>) -> Result<Bytes, Fault> {
        let first = range.start / PIECE_BYTES;
        let plain_end = range.end.next_multiple_of(PIECE_BYTES).min(self.len);
        let pieces = plain_end.div_ceil(PIECE_BYTES) - first;
        let plain_start = first * PIECE_BYTES;
        let mut buf = vec![0; plain_end - plain_start + pieces * LocalFile::TAG_BYTES];
        file.read_exact_at(&mut buf, (self.header_bytes + first * SEALED_PIECE_BYTES) as u64)?;
        let plain = self.key.open(first, &mut buf).map_err(|_| Fault::Damaged)?;
        debug_assert_eq!(plain, plain_end - plain_start, "whole pieces were read");
        Ok(Bytes::from(buf).slice(range.start - plain_start..range.end - plain_start))
    }
}
