//! A patch is an array of bytes, some of them written.

use cairn_types::Compression;
use proptest::prelude::*;

use super::*;
use crate::{Codec, Config};

fn empty() -> Patch {
    let config = Config {
        block_bytes: 1 << 20,
        compression: Compression::None,
        key_layout: cairn_types::KeyLayout::Plain,
        buffer_bytes: 64 << 20,
        prefetch: 0,
        max_readahead: 0,
        cache_full_blocks: false,
    };
    let codec = Codec::new(Compression::None, None);
    Patch { pool: Pool::new(&config, &codec), arena: OpenBlock::default(), used: 0, pieces: BTreeMap::new(), bytes: 0 }
}

fn write(patch: &mut Patch, pos: u32, data: &[u8]) {
    let mut room = patch.pool.try_reserve(data.len()).expect("room");
    patch.write(pos, data, &mut room);
}

#[test]
fn a_rewritten_page_takes_no_more_memory() {
    let mut patch = empty();
    for byte in 0..100 {
        write(&mut patch, 8192, &[byte; 4096]);
    }
    assert_eq!((patch.bytes(), patch.pieces(), patch.held_bytes()), (4096, 1, 4096));
    assert_eq!(patch.read(8190, 8194), [(8192, Bytes::from_static(&[99; 2]))]);
}

#[test]
fn writes_in_a_row_are_one_piece() {
    let mut patch = empty();
    for i in 0..50 {
        write(&mut patch, 1000 + i * 100, &[i as u8; 100]);
    }
    assert_eq!((patch.pieces(), patch.end()), (1, 6000));
    assert!(patch.has_run_before(6000, 5000) && !patch.has_run_before(6000, 5001) && !patch.has_run_before(5999, 1));
    write(&mut patch, 0, &[1; 10]);
    write(&mut patch, 6000, &[2; 10]);
    assert!(patch.has_run_before(6010, 5010), "over several pieces too");
}

#[test]
fn neighbours_written_in_any_order_freeze_into_one_run() {
    let mut patch = empty();
    for page in [3u32, 1, 2, 9, 0] {
        write(&mut patch, page * 4096, &[page as u8; 4096]);
    }
    let runs: Vec<(u32, u32)> = patch.freeze().iter().map(|(pos, loose)| (*pos, loose.len())).collect();
    assert_eq!(runs, [(0, 4 * 4096), (9 * 4096, 4096)]);
}

#[test]
fn room_goes_back_when_the_last_bytes_are_gone() {
    let mut patch = empty();
    let pool = patch.pool.clone();
    write(&mut patch, 0, &[1; 4096]);
    write(&mut patch, 1 << 20, &[2; 300_000]);
    let mut runs = patch.freeze();
    assert!(pool.usage().0 > 300_000);
    runs.pop();
    assert!(pool.usage().0 > 0, "another run of the patch still holds its pages");
    runs.pop();
    assert_eq!(pool.usage().0, 0);
}

const SPAN: usize = 400_000;

fn writes() -> impl Strategy<Value = Vec<(u32, u32)>> {
    let one = prop_oneof![
        (0..SPAN as u32, 1..200u32),
        (0..SPAN as u32, 1..9000u32),
        (0..90u32, 1..3u32).prop_map(|(page, n)| (page * 4096, n * 4096)),
        (0..SPAN as u32, 1..150_000u32),
    ];
    proptest::collection::vec(one, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn it_shows_what_an_array_would(writes in writes(), from in 0..SPAN as u32, len in 1..SPAN as u32) {
        let mut patch = empty();
        let mut model = vec![0u8; SPAN];
        for (i, (pos, len)) in writes.into_iter().enumerate() {
            let len = len.min(SPAN as u32 - pos);
            let data: Vec<u8> = (0..len).map(|b| (b as usize * 7 + i * 13) as u8 | 1).collect();
            write(&mut patch, pos, &data);
            model[pos as usize..(pos + len) as usize].copy_from_slice(&data);
        }
        let shown = |pieces: Vec<(u32, Bytes)>| {
            let mut bytes = vec![0u8; SPAN];
            pieces.iter().for_each(|(pos, piece)| bytes[*pos as usize..*pos as usize + piece.len()].copy_from_slice(piece));
            bytes
        };
        let end = (from + len).min(SPAN as u32);
        let mut part = vec![0u8; SPAN];
        part[from as usize..end as usize].copy_from_slice(&model[from as usize..end as usize]);
        prop_assert!(shown(patch.read(from, end)) == part);
        prop_assert_eq!(patch.overlaps(from, end), part.iter().any(|b| *b != 0));
        prop_assert_eq!(patch.bytes() as usize, model.iter().filter(|b| **b != 0).count());
        let mut last = None;
        let frozen = patch.freeze();
        for (pos, loose) in &frozen {
            prop_assert!(last.is_none_or(|end| end < *pos), "runs touch");
            last = Some(pos + loose.len());
        }
        let joined = frozen.into_iter().map(|(pos, loose)| (pos, Bytes::from(loose.pieces.concat()))).collect();
        prop_assert!(shown(joined) == model);
    }
}
