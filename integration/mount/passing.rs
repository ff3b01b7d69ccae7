//! Files that the kernel reads by itself: FUSE passthrough, and falling back from it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use super::Fs;
use crate::support::{PATIENCE, bytes, cvt, errno, eventually};

const FS_IOC_SETFLAGS: libc::c_ulong = 0x4008_6602;
const IMMUTABLE: libc::c_long = 0x10;
const LENGTH: usize = 3_000_001;

/// Whether this kernel and user can; where they cannot, the same calls must still give the same bytes.
fn can_pass() -> bool {
    let config = fs::read_to_string(format!("/boot/config-{}", release())).unwrap_or_default();
    let new_enough = {
        let mut parts = release().split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
        parts.truncate(2);
        parts >= vec![6, 9]
    };
    rustix::process::geteuid().is_root() && new_enough && !config.contains("# CONFIG_FUSE_PASSTHROUGH is not set")
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}

fn old(m: &Fs, name: &str) {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    File::options().write(true).open(m.path(name)).unwrap().set_modified(long_ago).unwrap();
}

fn images(m: &Fs) -> usize {
    let Ok(volumes) = fs::read_dir(m.volume.path("cache")) else { return 0 };
    let folders = volumes.map(|volume| volume.unwrap().path().join("images"));
    let names = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    names
        .filter(|name| {
            name.as_ref().is_ok_and(|n| {
                !n.file_name().to_string_lossy().ends_with('s') && !n.file_name().to_string_lossy().ends_with("tmp")
            })
        })
        .count()
}

/// Opens and reads `name` until it has an image.
fn with_image(m: &Fs, name: &str) {
    eventually("an image of the file", PATIENCE, || {
        assert!(m.read(name) == bytes(1, LENGTH));
        (images(m) == 1).then_some(())
    });
}

#[test]
fn on_a_read_only_mount_files_are_read_from_their_image() {
    let m = Fs::new();
    m.write("f", &bytes(1, LENGTH));
    old(&m, "f");
    let m = m.remount(&["--read-only"]);
    if !can_pass() {
        assert!(m.read("f") == bytes(1, LENGTH) && m.read("f") == bytes(1, LENGTH));
        return;
    }
    with_image(&m, "f");
    // With blocks and store gone, only the image is left to read from.
    let cache = m.volume.path("cache");
    for volume in fs::read_dir(&cache).unwrap() {
        fs::remove_dir_all(volume.unwrap().path().join("raw")).unwrap();
    }
    fs::rename(m.volume.store(), m.volume.path("aside")).unwrap();
    let (one, two) = (File::open(m.path("f")).unwrap(), File::open(m.path("f")).unwrap());
    let mut found = vec![0; LENGTH];
    for file in [&one, &two] {
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == bytes(1, LENGTH));
    }
    assert_eq!(one.read_at(&mut found, LENGTH as u64).unwrap(), 0, "the end is where it should be");
    drop((one, two));
    assert!(m.read("f") == bytes(1, LENGTH), "and once more after the last close");
    fs::rename(m.volume.path("aside"), m.volume.store()).unwrap();
}

#[test]
fn an_image_of_an_earlier_start_is_verified_and_a_damaged_one_never_read() {
    if !can_pass() {
        return;
    }
    let m = Fs::new();
    m.write("f", &bytes(1, LENGTH));
    old(&m, "f");
    let m = m.remount(&["--read-only"]);
    with_image(&m, "f");
    let m = m.remount(&["--read-only"]);
    for volume in fs::read_dir(m.volume.path("cache")).unwrap() {
        for name in fs::read_dir(volume.unwrap().path().join("images")).unwrap() {
            let path = name.unwrap().path();
            if path.extension().is_none_or(|e| e != "sums") {
                File::options().write(true).open(path).unwrap().write_all_at(b"wrong", 1_500_000).unwrap();
            }
        }
    }
    for _ in 0..20 {
        assert!(m.read("f") == bytes(1, LENGTH));
    }
    with_image(&m, "f");
    assert!(m.read("f") == bytes(1, LENGTH), "made anew");
}

#[test]
fn an_immutable_file_passes_through_and_one_that_is_not_does_not() {
    let m = Fs::with(&[], &["--enable-ioctl"]);
    for name in ["fixed", "free"] {
        m.write(name, &bytes(1, LENGTH));
        old(&m, name);
    }
    for _ in 0..5 {
        assert!(m.read("free") == bytes(1, LENGTH) && images(&m) == 0);
    }
    let flags = |flags: libc::c_long| {
        let file = File::open(m.path("fixed")).unwrap();
        // SAFETY: the flags are valid for reading; chattr(1) passes a long as well.
        cvt(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_SETFLAGS, &flags) }).unwrap();
    };
    flags(IMMUTABLE);
    if !can_pass() {
        assert!(m.read("fixed") == bytes(1, LENGTH));
        return flags(0);
    }
    with_image(&m, "fixed");
    let reader = File::open(m.path("fixed")).unwrap();
    flags(0);
    // Changeable again, but somebody reads it past us: writers are told, not fooled.
    assert_eq!(errno(OpenOptions::new().write(true).open(m.path("fixed"))), libc::ETXTBSY);
    assert_eq!(errno(OpenOptions::new().append(true).open(m.path("fixed"))), libc::ETXTBSY);
    drop(reader);
    let mut writer =
        eventually("the last reader is gone", PATIENCE, || OpenOptions::new().append(true).open(m.path("fixed")).ok());
    writer.write_all(b"more").unwrap();
    drop(writer);
    assert!(m.read("fixed") == [&bytes(1, LENGTH)[..], b"more"].concat());
    m.close();
}

#[test]
fn asked_for_all_files_pass_unless_somebody_writes() {
    let m = Fs::with(&[], &["--passthrough", "all"]);
    m.write("f", &bytes(1, LENGTH));
    if !can_pass() {
        assert!(m.read("f") == bytes(1, LENGTH));
        return m.close();
    }
    with_image(&m, "f");
    // A writer has it open: readers come to us, see what it writes, and nobody gets an error.
    let writer =
        eventually("no reader passes through", PATIENCE, || OpenOptions::new().write(true).open(m.path("f")).ok());
    let reader = File::open(m.path("f")).unwrap();
    writer.write_all_at(b"new", 0).unwrap();
    let mut found = [0; 3];
    reader.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"new");
    drop((writer, reader));
    let changed = [b"new", &bytes(1, LENGTH)[3..]].concat();
    for _ in 0..10 {
        assert!(m.read("f") == changed, "the old image is not the file any more");
    }
    // Cut by path while it is read past us.
    let reader = eventually("a new image", PATIENCE, || {
        let reader = File::open(m.path("f")).unwrap();
        fs::metadata(m.path("f")).unwrap();
        match OpenOptions::new().write(true).open(m.path("f")) {
            Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => Some(reader),
            _ => {
                assert!(m.read("f") == changed);
                None
            }
        }
    });
    let path = crate::support::c_path(&m.path("f"));
    // SAFETY: the path is NUL-terminated and outlives the call.
    assert_eq!(errno(cvt(unsafe { libc::truncate(path.as_ptr(), 5) })), libc::ETXTBSY);
    drop(reader);
    m.close();
}

#[test]
fn asked_for_none_there_is_none() {
    let m = Fs::new();
    m.write("f", &bytes(1, LENGTH));
    old(&m, "f");
    let m = m.remount(&["--read-only", "--passthrough", "off"]);
    for _ in 0..5 {
        assert!(m.read("f") == bytes(1, LENGTH));
    }
    assert_eq!(images(&m), 0);
}
