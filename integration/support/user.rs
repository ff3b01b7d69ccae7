//! Being somebody else for the length of a call.

use std::io;

/// The uid and gid of an ordinary user.
pub(crate) fn nobody() -> (u32, u32) {
    (65534, 65534)
}

/// Runs `work` on a thread that has this user, this group and no others. The process stays root:
/// the calls below change the calling thread only, unlike libc's.
#[track_caller]
pub(crate) fn as_user<T: Send>((uid, gid): (u32, u32), groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let handle = scope.spawn(move || {
            become_user(uid, gid, groups).expect("these tests run as root");
            work()
        });
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: plain numbers, and a pointer that is valid for the length given beside it.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
            libc::syscall(libc::SYS_setresgid, gid, gid, gid),
            libc::syscall(libc::SYS_setresuid, uid, uid, uid),
        ]
    };
    if results.contains(&-1) { Err(io::Error::last_os_error()) } else { Ok(()) }
}
