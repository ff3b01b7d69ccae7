//! Every slice the metadata knows, in one sorted array: 16 bytes a slice.

use cairn_types::{BlockKey, SliceId, SliceRef, layout};

use crate::ops::SlicePage;
use crate::progress::Tally;

/// Why a slice is known. The first that applies counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// A file shows it.
    Listed,
    /// A file that waits for deletion showed it.
    Waiting,
    /// A compaction replaced it, and the trash days are not over.
    Delayed,
    /// Nobody owns it; its record is still there.
    Unowned,
}

/// Laid out flat: a [`SliceRef`] inside would cost half as much again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    id: SliceId,
    size: u32,
    class: Class,
}

const _: () = assert!(size_of::<Known>() == 16);

impl Known {
    fn slice(&self) -> SliceRef {
        SliceRef { id: self.id, size: self.size }
    }
}

/// What an object's name means to the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A block of a known slice.
    Known(Class),
    /// A block of no known slice.
    UnknownSlice,
    /// The slice is known, but has no such block.
    NoSuchBlock {
        /// Size of the known slice.
        size: u32,
    },
}

/// The index.
#[derive(Debug)]
pub(crate) struct SliceIndex {
    known: Vec<Known>,
    block_bytes: u32,
}

impl SliceIndex {
    /// Sorts what a scan found.
    pub(crate) fn new(page: SlicePage, block_bytes: u32) -> SliceIndex {
        let SlicePage { listed, waiting, delayed, unowned, .. } = page;
        let of = |list: Vec<SliceRef>, class| list.into_iter().map(move |s| Known { id: s.id, size: s.size, class });
        let mut known: Vec<Known> = of(listed, Class::Listed).collect();
        known.extend(of(waiting, Class::Waiting));
        known.extend(of(delayed, Class::Delayed));
        known.extend(of(unowned, Class::Unowned));
        known.sort_unstable();
        known.dedup_by_key(|k| k.slice());
        known.shrink_to_fit();
        SliceIndex { known, block_bytes }
    }

    /// Slices and their bytes, without those nobody owns.
    pub(crate) fn used(&self) -> Tally {
        let mut tally = Tally::default();
        for known in self.known.iter().filter(|k| k.class != Class::Unowned) {
            tally.add(u64::from(known.size));
        }
        tally
    }

    /// Slices of a class and their bytes.
    pub(crate) fn of_class(&self, class: Class) -> Tally {
        let mut tally = Tally::default();
        for known in self.known.iter().filter(|k| k.class == class) {
            tally.add(u64::from(known.size));
        }
        tally
    }

    /// The slices of a class, ascending.
    pub(crate) fn slices(&self, class: Class) -> impl Iterator<Item = SliceRef> + '_ {
        self.known.iter().filter(move |k| k.class == class).map(Known::slice)
    }

    /// What a block's name stands for. Damaged metadata may know one id with two sizes.
    pub(crate) fn verdict(&self, key: BlockKey) -> Verdict {
        let same_id = self.with_id(key.id);
        let Some(first) = same_id.first() else { return Verdict::UnknownSlice };
        let fits = |k: &&Known| layout::block_fits(k.size, key.index, key.len, self.block_bytes);
        match same_id.iter().find(fits) {
            Some(known) => Verdict::Known(known.class),
            None => Verdict::NoSuchBlock { size: first.size },
        }
    }

    fn with_id(&self, id: SliceId) -> &[Known] {
        let start = self.known.partition_point(|k| k.id < id);
        let len = self.known[start..].partition_point(|k| k.id == id);
        &self.known[start..start + len]
    }
}

/// One bit for every block of some slices: which of them the store showed.
#[derive(Debug)]
pub(crate) struct BlockSet {
    slices: Vec<SliceRef>,
    /// Where each slice's bits start.
    starts: Vec<u64>,
    bits: Vec<u64>,
    block_bytes: u32,
}

