//! Processes that serve a mount.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cairn_env::Env;

use crate::null;
use crate::turns::rest;

/// The binary under test.
pub(crate) const CAIRN: &str = env!("CARGO_BIN_EXE_cairn");
/// How long a mount may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for a mount.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Units of CPU time in /proc, in a second: the same on every architecture.
const TICKS_PER_SEC: f64 = 100.0;

/// A process behind a mount. Dropping it unmounts.
pub(crate) struct Daemon {
    root: PathBuf,
    child: Child,
    is_null: bool,
}

impl Daemon {
    /// `cairn mount` with the cache in `cache`, and its default flags but for `flags`.
    pub(crate) fn cairn(env: &Env, url: &str, root: &Path, cache: &Path, flags: &[&str]) -> anyhow::Result<Daemon> {
        let log = File::create(root.with_extension("log"))?;
        let mut command = cairn();
        command.args(["mount", url]).arg(root).arg("--cache-dir").arg(cache).args(flags);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Daemon::start(env, command, root, false)
    }

    /// The file system that does nothing; what is written to it lands in `sink`.
    pub(crate) fn null(env: &Env, root: &Path, sink: Option<&Path>) -> anyhow::Result<Daemon> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(null::FLAG).arg(root).args(sink);
        // An interrupt from the terminal must not kill it: it ends by itself when we do.
        command.stdin(Stdio::piped()).process_group(0);
        Daemon::start(env, command, root, true)
    }

    fn start(env: &Env, mut command: Command, root: &Path, is_null: bool) -> anyhow::Result<Daemon> {
        fs::create_dir_all(root)?;
        let before = fs::metadata(root)?.dev();
        let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let daemon = Daemon { root: root.to_owned(), child, is_null };
        until_mounted(env, root, before)?;
        Ok(daemon)
    }

    /// The mount point.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// CPU time it has used.
    pub(crate) fn cpu_secs(&self) -> f64 {
        let text = fs::read_to_string(self.proc("stat")).unwrap_or_default();
        // The name stands in parentheses and may hold blanks; after it user time is the 12th field.
        let after_name = text.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS_PER_SEC
    }

    /// A line of /proc/PID/status that counts KiB, in MiB.
    pub(crate) fn memory_mib(&self, line: &str) -> anyhow::Result<f64> {
        let text = fs::read_to_string(self.proc("status"))?;
        let kib = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')?.split_whitespace().next());
        Ok(kib.with_context(|| format!("no {line} in /proc"))?.parse::<f64>()? / 1024.0)
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }

    /// Unmounts and waits for the process to end well.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.ask_to_stop()?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the daemon of {} ended with {status}", self.root.display());
        Ok(())
    }

    fn ask_to_stop(&mut self) -> anyhow::Result<()> {
        if self.is_null {
            drop(self.child.stdin.take());
            return Ok(());
        }
        let out = cairn().arg("umount").arg(&self.root).output()?;
        ensure!(out.status.success(), "cairn umount: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.ask_to_stop().is_ok() {
            _ = self.child.wait();
        }
    }
}

/// The binary under test, with nothing to run yet.
pub(crate) fn cairn() -> Command {
    Command::new(CAIRN)
}

/// Waits until something else than `before` is at `root`, and answers.
pub(crate) fn until_mounted(env: &Env, root: &Path, before: u64) -> anyhow::Result<()> {
    let start = env.instant();
    while fs::metadata(root).is_ok_and(|now| now.dev() == before) {
        if env.instant().duration_since(start) > PATIENCE {
            bail!("nothing mounted at {} within {PATIENCE:?}", root.display());
        }
        rest(LOOK_EVERY);
    }
    fs::metadata(root)?;
    Ok(())
}
