//! Write-back: blocks that this machine's disk holds for the store.
//!
//! A block handed to [`ChunkStore::put_block`] by a staging writer is appended to the journal and
//! counts as stored; whoever commits its slice first asks [`ChunkStore::about_to_commit`], which
//! notes the intent and waits for the disk. Uploading is the uploader's business (`uploader.rs`),
//! oldest first. Reads look here before they ask the store.
//!
//! The rule kept: a block leaves here only when the store has it, when nobody wants it any more, or
//! into a folder of its own with a line in the log, because the store holds other bytes under its
//! name. A journal that fails or has no room is done without: blocks go to the store at once.

mod raw;
mod uploader;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cairn_cache::journal::{Intent, IntentId, Journal, ReadFault};
use cairn_env::Budget;
use cairn_types::{BlockKey, SliceId, SliceRef};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::stats::add;
use crate::{ChunkStore, Error, Result};

pub use raw::RawStaging;

/// How blocks are staged and when they leave. All of it is about write-back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagingRules {
    /// Stage blocks of new slices; otherwise only what was found is uploaded.
    pub write_back: bool,
    /// A block stays at least this long.
    pub upload_delay: Duration,
    /// Hours of the day (UTC offset included) in which blocks are uploaded; `None`: always.
    pub upload_hours: Option<UploadHours>,
    /// Only blocks shorter than this are staged; 0: all.
    pub threshold_bytes: u32,
    /// Blocks being staged at a time; more go to the store at once.
    pub stage_writes_max: u64,
    /// Uploads at a time.
    pub uploads_max: usize,
    /// Where blocks go whose name the store has given to other bytes.
    pub set_aside: PathBuf,
}

/// A span of hours of the day, local time; it may run over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadHours {
    /// First hour, 0 to 23.
    pub from: u8,
    /// First hour after it, 0 to 23. Equal to `from`: the whole day.
    pub to: u8,
    /// Seconds that local time is ahead of UTC.
    pub utc_offset_secs: i64,
}

impl UploadHours {
    /// Is this a time to upload?
    pub fn include(&self, now: SystemTime) -> bool {
        let secs = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        let hour = ((secs + self.utc_offset_secs).rem_euclid(86_400) / 3600) as u8;
        match self.from.cmp(&self.to) {
            std::cmp::Ordering::Less => (self.from..self.to).contains(&hour),
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Greater => hour >= self.from || hour < self.to,
        }
    }
}

/// What is staged, and how it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StagingStats {
    /// Blocks waiting for upload.
    pub blocks: u64,
    /// Bytes of them, as they will be stored.
    pub bytes: u64,
    /// Age of the oldest.
    pub oldest_age: Duration,
    /// Blocks staged so far.
    pub staged_blocks: u64,
    /// Bytes of those.
    pub staged_bytes: u64,
    /// Staged blocks that the store took so far.
    pub uploaded_blocks: u64,
    /// Uploads that failed and will be tried again.
    pub upload_errors: u64,
    /// Blocks put into the store at once, because the journal did not take them.
    pub refused_blocks: u64,
    /// Blocks set aside, or not readable any more.
    pub lost_blocks: u64,
}

/// The staging of one client.
pub struct Staging {
    rules: StagingRules,
    journal: Option<Arc<Journal>>,
    raw: RawStaging,
    /// Staged by an earlier process: the store may have them already.
    earlier: Mutex<HashSet<BlockKey>>,
    uploading: Mutex<HashSet<BlockKey>>,
    /// Cannot be read or must not be uploaded: they stay where they are.
    lost: Mutex<BTreeMap<BlockKey, u64>>,
    /// An upload has ended.
    ended: Notify,
    stage_writes: Budget,
    /// Upload without regard to delay and hours.
    hurry: AtomicBool,
    hurried: Notify,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    staged_blocks: AtomicU64,
    staged_bytes: AtomicU64,
    uploaded_blocks: AtomicU64,
    upload_errors: AtomicU64,
    refused_blocks: AtomicU64,
}

