//! What a batch changes or asks often, kept in memory until just before its commit.
//!
//! Every create changes `usedSpace`, `totalInodes` and its directory's statistics; a batch of
//! hundreds would rewrite the same rows each time. The sums of a failed operation are taken back.

use std::collections::HashMap;

use cairn_types::Ino;

use crate::record::DirStat;
use crate::txn::Counter;

/// What this transaction knows of a directory's statistics.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// Is there a record?
    pub(super) exists: bool,
    /// To be added to it.
    pub(super) delta: DirStat,
}

/// The sums of one transaction.
#[derive(Default)]
pub(super) struct Pending {
    counters: [i64; 2],
    dirs: HashMap<Ino, Slot>,
    /// Whether there is any directory quota, once it was asked: nobody else writes meanwhile.
    pub(super) any_dir_quota: Option<bool>,
    counters_before: [i64; 2],
    dirs_before: Vec<(Ino, Option<Slot>)>,
}

impl Pending {
    /// Counters that are summed here.
    pub(super) const SUMMED: [Counter; 2] = [Counter::UsedSpace, Counter::TotalInodes];

    /// What is to be added to `counter`, if it is one of the summed ones.
    pub(super) fn counter(&mut self, counter: Counter) -> Option<&mut i64> {
        Pending::SUMMED.iter().position(|c| *c == counter).map(|i| &mut self.counters[i])
    }

    pub(super) fn dir(&self, dir: Ino) -> Option<Slot> {
        self.dirs.get(&dir).copied()
    }

    pub(super) fn set_dir(&mut self, dir: Ino, slot: Slot) {
        let before = self.dirs.insert(dir, slot);
        self.dirs_before.push((dir, before));
    }

    /// An operation begins: what changes from here on may be taken back.
    pub(super) fn mark(&mut self) {
        self.counters_before = self.counters;
        self.dirs_before.clear();
    }

    /// The operation failed.
    pub(super) fn take_back(&mut self) {
        self.counters = self.counters_before;
        self.any_dir_quota = None;
        for (dir, before) in self.dirs_before.drain(..).rev() {
            match before {
                Some(slot) => self.dirs.insert(dir, slot),
                None => self.dirs.remove(&dir),
            };
        }
    }

    /// The transaction is over.
    pub(super) fn clear(&mut self) {
        self.counters = [0; 2];
        self.dirs.clear();
        self.any_dir_quota = None;
        self.mark();
    }

    /// Counters to add to, with how much.
    pub(super) fn counter_sums(&self) -> impl Iterator<Item = (Counter, i64)> {
        Pending::SUMMED.into_iter().zip(self.counters).filter(|(_, delta)| *delta != 0)
    }

    /// Directories to add to, with how much.
    pub(super) fn dir_sums(&self) -> impl Iterator<Item = (Ino, DirStat)> {
        let changed = self.dirs.iter().filter(|(_, slot)| slot.exists && slot.delta != DirStat::default());
        changed.map(|(dir, slot)| (*dir, slot.delta))
    }
}
