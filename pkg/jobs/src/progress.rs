//! How far a long job is, for whoever watches.

/// What a job is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Deleting slices without owner.
    CleanSlices,
    /// Deleting data of removed files.
    CleanFiles,
    /// Expiring the trash and delayed slices.
    CleanTrash,
    /// Removing clone trees that were never attached.
    CleanDetached,
    /// Compacting chunks.
    Compact,
    /// Reading slice lists.
    ListSlices,
    /// Listing objects.
    ScanObjects,
    /// Asking for objects the listing did not show.
    FindMissing,
    /// Deleting leaked objects.
    DeleteLeaked,
    /// Checking the tree's rules.
    CheckTree,
    /// Reading and decoding blocks.
    Verify,
    /// Removing entries.
    Remove,
    /// Adding up a tree.
    Summarize,
    /// Files into the cache, out of it, or looked for there.
    Warm(crate::warm::Action),
}

impl Phase {
    /// A few words for a progress bar.
    pub fn label(self) -> &'static str {
        match self {
            Phase::CleanSlices => "Cleaned pending slices",
            Phase::CleanFiles => "Cleaned pending files",
            Phase::CleanTrash => "Cleaned trash",
            Phase::CleanDetached => "Cleaned detached nodes",
            Phase::Compact => "Compacted chunks",
            Phase::ListSlices => "Listed slices",
            Phase::ScanObjects => "Scanned objects",
            Phase::FindMissing => "Looked for blocks",
            Phase::DeleteLeaked => "Deleted leaked objects",
            Phase::CheckTree => "Checked inodes",
            Phase::Verify => "Verified slices",
            Phase::Remove => "Removing entries",
            Phase::Summarize => "Scanned entries",
            Phase::Warm(crate::warm::Action::Fill) => "Warmed up files",
            Phase::Warm(crate::warm::Action::Evict) => "Evicted files",
            Phase::Warm(crate::warm::Action::Check) => "Checked files",
        }
    }
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Busy with.
    pub phase: Phase,
    /// Things done in this phase.
    pub done: u64,
    /// Things to do in it, if known.
    pub total: Option<u64>,
    /// Bytes those done stand for.
    pub bytes: u64,
}

/// Watches a job. Called often: keep it cheap.
pub type Watch<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Watches nothing.
pub fn unwatched(_: Progress) {}

/// A number of things and the bytes they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Things.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}
