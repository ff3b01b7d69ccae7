//! A mount of the real binary.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::command::binary;
use super::eventually::{PATIENCE, ends_within, eventually};
use super::volume::Volume;
use super::{c_path, cvt};

/// A running `cairn mount`. Dropping it unmounts and leaves no process behind.
pub(crate) struct Mounted {
    root: PathBuf,
    log: PathBuf,
    child: Child,
    pidfd: OwnedFd,
}

impl Mounted {
    /// Starts `cairn mount` in the foreground and waits for the mount, or for its end: then what it
    /// said is the error.
    pub(crate) fn start(volume: &Volume, root: &Path, flags: &[&str]) -> Result<Mounted, String> {
        assert!(Path::new("/dev/fuse").exists(), "no /dev/fuse: these tests need a kernel with FUSE (modprobe fuse)");
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = volume.path(&format!("{name}.log"));
        let said = File::create(&log).expect("the folder is ours");
        let mut table = MountTable::open();
        let mut command = binary();
        command.arg("mount").arg(volume.url()).arg(root);
        if !flags.contains(&"--cache-dir") {
            let cache = if name == "mnt" { "cache".to_owned() } else { format!("cache-{name}") };
            command.arg("--cache-dir").arg(volume.path(&cache));
        }
        if let Some(bucket) = volume.bucket() {
            command.args(["--bucket", bucket]);
        }
        command.args(flags).stdin(Stdio::null());
        command.stdout(said.try_clone().expect("a descriptor")).stderr(said);
        // SAFETY: prctl with plain numbers is safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // A test that is killed takes its daemon with it.
                cvt(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(drop)
            });
        }
        let child = command.spawn().expect("the binary under test starts");
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child has a pidfd");
        let mut mounted = Mounted { root: root.to_owned(), log, child, pidfd };
        if table.wait_for(root, &mounted.pidfd) {
            return Ok(mounted);
        }
        let ended = mounted.child.try_wait().expect("it is our child");
        let said = mounted.said();
        match ended {
            Some(status) => Err(format!("{said}\n({status})")),
            None => panic!("neither mounted nor ended within {PATIENCE:?}:\n{said}"),
        }
    }

    /// The mount point.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path below it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Everything the daemon has written to its terminal.
    pub(crate) fn said(&self) -> String {
        let mut text = String::new();
        let read = File::open(&self.log).and_then(|mut f| f.read_to_string(&mut text));
        read.map_or_else(|e| format!("(log unreadable: {e})"), |_| text)
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends the daemon a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("our child can be signalled");
    }

    /// Waits for the daemon's end.
    #[track_caller]
    pub(crate) fn wait(&mut self, patience: Duration) -> ExitStatus {
        assert!(ends_within(&self.pidfd, patience), "still running after {patience:?}:\n{}", self.said());
        self.child.wait().expect("it is our child")
    }

    /// `cairn umount`; the daemon must then end with 0.
    #[track_caller]
    pub(crate) fn unmount(mut self) {
        // A program that another test starts holds our files for the moment between fork and exec.
        eventually("nobody uses the mount", PATIENCE, || {
            let done = super::cairn([Path::new("umount"), &self.root]);
            if done.err.contains("is busy") {
                return None;
            }
            done.ok();
            Some(())
        });
        let status = self.wait(PATIENCE);
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.said());
        assert!(!is_mounted(&self.root), "still mounted after umount");
    }

    /// `kill -9`. The dead mount stays, so that nobody writes into the folder below it, until this
    /// is dropped.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the daemon of {} said\n{}\n---", self.root.display(), self.said());
        }
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            detach(&self.root);
            if ends_within(&self.pidfd, Duration::from_secs(10)) {
                self.child.wait().ok();
                return;
            }
        }
        self.kill();
        detach(&self.root);
    }
}

/// Takes a mount out of the tree, whatever its state.
fn detach(root: &Path) {
    let path = c_path(root);
    // SAFETY: a NUL-terminated path that lives until the call returns.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
}

/// Is there a mount at this very path?
pub(crate) fn is_mounted(root: &Path) -> bool {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    mounts_at(&text, root)
}

fn mounts_at(mountinfo: &str, root: &Path) -> bool {
    mountinfo.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == root))
}

/// The kernel's list of mounts, which tells of its changes.
struct MountTable(File);

impl MountTable {
    fn open() -> MountTable {
        MountTable(File::open("/proc/self/mountinfo").expect("proc is mounted"))
    }

    /// True once `root` is mounted; false if the process ended first, or nothing happened for long.
    fn wait_for(&mut self, root: &Path, pidfd: &OwnedFd) -> bool {
        eventually_by_events(|| {
            if is_mounted(root) {
                // The mount exists before the daemon answers; the first stat waits for it.
                return Some(std::fs::metadata(root).is_ok());
            }
            let mut fds = [
                PollFd::new(&self.0, PollFlags::PRI | PollFlags::ERR),
                PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
            ];
            let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            let woken = poll(&mut fds, Some(&limit)).unwrap_or(0);
            let ended = fds[1].revents().contains(PollFlags::IN);
            (woken == 0 || ended).then(|| is_mounted(root))
        })
    }
}

/// `eventually` for probes that wait themselves.
fn eventually_by_events<T>(probe: impl FnMut() -> Option<T>) -> T {
    eventually("a mount", PATIENCE * 2, probe)
}
