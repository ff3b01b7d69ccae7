//! `cairn rmr`: removes trees, inside the mount process.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use cairn_env::Env;
use cairn_jobs::{Phase, Progress};
use clap::Args;

use crate::progress::Bars;
use crate::{Global, control};

/// Message type on `.control`.
const REMOVE: u32 = 1002;

/// Flags of `rmr`.
#[derive(Args, Debug)]
pub(crate) struct RmrArgs {
    /// What to remove
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Keep nothing in the trash; root only
    #[arg(long)]
    skip_trash: bool,
    /// Removals at a time
    #[arg(short = 'p', long, default_value_t = 50)]
    threads: u8,
}

pub(crate) async fn run(args: RmrArgs, global: &Global) -> anyhow::Result<ExitCode> {
    if args.skip_trash && !rustix::process::geteuid().is_root() {
        bail!("--skip-trash is for root only");
    }
    let env = Env::real();
    for path in &args.paths {
        let bars = Bars::new(&env, global, false);
        remove(&env, path, &args, &bars).await.with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(env: &Env, path: &Path, args: &RmrArgs, bars: &Bars) -> anyhow::Result<()> {
    if path.file_name().is_none() {
        bail!("{} ends in dots: name what is to be removed", path.display());
    }
    let path = control::real(path)?;
    path.symlink_metadata()?;
    if control::mount_of(&path).is_ok_and(|root| root == path) {
        bail!("{} is the root of a volume; name what is in it", path.display());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { bail!("a root cannot be removed") };
    let mountpoint = control::mount_of(parent)?;
    let name = name.as_bytes();
    let mut body = parent.metadata()?.ino().to_be_bytes().to_vec();
    body.push(u8::try_from(name.len()).context("name too long")?);
    body.extend(name);
    body.extend([u8::from(args.skip_trash), args.threads.max(1)]);
    let watch = |done, bytes| bars.watch(Progress { phase: Phase::Remove, done, total: None, bytes });
    control::ask(env, &mountpoint, &control::message(REMOVE, &body), watch).await?;
    Ok(())
}
