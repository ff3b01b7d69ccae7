//! A running volume: built bottom up, stopped top down.
//!
//! Up: engine, setting, object store, cache, chunks, metadata, session, files, upkeep. Down: files
//! (everything dirty is stored and committed), upkeep, chunks, cache, session, engine.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cairn_cache::BlockCache;
use cairn_chunk::ChunkStore;
use cairn_crypt::Cipher;
use cairn_env::{Env, TaskSet};
use cairn_jobs::Upkeep;
use cairn_meta::txn::Engine;
use cairn_meta::{Cred, Meta, NewNode, StatFs};
use cairn_object::{Dials, ObjectStore};
use cairn_types::{Compression, FileType, Format, Ino};
use cairn_vfs::{Parts, Vfs};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

use crate::config::{Cache, Config, Storage};
use crate::control::Commands;
use crate::error::refused;
use crate::metrics::{Exporter, Sources};
use crate::storage::{Failing, Followed, bandwidth, check_bucket, check_supported};
use crate::{Result, keys, metrics, session, staging, storage};

/// Share of the buffer that read-ahead of all readers may use: most of what blocks on their way in may have, which
/// is half of it.
const READAHEAD_PERCENT: u64 = 40;
/// Behind the UUID, names the cache folder of an encrypted volume.
const SEALED_SUFFIX: &str = ".sealed";
/// A pack, at most.
const PACK_BYTES: u32 = 4 << 20;
/// A pack of a compressed volume, at most: a reader of one page fetches all of it.
const WHOLE_PACK_BYTES: u32 = 1 << 20;
/// Entries fetched at a time when a directory is listed.
const READDIR_PAGE: usize = 1000;

/// Space for images of whole files, on top of the cache's: a share of it in percent.
const IMAGES_PERCENT: u64 = 50;

/// How old usage in the metrics may be.
const USAGE_EVERY: Duration = Duration::from_secs(10);

/// Why a running client must stop.
pub type Lost = cairn_meta::Error;

/// A running volume. Close it with [`Volume::close`]; dropping it leaves what is dirty unsaved.
pub struct Volume {
    config: Config,
    format: Arc<Format>,
    meta: Arc<Meta>,
    store: Arc<dyn ObjectStore>,
    cache: Arc<BlockCache>,
    chunks: Arc<ChunkStore>,
    vfs: Arc<Vfs>,
    upkeep: Arc<Upkeep>,
    exporter: Exporter,
    tasks: TaskSet,
}

impl Volume {
    /// Opens the volume `config` names. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] with a sentence for whoever gave the settings; anything else is the words
    /// of the room that could not open.
    pub async fn open(env: &Env, config: Config) -> Result<Volume> {
        let complaints = config.complaints();
        if !complaints.is_empty() {
            return refused(complaints.join("; "));
        }
        let engine = open_engine(env, &config).await?;
        match Volume::over(env, engine.clone(), config).await {
            Ok(volume) => Ok(volume),
            Err(e) => {
                engine.close().await;
                Err(e)
            }
        }
    }

