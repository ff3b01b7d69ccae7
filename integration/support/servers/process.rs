//! One server process: started in the foreground as the right user, stopped by its pid.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::support::eventually::{PATIENCE, ends_within, eventually};

/// How long a server may take to end when it is asked to.
pub(super) const FAREWELL: Duration = Duration::from_secs(20);
/// Ports servers listen on: below those the kernel gives to clients, so that a server that was
/// stopped finds its port free when it starts again.
const PORTS: std::ops::Range<u16> = 17_000..32_000;

/// A running server. Dropping it ends it.
pub(super) struct Process {
    child: Child,
    pidfd: OwnedFd,
    farewell: Signal,
}

impl Process {
    /// Starts `command` with its output in `log`; it will be asked to end by `farewell`.
    ///
    /// The kernel sends it `farewell`, too, when the thread that starts it is gone.
    #[track_caller]
    pub(super) fn start(mut command: Command, log: &Path, farewell: Signal) -> Process {
        let said = File::options().create(true).append(true).open(log).expect("the folder is ours");
        command.current_dir("/").stdin(Stdio::null()).stdout(said.try_clone().expect("a descriptor")).stderr(said);
        let number = farewell.as_raw();
        // SAFETY: prctl and setpgid with plain numbers are safe between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // An interrupt from the terminal is for the test, which then ends its servers.
                libc::setpgid(0, 0);
                crate::support::cvt(libc::prctl(libc::PR_SET_PDEATHSIG, number)).map(drop)
            });
        }
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {:?}: {e}", command.get_program()));
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a child has a pidfd");
        Process { child, pidfd, farewell }
    }

    /// Its number.
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until `ready` has an answer. `None` if the process ended first: its port was taken.
    #[track_caller]
    pub(super) fn ready<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        eventually("a server answers", PATIENCE * 2, || {
            if self.has_ended() {
                return Some(None);
            }
            ready().map(Some)
        })
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our child can be signalled");
    }

    /// Asks it to end, and insists if it does not.
    pub(super) fn stop(mut self) {
        self.end();
    }

    /// `kill -9`.
    pub(super) fn kill(mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn end(&mut self) {
        if self.has_ended() {
            return;
        }
        // One that is frozen hears nothing.
        kill_process(self.pid(), Signal::CONT).ok();
        kill_process(self.pid(), self.farewell).ok();
        if !ends_within(&self.pidfd, FAREWELL) {
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port nobody listens on at this moment. Somebody may before its server does: starting is tried
/// again with another.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Each process begins somewhere else, and no port is given out twice by one.
    let first = (std::process::id() as u16).wrapping_mul(97);
    let count = PORTS.end - PORTS.start;
    (0..count)
        .map(|_| PORTS.start + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("no free port on the loopback")
}

/// Where a server's program is. Panics with what to do if it is nowhere.
#[track_caller]
pub(super) fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!("{name} is not installed, and this test needs it: run 'integration/tools/setup test', or 'apt-get install {package}'")
    })
}

/// A command that runs as `user` if we are root, else as ourselves: servers refuse to run as root.
#[track_caller]
pub(super) fn command_as(user: &str, program: &Path) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = ids(user);
        command.uid(uid).gid(gid);
    }
    command.current_dir("/");
    command
}

/// A folder that belongs to `user`, for nobody else.
#[track_caller]
pub(super) fn folder_of(user: &str, path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir(path).expect("the folder above is ours");
    fs::set_permissions(path, PermissionsExt::from_mode(0o700)).expect("it is ours");
    hand_to(user, path);
}

/// Makes `user` the owner, if we may.
#[track_caller]
pub(super) fn hand_to(user: &str, path: &Path) {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = ids(user);
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("root may");
    }
}

#[track_caller]
fn ids(user: &str) -> (u32, u32) {
    let text = fs::read_to_string("/etc/passwd").expect("there are users");
    let line = text.lines().find(|l| l.split(':').next() == Some(user));
    let line =
        line.unwrap_or_else(|| panic!("there is no user {user:?}: its server's package makes it (run 'make test')"));
    let number = |n| line.split(':').nth(n).and_then(|f| f.parse().ok()).expect("a number");
    (number(2), number(3))
}
