//! Moving the log's pages into the database, off everybody's way.
//!
//! The writer only looks how long the log has grown, after it told everybody of their commits. A
//! thread with a connection of its own does the bulk while the writer goes on, and the writer the
//! few pages that came meanwhile: only a log that was moved whole begins anew.

use std::path::PathBuf;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use crate::{Error, Result};

/// Log length at which a checkpoint is asked for, in bytes.
pub(super) const LONG_BYTES: u64 = 8 << 20;
/// Log length at which the writer stops for it, in bytes.
const FAR_TOO_LONG_BYTES: u64 = 128 << 20;
/// Commits between two looks at the log's length.
const LOOK_EVERY: u32 = 64;

/// What the writer and the checkpoint thread share.
pub(super) struct Checkpointer {
    log: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    commits: u32,
    asked: bool,
    /// The thread moved what there was.
    nearly_done: bool,
    stopping: bool,
}

impl Checkpointer {
    /// For the database at `path`.
    pub(super) fn new(path: &std::path::Path) -> Checkpointer {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Checkpointer { log: log.into(), state: Mutex::default(), changed: Condvar::new() }
    }

    /// Makes every commit so far survive a power cut.
    pub(super) fn sync_log(&self) -> Result<()> {
        let synced = std::fs::File::open(&self.log).and_then(|log| log.sync_data());
        match synced {
            // No log: a checkpoint has moved (and synced) everything.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            synced => synced.map_err(|e| Error::engine("sync the database's log", e)),
        }
    }

    /// The writer committed; its connection is idle.
    pub(super) fn committed(&self, writer: &Connection) {
        let mut state = self.state.lock();
        state.commits += 1;
        if state.commits < LOOK_EVERY {
            return;
        }
        state.commits = 0;
        // The log is cut when it begins anew (`journal_size_limit`), so its length says what is in it.
        let bytes = std::fs::metadata(&self.log).map_or(0, |m| m.len());
        if bytes >= FAR_TOO_LONG_BYTES || state.nearly_done {
            state.nearly_done = false;
            drop(state);
            checkpoint(writer);
        } else if bytes >= LONG_BYTES {
            state.asked = true;
            self.changed.notify_one();
        }
    }

    /// Counts a commit after which nobody looks at the log; `false` (and not counted) if one must.
    pub(super) fn committed_unseen(&self) -> bool {
        let mut state = self.state.lock();
        let may = state.commits + 1 < LOOK_EVERY;
        state.commits += u32::from(may);
        may
    }

    /// Serves until told to stop.
    pub(super) fn serve(&self, conn: &Connection) {
        loop {
            {
                let mut state = self.state.lock();
                while !state.asked && !state.stopping {
                    self.changed.wait(&mut state);
                }
                if state.stopping {
                    return;
                }
                state.asked = false;
            }
            checkpoint(conn);
            self.state.lock().nearly_done = true;
        }
    }

    /// Ends [`Checkpointer::serve`].
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
    }
}

/// Moves what no reader needs any more, waiting for nobody.
fn checkpoint(conn: &Connection) {
    let moved = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    });
    match moved {
        Ok((busy, pages, moved)) => tracing::debug!(busy, pages, moved, "checkpoint"),
        Err(e) => tracing::warn!(error = %e, "the database's log could not be checkpointed; it is tried again"),
    }
}
