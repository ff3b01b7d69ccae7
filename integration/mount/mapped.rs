//! mmap(2).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

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
