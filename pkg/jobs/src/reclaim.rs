//! Deletes what nobody owns: data of removed files, slices, expired trash.
//!
//! The order that must hold: metadata first and durably, objects after. A crash in between leaves
//! objects that the records left behind (a slice without owner, a removed file) lead back to.

use std::sync::Arc;

use cairn_chunk::ChunkStore;
use cairn_meta::ops::data::{DeleteChunks, ForgetFile, ForgetSlice};
use cairn_meta::ops::remove::ReleaseSustained;
use cairn_meta::ops::session::SustainedOf;
use cairn_meta::record::DeletedFile;
use cairn_meta::{Cred, Durability, Meta, Upkeep};
use cairn_types::{FileType, SessionId, SliceId, SliceRef};
use futures::StreamExt;

use crate::ops::{
    Detached, EndDead, Hour, ReleaseDelayed, ReleaseLocks, RemoveDetached, RemoveHour, SliceOwners, TrashHours,
    UnownedSlices, WaitingFiles,
};
use crate::progress::Tally;
use crate::{Result, tree};

/// Chunks deleted in one transaction.
const CHUNKS_PER_STEP: usize = 100;

/// Records taken from a list of waiting things at a time.
const BATCH: usize = 1000;

/// Delayed records expired in one transaction.
const DELAYED_PER_STEP: usize = 20;

/// Dead sessions reaped at a time.
const SESSIONS_PER_ROUND: usize = 1000;

/// Seconds in a day.
const DAY: i64 = 86_400;

/// Hours of grace for the trash on top of its days.
const TRASH_GRACE_HOURS: i64 = 2;

/// Told between two steps whether to go on.
pub(crate) type GoOn<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// Deletes things, some at a time.
#[derive(Clone)]
pub(crate) struct Reclaim {
    pub(crate) meta: Arc<Meta>,
    pub(crate) chunks: Arc<ChunkStore>,
    /// Deletions at the same time.
    pub(crate) threads: usize,
}

impl Reclaim {
    /// Deletes the chunks of a removed file and forgets it. Answers the slices that lost their
    /// last owner: their objects are still there.
    pub(crate) async fn delete_file(&self, file: DeletedFile) -> Result<Vec<SliceRef>> {
        let mut unowned = Vec::new();
        loop {
            let op = DeleteChunks { ino: file.ino, length: file.length, limit: CHUNKS_PER_STEP };
            let step = self.meta.run_durable(op, Durability::Power).await?;
            unowned.extend(step.unowned);
            if step.done {
                break;
            }
        }
        self.meta.run(ForgetFile { ino: file.ino, length: file.length }).await?;
        Ok(unowned)
    }

    /// Deletes the objects of a slice without owner, then its record. Leaves an owned one alone.
    pub(crate) async fn delete_slice(&self, slice: SliceRef) -> Result<bool> {
        if self.meta.view(SliceOwners(slice)).await? > 0 {
            return Ok(false);
        }
        self.chunks.delete(slice).await?;
        self.meta.run(ForgetSlice(slice)).await?;
        Ok(true)
    }

    /// Deletes many. What fails stays for the next round; the first failure is told.
    pub(crate) async fn delete_slices(
        &self,
        slices: Vec<SliceRef>,
        each: &mut (dyn FnMut(SliceRef) + Send),
    ) -> Result<Tally> {
        let mut deletions = futures::stream::iter(slices)
            .map(|slice| async move { (slice, self.delete_slice(slice).await) })
            .buffer_unordered(self.threads.max(1));
        let (mut deleted, mut failure) = (Tally::default(), None);
        while let Some((slice, outcome)) = deletions.next().await {
            match outcome {
                Ok(true) => {
                    deleted.add(u64::from(slice.size));
                    each(slice);
                }
                Ok(false) => {}
                Err(e) => {
                    failure.get_or_insert(e);
                }
            }
        }
        failure.map_or(Ok(deleted), Err)
    }

    /// Slices whose last owner is gone and whose record still is there.
    pub(crate) async fn unowned_slices(&self, limit: usize) -> Result<Vec<SliceRef>> {
        let (mut found, mut after) = (Vec::new(), SliceId(0));
        loop {
            let page = self.meta.view(UnownedSlices { after, limit: BATCH }).await?;
            found.extend(&page);
            match page.last() {
                Some(last) if page.len() == BATCH && found.len() < limit => after = last.id,
                _ => return Ok(found),
            }
        }
    }

    /// Deletes the data of files removed at or before `until`, as many as there are. `take` gets
    /// the slices left without owner.
    pub(crate) async fn delete_waiting_files(
        &self,
        until: i64,
        go_on: GoOn<'_>,
        take: &mut (dyn FnMut(DeletedFile, Vec<SliceRef>) + Send),
    ) -> Result<()> {
        while go_on() {
            let batch = self.meta.view(WaitingFiles { until, limit: BATCH }).await?;
            let all = batch.len() < BATCH;
            let mut failure = None;
            let mut deletions = futures::stream::iter(batch)
                .map(|file| async move { (file, self.delete_file(file).await) })
                .buffer_unordered(self.threads.max(1));
            while let Some((file, outcome)) = deletions.next().await {
                match outcome {
                    Ok(unowned) => take(file, unowned),
                    Err(e) => {
                        failure.get_or_insert(e);
                    }
                }
            }
            // A file that cannot be deleted would come again in the next batch.
            if let Some(e) = failure {
                return Err(e);
            }
            if all {
                break;
            }
        }
        Ok(())
    }

