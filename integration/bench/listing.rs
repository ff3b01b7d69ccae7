//! Listing a large directory whose entries the kernel has forgotten.
//!
//! Most of it is neither side's: `ls` itself and the kernel take their time for a plain directory,
//! too, so one is listed beside them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::report::{Row, Spread, Target};
use crate::turns::{Side, rest, seconds, take_turns};
use crate::world::World;

/// The kernel keeps names and attributes for a second.
const FORGOTTEN: Duration = Duration::from_millis(1200);
/// Threads that fill the directory.
const THREADS: u64 = 8;

/// Seconds of `ls -l`, and milliseconds to the first entry.
pub(crate) fn measure(world: &World) -> anyhow::Result<Vec<Row>> {
    let (ours, null) = (fill(world, world.ours.root())?, fill(world, world.null.root())?);
    let plain = fill(world, &world.path(""))?;
    let turn = |dir: PathBuf| {
        move |_| {
            let first = first_entry(world, &dir)?;
            Ok([list(world, &dir, "-fl")?, first * 1e3, list(world, &dir, "-l")?])
        }
    };
    let sides = [
        Side::new(Some(&world.ours), turn(ours)),
        Side::new(Some(&world.null), turn(null)),
        Side::new(None, turn(plain)),
    ];
    let [ours, floor, plain] = take_turns(world.settings.turns, sides)?;
    let cpu = format!("daemon CPU-s for both listings: {:.2}, null {:.2}", ours.cpu_secs, floor.cpu_secs);
    let files =
        format!("of {} files; plain in this folder, without FUSE: {}", world.settings.listed, Spread(&plain.of[0]));
    let ([ours_all, ours_first, ours_sorted], [null_all, null_first, null_sorted]) = (ours.of, floor.of);
    let sorted = format!("sorted (ls -l): {}, null {}", Spread(&ours_sorted), Spread(&null_sorted));
    let row = |name, ours, floor, limit, notes| Row { name, ours, floor, target: Target::Below(limit), notes };
    Ok(vec![
        row("ls -fl of a large directory, s", ours_all, null_all, 0.3, vec![files, sorted, cpu]),
        row("its first entry, ms", ours_first, null_first, 20.0, vec![]),
    ])
}

/// A directory with all the files.
fn fill(world: &World, root: &Path) -> anyhow::Result<PathBuf> {
    let dir = root.join("listed");
    fs::create_dir(&dir)?;
    let each = world.settings.listed / THREADS;
    let make = |n: u64| (0..each).try_for_each(|i| File::create_new(dir.join(format!("file-{n}-{i:06}"))).map(drop));
    std::thread::scope(|scope| {
        let make = &make;
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || make(n))).collect();
        threads.into_iter().try_for_each(|t| t.join().expect("creating does not panic"))
    })?;
    Ok(dir)
}

fn first_entry(world: &World, dir: &Path) -> anyhow::Result<f64> {
    rest(FORGOTTEN);
    seconds(&world.env, || fs::read_dir(dir)?.next().context("an empty directory")?.map(drop).map_err(Into::into))
}

fn list(world: &World, dir: &Path, how: &str) -> anyhow::Result<f64> {
    rest(FORGOTTEN);
    let mut lines = 0;
    let secs = seconds(&world.env, || {
        let mut ls = Command::new("ls").arg(how).arg(dir).env("LC_ALL", "C").stdout(Stdio::piped()).spawn()?;
        let mut said = ls.stdout.take().context("its output is ours")?;
        lines = count_lines(&mut said)?;
        ensure!(ls.wait()?.success(), "ls {how} failed");
        Ok(())
    })?;
    let least = world.settings.listed / THREADS * THREADS;
    ensure!(lines >= least, "ls {how} showed {lines} lines");
    Ok(secs)
}

fn count_lines(from: &mut impl std::io::Read) -> anyhow::Result<u64> {
    let (mut lines, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(lines),
            n => lines += buffer[..n].iter().filter(|b| **b == b'\n').count() as u64,
        }
    }
}
