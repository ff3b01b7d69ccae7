//! How long the store takes for a first byte, and when to ask a second time.
//!
//! A GET whose first byte comes later than 19 in 20 did is asked for again beside it, and the first to
//! answer wins. At most one GET in [`HEDGE_SHARE`] is doubled, so a store that is slow for everybody is
//! not asked twice for everything.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;

/// First bytes remembered.
const SAMPLES: usize = 128;
/// Fewer tell nothing yet.
const SAMPLES_MIN: usize = 32;
/// One GET in so many may be made twice.
const HEDGE_SHARE: u64 = 20;
/// Nobody is asked twice sooner: a local store has no slow replicas.
const PATIENCE_MIN: Duration = Duration::from_millis(20);

/// The pace of one store.
#[derive(Default)]
pub(crate) struct Pace {
    waits: Mutex<(Vec<Duration>, usize)>,
    gets: AtomicU64,
    hedges: AtomicU64,
}

impl Pace {
    /// A first byte took this long.
    pub(crate) fn note(&self, wait: Duration) {
        let mut waits = self.waits.lock();
        let (all, next) = &mut *waits;
        if all.len() < SAMPLES {
            all.push(wait);
        } else {
            all[*next] = wait;
        }
        *next = (*next + 1) % SAMPLES;
    }

    /// A GET begins; how long to wait before it is worth another one. `None`: nobody knows yet.
    pub(crate) fn begin(&self) -> Option<Duration> {
        self.gets.fetch_add(1, Relaxed);
        let mut sorted = {
            let waits = self.waits.lock();
            if waits.0.len() < SAMPLES_MIN {
                return None;
            }
            waits.0.clone()
        };
        let at = sorted.len() * 95 / 100;
        let (_, p95, _) = sorted.select_nth_unstable(at);
        Some((*p95).max(PATIENCE_MIN))
    }

    /// May one more be doubled? If so it counts.
    pub(crate) fn may_hedge(&self) -> bool {
        let allowed = self.gets.load(Relaxed) / HEDGE_SHARE;
        self.hedges.fetch_update(Relaxed, Relaxed, |n| (n < allowed).then_some(n + 1)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_get_in_twenty_may_be_doubled_and_none_before_the_pace_is_known() {
        let pace = Pace::default();
        for i in 0..SAMPLES_MIN as u64 {
            assert_eq!(pace.begin(), None);
            pace.note(Duration::from_millis(30 + i % 2));
        }
        assert_eq!(pace.begin(), Some(Duration::from_millis(31)));
        assert!(pace.may_hedge(), "33 gets allow one");
        assert!(!pace.may_hedge());
        (0..SAMPLES).for_each(|_| pace.note(Duration::from_micros(100)));
        assert_eq!(pace.begin(), Some(PATIENCE_MIN), "old waits are forgotten");
        (0..1000).for_each(|_| _ = pace.begin());
        let doubled = (0..1000).filter(|_| pace.may_hedge()).count();
        assert_eq!(doubled, 1034 / 20 - 1);
    }
}
