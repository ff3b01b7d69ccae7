//! mmap(2).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

use super::Fs;
use crate::support::bytes;

/// A shared mapping of a whole file, gone when dropped.
struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    fn of(file: &File, len: usize, prot: ProtFlags) -> Mapping {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file, 0) };
        Mapping { start: start.expect("mmap works").cast(), len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is writable here and nobody else in this process touches it.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    fn sync(&self) {
        // SAFETY: the range is mapped.
        unsafe { msync(self.start.cast(), self.len, MsyncFlags::SYNC) }.expect("msync works");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us and no reference into it outlives self.
        unsafe { munmap(self.start.cast(), self.len) }.ok();
    }
}

#[test]
fn a_mapping_shows_the_file() {
    let fs = Fs::new();
    let content = bytes(1, 5_000_000);
    fs.write("f", &content);
    let file = File::open(fs.path("f")).unwrap();
    assert!(Mapping::of(&file, content.len(), ProtFlags::READ).bytes() == content);
}

#[test]
fn what_is_stored_through_a_mapping_is_read_and_survives() {
    let fs = Fs::new();
    fs.write("f", &vec![0; 1 << 20]);
    let file = OpenOptions::new().read(true).write(true).open(fs.path("f")).unwrap();
    let mut mapping = Mapping::of(&file, 1 << 20, ProtFlags::READ | ProtFlags::WRITE);
    let content = bytes(2, 1 << 20);
    mapping.bytes_mut().copy_from_slice(&content);
    mapping.sync();
    assert!(fs.read("f") == content);
    drop((mapping, file));
    let fs = fs.remount(&[]);
    assert!(fs.read("f") == content);
    fs.close();
}

#[test]
fn writes_show_in_a_mapping_and_the_other_way_round() {
    let fs = Fs::new();
    fs.write("f", &[1; 8192]);
    let file = OpenOptions::new().read(true).write(true).open(fs.path("f")).unwrap();
    let mut mapping = Mapping::of(&file, 8192, ProtFlags::READ | ProtFlags::WRITE);
    assert_eq!(mapping.bytes()[5000], 1);
    file.write_all_at(&[2; 10], 5000).unwrap();
    assert_eq!(mapping.bytes()[5000], 2);
    mapping.bytes_mut()[5001] = 3;
    let mut found = [0; 2];
    file.read_exact_at(&mut found, 5000).unwrap();
    assert_eq!(found, [2, 3]);
}

/// A file of `pages` pages of ones, and a mount of it.
fn of_ones(flags: &[&str], pages: usize) -> Fs {
    let fs = Fs::new();
    fs.write("f", &vec![1; pages * PAGE]);
    // Nobody has it open any more, and the kernel has forgotten its pages.
    fs.remount(flags)
}

const PAGE: usize = 4096;

fn open(fs: &Fs, read: bool, write: bool, append: bool) -> File {
    OpenOptions::new().read(read).write(write && !append).append(append).open(fs.path("f")).unwrap()
}

#[test]
fn who_only_writes_shows_in_mappings_made_before_and_after() {
    for flags in [&[][..], &["-o", "no_dio_write"]] {
        let fs = of_ones(flags, 16);
        for mapped_first in [true, false] {
            let early = mapped_first.then(|| open(&fs, true, true, false));
            let writer = open(&fs, false, true, false);
            let file = early.unwrap_or_else(|| open(&fs, true, true, false));
            let mut mapping = Mapping::of(&file, 16 * PAGE, ProtFlags::READ | ProtFlags::WRITE);
            let (at, byte) = (5 * PAGE + 100, 2 + u8::from(mapped_first));
            assert_ne!(mapping.bytes()[at], byte);
            // A page that the mapping has changed and not stored yet keeps its other bytes.
            mapping.bytes_mut()[at + 500] = 9;
            writer.write_all_at(&[byte; 200], at as u64).unwrap();
            assert_eq!((mapping.bytes()[at], mapping.bytes()[at + 199], mapping.bytes()[at + 500]), (byte, byte, 9));
            mapping.bytes_mut()[at + 1] = 7;
            mapping.sync();
            let mut found = [0; 3];
            file.read_exact_at(&mut found, at as u64).unwrap();
            assert_eq!(found, [byte, 7, byte], "{flags:?}");
        }
        fs.close();
    }
}

#[test]
fn appends_past_the_pages_are_seen_by_mapped_readers() {
    let fs = of_ones(&[], 1);
    let mut log = open(&fs, false, true, true);
    let reader = open(&fs, true, false, false);
    for i in 1..=50u8 {
        log.write_all(&[i; 1000]).unwrap();
        let len = PAGE + usize::from(i) * 1000;
        assert_eq!(reader.metadata().unwrap().len(), len as u64);
        let mapping = Mapping::of(&reader, len, ProtFlags::READ);
        assert_eq!((mapping.bytes()[0], mapping.bytes()[len - 1], mapping.bytes()[len - 1000]), (1, i, i));
        let mut last = [0; 10];
        reader.read_exact_at(&mut last, len as u64 - 10).unwrap();
        assert_eq!(last, [i; 10]);
    }
    drop((log, reader));
    fs.close();
}

#[test]
fn a_page_read_while_it_is_written_past_is_dropped_again() {
    let fs = of_ones(&[], 16);
    let writer = open(&fs, false, true, false);
    let reader = open(&fs, true, false, false);
    let mapping = Mapping::of(&reader, 16 * PAGE, ProtFlags::READ);
    let bytes = mapping.bytes();
    // The compiler must not keep what it has read once.
    // SAFETY: the range is mapped as long as `mapping` lives.
    let look = |at: usize| unsafe { std::ptr::read_volatile(&bytes[at]) };
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::Acquire) {
                (0..16).for_each(|page| _ = look(page * PAGE));
            }
        });
        for round in 0..2000usize {
            writer.write_all_at(&[(round % 250) as u8 + 2; 100], (round % 16 * PAGE) as u64).unwrap();
        }
        over.store(true, Ordering::Release);
    });
    // The kernel is told to drop pages after the write is answered.
    for page in 0..16 {
        let last = (1984 + page) % 250 + 2;
        crate::support::eventually(&format!("page {page} is new"), crate::support::PATIENCE, || {
            (look(page * PAGE) == last as u8).then_some(())
        });
    }
    drop((mapping, reader, writer));
    fs.close();
}

#[test]
fn parallel_writers_past_the_pages_keep_apart() {
    let fs = of_ones(&[], 256);
    std::thread::scope(|threads| {
        for thread in 0..4u8 {
            let writer = open(&fs, false, true, false);
            threads.spawn(move || {
                for page in (usize::from(thread)..256).step_by(4) {
                    writer.write_all_at(&[thread + 10; PAGE], (page * PAGE) as u64).unwrap();
                }
            });
        }
    });
    let found = fs.read("f");
    assert!((0..256).all(|page| found[page * PAGE..][..PAGE].iter().all(|b| *b == page as u8 % 4 + 10)));
    fs.close();
}
