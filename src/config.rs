//! What a person may set about a mounted volume. Each setting says its unit, default and price.
//!
//! What the volume's format fixes (block size, codec, key layout) is stored with the volume and is
//! not here.

use std::path::PathBuf;
use std::time::Duration;

use cairn_cache::{ChecksumLevel, Eviction};
use cairn_crypt::Passphrase;
use cairn_meta::AtimeMode;

/// Everything about one client of one volume.
#[derive(Clone)]
pub struct Config {
    /// Where the metadata is. May hold a password: never logged.
    pub meta_url: String,
    /// This client as others see it.
    pub client: Client,
    /// How the object store is used.
    pub storage: Storage,
    /// Blocks kept nearby.
    pub cache: Cache,
    /// Whether this machine's disk may hold blocks for the store.
    pub write_back: WriteBack,
    /// Memory of the data path.
    pub data: Data,
    /// Work nobody waits for.
    pub jobs: Jobs,
    /// The virtual files of the root.
    pub internal: Internal,
    /// Files the kernel reads by itself.
    pub passthrough: Passthrough,
}

/// Files the kernel reads by itself, from plain images in the cache's first folder: at the page cache's own speed,
/// but an open file does not see what others change. Needs root and Linux 6.9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passthrough {
    /// None.
    Off,
    /// Immutable files, and all of a read-only mount that were left alone for a minute. Default.
    #[default]
    Auto,
    /// All that nobody has open for writing; meanwhile opening them for writing fails with ETXTBSY.
    All,
}

impl Passthrough {
    pub(crate) fn passable(self) -> Option<cairn_vfs::Passable> {
        match self {
            Passthrough::Off => None,
            Passthrough::Auto => Some(cairn_vfs::Passable::Unchanging),
            Passthrough::All => Some(cairn_vfs::Passable::All),
        }
    }
}

impl std::str::FromStr for Passthrough {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Ok(match s {
            "off" => Passthrough::Off,
            "auto" => Passthrough::Auto,
            "all" => Passthrough::All,
            _ => return Err(format!("unknown passthrough {s:?}: expected off, auto or all")),
        })
    }
}

/// This client as others see it.
#[derive(Clone, Debug)]
pub struct Client {
    /// Refuse every change, keep no session. Default: no.
    pub read_only: bool,
    /// Directory of the volume shown as the root. Made if it is missing. Default: the root.
    pub subdir: Option<String>,
    /// Where it is mounted, for the session's record.
    pub mountpoint: PathBuf,
    /// How often the session is refreshed and the setting read again. Default 12 s. A client counts
    /// as dead after five: shorter frees its locks sooner and costs the engine more.
    pub heartbeat: Duration,
    /// When reads are recorded. Default: never, since each record is a transaction.
    pub atime: AtimeMode,
    /// A directory's times are not moved again within this. Default 100 ms; 0 is exact and makes
    /// creates in one directory wait for each other on network engines.
    pub skip_dir_mtime: Duration,
    /// How long a directory's attributes may be those that our own last change left, without asking
    /// the engine. Default 1 s, as the kernel's own cache, whose time it should never exceed.
    pub own_attr_age: Duration,
}

/// How the object store is used. `None` means what the volume's setting says.
#[derive(Clone, Debug)]
pub struct Storage {
    /// Another driver than the volume's.
    pub storage: Option<String>,
    /// Another bucket than the volume's.
    pub bucket: Option<String>,
    /// Another storage class than the volume's.
    pub storage_class: Option<String>,
    /// For one attempt of a read. Default 60 s.
    pub get_timeout: Duration,
    /// For one attempt of a write. Default 60 s.
    pub put_timeout: Duration,
    /// Attempts after the first. Default 10.
    pub io_retries: u32,
    /// Uploads at a time. Default 20.
    pub max_uploads: u32,
    /// Downloads at a time. Default 200.
    pub max_downloads: u32,
    /// Mbit/s; 0: unlimited; `None`: the volume's.
    pub upload_limit: Option<u64>,
    /// Mbit/s; 0: unlimited; `None`: the volume's.
    pub download_limit: Option<u64>,
    /// Write, read and delete a probe before opening. Default: no.
    pub check: bool,
    /// What unlocks the private key of an encrypted volume. Default: none.
    pub passphrase: Passphrase,
}

