//! Plain blocks to compressed blocks and back (volume format 3.1). Pure, CPU-heavy, sizes known.

use bytes::Bytes;
use cairn_types::Compression;

/// JuiceFS's level; readers take any.
const ZSTD_LEVEL: i32 = 1;

/// The longest stored form of `len` plain bytes: readers size their buffers by it.
pub(super) fn bound(codec: Compression, len: usize) -> usize {
    match codec {
        Compression::None => len,
        Compression::Lz4 => len + len / 255 + 16,
        Compression::Zstd => zstd::zstd_safe::compress_bound(len),
    }
}

/// The stored form of a plain block. There is no "stored as is" marker: it may be longer.
pub(super) fn encode(codec: Compression, plain: &[u8]) -> Bytes {
    let stored = match codec {
        Compression::None => plain.to_vec(),
        Compression::Lz4 => lz4_flex::block::compress(plain),
        Compression::Zstd => zstd::bulk::compress(plain, ZSTD_LEVEL).expect("the output buffer has room for the bound"),
    };
    assert!(stored.len() <= bound(codec, plain.len()), "a reader would cut {} bytes off", stored.len());
    stored.into()
}

/// The plain block of exactly `len` bytes, or why these bytes are not it. Never reserves more memory
/// than `len`, whatever the bytes claim.
pub(super) fn decode(codec: Compression, stored: Bytes, len: usize) -> Result<Bytes, String> {
    if stored.len() > bound(codec, len) {
        return Err(format!("object of {} bytes is too long for a block of {len}", stored.len()));
    }
    let plain = match codec {
        Compression::None => stored,
        Compression::Lz4 => {
            let mut plain = vec![0; len];
            let n = lz4_flex::block::decompress_into(&stored, &mut plain).map_err(|e| format!("lz4: {e}"))?;
            plain.truncate(n);
            plain.into()
        }
        Compression::Zstd => zstd::bulk::decompress(&stored, len).map_err(|e| format!("zstd: {e}"))?.into(),
    };
    if plain.len() == len { Ok(plain) } else { Err(format!("{} bytes instead of {len}", plain.len())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODECS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

    #[test]
    fn one_byte_equals_the_documented_examples() {
        assert_eq!(encode(Compression::Lz4, b"a")[..], [0x10, 0x61]);
        assert_eq!(encode(Compression::Zstd, b"a")[..], [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x01, 0x09, 0, 0, 0x61]);
    }

    #[test]
    fn zstd_frames_carry_their_content_size() {
        for len in [1, 300, 70_000, 4 << 20] {
            let stored = encode(Compression::Zstd, &vec![7; len]);
            assert_eq!(zstd::zstd_safe::get_frame_content_size(&stored).unwrap(), Some(len as u64));
        }
    }

    #[test]
    fn a_block_of_another_length_is_refused() {
        for codec in CODECS {
            let stored = encode(codec, &[5; 1000]);
            assert!(decode(codec, stored.clone(), 999).is_err(), "{codec:?} longer");
            assert!(decode(codec, stored.clone(), 1001).is_err(), "{codec:?} shorter");
            assert!(decode(codec, stored.slice(..stored.len() - 1), 1000).is_err(), "{codec:?} cut");
        }
    }

    fn content() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..5000),
            (any::<u8>(), 1..300_000usize).prop_map(|(b, n)| vec![b; n]),
            (proptest::collection::vec(any::<u8>(), 1..40), 1..2000usize).prop_map(|(word, n)| word.repeat(n)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_block_survives_the_round_trip(plain in content()) {
            for codec in CODECS {
                prop_assert_eq!(&decode(codec, encode(codec, &plain), plain.len()).unwrap()[..], &plain[..]);
            }
        }

        #[test]
        fn garbage_never_decodes_to_another_length(junk in proptest::collection::vec(any::<u8>(), 0..500), len in 1..4096usize) {
            for codec in CODECS {
                if let Ok(plain) = decode(codec, junk.clone().into(), len) {
                    prop_assert_eq!(plain.len(), len);
                }
            }
        }
    }
}
