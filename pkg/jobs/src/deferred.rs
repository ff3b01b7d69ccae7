//! Slices whose objects may go, but not yet.
//!
//! An engine that loses its last second at a crash may bring a removed file back, and readers
//! elsewhere may hold an old slice list: objects go a minute after their last owner.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cairn_types::SliceRef;
use parking_lot::Mutex;

/// Slices that may wait; more are left to the hourly job, which finds them by their records.
const WAITING_MAX: usize = 100_000;

/// A queue of slices in the order in which they become deletable.
#[derive(Debug)]
pub(crate) struct Deferred {
    delay: Duration,
    queue: Mutex<VecDeque<(Instant, SliceRef)>>,
}

impl Deferred {
    /// Nothing waits.
    pub(crate) fn new(delay: Duration) -> Deferred {
        Deferred { delay, queue: Mutex::default() }
    }

    /// Takes slices that just lost their last owner. Answers how many found no room.
    pub(crate) fn push(&self, now: Instant, slices: impl IntoIterator<Item = SliceRef>) -> usize {
        let mut queue = self.queue.lock();
        let mut refused = 0;
        for slice in slices {
            if queue.len() < WAITING_MAX {
                queue.push_back((now + self.delay, slice));
            } else {
                refused += 1;
            }
        }
        refused
    }

    /// Hands out up to `limit` slices that have waited long enough.
    pub(crate) fn ready(&self, now: Instant, limit: usize) -> Vec<SliceRef> {
        let mut queue = self.queue.lock();
        let due = queue.iter().take(limit).take_while(|(ready, _)| *ready <= now).count();
        queue.drain(..due).map(|(_, slice)| slice).collect()
    }

    /// Slices that wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.lock().len()
    }
}
