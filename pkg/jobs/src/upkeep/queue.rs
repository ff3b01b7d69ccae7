//! What metadata asks for: compaction, and deletion of what lost its last owner.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_env::Budget;
use cairn_meta::Upkeep as Request;
use cairn_meta::record::DeletedFile;
use cairn_types::{ChunkIndex, Ino, SliceRef};
use tokio::sync::{mpsc, oneshot};

use super::Inner;
use crate::Result;
use crate::compact::{Compacted, compact};

/// Deferred slices deleted in one look.
const DEFERRED_BATCH: usize = 1000;

impl Inner {
    pub(super) async fn drain(
        self: Arc<Self>,
        mut requests: mpsc::Receiver<Request>,
        files: mpsc::Sender<DeletedFile>,
    ) {
        loop {
            let request = tokio::select! {
                biased;
                () = self.tasks.stopping() => return,
                request = requests.recv() => request,
            };
            match request {
                None => return,
                Some(Request::Compact { ino, index, done }) => self.consider_compaction(ino, index, done),
                // A full queue leaves the file to the hourly job: its record is there.
                Some(Request::DeleteFile(file)) => match files.try_send(file) {
                    Ok(()) => {}
                    Err(e) => tracing::debug!(ino = %file.ino, error = %e, "deletion left to the hourly job"),
                },
                Some(Request::DeleteSlices(slices)) => self.defer(slices),
            }
        }
    }

    pub(super) fn defer(&self, slices: Vec<SliceRef>) {
        if self.config.max_deletes == 0 {
            return;
        }
        let refused = self.deferred.push(self.env.instant(), slices);
        if refused > 0 {
            tracing::debug!(slices = refused, "deletion left to the hourly job");
        }
    }

    /// Starts a compaction unless one of this chunk is under way or all places are taken. Somebody
    /// who waits (a full list) waits in line for a place.
    fn consider_compaction(self: &Arc<Self>, ino: Ino, index: ChunkIndex, done: Option<oneshot::Sender<()>>) {
        let urgent = done.is_some();
        match self.compacting.lock().entry((ino, index)) {
            Entry::Occupied(mut running) => return running.get_mut().extend(done),
            Entry::Vacant(_) if !urgent && self.compactions.free() == 0 => return,
            Entry::Vacant(place) => {
                place.insert(done.into_iter().collect());
            }
        }
        let turn = Turn { inner: self.clone(), chunk: (ino, index) };
        self.tasks.spawn(async move {
            let this = &turn.inner;
            let _permit = this.compactions.acquire(1).await;
            if !this.tasks.is_stopping() {
                let outcome = this.compact(ino, index).await;
                this.note(outcome);
            }
        });
    }

    async fn compact(&self, ino: Ino, index: ChunkIndex) -> Result<()> {
        if let Compacted::Done { records, bytes, unowned } = compact(&self.meta, &self.chunks, ino, index).await? {
            tracing::debug!(%ino, index = index.0, records, bytes, "compacted a chunk");
            self.counters.compactions.fetch_add(1, Ordering::Relaxed);
            self.counters.compacted_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.defer(unowned);
        }
        Ok(())
    }

    pub(super) async fn delete_files(self: Arc<Self>, mut waiting: mpsc::Receiver<DeletedFile>) {
        let places = Budget::new(self.config.max_deletes.max(1) as u64);
        loop {
            let file = tokio::select! {
                biased;
                () = self.tasks.stopping() => return,
                file = waiting.recv() => file,
            };
            let Some(file) = file else { return };
            if self.config.max_deletes == 0 {
                continue;
            }
            let (this, permit) = (self.clone(), places.acquire(1).await);
            self.tasks.spawn(async move {
                let _permit = permit;
                let outcome = this.reclaim.delete_file(file).await;
                this.note(outcome.map(|unowned| {
                    this.counters.files.fetch_add(1, Ordering::Relaxed);
                    this.defer(unowned);
                }));
            });
        }
    }

    pub(super) async fn delete_due(&self) -> Result<()> {
        loop {
            let due = self.deferred.ready(self.env.instant(), DEFERRED_BATCH);
            if due.is_empty() || self.tasks.is_stopping() {
                return Ok(());
            }
            self.delete_now(due).await?;
        }
    }

    async fn delete_now(&self, slices: Vec<SliceRef>) -> Result<()> {
        let deleted = self.reclaim.delete_slices(slices, &mut |_| {}).await?;
        self.counters.slices.fetch_add(deleted.count, Ordering::Relaxed);
        self.counters.slice_bytes.fetch_add(deleted.bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// A chunk's turn to be compacted. Whoever waits is told when it ends, however it ends.
struct Turn {
    inner: Arc<Inner>,
    chunk: (Ino, ChunkIndex),
}

impl Drop for Turn {
    fn drop(&mut self) {
        let waiting = self.inner.compacting.lock().remove(&self.chunk).unwrap_or_default();
        for done in waiting {
            // The writer may have given up.
            let _gone = done.send(());
        }
    }
}
