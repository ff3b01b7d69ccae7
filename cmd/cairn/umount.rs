//! `cairn umount`: takes a mount away and waits until its process has saved everything. Once that
//! takes longer than a moment it says how much is left.

use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_env::Env;
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::farewell::{Process, Stage};
use crate::{control, mountpoint, units};

/// How long the process may say nothing while it saves what is left.
const PATIENCE: Duration = Duration::from_secs(300);
/// What is over sooner is not worth a word.
const SILENCE: Duration = Duration::from_secs(2);

/// The control message that uploads what is staged.
const DRAIN: u32 = 1901;

/// Flags of `umount`.
#[derive(Args, Debug)]
pub(crate) struct UmountArgs {
    /// Where it is mounted
    mountpoint: PathBuf,
    /// Unmount even if somebody uses it, and do not wait for what is still to be saved
    #[arg(short = 'f', long)]
    force: bool,
    /// Upload everything first that waits on this machine's disk, however long it takes
    #[arg(long)]
    flush: bool,
}

pub(crate) async fn run(args: UmountArgs) -> anyhow::Result<ExitCode> {
    let shown = args.mountpoint.display();
    // Not canonicalize: a dead mount answers nothing.
    let place = std::path::absolute(&args.mountpoint)?;
    let place = place.canonicalize().unwrap_or(place);
    match mountpoint::kind_at(&place) {
        None => bail!("{shown} is not a mount point"),
        Some(kind) if !kind.is_cairn() => bail!("{shown} is not a CairnFS mount (it is {})", kind.name),
        Some(_) => {}
    }
    let server = server_of(&place);
    if args.flush {
        flush(&place).await?;
    }
    if let Err(e) = mountpoint::unmount(&place, args.force) {
        match e.raw_os_error() {
            Some(libc::EBUSY) => bail!("{shown} is busy: close what uses it, or pass --force"),
            _ => return Err(e).with_context(|| format!("unmount {shown}")),
        }
    }
    if let Some(server) = server
        && !args.force
    {
        Env::real().blocking(move || server.ended()).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Uploads what waits on this machine's disk; on a terminal one line says how far it is.
async fn flush(place: &Path) -> anyhow::Result<()> {
    let env = Env::real();
    let begun = env.instant();
    let on_terminal = std::io::stderr().is_terminal();
    let mut last = String::new();
    let watch = |done: u64, total: u64| {
        last = progress_line(done, total, env.instant().duration_since(begun));
        if on_terminal {
            eprint!("\r\x1b[K{last}");
        }
    };
    let asked = control::ask(&env, place, &control::message(DRAIN, &[]), watch).await;
    if on_terminal && !last.is_empty() {
        eprintln!();
    } else if !last.is_empty() {
        eprintln!("{last}");
    }
    asked.map(drop).context("upload what waits on this machine's disk")
}

/// `12.0 MiB of 40.0 MiB uploaded, 3.0 MiB/s, 10 s left`
fn progress_line(done: u64, total: u64, elapsed: Duration) -> String {
    let speed = done as f64 / elapsed.as_secs_f64().max(0.001);
    let shown = |bytes: f64| units::short_bytes(bytes as u64);
    let left = match total.saturating_sub(done) {
        0 => "0 s".to_owned(),
        _ if done == 0 => "?".to_owned(),
        left => format!("{:.0} s", (left as f64 / speed).ceil()),
    };
    format!("{} of {} uploaded, {}/s, {left} left", shown(done as f64), shown(total as f64), shown(speed))
}

/// The process behind a mount.
struct Server {
    pid: Pid,
    pidfd: OwnedFd,
    /// What it says about its end, if we can hear it.
    process: Option<Process>,
}

/// The process behind the mount, if it is in our sight.
fn server_of(place: &Path) -> Option<Server> {
    let text = std::fs::read_to_string(control::internal(place, "config")?).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let pid = i32::try_from(config["Pid"].as_i64()?).ok()?;
    // In another PID namespace the number is somebody else.
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if name.trim() != "cairn" {
        return None;
    }
    let pid = Pid::from_raw(pid)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    Some(Server { pid, pidfd, process: Process::hear(pid.as_raw_nonzero().get().unsigned_abs()) })
}

impl Server {
    /// Waits for its end, and says on stderr what for.
    fn ended(mut self) -> anyhow::Result<()> {
        let quick = self.ends_within(SILENCE)?;
        if let Some(mut process) = self.process.take() {
            self.listen(&mut process, quick)?;
        } else if !quick {
            eprintln!("unmounted; waiting until everything is saved");
        }
        if quick || self.ends_within(PATIENCE)? {
            return Ok(());
        }
        bail!("unmounted, but its process has not saved everything after {PATIENCE:?}: see its log")
    }

    /// Repeats what it says until it says how it ended.
    fn listen(&self, process: &mut Process, silent: bool) -> anyhow::Result<()> {
        let mut advised = silent;
        loop {
            match process.next().context("listen to the process of the mount")? {
                Some(Stage::Saved) => return Ok(()),
                Some(Stage::Lost(reason)) => bail!("unmounted, but not everything was saved: {reason}"),
                None => bail!("unmounted, but its process ended before it said that everything was saved: see its log"),
                Some(Stage::Saving { bytes, files }) if !silent => {
                    let shown = units::short_bytes(bytes);
                    eprintln!("unmounted; waiting until the last {shown} of {files} files are saved");
                }
                Some(Stage::Saving { .. } | Stage::Serving) => continue,
            }
            if !std::mem::replace(&mut advised, true) {
                let pid = self.pid.as_raw_nonzero();
                eprintln!(
                    "its log says what stands in the way. Ctrl-C (or --force next time) stops waiting and lets process \
                     {pid} go on; `kill {pid}` makes it give up what is not saved"
                );
            }
        }
    }

    fn ends_within(&self, patience: Duration) -> anyhow::Result<bool> {
        let limit = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
        let polled = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&limit));
        Ok(polled.context("wait for the process of the mount")? > 0)
    }
}
