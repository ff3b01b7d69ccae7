//! Chunk and block arithmetic covers every byte once.

use cairn_types::layout::{
    block_at, block_count, block_fits, block_len, block_spans, chunk_at, chunk_count, chunk_spans, chunk_start,
};
use cairn_types::{CHUNK_BYTES, MAX_FILE_BYTES, SliceId, SliceRef};
use proptest::prelude::*;

/// Sizes of block that `format` makes: powers of two from 64 KiB to 16 MiB.
fn block_bytes() -> impl Strategy<Value = u32> {
    (16..=24u32).prop_map(|shift| 1 << shift)
}

fn slice() -> impl Strategy<Value = SliceRef> {
    (1..=CHUNK_BYTES as u32).prop_map(|size| SliceRef { id: SliceId(1), size })
}

proptest! {
    #[test]
    fn chunk_spans_cover_every_byte_once(offset in 0..MAX_FILE_BYTES - (1 << 30), len in 0..1u64 << 30) {
        let mut here = offset;
        for span in chunk_spans(offset, len) {
            prop_assert_eq!(chunk_start(span.index) + u64::from(span.pos), here);
            prop_assert_eq!((span.index, span.pos), chunk_at(here));
            prop_assert_eq!(span.at, here - offset);
            prop_assert!(span.len > 0 && u64::from(span.pos) + u64::from(span.len) <= CHUNK_BYTES);
            here += u64::from(span.len);
        }
        prop_assert_eq!(here, offset + len);
        prop_assert!(here == 0 || u64::from(chunk_at(here - 1).0.0) == chunk_count(here) - 1);
    }

    #[test]
    fn block_spans_cover_every_byte_once(slice in slice(), block in block_bytes(), a in any::<u32>(), b in any::<u32>()) {
        let (a, b) = (a % (slice.size + 1), b % (slice.size + 1));
        let (off, len) = (a.min(b), a.abs_diff(b));
        let mut here = off;
        for span in block_spans(slice, off, len, block) {
            prop_assert_eq!(span.index, block_at(here, block));
            prop_assert_eq!(span.index * block + span.pos, here);
            prop_assert_eq!(span.at, here - off);
            prop_assert_eq!(span.block_len, block_len(slice, span.index, block));
            prop_assert!(span.len > 0 && span.pos + span.len <= span.block_len);
            here += span.len;
        }
        prop_assert_eq!(here, off + len);
    }

    #[test]
    fn the_blocks_of_a_slice_add_up_and_fit_it(slice in slice(), block in block_bytes()) {
        let count = block_count(slice.size, block);
        let lens: Vec<u32> = (0..count).map(|index| block_len(slice, index, block)).collect();
        prop_assert_eq!(lens.iter().sum::<u32>(), slice.size);
        prop_assert!(lens[..lens.len() - 1].iter().all(|len| *len == block));
        for (index, len) in lens.iter().enumerate() {
            prop_assert!(block_fits(slice.size, index as u32, *len, block));
        }
    }

    /// A name no longer than a block fits if and only if the slice has that block.
    #[test]
    fn no_other_block_fits(slice in slice(), block in block_bytes(), index in 0..1100u32, cut in 0..3u32, len in 1..1u32 << 24) {
        let belongs = |len| index < block_count(slice.size, block) && len == block_len(slice, index, block);
        for len in [block - cut, len.min(block), (slice.size % block).max(1)] {
            prop_assert_eq!(block_fits(slice.size, index, len, block), belongs(len));
        }
    }
}

#[test]
fn nothing_is_cut_into_nothing_and_the_last_byte_of_all_has_a_chunk() {
    assert_eq!(chunk_spans(5, 0).count(), 0);
    let last: Vec<_> = chunk_spans(MAX_FILE_BYTES - 1, 1).map(|span| (span.index.0, u64::from(span.pos))).collect();
    assert_eq!(last, [((1 << 31) - 1, CHUNK_BYTES - 1)]);
    assert!(!block_fits(u32::MAX, u32::MAX, u32::MAX, 1 << 24), "names from a listing may say anything");
}
