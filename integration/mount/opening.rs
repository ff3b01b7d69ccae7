//! open(2) and creat(2): flags, modes, who may.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};

use super::Fs;
use crate::support::{as_user, errno, nobody};

#[test]
fn a_new_file_has_the_mode_asked_for_minus_umask() {
    let fs = Fs::new();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(fs.path("f")).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o666 & !current_umask());
    assert_eq!(file.metadata().unwrap().nlink(), 1);
}

/// The process's umask, read without changing it.
fn current_umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}

#[test]
fn o_excl_refuses_an_existing_name() {
    let fs = Fs::new();
    fs.write("f", b"x");
    let again = OpenOptions::new().write(true).create_new(true).open(fs.path("f"));
    assert_eq!(errno(again), libc::EEXIST);
}

#[test]
fn o_excl_refuses_a_dangling_link() {
    let fs = Fs::new();
    std::os::unix::fs::symlink("nowhere", fs.path("l")).unwrap();
    let made = OpenOptions::new().write(true).create_new(true).open(fs.path("l"));
    assert_eq!(errno(made), libc::EEXIST);
}

#[test]
fn o_trunc_empties_the_file() {
    let fs = Fs::new();
    fs.write("f", b"something");
    let file = OpenOptions::new().write(true).truncate(true).open(fs.path("f")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    assert_eq!(fs.read("f"), b"");
}

#[test]
fn o_append_writes_at_the_end_whoever_wrote_before() {
    let fs = Fs::new();
    let open = || OpenOptions::new().append(true).create(true).open(fs.path("log")).unwrap();
    let (mut a, mut b) = (open(), open());
    for _ in 0..3 {
        a.write_all(b"a").unwrap();
        b.write_all(b"bb").unwrap();
    }
    assert_eq!(fs.read("log"), b"abbabbabb");
}

#[test]
fn o_sync_writes_are_in_the_store_when_they_return() {
    let fs = Fs::new();
    let how = OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_SYNC).clone();
    let mut file = how.open(fs.path("f")).unwrap();
    file.write_all(&[7; 5000]).unwrap();
    assert_eq!(fs.volume.blocks().len(), 1, "the block is there while the file is still open");
}

#[test]
fn o_directory_and_o_nofollow_are_minded() {
    let fs = Fs::new();
    fs.write("f", b"");
    std::os::unix::fs::symlink("f", fs.path("l")).unwrap();
    let open = |name: &str, flags| OpenOptions::new().read(true).custom_flags(flags).open(fs.path(name));
    assert_eq!(errno(open("f", libc::O_DIRECTORY)), libc::ENOTDIR);
    assert_eq!(errno(open("l", libc::O_NOFOLLOW)), libc::ELOOP);
}

#[test]
fn a_directory_cannot_be_opened_for_writing() {
    let fs = Fs::new();
    std::fs::create_dir(fs.path("d")).unwrap();
    assert_eq!(errno(OpenOptions::new().write(true).open(fs.path("d"))), libc::EISDIR);
}

#[test]
fn missing_names_and_wrong_parents_are_told_apart() {
    let fs = Fs::new();
    fs.write("f", b"");
    assert_eq!(errno(File::open(fs.path("none"))), libc::ENOENT);
    assert_eq!(errno(File::open(fs.path("f/below"))), libc::ENOTDIR);
}

#[test]
fn permission_bits_decide_who_may_open() {
    let fs = Fs::new();
    fs.write("secret", b"x");
    std::fs::set_permissions(fs.path("secret"), Permissions::from_mode(0o640)).unwrap();
    let (secret, public) = (fs.path("secret"), fs.path("public"));
    as_user(nobody(), &[], || {
        assert_eq!(errno(File::open(&secret)), libc::EACCES);
        // The root directory is 0777.
        File::create(&public).unwrap().write_all(b"mine").unwrap();
    });
    let made = std::fs::metadata(&public).unwrap();
    assert_eq!((made.uid(), made.gid()), nobody());
    std::fs::set_permissions(fs.path("secret"), Permissions::from_mode(0o644)).unwrap();
    as_user(nobody(), &[], || assert!(File::open(&secret).is_ok()));
}

#[test]
fn a_file_opened_twice_shows_one_content() {
    let fs = Fs::new();
    let mut writer = fs.create("f");
    let mut reader = File::open(fs.path("f")).unwrap();
    writer.write_all(b"not flushed").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "not flushed");
}

#[test]
fn o_tmpfile_is_refused_or_works() {
    let fs = Fs::new();
    let open = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(fs.root());
    match open {
        Ok(file) => assert_eq!(file.metadata().unwrap().nlink(), 0),
        Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EOPNOTSUPP)),
    }
}
