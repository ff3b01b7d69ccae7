//! chmod(2), chown(2), utimensat(2), and who may: setuid, setgid, sticky.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use super::Fs;
use crate::support::{as_user, c_path, cvt, errno, nobody};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, bits: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(bits))
}

fn utimens(path: &Path, atime: (i64, i64), mtime: (i64, i64)) -> io::Result<i32> {
    let path = c_path(path);
    let time = |(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec };
    let times = [time(atime), time(mtime)];
    // SAFETY: path and times live through the call.
    cvt(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) })
}

#[test]
fn all_twelve_mode_bits_are_kept() {
    let m = Fs::new();
    m.write("f", b"");
    for bits in [0, 0o777, 0o4755, 0o2755, 0o1644, 0o7777] {
        chmod(&m.path("f"), bits).unwrap();
        assert_eq!(mode(&m.path("f")), bits);
    }
    let m = m.remount(&[]);
    assert_eq!(mode(&m.path("f")), 0o7777);
}

#[test]
fn only_the_owner_changes_modes() {
    let m = Fs::new();
    m.write("f", b"");
    let path = m.path("f");
    as_user(nobody(), &[], || assert_eq!(errno(chmod(&path, 0o777)), libc::EPERM));
    chown(&path, Some(nobody().0), None).unwrap();
    as_user(nobody(), &[], || chmod(&path, 0o600).unwrap());
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn chown_clears_setuid_and_setgid_of_executables() {
    let m = Fs::new();
    m.write("f", b"");
    chmod(&m.path("f"), 0o6755).unwrap();
    chown(m.path("f"), Some(1000), Some(1000)).unwrap();
    assert_eq!(mode(&m.path("f")), 0o755);
    fs::create_dir(m.path("d")).unwrap();
    chmod(&m.path("d"), 0o2755).unwrap();
    chown(m.path("d"), Some(1000), Some(1000)).unwrap();
    assert_eq!(mode(&m.path("d")), 0o2755, "a directory keeps setgid");
}

#[test]
fn ordinary_users_give_files_only_to_their_own_groups() {
    let m = Fs::new();
    m.write("f", b"");
    chown(m.path("f"), Some(1000), Some(1000)).unwrap();
    let path = m.path("f");
    as_user((1000, 1000), &[1001], || {
        chown(&path, None, Some(1001)).unwrap();
        assert_eq!(errno(chown(&path, None, Some(1002))), libc::EPERM);
        assert_eq!(errno(chown(&path, Some(0), None)), libc::EPERM);
    });
    assert_eq!(fs::metadata(&path).unwrap().gid(), 1001);
}

#[test]
fn links_themselves_can_be_given_away() {
    let m = Fs::new();
    symlink("nowhere", m.path("l")).unwrap();
    lchown(m.path("l"), Some(7), Some(8)).unwrap();
    let l = fs::symlink_metadata(m.path("l")).unwrap();
    assert_eq!((l.uid(), l.gid()), (7, 8));
}

#[test]
fn a_write_by_somebody_else_clears_setuid_and_setgid() {
    let m = Fs::new();
    for write in ["write", "truncate"] {
        m.write(write, b"program");
        chmod(&m.path(write), 0o6777).unwrap();
        let path = m.path(write);
        as_user(nobody(), &[], || {
            let mut file = OpenOptions::new().write(true).open(&path).unwrap();
            if write == "write" {
                file.write_all(b"x").unwrap();
            } else {
                file.set_len(1).unwrap();
            }
        });
        assert_eq!(mode(&m.path(write)), 0o777, "after a {write}");
    }
}

#[test]
fn a_setgid_directory_hands_its_group_down() {
    let m = Fs::new();
    fs::create_dir(m.path("d")).unwrap();
    chown(m.path("d"), None, Some(1234)).unwrap();
    chmod(&m.path("d"), 0o2777).unwrap();
    let (file, dir) = (m.path("d/file"), m.path("d/dir"));
    as_user(nobody(), &[], || {
        File::create(&file).unwrap();
        fs::create_dir(&dir).unwrap();
    });
    let (file, dir) = (fs::metadata(file).unwrap(), fs::metadata(dir).unwrap());
    assert_eq!((file.gid(), dir.gid()), (1234, 1234));
    assert_eq!((file.mode() & 0o2000, dir.mode() & 0o2000), (0, 0o2000));
}

#[test]
fn setgid_is_dropped_when_a_stranger_to_the_group_sets_it() {
    let m = Fs::new();
    m.write("f", b"");
    chown(m.path("f"), Some(1000), Some(1234)).unwrap();
    let path = m.path("f");
    as_user((1000, 1000), &[], || chmod(&path, 0o2755).unwrap());
    assert_eq!(mode(&path), 0o755);
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let m = Fs::new();
    m.write("f", b"");
    for (secs, nanos) in [(0, 0), (1_700_000_001, 123_456_789), (4_294_967_301, 999_999_999), (7_000_000_000, 1)] {
        utimens(&m.path("f"), (secs + 1, nanos), (secs, nanos)).unwrap();
        let f = fs::metadata(m.path("f")).unwrap();
        assert_eq!((f.mtime(), f.mtime_nsec(), f.atime(), f.atime_nsec()), (secs, nanos, secs + 1, nanos));
    }
    let m = m.remount(&[]);
    let f = fs::metadata(m.path("f")).unwrap();
    assert_eq!((f.mtime(), f.mtime_nsec()), (7_000_000_000, 1));
}

#[test]
fn whole_seconds_before_1970_are_kept() {
    let m = Fs::new();
    m.write("f", b"");
    utimens(&m.path("f"), (-5, 0), (-86_400, 0)).unwrap();
    let m = m.remount(&[]);
    let f = fs::metadata(m.path("f")).unwrap();
    assert_eq!((f.mtime(), f.mtime_nsec(), f.atime()), (-86_400, 0, -5));
}

#[test]
fn utime_omit_leaves_one_time_alone_and_utime_now_sets_it() {
    let m = Fs::new();
    m.write("f", b"");
    utimens(&m.path("f"), (10, 0), (20, 0)).unwrap();
    utimens(&m.path("f"), (0, libc::UTIME_OMIT), (30, 0)).unwrap();
    let f = fs::metadata(m.path("f")).unwrap();
    assert_eq!((f.atime(), f.mtime()), (10, 30));
    utimens(&m.path("f"), (0, libc::UTIME_OMIT), (0, libc::UTIME_NOW)).unwrap();
    let f = fs::metadata(m.path("f")).unwrap();
    assert!(f.atime() == 10 && f.mtime() > 1_700_000_000);
}

#[test]
fn a_set_mtime_outlives_pending_writes() {
    let m = Fs::new();
    let mut file = m.create("f");
    file.write_all(b"not yet stored").unwrap();
    utimens(&m.path("f"), (1, 0), (12_345, 678)).unwrap();
    drop(file);
    let m = m.remount(&[]);
    let f = fs::metadata(m.path("f")).unwrap();
    assert_eq!((f.mtime(), f.mtime_nsec()), (12_345, 678));
}

#[test]
fn explicit_times_need_ownership() {
    let m = Fs::new();
    m.write("f", b"");
    chmod(&m.path("f"), 0o666).unwrap();
    let path = m.path("f");
    as_user(nobody(), &[], || {
        assert_eq!(errno(utimens(&path, (1, 0), (1, 0))), libc::EPERM);
        utimens(&path, (0, libc::UTIME_NOW), (0, libc::UTIME_NOW)).unwrap();
    });
}

#[test]
fn ctime_moves_with_every_change() {
    let m = Fs::with(&[], &["--attr-cache", "0"]);
    m.write("f", b"");
    let ctime = || {
        let f = fs::metadata(m.path("f")).unwrap();
        (f.ctime(), f.ctime_nsec())
    };
    let mut last = ctime();
    let changes: [(&str, &dyn Fn()); 4] = [
        ("chmod", &|| chmod(&m.path("f"), 0o600).unwrap()),
        ("chown", &|| chown(m.path("f"), Some(1), None).unwrap()),
        ("link", &|| fs::hard_link(m.path("f"), m.path("g")).unwrap()),
        ("unlink", &|| fs::remove_file(m.path("g")).unwrap()),
    ];
    for (what, change) in changes {
        change();
        let now = ctime();
        assert!(now > last, "{what} moves ctime: {now:?} after {last:?}");
        last = now;
    }
}

#[test]
fn directories_record_changes_of_their_entries() {
    let m = Fs::with(&[], &["--skip-dir-mtime", "0s", "--attr-cache", "0", "--dir-entry-cache", "0"]);
    fs::create_dir(m.path("d")).unwrap();
    let mtime = || {
        let d = fs::metadata(m.path("d")).unwrap();
        (d.mtime(), d.mtime_nsec())
    };
    let first = mtime();
    m.write("d/f", b"");
    let second = mtime();
    fs::remove_file(m.path("d/f")).unwrap();
    assert!(first < second && second < mtime());
}

#[test]
fn access_answers_for_the_real_user() {
    let m = Fs::new();
    m.write("f", b"");
    chmod(&m.path("f"), 0o644).unwrap();
    let path = c_path(&m.path("f"));
    let access = |want| {
        // SAFETY: the path is NUL-terminated and lives through the call.
        cvt(unsafe { libc::access(path.as_ptr(), want) })
    };
    as_user(nobody(), &[], || {
        access(libc::R_OK).unwrap();
        assert_eq!(errno(access(libc::W_OK)), libc::EACCES);
    });
    assert_eq!(errno(access(libc::X_OK)), libc::EACCES, "nobody may execute it, not even root");
}
