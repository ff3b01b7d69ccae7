//! Reads of a file whose blocks are in the local cache: 4 KiB at random past the page cache, and from front to
//! back; then the same of a file that the kernel reads by itself.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use rustix::thread::CpuSet;

use crate::daemon::pin;
use crate::report::{Row, Target};
use crate::turns::{Side, rest, seconds, take_turns};
use crate::world::World;

/// Bytes of one read: also what O_DIRECT aligns to.
const PAGE_BYTES: usize = 4096;
/// Bytes of one read that fills the cache.
const LARGE_BYTES: usize = 1 << 20;
/// Looks for an image, a tenth of a second apart.
const IMAGE_LOOKS: usize = 300;

/// Once as the scheduler likes it, once on one CPU: where the threads of a small machine come to lie decides more
/// than what they do, and differently from run to run.
pub(crate) fn measure(world: &World) -> anyhow::Result<Vec<Row>> {
    let pages = world.settings.read_bytes / PAGE_BYTES as u64;
    let (ours, null) = (world.ours.root().join("read"), world.null.root().join("read"));
    write_numbered(&ours, pages)?;
    File::create(&null)?.set_len(world.settings.read_bytes)?;
    // Twice: what the first pass fetched is in the cache for the second.
    for _ in 0..2 {
        read_through(&open_direct(&ours)?, world.settings.read_bytes)?;
    }
    let mut rows = vec![random(world, [&ours, &null], "cached random read 4 KiB, reads/s")?];
    on_one_cpu(world, true)?;
    rows.push(random(world, [&ours, &null], "the same on one CPU, reads/s")?);
    on_one_cpu(world, false)?;
    rows.push(sequential(world, [&ours, &null])?);
    rows.extend(passed(world, &ours)?);
    Ok(rows)
}

/// Reads a second, one thread.
fn random(world: &World, [ours, null]: [&Path; 2], name: &'static str) -> anyhow::Result<Row> {
    let sides = [
        Side::new(Some(&world.ours), random_turn(world, open_direct(ours)?, true)),
        Side::new(Some(&world.null), random_turn(world, open_direct(null)?, false)),
    ];
    let [ours, floor] = take_turns(world.settings.turns, sides)?;
    let each = |cpu: f64| cpu * 1e6 / world.settings.reads as f64;
    let cpu = format!("daemon CPU-us/read: {:.1}, null {:.1}", each(ours.cpu_secs), each(floor.cpu_secs));
    let ([ours], [floor]) = (ours.of, floor.of);
    Ok(Row { name, ours, floor, target: Target::Share(0.5), notes: vec![cpu] })
}

fn random_turn(world: &World, file: File, numbered: bool) -> impl FnMut(usize) -> anyhow::Result<[f64; 1]> + '_ {
    let pages = world.settings.read_bytes / PAGE_BYTES as u64;
    move |turn| {
        let secs = seconds(&world.env, || read_some(&file, pages, world.settings.reads, turn as u64, numbered))?;
        Ok([world.settings.reads as f64 / secs])
    }
}

/// MB a second from the first byte to the last, through the page cache, which has none of it.
fn sequential(world: &World, [ours, null]: [&Path; 2]) -> anyhow::Result<Row> {
    let sides = [
        Side::new(Some(&world.ours), sequential_turn(world, ours)),
        Side::new(Some(&world.null), sequential_turn(world, null)),
    ];
    let [ours, floor] = take_turns(world.settings.turns, sides)?;
    let ([ours], [floor]) = (ours.of, floor.of);
    let name = "cached sequential read 1 MiB, MB/s";
    Ok(Row { name, ours, floor, target: Target::Share(0.8), notes: vec![] })
}

fn sequential_turn<'a>(world: &'a World, path: &'a Path) -> impl FnMut(usize) -> anyhow::Result<[f64; 1]> + 'a {
    move |_| {
        let file = File::open(path)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        let secs = seconds(&world.env, || read_through(&file, world.settings.read_bytes))?;
        Ok([world.settings.read_bytes as f64 / 1e6 / secs])
    }
}

