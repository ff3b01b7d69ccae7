//! `cairn umount`: takes a mount away and waits until its process has saved everything.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_env::Env;
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::{control, mountpoint};

/// How long the process may take to save what is left.
const PATIENCE: Duration = Duration::from_secs(300);

/// Flags of `umount`.
#[derive(Args, Debug)]
pub(crate) struct UmountArgs {
    /// Where it is mounted
    mountpoint: PathBuf,
    /// Unmount even if somebody uses it
    #[arg(short = 'f', long)]
    force: bool,
    /// Wait until everything is uploaded (it always does)
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
    if let Err(e) = mountpoint::unmount(&place, args.force) {
        match e.raw_os_error() {
            Some(libc::EBUSY) => bail!("{shown} is busy: close what uses it, or pass --force"),
            _ => return Err(e).with_context(|| format!("unmount {shown}")),
        }
    }
    if let Some(server) = server
        && !args.force
    {
        Env::real().blocking(move || ended(&server)).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The process behind the mount, if it is in our sight.
fn server_of(place: &Path) -> Option<rustix::fd::OwnedFd> {
    let text = std::fs::read_to_string(control::internal(place, "config")?).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let pid = i32::try_from(config["Pid"].as_i64()?).ok()?;
    // In another PID namespace the number is somebody else.
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if name.trim() != "cairn" {
        return None;
    }
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

fn ended(server: &rustix::fd::OwnedFd) -> anyhow::Result<()> {
    let mut polled = [PollFd::new(server, PollFlags::IN)];
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut polled, Some(&limit)) {
        Ok(0) => bail!("unmounted, but its process has not saved everything after {PATIENCE:?}: see its log"),
        Ok(_) => Ok(()),
        Err(e) => Err(e).context("wait for the process of the mount"),
    }
}
