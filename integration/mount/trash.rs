//! The trash: removed files are kept for days, and can be put back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::Fs;
use crate::support::{as_user, errno, nobody};

fn with_trash() -> Fs {
    Fs::with(&["--trash-days", "1"], &[])
}

/// What lies in the hour directories.
fn trashed(m: &Fs) -> Vec<PathBuf> {
    let hours = fs::read_dir(m.path(".trash")).unwrap().map(|e| e.unwrap().path());
    let mut all: Vec<PathBuf> = hours.flat_map(|h| fs::read_dir(h).unwrap().map(|e| e.unwrap().path())).collect();
    all.sort();
    all
}

fn name(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn a_removed_file_lies_in_the_trash_under_parent_inode_and_name() {
    let m = with_trash();
    m.write("f", b"not gone");
    let ino = fs::metadata(m.path("f")).unwrap().ino();
    fs::remove_file(m.path("f")).unwrap();
    let found = trashed(&m);
    assert_eq!(found.iter().map(|p| name(p)).collect::<Vec<_>>(), [format!("1-{ino}-f")]);
    assert_eq!(fs::read(&found[0]).unwrap(), b"not gone");
    fs::rename(&found[0], m.path("back")).unwrap();
    assert_eq!(m.read("back"), b"not gone");
    m.close();
}

#[test]
fn replaced_files_and_removed_directories_go_there_too() {
    let m = with_trash();
    m.write("a", b"new");
    m.write("b", b"old");
    fs::create_dir(m.path("d")).unwrap();
    fs::rename(m.path("a"), m.path("b")).unwrap();
    fs::remove_dir(m.path("d")).unwrap();
    let found: Vec<String> = trashed(&m).iter().map(|p| name(p)).collect();
    assert!(found.iter().any(|n| n.ends_with("-b")) && found.iter().any(|n| n.ends_with("-d")), "{found:?}");
    m.close();
}

#[test]
fn nobody_creates_in_the_trash_and_only_root_empties_it() {
    let m = with_trash();
    m.write("f", b"x");
    fs::remove_file(m.path("f")).unwrap();
    let found = trashed(&m).remove(0);
    let hour = found.parent().unwrap().to_owned();
    assert!([libc::EPERM, libc::EACCES].contains(&errno(fs::write(hour.join("new"), b""))));
    assert!([libc::EPERM, libc::EACCES].contains(&errno(fs::create_dir(m.path(".trash/mine")))));
    as_user(nobody(), &[], || {
        assert!([libc::EPERM, libc::EACCES].contains(&errno(fs::remove_file(&found))));
    });
    fs::remove_file(&found).unwrap();
    assert!(trashed(&m).is_empty());
    assert!([libc::EPERM, libc::EACCES].contains(&errno(fs::remove_dir(&hour))));
    m.close();
}

#[test]
fn without_trash_days_removed_is_gone() {
    let m = Fs::new();
    m.write("f", &[1; 100_000]);
    assert_eq!(m.volume.blocks().len(), 1);
    fs::remove_file(m.path("f")).unwrap();
    // A mount keeps the blocks of a removed file for a minute, for readers elsewhere; gc does not.
    let Fs { mounted, volume } = m;
    mounted.unmount();
    crate::support::cairn(["gc", volume.url(), "--delete"]).ok();
    assert!(volume.blocks().is_empty());
    volume.fsck_is_clean();
}
