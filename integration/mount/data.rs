//! read(2), write(2), their relatives, truncate(2), fsync(2), copy_file_range(2).

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use super::Fs;
use crate::support::{bytes, c_path, cvt, errno};

const MIB: u64 = 1 << 20;

#[test]
fn what_is_written_is_read_before_and_after_a_remount() {
    let fs = Fs::new();
    let content = bytes(1, 9_000_001);
    fs.write("f", &content);
    assert!(fs.read("f") == content);
    let fs = fs.remount(&[]);
    assert!(fs.read("f") == content);
    fs.close();
}

#[test]
fn reads_end_at_the_end() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(b"0123456789", 0).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(file.read_at(&mut buffer, 6).unwrap(), 4);
    assert_eq!(file.read_at(&mut buffer, 10).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
}

#[test]
fn writes_across_blocks_and_chunks_keep_their_places() {
    let fs = Fs::new();
    let file = fs.create("f");
    let places = [0, 4 * MIB - 10, 64 * MIB - 1, 64 * MIB, 128 * MIB - 100_000];
    for (n, at) in places.iter().enumerate() {
        file.write_all_at(&bytes(n as u64, 200_000), *at).unwrap();
    }
    let check = |file: &File| {
        for (n, at) in places.iter().enumerate().skip(3) {
            let mut found = vec![0; 200_000];
            file.read_exact_at(&mut found, *at).unwrap();
            assert!(found == bytes(n as u64, 200_000), "at {at}");
        }
        let mut hole = vec![1; 100_000];
        file.read_exact_at(&mut hole, 32 * MIB).unwrap();
        assert!(hole.iter().all(|b| *b == 0));
    };
    check(&file);
    drop(file);
    let fs = fs.remount(&[]);
    check(&File::open(fs.path("f")).unwrap());
    fs.close();
}

#[test]
fn overwriting_shows_the_newest_bytes() {
    let fs = Fs::new();
    let file = fs.create("f");
    let mut right = vec![0u8; 300_000];
    for n in 0..60usize {
        let (at, len) = ((n * 7919) % 250_000, 1 + (n * 104_729) % 50_000);
        let piece = bytes(n as u64, len);
        file.write_all_at(&piece, at as u64).unwrap();
        right[at..at + len].copy_from_slice(&piece);
        if n % 13 == 0 {
            file.sync_all().unwrap();
        }
    }
    let length = file.metadata().unwrap().len() as usize;
    assert!(fs.read("f") == right[..length]);
    drop(file);
    let fs = fs.remount(&[]);
    assert!(fs.read("f") == right[..length]);
    fs.close();
}

#[test]
fn truncation_cuts_and_never_brings_back() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(&[9; 100_000], 0).unwrap();
    file.set_len(10).unwrap();
    file.set_len(50_000).unwrap();
    let mut right = vec![9; 10];
    right.resize(50_000, 0);
    assert!(fs.read("f") == right);
    assert_eq!(file.metadata().unwrap().len(), 50_000);
    drop(file);
    let fs = fs.remount(&[]);
    assert!(fs.read("f") == right);
    fs.close();
}

#[test]
fn truncate_by_path_needs_write_permission_and_a_file() {
    let fs = Fs::new();
    std::fs::create_dir(fs.path("d")).unwrap();
    fs.write("f", b"123456");
    let truncate = |name: &str, length| {
        let path = c_path(&fs.path(name));
        // SAFETY: the path is NUL-terminated and lives through the call.
        cvt(unsafe { libc::truncate(path.as_ptr(), length) })
    };
    truncate("f", 3).unwrap();
    assert_eq!(fs.read("f"), b"123");
    assert_eq!(errno(truncate("d", 0)), libc::EISDIR);
    assert_eq!(errno(truncate("f", -1)), libc::EINVAL);
}

#[test]
fn times_and_size_follow_unflushed_writes() {
    let fs = Fs::new();
    let file = fs.create("f");
    let before = file.metadata().unwrap();
    file.write_all_at(&[1; 5000], 0).unwrap();
    let after = std::fs::metadata(fs.path("f")).unwrap();
    assert_eq!(after.len(), 5000);
    assert!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()));
    file.sync_all().unwrap();
    let synced = std::fs::metadata(fs.path("f")).unwrap();
    assert!((synced.mtime(), synced.mtime_nsec()) >= (after.mtime(), after.mtime_nsec()));
}