/// The same two rows of a file that the kernel reads by itself, beside those through the daemon.
fn passed(world: &World, through: &Path) -> anyhow::Result<Vec<Row>> {
    let hour_ago = world.env.now() - Duration::from_secs(3600);
    File::options().write(true).open(through)?.set_modified(hour_ago)?;
    let beside = world.read_only()?;
    let passing = beside.root().join("read");
    if !until_passed(world, &passing)? {
        eprintln!("no passthrough here: its rows are left out");
        beside.stop()?;
        return Ok(vec![]);
    }
    let sides = [
        Side::new(None, random_turn(world, open_direct(&passing)?, true)),
        Side::new(None, random_turn(world, open_direct(through)?, true)),
    ];
    let [ours, floor] = take_turns(world.settings.turns, sides)?;
    let ([ours], [floor]) = (ours.of, floor.of);
    let name = "random read 4 KiB with passthrough, reads/s; floor: without";
    let first = Row { name, ours, floor, target: Target::Share(5.0), notes: vec![] };
    let sides = [Side::new(None, sequential_turn(world, &passing)), Side::new(None, sequential_turn(world, through))];
    let [ours, floor] = take_turns(world.settings.turns, sides)?;
    let ([ours], [floor]) = (ours.of, floor.of);
    let name = "sequential read 1 MiB with passthrough, MB/s; floor: without";
    let second = Row { name, ours, floor, target: Target::Share(2.5), notes: vec![] };
    beside.stop()?;
    Ok(vec![first, second])
}

/// Opens the file until its image is there; `false` if none comes.
fn until_passed(world: &World, path: &Path) -> anyhow::Result<bool> {
    for _ in 0..IMAGE_LOOKS {
        read_through(&File::open(path)?, LARGE_BYTES as u64)?;
        for volume in fs::read_dir(world.path("cache"))? {
            let images = fs::read_dir(volume?.path().join("images")).into_iter().flatten().flatten();
            if images.map(|image| image.file_name()).any(|name| name.to_string_lossy().ends_with(".sums")) {
                rest(Duration::from_millis(100));
                return Ok(true);
            }
        }
        rest(Duration::from_millis(100));
    }
    Ok(false)
}

/// Lets everybody run on one CPU only, or on all.
fn on_one_cpu(world: &World, one: bool) -> anyhow::Result<()> {
    let mut cpus = CpuSet::new();
    let count = if one { 1 } else { world.cpus };
    (0..count).for_each(|cpu| cpus.set(cpu));
    world.ours.run_on(&cpus)?;
    world.null.run_on(&cpus)?;
    pin(Path::new("/proc/self/task"), &cpus)
}

/// A file whose every page begins with its number, so that a wrong page is noticed.
fn write_numbered(path: &Path, pages: u64) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let mut piece = vec![7u8; LARGE_BYTES];
    for first in (0..pages).step_by(LARGE_BYTES / PAGE_BYTES) {
        for (page, number) in piece.chunks_mut(PAGE_BYTES).zip(first..) {
            page[..8].copy_from_slice(&number.to_le_bytes());
        }
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(())
}

pub(crate) fn open_direct(path: &Path) -> anyhow::Result<File> {
    Ok(OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?)
}

pub(crate) fn read_through(file: &File, bytes: u64) -> anyhow::Result<()> {
    let mut buffer = Aligned::new(LARGE_BYTES);
    for offset in (0..bytes).step_by(LARGE_BYTES) {
        file.read_exact_at(buffer.bytes(), offset)?;
    }
    Ok(())
}

fn read_some(file: &File, pages: u64, reads: u64, seed: u64, numbered: bool) -> anyhow::Result<()> {
    let mut buffer = Aligned::new(PAGE_BYTES);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..reads {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let page = state % pages;
        let bytes = buffer.bytes();
        file.read_exact_at(bytes, page * PAGE_BYTES as u64)?;
        ensure!(!numbered || bytes[..8] == page.to_le_bytes(), "page {page} holds other bytes");
    }
    Ok(())
}

/// Memory that begins at a page.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Aligned {
        let memory = vec![0; len + PAGE_BYTES];
        let from = memory.as_ptr().align_offset(PAGE_BYTES);
        Aligned { memory, from, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.len]
    }
}
