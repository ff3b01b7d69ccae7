//! From dirty to committed: the one caller of `Meta::commit`.
//!
//! A flush freezes slots, stores their slices all at once, and commits the stored ones from the
//! front of the file's queue, in one transaction, one committer a file at a time. Popping what was
//! committed and taking the new attributes happen under one lock, after metadata has dropped its
//! old slice lists: a reader finds a byte in the overlay, in the list, or in both.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use cairn_chunk::{ChunkStore, StoredSlice};
use cairn_env::{Env, TaskSet};
use cairn_meta::{Commit, Durability, Error as MetaError, Meta, NewSlice};
use cairn_types::{Attr, ChunkIndex, Ino, SliceId, SliceRecord, Timestamp};
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tracing::{debug, warn};

use crate::file::{File, FileTable, State};
use crate::flusher::Flusher;
use crate::gather::{Gather, lock_all};
use crate::passing::Passing;
use crate::pending::{Slot, Upload, Upto};
use crate::readahead::Lender;
use crate::tail::Merge;
use crate::write_back::Closes;
use crate::{Config, Error, Result};

/// Slices named by one transaction at most.
pub(crate) const COMMIT_SLICES_MAX: usize = 1024;

/// What reading, writing and flushing share.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) meta: Arc<Meta>,
    pub(crate) chunk: Arc<ChunkStore>,
    pub(crate) config: Config,
    pub(crate) tasks: TaskSet,
    pub(crate) files: FileTable,
    pub(crate) flusher: Flusher,
    pub(crate) ids: IdStash,
    pub(crate) gather: Gather,
    pub(crate) closes: Closes,
    pub(crate) ahead: Arc<Lender>,
    /// Set where files may be passed through.
    pub(crate) passing: OnceLock<Passing>,
    /// Counts changes of files open here: attributes asked for before one are old after it.
    generation: AtomicU64,
    /// Changes committed so far, and how many of them the engine's disk is known to hold.
    changes: AtomicU64,
    synced: AtomicU64,
}

