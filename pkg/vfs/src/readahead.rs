//! Reading ahead of sequential readers.
//!
//! A handle that reads where it left off has blocks fetched before it asks: one at first, twice as
//! many each time it has used up half of them, up to a limit. A jump ends it. What all handles
//! together have asked for and not yet read is bounded.

use std::sync::Arc;

use cairn_env::Permit;
use futures::FutureExt;

use crate::commit::Core;
use crate::file::File;
use crate::handle::FileHandle;
use crate::ranges::Source;

/// How far a handle reads ahead.
#[derive(Default)]
pub(crate) struct Ahead {
    /// Where a sequential reader would read next.
    next: u64,
    /// Bytes to have ahead; 0 while reads jump about.
    window: u64,
    /// End of what was asked for.
    asked: u64,
    /// What is lent from the volume's budget for the window.
    lent: Option<Permit>,
}

/// A range worth fetching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Ahead {
    /// Takes note of a read and says what to fetch now. `lend` gives memory for a larger window.
    pub(crate) fn note(
        &mut self,
        (start, end): (u64, u64),
        length: u64,
        (block, most): (u64, u64),
        lend: impl FnOnce(u64) -> Option<Permit>,
    ) -> Option<Plan> {
        // Kernels send neighbouring requests out of order: a little back or ahead still goes on.
        let near = start <= self.next.saturating_add(SLACK) && end.saturating_add(SLACK) >= self.next;
        let goes_on = near && (self.next > 0 || start == 0);
        if !goes_on {
            *self = Ahead { next: end, ..Ahead::default() };
            return None;
        }
        self.next = self.next.max(end);
        let left = self.asked.saturating_sub(self.next);
        if self.window > 0 && left > self.window / 2 {
            return None;
        }
        self.grow(block, most, lend);
        let plan = Plan { start: self.asked.max(self.next), end: self.next.saturating_add(self.window).min(length) };
        // Whole blocks, or the rest of the file: many tiny prefetches cost more than they bring.
        let whole = Plan { end: if plan.end == length { length } else { plan.end / block * block }, ..plan };
        if whole.end <= whole.start {
            return None;
        }
        self.asked = whole.end;
        Some(whole)
    }

    fn grow(&mut self, block: u64, most: u64, lend: impl FnOnce(u64) -> Option<Permit>) {
        let wanted = if self.window == 0 { block } else { self.window * 2 }.min(most);
        if wanted <= self.window {
            return;
        }
        if let Some(more) = lend(wanted - self.window) {
            match &mut self.lent {
                Some(lent) => lent.merge(more),
                None => self.lent = Some(more),
            }
            self.window = wanted;
        }
    }
}

/// Requests this far from the expected place still count as sequential.
const SLACK: u64 = 1 << 20;

impl Core {
    /// Notes a read of a handle, and starts what should be read ahead.
    pub(crate) fn read_ahead(self: &Arc<Core>, handle: &FileHandle, start: u64, end: u64, length: u64) {
        let most = self.config.readahead_max_bytes;
        if most == 0 || end >= length && start == 0 {
            return;
        }
        let block = u64::from(self.chunk.config().block_bytes);
        let lend = |bytes| self.ahead.try_acquire(bytes);
        let plan = handle.ahead.lock().note((start, end), length, (block, most), lend);
        if let Some(plan) = plan {
            let (core, file) = (self.clone(), handle.file.clone());
            let mut prefetch = Box::pin(async move { core.prefetch(&file, plan).await });
            // With the slice list at hand this is all it takes.
            if (&mut prefetch).now_or_never().is_none() {
                self.tasks.spawn(prefetch);
            }
        }
    }

    /// Asks for the committed blocks of a range. Best effort: whoever reads them will hear of errors.
    async fn prefetch(&self, file: &File, plan: Plan) {
        for span in cairn_types::chunk_spans(plan.start, plan.end - plan.start) {
            let Ok(pieces) = self.pieces(file, span).await else { return };
            for piece in pieces {
                if let Source::Stored(slice, off) = piece.source {
                    self.chunk.prefetch(slice, off, piece.len);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 4 << 20;
    const KIB128: u64 = 128 << 10;

    fn read(ahead: &mut Ahead, budget: &cairn_env::Budget, start: u64) -> Option<Plan> {
        ahead.note((start, start + KIB128), 1 << 40, (BLOCK, 8 * BLOCK), |n| budget.try_acquire(n))
    }

    #[test]
    fn a_sequential_reader_has_more_and_more_ahead() {
        let (mut ahead, budget) = (Ahead::default(), cairn_env::Budget::new(1 << 30));
        let mut most = 0;
        for i in 0..1024 {
            if let Some(plan) = read(&mut ahead, &budget, i * KIB128) {
                assert!(plan.start <= plan.end && plan.end % BLOCK == 0);
                most = most.max(plan.end - i * KIB128);
            }
            if i > 40 {
                assert!(ahead.asked > (i + 1) * KIB128, "the reader never catches up");
            }
        }
        assert!(most > 7 * BLOCK && most <= 8 * BLOCK + KIB128, "{most}");
        assert_eq!(budget.used(), 8 * BLOCK);
    }

    #[test]
    fn a_random_reader_has_nothing_ahead() {
        let (mut ahead, budget) = (Ahead::default(), cairn_env::Budget::new(1 << 30));
        for i in [900, 5, 700, 30, 1000, 90] {
            assert_eq!(read(&mut ahead, &budget, i * 16 * BLOCK), None);
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn without_budget_nothing_is_read_ahead() {
        let (mut ahead, budget) = (Ahead::default(), cairn_env::Budget::new(BLOCK));
        let _all = budget.try_acquire(BLOCK);
        assert_eq!(read(&mut ahead, &budget, 0), None);
        assert_eq!(read(&mut ahead, &budget, KIB128), None);
    }
}
