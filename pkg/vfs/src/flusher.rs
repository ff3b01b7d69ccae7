//! The one timer of a volume: closes slices by age, by idleness, and when memory runs out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_env::Budget;
use cairn_meta::Durability;
use cairn_types::Ino;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::Error;
use crate::commit::Core;
use crate::file::{File, SLOTS_SOFT, State};
use crate::patches::PIECES_SOFT;
use crate::pending::{Slot, Upto};

/// How often ages are looked at while something is dirty.
const TICK: Duration = Duration::from_millis(100);

/// Files flushed in the background at a time.
const FLUSHES_MAX: u64 = 64;

/// Pause before a failed file is tried again: doubled from the first to the last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Which files are dirty, and what is wrong with flushing them.
pub(crate) struct Flusher {
    dirty: Mutex<HashMap<Ino, Arc<File>>>,
    kick: Notify,
    permits: Budget,
    /// Why background flushes fail at the moment, and since when.
    trouble: Mutex<Option<(Instant, Error)>>,
}

impl Flusher {
    pub(crate) fn new() -> Flusher {
        Flusher {
            dirty: Mutex::default(),
            kick: Notify::new(),
            permits: Budget::new(FLUSHES_MAX),
            trouble: Mutex::default(),
        }
    }

    /// A file has become dirty.
    pub(crate) fn add(&self, file: &Arc<File>) {
        self.dirty.lock().insert(file.ino, file.clone());
        self.kick.notify_one();
    }

    /// Looks at once instead of at the next tick.
    pub(crate) fn kick(&self) {
        self.kick.notify_one();
    }

    /// No file has uncommitted data.
    pub(crate) fn is_clean(&self) -> bool {
        self.dirty.lock().values().all(|file| file.state().is_clean())
    }

    /// Files with uncommitted data.
    pub(crate) fn dirty(&self) -> Vec<Arc<File>> {
        let mut dirty = self.dirty.lock();
        dirty.retain(|_, file| !file.state().is_clean());
        dirty.values().cloned().collect()
    }

    /// The error all background flushes have met for at least `limit`.
    pub(crate) fn trouble_for(&self, now: Instant, limit: Duration) -> Option<Error> {
        let trouble = self.trouble.lock();
        let (since, error) = trouble.as_ref()?;
        (now.saturating_duration_since(*since) >= limit).then(|| error.clone())
    }

    fn failed(&self, now: Instant, error: &Error) {
        let mut trouble = self.trouble.lock();
        let since = trouble.as_ref().map_or(now, |(since, _)| *since);
        *trouble = Some((since, error.clone()));
    }

    pub(crate) fn succeeded(&self) {
        if self.trouble.lock().take().is_some() {
            info!("data is stored again");
        }
    }
}

/// Runs until the volume closes.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        tokio::select! {
            biased;
            () = core.tasks.stopping() => return,
            () = core.flusher.kick.notified() => {}
        }
        while !look(&core) {
            let pressed = tokio::select! {
                biased;
                () = core.tasks.stopping() => return,
                () = core.chunk.pressured() => true,
                () = core.flusher.kick.notified() => false,
                () = core.env.sleep(TICK) => false,
            };
            if pressed {
                relieve(&core);
                // Pressure lasts until the first block is stored: give it a moment.
                if !core.tasks.rest(TICK / 10).await {
                    return;
                }
            }
        }
    }
}

/// Flushes what is due. True if nothing is dirty any more.
fn look(core: &Arc<Core>) -> bool {
    let dirty = core.flusher.dirty();
    let now = core.env.instant();
    for file in &dirty {
        let due = due(core, &file.state(), now);
        if let Some(upto) = due {
            flush_behind(core, file, upto);
        }
    }
    dirty.is_empty()
}

