//! mknod(2), mkfifo(3), sockets and device files.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::Fs;
use crate::support::{as_user, c_path, cvt, errno, nobody};

fn mknod(path: &Path, mode: u32, dev: u64) -> io::Result<i32> {
    let path = c_path(path);
    // SAFETY: the path is NUL-terminated and lives through the call.
    cvt(unsafe { libc::mknod(path.as_ptr(), mode, dev) })
}

#[test]
fn every_kind_of_node_comes_back_after_a_remount() {
    let m = Fs::new();
    mknod(&m.path("fifo"), libc::S_IFIFO | 0o640, 0).unwrap();
    mknod(&m.path("sock"), libc::S_IFSOCK | 0o600, 0).unwrap();
    mknod(&m.path("char"), libc::S_IFCHR | 0o666, libc::makedev(259, 70_000)).unwrap();
    mknod(&m.path("block"), libc::S_IFBLK | 0o660, libc::makedev(7, 3)).unwrap();
    mknod(&m.path("file"), libc::S_IFREG | 0o644, 0).unwrap();
    let m = m.remount(&[]);
    let kind = |name: &str| fs::symlink_metadata(m.path(name)).unwrap();
    assert!(kind("fifo").file_type().is_fifo());
    assert!(kind("sock").file_type().is_socket());
    assert!(kind("file").file_type().is_file());
    let (char, block) = (kind("char"), kind("block"));
    assert!(char.file_type().is_char_device() && block.file_type().is_block_device());
    assert_eq!((libc::major(char.rdev()), libc::minor(char.rdev())), (259, 70_000));
    assert_eq!((libc::major(block.rdev()), libc::minor(block.rdev())), (7, 3));
    m.close();
}

#[test]
fn a_fifo_carries_bytes_between_processes() {
    let m = Fs::new();
    mknod(&m.path("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    let path = m.path("fifo");
    std::thread::scope(|s| {
        s.spawn(|| fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"through").unwrap());
        let mut text = String::new();
        fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    });
}

#[test]
fn a_unix_socket_accepts_connections() {
    let m = Fs::new();
    let listener = UnixListener::bind(m.path("s")).unwrap();
    let mut client = UnixStream::connect(m.path("s")).unwrap();
    client.write_all(b"hello").unwrap();
    let mut server = listener.accept().unwrap().0;
    let mut found = [0; 5];
    server.read_exact(&mut found).unwrap();
    assert_eq!(&found, b"hello");
}

#[test]
fn only_root_makes_devices_and_names_are_not_replaced() {
    let m = Fs::new();
    m.write("there", b"");
    assert_eq!(errno(mknod(&m.path("there"), libc::S_IFIFO | 0o600, 0)), libc::EEXIST);
    let path = m.path("dev");
    as_user(nobody(), &[], || {
        assert_eq!(errno(mknod(&path, libc::S_IFCHR | 0o600, libc::makedev(1, 3))), libc::EPERM);
    });
}
