//! Ids come from ranges taken ahead, so that none costs a wait: the next range is fetched in the
//! background when half of one is used.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Ids this client may hand out.
#[derive(Debug, Default)]
pub(crate) struct IdRange {
    free: Mutex<Free>,
    /// Only one task refills at a time.
    pub(crate) refill: tokio::sync::Mutex<()>,
    is_refilling: AtomicBool,
}

#[derive(Debug, Default)]
struct Free {
    ranges: VecDeque<Range<u64>>,
    /// The highest id ever taken.
    highest: u64,
}

impl IdRange {
    /// The next id, if one is left.
    pub(crate) fn next(&self) -> Option<u64> {
        let ranges = &mut self.free.lock().ranges;
        while let Some(first) = ranges.front_mut() {
            if let Some(id) = first.next() {
                return Some(id);
            }
            ranges.pop_front();
        }
        None
    }

    /// Adds a range.
    pub(crate) fn fill(&self, ids: Range<u64>) {
        let mut free = self.free.lock();
        free.highest = free.highest.max(ids.end.saturating_sub(1));
        free.ranges.push_back(ids);
    }

    /// Ids that are left.
    pub(crate) fn left(&self) -> u64 {
        self.free.lock().ranges.iter().map(|ids| ids.end.saturating_sub(ids.start)).sum()
    }

    /// The highest id ever taken, 0 for none.
    pub(crate) fn highest(&self) -> u64 {
        self.free.lock().highest
    }

    /// Lets go of what is left: somebody else may be given the same ids.
    pub(crate) fn abandon(&self) {
        self.free.lock().ranges.clear();
    }

    /// True if the caller is the one to fetch the next range in the background.
    pub(crate) fn starts_refill(&self) -> bool {
        !self.is_refilling.swap(true, Ordering::AcqRel)
    }

    /// The background fetch is over, for better or worse.
    pub(crate) fn ends_refill(&self) {
        self.is_refilling.store(false, Ordering::Release);
    }
}