/// The newest slot of the file that is due together with all before it; all dirt, if there is a patch
/// too: what was written first does not come to be seen last.
fn due(core: &Core, state: &State, now: Instant) -> Option<Upto> {
    if state.flushing || state.retry_at.is_some_and(|at| now < at) {
        return None;
    }
    // Nobody has it open any more: what a failed close left behind is tried again at once.
    if state.opens == 0 || state.queue.len() > SLOTS_SOFT || state.pieces > PIECES_SOFT {
        return Some(Upto::All);
    }
    let age = core.config.flush_age;
    let idle = core.config.flush_idle;
    let is_due = |born: Instant, touched: Instant, full: bool| {
        let (born, touched) = (now.saturating_duration_since(born), now.saturating_duration_since(touched));
        full || born >= age || (born >= idle && touched >= idle)
    };
    if state.patches.is_empty() {
        let due = state.queue.iter().take_while(|s| is_due(s.born, s.touched, s.is_full())).last();
        // The newest may still move into a patch, and another take its number.
        return due.map(|s| if state.newest() == Some(s.seq) { Upto::All } else { Upto::Slot(s.seq) });
    }
    let patch_due = state.patches.values().any(|p| is_due(p.born, p.touched, false));
    let slot_due = state.queue.front().is_some_and(|s| is_due(s.born, s.touched, s.is_full()));
    (patch_due || slot_due).then_some(Upto::All)
}

/// Writers wait for memory: flushes files, those with much old data first.
///
/// Only what no upload has taken yet counts: cutting slices whose blocks are on their way already
/// frees nothing and leaves a file in crumbs. If that is little, waiting is what helps.
fn relieve(core: &Arc<Core>) {
    let now = core.env.instant();
    let mut files: Vec<_> = core.flusher.dirty().into_iter().map(|f| (idle_memory(&f, now), f)).collect();
    let total: u64 = files.iter().map(|((bytes, _), _)| bytes).sum();
    if total < core.chunk.config().buffer_bytes / RELIEF_SHARE {
        return;
    }
    files.sort_by(|a, b| b.0.1.total_cmp(&a.0.1));
    let mut relieved = 0;
    for ((bytes, _), file) in files {
        flush_behind(core, &file, Upto::All);
        relieved += bytes;
        if relieved >= total / 2 {
            return;
        }
    }
}

/// Memory of a file that no upload has taken, in bytes, and its weight: times the age of the oldest.
fn idle_memory(file: &File, now: Instant) -> (u64, f64) {
    let state = file.state();
    let held = |s: &Slot| match s.len.saturating_sub(s.upload.writer.floor()) {
        0 => 0,
        tail => u64::from(tail).max(PAGE_BYTES_MIN),
    };
    let patched: u64 = state.patches.values().map(|p| p.patch.held_bytes()).sum();
    let bytes: u64 = state.queue.iter().map(held).sum::<u64>() + patched;
    let oldest = state.queue.front().map(|s| s.born).into_iter().chain(state.patches.values().map(|p| p.born));
    let oldest = oldest.min().unwrap_or(now);
    (bytes, bytes as f64 * (now.saturating_duration_since(oldest).as_secs_f64() + 0.001))
}

/// Waiting for memory cuts slices only if this part of the buffer is idle.
const RELIEF_SHARE: u64 = 4;

/// What the smallest write takes of the buffer.
const PAGE_BYTES_MIN: u64 = 4096;

/// Flushes a file in the background, unless it is being flushed or too many are.
pub(crate) fn flush_behind(core: &Arc<Core>, file: &Arc<File>, upto: Upto) {
    let Some(permit) = core.flusher.permits.try_acquire(1) else { return };
    {
        let mut state = file.state();
        let now = core.env.instant();
        if state.flushing || state.retry_at.is_some_and(|at| now < at) {
            return;
        }
        state.flushing = true;
    }
    let flush = core.flush_upto(file, upto, Durability::Process);
    let (core2, file) = (core.clone(), file.clone());
    core.tasks.spawn(async move {
        let done = flush.await;
        settle(&core2, &file, done);
        drop(permit);
    });
}

pub(crate) fn settle(core: &Core, file: &File, done: crate::Result<()>) {
    let now = core.env.instant();
    let mut state = file.state();
    state.flushing = false;
    match done {
        Ok(()) => {
            (state.failures, state.retry_at) = (0, None);
            core.flusher.succeeded();
        }
        Err(error) => {
            state.failures += 1;
            let pause = RETRY_FIRST.saturating_mul(1 << state.failures.min(6)).min(RETRY_LAST);
            state.retry_at = Some(now + core.env.jitter(pause, 20));
            let bytes = state.dirty_bytes();
            warn!(ino = file.ino.0, bytes, failures = state.failures, %error, "data stays in memory: it could not be stored");
            core.flusher.failed(now, &error);
        }
    }
}
