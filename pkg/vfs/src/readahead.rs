//! Reading ahead of sequential readers.
//!
//! A stream that reads where it left off has blocks fetched before it asks. How far ahead is found out,
//! not set: the window doubles, first with what was read and later whenever the reader had to wait all the
//! same, so it comes to rest a little above bandwidth times delay. Nothing else bounds it but the memory
//! that all streams share, of which each may have its part. A handle follows a few streams at a time; a
//! jump begins another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cairn_env::{Budget, Permit};
use futures::FutureExt;
use smallvec::SmallVec;

use crate::commit::Core;
use crate::file::File;
use crate::handle::FileHandle;
use crate::ranges::Source;

/// Streams that a handle follows.
const STREAMS_MAX: usize = 4;
/// Blocks up to which a window grows with what was read, without a wait.
const EASY_BLOCKS: u64 = 8;
/// A window is at most so many times what its stream has read: who stops early has not fetched much.
const TRUST: u64 = 4;
/// Requests this far from the expected place still count as sequential: kernels send neighbours out of order.
const SLACK: u64 = 1 << 20;
/// The same of a stream that has not proven itself.
const SLACK_FIRST: u64 = 128 << 10;

/// Memory that all streams share.
pub(crate) struct Lender {
    budget: Budget,
    streams: AtomicUsize,
}

/// What one stream was lent.
struct Loan {
    lender: Arc<Lender>,
    permit: Permit,
}

impl Lender {
    pub(crate) fn new(bytes: u64) -> Arc<Lender> {
        Arc::new(Lender { budget: Budget::new(bytes), streams: AtomicUsize::new(0) })
    }

    /// What one stream may have while so many want some.
    fn share(&self) -> u64 {
        let streams = self.streams.load(Ordering::Relaxed);
        self.budget.total() / streams.max(1) as u64
    }

    fn lend(self: &Arc<Lender>, permit: Permit) -> Loan {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Loan { lender: self.clone(), permit }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.lender.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The streams of one handle, the one used last at the end.
#[derive(Default)]
pub(crate) struct Ahead {
    streams: SmallVec<[Stream; 1]>,
}

#[derive(Default)]
struct Stream {
    /// Where it began.
    start: u64,
    /// Where a sequential reader would read next.
    next: u64,
    /// Bytes to have ahead.
    window: u64,
    /// End of what was asked for.
    asked: u64,
    /// Its reader had to wait since the window grew.
    waited: bool,
    lent: Option<Loan>,
}

/// A range worth fetching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Ahead {
    /// Takes note of a read and says what to fetch now.
    pub(crate) fn note(
        &mut self,
        (start, end): (u64, u64),
        length: u64,
        (block, most): (u64, u64),
        lender: &Arc<Lender>,
    ) -> Option<Plan> {
        let Some(at) = self.streams.iter().rposition(|stream| stream.goes_on(start, end)) else {
            if self.streams.len() >= STREAMS_MAX {
                self.streams.remove(0);
            }
            self.streams.push(Stream { start, next: end, ..Stream::default() });
            // The start of a file is taken for the start of a sequential reader.
            return if start == 0 { self.streams.last_mut()?.plan(length, (block, most), lender) } else { None };
        };
        let last = self.streams.len() - 1;
        self.streams[at..].rotate_left(1);
        let stream = &mut self.streams[last];
        stream.next = stream.next.max(end);
        stream.plan(length, (block, most), lender)
    }

    /// The reader at `start` had to wait.
    pub(crate) fn waited(&mut self, start: u64) {
        if let Some(stream) = self.streams.iter_mut().rev().find(|s| s.start <= start && start <= s.next) {
            stream.waited = true;
        }
    }

    /// Has it read anything yet?
    pub(crate) fn is_fresh(&self) -> bool {
        self.streams.is_empty()
    }
}

impl Stream {
    fn goes_on(&self, start: u64, end: u64) -> bool {
        let slack = if self.next - self.start >= SLACK { SLACK } else { SLACK_FIRST };
        start <= self.next.saturating_add(slack) && end.saturating_add(slack) >= self.next
    }

    fn plan(&mut self, length: u64, (block, most): (u64, u64), lender: &Arc<Lender>) -> Option<Plan> {
        let left = self.asked.saturating_sub(self.next);
        let is_short = self.window > 0 && self.waited && self.window >= EASY_BLOCKS * block;
        if self.window > 0 && left > self.window / 2 && !is_short {
            return None;
        }
        self.resize(block, most, lender);
        let plan = Plan { start: self.asked.max(self.next), end: self.next.saturating_add(self.window).min(length) };
        // Whole blocks, or the rest of the file: many tiny prefetches cost more than they bring.
        let whole = Plan { end: if plan.end == length { length } else { plan.end / block * block }, ..plan };
        if whole.end <= whole.start {
            return None;
        }
        self.asked = whole.end;
        Some(whole)
    }

