//! rename(2) and renameat2(2).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Fs;
use crate::support::{as_user, errno, nobody};

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    renameat_with(CWD, from, CWD, to, flags).map_err(io::Error::from)
}

#[test]
fn a_file_moves_with_its_content_and_inode() {
    let m = Fs::new();
    m.write("a", b"content");
    fs::create_dir(m.path("d")).unwrap();
    let ino = fs::metadata(m.path("a")).unwrap().ino();
    fs::rename(m.path("a"), m.path("d/b")).unwrap();
    assert_eq!(m.read("d/b"), b"content");
    assert_eq!(fs::metadata(m.path("d/b")).unwrap().ino(), ino);
    assert_eq!(m.names(""), ["d"]);
}

#[test]
fn an_existing_target_is_replaced_at_once() {
    let m = Fs::new();
    m.write("a", b"new");
    m.write("b", b"old");
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_eq!((m.names(""), m.read("b")), (vec!["b".to_owned()], b"new".to_vec()));
    m.close();
}

#[test]
fn kinds_must_fit_and_directories_be_empty() {
    let m = Fs::new();
    m.write("f", b"");
    for dir in ["empty", "full", "full/x"] {
        fs::create_dir(m.path(dir)).unwrap();
    }
    let go = |from: &str, to: &str| fs::rename(m.path(from), m.path(to));
    assert_eq!(errno(go("f", "empty")), libc::EISDIR);
    assert_eq!(errno(go("empty", "f")), libc::ENOTDIR);
    assert_eq!(errno(go("empty", "full")), libc::ENOTEMPTY);
    go("full", "empty").unwrap();
    assert_eq!(m.names(""), ["empty", "f"]);
    assert_eq!(m.names("empty"), ["x"]);
}

#[test]
fn a_directory_cannot_move_below_itself() {
    let m = Fs::new();
    fs::create_dir_all(m.path("a/b/c")).unwrap();
    assert_eq!(errno(fs::rename(m.path("a"), m.path("a/b/c/d"))), libc::EINVAL);
    assert_eq!(errno(rename(&m.path("a"), &m.path("a/b/c"), RenameFlags::EXCHANGE)), libc::EINVAL);
}

#[test]
fn a_moved_directory_moves_its_link_in_the_parents() {
    let m = Fs::new();
    fs::create_dir_all(m.path("a/x")).unwrap();
    fs::create_dir(m.path("b")).unwrap();
    let nlink = |name: &str| fs::metadata(m.path(name)).unwrap().nlink();
    assert_eq!((nlink("a"), nlink("b")), (3, 2));
    fs::rename(m.path("a/x"), m.path("b/x")).unwrap();
    let m = m.remount(&[]);
    let nlink = |name: &str| fs::metadata(m.path(name)).unwrap().nlink();
    assert_eq!((nlink("a"), nlink("b")), (2, 3));
    m.close();
}

#[test]
fn noreplace_refuses_an_existing_target() {
    let m = Fs::new();
    m.write("a", b"a");
    m.write("b", b"b");
    assert_eq!(errno(rename(&m.path("a"), &m.path("b"), RenameFlags::NOREPLACE)), libc::EEXIST);
    rename(&m.path("a"), &m.path("c"), RenameFlags::NOREPLACE).unwrap();
    assert_eq!(m.names(""), ["b", "c"]);
}

#[test]
fn exchange_swaps_a_file_and_a_directory() {
    let m = Fs::new();
    m.write("f", b"file");
    fs::create_dir_all(m.path("d/inside")).unwrap();
    rename(&m.path("f"), &m.path("d"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(m.read("d"), b"file");
    assert_eq!(m.names("f"), ["inside"]);
    assert_eq!(errno(rename(&m.path("f"), &m.path("none"), RenameFlags::EXCHANGE)), libc::ENOENT);
    m.close();
}

#[test]
fn two_names_of_one_inode_stay_when_renamed_onto_each_other() {
    let m = Fs::new();
    m.write("a", b"x");
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_eq!(m.names(""), ["a", "b"]);
}

#[test]
fn in_a_sticky_directory_only_owners_rename() {
    let m = Fs::new();
    fs::create_dir(m.path("tmp")).unwrap();
    fs::set_permissions(m.path("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    m.write("tmp/roots", b"");
    let (from, to) = (m.path("tmp/roots"), m.path("tmp/mine"));
    as_user(nobody(), &[], || {
        assert!([libc::EPERM, libc::EACCES].contains(&errno(fs::rename(&from, &to))));
        assert!([libc::EPERM, libc::EACCES].contains(&errno(fs::remove_file(&from))));
        fs::write(&to, b"own").unwrap();
        fs::remove_file(&to).unwrap();
    });
}

#[test]
fn open_handles_follow_a_renamed_file() {
    let m = Fs::new();
    let file = m.create("a");
    fs::rename(m.path("a"), m.path("b")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"late", 0).unwrap();
    drop(file);
    assert_eq!(m.read("b"), b"late");
}
