//! What one directory holds, and who is to go next. Memory only.

use std::collections::{BTreeSet, HashMap};

use cairn_types::BlockKey;

use crate::Eviction;
use crate::fifo::Fifo;

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
    /// Filled for [`Eviction::S3Fifo`] only.
    fifo: Fifo,
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
        Index {
            eviction,
            entries: vec![],
            places: HashMap::new(),
            bytes: 0,
            by_age: BTreeSet::new(),
            fifo: Fifo::default(),
        }
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

    /// Adds a new file, or notes that it was seen again.
    pub(crate) fn insert(&mut self, key: BlockKey, used_at: u64, scan: u32, pinned: bool) {
        self.add(key, used_at, (scan, pinned), false);
    }

    /// Adds a file that was here before we were, or notes that it was seen again.
    pub(crate) fn found(&mut self, key: BlockKey, used_at: u64, scan: u32, pinned: bool) {
        self.add(key, used_at, (scan, pinned), true);
    }

    fn add(&mut self, key: BlockKey, used_at: u64, (scan, pinned): (u32, bool), proven: bool) {
        if let Some(&place) = self.places.get(&key) {
            self.entries[place].scan = scan;
            self.touch(key, used_at);
            self.pin(key, pinned);
            return;
        }
        self.places.insert(key, self.entries.len());
        self.entries.push(Entry { key, used_at, scan, pinned: false });
        self.bytes += weight(key);
        match self.eviction {
            Eviction::Lru => _ = self.by_age.insert((used_at, key)),
            Eviction::S3Fifo => self.fifo.insert(key, weight(key), proven),
            Eviction::None | Eviction::TwoRandom => {}
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
            self.fifo.touch(key);
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
        self.fifo.remove(key);
        self.bytes -= weight(key);
        true
    }

    /// The next to go, by the rule of this index. `pick(n)` draws a number below `n`.
    pub(crate) fn victim(&mut self, mut pick: impl FnMut(u64) -> u64) -> Option<BlockKey> {
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
            Eviction::S3Fifo => {
                let (places, entries) = (&self.places, &self.entries);
                self.fifo.victim(|key| places.get(&key).is_some_and(|place| !entries[*place].pinned))
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

    #[test]
    fn newcomers_that_nobody_uses_again_go_first() {
        let mut index = Index::new(Eviction::S3Fifo);
        (1..=10).for_each(|n| index.insert(key(n), n, 0, false));
        (1..=5).for_each(|n| index.touch(key(n), 20));
        let gone: Vec<_> = (0..5)
            .map(|_| {
                let victim = index.victim(|_| 0).unwrap();
                index.remove(victim);
                victim.id.0
            })
            .collect();
        assert_eq!(gone, [6, 7, 8, 9, 10]);
        // One that comes back has proven itself: a later newcomer goes before it.
        index.insert(key(6), 30, 0, false);
        index.insert(key(11), 31, 0, false);
        index.insert(key(12), 31, 0, false);
        assert_eq!(index.victim(|_| 0), Some(key(11)));
        (1..=12).for_each(|n| index.pin(key(n), true));
        assert_eq!(index.victim(|_| 0), None);
    }

    /// A trace of keys; how many in 10,000 were found in a cache of `capacity` blocks.
    fn hits(eviction: Eviction, capacity: u64, trace: &[u64]) -> u64 {
        let (mut index, mut random, mut found) = (Index::new(eviction), Random(9), 0);
        for (now, &id) in trace.iter().enumerate() {
            if index.contains(key(id)) {
                found += 1;
                index.touch(key(id), now as u64 + 1);
                continue;
            }
            while index.len() >= capacity {
                let victim = index.victim(|n| random.below(n)).unwrap();
                index.remove(victim);
            }
            index.insert(key(id), now as u64 + 1, 0, false);
        }
        found * 10_000 / trace.len() as u64
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) % n
        }
    }

    /// Keys by Zipf's law, mixed with scans of so many keys that nobody reads twice.
    fn skewed(keys: usize, exponent: f64, scan_every: usize, scan_len: usize, seed: u64) -> Vec<u64> {
        let mut sums = Vec::with_capacity(keys);
        let mut sum = 0.0;
        for rank in 1..=keys {
            sum += (rank as f64).powf(-exponent);
            sums.push(sum);
        }
        let (mut random, mut fresh, mut trace) = (Random(seed), 1 << 32, Vec::new());
        for i in 1..=20_000 {
            let at = random.below(1 << 40) as f64 / (1u64 << 40) as f64 * sum;
            trace.push(sums.partition_point(|s| *s < at) as u64);
            if scan_len > 0 && i % scan_every == 0 {
                trace.extend(fresh..fresh + scan_len as u64);
                fresh += scan_len as u64;
            }
        }
        trace
    }

    #[test]
    fn the_default_finds_at_least_as_much_as_the_others() {
        let traces = [
            ("skewed", skewed(20_000, 0.9, 1, 0, 1)),
            ("strongly skewed", skewed(20_000, 1.2, 1, 0, 2)),
            ("scans between", skewed(10_000, 0.9, 3_000, 3_000, 3)),
            ("mostly scans", skewed(5_000, 0.8, 500, 2_000, 4)),
            ("an epoch of everything, again and again", (0..30_000).map(|i| i % 3_000).collect()),
        ];
        for (name, trace) in &traces {
            for capacity in [200, 2_000] {
                let [ours, random, lru] =
                    [Eviction::default(), Eviction::TwoRandom, Eviction::Lru].map(|e| hits(e, capacity, trace));
                println!("{name}, {capacity} blocks: {ours} of 10,000; 2-random {random}, lru {lru}");
                assert!(
                    ours >= lru && ours >= random,
                    "{name}, {capacity} blocks: {ours}, 2-random {random}, lru {lru}"
                );
            }
        }
    }

    proptest! {
        /// Places, bytes and ages stay consistent under any order of calls.
        #[test]
        fn bookkeeping_equals_a_set(ops in proptest::collection::vec((0..4u8, 0..12u64, 0..100u64), 0..200)) {
            for eviction in [Eviction::TwoRandom, Eviction::Lru, Eviction::S3Fifo] {
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
                while let Some(victim) = index.victim(|n| n - 1) {
                    prop_assert!(index.remove(victim), "{} goes that is not there", victim.id);
                }
                prop_assert_eq!((index.len(), index.bytes()), (0, 0), "all of them may go");
            }
        }
    }
}
