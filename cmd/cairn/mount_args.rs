//! Flags of `cairn mount`, and the settings they make.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use cairn::Config;
use cairn::config::{Cache, Client, Data, Internal, Jobs, Passthrough, Storage, WriteBack};
use cairn_cache::{ChecksumLevel, Eviction};
use cairn_meta::AtimeMode;
use clap::{Args, ValueEnum};

use crate::{paths, secrets, units};

/// Flags of `mount`, in the reference's groups.
#[derive(Args, Debug)]
pub(crate) struct MountArgs {
    /// Where the metadata is, e.g. sqlite3:///path/to/volume.db
    pub(crate) meta_url: String,
    /// Where to mount: a directory
    pub(crate) mountpoint: PathBuf,

    /// Run in the background, once mounted
    #[arg(short = 'd', long)]
    pub(crate) background: bool,
    #[arg(short = 'f', long, hide = true)]
    foreground: bool,
    /// Do not log to syslog (it never does)
    #[arg(long, hide = true)]
    no_syslog: bool,
    /// Log file of a mount in the background
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Mount over the same volume mounted there already
    #[arg(long)]
    pub(crate) force: bool,
    /// Leave .accesslog, .config, .stats out of listings
    #[arg(long)]
    hide_internal: bool,
    /// Ask the kernel not to use huge pages for this process
    #[arg(long)]
    pub(crate) disable_transparent_hugepage: bool,

    /// Serve extended attributes
    #[arg(long, help_heading = "FUSE options")]
    enable_xattr: bool,
    /// Serve security.capability; turns on extended attributes
    #[arg(long, help_heading = "FUSE options")]
    enable_cap: bool,
    /// Serve security.selinux; turns on extended attributes
    #[arg(long, help_heading = "FUSE options")]
    enable_selinux: bool,
    /// Serve chattr and lsattr
    #[arg(long, help_heading = "FUSE options")]
    enable_ioctl: bool,
    /// Treat root as uid:gid
    #[arg(long, value_name = "UID:GID", value_parser = units::squash, help_heading = "FUSE options")]
    root_squash: Option<(u32, u32)>,
    /// Treat everybody as uid:gid
    #[arg(long, value_name = "UID:GID", value_parser = units::squash, help_heading = "FUSE options")]
    all_squash: Option<(u32, u32)>,
    /// Call the internal files .jfs.stats and so on
    #[arg(long, help_heading = "FUSE options")]
    prefix_internal: bool,
    #[arg(long, hide = true)]
    non_default_permission: bool,
    /// Largest request (base KiB)
    #[arg(long, value_name = "SIZE", value_parser = units::kib_bytes, default_value = "1M", help_heading = "FUSE options")]
    max_fuse_io: u64,
    /// Umask of all new files, octal; that of the caller otherwise
    #[arg(long, value_name = "MODE", value_parser = units::octal, help_heading = "FUSE options")]
    umask: Option<u32>,
    /// Further mount options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS", help_heading = "FUSE options")]
    options: Vec<String>,

    /// Show this directory of the volume as the root
    #[arg(long, value_name = "DIR", help_heading = "Metadata options")]
    subdir: Option<String>,
    /// How often the session is refreshed and the setting read again
    #[arg(long, value_parser = units::duration, default_value = "12s", help_heading = "Metadata options")]
    heartbeat: Duration,
    /// Refuse every change
    #[arg(long, help_heading = "Metadata options")]
    read_only: bool,
    /// Leave clean-up and compaction to other clients
    #[arg(long, help_heading = "Metadata options")]
    no_bgjob: bool,
    /// When reads are recorded
    #[arg(long, value_enum, default_value = "noatime", help_heading = "Metadata options")]
    atime_mode: Atime,
    /// Do not move a directory's times again within this time
    #[arg(long, value_parser = units::duration, default_value = "100ms", help_heading = "Metadata options")]
    skip_dir_mtime: Duration,
    /// List names in order (they always are)
    #[arg(long, hide = true)]
    sort_dir: bool,