/// Blocks kept nearby.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Folders, one a disk; the volume's UUID is added below. Empty: memory only.
    pub dirs: Vec<PathBuf>,
    /// Memory for whole blocks, bytes. Default 32 MiB: what comes from disk is in the kernel's cache.
    pub memory_bytes: u64,
    /// Disk over all folders, bytes. Default 100 GiB.
    pub disk_bytes: u64,
    /// Files over all folders; 0: no limit.
    pub disk_items: u64,
    /// Share of each file system that stays free. Default 0.1.
    pub free_space_ratio: f64,
    /// What is verified on a read. Default: every piece touched.
    pub checksum: ChecksumLevel,
    /// Who goes first.
    pub eviction: Eviction,
    /// Mode of cached files. Default 0600.
    pub file_mode: u32,
    /// Keep blocks just written, not only those read. Default: no.
    pub keep_written: bool,
}

/// Whether this machine's disk may hold blocks for the store.
#[derive(Clone, Debug)]
pub struct WriteBack {
    /// A file is synced once this disk has it; the store gets it later. Default: no. Faster, and it
    /// works while the store is away; others see a file's name and length before its bytes can be
    /// read there, and a disk that is lost takes with it what was not uploaded.
    pub enabled: bool,
    /// A block stays on the disk at least this long. Default 0. Longer saves the upload of what is
    /// soon overwritten or removed, and is longer at risk.
    pub upload_delay: Duration,
    /// Uploads only between these hours of the day, local time. Default: always.
    pub upload_hours: Option<(u8, u8)>,
    /// Only blocks shorter than this are staged, bytes; 0: all. Default 0.
    pub threshold_bytes: u64,
    /// Blocks being staged at a time; more go to the store at once. Default 1000.
    pub stage_writes_max: u64,
    /// Bytes that may wait for upload; 0: as many as the disk has room for. Default 0. Writers wait
    /// at the limit.
    pub staged_bytes_max: u64,
}

/// Memory of the data path.
#[derive(Clone, Debug)]
pub struct Data {
    /// Memory for unflushed writes and blocks in flight, bytes. Default 300 MiB. Writers wait once
    /// it is used up; a crash loses at most this much that was never synced.
    pub buffer_bytes: u64,
    /// Blocks that a random read may fetch whole. Default 1.
    pub prefetch: u32,
    /// Read ahead of one sequential reader at most, bytes; 0: as much as is worth while, within 40 % of the
    /// buffer for all readers.
    pub max_readahead_bytes: u64,
    /// Small writes share objects. Default: yes. Without it each run of a random write is an object of
    /// its own: more requests, no dead bytes.
    pub packs: bool,
}

/// Work nobody waits for.
#[derive(Clone, Debug)]
pub struct Jobs {
    /// Leave hourly jobs to other clients. Default: no.
    pub no_bgjob: bool,
    /// Deletions at a time; 0 leaves all deletion to other clients. Default 10.
    pub max_deletes: usize,
}

