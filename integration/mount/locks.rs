//! flock(2) and fcntl(2) locks: between handles, between processes, waiting, interrupted, released on death.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::Fs;
use crate::support::{PATIENCE, cvt, errno, eventually};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn flock(file: &File, how: i32) -> io::Result<i32> {
    // SAFETY: a plain number and an open descriptor.
    cvt(unsafe { libc::flock(file.as_raw_fd(), how) })
}

fn range(kind: libc::c_int, start: i64, len: i64) -> libc::flock {
    // SAFETY: all-zero is a valid flock, and every field that matters is set.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence, lock.l_start, lock.l_len) = (kind as i16, libc::SEEK_SET as i16, start, len);
    lock
}

fn fcntl(file: &File, command: i32, lock: &mut libc::flock) -> io::Result<i32> {
    // SAFETY: the lock is valid for the length of the call.
    cvt(unsafe { libc::fcntl(file.as_raw_fd(), command, lock) })
}

/// Forks; the child runs `work` and ends with its answer.
fn fork(work: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the child only makes system calls on what was open before, and ends without unwinding.
    match unsafe { libc::fork() } {
        0 => {
            let code = work();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) }
        }
        pid => {
            assert!(pid > 0, "fork failed");
            pid
        }
    }
}

/// The exit code of a child; -N if signal N ended it.
fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: status is valid for writing; pid is our child.
    cvt(unsafe { libc::waitpid(pid, &mut status, 0) }).unwrap();
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
}

/// Waits until a process sleeps in the kernel, as it does when it waits for a lock.
fn until_blocked(pid: libc::pid_t) {
    eventually("the child waits", PATIENCE, || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = stat.rsplit(") ").next()?.chars().next()?;
        let wchan = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        (matches!(state, 'S' | 'D') && (wchan == "0" || wchan.contains("fuse") || wchan.contains("request")))
            .then_some(())
    });
}

/// A handler that does nothing, so that a signal interrupts and does not kill.
fn interruptible() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: a zeroed sigaction with a handler and no SA_RESTART is valid.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
    }
}

#[test]
fn flock_shares_readers_and_excludes_writers() {
    let m = Fs::new();
    m.write("f", b"");
    let (a, b) = (open(&m.path("f")), open(&m.path("f")));
    flock(&a, libc::LOCK_SH).unwrap();
    flock(&b, libc::LOCK_SH | libc::LOCK_NB).unwrap();
    assert_eq!(errno(flock(&b, libc::LOCK_EX | libc::LOCK_NB)), libc::EWOULDBLOCK);
    flock(&a, libc::LOCK_UN).unwrap();
    flock(&b, libc::LOCK_EX | libc::LOCK_NB).unwrap();
    assert_eq!(errno(flock(&a, libc::LOCK_SH | libc::LOCK_NB)), libc::EWOULDBLOCK);
    drop(b);
    // The kernel tells of the last close after close(2) has returned.
    eventually("closing releases", PATIENCE, || flock(&a, libc::LOCK_EX | libc::LOCK_NB).ok());
}

#[test]
fn a_blocked_flock_gets_the_lock_when_it_is_free() {
    let m = Fs::new();
    m.write("f", b"");
    let holder = open(&m.path("f"));
    flock(&holder, libc::LOCK_EX).unwrap();
    let waiter = open(&m.path("f"));
    let child = fork(|| i32::from(flock(&waiter, libc::LOCK_EX).is_err()));
    until_blocked(child);
    flock(&holder, libc::LOCK_UN).unwrap();
    assert_eq!(wait(child), 0);
}

#[test]
fn record_locks_cover_ranges_and_say_who_holds_them() {
    let m = Fs::new();
    m.write("f", &[0; 1000]);
    let file = open(&m.path("f"));
    fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 100, 50)).unwrap();
    fcntl(&file, libc::F_SETLK, &mut range(libc::F_RDLCK, 200, 0)).unwrap();
    let parent = std::process::id() as i32;
    let child = fork(|| {
        let mut found = range(libc::F_WRLCK, 0, 0);
        let told = fcntl(&file, libc::F_GETLK, &mut found).is_ok()
            && i32::from(found.l_type) == libc::F_WRLCK
            && (found.l_start, found.l_len, found.l_pid) == (100, 50, parent);
        let free = fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 100)).is_ok();
        let shared = fcntl(&file, libc::F_SETLK, &mut range(libc::F_RDLCK, 300, 10)).is_ok();
        let held = fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 120, 1)).is_err();
        i32::from(!told) | i32::from(!free) << 1 | i32::from(!shared) << 2 | i32::from(!held) << 3
    });
    assert_eq!(wait(child), 0, "bits: told, free, shared, held");
}

