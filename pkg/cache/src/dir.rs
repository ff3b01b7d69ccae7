//! One cache directory: its files, what it may hold, and whether it still works.
//!
//! All calls but the cheap questions may wait for the disk: they run off the async threads.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cairn_crypt::Cipher;
use cairn_env::Env;
use cairn_types::{BlockKey, KeyLayout};
use parking_lot::Mutex;
use quick_cache::sync::Cache;

mod home;
mod scan;

use crate::block_file::{self, BlockFile, Fault};
use crate::index::{Index, weight};
use crate::room::{Excess, Limits};
use crate::stats::{Counters, add};
use crate::{ChecksumLevel, Eviction, sealed_file};

const RAW: &str = "raw";
const TMP_SUFFIX: &str = ".tmp";
/// Files kept open for reads that need no disk.
const OPEN_FILES_MAX: usize = 256;
/// Failures in a row after which a directory is taken out.
const FAILURES_MAX: u32 = 3;

const WRITABLE: u8 = 0;
const READ_ONLY: u8 = 1;
const OUT: u8 = 2;

/// How the files of a directory are written and read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    pub(crate) checksum: ChecksumLevel,
    pub(crate) eviction: Eviction,
    pub(crate) file_mode: u32,
    pub(crate) key_layout: KeyLayout,
}

/// One cache directory.
pub(crate) struct Dir {
    env: Env,
    path: PathBuf,
    lock: String,
    rules: Rules,
    /// What files are sealed with; `None`: they are plain.
    cipher: Option<Arc<Cipher>>,
    state: AtomicU8,
    failures: AtomicU32,
    told_full: AtomicBool,
    index: Mutex<Index>,
    scan: AtomicU32,
    /// A scan has seen everything: what the index lacks is not there.
    scanned: AtomicBool,
    open_files: Cache<BlockKey, Arc<BlockFile>>,
    counters: Arc<Counters>,
}

impl Dir {
    /// Makes the directory ready. One that cannot be written but has a `.lock` is read from only.
    pub(crate) fn open(
        env: Env,
        path: PathBuf,
        rules: Rules,
        cipher: Option<Arc<Cipher>>,
        counters: Arc<Counters>,
    ) -> io::Result<Dir> {
        let made = home::make_dirs(&path.join(RAW), rules.file_mode).and_then(|()| home::ensure_lock(&env, &path));
        let (lock, state) = match made {
            Ok(lock) => (lock, WRITABLE),
            Err(e) if is_read_only(&e) => (home::read_lock(&path)?.ok_or(e)?, READ_ONLY),
            Err(e) => return Err(e),
        };
        if state == READ_ONLY {
            tracing::warn!(dir = %path.display(), "cache directory cannot be written: only read from it");
        }
        Ok(Dir {
            env,
            path,
            lock,
            rules,
            cipher,
            state: AtomicU8::new(state),
            failures: AtomicU32::new(0),
            told_full: AtomicBool::new(false),
            index: Mutex::new(Index::new(rules.eviction)),
            scan: AtomicU32::new(0),
            scanned: AtomicBool::new(false),
            open_files: Cache::new(OPEN_FILES_MAX),
            counters,
        })
    }

    /// The text its place on the ring is computed from.
    pub(crate) fn lock_text(&self) -> &str {
        &self.lock
    }

    pub(crate) fn is_out(&self) -> bool {
        self.state.load(Acquire) == OUT
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.state.load(Acquire) == WRITABLE
    }

    /// May the block be here? Never waits.
    pub(crate) fn may_hold(&self, key: BlockKey) -> bool {
        !self.is_out() && (!self.scanned.load(Acquire) || self.index.lock().contains(key))
    }

    /// Has a scan seen everything?
    pub(crate) fn is_scanned(&self) -> bool {
        self.scanned.load(Acquire)
    }

    /// Is the block known to be here? Never waits.
    pub(crate) fn contains(&self, key: BlockKey) -> bool {
        !self.is_out() && self.index.lock().contains(key)
    }

