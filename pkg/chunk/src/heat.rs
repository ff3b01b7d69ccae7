//! Is a block read so often in small pieces that it is better fetched whole?
//!
//! Only on proof, and only on credit: every byte fetched in pieces earns a byte that may be fetched
//! beyond what was asked for. So a run of random reads costs at most twice its pieces, whatever its
//! pattern.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use cairn_types::BlockKey;
use parking_lot::Mutex;
use quick_cache::sync::Cache;

/// What a random read fetches is rounded to this.
pub(crate) const PART_BYTES: u32 = 64 * 1024;
/// Blocks remembered.
const BLOCKS_MAX: usize = 4096;
/// So many different parts make a block worth fetching whole,
const PARTS_MAX: u32 = 4;
/// or one part in so many.
const COVERAGE: u32 = 4;
/// Credit is not saved beyond this many bytes: a new pattern must prove itself.
const CREDIT_MAX: u64 = 64 << 20;

/// Small reads of late, by block.
pub(crate) struct Heat {
    seen: Cache<BlockKey, Arc<Mutex<Seen>>>,
    credit: AtomicU64,
}

/// Parts of one block that were fetched, a bit each: blocks have 16 MiB at most.
#[derive(Default)]
struct Seen([u64; 4]);

impl Seen {
    fn mark(&mut self, parts: Range<u32>) -> u32 {
        for part in parts {
            self.0[part as usize / 64 % 4] |= 1 << (part % 64);
        }
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// `range` of a block, widened to whole parts.
pub(crate) fn widened(key: BlockKey, range: &Range<u32>) -> Range<u32> {
    range.start / PART_BYTES * PART_BYTES..(range.end.div_ceil(PART_BYTES) * PART_BYTES).min(key.len)
}

impl Heat {
    pub(crate) fn new() -> Heat {
        Heat { seen: Cache::new(BLOCKS_MAX), credit: AtomicU64::new(0) }
    }

    /// Notes that these bytes of a block, whole parts, are fetched; `true` once the block has proven
    /// worth all of it.
    pub(crate) fn note(&self, key: BlockKey, range: &Range<u32>) -> bool {
        let seen = self.seen.get(&key).unwrap_or_else(|| {
            let fresh = Arc::<Mutex<Seen>>::default();
            self.seen.insert(key, fresh.clone());
            fresh
        });
        let earned = u64::from(range.end - range.start);
        _ = self.credit.fetch_update(Relaxed, Relaxed, |credit| Some((credit + earned).min(CREDIT_MAX)));
        let distinct = seen.lock().mark(range.start / PART_BYTES..range.end.div_ceil(PART_BYTES));
        distinct >= PARTS_MAX || distinct >= key.len.div_ceil(PART_BYTES * COVERAGE).max(2)
    }

    /// Takes the credit for a whole block, if there is enough.
    pub(crate) fn pay(&self, key: BlockKey) -> bool {
        self.credit.fetch_update(Relaxed, Relaxed, |credit| credit.checked_sub(u64::from(key.len))).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::SliceId;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is read at random, what is fetched is at most twice the parts that were touched.
        #[test]
        fn a_random_run_costs_at_most_twice_its_parts(reads in proptest::collection::vec((0..8u64, 0..(4u32 << 20) - 4096), 1..3000)) {
            let heat = Heat::new();
            let (mut parts, mut whole) = (0u64, 0u64);
            for (id, off) in reads {
                let key = BlockKey { id: SliceId(id), index: 0, len: 4 << 20 };
                let range = widened(key, &(off..off + 4096));
                prop_assert!(range.start <= off && range.end >= off + 4096 && range.end - range.start <= 2 * PART_BYTES);
                parts += u64::from(range.end - range.start);
                if heat.note(key, &range) && heat.pay(key) {
                    whole += u64::from(key.len);
                }
                prop_assert!(whole <= parts);
            }
        }
    }

    #[test]
    fn the_same_part_again_proves_nothing() {
        let heat = Heat::new();
        let key = BlockKey { id: SliceId(1), index: 0, len: 4 << 20 };
        assert!((0..100).all(|_| !heat.note(key, &(0..PART_BYTES))));
        let proven = (1..4).map(|i| heat.note(key, &(i * PART_BYTES..(i + 1) * PART_BYTES))).collect::<Vec<_>>();
        assert_eq!(proven, [false, false, true]);
    }

    #[test]
    fn parts_end_with_their_block() {
        let key = BlockKey { id: SliceId(1), index: 0, len: 100_000 };
        assert_eq!(widened(key, &(70_000..70_001)), 65536..100_000);
        assert_eq!(widened(key, &(10..65536)), 0..65536);
    }
}
