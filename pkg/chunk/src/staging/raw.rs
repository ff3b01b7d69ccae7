//! Blocks that a JuiceFS client staged on this machine and never uploaded (volume format 9.3).
//!
//! Plain bytes with checksums, one file a block. They are read from where they lie until the store
//! has them; then their file goes, and its other name below `raw/` stays as a cached block. A file
//! that cannot be read stays: metadata names it already.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use cairn_cache::staged;
use cairn_env::Env;
use cairn_types::BlockKey;
use parking_lot::Mutex;

/// The files, by block.
#[derive(Debug, Default)]
pub struct RawStaging {
    files: Mutex<BTreeMap<BlockKey, PathBuf>>,
}

impl RawStaging {
    /// The blocks of a folder nobody else is at work in any more, as `staged::list` found them.
    pub fn new(files: Vec<(BlockKey, PathBuf)>) -> RawStaging {
        RawStaging { files: Mutex::new(files.into_iter().collect()) }
    }

    pub(crate) fn contains(&self, key: BlockKey) -> bool {
        self.files.lock().contains_key(&key)
    }

    /// Blocks and bytes.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let files = self.files.lock();
        (files.len() as u64, files.keys().map(|key| u64::from(key.len)).sum())
    }

    /// The first block behind `after`.
    pub(crate) fn next(&self, after: Option<BlockKey>) -> Option<BlockKey> {
        use std::ops::Bound::{Excluded, Unbounded};
        let files = self.files.lock();
        files.range((after.map_or(Unbounded, Excluded), Unbounded)).next().map(|(key, _)| *key)
    }

    /// The plain block, verified; `None` if it is not here or cannot be read.
    pub(crate) async fn read(&self, env: &Env, key: BlockKey) -> Option<Bytes> {
        let path = self.files.lock().get(&key).cloned()?;
        let shown = path.display().to_string();
        match env.blocking(move || staged::read(&path, key.len)).await {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::error!(%key, file = shown, %error, "staged block cannot be read: it stays where it is");
                None
            }
        }
    }

    /// The block is wanted here no more.
    pub(crate) async fn remove(&self, env: &Env, key: BlockKey) {
        let path = self.files.lock().remove(&key);
        let Some(path) = path else { return };
        if let Err(error) = env.blocking(move || std::fs::remove_file(path)).await {
            tracing::warn!(%key, %error, "an uploaded block's file stays in rawstaging");
        }
    }
}
