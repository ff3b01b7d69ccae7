//! fallocate(2) and lseek(2) for data and holes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::Fs;
use crate::support::{cvt, errno};

const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;

fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> io::Result<i32> {
    // SAFETY: plain numbers and an open descriptor.
    cvt(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

fn seek(file: &File, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: plain numbers and an open descriptor.
    match unsafe { libc::lseek(file.as_raw_fd(), offset, whence) } {
        -1 => Err(io::Error::last_os_error()),
        at => Ok(at),
    }
}

#[test]
fn plain_allocation_grows_the_file_and_keeps_its_bytes() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(b"abc", 0).unwrap();
    fallocate(&file, 0, 0, 10_000).unwrap();
    let mut right = b"abc".to_vec();
    right.resize(10_000, 0);
    assert!(fs.read("f") == right);
    fallocate(&file, KEEP, 0, 50_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_000);
}

#[test]
fn a_punched_hole_reads_as_zeros_and_keeps_the_size() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(&[5; 100_000], 0).unwrap();
    fallocate(&file, PUNCH | KEEP, 1_000, 50_000).unwrap();
    fallocate(&file, PUNCH | KEEP, 90_000, 50_000).unwrap();
    let mut right = vec![5; 100_000];
    right[1_000..51_000].fill(0);
    right[90_000..].fill(0);
    assert!(fs.read("f") == right);
    drop(file);
    let fs = fs.remount(&[]);
    assert!(fs.read("f") == right);
    fs.close();
}

#[test]
fn a_zeroed_range_may_grow_the_file() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(&[5; 10_000], 0).unwrap();
    fallocate(&file, ZERO, 5_000, 10_000).unwrap();
    let mut right = vec![5; 5_000];
    right.resize(15_000, 0);
    assert!(fs.read("f") == right);
    fallocate(&file, ZERO | KEEP, 14_000, 10_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 15_000);
}

#[test]
fn modes_that_cannot_be_are_refused() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(&[5; 10_000], 0).unwrap();
    assert_eq!(errno(fallocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    assert_eq!(errno(fallocate(&file, libc::FALLOC_FL_INSERT_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    assert_eq!(errno(fallocate(&file, PUNCH, 0, 4096)), libc::EOPNOTSUPP);
    assert_eq!(errno(fallocate(&file, 0, 0, 0)), libc::EINVAL);
    let read_only = File::open(fs.path("f")).unwrap();
    assert_eq!(errno(fallocate(&read_only, 0, 0, 10)), libc::EBADF);
}

#[test]
fn data_and_holes_are_found_exactly_dirty_bytes_included() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(&[1; 1_000], 0).unwrap();
    file.set_len(300_000).unwrap();
    file.write_all_at(&[2; 10], 200_000).unwrap();
    // The first run was committed by set_len, the second is still in memory. Four segments in all:
    // reading a chunk of five or more has it compacted, and compaction turns holes into zeros.
    let runs = |file: &File| {
        assert_eq!(seek(file, 0, libc::SEEK_DATA).unwrap(), 0);
        assert_eq!(seek(file, 500, libc::SEEK_DATA).unwrap(), 500);
        assert_eq!(seek(file, 500, libc::SEEK_HOLE).unwrap(), 1_000);
        assert_eq!(seek(file, 1_000, libc::SEEK_HOLE).unwrap(), 1_000);
        assert_eq!(seek(file, 1_000, libc::SEEK_DATA).unwrap(), 200_000);
        assert_eq!(seek(file, 200_005, libc::SEEK_HOLE).unwrap(), 200_010);
        assert_eq!(errno(seek(file, 200_010, libc::SEEK_DATA)), libc::ENXIO);
        assert_eq!(seek(file, 250_000, libc::SEEK_HOLE).unwrap(), 250_000);
        assert_eq!(errno(seek(file, 300_000, libc::SEEK_HOLE)), libc::ENXIO);
    };
    runs(&file);
    file.sync_all().unwrap();
    runs(&file);
    drop(file);
    let fs = fs.remount(&[]);
    runs(&File::open(fs.path("f")).unwrap());
}

#[test]
fn a_file_without_holes_has_one_at_its_end() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(&[1; 5_000], 0).unwrap();
    assert_eq!(seek(&file, 0, libc::SEEK_HOLE).unwrap(), 5_000);
    assert_eq!(seek(&file, 4_999, libc::SEEK_DATA).unwrap(), 4_999);
}

#[test]
fn a_punched_hole_is_a_hole_to_lseek() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(&[1; 100_000], 0).unwrap();
    fallocate(&file, PUNCH | KEEP, 8_192, 8_192).unwrap();
    assert_eq!(seek(&file, 0, libc::SEEK_HOLE).unwrap(), 8_192);
    assert_eq!(seek(&file, 8_192, libc::SEEK_DATA).unwrap(), 16_384);
}