impl Staging {
    /// Over a journal just opened (`None`: there is none) and what another client has left in `raw`.
    pub fn new(rules: StagingRules, journal: Option<Arc<Journal>>, raw: RawStaging) -> Staging {
        let mut earlier = HashSet::new();
        let mut after = 0;
        while let Some(staged) = journal.as_ref().and_then(|journal| journal.next_staged(after)) {
            after = staged.number;
            earlier.insert(staged.key);
        }
        Staging {
            stage_writes: Budget::new(rules.stage_writes_max.max(1)),
            rules,
            journal,
            raw,
            earlier: Mutex::new(earlier),
            uploading: Mutex::default(),
            lost: Mutex::default(),
            ended: Notify::new(),
            hurry: AtomicBool::new(false),
            hurried: Notify::new(),
            counters: Counters::default(),
        }
    }

    /// The journal blocks are staged in; `None` in direct mode.
    fn write_back(&self) -> Option<&Arc<Journal>> {
        self.journal.as_ref().filter(|_| self.rules.write_back)
    }

    fn contains(&self, key: BlockKey) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.contains(key)) || self.raw.contains(key)
    }

    fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
        self.hurried.notify_one();
    }

    fn stats(&self, now: SystemTime) -> StagingStats {
        let usage = self.journal.as_ref().map(|journal| journal.usage()).unwrap_or_default();
        let (raw_blocks, raw_bytes) = self.raw.usage();
        let (lost_blocks, lost_bytes) = {
            let lost = self.lost.lock();
            (lost.len() as u64, lost.values().sum::<u64>())
        };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StagingStats {
            blocks: (usage.blocks + raw_blocks).saturating_sub(lost_blocks),
            bytes: (usage.bytes + raw_bytes).saturating_sub(lost_bytes),
            oldest_age: usage.oldest.and_then(|at| now.duration_since(at).ok()).unwrap_or_default(),
            staged_blocks: get(&self.counters.staged_blocks),
            staged_bytes: get(&self.counters.staged_bytes),
            uploaded_blocks: get(&self.counters.uploaded_blocks),
            upload_errors: get(&self.counters.upload_errors),
            refused_blocks: get(&self.counters.refused_blocks),
            lost_blocks,
        }
    }

    /// A block that cannot be uploaded stays; nobody waits for it any more.
    fn give_up(&self, key: BlockKey, bytes: u64) {
        self.lost.lock().insert(key, bytes);
    }
}

impl ChunkStore {
    /// Does this client write back: is a slice stored when its blocks are staged?
    pub fn writes_back(&self) -> bool {
        self.staging().is_some_and(|staging| staging.write_back().is_some())
    }

    /// What waits for upload on this machine's disk.
    pub fn staging_stats(&self) -> StagingStats {
        self.staging().map(|staging| staging.stats(self.env().now())).unwrap_or_default()
    }

