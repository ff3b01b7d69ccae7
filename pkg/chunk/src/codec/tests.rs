use std::sync::Arc;

use bytes::Bytes;
use cairn_crypt::{Algorithm, Chance, Cipher, Passphrase, PrivateKey};
use cairn_env::Env;
use cairn_types::Compression;

use super::*;

fn cipher(algorithm: Algorithm) -> Arc<Cipher> {
    let pem = include_str!("../../../crypt/tests/keys/pkcs1.pem");
    let key = PrivateKey::from_pem(pem, &Passphrase::default()).unwrap();
    let env = Env::real();
    let chance: Chance = Arc::new(move |bytes| env.fill_secret(bytes));
    Arc::new(Cipher::new(key, algorithm, chance).unwrap())
}

fn codecs() -> Vec<Codec> {
    let ciphers = [None, Some(cipher(Algorithm::Aes256Gcm)), Some(cipher(Algorithm::ChaCha20))];
    let compressions = [Compression::None, Compression::Lz4, Compression::Zstd];
    ciphers.iter().flat_map(|c| compressions.map(|compression| Codec::new(compression, c.clone()))).collect()
}

fn content(len: usize) -> Vec<u8> {
    // The first half compresses, the second hardly does.
    (0..len).map(|i| if i < len / 2 { (i / 97) as u8 } else { (i * i % 65521 / 251) as u8 }).collect()
}

#[test]
fn every_codec_gives_back_what_it_was_given_in_pieces() {
    for codec in codecs() {
        for len in [1, 100, 65_536, 300_000] {
            let plain = content(len);
            let pieces: Vec<_> = plain.chunks(70_000).map(Bytes::copy_from_slice).collect();
            let object = codec.encode(&pieces);
            assert!(codec.object_bytes(len as u32).contains(&(object.len() as u64)), "{codec:?} {len}");
            assert_eq!(codec.decode(object.clone(), len).unwrap(), plain, "{codec:?} {len}");
            for other in [len - 1, len + 1] {
                assert!(codec.decode(object.clone(), other).is_err(), "{codec:?} {len} as {other}");
            }
        }
    }
}

#[test]
fn encrypted_objects_show_nothing_and_bear_no_change() {
    let marker = b"the quick brown fox jumps over the lazy dog";
    for codec in codecs().into_iter().filter(Codec::is_encrypted) {
        let plain = Bytes::from(marker.repeat(100));
        let object = codec.encode(std::slice::from_ref(&plain));
        assert!(!object.windows(8).any(|w| marker.windows(8).any(|m| m == w)), "{codec:?}");
        for at in [0, 2, 3, 200, 270, object.len() / 2, object.len() - 1] {
            let mut changed = object.to_vec();
            changed[at] ^= 1;
            assert!(codec.decode(changed.into(), plain.len()).is_err(), "{codec:?} byte {at}");
        }
    }
}

#[test]
fn only_blocks_stored_as_they_are_can_be_read_in_part() {
    let plain: Vec<_> = codecs().iter().map(Codec::is_plain).collect();
    assert_eq!(plain, [true, false, false, false, false, false, false, false, false]);
}
