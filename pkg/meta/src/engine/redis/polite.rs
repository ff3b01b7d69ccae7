//! Leaving room for clients that watch what they read.
//!
//! JuiceFS creates a name in five round trips, and starts over if the directory changed meanwhile;
//! after fifty times it fails. We change a directory in one. So while sessions of other programs
//! are listed, a directory that we change often is left alone for a part of every cycle, long
//! enough for them to finish. The parts follow the wall clock, so that several of us are quiet at
//! the same time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cairn_env::Env;
use cairn_types::Ino;
use parking_lot::Mutex;

use crate::engine::remote::record::Verb;
use crate::record::SessionRecord;

/// Shortest time a busy directory is left alone: of it, JuiceFS sleeps away what its back-off had
/// grown to when it began, some 10 ms.
const QUIET_LEAST: Duration = Duration::from_millis(45);
/// The quiet time in round trips: JuiceFS needs five to seven, and some to begin.
const QUIET_TRIPS: u32 = 12;
/// Changes of one directory in a cycle that are no burst yet.
const BURST: u32 = 8;
/// Directories looked after at a time; beyond it all are forgotten, and counted anew.
const DIRS_MAX: usize = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Politeness {
    /// Is somebody there who is not us?
    needed: AtomicBool,
    /// A round trip in nanoseconds: the shortest of late.
    trip: AtomicU64,
    /// Changes of a directory in the cycle of this number.
    bursts: Mutex<HashMap<Ino, (u64, u32)>>,
}

impl Politeness {
    /// Takes in who is there at `now`, Unix seconds.
    pub(super) fn see_sessions(&self, sessions: &[SessionRecord], now: i64) {
        let is_foreign = |s: &SessionRecord| s.expire_secs >= now && !is_ours(&s.info);
        let needed = sessions.iter().any(is_foreign);
        if needed != self.needed.swap(needed, Ordering::Relaxed) {
            tracing::info!(
                needed,
                "clients of another make share this volume: busy directories are left to them in part"
            );
        }
    }

    /// Takes in how long a commit took.
    pub(super) fn see_trip(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let known = self.trip.load(Ordering::Relaxed);
        // It grows slowly where the network does, and falls at once.
        let trip = if known == 0 { took } else { took.min(known + known / 64) };
        self.trip.store(trip, Ordering::Relaxed);
    }

    /// Waits until a commit of these verbs disturbs nobody.
    pub(super) async fn wait(&self, env: &Env, verbs: &[Verb]) {
        if !self.needed.load(Ordering::Relaxed) {
            return;
        }
        let Some(dir) = verbs.iter().find_map(changed_directory) else { return };
        let quiet = QUIET_LEAST.max(Duration::from_nanos(self.trip.load(Ordering::Relaxed)) * QUIET_TRIPS);
        let cycle = quiet * 4 / 3;
        let since = env.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let (number, phase) = (since / cycle.as_nanos(), since % cycle.as_nanos());
        let is_burst = {
            let mut bursts = self.bursts.lock();
            if bursts.len() >= DIRS_MAX {
                bursts.clear();
            }
            let (cycle, changes) = bursts.entry(dir).or_insert((number as u64, 0));
            let is_burst = *changes >= BURST && *cycle + 1 >= number as u64;
            if *cycle != number as u64 {
                (*cycle, *changes) = (number as u64, 0);
            }
            *changes += 1;
            is_burst
        };
        if is_burst && phase < quiet.as_nanos() {
            env.sleep(quiet - Duration::from_nanos(phase as u64)).await;
        }
    }
}

/// The directory whose names a verb changes.
fn changed_directory(verb: &Verb) -> Option<Ino> {
    match verb {
        Verb::InsertEntry(dir, ..) | Verb::ReplaceEntry(dir, ..) | Verb::RemoveEntry(dir, _) => Some(*dir),
        _ => None,
    }
}

/// Our sessions say so in the build part of their version.
fn is_ours(info: &str) -> bool {
    let version = serde_json::from_str::<serde_json::Value>(info).ok();
    version.and_then(|info| Some(info.get("Version")?.as_str()?.contains("cairn"))).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_living_sessions_of_others_count() {
        let session = |expire_secs, version: &str| SessionRecord {
            sid: cairn_types::SessionId(1),
            expire_secs,
            info: format!(r#"{{"Version":"{version}"}}"#),
        };
        let polite = Politeness::default();
        for (sessions, needed) in [
            (vec![session(100, "1.4.1+cairn.0.1.0")], false),
            (vec![session(100, "1.4.1+cairn.0.1.0"), session(10, "1.4.1+2026")], false),
            (vec![session(100, "1.4.1+cairn.0.1.0"), session(100, "1.4.1+2026")], true),
            (vec![], false),
        ] {
            polite.see_sessions(&sessions, 50);
            assert_eq!(polite.needed.load(Ordering::Relaxed), needed, "{sessions:?}");
        }
    }

    #[test]
    fn a_round_trip_is_the_shortest_of_late() {
        let polite = Politeness::default();
        for (took, trip) in [(1000, 1000), (640, 640), (5000, 650), (100, 100)] {
            polite.see_trip(Duration::from_nanos(took));
            assert_eq!(polite.trip.load(Ordering::Relaxed), trip);
        }
    }
}
