//! Which inodes this client has open, and what it knows of their content.
//!
//! An open counts itself before it reads the attributes it verifies; a removal that finds an inode
//! closed claims it, and an open of a claimed inode waits for the removal's outcome. So an inode
//! is never both opened and deleted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cairn_types::{Attr, ChunkIndex, Ino, SliceRecord, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Slices as read from the engine: the list, oldest first.
pub(crate) type SliceList = Arc<Vec<SliceRecord>>;

#[derive(Default)]
struct Slot {
    opens: u64,
    claims: u32,
    sustained: bool,
    /// Another client took our session for dead, and the unlinked inode with it.
    reaped: bool,
    /// mtime and length the lists below were read under.
    version: Option<(Timestamp, u64)>,
    lists: HashMap<ChunkIndex, SliceList>,
    /// Changes with each drop of lists, so that a list read before a change is not kept after it.
    /// No two are alike in one table: a slot may go and come back while a list is read.
    generation: u64,
}

impl Slot {
    fn is_idle(&self) -> bool {
        self.opens == 0 && self.claims == 0
    }
}

#[derive(Default)]
struct Slots {
    by_ino: HashMap<Ino, Slot>,
    generations: u64,
}

impl Slots {
    /// The slot of an inode, made if there is none.
    fn slot(&mut self, ino: Ino) -> &mut Slot {
        let Slots { by_ino, generations } = self;
        by_ino.entry(ino).or_insert_with(|| {
            *generations += 1;
            Slot { generation: *generations, ..Slot::default() }
        })
    }

    /// A slot whose lists are dropped: some, or all if `None`.
    fn drop_lists(&mut self, ino: Ino, index: Option<ChunkIndex>) -> Option<&mut Slot> {
        let slot = self.by_ino.get_mut(&ino)?;
        self.generations += 1;
        slot.generation = self.generations;
        match index {
            Some(i) => {
                slot.lists.remove(&i);
            }
            None => slot.lists.clear(),
        }
        Some(slot)
    }
}

/// All open inodes of a client.
#[derive(Default)]
pub struct OpenTable {
    slots: Mutex<Slots>,
    unclaimed: Notify,
}

impl std::fmt::Debug for OpenTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenTable({} inodes)", self.slots.lock().by_ino.len())
    }
}

