//! Mounting, waiting for the end, unmounting.
//!
//! Root mounts by mount(2), others through `fusermount3` (fuser chooses). The end of a session is
//! awaited by a thread of its own, and only after it does fuser let go of the mount: so that it never
//! unmounts what somebody else has put in the same place meanwhile.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use fuser::{Filesystem, InitFlags, KernelConfig, Session};
use tokio::sync::watch;

use crate::config::{Config, Extra};
use crate::notify::Notices;
use crate::{Error, Result};

/// Where a session with the kernel stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests are served.
    Serving,
    /// Unmounted, by whomever; everything was flushed as far as it could be.
    Ended,
    /// Ended, and not as it should: the reason.
    Failed(String),
}

/// A mounted volume. Dropping it does not unmount.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    /// `major:minor` of the mount, to know it from another in the same place.
    device: Option<String>,
    state: watch::Receiver<State>,
    notices: Notices,
}

impl Mounted {
    /// Waits until the session has ended and what it had under way is flushed.
    ///
    /// # Errors
    /// [`Error::Session`] if it did not end by being unmounted.
    pub async fn wait(&self) -> Result<()> {
        let mut state = self.state.clone();
        // The sender is gone only after the last state was set.
        let ended = state.wait_for(|state| *state != State::Serving).await.map(|state| state.clone());
        match ended {
            Ok(State::Failed(reason)) => Err(Error::Session { reason }),
            Ok(State::Ended | State::Serving) => Ok(()),
            Err(_) => Err(Error::Session { reason: "its thread is gone".into() }),
        }
    }

    /// How the session stands.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Where to ask the kernel to drop what it caches.
    pub fn notices(&self) -> Notices {
        self.notices.clone()
    }

    /// Unmounts; [`Mounted::wait`] then tells when everything is flushed. Blocks for a system call. `lazy`: takes it
    /// out of sight at once, and ends once nobody uses it any more.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody uses it and `lazy` is false. It then goes on as before.
    pub fn unmount(&self, lazy: bool) -> Result<()> {
        if self.state() != State::Serving || self.device != device_at(&self.mountpoint) {
            return Ok(());
        }
        let failed = |source| Error::Unmount { mountpoint: self.mountpoint.clone(), source };
        let path = CString::new(self.mountpoint.as_os_str().as_bytes()).map_err(|e| failed(e.into()))?;
        let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
        // SAFETY: `path` is a NUL-terminated string that outlives the call.
        if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
            return Ok(());
        }
        let err = io::Error::last_os_error();
        match err.raw_os_error() {
            Some(libc::EBUSY) => Err(Error::Busy { mountpoint: self.mountpoint.clone() }),
            Some(libc::EPERM) => self.fusermount(lazy),
            _ => Err(failed(err)),
        }
    }

    fn fusermount(&self, lazy: bool) -> Result<()> {
        let failed = |source| Error::Unmount { mountpoint: self.mountpoint.clone(), source };
        let how = if lazy { "-uz" } else { "-u" };
        let out = Command::new("fusermount3").args([how, "--"]).arg(&self.mountpoint).output().map_err(failed)?;
        let said = String::from_utf8_lossy(&out.stderr);
        match () {
            () if out.status.success() => Ok(()),
            () if said.contains("busy") => Err(Error::Busy { mountpoint: self.mountpoint.clone() }),
            () => Err(failed(io::Error::other(said.trim().to_owned()))),
        }
    }
}

/// Mounts `fs` and serves it in threads of its own.
pub(crate) fn start<F: Filesystem>(fs: F, mountpoint: &Path, session: &fuser::Config) -> Result<Mounted> {
    let failed = |source| Error::Mount { mountpoint: mountpoint.to_owned(), source };
    let path = mountpoint.canonicalize().map_err(failed)?;
    let running = Session::new(fs, &path, session).and_then(Session::spawn).map_err(failed)?;
    let notices = Notices::start(running.notifier()).map_err(failed)?;
    let (tell, state) = watch::channel(State::Serving);
    let ended = path.clone();
    thread::Builder::new()
        .name("cairn-session".into())
        .spawn(move || {
            let end = match running.join() {
                Ok(()) => State::Ended,
                // Reading a device that is gone is no error for fuser. This is its own umount(2) after the
                // last request, which met the one that ended the session half-way.
                Err(err) if err.raw_os_error() == Some(libc::ECONNABORTED) => State::Ended,
                Err(err) => State::Failed(err.to_string()),
            };
            tracing::info!(mountpoint = %ended.display(), ?end, "unmounted");
            tell.send_replace(end);
        })
        .map_err(failed)?;
    Ok(Mounted { device: device_at(&path), mountpoint: path, state, notices })
}

/// Agrees with the kernel on what both can do.
/// Answers what was agreed on.
pub(crate) fn negotiate(kernel: &mut KernelConfig, config: &Config, extra: Extra) -> InitFlags {
    let wanted = config.capabilities(kernel.capabilities(), extra);
    if let Err(lacking) = kernel.add_capabilities(wanted) {
        tracing::warn!(?lacking, "kernel lacks what it offered");
    }
    // Both are clamped by fuser to what it can receive; the kernel clamps further.
    if let Err(most) = kernel.set_max_write(config.max_write.max(4096)) {
        tracing::warn!(config.max_write, most, "max_write out of range");
        _ = kernel.set_max_write(most);
    }
    // Images lie on a file system of the first storey.
    _ = kernel.set_max_stack_depth(1);
    _ = kernel.set_max_background(config.max_background.max(1));
    wanted
}

/// `major:minor` of what is mounted at `path` (on top, if several), as /proc/self/mountinfo has it.
fn device_at(path: &Path) -> Option<String> {
    device_in(&fs::read(Path::new("/proc/self/mountinfo")).ok()?, path)
}

fn device_in(mountinfo: &[u8], path: &Path) -> Option<String> {
    let escaped = mountinfo_path(path.as_os_str().as_bytes());
    let lines = mountinfo.split(|b| *b == b'\n');
    // id, parent, major:minor, root, mount point, ...
    let mut here = lines.filter_map(|line| {
        let mut fields = line.split(|b| *b == b' ').skip(2);
        let device = fields.next()?;
        (fields.nth(1)? == escaped).then(|| String::from_utf8_lossy(device).into_owned())
    });
    here.by_ref().last()
}

/// A path as the kernel writes it into `/proc/self/mountinfo`: blanks and backslashes in octal.
pub fn mountinfo_path(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for b in path {
        match b {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{b:03o}").into_bytes()),
            _ => out.push(*b),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_of_a_path_is_found() {
        let info = b"1 0 0:10 / /mnt rw - ext4 x rw\n2 1 0:11 / /mnt rw - fuse.cairn y rw\n3 1 0:12 / /my\\040mnt rw - a b c\n";
        assert_eq!(device_in(info, Path::new("/mnt")).as_deref(), Some("0:11"));
        assert_eq!(device_in(info, Path::new("/my mnt")).as_deref(), Some("0:12"));
        assert_eq!(device_in(info, Path::new("/else")), None);
    }
}