    /// Bytes and files, as far as indexed.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let index = self.index.lock();
        (index.bytes(), index.len())
    }

    /// The bytes if the file is open and the kernel has them in memory. Never waits.
    pub(crate) fn read_now(&self, key: BlockKey, range: Range<u32>) -> Option<Bytes> {
        let file = self.open_files.get(&key)?;
        let bytes = file.read_nowait(range, self.rules.checksum)?.ok()?;
        let now = self.now_micros();
        if file.is_news(now) {
            self.index.lock().touch(key, now);
        }
        Some(bytes)
    }

    /// The bytes from disk, verified. A damaged file is removed.
    pub(crate) fn read(&self, key: BlockKey, range: Range<u32>) -> Option<Bytes> {
        let outcome = self.open_file(key).and_then(|file| file.read(range, self.rules.checksum));
        match outcome {
            Ok(bytes) => {
                self.failures.store(0, Relaxed);
                self.index.lock().insert(key, self.now_micros(), self.scan.load(Relaxed), false);
                Some(bytes)
            }
            Err(fault) => {
                self.forget(key);
                self.read_failed(key, fault);
                None
            }
        }
    }

    fn open_file(&self, key: BlockKey) -> Result<Arc<BlockFile>, Fault> {
        if let Some(file) = self.open_files.get(&key) {
            return Ok(file);
        }
        let path = self.file_path(key);
        let file = Arc::new(match &self.cipher {
            None => BlockFile::open(&path, key.len, self.rules.checksum)?,
            Some(cipher) => BlockFile::open_sealed(&path, key.len, cipher, &self.name(key))?,
        });
        self.open_files.insert(key, file.clone());
        Ok(file)
    }

    fn read_failed(&self, key: BlockKey, fault: Fault) {
        match fault {
            Fault::Damaged => {
                add(&self.counters.damaged, 1);
                tracing::warn!(%key, dir = %self.path.display(), "cached block is damaged: removed");
                self.unlink(key);
            }
            Fault::Io(e) if e.kind() == io::ErrorKind::NotFound => {}
            Fault::Io(e) => self.failed("read", &e),
        }
    }

    /// Writes a block, evicting others for it; dropped if there is no room or the disk refuses.
    pub(crate) fn store(&self, key: BlockKey, data: &[u8]) {
        if !self.is_writable() || self.contains(key) {
            return;
        }
        if !self.make_room(weight(key)) {
            add(&self.counters.disk_drops, 1);
            return;
        }
        match self.write_file(key, data) {
            // Another client is writing the same file: it will be there in a moment.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.index.lock().insert(key, self.now_micros(), self.scan.load(Relaxed), false);
            }
            Ok(()) => {
                self.failures.store(0, Relaxed);
                add(&self.counters.disk_writes, 1);
                add(&self.counters.disk_write_bytes, data.len() as u64);
                self.index.lock().insert(key, self.now_micros(), self.scan.load(Relaxed), false);
            }
            Err(e) => {
                add(&self.counters.disk_drops, 1);
                self.write_failed(key, &e);
            }
        }
    }

    fn write_file(&self, key: BlockKey, data: &[u8]) -> io::Result<()> {
        let path = self.file_path(key);
        let tmp = with_suffix(&path, TMP_SUFFIX);
        let mut file = self.create_tmp(&tmp)?;
        let written = match &self.cipher {
            None => block_file::write(&mut file, data, self.rules.checksum),
            Some(cipher) => sealed_file::write(&mut file, data, cipher, &self.name(key)),
        };
        let written = written.and_then(|()| fs::rename(&tmp, &path));
        if written.is_err() {
            self.remove_path(&tmp);
        }
        written
    }

    /// A new temporary file. Another client's young one is left alone: it is writing the same bytes.
    fn create_tmp(&self, tmp: &Path) -> io::Result<File> {
        let create = || OpenOptions::new().write(true).create_new(true).mode(self.rules.file_mode).open(tmp);
        match create() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Without its `.lock` the directory itself is gone (an unmounted disk): never make
                // it anew on whatever file system is below.
                fs::metadata(home::lock_path(&self.path))?;
                home::make_dirs(tmp.parent().expect("a file lies in a folder"), self.rules.file_mode)?;
                create()
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.is_stale(&fs::metadata(tmp)?) => {
                fs::remove_file(tmp)?;
                create()
            }
            other => other,
        }
    }

    fn write_failed(&self, key: BlockKey, e: &io::Error) {
        use io::ErrorKind::{NotFound, QuotaExceeded, StorageFull};
        match e.kind() {
            StorageFull | QuotaExceeded => {
                if !self.told_full.swap(true, Relaxed) {
                    tracing::warn!(dir = %self.path.display(), "cache directory is full");
                }
                self.evict(Excess { bytes: weight(key), items: 1 });
            }
            NotFound if !home::has_lock(&self.path) => self.take_out("it vanished"),
            _ if is_read_only(e) => {
                if self.state.compare_exchange(WRITABLE, READ_ONLY, Release, Relaxed).is_ok() {
                    add(&self.counters.disk_errors, 1);
                    tracing::warn!(dir = %self.path.display(), error = %e, "cache directory can no longer be written");
                }
            }
            _ => self.failed("write", e),
        }
    }

    /// Frees what a newcomer of `bytes` needs, by the limits and by what the file system has left.
    fn make_room(&self, bytes: u64) -> bool {
        let excess = self.excess(bytes);
        if excess.is_none() {
            return true;
        }
        self.evict(excess);
        self.fits(bytes)
    }

    fn excess(&self, bytes: u64) -> Excess {
        let (used, items) = self.usage();
        let by_limits = self.rules.limits.excess(used + bytes, items + u64::from(bytes > 0));
        by_limits.max(self.file_system_excess(bytes))
    }

    fn fits(&self, bytes: u64) -> bool {
        let (used, items) = self.usage();
        self.rules.limits.allow(used + bytes, items + u64::from(bytes > 0)) && self.file_system_excess(bytes).is_none()
    }

    fn file_system_excess(&self, bytes: u64) -> Excess {
        match rustix::fs::statvfs(&self.path) {
            Ok(fs) => self.rules.limits.file_system_excess(&fs, bytes),
            // The write that follows will meet the same trouble and say what it is.
            Err(_) => Excess::default(),
        }
    }

    fn evict(&self, mut excess: Excess) {
        while !excess.is_none() {
            let Some(key) = self.take_victim() else { return };
            let path = self.file_path(key);
            if fs::metadata(&path).is_ok_and(|meta| meta.nlink() > 1) {
                // Linked from `rawstaging` of another client: not to be evicted before it is uploaded.
                self.index.lock().insert(key, self.now_micros(), self.scan.load(Relaxed), true);
                continue;
            }
            self.open_files.remove(&key);
            self.remove_path(&path);
            add(&self.counters.evictions, 1);
            add(&self.counters.evicted_bytes, u64::from(key.len));
            excess.reduce(weight(key));
        }
    }

    fn take_victim(&self) -> Option<BlockKey> {
        let mut index = self.index.lock();
        let key = index.victim(|n| self.env.random_below(n))?;
        index.remove(key);
        Some(key)
    }

    /// Removes a block's file.
    pub(crate) fn remove(&self, key: BlockKey) {
        self.forget(key);
        if self.is_writable() {
            self.unlink(key);
        }
    }

    /// Forgets a block without touching its file. Never waits.
    pub(crate) fn forget(&self, key: BlockKey) {
        self.open_files.remove(&key);
        self.index.lock().remove(key);
    }

    fn unlink(&self, key: BlockKey) {
        self.remove_path(&self.file_path(key));
    }

    fn remove_path(&self, path: &Path) {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => self.failed("remove", &e),
            _ => {}
        }
    }

    fn failed(&self, action: &str, e: &io::Error) {
        add(&self.counters.disk_errors, 1);
        tracing::debug!(dir = %self.path.display(), action, error = %e, "cache directory failed");
        if self.failures.fetch_add(1, Relaxed) + 1 >= FAILURES_MAX {
            self.take_out(&format!("{action}: {e}"));
        }
    }

    /// Is the directory that was taken out the same as ever, and does it work again? If so it is in use
    /// from now on, and what it holds is found out anew.
    pub(crate) fn revive(&self) -> bool {
        let is_back = home::read_lock(&self.path).is_ok_and(|lock| lock.as_deref() == Some(&self.lock))
            && home::probe(&self.path, self.rules.file_mode).is_ok();
        if is_back {
            tracing::info!(dir = %self.path.display(), "cache directory works again");
            self.failures.store(0, Relaxed);
            self.scanned.store(false, Release);
            self.told_full.store(false, Relaxed);
            self.state.store(WRITABLE, Release);
        }
        is_back
    }

    /// Uses the directory no more, and says so once.
    pub(crate) fn take_out(&self, reason: &str) {
        if self.state.swap(OUT, Release) != OUT {
            add(&self.counters.dirs_failed, 1);
            tracing::warn!(dir = %self.path.display(), reason, "cache directory is taken out of use");
            self.open_files.clear();
            *self.index.lock() = Index::new(self.rules.eviction);
        }
    }

    fn file_path(&self, key: BlockKey) -> PathBuf {
        self.path.join(RAW).join(self.name(key))
    }

    fn name(&self, key: BlockKey) -> String {
        key.object_key(self.rules.key_layout)
    }

    fn now_micros(&self) -> u64 {
        micros(self.env.now())
    }
}

fn micros(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn is_read_only(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
