//! What one directory holds, and who is to go next. Memory only.

use std::collections::{BTreeSet, HashMap};

use cairn_types::BlockKey;

use crate::Eviction;

/// What a file counts for beyond its block.
const FILE_OVERHEAD_BYTES: u64 = 4096;

/// Files of one directory.
#[derive(Debug)]
pub(crate) struct Index {
    eviction: Eviction,
    entries: Vec<Entry>,
    places: HashMap<BlockKey, usize>,
    bytes: u64,
    /// Oldest first; filled for [`Eviction::Lru`] only.
    by_age: BTreeSet<(u64, BlockKey)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: BlockKey,
    /// Any clock that only grows; microseconds of wall time here.
    used_at: u64,
    /// The scan that saw it last.
    scan: u32,
    /// Linked elsewhere too: another client has yet to upload it.
    pinned: bool,
}

/// Space that a cached block takes.
pub(crate) fn weight(key: BlockKey) -> u64 {
    u64::from(key.len) + FILE_OVERHEAD_BYTES
}

impl Index {
    pub(crate) fn new(eviction: Eviction) -> Index {
        Index { eviction, entries: vec![], places: HashMap::new(), bytes: 0, by_age: BTreeSet::new() }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn contains(&self, key: BlockKey) -> bool {
        self.places.contains_key(&key)
    }

    /// Adds a file, or notes that it was seen again.
    pub(crate) fn insert(&mut self, key: BlockKey, used_at: u64, scan: u32, pinned: bool) {
        if let Some(&place) = self.places.get(&key) {
            self.entries[place].scan = scan;
            self.touch(key, used_at);
            self.pin(key, pinned);
            return;
        }
        self.places.insert(key, self.entries.len());
        self.entries.push(Entry { key, used_at, scan, pinned: false });
        self.bytes += weight(key);
        if self.eviction == Eviction::Lru {
            self.by_age.insert((used_at, key));
        }
        self.pin(key, pinned);
    }

    /// Notes a use; an earlier time than the known one is ignored.
    pub(crate) fn touch(&mut self, key: BlockKey, used_at: u64) {
        let Some(&place) = self.places.get(&key) else { return };
        let entry = &mut self.entries[place];
        if used_at > entry.used_at {
            if self.by_age.remove(&(entry.used_at, key)) {
                self.by_age.insert((used_at, key));
            }
            entry.used_at = used_at;
        }
    }

    /// Keeps a file from being picked, or lets it go again.
    pub(crate) fn pin(&mut self, key: BlockKey, pinned: bool) {
        let Some(&place) = self.places.get(&key) else { return };
        let entry = &mut self.entries[place];
        entry.pinned = pinned;
        if self.eviction == Eviction::Lru {
            let aged = (entry.used_at, key);
            if pinned {
                self.by_age.remove(&aged)
            } else {
                self.by_age.insert(aged)
            };
        }
    }

    /// Forgets a file; was it known?
    pub(crate) fn remove(&mut self, key: BlockKey) -> bool {
        let Some(place) = self.places.remove(&key) else { return false };
        let entry = self.entries.swap_remove(place);
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.key, place);
        }
        self.by_age.remove(&(entry.used_at, key));
        self.bytes -= weight(key);
        true
    }

    /// The next to go, by the rule of this index. `pick(n)` draws a number below `n`.
    pub(crate) fn victim(&self, mut pick: impl FnMut(u64) -> u64) -> Option<BlockKey> {
        const TRIES: usize = 16;
        if self.entries.is_empty() {
            return None;
        }
        match self.eviction {
            Eviction::None => None,
            Eviction::Lru => self.by_age.first().map(|(_, key)| *key),
            Eviction::TwoRandom => {
                let mut draw = || self.entries[pick(self.len()) as usize];
                let picked = (0..TRIES).map(|_| draw()).filter(|e| !e.pinned).take(2);
                picked.min_by_key(|e| e.used_at).map(|e| e.key)
            }
        }
    }

    /// Forgets what a complete scan did not see; files added meanwhile carry its number too.
    pub(crate) fn forget_before(&mut self, scan: u32) {
        let gone: Vec<_> = self.entries.iter().filter(|e| e.scan < scan).map(|e| e.key).collect();
        gone.into_iter().for_each(|key| {
            self.remove(key);
        });
    }

    /// Every key, for tests.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> impl Iterator<Item = BlockKey> {
        self.entries.iter().map(|e| e.key)
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::SliceId;
    use proptest::prelude::*;

    use super::*;

    fn key(id: u64) -> BlockKey {
        BlockKey { id: SliceId(id), index: 0, len: 100 }
    }

    #[test]
    fn lru_picks_the_one_used_longest_ago() {
        let mut index = Index::new(Eviction::Lru);
        (1..=3).for_each(|n| index.insert(key(n), n, 0, false));
        index.touch(key(1), 10);
        assert_eq!(index.victim(|_| 0), Some(key(2)));
        index.pin(key(2), true);
        assert_eq!(index.victim(|_| 0), Some(key(3)));
    }

    #[test]
    fn of_two_picked_the_older_goes_and_pinned_ones_stay() {
        let mut index = Index::new(Eviction::TwoRandom);
        (1..=3).for_each(|n| index.insert(key(n), 10 - n, 0, false));
        let mut draws = [0, 2].into_iter().cycle();
        assert_eq!(index.victim(|_| draws.next().unwrap()), Some(key(3)));
        (1..=3).for_each(|n| index.pin(key(n), true));
        assert_eq!(index.victim(|_| 1), None);
    }

    #[test]
    fn nobody_goes_when_eviction_is_off() {
        let mut index = Index::new(Eviction::None);
        index.insert(key(1), 1, 0, false);
        assert_eq!(index.victim(|_| 0), None);
    }

    proptest! {
        /// Places, bytes and ages stay consistent under any order of calls.
        #[test]
        fn bookkeeping_equals_a_set(ops in proptest::collection::vec((0..4u8, 0..12u64, 0..100u64), 0..200)) {
            for eviction in [Eviction::TwoRandom, Eviction::Lru] {
                let mut index = Index::new(eviction);
                let mut model = std::collections::BTreeMap::new();
                for &(op, id, at) in &ops {
                    match op {
                        0 | 1 => { index.insert(key(id), at, 1, false); let t = model.entry(id).or_insert(at); *t = at.max(*t); }
                        2 => { index.remove(key(id)); model.remove(&id); }
                        _ => { index.touch(key(id), at); if let Some(t) = model.get_mut(&id) { *t = at.max(*t); } }
                    }
                }
                prop_assert_eq!(index.bytes(), model.len() as u64 * weight(key(0)));
                prop_assert!(index.keys().all(|k| model.contains_key(&k.id.0)) && index.len() == model.len() as u64);
                prop_assert!(model.keys().all(|id| index.contains(key(*id))));
                if eviction == Eviction::Lru {
                    let oldest = model.iter().map(|(id, at)| (*at, *id)).min();
                    prop_assert_eq!(index.victim(|_| 0), oldest.map(|(_, id)| key(id)));
                }
            }
        }
    }
}
