//! setxattr(2) and its relatives.

use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr};

use super::Fs;
use crate::support::{as_user, errno, nobody};

const XATTR: (&[&str], &[&str]) = (&[], &["--enable-xattr"]);

pub(super) fn get(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let n = lgetxattr(path, name, &mut buffer[..])?;
    buffer.truncate(n);
    Ok(buffer)
}

pub(super) fn set(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(lsetxattr(path, name, value, XattrFlags::empty())?)
}

fn list(path: &Path) -> Vec<String> {
    let mut buffer = vec![0u8; 65_536];
    let n = llistxattr(path, &mut buffer[..]).unwrap();
    let mut names: Vec<String> = buffer[..n]
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .map(|n| String::from_utf8(n.to_vec()).unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn attributes_are_set_listed_read_and_removed() {
    let m = Fs::with(XATTR.0, XATTR.1);
    m.write("f", b"");
    let f = m.path("f");
    set(&f, "user.a", b"one").unwrap();
    set(&f, "user.empty", b"").unwrap();
    set(&f, "trusted.t", &[0, 255, 7]).unwrap();
    set(&f, "user.a", b"changed").unwrap();
    let m = m.remount(XATTR.1);
    assert_eq!(list(&f), ["trusted.t", "user.a", "user.empty"]);
    assert_eq!(get(&f, "user.a").unwrap(), b"changed");
    assert_eq!(get(&f, "user.empty").unwrap(), b"");
    assert_eq!(get(&f, "trusted.t").unwrap(), [0, 255, 7]);
    lremovexattr(&f, "user.a").unwrap();
    assert_eq!(errno(get(&f, "user.a")), libc::ENODATA);
    assert_eq!(errno(lremovexattr(&f, "user.a").map_err(io::Error::from)), libc::ENODATA);
    m.close();
}

#[test]
fn create_and_replace_mind_what_is_there() {
    let m = Fs::with(XATTR.0, XATTR.1);
    m.write("f", b"");
    let f = m.path("f");
    let with = |flags| lsetxattr(&f, "user.a", b"x", flags).map_err(io::Error::from);
    assert_eq!(errno(with(XattrFlags::REPLACE)), libc::ENODATA);
    with(XattrFlags::CREATE).unwrap();
    assert_eq!(errno(with(XattrFlags::CREATE)), libc::EEXIST);
    with(XattrFlags::REPLACE).unwrap();
}

#[test]
fn a_buffer_that_is_too_small_is_told() {
    let m = Fs::with(XATTR.0, XATTR.1);
    m.write("f", b"");
    set(&m.path("f"), "user.a", &[1; 100]).unwrap();
    let mut small = [0u8; 10];
    assert_eq!(errno(lgetxattr(m.path("f"), "user.a", &mut small[..]).map_err(io::Error::from)), libc::ERANGE);
    assert_eq!(errno(llistxattr(m.path("f"), &mut small[..3]).map_err(io::Error::from)), libc::ERANGE);
}

#[test]
fn the_largest_value_fits_and_a_larger_one_does_not() {
    let m = Fs::with(XATTR.0, XATTR.1);
    m.write("f", b"");
    let value = vec![3; 65_536];
    set(&m.path("f"), "user.big", &value).unwrap();
    assert!(get(&m.path("f"), "user.big").unwrap() == value);
    assert_eq!(errno(set(&m.path("f"), "user.bigger", &vec![3; 65_537])), libc::E2BIG);
    let name = format!("user.{}", "n".repeat(251));
    assert_eq!(errno(set(&m.path("f"), &name, b"")), libc::ERANGE);
}

#[test]
fn directories_have_attributes_and_strangers_may_not_write_them() {
    let m = Fs::with(XATTR.0, XATTR.1);
    std::fs::create_dir(m.path("d")).unwrap();
    let d = m.path("d");
    set(&d, "user.x", b"1").unwrap();
    as_user(nobody(), &[], || {
        assert_eq!(get(&d, "user.x").unwrap(), b"1");
        assert_eq!(errno(set(&d, "user.x", b"2")), libc::EACCES);
        assert_eq!(errno(get(&d, "trusted.x")), libc::ENODATA);
    });
}

#[test]
fn unknown_namespaces_are_refused_and_trusted_names_are_roots_to_see() {
    let m = Fs::with(XATTR.0, XATTR.1);
    m.write("f", b"");
    let f = m.path("f");
    for name in ["foo.bar", "userx"] {
        assert_eq!(errno(set(&f, name, b"x")), libc::EOPNOTSUPP, "{name}");
        assert_eq!(errno(get(&f, name)), libc::EOPNOTSUPP, "{name}");
    }
    set(&f, "trusted.t", b"1").unwrap();
    set(&f, "user.u", b"2").unwrap();
    let listed = || {
        let mut list = [0u8; 100];
        let bytes = llistxattr(&f, &mut list[..]).unwrap();
        String::from_utf8_lossy(&list[..bytes]).into_owned()
    };
    assert!(listed().contains("trusted.t\0"));
    assert_eq!(as_user(nobody(), &[], listed), "user.u\0");
}

#[test]
fn without_the_flag_there_are_none() {
    let m = Fs::new();
    m.write("f", b"");
    assert_eq!(errno(set(&m.path("f"), "user.a", b"x")), libc::EOPNOTSUPP);
}
