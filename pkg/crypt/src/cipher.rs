//! Objects sealed and opened whole (volume format 3.3).
//!
//! ```text
//! K u16 BE | N u8 | wrapped data key (K bytes) | nonce (N bytes) | ciphertext | tag (16 bytes)
//! ```

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ring::aead::NONCE_LEN;

use crate::data_key::{Current, KeyRing, TAG_BYTES};
use crate::{Algorithm, KeyError, OpenError, PrivateKey};

/// Fills bytes with chance good enough for keys.
pub type Chance = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Before the wrapped key: its length and the nonce's.
pub(crate) const LENGTHS_BYTES: usize = 3;

/// Seals and opens what belongs to one volume. All calls are work for the CPU and may take milliseconds.
pub struct Cipher {
    pub(crate) ring: KeyRing,
    objects: Current,
    pub(crate) files: Current,
}

impl Cipher {
    /// `chance` is where data keys and nonces come from.
    ///
    /// # Errors
    ///
    /// The key is too small to wrap data keys with.
    pub fn new(private: PrivateKey, algorithm: Algorithm, chance: Chance) -> Result<Cipher, KeyError> {
        if private.is_too_small() {
            return Err(KeyError::Unsound { reason: "it is too small: 2048 bits are usual".into() });
        }
        let ring = KeyRing::new(private, algorithm, chance);
        Ok(Cipher { ring, objects: Current::default(), files: Current::default() })
    }

    /// What it seals with.
    pub fn algorithm(&self) -> Algorithm {
        self.ring.algorithm()
    }

    /// Bytes by which a sealed object is longer than its content.
    pub fn overhead_bytes(&self) -> usize {
        LENGTHS_BYTES + self.ring.wrapped_bytes() + NONCE_LEN + TAG_BYTES
    }

    /// The object whose content is `pieces`, one behind the other. One copy, sealed where it lies.
    pub fn seal(&self, pieces: &[impl AsRef<[u8]>]) -> Vec<u8> {
        let (key, wrapped) = self.objects.take(|| self.ring.make());
        let nonce: [u8; NONCE_LEN] = self.ring.random();
        let content: usize = pieces.iter().map(|piece| piece.as_ref().len()).sum();
        let mut object = Vec::with_capacity(content + self.overhead_bytes());
        put_header(&mut object, &wrapped, &nonce);
        let start = object.len();
        pieces.iter().for_each(|piece| object.extend_from_slice(piece.as_ref()));
        let tag = key.seal(nonce, &[], &mut object[start..]);
        object.extend_from_slice(tag.as_ref());
        object
    }

    /// The content of an object, opened where it lies if nobody else holds the bytes.
    ///
    /// # Errors
    ///
    /// Any change to any byte of an object shows here.
    pub fn open(&self, object: Bytes) -> Result<Bytes, OpenError> {
        let header = Header::parse(&object)?;
        let nonce = header.nonce.try_into().map_err(|_| OpenError::Form)?;
        let (key, start) = (self.ring.unwrap(header.wrapped)?, header.bytes);
        let mut object = object.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let content = key.open(nonce, &[], &mut object[start..])?;
        Ok(object.freeze().slice(start..start + content))
    }
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cipher({})", self.algorithm())
    }
}

pub(crate) fn put_header(out: &mut Vec<u8>, wrapped: &[u8], nonce: &[u8]) {
    let wrapped_bytes = u16::try_from(wrapped.len()).expect("no RSA key has half a million bits");
    out.extend_from_slice(&wrapped_bytes.to_be_bytes());
    out.push(nonce.len() as u8);
    out.extend_from_slice(wrapped);
    out.extend_from_slice(nonce);
}

/// What stands before the ciphertext.
pub(crate) struct Header<'a> {
    pub(crate) wrapped: &'a [u8],
    pub(crate) nonce: &'a [u8],
    /// Length of all of it.
    pub(crate) bytes: usize,
}

impl<'a> Header<'a> {
    pub(crate) fn parse(sealed: &'a [u8]) -> Result<Header<'a>, OpenError> {
        let (lengths, rest) = sealed.split_first_chunk::<LENGTHS_BYTES>().ok_or(OpenError::Form)?;
        let (wrapped, nonce) = (usize::from(u16::from_be_bytes([lengths[0], lengths[1]])), usize::from(lengths[2]));
        let (wrapped, rest) = rest.split_at_checked(wrapped).ok_or(OpenError::Form)?;
        let (nonce, _) = rest.split_at_checked(nonce).ok_or(OpenError::Form)?;
        Ok(Header { wrapped, nonce, bytes: LENGTHS_BYTES + wrapped.len() + nonce.len() })
    }
}

#[cfg(test)]
pub(crate) mod tests;
