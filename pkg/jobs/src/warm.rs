//! Blocks of files into the local cache before anybody reads them, out of it again, and what is there.
//!
//! Only blocks that the files show are touched. Nothing is changed but the cache of this client.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Arc;

use cairn_chunk::ChunkStore;
use cairn_meta::{Cred, Meta, Want};
use cairn_types::{BlockKey, ChunkIndex, FileType, Ino, SliceRef};
use futures::TryStreamExt;
use parking_lot::Mutex;
use serde::Serialize;

use crate::progress::{Phase, Progress, Watch};
use crate::{Error, Result};

/// Names or chunks read at a time.
const PAGE: usize = 1000;

/// What to do with the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Fetch what is missing.
    Fill,
    /// Forget what is there.
    Evict,
    /// Only look.
    Check,
}

/// What was found, and done: the JSON of the control protocol (volume format 8.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Warmed {
    /// Files looked at.
    pub file_count: u64,
    /// Slices they show.
    pub slice_count: u64,
    /// Bytes of the blocks of those.
    pub total_bytes: u64,
    /// Bytes of blocks that were not in the cache (that could not be fetched, after a fill).
    pub miss_bytes: u64,
    /// Bytes found, by cache directory.
    pub locations: BTreeMap<String, u64>,
}

/// Does `action` for every file at or below the paths, which begin at the mount's root, `threads` blocks at a
/// time. A block that cannot be fetched is counted as missing and the rest goes on.
///
/// # Errors
/// [`Error::NoPath`] for a path that is not there, before anything is done; what metadata says to the caller.
pub async fn run(
    meta: &Meta,
    chunks: &Arc<ChunkStore>,
    cred: &Cred,
    paths: &[Vec<u8>],
    action: Action,
    threads: usize,
    watch: Watch<'_>,
) -> Result<Warmed> {
    let mut tops = Vec::new();
    for path in paths {
        tops.push(resolve(meta, cred, path).await?);
    }
    let work = Work { meta, chunks, cred, action, threads: threads.max(1), watch, done: Mutex::default() };
    work.files(tops).await?;
    Ok(work.done.into_inner())
}

async fn resolve(meta: &Meta, cred: &Cred, path: &[u8]) -> Result<(Ino, FileType)> {
    let mut here = (Ino::ROOT, FileType::Directory);
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".") {
        let found = match meta.lookup(cred, here.0, name).await {
            Err(cairn_meta::Error::NoEntry) => {
                return Err(Error::NoPath { path: String::from_utf8_lossy(path).into_owned() });
            }
            found => found?,
        };
        here = (found.0, found.1.kind);
    }
    Ok(here)
}

struct Work<'a> {
    meta: &'a Meta,
    chunks: &'a Arc<ChunkStore>,
    cred: &'a Cred,
    action: Action,
    threads: usize,
    watch: Watch<'a>,
    done: Mutex<Warmed>,
}

impl Work<'_> {
    async fn files(&self, tops: Vec<(Ino, FileType)>) -> Result<()> {
        let (mut dirs, mut files) = (Vec::new(), Vec::new());
        let sort = |(ino, kind), dirs: &mut Vec<_>, files: &mut Vec<_>| match kind {
            FileType::Directory => dirs.push((ino, Vec::new())),
            FileType::File => files.push(ino),
            _ => {}
        };
        tops.into_iter().for_each(|top| sort(top, &mut dirs, &mut files));
        loop {
            // Files one by one, blocks of each many at a time: the order in which they will be read.
            for file in std::mem::take(&mut files) {
                self.file(file).await?;
            }
            let Some((dir, after)) = dirs.pop() else { return Ok(()) };
            if after.is_empty() {
                self.meta.access(self.cred, dir, Want(Want::READ.0 | Want::EXEC.0)).await?;
            }
            let page = self.meta.readdir(dir, &after, PAGE, false).await?;
            if let Some(last) = page.last() {
                dirs.push((dir, last.name.clone()));
            }
            page.into_iter().for_each(|named| sort((named.entry.ino, named.entry.kind), &mut dirs, &mut files));
        }
    }

    async fn file(&self, ino: Ino) -> Result<()> {
        let mut from = ChunkIndex(0);
        loop {
            let page = self.meta.chunks(ino, from, PAGE).await?;
            for &index in &page {
                self.chunk(ino, index).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE && last.0 < u32::MAX => from = ChunkIndex(last.0 + 1),
                _ => break,
            }
        }
        let (done, bytes) = {
            let mut done = self.done.lock();
            done.file_count += 1;
            (done.file_count, done.total_bytes)
        };
        (self.watch)(Progress { phase: Phase::Warm(self.action), done, total: None, bytes });
        Ok(())
    }

    async fn chunk(&self, ino: Ino, index: ChunkIndex) -> Result<()> {
        let mut shown: Vec<BlockKey> = Vec::new();
        let (mut seen, mut slices) = (HashSet::new(), HashSet::<SliceRef>::new());
        for segment in self.meta.slices(ino, index).await?.iter() {
            let Some(slice) = segment.slice() else { continue };
            slices.insert(slice);
            let keys = self.chunks.blocks_of(slice, segment.off, segment.len);
            shown.extend(keys.filter(|key| seen.insert(*key)));
        }
        self.done.lock().slice_count += slices.len() as u64;
        let blocks = futures::stream::iter(shown.into_iter().map(Ok::<_, Error>));
        blocks.try_for_each_concurrent(self.threads, |key| self.block(key)).await
    }

    async fn block(&self, key: BlockKey) -> Result<()> {
        let (cache, bytes) = (self.chunks.cache(), u64::from(key.len));
        let mut is_missing = false;
        match self.action {
            Action::Fill => {
                if let Err(error) = self.chunks.warm(key).await {
                    tracing::warn!(%key, %error, "block is not in the cache");
                    is_missing = true;
                }
            }
            Action::Evict => self.chunks.cool(key).await,
            Action::Check => match cache.locate(key).await {
                Some(place) => *self.done.lock().locations.entry(place).or_default() += bytes,
                None => is_missing = true,
            },
        }
        let mut done = self.done.lock();
        done.total_bytes += bytes;
        done.miss_bytes += if is_missing { bytes } else { 0 };
        let (count, total) = (done.file_count, done.total_bytes);
        drop(done);
        (self.watch)(Progress { phase: Phase::Warm(self.action), done: count, total: None, bytes: total });
        Ok(())
    }
}
