//! A slice on its way to the store, and the places of a file that show it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use cairn_chunk::{SliceWriter, StoredSlice};
use cairn_types::{CHUNK_BYTES, ChunkIndex, SliceRecord, Timestamp};
use tokio::sync::Mutex;

/// A slice being written or stored. Several slots share one if it is a pack.
pub(crate) struct Upload {
    pub(crate) writer: SliceWriter,
    /// Failed tries so far: tells a waiter that somebody else has just tried in vain.
    failures: AtomicU64,
    stored: OnceLock<StoredSlice>,
    /// Held while it is being stored; the error of the last try.
    storing: Mutex<Option<cairn_chunk::Error>>,
    /// Metadata was asked to name it: whether it did is not always known.
    pub(crate) offered: AtomicBool,
    /// Metadata names it: some of its records are committed, so the others only add to its references.
    pub(crate) named: AtomicBool,
}

impl Upload {
    pub(crate) fn new(writer: SliceWriter) -> Arc<Upload> {
        Arc::new(Upload {
            writer,
            failures: AtomicU64::new(0),
            stored: OnceLock::new(),
            storing: Mutex::default(),
            offered: AtomicBool::new(false),
            named: AtomicBool::new(false),
        })
    }

    /// Stores the slice; whoever comes while it is being stored shares the outcome.
    pub(crate) async fn store(&self) -> cairn_chunk::Result<()> {
        let failures = self.failures.load(Ordering::Acquire);
        let mut last = self.storing.lock().await;
        if self.stored.get().is_some() {
            return Ok(());
        }
        if let Some(error) = &*last
            && self.failures.load(Ordering::Acquire) != failures
        {
            return Err(error.clone());
        }
        match self.writer.finish().await {
            Ok(stored) => {
                self.stored.set(stored).expect("only the holder of the lock stores it");
                Ok(())
            }
            Err(error) => {
                *last = Some(error.clone());
                self.failures.fetch_add(1, Ordering::AcqRel);
                Err(error)
            }
        }
    }

    /// The stored slice, if it is stored.
    pub(crate) fn stored(&self) -> Option<&StoredSlice> {
        self.stored.get()
    }
}

/// How much of a file's dirt is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upto {
    /// None: only what is owed apart from data.
    Nothing,
    /// Slots up to this number, and no patch.
    Slot(u64),
    /// Everything.
    All,
}

/// A run of bytes of a file that is not committed yet. Slots of a file commit in the order of `seq`.
pub(crate) struct Slot {
    pub(crate) seq: u64,
    pub(crate) index: ChunkIndex,
    /// Start in the chunk.
    pub(crate) pos: u32,
    /// Bytes.
    pub(crate) len: u32,
    /// Where in the slice the run starts: 0 unless packed.
    pub(crate) off: u32,
    pub(crate) upload: Arc<Upload>,
    /// Takes no more data.
    pub(crate) frozen: bool,
    /// Its slice is being stored, or was: it stays in that slice.
    pub(crate) leaving: bool,
    pub(crate) born: Instant,
    pub(crate) touched: Instant,
    /// When its last byte was written, or what utimes said since.
    pub(crate) mtime: Timestamp,
}

impl Slot {
    /// End in the chunk.
    pub(crate) fn end(&self) -> u32 {
        self.pos + self.len
    }

    /// It has reached the end of its chunk.
    pub(crate) fn is_full(&self) -> bool {
        u64::from(self.end()) == CHUNK_BYTES
    }

    /// Does it hold some byte of `[start, end)` of its chunk?
    pub(crate) fn overlaps(&self, start: u32, end: u32) -> bool {
        self.pos < end && start < self.end()
    }

    /// May a write at `pos` of its chunk go on here? (Volume format 11.2.)
    pub(crate) fn accepts(&self, pos: u32) -> bool {
        !self.frozen && self.pos <= pos && pos <= self.end() && pos - self.pos >= self.upload.writer.floor()
    }

    /// All its bytes are in memory, and they may still be stored in another slice.
    pub(crate) fn is_loose(&self, below: u32) -> bool {
        !self.leaving && self.len < below && self.upload.writer.floor() == 0
    }

    /// The record that shows it, once stored.
    pub(crate) fn record(&self, stored: &StoredSlice) -> SliceRecord {
        let slice = stored.slice();
        debug_assert!(self.off + self.len <= slice.size);
        SliceRecord { pos: self.pos, id: slice.id, size: slice.size, off: self.off, len: self.len }
    }
}
