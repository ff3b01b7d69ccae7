//! The disk cache: which directory, and a bounded queue in front of each.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_crypt::Cipher;
use cairn_env::{Budget, Env, Permit, TaskSet};
use cairn_types::{BlockKey, KeyLayout};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::Config;
use crate::dir::{Dir, Rules};
use crate::ring::{self, Ring};
use crate::room::Limits;
use crate::stats::{Counters, add};

/// Blocks that may wait to be written, all directories together.
const QUEUE_BYTES_MAX: u64 = 32 << 20;
/// Jobs that may wait for one directory.
const QUEUE_JOBS_MAX: usize = 4096;
/// A directory that takes longer for one call is taken out.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Between two looks at a directory that was taken out.
const PROBE_PERIOD: Duration = Duration::from_secs(60);
/// Between two scans: what other clients added or removed shows after this.
const SCAN_PERIOD: Duration = Duration::from_secs(3600);

/// Several directories, and which of them holds a block.
pub(crate) struct Disk {
    env: Env,
    key_layout: KeyLayout,
    /// Sorted by path: the older placement counts them so.
    dirs: Vec<Arc<Dir>>,
    placement: RwLock<Arc<Placement>>,
    queues: Vec<Mutex<Option<mpsc::Sender<Job>>>>,
    waiting: Arc<Waiting>,
    room: Budget,
    tasks: TaskSet,
    counters: Arc<Counters>,
}

/// Blocks on their way to a disk: a reader that comes first still finds them.
type Waiting = Mutex<HashMap<BlockKey, Bytes>>;

enum Job {
    Store(BlockKey, Permit),
    Remove(BlockKey),
}

struct Placement {
    /// Positions in `Disk::dirs` of those in use.
    members: Vec<usize>,
    ring: Option<Ring>,
}

impl Placement {
    fn of(dirs: &[Arc<Dir>]) -> Placement {
        let members: Vec<_> = (0..dirs.len()).filter(|&i| !dirs[i].is_out()).collect();
        let locks: Vec<_> = members.iter().map(|&i| dirs[i].lock_text()).collect();
        Placement { ring: (locks.len() > 1).then(|| Ring::new(&locks)), members }
    }

    fn owner(&self, key: BlockKey, layout: KeyLayout) -> Option<usize> {
        match &self.ring {
            None => self.members.first().copied(),
            Some(ring) => Some(self.members[ring.owner(&key.object_key(layout))]),
        }
    }
}

impl Disk {
    /// Opens every directory that works; the others are named in one warning each. Starts scanning
    /// in the background, and never waits for it.
    pub(crate) fn open(
        env: &Env,
        config: &Config,
        cipher: Option<&Arc<Cipher>>,
        counters: &Arc<Counters>,
    ) -> Arc<Disk> {
        let dirs = if config.disk_bytes == 0 { vec![] } else { open_dirs(env, config, cipher, counters) };
        let tasks = TaskSet::new(env.clone());
        let waiting = Arc::new(Waiting::default());
        let queues = dirs.iter().map(|dir| Mutex::new(Some(start_writer(env, &tasks, dir, &waiting)))).collect();
        dirs.iter().for_each(|dir| start_scans(env, &tasks, dir));
        Arc::new(Disk {
            env: env.clone(),
            key_layout: config.key_layout,
            placement: RwLock::new(Arc::new(Placement::of(&dirs))),
            dirs,
            queues,
            waiting,
            room: Budget::new(QUEUE_BYTES_MAX),
            tasks,
            counters: counters.clone(),
        })
    }

    /// Some directory still works.
    pub(crate) fn is_usable(&self) -> bool {
        self.dirs.iter().any(|dir| !dir.is_out())
    }

    /// Every directory in use has been scanned.
    pub(crate) fn is_indexed(&self) -> bool {
        self.dirs.iter().all(|dir| dir.is_out() || dir.is_scanned())
    }

    /// The bytes if the block waits to be written. Never waits.
    pub(crate) fn get_waiting(&self, key: BlockKey, range: &Range<u32>) -> Option<Bytes> {
        let block = self.waiting.lock().get(&key).cloned()?;
        Some(block.slice(range.start as usize..range.end as usize))
    }

    /// The bytes from the directory that has them.
    pub(crate) async fn get(&self, key: BlockKey, range: Range<u32>) -> Option<Bytes> {
        let owner = self.owner(key)?;
        if let Some(bytes) = self.read(owner, key, range.clone()).await {
            return Some(bytes);
        }
        if self.dirs.len() < 2 {
            return None;
        }
        let older = ring::older_owner(&key.object_key(self.key_layout), self.dirs.len());
        if older == owner { None } else { self.read(older, key, range).await }
    }

    async fn read(&self, at: usize, key: BlockKey, range: Range<u32>) -> Option<Bytes> {
        let dir = &self.dirs[at];
        if !dir.may_hold(key) {
            return None;
        }
        if let Some(bytes) = dir.read_now(key, range.clone()) {
            return Some(bytes);
        }
        call(&self.env, dir, move |dir| dir.read(key, range)).await?
    }

    /// Queues a block to be written; drops it if the queue is full.
    pub(crate) fn put(&self, key: BlockKey, block: Bytes) {
        let Some(at) = self.owner(key).filter(|&at| self.dirs[at].is_writable() && !self.dirs[at].contains(key)) else {
            return;
        };
        let queued = self.room.try_acquire(block.len() as u64).is_some_and(|room| {
            self.waiting.lock().insert(key, block);
            self.send(at, Job::Store(key, room))
        });
        if !queued {
            self.waiting.lock().remove(&key);
            add(&self.counters.disk_drops, 1);
        }
    }