impl OpenTable {
    /// Counts an open. Waits while a removal of the inode is under way.
    pub(crate) async fn open(&self, ino: Ino) {
        loop {
            let unclaimed = self.unclaimed.notified();
            {
                let mut slots = self.slots.lock();
                let slot = slots.slot(ino);
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
        self.slots.lock().slot(ino).opens += 1;
    }

    /// Takes an open back; true if it was the last one of an unlinked inode that we keep alive.
    pub(crate) fn close(&self, ino: Ino) -> bool {
        let slots = &mut self.slots.lock().by_ino;
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
        let slot = slots.slot(ino);
        slot.claims += 1;
        Claim { table: self.clone(), ino, open: slot.opens > 0 }
    }

    /// Remembers that we keep an unlinked inode alive. True if it was closed meanwhile: release it.
    pub(crate) fn mark_sustained(&self, ino: Ino) -> bool {
        match self.slots.lock().by_ino.get_mut(&ino) {
            Some(slot) if slot.opens > 0 => {
                slot.sustained = true;
                false
            }
            _ => true,
        }
    }

    /// Our session is gone, and with it every unlinked inode but those in `kept`. Answers how many.
    pub(crate) fn reap(&self, kept: &HashSet<Ino>) -> usize {
        let mut slots = self.slots.lock();
        let gone = slots.by_ino.iter_mut().filter(|(ino, slot)| slot.sustained && !kept.contains(ino));
        gone.map(|(_, slot)| (slot.sustained, slot.reaped) = (false, true)).count()
    }

    /// Is the inode one that we kept alive until our session was taken for dead?
    pub(crate) fn is_reaped(&self, ino: Ino) -> bool {
        self.slots.lock().by_ino.get(&ino).is_some_and(|slot| slot.reaped)
    }

    /// Number of opens of an inode.
    pub fn count(&self, ino: Ino) -> u64 {
        self.slots.lock().by_ino.get(&ino).map_or(0, |s| s.opens)
    }

    /// Inodes that are open.
    pub fn len(&self) -> usize {
        self.slots.lock().by_ino.values().filter(|s| s.opens > 0).count()
    }

    /// No inode is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A kept slice list, and the generation to hand back with one that is read now.
    pub(crate) fn list(&self, ino: Ino, index: ChunkIndex) -> Result<SliceList, u64> {
        let slots = self.slots.lock();
        let Some(slot) = slots.by_ino.get(&ino) else { return Err(u64::MAX) };
        slot.lists.get(&index).cloned().ok_or(slot.generation)
    }

    /// Keeps a list read since `generation`, if the inode is open and nothing changed meanwhile.
    pub(crate) fn keep_list(&self, ino: Ino, index: ChunkIndex, generation: u64, list: &SliceList) {
        if let Some(slot) = self.slots.lock().by_ino.get_mut(&ino)
            && slot.generation == generation
            && slot.lists.len() < MAX_KEPT_LISTS
        {
            slot.lists.insert(index, list.clone());
        }
    }

    /// Drops the lists of some chunks (all if `None`).
    pub(crate) fn drop_lists(&self, ino: Ino, index: Option<ChunkIndex>) {
        self.slots.lock().drop_lists(ino, index);
    }

    /// Drops kept lists if the file's content version differs from the one they were read under.
    pub(crate) fn seen_version(&self, ino: Ino, attr: &Attr) {
        self.move_version(ino, attr, attr);
    }

    /// Our own change moved the file from `old` to `new` without making the other lists stale. If
    /// they were read under something else than `old`, somebody else's change came between.
    pub(crate) fn move_version(&self, ino: Ino, old: &Attr, new: &Attr) {
        let mut slots = self.slots.lock();
        let known = slots.by_ino.get(&ino).and_then(|slot| slot.version);
        let slot = match known {
            Some(version) if version != version_of(old) => slots.drop_lists(ino, None),
            _ => slots.by_ino.get_mut(&ino),
        };
        if let Some(slot) = slot {
            slot.version = Some(version_of(new));
        }
    }
}

/// Whoever changes a file's content changes its mtime.
fn version_of(attr: &Attr) -> (Timestamp, u64) {
    (attr.mtime, attr.length)
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

impl Claim {
    /// The inode that is claimed.
    pub(crate) fn ino(&self) -> Ino {
        self.ino
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut guard = self.table.slots.lock();
        let slots = &mut guard.by_ino;
        if let Some(slot) = slots.get_mut(&self.ino) {
            slot.claims -= 1;
            if slot.is_idle() {
                slots.remove(&self.ino);
            }
        }
        drop(guard);
        self.table.unclaimed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino(5);
    const AT: ChunkIndex = ChunkIndex(0);

    fn version(nanos: u32) -> Attr {
        Attr { mtime: Timestamp { secs: 1, nanos }, ..Attr::default() }
    }

    fn keep(table: &OpenTable) {
        let generation = table.list(INO, AT).expect_err("none is kept");
        table.keep_list(INO, AT, generation, &Arc::default());
    }

    #[test]
    fn a_list_read_before_a_change_is_not_kept_after_it() {
        let table = OpenTable::default();
        table.open_new(INO);
        let before = table.list(INO, AT).unwrap_err();
        table.drop_lists(INO, Some(AT));
        table.keep_list(INO, AT, before, &Arc::default());
        let before = table.list(INO, AT).expect_err("the list was read before the change");
        table.close(INO);
        table.open_new(INO);
        table.keep_list(INO, AT, before, &Arc::default());
        assert!(table.list(INO, AT).is_err(), "the file was closed and opened meanwhile");
    }

    #[test]
    fn our_own_change_keeps_lists_only_if_nobody_came_between() {
        let table = OpenTable::default();
        table.open_new(INO);
        table.seen_version(INO, &version(1));
        keep(&table);
        table.move_version(INO, &version(1), &version(2));
        assert!(table.list(INO, AT).is_ok());
        table.move_version(INO, &version(3), &version(4));
        assert!(table.list(INO, AT).is_err(), "version 3 was somebody else's");
        keep(&table);
        table.seen_version(INO, &version(4));
        assert!(table.list(INO, AT).is_ok());
        table.seen_version(INO, &version(5));
        assert!(table.list(INO, AT).is_err());
    }
}