/// The virtual files of the root.
#[derive(Clone, Debug, Default)]
pub struct Internal {
    /// Leave them out of listings. Default: no.
    pub hide: bool,
    /// `.jfs.stats` instead of `.stats`. Default: no.
    pub prefix: bool,
    /// Labels put on every metric. Default: none.
    pub labels: Vec<(String, String)>,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Config {
    /// The defaults of a mount of the volume at `meta_url`.
    pub fn new(meta_url: &str) -> Config {
        Config {
            meta_url: meta_url.into(),
            client: Client {
                read_only: false,
                subdir: None,
                mountpoint: PathBuf::new(),
                heartbeat: Duration::from_secs(12),
                atime: AtimeMode::NoAtime,
                skip_dir_mtime: Duration::from_millis(100),
                own_attr_age: Duration::from_secs(1),
            },
            storage: Storage {
                storage: None,
                bucket: None,
                storage_class: None,
                get_timeout: Duration::from_secs(60),
                put_timeout: Duration::from_secs(60),
                io_retries: 10,
                max_uploads: 20,
                max_downloads: 200,
                upload_limit: None,
                download_limit: None,
                check: false,
                passphrase: Passphrase::default(),
            },
            cache: Cache {
                dirs: vec![],
                memory_bytes: 32 * MIB,
                disk_bytes: 100 * GIB,
                disk_items: 0,
                free_space_ratio: 0.1,
                checksum: ChecksumLevel::Extend,
                eviction: Eviction::default(),
                file_mode: 0o600,
                keep_written: false,
            },
            write_back: WriteBack {
                enabled: false,
                upload_delay: Duration::ZERO,
                upload_hours: None,
                threshold_bytes: 0,
                stage_writes_max: 1000,
                staged_bytes_max: 0,
            },
            data: Data { buffer_bytes: 300 * MIB, prefetch: 1, max_readahead_bytes: 0, packs: true },
            jobs: Jobs { no_bgjob: false, max_deletes: 10 },
            internal: Internal::default(),
            passthrough: Passthrough::default(),
        }
    }

    /// Everything that cannot work, at once. Empty: nothing found.
    pub fn complaints(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut must = |ok: bool, sentence: String| {
            if !ok {
                all.push(sentence);
            }
        };
        let beat = self.client.heartbeat;
        must(
            beat.is_zero() || (1..=600).contains(&beat.as_secs()),
            format!("the heartbeat must lie between 1 s and 10 min, not {beat:?}"),
        );
        let ratio = self.cache.free_space_ratio;
        must((0.0..1.0).contains(&ratio), format!("the free space ratio must lie between 0 and 1, not {ratio}"));
        must(self.storage.max_uploads > 0, "at least one upload must be allowed (max-uploads)".into());
        must(self.storage.max_downloads > 0, "at least one download must be allowed (max-downloads)".into());
        let least = cairn_chunk::Config::BUFFER_BYTES_MIN;
        must(
            self.data.buffer_bytes >= least,
            format!("the buffer must hold at least {} MiB (buffer-size)", least / MIB),
        );
        if self.write_back.enabled {
            let has_disk = !self.cache.dirs.is_empty() && self.cache.disk_bytes > 0;
            must(has_disk, "write-back needs a cache on a disk (cache-dir, cache-size)".into());
            must(!self.client.read_only, "a read-only mount has nothing to write back (writeback)".into());
        }
        let hours = self.write_back.upload_hours.unwrap_or_default();
        must(hours.0 < 24 && hours.1 < 24, "hours of the day go from 0 to 23 (upload-hours)".into());
        all
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("client", &self.client)
            .field("storage", &self.storage)
            .field("cache", &self.cache)
            .field("write_back", &self.write_back)
            .field("data", &self.data)
            .field("jobs", &self.jobs)
            .field("internal", &self.internal)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_every_complaint_is_told_at_once() {
        let mut config = Config::new("memkv://x");
        assert_eq!(config.complaints(), Vec::<String>::new());
        config.client.heartbeat = Duration::from_secs(3600);
        config.cache.free_space_ratio = 1.5;
        config.storage.max_uploads = 0;
        assert_eq!(config.complaints().len(), 3);
    }

    #[test]
    fn the_url_is_not_shown() {
        let text = format!("{:?}", Config::new("mysql://user:hunter2@(host)/db"));
        assert!(!text.contains("hunter2"), "{text}");
    }
}
