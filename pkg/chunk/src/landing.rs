//! One range of a block on its way in, and who waits for which part of it.
//!
//! However many readers want the bytes, they come once. A reader has its part as soon as that has
//! arrived, and does not wait for the rest. What was read ahead stays here after it has landed, with the
//! memory it was lent, until its reader has passed or somebody needs the room.
//!
//! The rule kept: the last bytes are given out only with the outcome, so whoever reads to the end of a
//! range knows that its length, and the checksum if the store keeps one, were right.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use cairn_env::{Env, Permit};
use cairn_object::Sink;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Result;
use crate::pace::Pace;

/// A range on its way in, or landed and kept for its reader.
pub(crate) struct Landing {
    len_max: usize,
    /// Parts may be had before the whole is there.
    early: bool,
    state: Mutex<State>,
    /// Moves with every arrival.
    news: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// More came than there can be.
    overflown: bool,
    /// The attempt whose bytes came first; the other's are dropped.
    winner: Option<u8>,
    outcome: Option<Result<Bytes>>,
    /// What it was lent to be read ahead; goes with it.
    lent: Vec<Permit>,
    used_at: Option<Instant>,
    given: u64,
}

impl Landing {
    /// Nothing is here yet of at most `len_max` bytes.
    pub(crate) fn new(len_max: u32, early: bool) -> Landing {
        Landing { len_max: len_max as usize, early, state: Mutex::default(), news: watch::Sender::new(()) }
    }

    /// The bytes of `range`, once they have arrived.
    pub(crate) async fn read(&self, range: Range<u32>) -> Result<Bytes> {
        let mut news = self.news.subscribe();
        loop {
            if let Some(done) = self.read_now(&range) {
                return done;
            }
            news.changed().await.expect("the sender lives in self");
        }
    }

    /// The same if they are here. Never waits.
    pub(crate) fn read_now(&self, range: &Range<u32>) -> Option<Result<Bytes>> {
        let (start, end) = (range.start as usize, range.end as usize);
        let state = self.state.lock();
        if let Some(outcome) = &state.outcome {
            return Some(outcome.clone().map(|block| block.slice(start..end)));
        }
        let is_here = self.early && !state.overflown && end < self.len_max && end <= state.buffer.len();
        is_here.then(|| Ok(Bytes::copy_from_slice(&state.buffer[start..end])))
    }

    /// It has landed, one way or the other; the first outcome holds.
    pub(crate) fn land(&self, outcome: Result<Bytes>, now: Instant) {
        let mut state = self.state.lock();
        if state.outcome.is_none() {
            state.outcome = Some(outcome);
            state.used_at = Some(now);
            state.buffer = Vec::new();
        }
        drop(state);
        self.news.send_replace(());
    }

    /// Has it landed well?
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.state.lock().outcome, Some(Ok(_)))
    }

    /// Everything an attempt brought; `None` if it was more than there can be. Leaves nothing.
    pub(crate) fn take(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        let (buffer, overflown) = (std::mem::take(&mut state.buffer), std::mem::take(&mut state.overflown));
        state.winner = None;
        (!overflown).then(|| buffer.into())
    }

    /// Keeps what it was lent for as long as it stays.
    pub(crate) fn lend(&self, permit: Permit) {
        self.state.lock().lent.push(permit);
    }

    /// Is it kept for a reader?
    pub(crate) fn is_lent(&self) -> bool {
        !self.state.lock().lent.is_empty()
    }

    /// A reader has had so many bytes more; how many all readers had. Does not age meanwhile.
    pub(crate) fn gave(&self, bytes: u32, now: Instant) -> u64 {
        let mut state = self.state.lock();
        state.given += u64::from(bytes);
        if state.used_at.is_some() {
            state.used_at = Some(now);
        }
        state.given
    }

    /// When it landed or was read last; `None` while it is on its way.
    pub(crate) fn used_at(&self) -> Option<Instant> {
        self.state.lock().used_at
    }
}

/// One GET that fills a landing.
pub(crate) struct Attempt<'a> {
    landing: &'a Landing,
    number: u8,
    at: AtomicUsize,
    env: &'a Env,
    pace: &'a Pace,
    begun: Instant,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(landing: &'a Landing, number: u8, env: &'a Env, pace: &'a Pace) -> Attempt<'a> {
        Attempt { landing, number, at: AtomicUsize::new(0), env, pace, begun: env.instant() }
    }

    /// Were its bytes the first?
    pub(crate) fn has_won(&self) -> bool {
        self.landing.state.lock().winner == Some(self.number)
    }
}

impl Sink for Attempt<'_> {
    fn begin(&self) {
        self.at.store(0, Ordering::Relaxed);
    }

    fn push(&self, bytes: &[u8]) {
        let mut state = self.landing.state.lock();
        if state.winner.is_none() {
            state.winner = Some(self.number);
            self.pace.note(self.env.instant().saturating_duration_since(self.begun));
        }
        if state.winner != Some(self.number) {
            return;
        }
        let at = self.at.fetch_add(bytes.len(), Ordering::Relaxed);
        if at + bytes.len() > self.landing.len_max {
            state.overflown = true;
            return;
        }
        if state.buffer.capacity() == 0 {
            state.buffer.reserve_exact(self.landing.len_max);
        }
        // A retry brings the first bytes again.
        let known = (state.buffer.len() - at.min(state.buffer.len())).min(bytes.len());
        state.buffer[at..at + known].copy_from_slice(&bytes[..known]);
        state.buffer.extend_from_slice(&bytes[known..]);
        drop(state);
        if self.landing.early {
            self.landing.news.send_replace(());
        }
    }
}
