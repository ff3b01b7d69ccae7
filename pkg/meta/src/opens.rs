//! Which inodes this client has open, and what it knows of their content.
//!
//! An open counts itself before it reads the attributes it verifies; a removal that finds an inode
//! closed claims it, and an open of a claimed inode waits for the removal's outcome. So an inode
//! is never both opened and deleted.

use std::collections::HashMap;
use std::sync::Arc;

use cairn_types::{ChunkIndex, Ino, SliceRecord, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Slices as read from the engine: the list, oldest first.
pub(crate) type SliceList = Arc<Vec<SliceRecord>>;

#[derive(Default)]
struct Slot {
    opens: u64,
    claims: u32,
    sustained: bool,
    /// mtime and ctime the lists below were read under.
    version: Option<(Timestamp, u64)>,
    lists: HashMap<ChunkIndex, SliceList>,
    /// Counts drops of lists, so that a list read before a change is not kept after it.
    generation: u64,
}

impl Slot {
    fn is_idle(&self) -> bool {
        self.opens == 0 && self.claims == 0
    }
}

/// All open inodes of a client.
#[derive(Default)]
pub struct OpenTable {
    slots: Mutex<HashMap<Ino, Slot>>,
    unclaimed: Notify,
}

impl std::fmt::Debug for OpenTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenTable({} inodes)", self.slots.lock().len())
    }
}

impl OpenTable {
    /// Counts an open. Waits while a removal of the inode is under way.
    pub(crate) async fn open(&self, ino: Ino) {
        loop {
            let unclaimed = self.unclaimed.notified();
            {
                let mut slots = self.slots.lock();
                let slot = slots.entry(ino).or_default();
                if slot.claims == 0 {
                    slot.opens += 1;
                    return;
                }
            }
            unclaimed.await;
        }
    }

    /// Counts an open of an inode nobody else can know yet.
    pub(crate) fn open_new(&self, ino: Ino) {
        self.slots.lock().entry(ino).or_default().opens += 1;
    }

    /// Takes an open back; true if it was the last one of an unlinked inode that we keep alive.
    pub(crate) fn close(&self, ino: Ino) -> bool {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get_mut(&ino) else { return false };
        slot.opens = slot.opens.saturating_sub(1);
        let release = slot.opens == 0 && slot.sustained;
        if slot.is_idle() {
            slots.remove(&ino);
        }
        release
    }

    /// Is the inode open here? If not, opens wait until the claim is dropped.
    pub(crate) fn claim(self: &Arc<Self>, ino: Ino) -> Claim {
        let mut slots = self.slots.lock();
        let slot = slots.entry(ino).or_default();
        slot.claims += 1;
        Claim { table: self.clone(), ino, open: slot.opens > 0 }
    }

    /// Remembers that we keep an unlinked inode alive. True if it was closed meanwhile: release it.
    pub(crate) fn mark_sustained(&self, ino: Ino) -> bool {
        match self.slots.lock().get_mut(&ino) {
            Some(slot) if slot.opens > 0 => {
                slot.sustained = true;
                false
            }
            _ => true,
        }
    }

    /// Number of opens of an inode.
    pub fn count(&self, ino: Ino) -> u64 {
        self.slots.lock().get(&ino).map_or(0, |s| s.opens)
    }

    /// Inodes that are open.
    pub fn len(&self) -> usize {
        self.slots.lock().values().filter(|s| s.opens > 0).count()
    }

    /// No inode is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A kept slice list, and the generation to hand back with one that is read now.
    pub(crate) fn list(&self, ino: Ino, index: ChunkIndex) -> Result<SliceList, u64> {
        let slots = self.slots.lock();
        let Some(slot) = slots.get(&ino) else { return Err(u64::MAX) };
        slot.lists.get(&index).cloned().ok_or(slot.generation)
    }

    /// Keeps a list read since `generation`, if the inode is open and nothing changed meanwhile.
    pub(crate) fn keep_list(&self, ino: Ino, index: ChunkIndex, generation: u64, list: &SliceList) {
        if let Some(slot) = self.slots.lock().get_mut(&ino)
            && slot.generation == generation
            && slot.lists.len() < MAX_KEPT_LISTS
        {
            slot.lists.insert(index, list.clone());
        }
    }

    /// Drops the lists of some chunks (all if `None`).
    pub(crate) fn drop_lists(&self, ino: Ino, index: Option<ChunkIndex>) {
        if let Some(slot) = self.slots.lock().get_mut(&ino) {
            slot.generation += 1;
            match index {
                Some(i) => {
                    slot.lists.remove(&i);
                }
                None => slot.lists.clear(),
            }
        }
    }

    /// Drops kept lists if the file's content version differs from the one they were read under.
    pub(crate) fn seen_version(&self, ino: Ino, mtime: Timestamp, length: u64) {
        if let Some(slot) = self.slots.lock().get_mut(&ino) {
            if slot.version.is_some_and(|v| v != (mtime, length)) {
                slot.generation += 1;
                slot.lists.clear();
            }
            slot.version = Some((mtime, length));
        }
    }

    /// Our own commit moved the version on without making the other lists stale.
    pub(crate) fn set_version(&self, ino: Ino, mtime: Timestamp, length: u64) {
        if let Some(slot) = self.slots.lock().get_mut(&ino) {
            slot.version = Some((mtime, length));
        }
    }
}

/// Slice lists kept for one open inode: 1 TiB of file.
const MAX_KEPT_LISTS: usize = 16_384;

/// A removal under way. Opens of the inode wait until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    table: Arc<OpenTable>,
    ino: Ino,
    /// Was it open when claimed?
    pub(crate) open: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut slots = self.table.slots.lock();
        if let Some(slot) = slots.get_mut(&self.ino) {
            slot.claims -= 1;
            if slot.is_idle() {
                slots.remove(&self.ino);
            }
        }
        drop(slots);
        self.table.unclaimed.notify_waiters();
    }
}
