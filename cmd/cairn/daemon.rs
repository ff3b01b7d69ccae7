//! A mount in the background: the parent waits until the child says ready, or why not.
//!
//! The process forks before it has a second thread. A pipe carries one message: `ok` and the
//! volume's name, or `no` and the reason. A child that dies closes the pipe, which is an answer too.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};

/// Time a mount may take if `JFS_MOUNT_TIMEOUT` does not say, seconds.
const TIMEOUT_SECS: u64 = 10;

/// Which of the two this process is now.
pub(crate) enum Side {
    /// The one that was started; the child's answer decides its end.
    Parent(anyhow::Result<String>),
    /// The one that mounts.
    Child(Ready),
}

/// Where the child says how it went. Dropping it unsaid is a failure.
pub(crate) struct Ready(File);

impl Ready {
    /// The volume is mounted.
    pub(crate) fn ok(mut self, volume: &str) {
        // A parent that gave up does not need to know.
        _ = self.0.write_all(format!("ok{volume}").as_bytes());
    }

    /// It is not.
    pub(crate) fn failed(mut self, reason: &str) {
        _ = self.0.write_all(format!("no{reason}").as_bytes());
    }
}

/// How long the parent waits.
pub(crate) fn timeout() -> anyhow::Result<Duration> {
    match std::env::var("JFS_MOUNT_TIMEOUT") {
        Ok(text) => crate::units::duration(&text).map_err(|e| anyhow::anyhow!("JFS_MOUNT_TIMEOUT: {e}")),
        Err(_) => Ok(Duration::from_secs(TIMEOUT_SECS)),
    }
}

/// Forks. Must be called while the process has one thread.
pub(crate) fn split(patience: Duration) -> anyhow::Result<Side> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("make a pipe")?;
    // SAFETY: no other thread exists yet, so the child inherits no lock that nobody will release.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context("start the process in the background"),
        0 => {
            drop(read);
            detach()?;
            Ok(Side::Child(Ready(File::from(write))))
        }
        child => {
            drop(write);
            let child = Pid::from_raw(child).context("the child's number")?;
            Ok(Side::Parent(answer(read, child, patience)))
        }
    }
}

/// A session of its own, and no terminal.
fn detach() -> anyhow::Result<()> {
    rustix::process::setsid().context("leave the terminal's session")?;
    let null = File::options().read(true).write(true).open("/dev/null").context("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // The folder we were started in may be unmounted, or lie below the mount point.
    rustix::process::chdir("/").context("leave the working directory")
}

fn answer(pipe: OwnedFd, child: Pid, patience: Duration) -> anyhow::Result<String> {
    let limit = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    let mut polled = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
    loop {
        match poll(&mut polled, Some(&limit)) {
            Ok(0) => {
                _ = rustix::process::kill_process(child, Signal::TERM);
                bail!("not ready after {patience:?} (JFS_MOUNT_TIMEOUT sets how long to wait); given up");
            }
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("wait for the mount"),
        }
    }
    let mut said = String::new();
    File::from(pipe).read_to_string(&mut said).context("hear from the mount")?;
    match said.split_at_checked(2) {
        Some(("ok", volume)) => Ok(volume.to_owned()),
        Some(("no", reason)) => bail!("{reason}"),
        _ => bail!("the mount process ended without a word"),
    }
}
