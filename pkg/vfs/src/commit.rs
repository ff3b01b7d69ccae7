//! From dirty to committed: the one caller of `Meta::commit`.
//!
//! A flush freezes slots, stores their slices all at once, and commits the stored ones from the
//! front of the file's queue, in one transaction, one committer a file at a time. Popping what was
//! committed and taking the new attributes happen under one lock, after metadata has dropped its
//! old slice lists: a reader finds a byte in the overlay, in the list, or in both.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use cairn_chunk::ChunkStore;
use cairn_env::{Budget, Env, TaskSet};
use cairn_meta::{Durability, Error as MetaError, Meta, NewSlice};
use cairn_types::{Attr, Ino, SliceId, Timestamp};
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tracing::{debug, warn};

use crate::file::{File, FileTable, State};
use crate::flusher::Flusher;
use crate::pending::{Slot, Upload};
use crate::write_back::Closes;
use crate::{Config, Error, Result};

/// Slices named by one transaction at most.
const COMMIT_SLICES_MAX: usize = 1024;

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
    pub(crate) closes: Closes,
    pub(crate) ahead: Budget,
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
            ahead: Budget::new(config.readahead_total_bytes),
            env,
            meta,
            chunk,
            config,
            files: FileTable::default(),
            flusher: Flusher::new(),
            ids: IdStash::default(),
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
        let upto = file.state().newest();
        self.flush_upto(file, upto, durability)
    }

    /// The same for slots up to a number; for `None` only an owed sync is left to do.
    pub(crate) fn flush_upto(
        self: &Arc<Core>,
        file: &Arc<File>,
        upto: Option<u64>,
        durability: Durability,
    ) -> ToTheEnd<Result<()>> {
        let (core, file) = (self.clone(), file.clone());
        let work = async move {
            let done = match upto {
                Some(upto) => core.store_and_commit(&file, upto, durability).await,
                None => Ok(()),
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

    async fn store_and_commit(&self, file: &File, upto: u64, durability: Durability) -> Result<()> {
        let uploads = file.state().freeze_upto(upto);
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
            if batch.is_empty() {
                self.settle_notes(file).await;
                return Ok(());
            }
            self.make_safe(file, batch.len()).await?;
            let (count, before) = (batch.len(), self.changes.load(Ordering::Acquire));
            match self.meta.commit(file.ino, batch, set_mtime, durability).await {
                Ok(done) => {
                    {
                        let mut state = file.state();
                        self.believe(&mut state, done.attr);
                        state.pop(count);
                    }
                    file.drained.notify_waiters();
                    if durability == Durability::Power { self.synced_upto(before) } else { self.note_change() }
                }
                Err(error) => {
                    let error = Error::from(error);
                    if !error.is_final() {
                        return Err(error);
                    }
                    // One slice may be refused where the next one is not: find out which.
                    if count > 1 && !matches!(error, Error::Meta(MetaError::NoEntry)) {
                        limit = 1;
                        continue;
                    }
                    self.drop_front(file, count, &error).await;
                }
            }
        }
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
        self.discard(slots).await;
    }

    /// Gives slices up that nobody will name.
    async fn discard(&self, slots: Vec<Slot>) {
        for slot in slots {
            if let Err(error) = slot.upload.writer.discard().await {
                debug!(slice = slot.upload.writer.id().0, %error, "blocks are left to gc");
            }
        }
    }

    /// Drops everything uncommitted of a file that nobody can open any more.
    pub(crate) async fn abandon(&self, file: &File) {
        let _order = file.commit.lock().await;
        let slots = {
            let mut state = file.state();
            state.freeze(u64::MAX);
            let count = state.queue.len();
            state.pop(count)
        };
        file.drained.notify_waiters();
        self.settle_notes(file).await;
        self.discard(slots).await;
    }

    /// Uploads slices again whose blocks may soon be taken for leaked (volume format 11.5).
    async fn renew_old(&self, file: &File, upto: u64) -> Result<()> {
        let now = self.env.instant();
        let is_old = |u: &Arc<Upload>| {
            u.writer.first_stored().is_some_and(|at| now.saturating_duration_since(at) >= self.config.reupload_age)
        };
        let old: Vec<_> = file.state().uploads_upto(upto).into_iter().filter(is_old).collect();
        for upload in old {
            let fresh = self.copy(&upload).await?;
            {
                let mut state = file.state();
                let users = state.queue.iter_mut().filter(|s| Arc::ptr_eq(&s.upload, &upload));
                users.for_each(|s| s.upload = fresh.clone());
            }
            // What the journal says of it names the old slice.
            let notes = std::mem::take(&mut file.state().notes);
            for (_, note) in notes {
                self.chunk.settle(note).await;
            }
            // A commit that seemed to fail may have happened: then gc, not we, decides.
            if !upload.offered.load(Ordering::Acquire)
                && let Err(error) = upload.writer.discard().await
            {
                debug!(slice = upload.writer.id().0, %error, "blocks are left to gc");
            }
        }
        Ok(())
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
            if state.queue.is_empty() { std::mem::take(&mut state.owed_releases) } else { 0 }
        };
        for _ in 0..owed {
            if let Err(error) = self.meta.close_file(file.ino).await {
                warn!(ino = file.ino.0, %error, "a close is left to the session's end");
            }
        }
        self.files.forget_if_idle(file.ino);
    }
}

/// The stored slots at the front of the queue, as metadata wants them.
fn stored_front(state: &State, upto: u64, limit: usize) -> Vec<NewSlice> {
    let mut batch = Vec::new();
    for slot in state.queue.iter().take_while(|s| s.seq <= upto).take(limit) {
        let Some(stored) = slot.upload.stored() else { break };
        slot.upload.offered.store(true, Ordering::Release);
        batch.push(NewSlice { index: slot.index, record: slot.record(stored), mtime: slot.mtime });
    }
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

    /// Waits until there are some at hand.
    pub(crate) async fn fill(&self, meta: &Meta) -> Result<()> {
        if self.has(STASH_IDS / 8) {
            return Ok(());
        }
        while self.ids.lock().len() < STASH_IDS {
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
