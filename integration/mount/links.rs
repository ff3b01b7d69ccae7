//! link(2), symlink(2), readlink(2), unlink(2).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use super::Fs;
use crate::support::errno;

#[test]
fn hard_links_share_one_inode() {
    let m = Fs::new();
    m.write("a", b"shared");
    fs::create_dir(m.path("d")).unwrap();
    fs::hard_link(m.path("a"), m.path("d/b")).unwrap();
    let (a, b) = (fs::metadata(m.path("a")).unwrap(), fs::metadata(m.path("d/b")).unwrap());
    assert_eq!((a.ino(), a.nlink(), b.nlink()), (b.ino(), 2, 2));
    m.write("d/b", b"changed");
    assert_eq!(m.read("a"), b"changed");
    fs::remove_file(m.path("a")).unwrap();
    let m = m.remount(&[]);
    assert_eq!(m.read("d/b"), b"changed");
    assert_eq!(fs::metadata(m.path("d/b")).unwrap().nlink(), 1);
    m.close();
}

#[test]
fn directories_and_existing_names_cannot_be_linked() {
    let m = Fs::new();
    m.write("a", b"");
    m.write("b", b"");
    fs::create_dir(m.path("d")).unwrap();
    assert_eq!(errno(fs::hard_link(m.path("d"), m.path("e"))), libc::EPERM);
    assert_eq!(errno(fs::hard_link(m.path("a"), m.path("b"))), libc::EEXIST);
    assert_eq!(errno(fs::hard_link(m.path("none"), m.path("e"))), libc::ENOENT);
}

#[test]
fn symlinks_keep_any_target() {
    let m = Fs::new();
    let odd = std::ffi::OsStr::from_bytes(b"some\xff where/../x");
    symlink(odd, m.path("odd")).unwrap();
    m.write("real", b"through the link");
    symlink("real", m.path("l")).unwrap();
    assert_eq!(m.read("l"), b"through the link");
    let m = m.remount(&[]);
    assert_eq!(fs::read_link(m.path("odd")).unwrap().as_os_str(), odd);
    let meta = fs::symlink_metadata(m.path("odd")).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777), (odd.len() as u64, 0o777));
    m.close();
}

#[test]
fn loops_of_links_are_noticed() {
    let m = Fs::new();
    symlink("b", m.path("a")).unwrap();
    symlink("a", m.path("b")).unwrap();
    assert_eq!(errno(fs::read(m.path("a"))), libc::ELOOP);
}

#[test]
fn unlink_is_for_files_and_rmdir_for_empty_directories() {
    let m = Fs::new();
    m.write("f", b"");
    fs::create_dir_all(m.path("d/inside")).unwrap();
    assert!([libc::EISDIR, libc::EPERM].contains(&errno(fs::remove_file(m.path("d")))));
    assert_eq!(errno(fs::remove_dir(m.path("f"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_dir(m.path("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(m.path("none"))), libc::ENOENT);
    fs::remove_dir(m.path("d/inside")).unwrap();
    fs::remove_dir(m.path("d")).unwrap();
    fs::remove_file(m.path("f")).unwrap();
    assert!(m.names("").is_empty());
    m.close();
}

#[test]
fn a_linked_open_file_keeps_its_other_name() {
    let m = Fs::new();
    let file = m.create("a");
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    fs::remove_file(m.path("a")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0).unwrap();
    drop(file);
    assert_eq!(m.read("b"), b"x");
}
