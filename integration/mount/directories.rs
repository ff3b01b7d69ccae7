//! mkdir(2), readdir(3), telldir, seekdir; large directories.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use super::Fs;
use crate::support::{c_path, errno};

#[test]
fn a_new_directory_is_empty_and_counts_in_its_parent() {
    let m = Fs::new();
    fs::create_dir(m.path("d")).unwrap();
    let (d, root) = (fs::metadata(m.path("d")).unwrap(), fs::metadata(m.root()).unwrap());
    assert_eq!((d.nlink(), root.nlink()), (2, 3));
    assert!(m.names("d").is_empty());
    assert_eq!(errno(fs::create_dir(m.path("d"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(m.path("no/where"))), libc::ENOENT);
}

#[test]
fn any_bytes_but_slash_and_nul_make_a_name() {
    let m = Fs::new();
    let odd: [&[u8]; 6] = [b"\xff\xfe", b"new\nline", b" ", b"...", "日本語".as_bytes(), b"\\ * ?"];
    for name in odd {
        fs::write(m.root().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let m = m.remount(&[]);
    for name in odd {
        assert_eq!(fs::read(m.root().join(OsStr::from_bytes(name))).unwrap(), name);
    }
    m.close();
}

#[test]
fn a_large_directory_is_listed_once_and_whole() {
    let m = Fs::new();
    fs::create_dir(m.path("d")).unwrap();
    let names: BTreeSet<String> = (0..3_000).map(|n| format!("name-{n:05}-{}", "x".repeat(n % 60))).collect();
    for name in &names {
        m.write(&format!("d/{name}"), b"");
    }
    let m = m.remount(&[]);
    let listed = m.names("d");
    assert_eq!(listed.len(), names.len(), "no name twice");
    assert!(listed.into_iter().collect::<BTreeSet<_>>() == names);
    // Deleting while listing must neither skip nor repeat.
    let mut removed = 0;
    for entry in fs::read_dir(m.path("d")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        removed += 1;
    }
    assert_eq!(removed, names.len());
    fs::remove_dir(m.path("d")).unwrap();
    m.close();
}

#[test]
fn a_position_told_can_be_sought() {
    let m = Fs::new();
    for n in 0..500 {
        m.write(&format!("f{n}"), b"");
    }
    let path = c_path(m.root());
    // SAFETY: a directory stream opened, used and closed by this thread alone.
    unsafe {
        let dir = libc::opendir(path.as_ptr());
        assert!(!dir.is_null());
        let mut all = Vec::new();
        loop {
            let at = libc::telldir(dir);
            let entry = libc::readdir(dir);
            if entry.is_null() {
                break;
            }
            let name = std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()).to_owned();
            all.push((at, name));
        }
        assert!(all.len() >= 502);
        for (at, name) in all.iter().step_by(37) {
            libc::seekdir(dir, *at);
            let entry = libc::readdir(dir);
            assert!(!entry.is_null());
            assert_eq!(std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()), name.as_c_str());
        }
        libc::rewinddir(dir);
        m.write("made-later", b"");
        let mut names = BTreeSet::new();
        loop {
            let entry = libc::readdir(dir);
            if entry.is_null() {
                break;
            }
            names.insert(std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()).to_owned());
        }
        assert!(names.contains(c"made-later"), "rewinddir shows what is there now");
        libc::closedir(dir);
    }
}

#[test]
fn entries_tell_inode_and_type_of_what_they_name() {
    let m = Fs::new();
    m.write("f", b"");
    fs::create_dir(m.path("d")).unwrap();
    std::os::unix::fs::symlink("f", m.path("l")).unwrap();
    for entry in fs::read_dir(m.root()).unwrap() {
        let entry = entry.unwrap();
        let real = fs::symlink_metadata(entry.path()).unwrap();
        assert_eq!(entry.file_type().unwrap(), real.file_type(), "{entry:?}");
        assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), real.ino(), "{entry:?}");
    }
}

#[test]
fn dot_dot_leads_back_up() {
    let m = Fs::new();
    fs::create_dir_all(m.path("a/b")).unwrap();
    let up = fs::metadata(m.path("a/b/..")).unwrap();
    assert_eq!(up.ino(), fs::metadata(m.path("a")).unwrap().ino());
}

#[test]
fn fsync_of_a_directory_works() {
    let m = Fs::new();
    m.write("f", b"");
    fs::File::open(m.root()).unwrap().sync_all().unwrap();
}
