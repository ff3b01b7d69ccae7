//! `cairn mount`: from flags to a served mount, until somebody unmounts it or tells us to stop.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use cairn::{Config, Volume};
use cairn_env::{Env, TaskSet};
use cairn_fuse::Mounted;
use cairn_types::Ino;
use cairn_vfs::Vfs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::farewell::{self, Stage};
use crate::mount_args::MountArgs;
use crate::mountpoint::{self, Existing};
use crate::{Global, daemon, logging, metrics_page, paths, runtime};

/// Descriptors this process may have open.
const FILES_MAX: u64 = 100_000;
/// After we took the mount away, those who still use it have this long to finish.
const FAREWELL: Duration = Duration::from_secs(3);
/// The kernel answers within this once it is mounted.
const FIRST_STAT: Duration = Duration::from_secs(30);
/// How often whoever waits for our end is told of progress.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Exit code of a client that must stop because its volume is gone, as the reference's.
const LOST: u8 = 11;

pub(crate) fn run(args: MountArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let (place, existing) = mountpoint::check(&args.mountpoint)?;
    let config = args.config(place.clone())?;
    refuse_inside(&place, &config)?;
    let log = paths::absolute(&args.log.clone().unwrap_or_else(paths::log_file));
    if args.background {
        mountpoint::refuse_inside(&place, "the log", &log)?;
        let shown = args.mountpoint.display().to_string();
        return match daemon::split(daemon::timeout()?)? {
            daemon::Side::Parent(Ok(volume)) => {
                crate::show(&format!("OK, {volume} is ready at {shown}\n"))?;
                Ok(ExitCode::SUCCESS)
            }
            daemon::Side::Parent(Err(e)) => {
                Err(e.context(format!("{shown} is not mounted (the log is {})", log.display())))
            }
            daemon::Side::Child(ready) => in_background(&args, global, config, existing, &log, ready),
        };
    }
    logging::start(global, None)?;
    serve(&args, config, existing, |_| {})
}

/// The child's life. It has no terminal: what went wrong is told to the parent or the log.
fn in_background(
    args: &MountArgs,
    global: &Global,
    config: Config,
    existing: Option<Existing>,
    log: &Path,
    ready: daemon::Ready,
) -> anyhow::Result<ExitCode> {
    let mut ready = Some(ready);
    let started = logging::start(global, Some(log));
    let served = started.and_then(|()| {
        serve(args, config, existing, |volume| {
            if let Some(ready) = ready.take() {
                ready.ok(volume);
            }
        })
    });
    if let Err(e) = &served {
        let reason = crate::secrets::masked(&format!("{e:#}"));
        tracing::error!("{reason}");
        if let Some(ready) = ready.take() {
            ready.failed(&reason);
        }
    }
    served
}

fn refuse_inside(place: &Path, config: &Config) -> anyhow::Result<()> {
    if let Some(file) = paths::sqlite_file(&config.meta_url) {
        mountpoint::refuse_inside(place, "the database", &file)?;
    }
    for dir in &config.cache.dirs {
        mountpoint::refuse_inside(place, "the cache directory", dir)?;
    }
    Ok(())
}

fn serve(
    args: &MountArgs,
    config: Config,
    existing: Option<Existing>,
    ready: impl FnOnce(&str),
) -> anyhow::Result<ExitCode> {
    prepare_process(args);
    let runtime = runtime()?;
    let handle = runtime.handle().clone();
    let outcome = runtime.block_on(async {
        let env = Env::real();
        // From here on a signal is ours to answer, even while we are still opening.
        let mut stop = Stop::new()?;
        let opened = tokio::select! {
            opened = Volume::open(&env, config.clone()) => opened?,
            () = stop.asked() => bail!("stopped by a signal before the volume was mounted"),
        };
        match attach(&env, args, &config, existing, &opened, handle).await {
            Ok(mounted) => {
                let tasks = TaskSet::new(env.clone());
                let code = attend(&env, args, opened, mounted, &tasks, stop, ready).await;
                tasks.stop().await;
                code
            }
            Err(e) => {
                opened.close().await.context("close the volume")?;
                Err(e)
            }
        }
    });
    // What still waits behind a lost store must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// What a file system's process asks of the system; each is worth having and none is necessary.
fn prepare_process(args: &MountArgs) {
    // Allocations of ours must not wait for pages that only we can write back.
    if let Err(e) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::debug!(error = %e, "PR_SET_IO_FLUSHER");
    }
    let had = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = had.maximum.unwrap_or(FILES_MAX);
    let is_root = rustix::process::geteuid().is_root();
    let wanted = rustix::process::Rlimit {
        current: Some(FILES_MAX.max(had.current.unwrap_or(FILES_MAX)).min(if is_root { u64::MAX } else { most })),
        maximum: Some(if is_root { most.max(FILES_MAX) } else { most }),
    };
    if let Err(e) = rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted) {
        tracing::debug!(error = %e, "raise the limit of open files");
    }
    if args.disable_transparent_hugepage
        && let Err(e) = rustix::thread::disable_transparent_huge_pages(true)
    {
        tracing::warn!(error = %e, "--disable-transparent-hugepage");
    }
    if is_root {
        // If memory runs out, somebody else goes first: behind us are other people's files.
        _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
        _ = rustix::process::setpriority_process(None, -19);
    }
}

