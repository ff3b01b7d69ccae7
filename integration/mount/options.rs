//! What `cairn mount` can be told, as seen through the mount.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use super::Fs;
use crate::support::{Volume, as_user, cairn, errno, is_mounted, nobody};

#[test]
fn a_read_only_mount_refuses_every_change() {
    let m = Fs::new();
    m.write("f", b"kept");
    fs::create_dir(m.path("d")).unwrap();
    let m = m.remount(&["--read-only"]);
    assert_eq!(m.read("f"), b"kept");
    assert_eq!(errno(File::create(m.path("new"))), libc::EROFS);
    assert_eq!(errno(File::options().write(true).open(m.path("f"))), libc::EROFS);
    assert_eq!(errno(fs::remove_file(m.path("f"))), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(m.path("d"))), libc::EROFS);
    assert_eq!(errno(fs::rename(m.path("f"), m.path("g"))), libc::EROFS);
    m.close();
}

#[test]
fn a_sub_directory_can_be_the_root() {
    let m = Fs::new();
    fs::create_dir_all(m.path("home/me")).unwrap();
    m.write("home/me/f", b"mine");
    m.write("outside", b"");
    let m = m.remount(&["--subdir", "home/me"]);
    assert_eq!(m.names(""), ["f"]);
    m.write("g", b"more");
    fs::create_dir(m.path("d")).unwrap();
    assert_eq!(fs::metadata(m.path("d/..")).unwrap().ino(), fs::metadata(m.root()).unwrap().ino());
    let m = m.remount(&[]);
    assert_eq!(m.names("home/me"), ["d", "f", "g"]);
    m.close();
}

#[test]
fn a_forced_umask_shapes_new_modes() {
    let m = Fs::with(&[], &["--umask", "077"]);
    m.write("f", b"");
    assert_eq!(fs::metadata(m.path("f")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn root_can_be_squashed_to_nobody() {
    let m = Fs::with(&[], &["--root-squash", "65534:65534"]);
    m.write("f", b"");
    let f = fs::metadata(m.path("f")).unwrap();
    assert_eq!((f.uid(), f.gid()), nobody());
}

#[test]
fn everybody_can_be_squashed() {
    let m = Fs::with(&[], &["--all-squash", "1234:1235"]);
    let path = m.path("f");
    as_user((42, 42), &[], || File::create(&path).map(drop)).unwrap();
    let f = fs::metadata(&path).unwrap();
    assert_eq!((f.uid(), f.gid()), (1234, 1235));
}

#[test]
fn other_users_may_enter_a_mount_of_root() {
    let m = Fs::new();
    m.write("f", b"for all");
    let path = m.path("f");
    as_user(nobody(), &[], || assert_eq!(fs::read(&path).unwrap(), b"for all"));
}

#[test]
fn relatime_records_reads() {
    let m = Fs::new();
    m.write("f", b"x");
    let m = m.remount(&["--atime-mode", "relatime", "--attr-cache", "0"]);
    let before = fs::metadata(m.path("f")).unwrap();
    m.read("f");
    let after = crate::support::eventually("atime moves", crate::support::PATIENCE, || {
        let now = fs::metadata(m.path("f")).unwrap();
        ((now.atime(), now.atime_nsec()) > (before.atime(), before.atime_nsec())).then_some(now)
    });
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
}

#[test]
fn a_background_mount_is_ready_when_the_command_returns() {
    let volume = Volume::new(&[]);
    let (root, cache, log) = (volume.path("mnt"), volume.path("cache"), volume.path("log"));
    let text = |p: &std::path::Path| p.to_str().unwrap().to_owned();
    let (root_text, cache, log) = (text(&root), text(&cache), text(&log));
    cairn(["mount", "-d", volume.url(), &root_text, "--cache-dir", &cache, "--log", &log]).ok();
    assert!(is_mounted(&root));
    fs::write(root.join("f"), b"at once").unwrap();
    cairn(["umount", &root_text]).ok();
    assert!(!is_mounted(&root));
    volume.fsck_is_clean();
}

#[test]
fn status_lists_the_session_while_mounted() {
    let m = Fs::new();
    let sessions = |volume: &Volume| {
        let json: serde_json::Value = serde_json::from_str(&cairn(["status", volume.url()]).ok()).unwrap();
        json["Sessions"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(sessions(&m.volume), 1);
    let Fs { mounted, volume } = m;
    mounted.unmount();
    assert_eq!(sessions(&volume), 0);
}
