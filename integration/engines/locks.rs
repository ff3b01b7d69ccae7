//! Locks exclude across mounts, on every engine, and carry what was written under them.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::support::{Engine, Kind, PATIENCE, Volume, cvt, errno, eventually};

on_every_engine!(locks_exclude_across_mounts, a_counter_under_a_lock_counts_every_step);

fn locks_exclude_across_mounts(kind: Kind) {
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &[]);
    let mounts = [volume.mount(&[]), volume.mount(&[])];
    fs::write(mounts[0].path("f"), [0; 100]).unwrap();
    let [here, there] =
        [0, 1].map(|m: usize| File::options().read(true).write(true).open(mounts[m].path("f")).unwrap());

    here.lock().unwrap();
    assert_eq!(errno(flock(&there, libc::LOCK_EX | libc::LOCK_NB)), libc::EWOULDBLOCK);
    assert_eq!(errno(flock(&there, libc::LOCK_SH | libc::LOCK_NB)), libc::EWOULDBLOCK);
    flock(&here, libc::LOCK_SH).unwrap();
    flock(&there, libc::LOCK_SH | libc::LOCK_NB).unwrap();
    assert_eq!(errno(flock(&here, libc::LOCK_EX | libc::LOCK_NB)), libc::EWOULDBLOCK);
    here.unlock().unwrap();
    there.unlock().unwrap();

    record(&here, libc::F_WRLCK, 10, 20).unwrap();
    record(&there, libc::F_WRLCK, 30, 10).unwrap();
    assert_eq!(errno(record(&there, libc::F_RDLCK, 29, 1)), libc::EAGAIN);
    assert_eq!(errno(record(&here, libc::F_WRLCK, 0, 0)), libc::EAGAIN);
    // Half of it is let go, and only that half is free.
    record(&here, libc::F_UNLCK, 20, 10).unwrap();
    record(&there, libc::F_RDLCK, 20, 10).unwrap();
    assert_eq!(errno(record(&there, libc::F_RDLCK, 19, 1)), libc::EAGAIN);
    // A close lets go of all of a process's records; it is asynchronous for those who wait.
    drop(here);
    eventually("the closed file's records", PATIENCE, || record(&there, libc::F_WRLCK, 0, 0).ok());
}

fn a_counter_under_a_lock_counts_every_step(kind: Kind) {
    const STEPS: u64 = 60;
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &[]);
    let mounts = [volume.mount(&[]), volume.mount(&[])];
    fs::write(mounts[0].path("counter"), 0u64.to_le_bytes()).unwrap();
    std::thread::scope(|scope| {
        for mounted in &mounts {
            scope.spawn(|| {
                for _ in 0..STEPS {
                    let file = File::options().read(true).write(true).open(mounted.path("counter")).unwrap();
                    file.lock().unwrap();
                    let mut n = [0; 8];
                    file.read_exact_at(&mut n, 0).unwrap();
                    file.write_all_at(&(u64::from_le_bytes(n) + 1).to_le_bytes(), 0).unwrap();
                    file.sync_all().unwrap();
                    file.unlock().unwrap();
                }
            });
        }
    });
    let n = fs::read(mounts[1].path("counter")).unwrap();
    assert_eq!(u64::from_le_bytes(n.try_into().unwrap()), 2 * STEPS);
}

pub(super) fn flock(file: &File, how: i32) -> std::io::Result<()> {
    // SAFETY: an open descriptor and a number.
    cvt(unsafe { libc::flock(file.as_raw_fd(), how) }).map(drop)
}

/// Takes or lets go a lock on a range of bytes, without waiting.
pub(super) fn record(file: &File, kind: i32, start: i64, len: i64) -> std::io::Result<()> {
    // SAFETY: all zeros is a valid flock.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    (range.l_type, range.l_whence) = (kind as i16, libc::SEEK_SET as i16);
    (range.l_start, range.l_len) = (start, len);
    // SAFETY: an open descriptor and a pointer to a valid structure.
    cvt(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &mut range) }).map(drop)
}