    fn resize(&mut self, block: u64, most: u64, lender: &Arc<Lender>) {
        if self.lent.is_none() {
            // Counted before it has anything, so that the others make room.
            self.lent = lender.budget.try_acquire(0).map(|nothing| lender.lend(nothing));
        }
        let Some(loan) = &mut self.lent else { return };
        let most = most.min(lender.share().max(block));
        if self.window > most {
            // Others have come: they get their part as this window is used up.
            drop(loan.permit.split(self.window - most));
            self.window = most;
            return;
        }
        let easy = self.window < EASY_BLOCKS * block;
        if !easy && !std::mem::take(&mut self.waited) {
            return;
        }
        let trusted = ((self.next - self.start) * TRUST).max(block);
        let wanted = (self.window * 2).max(block).min(trusted).min(most);
        if wanted <= self.window {
            return;
        }
        let Some(more) = lender.budget.try_acquire(wanted - self.window) else { return };
        loan.permit.merge(more);
        self.window = wanted;
    }
}

impl Core {
    /// Notes a read of a handle, and starts what should be read ahead.
    pub(crate) fn read_ahead(self: &Arc<Core>, handle: &FileHandle, start: u64, end: u64, length: u64) {
        let most = self.config.readahead_max_bytes;
        if most == 0 || end >= length && start == 0 {
            return;
        }
        let block = u64::from(self.chunk.config().block_bytes);
        let plan = handle.ahead.lock().note((start, end), length, (block, most), &self.ahead);
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

    fn read(ahead: &mut Ahead, lender: &Arc<Lender>, start: u64) -> Option<Plan> {
        ahead.note((start, start + KIB128), 1 << 40, (BLOCK, u64::MAX), lender)
    }

    #[test]
    fn a_sequential_reader_has_more_and_more_ahead() {
        let (mut ahead, lender) = (Ahead::default(), Lender::new(1 << 30));
        let mut most = 0;
        for i in 0..1024 {
            if let Some(plan) = read(&mut ahead, &lender, i * KIB128) {
                assert!(plan.start <= plan.end && plan.end % BLOCK == 0);
                most = most.max(plan.end - i * KIB128);
            }
            if i > 40 {
                assert!(ahead.streams[0].asked > (i + 1) * KIB128, "the reader never catches up");
            }
        }
        assert!(most > 7 * BLOCK && most <= 8 * BLOCK + KIB128, "{most}");
        assert_eq!(lender.budget.used(), 8 * BLOCK, "it never waited: that is enough");
    }

    #[test]
    fn a_reader_that_waits_gets_all_that_is_to_be_had() {
        let (mut ahead, lender) = (Ahead::default(), Lender::new(40 * BLOCK));
        for i in 0..4096 {
            read(&mut ahead, &lender, i * KIB128);
            ahead.waited(i * KIB128);
        }
        assert_eq!(ahead.streams[0].window, 40 * BLOCK);
        // Another one comes: both have half.
        let mut other = Ahead::default();
        for i in 0..4096 {
            for (reader, from) in [(&mut ahead, 4096), (&mut other, 0)] {
                read(reader, &lender, (from + i) * KIB128);
                reader.waited((from + i) * KIB128);
            }
        }
        assert_eq!((ahead.streams[0].window, other.streams[0].window), (20 * BLOCK, 20 * BLOCK));
        drop((ahead, other));
        assert_eq!((lender.budget.used(), lender.streams.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn who_stops_early_has_not_fetched_much() {
        let (mut ahead, lender) = (Ahead::default(), Lender::new(1 << 30));
        for i in 0..8 {
            read(&mut ahead, &lender, i * KIB128);
            ahead.waited(i * KIB128);
        }
        assert_eq!(ahead.streams[0].asked, BLOCK, "after 1 MiB");
    }

    #[test]
    fn a_handle_follows_several_streams() {
        let (mut ahead, lender) = (Ahead::default(), Lender::new(1 << 30));
        let places = [0, 10 << 30, 20 << 30, 30 << 30];
        for i in 0..400 {
            for place in places {
                read(&mut ahead, &lender, place + i * KIB128);
            }
        }
        let asked: Vec<_> = ahead.streams.iter().map(|s| s.asked.saturating_sub(s.next)).collect();
        assert!(asked.len() == 4 && asked.iter().all(|ahead| *ahead >= 3 * BLOCK), "{asked:?}");
        read(&mut ahead, &lender, 50 << 30);
        assert_eq!(ahead.streams.len(), STREAMS_MAX, "the one used longest ago went");
        assert!(ahead.streams.iter().all(|s| s.start != 0));
    }

    #[test]
    fn a_random_reader_has_nothing_ahead() {
        let (mut ahead, lender) = (Ahead::default(), Lender::new(1 << 30));
        for i in [900, 5, 700, 30, 1000, 90] {
            assert_eq!(read(&mut ahead, &lender, i * 16 * BLOCK), None);
        }
        assert_eq!(lender.budget.used(), 0);
    }

    #[test]
    fn without_budget_nothing_is_read_ahead() {
        let (mut ahead, lender) = (Ahead::default(), Lender::new(BLOCK));
        let _all = lender.budget.try_acquire(BLOCK);
        assert_eq!(read(&mut ahead, &lender, 0), None);
        assert_eq!(read(&mut ahead, &lender, KIB128), None);
    }
}
