//! CRC-32C of stored bytes, as the volume format keeps it beside objects (3.4).

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use crate::{Error, Payload, Result};

/// Name of the user metadata that carries the checksum on S3, OSS and COS.
pub(crate) const METADATA_NAME: &str = "Crc32c";

/// CRC-32C of one piece.
pub(crate) fn of_bytes(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32C of a body in pieces.
pub(crate) fn of_payload(body: &Payload) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for piece in &body.0 {
        digest.update(piece);
    }
    digest.finalize() as u32
}

/// Hands `bytes` on if they match the decimal checksum that was stored with them.
pub(crate) fn verify(key: &str, bytes: Bytes, stored: &str) -> Result<Bytes> {
    compare(key, of_bytes(&bytes), stored).map(|()| bytes)
}

/// CRC-32C of a body that comes in pieces.
pub(crate) struct Running(Digest);

impl Default for Running {
    fn default() -> Running {
        Running(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl Running {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Does what came match the decimal checksum that was stored with it?
    pub(crate) fn verify(&self, key: &str, stored: &str) -> Result<()> {
        compare(key, self.0.finalize() as u32, stored)
    }
}

fn compare(key: &str, actual: u32, stored: &str) -> Result<()> {
    match stored.trim().parse::<u32>() {
        Ok(expected) if expected == actual => Ok(()),
        _ => Err(Error::Corrupt {
            key: key.to_owned(),
            reason: format!("its CRC-32C is {actual}, stored with it is {stored:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_one_the_format_names() {
        assert_eq!(of_bytes(b"hello"), 2_591_144_780);
        let pieces = Payload(vec![Bytes::from_static(b"he"), Bytes::new(), Bytes::from_static(b"llo")]);
        assert_eq!(of_payload(&pieces), 2_591_144_780);
    }

    #[test]
    fn a_checksum_that_is_no_number_counts_as_damage() {
        assert!(matches!(verify("k", Bytes::from_static(b"hello"), "x"), Err(Error::Corrupt { .. })));
        assert!(verify("k", Bytes::from_static(b"hello"), "2591144780").is_ok());
    }
}