    async fn over(env: &Env, engine: Arc<dyn Engine>, config: Config) -> Result<Volume> {
        let format = crate::admin::load(env, &*engine).await?;
        check_supported(&format)?;
        let cipher = keys::cipher(env, &format, &config.storage.passphrase).await?;
        storage::check_owner(env, &format, &config.storage, cipher.as_ref(), Failing::Endure).await?;
        let dials = Dials::default();
        let (store, base) = storage::open_swappable(env, &format, &config.storage, &dials)?;
        if config.storage.check {
            check_bucket(env, &*store).await?;
        }
        let cache = open_cache(env, &config.cache, &format, cipher.clone())?;
        let meta = open_meta(env, engine, &config).await?;
        let staging::Opened { staging, recovered, highest } = staging::open(env, &config, &format, &meta).await?;
        if let Some(highest) = highest
            && meta.pass_slice_ids(highest).await?
        {
            tracing::error!(slice = highest.0, "the metadata is older than blocks on this disk: it was set back");
        }
        let chunk_config = chunk_config(&config, &format)?;
        let chunks =
            ChunkStore::with_staging(env.clone(), store.clone(), cache.clone(), chunk_config, cipher.clone(), staging);
        if !config.client.read_only {
            let info = session::info(env, &config.client.mountpoint, config.write_back.enabled);
            meta.start_session(info).await?;
            cairn_vfs::replay(&meta, &chunks, recovered).await?;
        }
        let upkeep = start_upkeep(env, &meta, &chunks, &config);
        let sources = Sources {
            env: env.clone(),
            usage: Arc::default(),
            cache: cache.clone(),
            chunks: chunks.clone(),
            upkeep: upkeep.clone(),
            vfs: Arc::new(OnceLock::new()),
        };
        let exporter = metrics::exporter(&sources, &dials, &format, &config);
        let tasks = TaskSet::new(env.clone());
        let control =
            Commands { meta: meta.clone(), upkeep: upkeep.clone(), chunks: chunks.clone(), tasks: tasks.clone() };
        let parts = Parts {
            stats: {
                let e = exporter.clone();
                Arc::new(move || e.stats_text())
            },
            config: {
                let (m, c) = (meta.clone(), config.clone());
                Arc::new(move || config_text(&m, &c))
            },
            control: Some(Arc::new(control)),
        };
        let vfs = Vfs::new(env, meta.clone(), chunks.clone(), parts, vfs_config(&config, &format));
        _ = sources.vfs.set(Arc::downgrade(&vfs));
        pass_through(&vfs, &config, &format);
        let volume = Volume {
            config,
            format,
            meta,
            store,
            cache,
            chunks,
            vfs,
            upkeep,
            exporter,
            tasks: TaskSet::new(env.clone()),
        };
        volume.follow_setting(env, dials, Followed { base, cipher });
        volume.follow_usage(sources.usage);
        crate::memory::follow(env, &volume.tasks, &volume.chunks);
        Ok(volume)
    }