    /// Empties and removes hour directories past the trash days. Answers the entries removed.
    pub(crate) async fn expire_trash(&self, go_on: GoOn<'_>) -> Result<u64> {
        let days = i64::from(self.meta.format().trash_days);
        let before = self.meta.now().secs - days * DAY - TRASH_GRACE_HOURS * 3600;
        let mut removed = 0;
        for hour in self.meta.view(TrashHours { before }).await? {
            removed += self.empty_hour(&hour, go_on).await?;
            if !go_on() {
                break;
            }
            self.meta.run(RemoveHour(hour)).await?;
        }
        Ok(removed)
    }

    async fn empty_hour(&self, hour: &Hour, go_on: GoOn<'_>) -> Result<u64> {
        let (mut removed, mut after) = (0, Vec::new());
        while go_on() {
            let page = self.meta.readdir(hour.ino, &after, BATCH, false).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            let mut removals = futures::stream::iter(page)
                .map(|named| async move {
                    let outcome = self.remove_trashed(hour, named.entry.kind, &named.name).await;
                    (named, outcome)
                })
                .buffer_unordered(self.threads.max(1));
            while let Some((named, outcome)) = removals.next().await {
                match outcome {
                    Ok(n) => removed += n,
                    // It may be gone already, or be protected by a flag: the others still go.
                    Err(e) => tracing::debug!(ino = %named.entry.ino, error = %e, "trash entry stays"),
                }
            }
        }
        Ok(removed)
    }

    async fn remove_trashed(&self, hour: &Hour, kind: FileType, name: &[u8]) -> Result<u64> {
        if kind != FileType::Directory {
            self.meta.unlink(&Cred::root(), hour.ino, name, true).await?;
            return Ok(1);
        }
        // Mostly empty; one that somebody restored into is not.
        let opts = tree::RemoveOptions { skip_trash: true, threads: 1 };
        tree::remove(&self.meta, &Cred::root(), hour.ino, name, &opts, &crate::unwatched).await
    }

    /// Gives back delayed slices past the trash days. Answers what was given back; `take` gets the
    /// slices left without owner.
    pub(crate) async fn expire_delayed(
        &self,
        go_on: GoOn<'_>,
        take: &mut (dyn FnMut(Vec<SliceRef>) + Send),
    ) -> Result<Tally> {
        let until = self.meta.now().secs - i64::from(self.meta.format().trash_days) * DAY;
        let mut tally = Tally::default();
        while go_on() {
            let op = ReleaseDelayed { until, limit: DELAYED_PER_STEP };
            let step = self.meta.run_durable(op, Durability::Power).await?;
            tally.count += step.slices;
            tally.bytes += step.bytes;
            take(step.unowned);
            if step.done {
                break;
            }
        }
        Ok(tally)
    }

    /// Removes clone trees that have been without a name for more than a day.
    pub(crate) async fn remove_detached(&self, go_on: GoOn<'_>) -> Result<u64> {
        let before = self.meta.now().secs - DAY;
        let mut removed = 0;
        for (ino, made) in self.meta.view(Detached).await? {
            if made >= before || !go_on() {
                continue;
            }
            let opts = tree::RemoveOptions { skip_trash: true, threads: self.threads };
            removed += tree::empty(&self.meta, &Cred::root(), ino, &opts, &crate::unwatched).await?;
            removed += u64::from(self.meta.run(RemoveDetached(ino)).await?);
        }
        Ok(removed)
    }

    /// Cleans up after sessions that expired. Answers how many there were.
    pub(crate) async fn reap_sessions(&self) -> Result<usize> {
        let (now, own) = (self.meta.now().secs, self.meta.sid());
        let mut dead = self.meta.sessions().await?;
        dead.retain(|s| s.expire_secs < now && Some(s.sid) != own);
        dead.truncate(SESSIONS_PER_ROUND);
        let mut reaped = 0;
        for session in dead {
            if self.reap(session.sid).await? {
                tracing::info!(sid = %session.sid, "reaped a dead session");
                reaped += 1;
            }
        }
        Ok(reaped)
    }

    async fn reap(&self, sid: SessionId) -> Result<bool> {
        if !self.meta.run(ReleaseLocks(sid)).await? {
            return Ok(false);
        }
        self.meta.lock_released().notify_waiters();
        for ino in self.meta.view(SustainedOf { sid }).await? {
            if let Some(file) = self.meta.run(ReleaseSustained { sid, ino }).await? {
                self.meta.request(Upkeep::DeleteFile(file));
            }
        }
        Ok(self.meta.run(EndDead(sid)).await?)
    }
}