impl Core {
    pub(crate) fn new(env: Env, meta: Arc<Meta>, chunk: Arc<ChunkStore>, config: Config) -> Core {
        Core {
            tasks: TaskSet::new(env.clone()),
            ahead: Lender::new(config.readahead_total_bytes),
            passing: OnceLock::new(),
            env,
            meta,
            chunk,
            files: FileTable::new(config.pack_bytes > 0),
            config,
            flusher: Flusher::new(),
            ids: IdStash::default(),
            gather: Gather::default(),
            closes: Closes::new(),
            generation: AtomicU64::new(0),
            // The first fsync syncs what was committed before this client looked.
            changes: AtomicU64::new(1),
            synced: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.env.now().into()
    }

    /// Stores and commits everything written to `file` until now. Once begun it runs to its end,
    /// also when nobody waits for it any more.
    pub(crate) fn flush(self: &Arc<Core>, file: &Arc<File>, durability: Durability) -> ToTheEnd<Result<()>> {
        let upto = if file.state().is_clean() { Upto::Nothing } else { Upto::All };
        self.flush_upto(file, upto, durability)
    }

    /// The same for a part of it; for nothing only an owed sync is left to do.
    pub(crate) fn flush_upto(
        self: &Arc<Core>,
        file: &Arc<File>,
        upto: Upto,
        durability: Durability,
    ) -> ToTheEnd<Result<()>> {
        let (core, file) = (self.clone(), file.clone());
        let work = async move {
            let done = match upto {
                Upto::Nothing => Ok(()),
                Upto::All if file.state().is_small() => core.store_in_company(&file, durability).await,
                upto => core.store_and_commit(&file, upto, durability).await,
            };
            let done = match done {
                Ok(()) if durability == Durability::Power => core.sync().await,
                done => done,
            };
            core.settle_releases(&file).await;
            done
        };
        ToTheEnd { work: Some(Box::pin(work)), tasks: self.tasks.clone() }
    }

    pub(crate) async fn store_and_commit(&self, file: &File, upto: Upto, durability: Durability) -> Result<()> {
        let (uploads, upto) = self.freeze(file, upto).await?;
        let stored = join_all(uploads.iter().map(|u| u.store())).await;
        // What is stored is committed even if a later slice failed.
        self.commit_stored(file, upto, durability).await?;
        for outcome in stored {
            outcome?;
        }
        let left = file.state().queue.front().map(|s| s.seq);
        assert!(left.is_none_or(|seq| seq > upto), "what is stored and not refused is committed");
        Ok(())
    }

    async fn commit_stored(&self, file: &File, upto: u64, durability: Durability) -> Result<()> {
        let _order = file.commit.lock().await;
        self.renew_old(file, upto).await?;
        let mut limit = COMMIT_SLICES_MAX;
        loop {
            let (batch, set_mtime) = {
                let state = file.state();
                (stored_front(&state, upto, limit), state.set_mtime())
            };
            if batch.slots == 0 {
                self.settle_notes(file).await;
                return Ok(());
            }
            self.make_safe(file, batch.slots).await?;
            let (count, before) = (batch.slots, self.change_count());
            let demands = !batch.unchanged.is_empty() || !batch.replaces.is_empty();
            let shared = unnamed(&batch.uploads);
            let naming = lock_all(shared.iter().map(|upload| &upload.naming)).await;
            let (commit, uploads) = batch.commit(file.ino, set_mtime);
            let (shown, replaced) = (commit.slices.clone(), commit.replaces.iter().map(|(_, tail)| tail.len()).sum());
            let outcome = self.meta.commit_as(commit, durability).await;
            match outcome {
                Ok(done) => {
                    file.state().note_tail(&done, &shown, replaced);
                    self.take_over(file, &uploads, done.attr, count);
                    self.note_committed(before, durability);
                }
                // Somebody wrote there since the list was read: each run shows for itself, what else its
                // slice holds does not.
                Err(MetaError::Changed) if demands => file.state().forget_lists(),
                Err(error) => {
                    let error = Error::from(error);
                    if !error.is_final() {
                        return Err(error);
                    }
                    // One slice may be refused where the next one is not: find out which.
                    if count > 1 && !matches!(error, Error::Meta(MetaError::NoEntry)) {
                        file.state().forget_lists();
                        limit = (count.min(limit) / 2).max(1);
                        continue;
                    }
                    self.drop_front(file, count, &error).await;
                }
            }
            drop(naming);
        }
    }

    /// Metadata names slots at the front now: they leave the overlay.
    pub(crate) fn take_over(&self, file: &File, uploads: &[Arc<Upload>], attr: Attr, count: usize) {
        uploads.iter().for_each(|upload| upload.named.store(true, Ordering::Release));
        {
            let mut state = file.state();
            self.believe(&mut state, attr);
            state.pop(count);
        }
        file.drained.notify_waiters();
    }

    /// To be handed to [`Core::note_committed`] by whoever commits from now on.
    pub(crate) fn change_count(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(crate) fn note_committed(&self, before: u64, durability: Durability) {
        if durability == Durability::Power { self.synced_upto(before) } else { self.note_change() }
    }

    /// Metadata refuses these slots for good: they go, and every handle is told.
    async fn drop_front(&self, file: &File, count: usize, error: &Error) {
        let slots = {
            let mut state = file.state();
            state.lost(error.clone());
            state.pop(count)
        };
        file.drained.notify_waiters();
        let bytes: u64 = slots.iter().map(|s| u64::from(s.len)).sum();
        warn!(ino = file.ino.0, bytes, %error, "unwritten data is dropped");
        self.settle_notes(file).await;
        self.discard(file, slots).await;
    }

    /// Gives slices up that nobody will name: those of which no record is committed or will be. Who else
    /// may name a shared one is not known here: it is left to gc.
    async fn discard(&self, file: &File, slots: Vec<Slot>) {
        let mut uploads = distinct(slots.iter());
        {
            let state = file.state();
            let is_queued = |u: &Arc<Upload>| state.queue.iter().any(|s| Arc::ptr_eq(&s.upload, u));
            uploads.retain(|u| !u.is_shared && !u.named.load(Ordering::Acquire) && !is_queued(u));
        }
        for upload in uploads {
            if let Err(error) = upload.writer.discard().await {
                debug!(slice = upload.writer.id().0, %error, "blocks are left to gc");
            }
        }
    }

    /// Drops everything uncommitted of a file that nobody can open any more.
    pub(crate) async fn abandon(&self, file: &File) {
        let _deciding = file.packing.lock().await;
        let _order = file.commit.lock().await;
        let slots = {
            let mut state = file.state();
            drop(state.take_patches());
            state.freeze(u64::MAX);
            let count = state.queue.len();
            state.pop(count)
        };
        file.drained.notify_waiters();
        self.settle_notes(file).await;
        self.discard(file, slots).await;
    }

    /// Uploads slices again whose blocks may soon be taken for leaked (volume format 11.5).
    async fn renew_old(&self, file: &File, upto: u64) -> Result<()> {
        let now = self.env.instant();
        let is_old = |u: &Arc<Upload>| {
            u.writer.first_stored().is_some_and(|at| now.saturating_duration_since(at) >= self.config.reupload_age)
        };
        let old: Vec<_> = uploads_upto(&file.state(), upto).into_iter().filter(is_old).collect();
        if old.is_empty() {
            return Ok(());
        }
        let (mut replaced, mut done) = (Vec::new(), Ok(()));
        for upload in old {
            match self.copy(&upload).await {
                Ok(fresh) => {
                    let mut state = file.state();
                    let users = state.queue.iter_mut().filter(|s| Arc::ptr_eq(&s.upload, &upload));
                    users.for_each(|s| s.upload = fresh.clone());
                }
                Err(error) => {
                    done = Err(error);
                    break;
                }
            }
            replaced.push(upload);
        }
        // What the journal says of them names the old slices: they go when it names the new ones.
        let is_noted = self.note_anew(file).await;
        for upload in replaced.into_iter().filter(|_| is_noted) {
            // A commit that seemed to fail may have happened, and some records of a pack may be
            // committed: then gc, not we, decides.
            if !upload.is_shared
                && !upload.offered.load(Ordering::Acquire)
                && let Err(error) = upload.writer.discard().await
            {
                debug!(slice = upload.writer.id().0, %error, "blocks are left to gc");
            }
        }
        done
    }

    /// The same bytes in a slice of a new name, stored.
    async fn copy(&self, from: &Upload) -> Result<Arc<Upload>> {
        let fresh = Upload::new(self.chunk.staging_writer(self.ids.next(&self.meta).await?));
        let (size, step) = (from.writer.len(), self.chunk.config().block_bytes);
        let mut off = 0;
        while off < size {
            let len = step.min(size - off);
            let mut room = self.chunk.reserve(len as usize).await;
            let bytes = from.writer.read_at(off, len).await?;
            let taken = fresh.writer.write_at(off, &bytes, &mut room);
            assert!(taken, "a slice takes its bytes in order");
            off += len;
        }
        fresh.store().await?;
        Ok(fresh)
    }

    /// Takes the attributes that a change of our own has answered. Attributes asked for before are
    /// old from now on.
    pub(crate) fn believe(&self, state: &mut State, attr: Attr) {
        let version = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        state.changed(attr, version);
    }

    /// Attributes of `ino` that were asked for at `generation`, as this client sees them.
    pub(crate) fn local(&self, ino: Ino, attr: Attr, generation: u64) -> Attr {
        match self.files.get(ino) {
            Some(file) => file.state().seen(attr, generation),
            None => attr,
        }
    }

    /// To be handed to [`Core::local`] with attributes asked for from now on.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Something was committed without waiting for the engine's disk.
    pub(crate) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn synced_upto(&self, change: u64) {
        self.synced.fetch_max(change, Ordering::AcqRel);
    }

    /// Makes durable whatever this client has committed without waiting for the engine's disk.
    pub(crate) async fn sync(&self) -> Result<()> {
        let now = self.changes.load(Ordering::Acquire);
        if self.synced.load(Ordering::Acquire) < now {
            self.meta.sync().await?;
            self.synced_upto(now);
        }
        Ok(())
    }

    /// Closes that waited for the file's last data.
    pub(crate) async fn settle_releases(&self, file: &File) {
        let owed = {
            let mut state = file.state();
            if state.is_clean() { std::mem::take(&mut state.owed_releases) } else { 0 }
        };
        for _ in 0..owed {
            if let Err(error) = self.meta.close_file(file.ino).await {
                warn!(ino = file.ino.0, %error, "a close is left to the session's end");
            }
        }
        self.files.forget_if_idle(file.ino);
    }
}

/// The slices of slots up to `upto`, each once.
pub(crate) fn uploads_upto(state: &State, upto: u64) -> Vec<Arc<Upload>> {
    distinct(state.queue.iter().take_while(|s| s.seq <= upto))
}

/// Shared slices that metadata does not know yet, in the order of their ids.
pub(crate) fn unnamed<'a>(uploads: impl IntoIterator<Item = &'a Arc<Upload>>) -> Vec<Arc<Upload>> {
    let shared = uploads.into_iter().filter(|u| u.is_shared && !u.named.load(Ordering::Acquire));
    let mut shared: Vec<Arc<Upload>> = shared.cloned().collect();
    shared.sort_by_key(|u| u.writer.id());
    shared.dedup_by_key(|u| u.writer.id());
    shared
}

fn distinct<'a>(slots: impl Iterator<Item = &'a Slot>) -> Vec<Arc<Upload>> {
    let mut seen = HashSet::new();
    slots.filter(|s| seen.insert(Arc::as_ptr(&s.upload))).map(|s| s.upload.clone()).collect()
}

