//! Numbers that tell the commits of this client apart (R14).
//!
//! A lane carries one commit at a time and counts them, so that a server which remembers the last
//! number of each lane knows a commit that is sent to it again.

use cairn_env::Env;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::record::Stamp;

/// Commits under way at once.
const LANES_MAX: usize = 256;

pub(super) struct Lanes {
    /// Where this client's lanes start: a random number leaves those of others alone.
    first: u64,
    state: Mutex<State>,
    free: Semaphore,
}

#[derive(Default)]
struct State {
    idle: Vec<Stamp>,
    opened: u64,
}

impl Lanes {
    pub(super) fn new(env: &Env) -> Lanes {
        // 63 bits, so that an SQL column holds it; the low 24 count lanes.
        let first = (env.random() >> 1) & !0xFF_FFFF;
        Lanes { first, state: Mutex::default(), free: Semaphore::new(LANES_MAX) }
    }

    /// A lane nobody else uses. Waits while all are taken.
    pub(super) async fn take(&self) -> Lane<'_> {
        let permit = self.free.acquire().await.expect("the semaphore is never closed");
        let mut state = self.state.lock();
        let stamp = match state.idle.pop() {
            Some(stamp) => stamp,
            None => {
                state.opened += 1;
                Stamp { lane: self.first | (state.opened & 0xFF_FFFF), sequence: 0 }
            }
        };
        Lane { lanes: self, stamp, _permit: permit }
    }
}

/// One lane, taken. Unless it is given back it is never used again: what became of its last commit
/// is not known.
pub(super) struct Lane<'a> {
    lanes: &'a Lanes,
    stamp: Stamp,
    _permit: SemaphorePermit<'a>,
}

impl Lane<'_> {
    /// The stamp of the next commit.
    pub(super) fn next(&mut self) -> Stamp {
        self.stamp.sequence += 1;
        self.stamp
    }

    /// The last commit's fate is known.
    pub(super) fn give_back(self) {
        self.lanes.state.lock().idle.push(self.stamp);
    }
}
