//! Tells the person who reads the log that the store fails, and when it works again.
//!
//! One for all callers of a store, so that an outage is a line now and then and not one a call. A
//! store that fails and works in turn is told about as rarely as one that only fails. It works
//! again when a call succeeds while none waits: gets that succeed say nothing about puts that
//! find the disk full.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cairn_env::Env;
use parking_lot::Mutex;

use crate::Error;

/// Failures are told at most this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Whether the store fails at the moment, and what the log was told about it.
#[derive(Debug)]
pub(super) struct Outage {
    env: Env,
    /// Does `state` hold a stretch of failures? What a call that succeeds looks at.
    lasts: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls that failed and are to be made again.
    waiting: u64,
    /// The first failure of this stretch.
    since: Option<Instant>,
    /// When a failure was last told, in this stretch or one before.
    told: Option<Instant>,
    /// Was this stretch told?
    is_known: bool,
}

impl Outage {
    pub(super) fn new(env: &Env) -> Outage {
        Outage { env: env.clone(), lasts: AtomicBool::new(false), state: Mutex::default() }
    }

    /// One call more waits to be made again, until the guard is dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.state.lock().waiting += 1;
        Waiting { outage: self }
    }

    /// An attempt failed.
    pub(super) fn failed(&self, error: &Error) {
        let now = self.env.instant();
        let mut state = self.state.lock();
        state.since.get_or_insert(now);
        self.lasts.store(true, Ordering::Relaxed);
        if state.told.is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            return;
        }
        state.told = Some(now);
        state.is_known = true;
        let waiting = state.waiting;
        drop(state);
        tracing::warn!("the object store fails: {error}; {waiting} calls are waiting");
    }

    /// The store answered a call.
    pub(super) fn worked(&self) {
        if !self.lasts.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        if state.waiting > 0 {
            return;
        }
        self.lasts.store(false, Ordering::Relaxed);
        let since = state.since.take();
        let was_known = std::mem::take(&mut state.is_known);
        drop(state);
        if let (true, Some(since)) = (was_known, since) {
            let secs = self.env.instant().duration_since(since).as_secs();
            tracing::info!("the object store works again; it failed for {secs} s");
        }
    }
}

/// A call that waits to be made again, also until it is given up.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    outage: &'a Outage,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.outage.state.lock().waiting -= 1;
    }
}
