//! What all rows share: a volume, mounted for the whole run, and beside it the floor.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use cairn_env::Env;
use tempfile::TempDir;

use crate::daemon::{Daemon, cairn};
use crate::settings::Settings;

/// One run's things, in a folder that goes with it.
pub(crate) struct World {
    /// Time.
    pub(crate) env: Env,
    /// How large the run is.
    pub(crate) settings: Settings,
    /// The volume's daemon, the same from the first row to the last.
    pub(crate) ours: Daemon,
    /// The daemon that does nothing.
    pub(crate) null: Daemon,
    folder: TempDir,
}

impl World {
    /// Formats and mounts.
    pub(crate) fn start(settings: Settings) -> anyhow::Result<World> {
        let env = Env::real();
        let at = &settings.folder;
        let folder = tempfile::Builder::new().prefix("cairn-bench-").tempdir_in(at);
        let folder = folder.with_context(|| format!("make a folder in {}", at.display()))?;
        let url = format(folder.path(), "volume", &[])?;
        let ours = Daemon::cairn(&env, &url, &folder.path().join("mnt"), &folder.path().join("cache"), &[])?;
        let null = Daemon::null(&env, &folder.path().join("null"), None)?;
        Ok(World { env, settings, ours, null, folder })
    }

    /// A path in the run's folder, outside all mounts.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Formats one more volume with whatever `flags` say; its URL.
    pub(crate) fn format(&self, name: &str, flags: &[&str]) -> anyhow::Result<String> {
        format(self.folder.path(), name, flags)
    }

    /// Unmounts everything.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.null.stop()?;
        self.ours.stop()
    }
}

fn format(folder: &Path, name: &str, flags: &[&str]) -> anyhow::Result<String> {
    let url = format!("sqlite3://{}", database(folder, name).display());
    let store = folder.join(format!("{name}-store"));
    let out = cairn().args(["format", &url, name, "--storage", "file", "--bucket"]).arg(store).args(flags).output()?;
    ensure!(out.status.success(), "cairn format: {}", String::from_utf8_lossy(&out.stderr));
    Ok(url)
}

/// The file that holds the metadata of the volume of that name.
pub(crate) fn database(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.db"))
}
