//! The work a mounted client does without being asked (volume format 7.3, 7.4).
//!
//! Drains metadata's queue (compaction, data of removed files, slices without owner), keeps the
//! session alive and the setting fresh, reaps dead sessions, and once an hour, if no other client
//! did, finds what was left behind. Jobs exclude each other only by time stamps: each may overlap
//! with another client's, and every step is safe to repeat.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_chunk::ChunkStore;
use cairn_env::{Budget, Env, TaskSet};
use cairn_meta::ops::session::SetIfSmall;
use cairn_meta::record::DeletedFile;
use cairn_meta::txn::Counter;
use cairn_meta::{Meta, Upkeep as Request};
use cairn_types::{ChunkIndex, Format, Ino, SliceRef};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::compact::{Compacted, compact};
use crate::deferred::Deferred;
use crate::ops::TrimChangeLog;
use crate::reclaim::Reclaim;
use crate::Result;

/// Compactions at the same time.
const COMPACTIONS_MAX: u64 = 10;

/// Removed files that wait for a free deletion; more are left to the hourly job.
const FILES_WAITING_MAX: usize = 10_000;

/// How often the queue of deferred slices is looked at.
const DEFERRED_TICK: Duration = Duration::from_secs(5);

/// Deferred slices deleted in one look.
const DEFERRED_BATCH: usize = 1000;

const HOUR: Duration = Duration::from_secs(3600);
const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// A client that won an hourly job within this many seconds keeps others out.
const HOURLY_STAMP_SECS: i64 = 3240;

/// The same for the change log.
const CHANGE_LOG_STAMP_SECS: i64 = 270;

/// A job yields after this long; the next hour goes on.
const JOB_TIME_MAX: Duration = Duration::from_secs(50 * 60);

/// Files removed more recently than this are the removing client's to delete.
const FOREIGN_FILE_SECS: i64 = 3600;

