//! Finds objects that the metadata does not know, and with `delete` removes what nobody needs.
//!
//! One read of the metadata, one listing of the store, both streamed; in memory are 16 bytes for
//! each slice record. An object is leaked only if it was put longer ago than
//! [`Options::skip_younger`] *before the metadata was read*: its slice may have been committed
//! since. Names that are not blocks' are ignored. What interrupted puts left behind goes after an hour.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_chunk::ChunkStore;
use cairn_meta::ops::session::SetIfSmall;
use cairn_meta::txn::Counter;
use cairn_meta::{Durability, Meta};
use cairn_object::{ObjectInfo, ObjectStore};
use cairn_types::{BlockKey, ChunkIndex, Ino};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::Result;
use crate::compact::compact_fully;
use crate::ops::{ChunkPage, LiveSlices, WaitingFiles};
use crate::progress::{Phase, Progress, Tally, Watch};
use crate::reclaim::Reclaim;
use crate::slice_index::{Class, SliceIndex, Verdict};

/// Leaked objects deleted at a time.
const DELETE_BATCH: usize = 1000;

/// What an interrupted put left behind is taken for a put that is still under way while it is
/// younger than this, whatever [`Options::skip_younger`] says: no attempt takes so long.
const PUT_LASTS: Duration = Duration::from_secs(3600);

/// Leaked keys a report names; the others are counted.
pub const KEYS_SHOWN: usize = 1000;

/// Slice lists read at a time.
const CHUNK_BATCH: usize = 1000;

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Delete, instead of only counting.
    pub delete: bool,
    /// Compact every chunk of two records or more first.
    pub compact: bool,
    /// Objects that nobody refers to are left alone while they are younger than this. One hour by default (`JFS_GC_SKIPPEDTIME`).
    pub skip_younger: Duration,
    /// Deletions at the same time.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { delete: false, compact: false, skip_younger: Duration::from_secs(3600), threads: 10 }
    }
}

/// Why an object is leaked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Leak {
    /// The metadata does not know its slice.
    UnknownSlice,
    /// Its slice has no such block.
    NoSuchBlock {
        /// Bytes of the slice.
        slice_bytes: u32,
    },
}

/// What was deleted besides leaked objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// Slices without owner, with their objects.
    pub slices: Tally,
    /// Removed files whose data was still there.
    pub files: Tally,
    /// Entries of expired hours of the trash.
    pub trash_entries: u64,
    /// References of delayed slices past the trash days.
    pub delayed: Tally,
    /// Inodes of clone trees that never got a name.
    pub detached: u64,
}

/// What gc saw and did. Bytes of objects are stored bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Slices that files show or the trash keeps.
    pub used: Tally,
    /// Slices without owner.
    pub unowned: Tally,
    /// Removed files whose data waits for deletion.
    pub waiting_files: Tally,
    /// Objects with a block's name.
    pub scanned: Tally,
    /// Blocks that files show.
    pub valid: Tally,
    /// Blocks of slices without owner.
    pub pending_delete: Tally,
    /// Blocks that the trash keeps after compactions.
    pub compacted: Tally,
    /// Blocks nobody knows.
    pub leaked: Tally,
    /// Blocks that nobody refers to, but too young to judge.
    pub skipped: Tally,
    /// Objects below `chunks/` that are not blocks.
    pub ignored: Tally,
    /// Slice lists that do not decode. While there are any, leaked objects are only counted: one of
    /// them may be what a list can no longer name.
    pub corrupt_lists: u64,
    /// The first leaked keys, and why.
    pub leaked_keys: Vec<(String, Leak)>,
    /// What interrupted puts left behind under temporary names, long ago.
    pub unfinished: Tally,
    /// Leaked objects deleted, and unfinished ones.
    pub deleted: Tally,
    /// What else was deleted.
    pub cleaned: Cleaned,
    /// Chunks compacted, and bytes written for it.
    pub compactions: Tally,
}

