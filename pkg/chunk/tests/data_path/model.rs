//! Any order of calls on a slice against a plain byte vector.

use std::time::Duration;

use cairn_chunk::{Config, Error};
use cairn_object::testing::Faults;
use cairn_types::{Compression, SliceId};
use futures::future::join_all;
use proptest::prelude::*;

use crate::world::{World, append, cache_config, config, content};

const BLOCK: u32 = 64 * 1024;

#[derive(Clone, Debug)]
enum Op {
    /// At this per mille between floor and length.
    Write(u32, u32, u8),
    Read(u32, u32),
    Down,
    Up,
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![1..5000u32, 1..200_000u32];
    prop_oneof![
        4 => (0..=1000u32, len.clone(), any::<u8>()).prop_map(|(at, len, byte)| Op::Write(at, len, byte)),
        2 => Just(Op::Settle),
        3 => (0..=1000u32, len).prop_map(|(at, len)| Op::Read(at, len)),
        1 => Just(Op::Down),
        2 => Just(Op::Up),
    ]
}

/// A place between `from` and `to`.
fn place(per_mille: u32, from: u32, to: u32) -> u32 {
    from + (u64::from(to - from) * u64::from(per_mille) / 1000) as u32
}

async fn run(compression: Compression, encrypted: bool, cache_bytes: u64, ops: Vec<Op>) {
    let config = Config { block_bytes: BLOCK, compression, ..config() };
    let cache = cache_config(cache_bytes, vec![]);
    let world = if encrypted { World::encrypted(config, cache) } else { World::over(config, cache) };
    let writer = world.store.writer(SliceId(5));
    let mut model: Vec<u8> = Vec::new();
    let mut up = true;
    for op in ops {
        match op {
            Op::Write(at, len, byte) => {
                let off = place(at, writer.floor(), writer.len());
                let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add((i / 7) as u8)).collect();
                // During an outage nothing frees the buffer: a caller would wait.
                let Some(mut room) = world.store.try_reserve(data.len()) else { continue };
                assert!(writer.write_at(off, &data, &mut room));
                let end = off as usize + data.len();
                model.resize(model.len().max(end), 0);
                model[off as usize..end].copy_from_slice(&data);
            }
            Op::Read(at, len) => {
                let off = place(at, 0, writer.len());
                let len = len.min(writer.len() - off);
                let expected = &model[off as usize..(off + len) as usize];
                if let Some(bytes) = writer.read_now(off, len) {
                    assert!(bytes == expected);
                }
                match writer.read_at(off, len).await {
                    Ok(bytes) => assert!(bytes == expected),
                    Err(e) => assert!(!up && matches!(e, Error::Store { .. }), "{e}"),
                }
            }
            Op::Down => (up, _) = (false, world.faulty.down()),
            Op::Up => (up, _) = (true, world.faulty.up()),
            Op::Settle => world.settle().await,
        }
        assert_eq!(writer.len() as usize, model.len());
    }
    if model.is_empty() {
        return;
    }
    if !up {
        // Everything may have been stored before the outage; otherwise it must be told.
        let whole = writer.buffered_bytes() == 0;
        assert_eq!(writer.finish().await.is_ok(), whole);
        world.faulty.up();
    }
    let slice = writer.finish().await.unwrap().slice();
    assert_eq!(slice.size as usize, model.len());
    assert!(world.store.read(slice, 0, slice.size).await.unwrap() == model);
    assert!(world.store.check(slice, cairn_chunk::Depth::Read).await.is_empty());
    assert_eq!(world.store.stats().buffer_used_bytes, 0);
    let blocks = world.store.blocks(slice).count();
    assert_eq!(world.mem.len(), blocks, "every block once, and nothing else");
    world.store.delete(slice).await.unwrap();
    assert_eq!(world.mem.len(), 0);
}

/// Writes one slice through a store that is slow and fails, and reads it back in pieces.
async fn write_and_read(world: &World, id: u64, size: u32) {
    let data = content(id, size);
    let writer = world.store.writer(SliceId(id));
    append(&world.store, &writer, &data).await;
    let slice = loop {
        match writer.finish().await {
            Ok(stored) => break stored.slice(),
            Err(e) => assert!(matches!(e, Error::Store { .. }), "{e}"),
        }
    };
    let mut off = 0;
    while off < size {
        let len = (size - off).min(1 + (off * 7 + 13) % 200_000);
        match world.store.read(slice, off, len).await {
            Ok(bytes) => assert!(bytes == data[off as usize..(off + len) as usize], "slice {id} at {off}"),
            Err(e) => {
                assert!(matches!(e, Error::Store { .. }), "{e}");
                continue;
            }
        }
        off += len;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_slice_equals_the_bytes_written(
        codec in 0..3usize, encrypted: bool, cached: bool, ops in proptest::collection::vec(op(), 1..40),
    ) {
        let compression = [Compression::None, Compression::Lz4, Compression::Zstd][codec];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(compression, encrypted, if cached { 1 << 20 } else { 0 }, ops));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_slow_and_failing_store_never_changes_the_bytes(
        codec in 0..3usize, encrypted: bool, on_disk: bool, sizes in proptest::collection::vec(1..1_500_000u32, 1..10),
    ) {
        let compression = [Compression::None, Compression::Lz4, Compression::Zstd][codec];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let cache = if on_disk { cache_config(0, vec![dir.path().into()]) } else { cache_config(2 << 20, vec![]) };
            let config = Config { block_bytes: BLOCK, compression, buffer_bytes: 0, ..config() };
            let world = if encrypted { World::encrypted(config, cache) } else { World::over(config, cache) };
            world.faulty.set_faults(Faults {
                delay_max: Duration::from_millis(50),
                fail_per_mille: 150,
                fail_after_per_mille: 100,
                damage_per_mille: 0,
            });
            let world = &world;
            join_all(sizes.iter().zip(1..).map(|(size, id)| write_and_read(world, id, *size))).await;
            assert_eq!(world.store.stats().buffer_used_bytes, 0);
            world.store.cache().close().await;
        });
    }
}