/// Slices without owner looked at in one hourly run.
const UNOWNED_MAX: usize = 100_000;

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
    compacting: Mutex<HashMap<(Ino, ChunkIndex), Vec<oneshot::Sender<()>>>>,
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

    /// Deletes the deferred slices that are due.
    pub async fn delete_due_slices(&self) -> Result<()> {
        self.inner.delete_due().await
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

    // --- the queue

    async fn drain(self: Arc<Self>, mut requests: mpsc::Receiver<Request>, files: mpsc::Sender<DeletedFile>) {
        loop {
            let request = tokio::select! {
                biased;
                () = self.tasks.stopping() => return,
                request = requests.recv() => request,
            };
            match request {
                None => return,
                Some(Request::Compact { ino, index, done }) => self.consider_compaction(ino, index, done),
                // A full queue leaves the file to the hourly job: its record is there.
                Some(Request::DeleteFile(file)) => match files.try_send(file) {
                    Ok(()) => {}
                    Err(e) => tracing::debug!(ino = %file.ino, error = %e, "deletion left to the hourly job"),
                },
                Some(Request::DeleteSlices(slices)) => self.defer(slices),
            }
        }
    }

    fn defer(&self, slices: Vec<SliceRef>) {
        if self.config.max_deletes == 0 {
            return;
        }
        let refused = self.deferred.push(self.env.instant(), slices);
        if refused > 0 {
            tracing::debug!(slices = refused, "deletion left to the hourly job");
        }
    }

    /// Starts a compaction unless one of this chunk is under way or all places are taken. Somebody
    /// who waits (a full list) waits in line for a place.
    fn consider_compaction(self: &Arc<Self>, ino: Ino, index: ChunkIndex, done: Option<oneshot::Sender<()>>) {
        let urgent = done.is_some();
        match self.compacting.lock().entry((ino, index)) {
            Entry::Occupied(mut running) => return running.get_mut().extend(done),
            Entry::Vacant(_) if !urgent && self.compactions.free() == 0 => return,
            Entry::Vacant(place) => {
                place.insert(done.into_iter().collect());
            }
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            let permit = this.compactions.acquire(1).await;
            if !this.tasks.is_stopping() {
                let outcome = this.compact(ino, index).await;
                this.note(outcome);
            }
            drop(permit);
            let waiting = this.compacting.lock().remove(&(ino, index)).unwrap_or_default();
            for done in waiting {
                // The writer may have given up.
                let _gone = done.send(());
            }
        });
    }

    async fn compact(&self, ino: Ino, index: ChunkIndex) -> Result<()> {
        if let Compacted::Done { records, bytes, unowned } = compact(&self.meta, &self.chunks, ino, index).await? {
            tracing::debug!(%ino, index = index.0, records, bytes, "compacted a chunk");
            self.counters.compactions.fetch_add(1, Ordering::Relaxed);
            self.counters.compacted_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.defer(unowned);
        }
        Ok(())
    }

    async fn delete_files(self: Arc<Self>, mut waiting: mpsc::Receiver<DeletedFile>) {
        let places = Budget::new(self.config.max_deletes.max(1) as u64);
        loop {
            let file = tokio::select! {
                biased;
                () = self.tasks.stopping() => return,
                file = waiting.recv() => file,
            };
            let Some(file) = file else { return };
            if self.config.max_deletes == 0 {
                continue;
            }
            let (this, permit) = (self.clone(), places.acquire(1).await);
            self.tasks.spawn(async move {
                let _permit = permit;
                let outcome = this.reclaim.delete_file(file).await;
                this.note(outcome.map(|unowned| {
                    this.counters.files.fetch_add(1, Ordering::Relaxed);
                    this.defer(unowned);
                }));
            });
        }
    }

    async fn delete_due(&self) -> Result<()> {
        loop {
            let due = self.deferred.ready(self.env.instant(), DEFERRED_BATCH);
            if due.is_empty() || self.tasks.is_stopping() {
                return Ok(());
            }
            self.delete_now(due).await?;
        }
    }

    async fn delete_now(&self, slices: Vec<SliceRef>) -> Result<()> {
        let deleted = self.reclaim.delete_slices(slices, &mut |_| {}).await?;
        self.counters.slices.fetch_add(deleted.count, Ordering::Relaxed);
        self.counters.slice_bytes.fetch_add(deleted.bytes, Ordering::Relaxed);
        Ok(())
    }

    // --- every heartbeat

    async fn beat(self: Arc<Self>) -> Result<()> {
        self.reload().await?;
        if self.meta.config().read_only {
            return Ok(());
        }
        self.meta.heartbeat().await?;
        let within = self.meta.config().heartbeat.as_secs_f64() * 0.9;
        if !self.config.no_bgjob && self.wins(Counter::LastCleanupSessions, within as i64).await? {
            self.reap().await?;
        }
        Ok(())
    }

    async fn reload(&self) -> Result<()> {
        use cairn_meta::Error;
        match self.meta.refresh().await {
            Ok(None) => Ok(()),
            Ok(Some(format)) => {
                tracing::info!("the volume's setting has changed");
                self.state.send_modify(|state| state.format = format);
                Ok(())
            }
            Err(e @ (Error::NotFormatted | Error::Refused(_))) => {
                if self.state.borrow().lost.is_none() {
                    tracing::error!(error = %e, "the volume is not what was mounted: this client must stop");
                    self.state.send_modify(|state| state.lost = Some(e));
                }
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn reap(&self) -> Result<()> {
        let reaped = self.reclaim.reap_sessions().await?;
        self.counters.sessions.fetch_add(reaped as u64, Ordering::Relaxed);
        Ok(())
    }

    // --- every hour, by one client

    async fn wins(&self, stamp: Counter, within_secs: i64) -> Result<bool> {
        Ok(self.meta.run(SetIfSmall { stamp, within_secs }).await?)
    }

    async fn hourly(self: Arc<Self>) -> Result<()> {
        let deletes = self.config.max_deletes > 0;
        if deletes && self.wins(Counter::LastCleanupFiles, HOURLY_STAMP_SECS).await? {
            let outcome = self.deleted_files(FOREIGN_FILE_SECS).await;
            self.note(outcome);
        }
        if self.wins(Counter::LastCleanupTrash, HOURLY_STAMP_SECS).await? {
            let outcome = self.trash().await;
            self.note(outcome);
        }
        if deletes && self.wins(Counter::NextCleanupSlices, HOURLY_STAMP_SECS).await? {
            self.slices().await?;
        }
        Ok(())
    }

    /// Says when a job should yield.
    fn go_on(&self) -> impl Fn() -> bool + Send + Sync + '_ {
        let start = self.env.instant();
        move || !self.tasks.is_stopping() && self.env.instant() - start < JOB_TIME_MAX
    }

    async fn deleted_files(&self, older_than_secs: i64) -> Result<()> {
        let until = self.meta.now().secs - older_than_secs;
        self.reclaim
            .delete_waiting_files(until, &self.go_on(), &mut |_, unowned| {
                self.counters.files.fetch_add(1, Ordering::Relaxed);
                self.defer(unowned);
            })
            .await
    }

    async fn trash(&self) -> Result<()> {
        let removed = self.reclaim.expire_trash(&self.go_on()).await?;
        self.counters.trash_entries.fetch_add(removed, Ordering::Relaxed);
        self.reclaim.expire_delayed(&self.go_on(), &mut |unowned| self.defer(unowned)).await?;
        Ok(())
    }

    /// Finds slices without owner that some client did not come to delete. They too wait their
    /// minute: the last owner may have gone just now.
    async fn slices(&self) -> Result<()> {
        let unowned = self.reclaim.unowned_slices(UNOWNED_MAX).await?;
        self.defer(unowned);
        Ok(())
    }

    async fn trim_change_log(self: Arc<Self>) -> Result<()> {
        let format = self.meta.format();
        if format.change_log && self.wins(Counter::LastCleanupChangelog, CHANGE_LOG_STAMP_SECS).await? {
            let op = TrimChangeLog { max_age_secs: format.change_log_max_age, max_lines: format.change_log_max_lines };
            self.meta.run(op).await?;
        }
        Ok(())
    }
}