    /// From now on uploads what is staged without regard to delay and hours, and waits until nothing
    /// is left that could be uploaded. `watch` is told what is left whenever an upload has ended.
    pub async fn drain(&self, watch: impl Fn(StagingStats)) {
        let Some(staging) = self.staging() else { return };
        staging.hurry();
        loop {
            let ended = staging.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let left = self.staging_stats();
            watch(left);
            if left.blocks == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Has [`ChunkStore::drain`] been asked for?
    pub fn is_draining(&self) -> bool {
        self.staging().is_some_and(|staging| staging.hurry.load(Ordering::Acquire))
    }

    /// Stages a block as it will be stored. `false`: it must go to the store now.
    pub(crate) async fn stage(&self, key: BlockKey, stored: Vec<Bytes>) -> bool {
        let Some(staging) = self.staging() else { return false };
        let Some(journal) = staging.write_back() else { return false };
        let threshold = staging.rules.threshold_bytes;
        if threshold > 0 && key.len >= threshold {
            return false;
        }
        let bytes: u64 = stored.iter().map(|piece| piece.len() as u64).sum();
        let outcome = match staging.stage_writes.try_acquire(1) {
            Some(_permit) => journal.stage(key, stored).await.is_ok(),
            None => false,
        };
        if outcome {
            add(&staging.counters.staged_blocks, 1);
            add(&staging.counters.staged_bytes, bytes);
        } else {
            add(&staging.counters.refused_blocks, 1);
        }
        outcome
    }

    /// To be called with what is about to be committed: when it returns, all blocks of those slices
    /// survive a power cut, in the store or on this disk. `noted`: a note taken of it before.
    ///
    /// Answers the note to be settled once the outcome of the commit is known.
    ///
    /// # Errors
    ///
    /// Neither this disk nor the store keeps a block: the commit must not happen.
    pub async fn about_to_commit(
        &self,
        noted: Option<IntentId>,
        intent: impl FnOnce() -> Intent,
    ) -> Result<Option<IntentId>> {
        let Some((staging, journal)) = self.staging().and_then(|s| Some((s, s.write_back()?))) else {
            return Ok(None);
        };
        let intent = intent();
        let noted = match noted {
            Some(id) => Ok(id),
            None => journal.note(&intent).await,
        };
        match noted {
            Ok(id) if journal.sync().await.is_ok() => return Ok(Some(id)),
            _ => {}
        }
        self.upload_slices(staging, journal, &intent.ids()).await?;
        Ok(noted.ok())
    }

    /// To be called with slices found staged, before they are committed: when it returns, all their
    /// blocks survive a power cut, whether or not this client stages new ones.
    ///
    /// # Errors
    ///
    /// Neither this disk nor the store keeps a block: the commit must not happen.
    pub async fn keep_staged(&self, ids: &[SliceId]) -> Result<()> {
        let Some((staging, journal)) = self.staging().and_then(|s| Some((s, s.journal.as_ref()?))) else {
            return Ok(());
        };
        if journal.sync().await.is_ok() {
            return Ok(());
        }
        self.upload_slices(staging, journal, ids).await
    }

    /// The disk promises nothing: the store must.
    async fn upload_slices(&self, staging: &Staging, journal: &Journal, ids: &[SliceId]) -> Result<()> {
        for key in journal.staged_of(ids) {
            self.upload_now(staging, key).await?;
            if staging.lost.lock().contains_key(&key) {
                return Err(Error::Missing { key });
            }
        }
        Ok(())
    }

    /// Takes a note of what will be committed soon, so that a crash before that loses nothing. `None`
    /// in direct mode or if the journal does not take it.
    pub async fn note(&self, intent: &Intent) -> Option<IntentId> {
        self.staging()?.write_back()?.note(intent).await.ok()
    }

    /// The outcome of a noted commit is known.
    pub async fn settle(&self, id: IntentId) {
        if let Some(journal) = self.staging().and_then(|staging| staging.journal.as_ref()) {
            journal.settle(id).await;
        }
    }

    /// Is every block of these slices staged here and whole, or in the store? For slices found after
    /// a crash, before they are committed.
    ///
    /// # Errors
    ///
    /// The first block that is neither.
    pub async fn check_staged(&self, slice: SliceRef) -> Result<()> {
        for key in self.blocks(slice) {
            if self.staged_plain(key).await?.is_none() {
                // One that is staged and cannot be read is looked for in the store.
                let depth = if self.is_staged(key) { crate::Depth::Read } else { crate::Depth::Head };
                self.check_block(key, depth).await?;
            }
        }
        Ok(())
    }

    /// Copies what is staged of a slice into the folder for what was set aside, as it would be stored.
    /// Answers the folder.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub async fn set_aside(&self, slice: SliceRef) -> std::io::Result<PathBuf> {
        let Some(staging) = self.staging() else { return Ok(PathBuf::new()) };
        let folder = staging.rules.set_aside.clone();
        for key in self.blocks(slice) {
            let stored = match &staging.journal {
                Some(journal) => journal.read(key).await,
                None => None,
            };
            if let Some(Ok(stored)) = stored {
                let folder = folder.clone();
                self.env().blocking(move || keep_aside(&folder, key, &stored)).await?;
            }
        }
        Ok(folder)
    }

    /// Is the block staged here?
    pub(crate) fn is_staged(&self, key: BlockKey) -> bool {
        self.staging().is_some_and(|staging| staging.contains(key))
    }

    /// A staged block, decoded; `None` if it is not staged here or cannot be read: the store may have
    /// it all the same.
    pub(crate) async fn staged_plain(&self, key: BlockKey) -> Result<Option<Bytes>> {
        let Some(staging) = self.staging() else { return Ok(None) };
        let stored = match &staging.journal {
            Some(journal) => journal.read(key).await,
            None => None,
        };
        match stored {
            Some(Ok(stored)) => {
                let (codec, len) = (self.codec().clone(), key.len as usize);
                let plain = self.env().blocking(move || codec.decode(stored, len)).await;
                plain.map(Some).map_err(|reason| Error::Corrupt { key, reason })
            }
            Some(Err(fault)) => {
                tracing::error!(%key, ?fault, "staged block cannot be read: looking for it in the store");
                Ok(None)
            }
            None => Ok(staging.raw.read(self.env(), key).await),
        }
    }

    /// These blocks are wanted no more. Answers those that may be in the store all the same.
    pub(crate) async fn unstage(&self, keys: Vec<BlockKey>) -> Vec<BlockKey> {
        let Some(staging) = self.staging() else { return keys };
        let mut stored = Vec::new();
        for key in keys {
            let was_uploading = staging.uploads_ended(key).await;
            let is_earlier = staging.earlier.lock().remove(&key);
            let is_staged = staging.journal.as_ref().is_some_and(|journal| journal.contains(key));
            if let Some(journal) = staging.journal.as_ref().filter(|_| is_staged) {
                journal.done(&[key]).await;
                staging.lost.lock().remove(&key);
            }
            staging.raw.remove(self.env(), key).await;
            if !is_staged || is_earlier || was_uploading {
                stored.push(key);
            }
        }
        staging.ended.notify_waiters();
        stored
    }
}

impl Staging {
    pub(crate) async fn close(&self) {
        if let Some(journal) = &self.journal {
            journal.close().await;
        }
    }

