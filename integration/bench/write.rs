//! Sequential writes of 1 MiB, ended by fsync.
//!
//! The floor receives the same requests and puts the bytes into the store's folder as files of
//! 4 MiB, which are made durable if the store's are.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::daemon::Daemon;
use crate::machine::store_syncs;
use crate::report::{Row, Target};
use crate::turns::{Side, seconds, take_turns};
use crate::world::World;

/// Bytes of one write(2).
const PIECE_BYTES: usize = 1 << 20;
/// Threads that make the floor's files durable: the real store writes several at a time, too.
const SYNC_THREADS: usize = 8;

/// MB/s of one file written from start to end.
pub(crate) fn measure(world: &World) -> anyhow::Result<Vec<Row>> {
    let bytes = world.settings.write_bytes;
    // Beside the store of the volume, on the same device.
    let sink = world.path("sink");
    fs::create_dir_all(&sink)?;
    let null = Daemon::null(&world.env, &world.path("null-sink"), Some(&sink))?;
    let (our_root, null_root) = (world.ours.root(), null.root());
    let sides = [
        Side::new(Some(&world.ours), |turn| {
            let file = our_root.join(format!("written-{turn}"));
            let secs = seconds(&world.env, || write_file(&file, bytes))?;
            fs::remove_file(file)?;
            Ok([mb_per_sec(bytes, secs)])
        }),
        Side::new(Some(&null), |turn| {
            let file = null_root.join(format!("written-{turn}"));
            let secs = seconds(&world.env, || {
                write_file(&file, bytes)?;
                if store_syncs() { sync_all(&sink) } else { Ok(()) }
            })?;
            fs::remove_file(file)?;
            empty(&sink)?;
            Ok([mb_per_sec(bytes, secs)])
        }),
    ];
    let [ours, floor] = take_turns(world.settings.turns, sides)?;
    let per_gib = |cpu: f64| cpu * (1u64 << 30) as f64 / bytes as f64;
    let cpu = format!("daemon CPU-s/GiB: {:.2}, null {:.2}", per_gib(ours.cpu_secs), per_gib(floor.cpu_secs));
    let ([ours], [floor]) = (ours.of, floor.of);
    null.stop()?;
    fs::remove_dir_all(sink)?;
    Ok(vec![Row { name: "sequential write 1 MiB, MB/s", ours, floor, target: Target::Share(0.8), notes: vec![cpu] }])
}

pub(crate) fn mb_per_sec(bytes: u64, secs: f64) -> f64 {
    bytes as f64 / 1e6 / secs
}

/// Writes a file from start to end and makes it durable.
pub(crate) fn write_file(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let piece: Vec<u8> = (0..PIECE_BYTES).map(|i| (i % 251) as u8).collect();
    let mut file = File::create(path)?;
    for _ in 0..bytes / PIECE_BYTES as u64 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(())
}

fn sync_all(folder: &Path) -> anyhow::Result<()> {
    let files: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    std::thread::scope(|scope| {
        let sync = |part: Vec<_>| part.iter().try_for_each(|path| File::open(path)?.sync_all());
        let parts = files.chunks(files.len().div_ceil(SYNC_THREADS).max(1)).map(<[_]>::to_vec);
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || sync(part))).collect();
        threads.into_iter().try_for_each(|t| t.join().expect("syncing does not panic"))
    })?;
    Ok(File::open(folder)?.sync_all()?)
}

fn empty(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}
