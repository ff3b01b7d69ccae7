//! Giving memory back to the system once a mount has come to rest.
//!
//! glibc keeps what was freed for the next allocation: right while data flows, wrong for a daemon
//! that then idles for days.

use std::sync::Arc;
use std::time::Duration;

use cairn_chunk::ChunkStore;
use cairn_env::{Env, TaskSet};

/// How often the mount is looked at. It is at rest if nothing was transferred between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Gives freed memory back whenever the mount has just come to rest.
pub(crate) fn follow(env: &Env, tasks: &TaskSet, chunks: &Arc<ChunkStore>) {
    let (env, tasks_of_task, chunks) = (env.clone(), tasks.clone(), chunks.clone());
    tasks.spawn(async move {
        let (mut seen, mut was_at_rest) = (chunks.stats(), true);
        while tasks_of_task.rest(LOOK_EVERY).await {
            let now = chunks.stats();
            let is_at_rest = now == seen;
            if is_at_rest && !was_at_rest {
                env.blocking(trim).await;
            }
            (seen, was_at_rest) = (now, is_at_rest);
        }
    });
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: malloc_trim takes no pointers and is safe to call from any thread at any time.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}
