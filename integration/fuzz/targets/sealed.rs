//! Objects and keys: what stands in a bucket, and what unlocks it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cairn_chunk::Codec;
use cairn_crypt::{Algorithm, Cipher, Passphrase, PrivateKey};
use cairn_types::Compression;

/// The key all sealed seeds are made with.
const PEM: &str = include_str!("../../../pkg/crypt/tests/keys/pkcs1.pem");
/// Longest block tried.
const LEN_MAX: usize = 100_000;

/// Always the same chance, so that an input fails the same way again.
pub(crate) fn cipher() -> &'static Arc<Cipher> {
    static CIPHER: OnceLock<Arc<Cipher>> = OnceLock::new();
    CIPHER.get_or_init(|| {
        let key = PrivateKey::from_pem(PEM, &Passphrase::default()).expect("a sound key");
        let chance = Arc::new(|bytes: &mut [u8]| (1usize..).zip(bytes).for_each(|(i, b)| *b = i as u8));
        Arc::new(Cipher::new(key, Algorithm::Aes256Gcm, chance).expect("large enough"))
    })
}

/// Codec, length asked for, object.
pub(crate) fn block(bytes: &[u8]) {
    let Some(([how, high, low], object)) = bytes.split_first_chunk::<3>() else { return };
    let len = (usize::from(*high) << 8 | usize::from(*low)).clamp(1, LEN_MAX);
    let compression = [Compression::None, Compression::Lz4, Compression::Zstd][usize::from(*how) % 3];
    let codec = Codec::new(compression, None);
    let object = Bytes::copy_from_slice(object);
    if let Ok(block) = codec.decode(object.clone(), len) {
        assert_eq!(block.len(), len);
        assert!(codec.object_bytes(len as u32).contains(&(object.len() as u64)));
        let again = codec.encode(std::slice::from_ref(&block));
        assert_eq!(codec.decode(again, len).expect("what we write can be read"), block);
    }
}

/// No change of a sealed object gives an answer: only the seeds themselves may open.
pub(crate) fn object(bytes: &[u8]) {
    let cipher = cipher();
    if let Ok(content) = cipher.open(Bytes::copy_from_slice(bytes)) {
        assert_eq!(content.len() + cipher.overhead_bytes(), bytes.len());
        assert!(crate::seeds::seeds("object").iter().any(|seed| seed == bytes), "a forged object opened");
    }
    _ = cipher.open_file(bytes, "chunks/0/0/1_0_1");
}

pub(crate) fn pem(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Deriving a key may take as long as the text says: not tried here.
    let slow = text.contains("ENCRYPTED PRIVATE KEY");
    let passphrase = if slow { Passphrase::default() } else { Passphrase::new("cairn-test".into()) };
    _ = PrivateKey::from_pem(text, &passphrase);
}
