//! Where the format ends, and the right errno there.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, symlink};

use super::Fs;
use crate::support::{cvt, errno};

/// 64 MiB times 2^31: no file is longer.
const MAX_FILE_BYTES: u64 = 1 << 57;

#[test]
fn names_have_255_bytes_and_no_more() {
    let m = Fs::new();
    let longest = "n".repeat(255);
    m.write(&longest, b"x");
    assert_eq!(m.names(""), [longest.as_str()]);
    let longer = "n".repeat(256);
    assert_eq!(errno(fs::write(m.path(&longer), b"")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::create_dir(m.path(&longer))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::rename(m.path(&longest), m.path(&longer))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(m.path(&longer))), libc::ENAMETOOLONG);
}

#[test]
fn symlink_targets_have_4095_bytes_and_no_more() {
    let m = Fs::new();
    let longest = "t".repeat(4095);
    symlink(&longest, m.path("l")).unwrap();
    assert_eq!(fs::read_link(m.path("l")).unwrap().to_str(), Some(longest.as_str()));
    assert_eq!(errno(symlink("t".repeat(4096), m.path("m"))), libc::ENAMETOOLONG);
    assert_eq!(errno(symlink("", m.path("e"))), libc::ENOENT);
}

#[test]
fn files_end_where_the_format_ends() {
    let m = Fs::new();
    let file = m.create("f");
    let last = MAX_FILE_BYTES - 4096;
    file.set_len(last).unwrap();
    assert_eq!(file.metadata().unwrap().len(), last);
    assert!([libc::EFBIG, libc::EINVAL].contains(&errno(file.set_len(MAX_FILE_BYTES + 1))));
    file.write_all_at(b"far out", last - 7).unwrap();
    let mut found = [0; 7];
    file.read_exact_at(&mut found, last - 7).unwrap();
    assert_eq!(&found, b"far out");
    assert_eq!(errno(file.write_at(b"too far", MAX_FILE_BYTES)), libc::EFBIG);
}

#[test]
fn the_file_size_limit_of_a_process_is_minded() {
    let m = Fs::new();
    let script = "ulimit -f 8; trap '' XFSZ; head -c 100000 /dev/zero > limited; exit 0";
    crate::support::run(m.root(), "sh", ["-c", script]).ok();
    assert!(fs::metadata(m.path("limited")).unwrap().len() <= 8 * 1024);
}

#[test]
fn deep_paths_work() {
    let m = Fs::new();
    let mut dir = rustix::fs::open(m.root(), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    for depth in 0..300 {
        let name = format!("level-{depth:04}-{}", "d".repeat(40));
        rustix::fs::mkdirat(&dir, &name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        dir = rustix::fs::openat(&dir, &name, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    // Longer than any path: only relative calls come here.
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&dir, "bottom", flags, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    let fd = dir.as_raw_fd();
    // SAFETY: plain numbers and a NUL-terminated literal.
    let gone = cvt(unsafe { libc::unlinkat(fd, c"bottom".as_ptr(), 0) });
    gone.map_err(|e: io::Error| e).unwrap();
}
