//! chattr(1) and lsattr(1): immutable, append-only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use super::Fs;
use crate::support::{as_user, cvt, errno, nobody};

const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
const FS_IOC_SETFLAGS: libc::c_ulong = 0x4008_6602;
const SECRM: libc::c_long = 0x1;
const IMMUTABLE: libc::c_long = 0x10;
const APPEND: libc::c_long = 0x20;
const NODUMP: libc::c_long = 0x40;

fn chattr(path: &Path, flags: libc::c_long) -> io::Result<i32> {
    let file = File::open(path)?;
    // SAFETY: the flags are valid for reading; chattr(1) passes a long as well.
    cvt(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_SETFLAGS, &flags) })
}

fn lsattr(path: &Path) -> io::Result<libc::c_long> {
    let file = File::open(path)?;
    let mut flags: libc::c_long = 0;
    // SAFETY: the flags are valid for writing.
    cvt(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, &mut flags) })?;
    Ok(flags & 0xffff_ffff)
}

fn with_flags() -> Fs {
    Fs::with(&[], &["--enable-ioctl"])
}

#[test]
fn an_immutable_file_stays_as_it_is() {
    let m = with_flags();
    m.write("f", b"fixed");
    let f = m.path("f");
    chattr(&f, IMMUTABLE).unwrap();
    assert_eq!(lsattr(&f).unwrap(), IMMUTABLE);
    assert_eq!(errno(OpenOptions::new().write(true).open(&f)), libc::EPERM);
    assert_eq!(errno(fs::remove_file(&f)), libc::EPERM);
    assert_eq!(errno(fs::rename(&f, m.path("g"))), libc::EPERM);
    assert_eq!(errno(fs::hard_link(&f, m.path("g"))), libc::EPERM);
    chattr(&f, 0).unwrap();
    fs::remove_file(&f).unwrap();
}

#[test]
fn an_append_only_file_grows_and_nothing_else() {
    let m = with_flags();
    m.write("log", b"one");
    let f = m.path("log");
    chattr(&f, APPEND).unwrap();
    assert_eq!(errno(OpenOptions::new().write(true).open(&f)), libc::EPERM);
    assert_eq!(errno(OpenOptions::new().append(true).truncate(false).open(&f).and_then(|f| f.set_len(0))), libc::EPERM);
    OpenOptions::new().append(true).open(&f).unwrap().write_all(b" two").unwrap();
    assert_eq!(fs::read(&f).unwrap(), b"one two");
    assert_eq!(errno(fs::remove_file(&f)), libc::EPERM);
    chattr(&f, 0).unwrap();
}

#[test]
fn an_immutable_directory_keeps_its_entries() {
    let m = with_flags();
    fs::create_dir(m.path("d")).unwrap();
    m.write("d/f", b"");
    chattr(&m.path("d"), IMMUTABLE).unwrap();
    assert_eq!(errno(File::create(m.path("d/g"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(m.path("d/f"))), libc::EPERM);
    m.write("d/f", b"its files may change");
    chattr(&m.path("d"), 0).unwrap();
}

#[test]
fn flags_survive_a_remount_and_only_root_sets_known_ones() {
    let m = with_flags();
    m.write("f", b"");
    let f = m.path("f");
    fs::set_permissions(&f, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    as_user(nobody(), &[], || assert_eq!(errno(chattr(&f, IMMUTABLE)), libc::EPERM));
    assert!([libc::ENOTSUP, libc::EOPNOTSUPP].contains(&errno(chattr(&f, NODUMP))));
    chattr(&f, SECRM).unwrap();
    let m = m.remount(&["--enable-ioctl"]);
    assert_eq!(lsattr(&m.path("f")).unwrap(), SECRM);
}

#[test]
fn chattr_and_lsattr_themselves_work() {
    let m = with_flags();
    m.write("f", b"");
    crate::support::run(m.root(), "chattr", ["+i", "f"]).ok();
    let listed = crate::support::run(m.root(), "lsattr", ["f"]).ok();
    assert!(listed.split(' ').next().unwrap().contains('i'), "{listed}");
    crate::support::run(m.root(), "chattr", ["-i", "f"]).ok();
}
