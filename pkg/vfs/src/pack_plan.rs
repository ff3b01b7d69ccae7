//! How the scattered dirt of a flush is stored: the cost model. Pure.
//!
//! R runs with D dirty bytes over a span of S bytes can become
//!
//! * a **pack**: one object of D bytes, R records. The cheapest to write, and what a flush does unless
//!   something speaks against it;
//! * a **fill** (read-modify-write): gaps between runs are read and written too, so that fewer
//!   records are left. All gaps, if what they show is at hand and S is at most twice D: one record
//!   costs less than R for whoever reads, compacts and commits. Else only as many as it takes to keep
//!   the list within its bound, smallest first;
//! * a **slice of its own**, where a run is as long as a pack may be.

use std::ops::Range;

/// With fewer runs than this, records are cheaper than reading anything.
const FILL_RUNS_MIN: usize = 64;

/// Fill all gaps if that makes at most so many times the dirty bytes.
const FILL_GROWTH_MAX: u64 = 2;

/// Bytes of a chunk that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Start in the chunk.
    pub(crate) pos: u32,
    pub(crate) len: u32,
}

impl Extent {
    fn end(self) -> u32 {
        self.pos + self.len
    }
}

/// What speaks against one record a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pressure {
    /// Records the chunk's list may grow by.
    pub(crate) records_max: usize,
    /// What the gaps show is on this machine.
    pub(crate) gaps_at_hand: bool,
}

/// May filling gaps be worth a look? If not, nobody needs to know the list or the cache.
pub(crate) fn is_dense(extents: &[Extent], records_max: usize) -> bool {
    extents.len() > records_max || (extents.len() >= FILL_RUNS_MIN && span(extents) <= dirty(extents) * FILL_GROWTH_MAX)
}

/// The runs of one chunk (in order, not touching) that shall show as one record each: gaps within a
/// group are filled. Never more groups than the list has room for, but always one.
pub(crate) fn groups(extents: &[Extent], pressure: Pressure) -> Vec<Range<usize>> {
    let count = extents.len();
    let cheap = count >= FILL_RUNS_MIN && span(extents) <= dirty(extents) * FILL_GROWTH_MAX;
    let kept = if cheap && pressure.gaps_at_hand { 1 } else { pressure.records_max.clamp(1, count.max(1)) };
    // Borders stay where the gaps are widest.
    let mut borders: Vec<usize> = (1..count).collect();
    borders.sort_by_key(|&i| std::cmp::Reverse(extents[i].pos - extents[i - 1].end()));
    borders.truncate(kept - 1);
    borders.sort_unstable();
    ranges(borders, count)
}

/// Which runs, given their lengths in the order in which they will lie, share an object. None is
/// split; one that is as long as a pack may be stands alone.
pub(crate) fn objects(lens: &[u32], pack_bytes: u32) -> Vec<Range<usize>> {
    let mut borders = Vec::new();
    let mut filled = 0u64;
    for (i, &len) in lens.iter().enumerate() {
        let next = filled + u64::from(len);
        if i > 0 && (len >= pack_bytes || next > u64::from(pack_bytes)) {
            borders.push(i);
            filled = u64::from(len);
        } else {
            filled = next;
        }
    }
    ranges(borders, lens.len())
}

/// Objects that [`objects`] makes of `count` runs of `bytes` together, at most: any two neighbours
/// hold more than one pack.
pub(crate) fn objects_max(bytes: u64, pack_bytes: u32) -> usize {
    (bytes * 2 / u64::from(pack_bytes)) as usize + 2
}

fn ranges(borders: Vec<usize>, count: usize) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(borders.iter().copied());
    let ends = borders.iter().copied().chain(std::iter::once(count));
    starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| start..end).collect()
}

fn dirty(extents: &[Extent]) -> u64 {
    extents.iter().map(|e| u64::from(e.len)).sum()
}

fn span(extents: &[Extent]) -> u64 {
    match extents {
        [first, .., last] => u64::from(last.end() - first.pos),
        [one] => u64::from(one.len),
        [] => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACK: u32 = 4 << 20;

    fn every(step: u32, count: u32) -> Vec<Extent> {
        (0..count).map(|i| Extent { pos: i * step, len: 4096 }).collect()
    }

    fn made(extents: &[Extent], records_max: usize, gaps_at_hand: bool) -> usize {
        groups(extents, Pressure { records_max, gaps_at_hand }).len()
    }

    #[test]
    fn few_or_far_runs_are_packed_as_they_are() {
        assert_eq!(made(&every(8192, 63), 1000, true), 63, "few");
        assert_eq!(made(&every(12_288, 1000), 1000, true), 1000, "a third of the span is dirty");
        assert!(!is_dense(&every(12_288, 1000), 1000));
    }

    #[test]
    fn half_dirty_spans_are_rewritten_if_the_rest_is_at_hand() {
        let half = every(8192, 64);
        assert!(is_dense(&half, 1000));
        assert_eq!((made(&half, 1000, true), made(&half, 1000, false)), (1, 64));
    }

    #[test]
    fn a_list_without_room_gets_the_narrowest_gaps_filled() {
        let extents = [(0, 10), (20, 10), (100, 10), (115, 10), (1000, 10)].map(|(pos, len)| Extent { pos, len });
        let pressure = Pressure { records_max: 3, gaps_at_hand: false };
        assert_eq!(groups(&extents, pressure), [0..2, 2..4, 4..5]);
        assert_eq!(made(&extents, 0, false), 1, "always one");
    }

    #[test]
    fn packs_are_full_and_long_runs_stand_alone() {
        let pages = vec![4096; 2500];
        assert_eq!(objects(&pages, PACK), [0..1024, 1024..2048, 2048..2500]);
        assert_eq!(objects(&[4096, PACK, 4096, 4096], PACK), [0..1, 1..2, 2..4]);
        assert_eq!(objects(&[], PACK), []);
    }

    proptest! {
        #[test]
        fn objects_are_few_and_small_enough(lens in proptest::collection::vec(1..6_000_000u32, 0..60)) {
            let made = objects(&lens, PACK);
            prop_assert_eq!(made.iter().cloned().flatten().collect::<Vec<_>>(), (0..lens.len()).collect::<Vec<_>>());
            let bytes: u64 = lens.iter().map(|l| u64::from(*l)).sum();
            prop_assert!(made.len() <= objects_max(bytes, PACK), "{} objects", made.len());
            for object in made {
                let bytes: u64 = lens[object.clone()].iter().map(|l| u64::from(*l)).sum();
                prop_assert!(object.len() == 1 || bytes <= u64::from(PACK) || lens[object.start] >= PACK);
            }
        }

        #[test]
        fn groups_cover_every_run_once_and_stay_within_the_list(
            gaps in proptest::collection::vec((1..100_000u32, 1..9000u32), 1..300), records_max in 1..400usize, at_hand: bool,
        ) {
            let mut at = 0;
            let extents: Vec<Extent> = gaps.iter().map(|(gap, len)| {
                let pos = at + gap;
                at = pos + len;
                Extent { pos, len: *len }
            }).collect();
            let made = groups(&extents, Pressure { records_max, gaps_at_hand: at_hand });
            prop_assert_eq!(made.iter().cloned().flatten().collect::<Vec<_>>(), (0..extents.len()).collect::<Vec<_>>());
            prop_assert!(made.len() <= records_max);
        }
    }
}
