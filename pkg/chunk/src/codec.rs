//! A block of plain bytes to the object that holds it, and back: compressed, then sealed (volume
//! format 2.4 and 3). CPU-heavy, no I/O, sizes known beforehand.
//!
//! The rule kept: what does not decode into exactly the block's length is an error and never an answer.

mod compress;

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use cairn_crypt::Cipher;
use cairn_types::Compression;

use crate::block_buffer::join;

/// How the blocks of a volume become objects. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Codec {
    compression: Compression,
    cipher: Option<Arc<Cipher>>,
}

impl Codec {
    /// What the volume's setting says; `cipher` if it is encrypted.
    pub fn new(compression: Compression, cipher: Option<Arc<Cipher>>) -> Codec {
        Codec { compression, cipher }
    }

    /// Blocks are stored as they are: a part of an object is that part of its block.
    pub fn is_plain(&self) -> bool {
        self.compression == Compression::None && self.cipher.is_none()
    }

    /// Nobody may read stored blocks without the volume's key, so nothing local may hold them in clear.
    pub fn is_encrypted(&self) -> bool {
        self.cipher.is_some()
    }

    /// The object of the block whose bytes are `plain`, one piece behind the other.
    pub fn encode(&self, plain: &[Bytes]) -> Bytes {
        match (self.compression, &self.cipher) {
            (Compression::None, None) => join(plain),
            (Compression::None, Some(cipher)) => cipher.seal(plain).into(),
            (codec, None) => compress::encode(codec, &join(plain)),
            (codec, Some(cipher)) => cipher.seal(&[compress::encode(codec, &join(plain))]).into(),
        }
    }

    /// The block of exactly `len` bytes in an object, or why it holds none. Opened where it lies if
    /// nobody else holds the bytes.
    ///
    /// # Errors
    ///
    /// A half sentence for whoever names the object.
    pub fn decode(&self, object: Bytes, len: usize) -> Result<Bytes, String> {
        let compressed = match &self.cipher {
            None => object,
            Some(cipher) => cipher.open(object).map_err(|e| e.to_string())?,
        };
        compress::decode(self.compression, compressed, len)
    }

    /// Lengths that the object of a block of `len` bytes may have.
    pub fn object_bytes(&self, len: u32) -> RangeInclusive<u64> {
        let around = self.cipher.as_ref().map_or(0, |cipher| cipher.overhead_bytes()) as u64;
        let most = compress::bound(self.compression, len as usize) as u64;
        let least = if self.compression == Compression::None { most } else { 1 };
        least + around..=most + around
    }

    /// Bytes of memory that [`Codec::encode`] takes beyond the block itself.
    pub(crate) fn scratch_bytes(&self, len: u32) -> usize {
        let object = *self.object_bytes(len).end() as usize;
        match (self.compression, &self.cipher) {
            (Compression::None, _) => object,
            // A joined copy, what it compresses to, and that sealed.
            (_, Some(_)) => len as usize + 2 * object,
            (_, None) => len as usize + object,
        }
    }
}

#[cfg(test)]
mod tests;
