//! Ids come from ranges taken ahead, so that none costs a wait.

use parking_lot::Mutex;

/// Ids this client may hand out.
#[derive(Debug, Default)]
pub(crate) struct IdRange {
    free: Mutex<std::ops::Range<u64>>,
    /// Only one task refills at a time.
    pub(crate) refill: tokio::sync::Mutex<()>,
}

impl IdRange {
    /// The next id, if one is left.
    pub(crate) fn next(&self) -> Option<u64> {
        self.free.lock().next()
    }

    /// Replaces the range.
    pub(crate) fn fill(&self, first: u64, count: u64) {
        *self.free.lock() = first..first + count;
    }
}