/// Slots at the front of a file's queue, as one commit names them.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) slots: usize,
    slices: Vec<NewSlice>,
    unchanged: Vec<(ChunkIndex, Vec<SliceRecord>)>,
    replaces: Vec<(ChunkIndex, Vec<SliceRecord>)>,
    pub(crate) uploads: Vec<Arc<Upload>>,
}

impl Batch {
    pub(crate) fn commit(self, ino: Ino, mtime: Option<Timestamp>) -> (Commit, Vec<Arc<Upload>>) {
        let named = self.uploads.iter().filter(|u| u.named.load(Ordering::Acquire)).map(|u| u.writer.id());
        let named = named.collect();
        (
            Commit { ino, slices: self.slices, mtime, named, unchanged: self.unchanged, replaces: self.replaces },
            self.uploads,
        )
    }

    /// Adds slots that one record shows: one, or all of a group with the gaps between them.
    fn add(&mut self, slots: &[&Slot], stored: &StoredSlice) {
        let (first, last) = (slots[0], slots[slots.len() - 1]);
        let mut record = first.record(stored);
        record.len = last.end() - first.pos;
        let mtime = slots.iter().map(|s| s.mtime).max().expect("a group has slots");
        self.slices.push(NewSlice { index: first.index, record, mtime });
        self.slots += slots.len();
    }