/// Checks what only an open volume can tell, and mounts.
async fn attach(
    env: &Env,
    args: &MountArgs,
    config: &Config,
    existing: Option<Existing>,
    volume: &Volume,
    handle: tokio::runtime::Handle,
) -> anyhow::Result<Mounted> {
    let (format, place) = (volume.format(), &config.client.mountpoint);
    let shown = place.display();
    match existing {
        Some(other) if other.uuid != format.uuid => {
            bail!("{shown} is busy: volume {:?} is mounted there", other.name)
        }
        Some(_) if !args.force => {
            bail!("volume {:?} is mounted at {shown} already (--force mounts over it)", format.name)
        }
        _ => {}
    }
    let storage = config.storage.storage.as_deref().unwrap_or(&format.storage);
    let bucket = config.storage.bucket.as_deref().unwrap_or(&format.bucket);
    if storage == "file" {
        mountpoint::refuse_inside(place, "the bucket", bucket.strip_prefix("file://").unwrap_or(bucket).as_ref())?;
    }
    let mounted = cairn_fuse::mount(volume.vfs().clone(), handle, place, args.fuse(format)).map_err(explain)?;
    if let Err(e) = first_stat(env, place).await {
        _ = mounted.unmount(true);
        return Err(e);
    }
    Ok(mounted)
}

fn explain(e: cairn_fuse::Error) -> anyhow::Error {
    let advice = match &e {
        _ if !Path::new("/dev/fuse").exists() => {
            "this system has no /dev/fuse: load the fuse module, or give the container that device"
        }
        cairn_fuse::Error::Mount { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "mounting without root needs fusermount3: install the package fuse3"
        }
        cairn_fuse::Error::Mount { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "mounting needs root, or fusermount3 and access to /dev/fuse"
        }
        _ => return anyhow::Error::new(e),
    };
    anyhow::Error::new(e).context(advice)
}

/// The kernel and we have agreed once the root answers.
async fn first_stat(env: &Env, place: &Path) -> anyhow::Result<()> {
    let looked = place.to_owned();
    let stat = env.timeout(FIRST_STAT, env.blocking(move || looked.metadata())).await;
    match stat.context("the mount does not answer")? {
        Ok(root) if root.ino() == Ino::ROOT.0 => Ok(()),
        Ok(_) => bail!("something else was mounted at {} meanwhile", place.display()),
        Err(e) => Err(e).context("the mount does not answer"),
    }
}

/// Serves until the end, whoever brings it.
async fn attend(
    env: &Env,
    args: &MountArgs,
    volume: Volume,
    mounted: Mounted,
    tasks: &TaskSet,
    mut stop: Stop,
    ready: impl FnOnce(&str),
) -> anyhow::Result<ExitCode> {
    let (name, place) = (volume.format().name.clone(), mounted.mountpoint().to_owned());
    if !args.metrics.is_empty() {
        match metrics_page::start(env, tasks, &args.metrics, volume.exporter().clone()).await {
            Ok(address) => tracing::info!(%address, "metrics"),
            Err(e) => tracing::warn!("no metrics: {e:#}"),
        }
    }
    let (stage, told) = watch::channel(Stage::default());
    if let Err(e) = farewell::listen(tasks, &told) {
        tracing::warn!("`cairn umount` will not hear what is still to be saved: {e:#}");
    }
    tracing::info!(volume = %name, mountpoint = %place.display(), "mounted");
    ready(&name);
    let code = tokio::select! {
        ended = mounted.wait() => {
            if let Err(e) = ended {
                tracing::error!(error = %e, "the mount ended");
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            }
        }
        lost = volume.lost() => {
            tracing::error!(error = %lost, "this client must stop");
            take_away(env, &mounted).await;
            ExitCode::from(LOST)
        }
        () = stop.asked() => {
            tracing::info!("asked to stop: saving what is open");
            take_away(env, &mounted).await;
            ExitCode::SUCCESS
        }
    };
    let progress = saving(env, Arc::downgrade(volume.vfs()), &stage);
    tokio::select! {
        closed = volume.close() => match closed.context("something is not saved") {
            Ok(()) => _ = stage.send_replace(Stage::Saved),
            Err(e) => {
                _ = stage.send_replace(Stage::Lost(crate::secrets::masked(&format!("{e:#}"))));
                return Err(e);
            }
        },
        () = progress => unreachable!("it goes on until the volume is closed"),
        () = stop.asked() => {
            tracing::error!("told to stop again: leaving at once, what was not saved is lost");
            std::process::exit(1);
        }
    }
    tracing::info!(volume = %name, "closed");
    Ok(code)
}

/// Tells how much there is still to be saved, for ever.
async fn saving(env: &Env, vfs: Weak<Vfs>, stage: &watch::Sender<Stage>) {
    loop {
        if let Some(vfs) = vfs.upgrade() {
            let (files, bytes) = vfs.dirty();
            let now = Stage::Saving { bytes, files: files as u64 };
            stage.send_if_modified(|stage| std::mem::replace(stage, now.clone()) != now);
        }
        env.sleep(TELL_EVERY).await;
    }
}

/// Unmounts, even under those who use it, and gives what is under way a moment to end.
async fn take_away(env: &Env, mounted: &Mounted) {
    let outcome = match mounted.unmount(false) {
        Err(cairn_fuse::Error::Busy { .. }) => {
            tracing::warn!("the mount is in use: its users will get errors");
            mounted.unmount(true)
        }
        outcome => outcome,
    };
    match outcome {
        Ok(()) => _ = env.timeout(FAREWELL, mounted.wait()).await,
        Err(e) => tracing::error!(error = %e, "unmount"),
    }
}

/// SIGTERM, SIGINT and SIGHUP.
struct Stop {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Stop> {
        let on = |kind| signal(kind).context("listen for signals");
        Ok(Stop {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
            hup: on(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next one.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
            _ = self.hup.recv() => {}
        }
    }
}