impl BlockSet {
    /// No block seen. `slices` ascend.
    pub(crate) fn new(slices: Vec<SliceRef>, block_bytes: u32) -> BlockSet {
        let mut starts = Vec::with_capacity(slices.len() + 1);
        let mut total = 0u64;
        for slice in &slices {
            starts.push(total);
            total += u64::from(layout::block_count(slice.size, block_bytes));
        }
        BlockSet { slices, starts, bits: vec![0; total.div_ceil(64) as usize], block_bytes }
    }

    /// Marks a block as seen; false if it is none of ours.
    pub(crate) fn mark(&mut self, key: BlockKey) -> bool {
        let first = self.slices.partition_point(|s| s.id < key.id);
        let found = self.slices[first..]
            .iter()
            .take_while(|s| s.id == key.id)
            .position(|s| layout::block_fits(s.size, key.index, key.len, self.block_bytes));
        let Some(at) = found else { return false };
        let bit = self.starts[first + at] + u64::from(key.index);
        self.bits[(bit / 64) as usize] |= 1 << (bit % 64);
        true
    }

    /// Blocks not seen, in order.
    pub(crate) fn unseen(&self) -> impl Iterator<Item = BlockKey> + '_ {
        self.slices.iter().zip(&self.starts).flat_map(move |(slice, start)| {
            (0..layout::block_count(slice.size, self.block_bytes)).filter_map(move |index| {
                let bit = start + u64::from(index);
                let seen = self.bits[(bit / 64) as usize] & 1 << (bit % 64) != 0;
                let len = layout::block_len(*slice, index, self.block_bytes);
                (!seen).then_some(BlockKey { id: slice.id, index, len })
            })
        })
    }

    /// The slices.
    pub(crate) fn slices(&self) -> &[SliceRef] {
        &self.slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(id: u64, size: u32) -> SliceRef {
        SliceRef { id: SliceId(id), size }
    }

    fn key(id: u64, index: u32, len: u32) -> BlockKey {
        BlockKey { id: SliceId(id), index, len }
    }

    fn index() -> SliceIndex {
        let page = SlicePage {
            listed: vec![slice(1, 10_000), slice(3, 5_000_000), slice(1, 10_000)],
            waiting: vec![slice(4, 7)],
            delayed: vec![slice(1, 10_000), slice(2, 9)],
            unowned: vec![slice(5, 8)],
            ..SlicePage::default()
        };
        SliceIndex::new(page, 4 << 20)
    }

    #[test]
    fn the_first_reason_counts() {
        let index = index();
        assert_eq!(index.verdict(key(1, 0, 10_000)), Verdict::Known(Class::Listed));
        assert_eq!(index.verdict(key(2, 0, 9)), Verdict::Known(Class::Delayed));
        assert_eq!(index.verdict(key(4, 0, 7)), Verdict::Known(Class::Waiting));
        assert_eq!(index.verdict(key(5, 0, 8)), Verdict::Known(Class::Unowned));
        assert_eq!(index.used(), Tally { count: 4, bytes: 5_010_016 });
    }

    #[test]
    fn blocks_that_do_not_fit_their_slice_are_leaked() {
        let index = index();
        assert_eq!(index.verdict(key(9, 0, 1)), Verdict::UnknownSlice);
        assert_eq!(index.verdict(key(1, 0, 9_999)), Verdict::NoSuchBlock { size: 10_000 });
        assert_eq!(index.verdict(key(1, 7, 4 << 20)), Verdict::NoSuchBlock { size: 10_000 });
        assert_eq!(index.verdict(key(3, 0, 4 << 20)), Verdict::Known(Class::Listed));
        assert_eq!(index.verdict(key(3, 1, 805_696)), Verdict::Known(Class::Listed));
    }

    #[test]
    fn unseen_blocks_are_those_not_marked() {
        let mut set = BlockSet::new(vec![slice(1, 10), slice(3, 5_000_000)], 4 << 20);
        assert!(set.mark(key(3, 0, 4 << 20)) && !set.mark(key(3, 1, 5)) && !set.mark(key(2, 0, 1)));
        assert_eq!(set.unseen().collect::<Vec<_>>(), [key(1, 0, 10), key(3, 1, 805_696)]);
    }
}