    /// Adds a slot with the bytes before it that its slice repeats.
    fn add_merged(&mut self, slot: &Slot, stored: &StoredSlice, merge: &Merge) {
        self.add(&[slot], stored);
        let record = &mut self.slices[0].record;
        record.pos -= merge.lead;
        record.off -= merge.lead;
        record.len += merge.lead;
        self.replaces.push((slot.index, merge.replaced.clone()));
    }
}

/// The stored slots at the front of the queue that one commit may name.
pub(crate) fn stored_front(state: &State, upto: u64, limit: usize) -> Batch {
    let stored = state.queue.iter().take_while(|s| s.seq <= upto);
    let ready: Vec<(&Slot, &StoredSlice)> = stored.map_while(|s| Some((s, s.upload.stored()?))).collect();
    let mut batch = Batch::default();
    while let Some(&(slot, stored)) = ready.get(batch.slots)
        && batch.slices.len() < limit
    {
        if let Some(merge) = state.merge.as_ref().filter(|merge| merge.seq == slot.seq) {
            // Its place in the list is the end: nothing may come between.
            if batch.slots == 0 {
                batch.add_merged(slot, stored, merge);
            }
            break;
        }
        let fill = state.fills.iter().find(|f| f.slots().start == slot.seq);
        let whole = fill.filter(|f| f.slots().end - slot.seq <= (ready.len() - batch.slots) as u64);
        let Some(fill) = whole else {
            batch.add(&[slot], stored);
            continue;
        };
        if batch.slots > 0 && batch.slices.len() + fill.groups.len() > limit {
            break;
        }
        for group in &fill.groups {
            let group = &ready[batch.slots..batch.slots + (group.end - group.start) as usize];
            let slots: Vec<&Slot> = group.iter().map(|(slot, _)| *slot).collect();
            batch.add(&slots, group[0].1);
        }
        batch.unchanged.push((fill.index, fill.seen.clone()));
    }
    batch.uploads = distinct(ready[..batch.slots].iter().map(|(slot, _)| *slot));
    batch.uploads.iter().for_each(|upload| upload.offered.store(true, Ordering::Release));
    batch
}