    /// Forgets a block at once; its file goes in the background.
    pub(crate) fn remove(&self, key: BlockKey) {
        self.waiting.lock().remove(&key);
        if let Some(at) = self.owner(key) {
            self.dirs[at].forget(key);
            if !self.send(at, Job::Remove(key)) {
                tracing::debug!(%key, "cached file stays until it is evicted: the queue is full");
            }
        }
    }

    pub(crate) fn contains(&self, key: BlockKey) -> bool {
        self.waiting.lock().contains_key(&key) || self.owner(key).is_some_and(|at| self.dirs[at].contains(key))
    }

    /// Bytes, files and directories in use.
    pub(crate) fn usage(&self) -> (u64, u64, u64) {
        let working = self.dirs.iter().filter(|dir| !dir.is_out());
        working.map(|dir| dir.usage()).fold((0, 0, 0), |sum, dir| (sum.0 + dir.0, sum.1 + dir.1, sum.2 + 1))
    }

    /// Writes what is queued and stops.
    pub(crate) async fn close(&self) {
        self.queues.iter().for_each(|queue| drop(queue.lock().take()));
        self.tasks.stop().await;
    }

    fn send(&self, at: usize, job: Job) -> bool {
        self.queues[at].lock().as_ref().is_some_and(|queue| queue.try_send(job).is_ok())
    }

    /// The directory that holds the block; the ring is made anew once one has gone or come back.
    fn owner(&self, key: BlockKey) -> Option<usize> {
        let mut placement = self.placement.read().clone();
        let working = (0..self.dirs.len()).filter(|&i| !self.dirs[i].is_out());
        if !working.eq(placement.members.iter().copied()) {
            placement = Arc::new(Placement::of(&self.dirs));
            *self.placement.write() = placement.clone();
        }
        placement.owner(key, self.key_layout)
    }
}

fn open_dirs(env: &Env, config: &Config, cipher: Option<&Arc<Cipher>>, counters: &Arc<Counters>) -> Vec<Arc<Dir>> {
    let mut paths = config.dirs.clone();
    paths.sort();
    paths.dedup();
    let share = |total: u64| total.div_ceil(paths.len().max(1) as u64);
    let limits = Limits {
        bytes: share(config.disk_bytes),
        items: share(config.disk_items),
        free_space_ratio: config.free_space_ratio,
    };
    let rules = Rules {
        limits,
        checksum: config.checksum,
        eviction: config.eviction,
        file_mode: config.file_mode,
        key_layout: config.key_layout,
    };
    let dir = |path: &std::path::Path| Dir::open(env.clone(), path.into(), rules, cipher.cloned(), counters.clone());
    let open = |path: std::path::PathBuf| match dir(&path) {
        Ok(dir) => Some(Arc::new(dir)),
        Err(e) => {
            add(&counters.dirs_failed, 1);
            tracing::warn!(dir = %path.display(), error = %e, "cache directory cannot be used");
            None
        }
    };
    paths.into_iter().filter_map(open).collect()
}

/// One call to a directory, off the async threads; one that takes too long takes it out.
async fn call<T: Send + 'static>(
    env: &Env,
    dir: &Arc<Dir>,
    work: impl FnOnce(&Dir) -> T + Send + 'static,
) -> Option<T> {
    let owned = dir.clone();
    match env.timeout(CALL_TIME_MAX, env.blocking(move || work(&owned))).await {
        Ok(value) => Some(value),
        Err(_) => {
            dir.take_out("a call took longer than 30 seconds");
            None
        }
    }
}

fn start_writer(env: &Env, tasks: &TaskSet, dir: &Arc<Dir>, waiting: &Arc<Waiting>) -> mpsc::Sender<Job> {
    let (sender, mut jobs) = mpsc::channel(QUEUE_JOBS_MAX);
    let (env, dir, waiting) = (env.clone(), dir.clone(), waiting.clone());
    tasks.spawn(async move {
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Remove(key) => {
                    call(&env, &dir, move |dir| dir.remove(key)).await;
                }
                Job::Store(key, _room) => {
                    // A block that was removed meanwhile is not written.
                    let Some(block) = waiting.lock().get(&key).cloned() else { continue };
                    call(&env, &dir, move |dir| dir.store(key, &block)).await;
                    waiting.lock().remove(&key);
                }
            }
        }
    });
    sender
}

fn start_scans(env: &Env, tasks: &TaskSet, dir: &Arc<Dir>) {
    let (env, set, dir) = (env.clone(), tasks.clone(), Arc::downgrade(dir));
    tasks.spawn(async move {
        loop {
            let Some(dir) = dir.upgrade() else { return };
            let (looked_at, set_in_scan) = (dir.clone(), set.clone());
            let look = env.blocking(move || {
                if !looked_at.is_out() || looked_at.revive() {
                    looked_at.scan(&|| set_in_scan.is_stopping());
                }
            });
            // A disk that hangs must not hold up the end; nor is it asked again before it has answered.
            tokio::select! {
                () = look => {}
                () = set.stopping(), if dir.is_out() => return,
            }
            let mut rested = Duration::ZERO;
            while rested < SCAN_PERIOD && (rested.is_zero() || !dir.is_out()) {
                if !set.rest(PROBE_PERIOD).await {
                    return;
                }
                rested += PROBE_PERIOD;
            }
        }
    });
}
