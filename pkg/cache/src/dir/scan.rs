//! Finding out what a directory holds, while it is in use.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, UNIX_EPOCH};

use cairn_types::BlockKey;

use super::{Dir, RAW, TMP_SUFFIX, home, micros};

/// A `.tmp` this old belongs to nobody any more.
const TMP_AGE_MAX: Duration = Duration::from_secs(60);

impl Dir {
    /// Brings the index up to date with the files; ends early when `stop` says so.
    pub(crate) fn scan(&self, stop: &dyn Fn() -> bool) {
        if !home::has_lock(&self.path) {
            return self.take_out("it vanished");
        }
        let scan = self.scan.fetch_add(1, Relaxed) + 1;
        match self.walk(&self.path.join(RAW).join("chunks"), "chunks", 2, scan, stop) {
            Ok(true) => {
                self.index.lock().forget_before(scan);
                self.scanned.store(true, Release);
                if self.is_writable() {
                    self.make_room(0);
                }
            }
            Ok(false) => {}
            Err(e) => self.failed("scan", &e),
        }
    }

    /// `false` if it was stopped.
    fn walk(&self, at: &Path, name: &str, depth: u32, scan: u32, stop: &dyn Fn() -> bool) -> io::Result<bool> {
        let entries = match fs::read_dir(at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            entries => entries?,
        };
        if stop() || self.is_out() {
            return Ok(false);
        }
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Some(child) = entry.file_name().to_str().map(|s| format!("{name}/{s}")) else { continue };
            if depth == 0 {
                files.extend(self.examine(&entry, &child)?);
            } else if entry.file_type()?.is_dir() && !self.walk(&entry.path(), &child, depth - 1, scan, stop)? {
                return Ok(false);
            }
        }
        let mut index = self.index.lock();
        files.into_iter().for_each(|(key, used_at, pinned)| index.found(key, used_at, scan, pinned));
        Ok(true)
    }

    /// A file as the index wants it: key, last use, linked elsewhere. Removes what nobody finishes.
    fn examine(&self, entry: &fs::DirEntry, name: &str) -> io::Result<Option<(BlockKey, u64, bool)>> {
        let key = BlockKey::parse_object_key(name).filter(|key| key.object_key(self.rules.key_layout) == name);
        if key.is_none() && !name.ends_with(TMP_SUFFIX) {
            return Ok(None);
        }
        let meta = match entry.metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            meta => meta?,
        };
        let Some(key) = key else {
            if self.is_writable() && self.is_stale(&meta) {
                self.remove_path(&entry.path());
            }
            return Ok(None);
        };
        let used = meta.accessed().unwrap_or(UNIX_EPOCH).max(meta.modified().unwrap_or(UNIX_EPOCH));
        Ok(Some((key, micros(used), meta.nlink() > 1)))
    }

    pub(super) fn is_stale(&self, meta: &fs::Metadata) -> bool {
        let age = meta.modified().ok().and_then(|at| self.env.now().duration_since(at).ok());
        age.is_some_and(|age| age > TMP_AGE_MAX)
    }
}
