//! The work a mounted client does without being asked (volume format 7.3, 7.4).
//!
//! Drains metadata's queue (compaction, data of removed files, slices without owner), keeps the
//! session alive and the setting fresh, reaps dead sessions, and once an hour, if no other client
//! did, finds what was left behind. Jobs exclude each other only by time stamps: each may overlap
//! with another client's, and every step is safe to repeat.

mod queue;
mod rounds;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_chunk::ChunkStore;
use cairn_env::{Budget, Env, TaskSet};
use cairn_meta::Meta;
use cairn_types::{ChunkIndex, Format, Ino};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::Result;
use crate::compact::compact_tree;
use crate::deferred::Deferred;
use crate::progress::{Tally, Watch};
use crate::reclaim::Reclaim;

/// Compactions at the same time.
const COMPACTIONS_MAX: u64 = 10;

/// Removed files that wait for a free deletion; more are left to the hourly job.
const FILES_WAITING_MAX: usize = 10_000;

/// How often the queue of deferred slices is looked at.
const DEFERRED_TICK: Duration = Duration::from_secs(5);

const HOUR: Duration = Duration::from_secs(3600);
const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// How a client does its upkeep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Leave hourly jobs and dead sessions to other clients.
    pub no_bgjob: bool,
    /// Deletions at the same time; 0 leaves all deletion to other clients.
    pub max_deletes: usize,
    /// How long objects of a slice stay after its last owner went. At least a minute in product:
    /// see `docs/PROMISES.md`.
    pub delete_delay: Duration,
}

impl Config {
    /// The defaults of a mount.
    pub fn mount() -> Config {
        Config { no_bgjob: false, max_deletes: 10, delete_delay: Duration::from_secs(60) }
    }
}

/// What became of the volume's setting.
#[derive(Clone, Debug)]
pub struct State {
    /// As last read.
    pub format: Arc<Format>,
    /// The volume is gone or formatted anew: this client must stop. Set once.
    pub lost: Option<cairn_meta::Error>,
}

/// What upkeep has done since it started.
#[derive(Debug, Default)]
struct Counters {
    compactions: AtomicU64,
    compacted_bytes: AtomicU64,
    files: AtomicU64,
    slices: AtomicU64,
    slice_bytes: AtomicU64,
    sessions: AtomicU64,
    trash_entries: AtomicU64,
    failures: AtomicU64,
}

/// Numbers for metrics, and what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpkeepStats {
    /// Chunks compacted.
    pub compactions: u64,
    /// Bytes written for those.
    pub compacted_bytes: u64,
    /// Removed files whose data was let go.
    pub deleted_files: u64,
    /// Slices whose objects were deleted.
    pub deleted_slices: u64,
    /// Bytes of those.
    pub deleted_bytes: u64,
    /// Dead sessions cleaned up.
    pub reaped_sessions: u64,
    /// Entries removed from the trash.
    pub expired_entries: u64,
    /// Jobs that failed; they are tried again later.
    pub failures: u64,
    /// Slices whose objects wait for their minute.
    pub deferred_slices: u64,
    /// Compactions under way.
    pub compacting: u64,
}

/// Who waits for a chunk to be compacted.
type Waiters = Vec<oneshot::Sender<()>>;

/// Background work of one mounted client. Stop it before the session is closed.
pub struct Upkeep {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    meta: Arc<Meta>,
    chunks: Arc<ChunkStore>,
    config: Config,
    tasks: TaskSet,
    reclaim: Reclaim,
    deferred: Deferred,
    /// Chunks being compacted, with those who wait for it.
    compacting: Mutex<HashMap<(Ino, ChunkIndex), Waiters>>,
    compactions: Budget,
    state: watch::Sender<State>,
    counters: Counters,
}