    /// How long the kernel keeps attributes
    #[arg(long, value_parser = units::duration, default_value = "1.0s", help_heading = "Metadata cache options")]
    attr_cache: Duration,
    /// How long the kernel keeps names of files
    #[arg(long, value_parser = units::duration, default_value = "1.0s", help_heading = "Metadata cache options")]
    entry_cache: Duration,
    /// How long the kernel keeps names of directories
    #[arg(long, value_parser = units::duration, default_value = "1.0s", help_heading = "Metadata cache options")]
    dir_entry_cache: Duration,
    /// How long the kernel remembers that a name is missing
    #[arg(long, value_parser = units::duration, default_value = "0", help_heading = "Metadata cache options")]
    negative_entry_cache: Duration,
    /// Let the kernel keep listings
    #[arg(long, help_heading = "Metadata cache options")]
    readdir_cache: bool,

    /// Another object storage driver than the volume's
    #[arg(long, help_heading = "Data storage options")]
    storage: Option<String>,
    /// Another bucket than the volume's
    #[arg(long, help_heading = "Data storage options")]
    bucket: Option<String>,
    /// Another storage class for new objects
    #[arg(long, help_heading = "Data storage options")]
    storage_class: Option<String>,
    /// Time for one attempt to read an object
    #[arg(long, value_parser = units::duration, default_value = "60s", help_heading = "Data storage options")]
    get_timeout: Duration,
    /// Time for one attempt to write an object
    #[arg(long, value_parser = units::duration, default_value = "60s", help_heading = "Data storage options")]
    put_timeout: Duration,
    /// Attempts after the first one
    #[arg(long, default_value_t = 10, help_heading = "Data storage options")]
    io_retries: u32,
    /// Uploads at a time
    #[arg(long, default_value_t = 20, help_heading = "Data storage options")]
    max_uploads: u32,
    /// Downloads at a time
    #[arg(long, default_value_t = 200, help_heading = "Data storage options")]
    max_downloads: u32,
    /// Deletions at a time; 0 leaves them to other clients
    #[arg(long, default_value_t = 10, help_heading = "Data storage options")]
    max_deletes: usize,
    /// Upload bandwidth, Mbit/s
    #[arg(long, value_parser = units::mbit, help_heading = "Data storage options")]
    upload_limit: Option<u64>,
    /// Download bandwidth, Mbit/s
    #[arg(long, value_parser = units::mbit, help_heading = "Data storage options")]
    download_limit: Option<u64>,
    /// Write, read and delete a test object first
    #[arg(long, help_heading = "Data storage options")]
    check_storage: bool,

    /// Memory for reads and writes in flight (base MiB)
    #[arg(long, value_parser = units::mib_bytes, default_value = "300M", help_heading = "Data cache options")]
    buffer_size: u64,
    /// Read ahead of one reader (base MiB); 0: eight blocks
    #[arg(long, value_parser = units::mib_bytes, default_value = "0", help_heading = "Data cache options")]
    max_readahead: u64,
    /// Blocks fetched whole behind random reads; 0: none
    #[arg(long, default_value_t = 1, help_heading = "Data cache options")]
    prefetch: u32,
    /// Sync files to this machine's disk and upload them later
    #[arg(long, help_heading = "Data storage options")]
    writeback: bool,
    /// With --writeback: leave a block on the disk at least this long
    #[arg(long, value_parser = units::duration, default_value = "0s", help_heading = "Data storage options")]
    upload_delay: Duration,
    /// With --writeback: upload only within these hours of the day, e.g. 23,4 or 9-17
    #[arg(long, value_name = "FROM-TO", value_parser = units::hours, help_heading = "Data storage options")]
    upload_hours: Option<(u8, u8)>,
    /// With --writeback: only for blocks smaller than this (base bytes); 0: for all
    #[arg(long, value_name = "SIZE", value_parser = units::bytes, default_value = "0", help_heading = "Data storage options")]
    writeback_threshold_size: u64,
    /// With --writeback: blocks written to the disk at a time; more go to the store at once
    #[arg(long, default_value_t = 1000, help_heading = "Data storage options")]
    max_stage_write: u64,
    /// With --writeback: bytes that may wait for upload (base MiB); writers wait beyond it; 0: no limit
    #[arg(long, value_name = "SIZE", value_parser = units::mib_bytes, default_value = "0", help_heading = "Data storage options")]
    staging_size: u64,
    /// Store each small write in an object of its own
    #[arg(long, help_heading = "Data cache options")]
    no_packs: bool,
    /// Cache directories, separated by colons; `/data*/cache` stands for one below each match;
    /// `memory` for none
    #[arg(long, value_name = "DIR[:DIR]", help_heading = "Data cache options")]
    cache_dir: Option<String>,
    /// Mode of cached files, octal
    #[arg(long, value_parser = units::octal, default_value = "0600", help_heading = "Data cache options")]
    cache_mode: u32,
    /// Cached bytes over all directories (base MiB)
    #[arg(long, value_parser = units::mib_bytes, default_value = "100G", help_heading = "Data cache options")]
    cache_size: u64,
    /// Cached blocks over all directories; 0: no limit
    #[arg(long, default_value_t = 0, help_heading = "Data cache options")]
    cache_items: u64,
    /// Share of the disk that stays free
    #[arg(long, default_value_t = 0.1, help_heading = "Data cache options")]
    free_space_ratio: f64,
    /// Keep blocks just written too
    #[arg(long, help_heading = "Data cache options")]
    cache_large_write: bool,
    /// What is verified of a cached block: none, full, shrink or extend
    #[arg(long, default_value = "extend", help_heading = "Data cache options")]
    verify_cache_checksum: ChecksumLevel,
    /// Who leaves a full cache: none, s3-fifo, 2-random or lru
    #[arg(long, default_value = "s3-fifo", help_heading = "Data cache options")]
    cache_eviction: Eviction,
    /// Files the kernel reads by itself (root, Linux 6.9): off, auto (unchanging ones), or all
    #[arg(long, default_value = "auto", help_heading = "Data cache options")]
    passthrough: Passthrough,