/// Slice ids at hand, so that a write need not ask for one.
#[derive(Default)]
pub(crate) struct IdStash {
    ids: Mutex<Vec<SliceId>>,
}

/// Ids fetched at a time. They come from a range of our own; unused ones are never missed.
const STASH_IDS: usize = 64;

impl IdStash {
    /// An id, if there is one at hand.
    pub(crate) fn take(&self) -> Option<SliceId> {
        self.ids.lock().pop()
    }

    /// Are there this many at hand?
    pub(crate) fn has(&self, count: usize) -> bool {
        self.ids.lock().len() >= count
    }

    /// So many of them, or none.
    pub(crate) fn take_many(&self, count: usize) -> Option<Vec<SliceId>> {
        let mut ids = self.ids.lock();
        let rest = ids.len().checked_sub(count)?;
        Some(ids.split_off(rest))
    }

    /// Takes unused ones back.
    pub(crate) fn give_back(&self, unused: Vec<SliceId>) {
        self.ids.lock().extend(unused);
    }

    /// So many of them; waits for them.
    pub(crate) async fn several(&self, meta: &Meta, count: usize) -> Result<Vec<SliceId>> {
        loop {
            if let Some(ids) = self.take_many(count) {
                return Ok(ids);
            }
            self.fill_to(meta, count).await?;
        }
    }

    /// Waits until there are some at hand.
    pub(crate) async fn fill(&self, meta: &Meta) -> Result<()> {
        if self.has(STASH_IDS / 8) { Ok(()) } else { self.fill_to(meta, STASH_IDS).await }
    }

    /// Waits until there are so many at hand.
    pub(crate) async fn fill_to(&self, meta: &Meta, count: usize) -> Result<()> {
        while !self.has(count) {
            let id = meta.next_slice_id().await?;
            self.ids.lock().push(id);
        }
        Ok(())
    }

    async fn next(&self, meta: &Meta) -> Result<SliceId> {
        match self.take() {
            Some(id) => Ok(id),
            None => Ok(meta.next_slice_id().await?),
        }
    }
}

/// Work that goes on in the background if its caller stops waiting after it has begun.
pub(crate) struct ToTheEnd<T: 'static> {
    work: Option<BoxFuture<'static, T>>,
    tasks: TaskSet,
}

impl<T: 'static> Future for ToTheEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let work = self.work.as_mut().expect("not polled after its end");
        let done = work.as_mut().poll(cx);
        if done.is_ready() {
            self.work = None;
        }
        done
    }
}

impl<T: 'static> Drop for ToTheEnd<T> {
    fn drop(&mut self) {
        // Outside a runtime (it is being torn down) there is nobody left to finish it.
        if let Some(work) = self.work.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            let tasks = self.tasks.clone();
            // Its outcome is kept in the file's state: losses, failures, the queue.
            tasks.spawn(async move { drop(work.await) });
        }
    }
}
