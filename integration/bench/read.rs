//! Random reads of 4 KiB from a file whose blocks are in the local cache, past the page cache.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::ensure;

use crate::report::{Row, Target};
use crate::turns::{Side, seconds, take_turns};
use crate::world::World;

/// Bytes of one read: also what O_DIRECT aligns to.
const PAGE_BYTES: usize = 4096;
/// Bytes of one read that fills the cache.
const LARGE_BYTES: usize = 1 << 20;

/// Reads a second, one thread.
pub(crate) fn measure(world: &World) -> anyhow::Result<Vec<Row>> {
    let pages = world.settings.read_bytes / PAGE_BYTES as u64;
    let (ours, null) = (world.ours.root().join("read"), world.null.root().join("read"));
    write_numbered(&ours, pages)?;
    File::create(&null)?.set_len(world.settings.read_bytes)?;
    let (ours, null) = (open_direct(&ours)?, open_direct(&null)?);
    // Twice: what the first pass fetched is in the cache for the second.
    for _ in 0..2 {
        read_through(&ours, world.settings.read_bytes)?;
    }
    let turn = |file: File, numbered: bool| {
        move |turn: usize| {
            let secs = seconds(&world.env, || read_some(&file, pages, world.settings.reads, turn as u64, numbered))?;
            Ok([world.settings.reads as f64 / secs])
        }
    };
    let sides = [Side::new(Some(&world.ours), turn(ours, true)), Side::new(Some(&world.null), turn(null, false))];
    let [ours, floor] = take_turns(world.settings.turns, sides)?;
    let each = |cpu: f64| cpu * 1e6 / world.settings.reads as f64;
    let cpu = format!("daemon CPU-us/read: {:.1}, null {:.1}", each(ours.cpu_secs), each(floor.cpu_secs));
    let ([ours], [floor]) = (ours.of, floor.of);
    let name = "cached random read 4 KiB, reads/s";
    Ok(vec![Row { name, ours, floor, target: Target::Share(0.5), notes: vec![cpu] }])
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