    /// Address of the metrics page; empty: none
    #[arg(long, value_name = "HOST:PORT", value_parser = units::address, default_value = "127.0.0.1:9567", help_heading = "Metrics options")]
    pub(crate) metrics: String,
    /// Labels for all metrics: key:value;key:value
    #[arg(long, help_heading = "Metrics options")]
    custom_labels: Option<String>,
    #[arg(long, hide = true)]
    no_usage_report: bool,
}

/// When reads are recorded.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Atime {
    Noatime,
    Relatime,
    Strictatime,
}

impl MountArgs {
    /// The volume's side of the flags. `mountpoint` is absolute.
    pub(crate) fn config(&self, mountpoint: PathBuf) -> anyhow::Result<Config> {
        let (dirs, memory_bytes) = self.cache_dirs()?;
        Ok(Config {
            meta_url: secrets::meta_url(&self.meta_url)?,
            client: Client {
                read_only: self.read_only || self.option_given("ro"),
                subdir: self.subdir.clone().filter(|s| !s.trim_matches('/').is_empty()),
                mountpoint,
                heartbeat: self.heartbeat,
                atime: match self.atime_mode {
                    Atime::Noatime => AtimeMode::NoAtime,
                    Atime::Relatime => AtimeMode::Relatime,
                    Atime::Strictatime => AtimeMode::Strict,
                },
                skip_dir_mtime: self.skip_dir_mtime,
                own_attr_age: self.attr_cache.min(Duration::from_secs(1)),
            },
            storage: Storage {
                storage: self.storage.clone(),
                bucket: self.bucket.clone().map(|b| self.absolute_bucket(b)),
                storage_class: self.storage_class.clone(),
                get_timeout: self.get_timeout,
                put_timeout: self.put_timeout,
                io_retries: self.io_retries,
                max_uploads: self.max_uploads,
                max_downloads: self.max_downloads,
                upload_limit: self.upload_limit,
                download_limit: self.download_limit,
                check: self.check_storage,
                passphrase: secrets::passphrase()?,
            },
            cache: Cache {
                disk_bytes: if dirs.is_empty() { 0 } else { self.cache_size },
                dirs,
                memory_bytes,
                disk_items: self.cache_items,
                free_space_ratio: self.free_space_ratio,
                checksum: self.verify_cache_checksum,
                eviction: self.cache_eviction,
                file_mode: self.cache_mode,
                keep_written: self.cache_large_write,
            },
            write_back: WriteBack {
                enabled: self.writeback,
                upload_delay: self.upload_delay,
                upload_hours: self.upload_hours,
                threshold_bytes: self.writeback_threshold_size,
                stage_writes_max: self.max_stage_write,
                staged_bytes_max: self.staging_size,
            },
            data: Data {
                buffer_bytes: self.buffer_size,
                prefetch: self.prefetch,
                max_readahead_bytes: self.max_readahead,
                packs: !self.no_packs,
            },
            jobs: Jobs { no_bgjob: self.no_bgjob, max_deletes: self.max_deletes },
            passthrough: self.passthrough,
            internal: Internal { hide: self.hide_internal, prefix: self.prefix_internal, labels: self.labels()? },
        })
    }