#[test]
fn an_unlinked_file_lives_until_its_last_close() {
    let fs = Fs::new();
    let mut file = fs.create("f");
    file.write_all(b"before").unwrap();
    std::fs::remove_file(fs.path("f")).unwrap();
    file.write_all(b" and after").unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
    drop(file);
    fs.close();
}

#[test]
fn a_file_replaced_by_rename_lives_until_its_last_close() {
    let fs = Fs::new();
    fs.write("old", b"old");
    fs.write("new", b"new");
    let mut old = File::open(fs.path("old")).unwrap();
    std::fs::rename(fs.path("new"), fs.path("old")).unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), fs.read("old").as_slice()), ("old", &b"new"[..]));
}

#[test]
fn o_direct_reads_what_buffered_writers_wrote() {
    let fs = Fs::new();
    let content = bytes(3, 1 << 20);
    fs.write("f", &content);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(fs.path("f")).unwrap();
    let mut found = vec![0; 1 << 20];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == content);
}

#[test]
fn copy_file_range_copies_within_and_between_files() {
    let fs = Fs::new();
    let content = bytes(5, 6_000_000);
    fs.write("from", &content);
    let from = File::open(fs.path("from")).unwrap();
    let to = fs.create("to");
    assert_eq!(copy(&from, 1_000, &to, 500, 5_000_000).unwrap(), 5_000_000);
    let mut right = vec![0; 500];
    right.extend(&content[1_000..5_001_000]);
    assert!(fs.read("to") == right);
    assert_eq!(copy(&from, 7_000_000, &to, 0, 10).unwrap(), 0, "nothing beyond the end");
    let same = OpenOptions::new().read(true).write(true).open(fs.path("from")).unwrap();
    assert_eq!(errno(copy(&same, 0, &same, 10, 100)), libc::EINVAL, "onto itself");
    assert_eq!(copy(&same, 0, &same, 6_000_000, 1_000).unwrap(), 1_000);
    assert!(fs.read("from")[6_000_000..] == content[..1_000]);
    drop((from, to, same));
    fs.close();
}

#[test]
fn a_copied_range_shares_objects() {
    let fs = Fs::new();
    fs.write("from", &bytes(6, 8 << 20));
    let blocks = fs.volume.blocks().len();
    let from = File::open(fs.path("from")).unwrap();
    let to = fs.create("to");
    assert_eq!(copy(&from, 0, &to, 0, 8 << 20).unwrap(), 8 << 20);
    to.sync_all().unwrap();
    assert_eq!(fs.volume.blocks().len(), blocks);
    std::fs::remove_file(fs.path("from")).unwrap();
    drop((from, to));
    let fs = fs.remount(&[]);
    assert!(fs.read("to") == bytes(6, 8 << 20), "the copy keeps the objects alive");
    fs.close();
}

/// copy_file_range(2), again and again until all is copied or the input ends.
fn copy(from: &File, mut from_at: i64, to: &File, mut to_at: i64, len: usize) -> std::io::Result<usize> {
    let mut copied = 0;
    while copied < len {
        // SAFETY: both offsets are valid for reading and writing during the call.
        let n = unsafe {
            libc::copy_file_range(from.as_raw_fd(), &mut from_at, to.as_raw_fd(), &mut to_at, len - copied, 0)
        };
        match n {
            -1 => return Err(std::io::Error::last_os_error()),
            0 => break,
            n => copied += n as usize,
        }
    }
    Ok(copied)
}

#[test]
fn fsync_makes_blocks_and_close_makes_the_rest() {
    let fs = Fs::new();
    let file = fs.create("f");
    file.write_all_at(&[1; 10_000], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs.volume.blocks().len(), 1);
    file.write_all_at(&[2; 10_000], 10_000).unwrap();
    drop(file);
    assert_eq!(fs.volume.blocks().len(), 2, "close stores what was left");
}

#[test]
fn two_mounts_see_each_other_after_close_and_open() {
    let fs = Fs::new();
    let second = fs.volume.path("second");
    std::fs::create_dir(&second).unwrap();
    let cache = fs.volume.path("cache2");
    let flags =
        ["--cache-dir", cache.to_str().unwrap(), "--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0"];
    let other = crate::support::Mounted::start(&fs.volume, &second, &flags).unwrap();
    fs.write("f", b"first");
    assert_eq!(std::fs::read(other.path("f")).unwrap(), b"first");
    std::fs::write(other.path("f"), b"second, longer").unwrap();
    let seen = crate::support::eventually("close-to-open", crate::support::PATIENCE, || {
        let seen = fs.read("f");
        (seen.len() == 14).then_some(seen)
    });
    assert_eq!(seen, b"second, longer");
}