/// Runs a collection.
pub async fn run(
    meta: &Arc<Meta>,
    store: &Arc<dyn ObjectStore>,
    chunks: &Arc<ChunkStore>,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Report> {
    let reclaim = Reclaim { meta: meta.clone(), chunks: chunks.clone(), threads: options.threads };
    let mut gc = Gc { meta, store: &**store, chunks, options, watch, reclaim, report: Report::default() };
    if options.compact {
        gc.compact().await?;
    }
    if options.delete {
        gc.clean().await?;
    }
    let start = SystemTime::from(meta.now());
    let index = gc.index().await?;
    gc.scan(&index, start).await?;
    gc.scan_leftovers(start).await?;
    Ok(gc.report)
}

struct Gc<'a> {
    meta: &'a Arc<Meta>,
    store: &'a dyn ObjectStore,
    chunks: &'a Arc<ChunkStore>,
    options: &'a Options,
    watch: Watch<'a>,
    reclaim: Reclaim,
    report: Report,
}

impl Gc<'_> {
    fn told(&self, phase: Phase, tally: Tally) {
        (self.watch)(Progress { phase, done: tally.count, total: None, bytes: tally.bytes });
    }

    async fn compact(&mut self) -> Result<()> {
        let mut after = (Ino(0), ChunkIndex(0));
        loop {
            let page = self.meta.view(ChunkPage { after, limit: CHUNK_BATCH }).await?;
            for (ino, index, records) in &page {
                if records.len() >= 2 {
                    let done = compact_fully(self.meta, self.chunks, *ino, *index, &|_| {}).await?;
                    self.report.compactions.count += done.count;
                    self.report.compactions.bytes += done.bytes;
                    self.told(Phase::Compact, self.report.compactions);
                }
            }
            match page.last() {
                Some((ino, index, _)) if page.len() == CHUNK_BATCH => after = (*ino, *index),
                _ => return Ok(()),
            }
        }
    }

    /// Metadata's own leavings, in an order in which each step feeds the next.
    async fn clean(&mut self) -> Result<()> {
        let go_on = || true;
        let mut cleaned = Cleaned { trash_entries: self.reclaim.expire_trash(&go_on).await?, ..Cleaned::default() };
        cleaned.delayed = self.reclaim.expire_delayed(&go_on, &mut |_| {}).await?;
        self.told(Phase::CleanTrash, Tally { count: cleaned.trash_entries + cleaned.delayed.count, bytes: 0 });
        cleaned.detached = self.reclaim.remove_detached(&go_on).await?;
        self.told(Phase::CleanDetached, Tally { count: cleaned.detached, bytes: 0 });
        let files = &mut cleaned.files;
        let until = self.meta.now().secs;
        self.reclaim.delete_waiting_files(until, &go_on, &mut |file, _| files.add(file.length)).await?;
        self.told(Phase::CleanFiles, cleaned.files);
        // What made these slices ownerless may not be on disk yet: a power cut must not bring an owner
        // back after the objects are gone.
        let stamp = SetIfSmall { stamp: Counter::NextCleanupSlices, within_secs: 0 };
        self.meta.run_durable(stamp, Durability::Power).await?;
        loop {
            let unowned = self.reclaim.unowned_slices(DELETE_BATCH).await?;
            let deleted = self.reclaim.delete_slices(unowned, &mut |_| {}).await?;
            cleaned.slices.count += deleted.count;
            cleaned.slices.bytes += deleted.bytes;
            self.told(Phase::CleanSlices, cleaned.slices);
            if deleted.count == 0 {
                break;
            }
        }
        self.report.cleaned = cleaned;
        Ok(())
    }

    async fn index(&mut self) -> Result<SliceIndex> {
        let waiting = self.meta.view(WaitingFiles { until: i64::MAX, limit: i32::MAX as usize }).await?;
        for file in &waiting {
            self.report.waiting_files.add(file.length);
        }
        let page = self.meta.view(LiveSlices).await?;
        self.report.corrupt_lists = page.corrupt_lists;
        let index = SliceIndex::new(page, self.meta.format().block_bytes());
        self.report.used = index.used();
        self.report.unowned = index.of_class(Class::Unowned);
        self.told(Phase::ListSlices, self.report.used);
        Ok(index)
    }

    async fn scan(&mut self, index: &SliceIndex, start: SystemTime) -> Result<()> {
        let store = self.store;
        let mut objects = store.list("chunks/", "");
        let mut doomed = Vec::new();
        while let Some(object) = objects.try_next().await? {
            if self.judge(index, start, &object) {
                doomed.push(object);
            }
            if doomed.len() == DELETE_BATCH {
                self.delete(std::mem::take(&mut doomed)).await?;
            }
            if self.report.scanned.count.is_multiple_of(256) {
                self.told(Phase::ScanObjects, self.report.scanned);
            }
        }
        self.told(Phase::ScanObjects, self.report.scanned);
        self.delete(doomed).await
    }

    /// What a killed client was writing: never named by anybody, but it takes room.
    async fn scan_leftovers(&mut self, start: SystemTime) -> Result<()> {
        let store = self.store;
        let mut left = store.leftovers("");
        let (age, mut doomed) = (self.options.skip_younger.max(PUT_LASTS), Vec::new());
        while let Some(object) = left.try_next().await? {
            if is_young(&object, start, age) {
                self.report.skipped.add(object.bytes);
                continue;
            }
            self.report.unfinished.add(object.bytes);
            if self.options.delete {
                doomed.push(object);
            }
            if doomed.len() == DELETE_BATCH {
                self.delete(std::mem::take(&mut doomed)).await?;
            }
        }
        self.delete(doomed).await
    }

    /// Counts an object; true if it is leaked and to be deleted.
    fn judge(&mut self, index: &SliceIndex, start: SystemTime, object: &ObjectInfo) -> bool {
        let report = &mut self.report;
        let Some(key) = BlockKey::parse_object_key(&object.key) else {
            report.ignored.add(object.bytes);
            return false;
        };
        report.scanned.add(object.bytes);
        let leak = match index.verdict(key) {
            Verdict::Known(Class::Listed | Class::Waiting) => {
                report.valid.add(object.bytes);
                return false;
            }
            Verdict::Known(Class::Delayed) => {
                report.compacted.add(object.bytes);
                return false;
            }
            // What is left nobody refers to, or not yet.
            _ if is_young(object, start, self.options.skip_younger) => {
                report.skipped.add(object.bytes);
                return false;
            }
            Verdict::Known(Class::Unowned) => {
                report.pending_delete.add(object.bytes);
                return false;
            }
            Verdict::UnknownSlice => Leak::UnknownSlice,
            Verdict::NoSuchBlock { size } => Leak::NoSuchBlock { slice_bytes: size },
        };
        report.leaked.add(object.bytes);
        if report.leaked_keys.len() < KEYS_SHOWN {
            report.leaked_keys.push((object.key.clone(), leak));
        }
        self.options.delete && report.corrupt_lists == 0
    }

    async fn delete(&mut self, objects: Vec<ObjectInfo>) -> Result<()> {
        let store = self.store;
        let mut deletions = futures::stream::iter(objects)
            .map(|object| async move { store.delete(&object.key).await.map(|()| object.bytes) })
            .buffer_unordered(self.options.threads.max(1));
        while let Some(bytes) = deletions.next().await {
            self.report.deleted.add(bytes?);
        }
        drop(deletions);
        self.told(Phase::DeleteLeaked, self.report.deleted);
        Ok(())
    }
}

/// Was it put within `age` of `start`, or at a time the store does not tell?
fn is_young(object: &ObjectInfo, start: SystemTime, age: Duration) -> bool {
    if age.is_zero() {
        return false;
    }
    let cutoff = start.checked_sub(age).unwrap_or(UNIX_EPOCH);
    object.modified == UNIX_EPOCH || object.modified > cutoff
}