    /// The kernel's side of the flags.
    pub(crate) fn fuse(&self, format: &cairn_types::Format) -> cairn_fuse::Config {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        cairn_fuse::Config {
            fsname: format!("CairnFS:{}", format.name),
            subtype: "cairn".into(),
            allow_other: rustix::process::geteuid().is_root(),
            default_permissions: !self.non_default_permission,
            read_only: self.read_only,
            max_write: u32::try_from(self.max_fuse_io).unwrap_or(u32::MAX),
            threads: cores.clamp(2, 16),
            attr_timeout: self.attr_cache,
            entry_timeout: self.entry_cache,
            dir_entry_timeout: self.dir_entry_cache,
            negative_timeout: self.negative_entry_cache,
            readdir_cache: self.readdir_cache,
            enable_xattr: self.enable_xattr || self.enable_cap || self.enable_selinux,
            enable_cap: self.enable_cap,
            enable_selinux: self.enable_selinux,
            enable_ioctl: self.enable_ioctl,
            enable_acl: format.enable_acl,
            root_squash: self.root_squash,
            all_squash: self.all_squash,
            umask: self.umask.map(|m| m as u16),
            options: self.options.clone(),
            max_background: 64,
        }
    }

    fn option_given(&self, name: &str) -> bool {
        self.options.iter().flat_map(|o| o.split(',')).any(|o| o.trim() == name)
    }

    fn absolute_bucket(&self, bucket: String) -> String {
        match self.storage.as_deref() {
            None | Some("file") if !bucket.contains("://") => absolute_folder(&bucket),
            _ => bucket,
        }
    }

    /// Directories, and bytes of memory for blocks.
    fn cache_dirs(&self) -> anyhow::Result<(Vec<PathBuf>, u64)> {
        let defaults = Config::new("").cache;
        let Some(list) = &self.cache_dir else {
            return Ok((vec![paths::cache_dir()], defaults.memory_bytes.min(self.cache_size)));
        };
        if list == "memory" {
            return Ok((vec![], self.cache_size.min(self.buffer_size)));
        }
        let mut dirs = Vec::new();
        for pattern in list.split(':').filter(|d| !d.is_empty()) {
            dirs.extend(paths::expand(pattern).with_context(|| format!("--cache-dir {list}"))?);
        }
        // Patterns may overlap; the order is that of the reference.
        dirs.sort();
        dirs.dedup();
        match dirs.is_empty() {
            true if list.contains(paths::is_pattern) => bail!("--cache-dir {list}: no directory matches"),
            true => bail!("--cache-dir names no directory"),
            false => Ok((dirs, defaults.memory_bytes)),
        }
    }

    fn labels(&self) -> anyhow::Result<Vec<(String, String)>> {
        let text = self.custom_labels.as_deref().unwrap_or_default();
        let pairs = text.split(';').filter(|p| !p.is_empty());
        let split = pairs.map(|p| match p.split_once(':') {
            Some((k, v)) if !k.is_empty() => Ok((k.to_owned(), v.to_owned())),
            _ => bail!("--custom-labels {text:?}: expected key:value;key:value"),
        });
        split.collect()
    }
}

/// A folder given as a bucket: absolute, with the slash at its end that the format asks for.
pub(crate) fn absolute_folder(bucket: &str) -> String {
    let path = paths::absolute(bucket.strip_prefix("file://").unwrap_or(bucket).as_ref());
    format!("{}/", path.display().to_string().trim_end_matches('/'))
}
