//! A block sealed in pieces, for local files that are read in parts
//! (docs/formats/sealed-cache-file.md).
//!
//! ```text
//! header like an object's, N = 10 | piece 0 | tag | piece 1 | tag | ...
//! ```
//!
//! Each piece of 32 KiB is sealed by itself. Its nonce is the header's ten bytes and its number, so
//! pieces cannot change places; the block's name is sealed with it, so files cannot either.

use std::sync::Arc;

use ring::aead::NONCE_LEN;

use crate::cipher::{Header, LENGTHS_BYTES, put_header};
use crate::data_key::{DataKey, TAG_BYTES};
use crate::{Cipher, OpenError};

/// Plain bytes of a piece; the last may have fewer.
pub const PIECE_BYTES: usize = 32 * 1024;
/// Of a piece's nonce, what its file has drawn; the rest is the number of the piece.
const DRAWN_BYTES: usize = NONCE_LEN - size_of::<u16>();

/// The key of one local file.
pub struct LocalFile {
    key: Arc<DataKey>,
    drawn: [u8; DRAWN_BYTES],
    name: Box<[u8]>,
}

impl Cipher {
    /// Bytes before the first piece of a file.
    pub fn file_header_bytes(&self) -> usize {
        LENGTHS_BYTES + self.ring.wrapped_bytes() + DRAWN_BYTES
    }

    /// A file for the block `name`: its header and what seals its pieces.
    pub fn new_file(&self, name: &str) -> (Vec<u8>, LocalFile) {
        let (key, wrapped) = self.files.take(|| self.ring.make());
        let drawn = self.ring.random();
        let mut header = Vec::with_capacity(self.file_header_bytes());
        put_header(&mut header, &wrapped, &drawn);
        (header, LocalFile { key, drawn, name: name.as_bytes().into() })
    }

    /// What opens the pieces of the file that starts with `header` and is said to hold `name`.
    ///
    /// # Errors
    ///
    /// It is no header, or one that another private key has made.
    pub fn open_file(&self, header: &[u8], name: &str) -> Result<LocalFile, OpenError> {
        let header = Header::parse(header)?;
        let drawn = header.nonce.try_into().map_err(|_| OpenError::Form)?;
        Ok(LocalFile { key: self.ring.unwrap(header.wrapped)?, drawn, name: name.as_bytes().into() })
    }
}

impl LocalFile {
    /// Bytes of the tag behind each piece.
    pub const TAG_BYTES: usize = TAG_BYTES;

    /// The pieces of a block, sealed, one behind the other with their tags.
    pub fn seal(&self, block: &[u8]) -> Vec<u8> {
        let pieces = block.len().div_ceil(PIECE_BYTES);
        let mut sealed = Vec::with_capacity(block.len() + pieces * TAG_BYTES);
        for (index, piece) in block.chunks(PIECE_BYTES).enumerate() {
            let start = sealed.len();
            sealed.extend_from_slice(piece);
            let tag = self.key.seal(self.nonce(index), &self.name, &mut sealed[start..]);
            sealed.extend_from_slice(tag.as_ref());
        }
        sealed
    }

    /// Opens whole sealed pieces in place, of which the first has the number `first`; the plain bytes
    /// are moved together at the start of `pieces`, and their length is returned.
    ///
    /// # Errors
    ///
    /// A piece is not the one that was sealed at this place.
    pub fn open(&self, first: usize, pieces: &mut [u8]) -> Result<usize, OpenError> {
        let mut plain = 0;
        let starts = (0..pieces.len()).step_by(PIECE_BYTES + TAG_BYTES);
        for (index, start) in starts.enumerate() {
            let end = pieces.len().min(start + PIECE_BYTES + TAG_BYTES);
            let len = self.key.open(self.nonce(first + index), &self.name, &mut pieces[start..end])?;
            pieces.copy_within(start..start + len, plain);
            plain += len;
        }
        Ok(plain)
    }

    fn nonce(&self, index: usize) -> [u8; NONCE_LEN] {
        let number = u16::try_from(index).expect("a block of 16 MiB has 512 pieces");
        let mut nonce = [0; NONCE_LEN];
        nonce[..DRAWN_BYTES].copy_from_slice(&self.drawn);
        nonce[DRAWN_BYTES..].copy_from_slice(&number.to_be_bytes());
        nonce
    }
}

impl std::fmt::Debug for LocalFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalFile")
    }
}

#[cfg(test)]
mod tests;