    /// Applies what may change while mounted. Policy (trash, limits) is metadata's own; bandwidth,
    /// the bucket and its keys are turned here.
    fn follow_setting(&self, env: &Env, dials: Dials, store: Followed) {
        let (mut state, tasks) = (self.upkeep.state(), self.tasks.clone());
        let (env, storage, mut known) = (env.clone(), self.config.storage.clone(), self.format.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = tasks.stopping() => return,
                    changed = state.changed() => if changed.is_err() { return },
                }
                let stored = state.borrow_and_update().format.clone();
                let (up, down) = bandwidth(&stored, &storage);
                dials.bandwidth.set(up, down);
                tracing::info!(
                    upload_bytes_per_sec = up,
                    download_bytes_per_sec = down,
                    "the volume's setting changed"
                );
                match follow_store(&env, &store, &known, &stored, &storage).await {
                    Ok(format) => known = format,
                    Err(e) => tracing::error!(
                        error = %e,
                        "bucket or keys of the volume changed, but cannot be followed: this client goes on with the old \
                         ones"
                    ),
                }
            }
        });
    }

    /// Reads usage for the metrics now and then.
    fn follow_usage(&self, usage: Arc<Mutex<Option<StatFs>>>) {
        let (meta, tasks) = (self.meta.clone(), self.tasks.clone());
        self.tasks.spawn(async move {
            loop {
                match meta.statfs().await {
                    Ok(stat) => *usage.lock() = Some(stat),
                    Err(e) => tracing::debug!(error = %e, "usage for metrics"),
                }
                if !tasks.rest(USAGE_EVERY).await {
                    return;
                }
            }
        });
    }

    /// The files.
    pub fn vfs(&self) -> &Arc<Vfs> {
        &self.vfs
    }

    /// The metadata.
    pub fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    /// The object store, with all its decorators.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The setting as it was when the volume was opened, secrets in the clear.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// What a metrics page shows.
    pub fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// Resolves when this client must stop: the volume is gone or was formatted anew.
    pub async fn lost(&self) -> Lost {
        let mut state: watch::Receiver<_> = self.upkeep.state();
        loop {
            if let Some(lost) = state.borrow_and_update().lost.clone() {
                return lost;
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stores and commits everything, ends the session, closes files and connections.
    ///
    /// # Errors
    /// The first thing that could not be saved. The rest is closed all the same.
    pub async fn close(self) -> Result<()> {
        let saved = self.vfs.close().await;
        if self.chunks.is_draining() {
            self.chunks.drain(|_| {}).await;
        }
        self.tasks.stop().await;
        self.upkeep.stop().await;
        self.chunks.close().await;
        self.cache.close().await;
        let ended = self.meta.close_session().await;
        self.meta.close().await;
        saved?;
        Ok(ended?)
    }
}

/// Lets `store` follow the setting; the new one with secrets in the clear.
async fn follow_store(
    env: &Env,
    store: &Followed,
    known: &Format,
    stored: &Format,
    storage: &Storage,
) -> Result<Arc<Format>> {
    let format = crate::admin::opened(stored)?;
    if store.follow(env, (known, &format), storage).await? {
        tracing::info!(bucket = %store.base.describe(), "bucket or keys of the volume changed: this client uses the new ones");
    }
    Ok(Arc::new(format))
}

async fn open_engine(env: &Env, config: &Config) -> Result<Arc<dyn Engine>> {
    let options = cairn_meta::engine::Options { create: false, read_only: config.client.read_only };
    Ok(cairn_meta::engine::open(env.clone(), &config.meta_url, options).await?)
}

/// The cache of an encrypted volume lies beside the one of JuiceFS, which keeps blocks in clear.
fn open_cache(env: &Env, cache: &Cache, format: &Format, cipher: Option<Arc<Cipher>>) -> Result<Arc<BlockCache>> {
    let mut dirs: Vec<PathBuf> = cache.dirs.iter().map(|d| d.join(&format.uuid)).collect();
    if cipher.is_some() {
        dirs = cache.dirs.iter().map(|d| d.join(format!("{}{SEALED_SUFFIX}", format.uuid))).collect();
    }
    let config = cairn_cache::Config {
        dirs,
        memory_bytes: cache.memory_bytes,
        disk_bytes: cache.disk_bytes,
        disk_items: cache.disk_items,
        free_space_ratio: cache.free_space_ratio,
        checksum: cache.checksum,
        eviction: cache.eviction,
        file_mode: cache.file_mode,
        key_layout: format.key_layout(),
    };
    Ok(BlockCache::with_cipher(env.clone(), config, cipher)?)
}

/// Lets files be read from images by the kernel itself, where that is wanted and may be: as root, and with
/// plain bytes on the cache's disk.
fn pass_through(vfs: &Vfs, config: &Config, format: &Format) {
    let Some(passable) = config.passthrough.passable() else { return };
    let Some(dir) = config.cache.dirs.first() else { return };
    if !rustix::process::geteuid().is_root() || !format.encrypt_key.is_empty() || config.cache.disk_bytes == 0 {
        return;
    }
    let folder = dir.join(&format.uuid).join("images");
    let bytes_max = config.cache.disk_bytes / 100 * IMAGES_PERCENT;
    match cairn_cache::Images::open(folder.clone(), bytes_max, config.cache.free_space_ratio) {
        Ok(images) => vfs.pass_through(images, passable),
        Err(error) => tracing::info!(folder = %folder.display(), %error, "no images of files: all reads come here"),
    }
}

pub(crate) fn chunk_config(config: &Config, format: &Format) -> Result<cairn_chunk::Config> {
    Ok(cairn_chunk::Config {
        block_bytes: format.block_bytes(),
        compression: format.compression().or_else(refused)?,
        key_layout: format.key_layout(),
        buffer_bytes: config.data.buffer_bytes,
        prefetch: config.data.prefetch,
        max_readahead: readahead(config).1,
        cache_full_blocks: config.cache.keep_written,
    })
}

/// Read-ahead of one reader and of all, bytes.
fn readahead(config: &Config) -> (u64, u64) {
    let total = config.data.buffer_bytes / 100 * READAHEAD_PERCENT;
    let one = match config.data.max_readahead_bytes {
        0 => total,
        set => set,
    };
    (one.min(total), total)
}

/// Small writes share at most one block; where a part cannot be read without the whole, at most
/// [`WHOLE_PACK_BYTES`].
fn pack_bytes(config: &Config, format: &Format) -> u32 {
    let parts_are_readable = matches!(format.compression(), Ok(Compression::None)) && format.encrypt_key.is_empty();
    let most = if parts_are_readable { PACK_BYTES } else { WHOLE_PACK_BYTES };
    if config.data.packs { format.block_bytes().min(most) } else { 0 }
}

fn vfs_config(config: &Config, format: &Format) -> cairn_vfs::Config {
    let (one, total) = readahead(config);
    cairn_vfs::Config {
        readahead_max_bytes: one,
        readahead_total_bytes: total,
        flush_age: Duration::from_secs(5),
        flush_idle: Duration::from_secs(1),
        reupload_age: Duration::from_secs(30 * 60),
        pack_bytes: pack_bytes(config, format),
        read_retries: 3,
        readdir_page: READDIR_PAGE,
        hide_internal: config.internal.hide,
        prefix_internal: config.internal.prefix,
        subdir: config.client.subdir.is_some(),
    }
}

async fn open_meta(env: &Env, engine: Arc<dyn Engine>, config: &Config) -> Result<Arc<Meta>> {
    let mut settings = cairn_meta::Config {
        read_only: config.client.read_only,
        skip_dir_mtime: config.client.skip_dir_mtime,
        own_attr_age: config.client.own_attr_age,
        atime_mode: config.client.atime,
        heartbeat: config.client.heartbeat,
        ..cairn_meta::Config::mount()
    };
    if let Some(path) = &config.client.subdir {
        let whole = Meta::open(env.clone(), engine.clone(), settings.clone()).await?;
        settings.root = subdir(&whole, path, config.client.read_only).await?;
    }
    Ok(Meta::open(env.clone(), engine, settings).await?)
}

/// The directory at `path`; made, as far as it is missing, unless this client may not write.
async fn subdir(meta: &Meta, path: &str, read_only: bool) -> Result<Ino> {
    let mut here = Ino::ROOT;
    for name in path.split('/').filter(|n| !n.is_empty() && *n != ".") {
        let found = match meta.lookup(&Cred::root(), here, name.as_bytes()).await {
            Err(cairn_meta::Error::NoEntry) if !read_only => {
                meta.mknod(&Cred::root(), here, name.as_bytes(), directory()).await
            }
            found => found,
        };
        match found {
            Ok((ino, attr)) if attr.kind == FileType::Directory => here = ino,
            Ok(_) => return refused(format!("--subdir {path}: {name} is not a directory")),
            Err(cairn_meta::Error::NoEntry) => return refused(format!("--subdir {path}: {name} does not exist")),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(here)
}

fn directory() -> NewNode {
    NewNode { kind: FileType::Directory, mode: 0o777, umask: 0, rdev: 0, target: Vec::new() }
}

fn start_upkeep(env: &Env, meta: &Arc<Meta>, chunks: &Arc<ChunkStore>, config: &Config) -> Arc<Upkeep> {
    let jobs = cairn_jobs::Config {
        no_bgjob: config.jobs.no_bgjob,
        max_deletes: config.jobs.max_deletes,
        ..cairn_jobs::Config::mount()
    };
    Arc::new(Upkeep::start(env.clone(), meta.clone(), chunks.clone(), jobs))
}

/// `.config`: how commands and drivers recognise a mount, and what it was mounted with.
fn config_text(meta: &Meta, config: &Config) -> String {
    let format = meta.format().masked();
    let shown = json!({
        "Meta": {
            "Sid": meta.sid().map_or(0, |s| s.0),
            "ReadOnly": config.client.read_only,
            "Subdir": config.client.subdir.clone().unwrap_or_default(),
            "Heartbeat": config.client.heartbeat.as_nanos() as u64,
            "NoBGJob": config.jobs.no_bgjob,
        },
        "Format": format,
        "Chunk": {
            "CacheDir": config.cache.dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(":"),
            "CacheSize": config.cache.disk_bytes,
            "FreeSpace": config.cache.free_space_ratio,
            "BlockSize": format.block_bytes(),
            "Compress": format.compression,
            "MaxUpload": config.storage.max_uploads,
            "BufferSize": config.data.buffer_bytes,
            "Prefetch": config.data.prefetch,
        },
        "Version": crate::presented_version(),
        "Mountpoint": config.client.mountpoint.display().to_string(),
        "Pid": std::process::id(),
        "PPid": rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get()),
    });
    let mut text = serde_json::to_string_pretty(&shown).expect("string keys only");
    text.push('\n');
    text
}