    /// Waits until no upload of the block is under way; was one?
    async fn uploads_ended(&self, key: BlockKey) -> bool {
        let mut waited = false;
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.uploading.lock().contains(&key) {
                return waited;
            }
            waited = true;
            ended.await;
        }
    }
}

fn keep_aside(folder: &Path, key: BlockKey, stored: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join(key.to_string());
    std::fs::write(&file, stored)?;
    std::fs::File::open(&file)?.sync_all()?;
    std::fs::File::open(folder)?.sync_all()
}

/// What a staged block's fault means for an upload.
fn fault_words(fault: &ReadFault) -> String {
    match fault {
        ReadFault::Damaged => "its checksum is wrong".into(),
        ReadFault::Disk(e) => e.to_string(),
    }
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staging").field("rules", &self.rules).field("journal", &self.journal).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_hours_run_over_midnight() {
        let at = |hour: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(hour * 3600 + 1800);
        let hours = |from, to| UploadHours { from, to, utc_offset_secs: 0 };
        let open = |h: UploadHours| (0..24).filter(|hour| h.include(at(*hour))).collect::<Vec<_>>();
        assert_eq!(open(hours(9, 12)), [9, 10, 11]);
        assert_eq!(open(hours(23, 2)), [0, 1, 23]);
        assert_eq!(open(hours(7, 7)).len(), 24);
        let east = UploadHours { utc_offset_secs: 2 * 3600, ..hours(9, 10) };
        assert_eq!(open(east), [7]);
    }
}