#[test]
fn a_blocked_record_lock_is_interrupted_by_a_signal() {
    let m = Fs::new();
    m.write("f", &[0; 10]);
    let file = open(&m.path("f"));
    fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 0)).unwrap();
    let child = fork(|| {
        interruptible();
        match fcntl(&file, libc::F_SETLKW, &mut range(libc::F_WRLCK, 0, 0)) {
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => 0,
            Err(_) => 1,
            Ok(_) => 2,
        }
    });
    until_blocked(child);
    // SAFETY: the child is ours and alive until waited for.
    cvt(unsafe { libc::kill(child, libc::SIGUSR1) }).unwrap();
    assert_eq!(wait(child), 0);
}

#[test]
fn a_process_that_waits_for_a_lock_can_be_killed() {
    let m = Fs::new();
    m.write("f", &[0; 10]);
    let file = open(&m.path("f"));
    fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 0)).unwrap();
    let child = fork(|| i32::from(fcntl(&file, libc::F_SETLKW, &mut range(libc::F_WRLCK, 0, 0)).is_ok()));
    until_blocked(child);
    // SAFETY: the child is ours and alive until waited for.
    cvt(unsafe { libc::kill(child, libc::SIGKILL) }).unwrap();
    assert_eq!(wait(child), -libc::SIGKILL);
    // The lock it waited for never became its own.
    fcntl(&file, libc::F_SETLK, &mut range(libc::F_UNLCK, 0, 0)).unwrap();
    let after = fork(|| i32::from(fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 0)).is_err()));
    assert_eq!(wait(after), 0);
}

#[test]
fn locks_of_a_dead_process_are_released() {
    let m = Fs::new();
    m.write("f", &[0; 10]);
    let path = m.path("f");
    let (read_end, write_end) = rustix::pipe::pipe().unwrap();
    let child = fork(|| {
        let file = open(&path);
        let locked =
            fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 0)).is_ok() && flock(&file, libc::LOCK_EX).is_ok();
        rustix::io::write(&write_end, &[u8::from(locked)]).ok();
        loop {
            // SAFETY: waits for the signal that ends this process.
            unsafe { libc::pause() };
        }
    });
    let mut locked = [0];
    rustix::io::read(&read_end, &mut locked).unwrap();
    assert_eq!(locked, [1]);
    let file = open(&path);
    assert!(fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 0)).is_err());
    // SAFETY: the child is ours and alive until waited for.
    cvt(unsafe { libc::kill(child, libc::SIGKILL) }).unwrap();
    assert_eq!(wait(child), -libc::SIGKILL);
    eventually("the locks are free", PATIENCE, || {
        let record = fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 0)).is_ok();
        (record && flock(&file, libc::LOCK_EX | libc::LOCK_NB).is_ok()).then_some(())
    });
}

#[test]
fn closing_any_descriptor_drops_the_process_s_record_locks() {
    let m = Fs::new();
    m.write("f", &[0; 10]);
    let file = open(&m.path("f"));
    fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 0)).unwrap();
    drop(open(&m.path("f")));
    let child = fork(|| i32::from(fcntl(&file, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 0)).is_err()));
    assert_eq!(wait(child), 0, "POSIX: any close drops them all");
}

#[test]
fn two_mounts_see_each_others_locks() {
    let m = Fs::new();
    m.write("f", &[0; 10]);
    let second = m.volume.path("second");
    std::fs::create_dir(&second).unwrap();
    let cache = m.volume.path("cache2");
    let other = crate::support::Mounted::start(&m.volume, &second, &["--cache-dir", cache.to_str().unwrap()]).unwrap();
    let (here, there) = (open(&m.path("f")), open(&other.path("f")));
    flock(&here, libc::LOCK_EX).unwrap();
    fcntl(&here, libc::F_SETLK, &mut range(libc::F_WRLCK, 0, 5)).unwrap();
    assert_eq!(errno(flock(&there, libc::LOCK_EX | libc::LOCK_NB)), libc::EWOULDBLOCK);
    assert!([libc::EAGAIN, libc::EACCES].contains(&errno(fcntl(
        &there,
        libc::F_SETLK,
        &mut range(libc::F_WRLCK, 4, 1)
    ))));
    drop(here);
    eventually("the other mount's lock", PATIENCE, || flock(&there, libc::LOCK_EX | libc::LOCK_NB).ok());
}