impl Upkeep {
    /// Starts all tasks. Call it once per [`Meta`], after the session is registered: the queue can
    /// be taken only once.
    pub fn start(env: Env, meta: Arc<Meta>, chunks: Arc<ChunkStore>, config: Config) -> Upkeep {
        let reclaim = Reclaim { meta: meta.clone(), chunks: chunks.clone(), threads: config.max_deletes };
        let inner = Arc::new(Inner {
            tasks: TaskSet::new(env.clone()),
            state: watch::Sender::new(State { format: meta.format(), lost: None }),
            env,
            meta,
            chunks,
            config,
            reclaim,
            deferred: Deferred::new(config.delete_delay),
            compacting: Mutex::default(),
            compactions: Budget::new(COMPACTIONS_MAX),
            counters: Counters::default(),
        });
        inner.start_tasks();
        Upkeep { inner }
    }

    /// The setting as last read, and whether this client must stop.
    pub fn state(&self) -> watch::Receiver<State> {
        self.inner.state.subscribe()
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> UpkeepStats {
        let c = &self.inner.counters;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        UpkeepStats {
            compactions: get(&c.compactions),
            compacted_bytes: get(&c.compacted_bytes),
            deleted_files: get(&c.files),
            deleted_slices: get(&c.slices),
            deleted_bytes: get(&c.slice_bytes),
            reaped_sessions: get(&c.sessions),
            expired_entries: get(&c.trash_entries),
            failures: get(&c.failures),
            deferred_slices: self.inner.deferred.len() as u64,
            compacting: self.inner.compactions.used(),
        }
    }

    /// Runs the hourly jobs now, stamps or not. For tests and commands.
    pub async fn run_jobs_now(&self) -> Result<()> {
        self.inner.reap().await?;
        self.inner.deleted_files(0).await?;
        self.inner.trash().await?;
        self.inner.slices().await
    }

    /// Compacts every chunk of a file, or of all files below a directory, as far as it goes. What
    /// is replaced is deleted a minute later like everything else.
    pub async fn compact_tree(&self, ino: Ino, threads: usize, watch: Watch<'_>) -> Result<Tally> {
        let Inner { meta, chunks, .. } = &*self.inner;
        compact_tree(meta, chunks, ino, threads, watch, &|unowned| self.inner.defer(unowned)).await
    }

    /// Tells all tasks to stop and waits for the step each is in. What is deferred stays recorded
    /// in the metadata and is found by the next client's hourly job.
    pub async fn stop(&self) {
        self.inner.tasks.stop().await;
    }
}

impl std::fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upkeep({:?})", self.stats())
    }
}

impl Inner {
    fn start_tasks(self: &Arc<Self>) {
        let heartbeat = self.meta.config().heartbeat;
        if !heartbeat.is_zero() {
            self.every(heartbeat, Inner::beat);
        }
        if self.meta.config().read_only {
            return;
        }
        if let Some(requests) = self.meta.upkeep() {
            let (files, waiting) = mpsc::channel(FILES_WAITING_MAX);
            self.tasks.spawn(self.clone().drain(requests, files));
            self.tasks.spawn(self.clone().delete_files(waiting));
        }
        if self.config.max_deletes > 0 {
            self.every(DEFERRED_TICK, |this| async move { this.delete_due().await });
        }
        if !self.config.no_bgjob {
            self.every(HOUR, Inner::hourly);
            self.every(FIVE_MINUTES, Inner::trim_change_log);
        }
    }

    /// Runs a job again and again; a failure is logged once here and the job tried again later.
    fn every<F>(self: &Arc<Self>, period: Duration, job: impl Fn(Arc<Inner>) -> F + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let this = self.clone();
        self.tasks.every(period, move || {
            let (this, work) = (this.clone(), job(this.clone()));
            async move { this.note(work.await) }
        });
    }

    fn note(&self, outcome: Result<()>) {
        if let Err(e) = outcome {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            let cause = std::error::Error::source(&e).map(ToString::to_string);
            tracing::warn!(error = %e, cause, "background job failed, it will be tried again");
        }
    }
}
