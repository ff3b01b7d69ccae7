//! One client's view of a volume: the calls that vfs, jobs and commands make.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use cairn_env::Env;
use cairn_types::{
    AclRule, Attr, ChunkIndex, ClientVersion, Format, Ino, SessionId, SliceId, SliceRecord, SliceRef, Timestamp,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::cred::{Cred, Want};
use crate::ids::IdRange;
use crate::opens::{OpenTable, SliceList};
use crate::ops::acl::{AclKind, SetAcl};
use crate::ops::create::{Create, Created, NewNode};
use crate::ops::data::{Commit, CommitMany, Committed, CopyRange, FallocMode, Fallocate, NewSlice, Truncate};
use crate::ops::link::Link;
use crate::ops::lock::{Flock, GetPlock, SetPlock};
use crate::ops::remove::{Fate, ReleaseSustained, Removed, Rmdir, Unlink};
use crate::ops::rename::{Rename, RenameMode, Renamed};
use crate::ops::session::{EndSession, FenceIds, Heartbeat, Reborn, Sessions, StartSession, SustainedOf, TakeIds};
use crate::ops::setattr::{Access, Set, SetAttr, atime_is_due};
use crate::ops::tree::{
    CheckAccess, CheckOpen, Chunks, Counters, GetAttr, GetSetting, GetXattr, ListXattr, Lookup, OpenHow, Parents,
    QuotasAbove, ReadDir, ReadLink, Slices, UsedTotals,
};
use crate::ops::xattr::{RemoveXattr, SetXattr, XattrMode};
use crate::record::{DeletedFile, FlockKind, LockOwner, NamedEntry, PlockRange, SessionRecord};
use crate::txn::{Context, Counter, Durability, Engine, Op, Txn};
use crate::{Error, Policy, Result, overlay};

/// When a read is recorded in atime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AtimeMode {
    /// Never.
    #[default]
    NoAtime,
    /// After a change, or once a day.
    Relatime,
    /// After a second.
    Strict,
}

/// How one client uses a volume.
#[derive(Clone, Debug)]
pub struct Config {
    /// Refuse every change; keep no session.
    pub read_only: bool,
    /// A directory's times are not moved again within this time. JuiceFS: 100 ms.
    pub skip_dir_mtime: Duration,
    /// When reads are recorded.
    pub atime_mode: AtimeMode,
    /// How often the session is refreshed; it counts as dead after five of these.
    pub heartbeat: Duration,
    /// The directory shown as the root.
    pub root: Ino,
    /// How long a directory's attributes may be told from what our own last change left behind, where
    /// asking costs a round trip. The kernel's own attribute cache time: 1 s.
    pub own_attr_age: Duration,
    /// Requests that may wait for `jobs`; more are dropped and found again by the hourly jobs.
    pub upkeep_queue: usize,
}

impl Config {
    /// The defaults of a mount.
    pub fn mount() -> Config {
        Config {
            read_only: false,
            skip_dir_mtime: Duration::from_millis(100),
            atime_mode: AtimeMode::NoAtime,
            heartbeat: Duration::from_secs(12),
            root: Ino::ROOT,
            own_attr_age: Duration::from_secs(1),
            upkeep_queue: 10_000,
        }
    }
}

/// Something `jobs` should do when it gets to it.
#[derive(Debug)]
pub enum Upkeep {
    /// A chunk's list has grown long. `done` is told when it was tried; a writer may wait for it.
    Compact {
        /// File.
        ino: Ino,
        /// Chunk.
        index: ChunkIndex,
        /// Told after the attempt.
        done: Option<oneshot::Sender<()>>,
    },
    /// A file is gone; its chunks are not.
    DeleteFile(DeletedFile),
    /// Nobody owns these slices; their objects are still there.
    DeleteSlices(Vec<SliceRef>),
}

/// Space and inodes, as statfs shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes still to be used.
    pub avail_bytes: u64,
    /// Inodes used.
    pub used_inodes: u64,
    /// Inodes still to be used.
    pub avail_inodes: u64,
}

/// A page of a directory.
pub type DirPage = Vec<NamedEntry>;

/// One client's view of a volume. See the module.
pub struct Meta {
    me: Weak<Meta>,
    env: Env,
    engine: Arc<dyn Engine>,
    config: Config,
    format: RwLock<Arc<Format>>,
    policy: RwLock<Arc<Policy>>,
    session: Mutex<Option<SessionRecord>>,
    beating: tokio::sync::Mutex<()>,
    sequence: AtomicU64,
    inodes: IdRange,
    slices: IdRange,
    /// The engine's generation that our ids were last compared in.
    fenced: AtomicU64,
    opens: Arc<OpenTable>,
    upkeep_tx: mpsc::Sender<Upkeep>,
    upkeep_rx: Mutex<Option<mpsc::Receiver<Upkeep>>>,
    lock_released: Arc<Notify>,
    holders: Mutex<HashMap<(Ino, u64), Holding>>,
}

/// What an owner holds of locks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holding {
    /// It asked for some.
    Maybe,
    /// They went with our session.
    Lost,
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meta({})", self.engine.describe())
    }
}

/// What ids are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    Inodes,
    Slices,
}

impl Ids {
    fn counter(self) -> Counter {
        match self {
            Ids::Inodes => Counter::NextInode,
            Ids::Slices => Counter::NextChunk,
        }
    }

    fn count(self) -> u64 {
        match self {
            Ids::Inodes => INODE_BATCH,
            Ids::Slices => SLICE_BATCH,
        }
    }
}

/// Inodes taken ahead at a time.
const INODE_BATCH: u64 = 1024;
/// Slice ids taken ahead at a time.
const SLICE_BATCH: u64 = 4096;
/// Attempts at an operation whose engine is busy.
const MAX_ATTEMPTS: u32 = 50;
/// A committing writer waits for compaction once a chunk has this many records: SQL engines hold
/// 2,730 in a row.
const HARD_RECORDS: u32 = 2500;

impl Meta {
    /// Opens a formatted volume.
    pub async fn open(env: Env, engine: Arc<dyn Engine>, config: Config) -> Result<Arc<Meta>> {
        let format = crate::load_format(&env, &*engine).await?.ok_or(Error::NotFormatted)?;
        let policy = Policy::new(&format, config.skip_dir_mtime);
        let (upkeep_tx, upkeep_rx) = mpsc::channel(config.upkeep_queue.max(1));
        let fenced = AtomicU64::new(engine.generation());
        Ok(Arc::new_cyclic(|me| Meta {
            me: me.clone(),
            env,
            engine,
            fenced,
            format: RwLock::new(Arc::new(format)),
            policy: RwLock::new(Arc::new(policy)),
            config,
            session: Mutex::new(None),
            beating: tokio::sync::Mutex::default(),
            sequence: AtomicU64::new(0),
            inodes: IdRange::default(),
            slices: IdRange::default(),
            opens: Arc::default(),
            upkeep_tx,
            upkeep_rx: Mutex::new(Some(upkeep_rx)),
            lock_released: Arc::default(),
            holders: Mutex::default(),
        }))
    }

    // --- running operations

    /// Runs an operation and commits it so that it survives our own death.
    pub async fn run<O: Op>(&self, op: O) -> Result<O::Out> {
        self.run_durable(op, Durability::Process).await
    }

    /// Runs an operation and commits it with the durability asked for.
    pub async fn run_durable<O: Op>(&self, op: O, durability: Durability) -> Result<O::Out> {
        if self.config.read_only {
            return Err(Error::ReadOnly);
        }
        self.attempt(Arc::new(op), Some(durability)).await
    }

    /// Runs an operation that changes nothing.
    pub async fn view<O: Op>(&self, op: O) -> Result<O::Out> {
        self.attempt(Arc::new(op), None).await
    }

    /// The one place that retries conflicts.
    async fn attempt<O: Op>(&self, op: Arc<O>, write: Option<Durability>) -> Result<O::Out> {
        let mut tries = 0;
        loop {
            match self.once(op.clone(), write).await {
                Err(e) if e.is_retryable() && tries < MAX_ATTEMPTS => {
                    tries += 1;
                    let most = u64::from(tries * tries) + 1;
                    self.env.sleep(Duration::from_millis(1 + self.env.random_below(most))).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn once<O: Op>(&self, op: Arc<O>, write: Option<Durability>) -> Result<O::Out> {
        let cx = self.context();
        let out = Arc::new(Mutex::new(None));
        // The claims in the context outlive every run and the commit: they are dropped with it below.
        let (shared, slot) = (Arc::new(cx), out.clone());
        let cx = shared.clone();
        let work = Box::new(move |tx: &mut dyn Txn| {
            *slot.lock() = Some(op.apply(&cx, tx)?);
            Ok(())
        });
        match write {
            Some(durability) => self.engine.write(work, durability).await?,
            None => self.engine.read(work).await?,
        }
        drop(shared);
        let result = out.lock().take();
        Ok(result.expect("the engine ran the work it reports done"))
    }

    fn context(&self) -> Context {
        Context {
            now: self.now(),
            policy: self.policy.read().clone(),
            sid: self.sid(),
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
            opens: self.opens.clone(),
            claims: Mutex::default(),
        }
    }

    /// Wall-clock time as metadata records it.
    pub fn now(&self) -> Timestamp {
        Timestamp::from(self.env.now())
    }

    /// The volume's setting as last read.
    pub fn format(&self) -> Arc<Format> {
        self.format.read().clone()
    }

    /// How this client uses the volume.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The engine below, for whole-volume scans and commands.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// What this client has open.
    pub fn opens(&self) -> &OpenTable {
        &self.opens
    }

    /// The mount's root shows as inode 1, whichever directory it is.
    fn real(&self, ino: Ino) -> Ino {
        if ino == Ino::ROOT { self.config.root } else { ino }
    }

    fn shown(&self, ino: Ino) -> Ino {
        if ino == self.config.root { Ino::ROOT } else { ino }
    }

    /// Makes everything committed so far survive a power cut.
    pub async fn sync(&self) -> Result<()> {
        if self.config.read_only { Ok(()) } else { self.run_durable(Barrier, Durability::Power).await }
    }

    // --- ids

    async fn next_id(&self, ids: Ids) -> Result<u64> {
        self.fence_ids().await?;
        let range = self.range(ids);
        loop {
            if let Some(id) = range.next() {
                if range.left() < ids.count() / 2 && range.starts_refill() {
                    self.refill_behind(ids);
                }
                return Ok(id);
            }
            let _refilling = range.refill.lock().await;
            if range.left() == 0 {
                self.take_ids(ids).await?;
            }
        }
    }

    fn range(&self, ids: Ids) -> &IdRange {
        match ids {
            Ids::Inodes => &self.inodes,
            Ids::Slices => &self.slices,
        }
    }

    /// Durable before use: a power cut must not hand an id out twice.
    async fn take_ids(&self, ids: Ids) -> Result<()> {
        let op = TakeIds { counter: ids.counter(), count: ids.count() };
        self.range(ids).fill(self.run_durable(op, Durability::Power).await?);
        Ok(())
    }

    /// Fetches the next range while there is some of the last. If that fails, whoever finds none
    /// left tries again and is told.
    fn refill_behind(&self, ids: Ids) {
        let Some(me) = self.me.upgrade() else { return };
        self.env.spawn(async move {
            let range = me.range(ids);
            {
                let _refilling = range.refill.lock().await;
                if let Err(error) = me.take_ids(ids).await {
                    tracing::debug!(%error, ?ids, "no ids could be taken ahead");
                }
            }
            range.ends_refill();
        });
    }

    /// After the engine was connected anew: if its counters are behind the ids we hold, it went
    /// back to an older state, and would hand them out again (R9).
    async fn fence_ids(&self) -> Result<()> {
        let generation = self.engine.generation();
        if self.fenced.load(Ordering::Acquire) == generation {
            return Ok(());
        }
        let [_inodes, _slices] = [self.inodes.refill.lock().await, self.slices.refill.lock().await];
        if self.fenced.load(Ordering::Acquire) == generation {
            return Ok(());
        }
        let op = FenceIds { inode: self.inodes.highest(), slice: self.slices.highest() };
        let pushed = self.run_durable(op, Durability::Power).await?;
        for (range, pushed) in [&self.inodes, &self.slices].into_iter().zip(pushed) {
            if pushed {
                tracing::warn!(
                    highest = range.highest(),
                    "the metadata engine went back to an older state; its counters were pushed forward"
                );
                range.abandon();
            }
        }
        self.fenced.store(generation, Ordering::Release);
        Ok(())
    }

    /// A fresh slice id; waits only when a range of 4096 is used up.
    pub async fn next_slice_id(&self) -> Result<SliceId> {
        self.next_id(Ids::Slices).await.map(SliceId)
    }

    /// Makes sure that no id up to `highest` is handed out any more, here or elsewhere. `true`: the
    /// engine was behind, so it has lost what it had committed before.
    pub async fn pass_slice_ids(&self, highest: SliceId) -> Result<bool> {
        let _refilling = self.slices.refill.lock().await;
        let slice = highest.0.max(self.slices.highest());
        let [_, pushed] = self.run_durable(FenceIds { inode: 0, slice }, Durability::Power).await?;
        if pushed {
            self.slices.abandon();
        }
        Ok(pushed)
    }

    // --- names

    /// What `name` in `parent` stands for.
    pub async fn lookup(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<(Ino, Attr)> {
        let parent = self.real(parent);
        if name == b".." && parent == self.config.root {
            return Ok((Ino::ROOT, self.getattr(Ino::ROOT).await?));
        }
        let (ino, attr) = self.view(Lookup { cred: cred.clone(), parent, name: name.to_vec() }).await?;
        Ok((self.shown(ino), attr))
    }

    /// An inode's attributes.
    pub async fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.check_alive(ino)?;
        // The kernel asks for a directory's attributes after each change in it: ours left them so.
        let own = self.engine.own_attr(self.real(ino), self.config.own_attr_age);
        if let Some(attr) = own.filter(Attr::is_dir) {
            return Ok(attr);
        }
        let attr = self.view(GetAttr(self.real(ino))).await?;
        self.opens.seen_version(ino, &attr);
        Ok(attr)
    }

    /// Creates an inode; fails if the name exists.
    pub async fn mknod(&self, cred: &Cred, parent: Ino, name: &[u8], node: NewNode) -> Result<(Ino, Attr)> {
        let ino = self.next_inode().await?;
        let made = self.run(self.creation(cred, parent, name, node, ino, false)).await?;
        Ok((made.ino, made.attr))
    }

    /// Creates a file, or finds the existing one unless `exclusive`; counts a new one as open.
    pub async fn create(
        &self,
        cred: &Cred,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        exclusive: bool,
    ) -> Result<Created> {
        let ino = self.next_inode().await?;
        // Others find the name as soon as it is committed, and may remove it before we are told.
        self.opens.open_new(ino);
        let made = self.run(self.creation(cred, parent, name, node, ino, !exclusive)).await;
        match &made {
            Ok(made) if made.is_new => self.opens.seen_version(ino, &made.attr),
            _ => {
                self.opens.close(ino);
            }
        }
        made
    }

    async fn next_inode(&self) -> Result<Ino> {
        if self.config.read_only {
            return Err(Error::ReadOnly);
        }
        self.next_id(Ids::Inodes).await.map(Ino)
    }

    fn creation(&self, cred: &Cred, parent: Ino, name: &[u8], node: NewNode, ino: Ino, or_existing: bool) -> Create {
        Create { cred: cred.clone(), parent: self.real(parent), name: name.to_vec(), node, ino, or_existing }
    }

    /// Removes a name that is not a directory's.
    pub async fn unlink(&self, cred: &Cred, parent: Ino, name: &[u8], skip_trash: bool) -> Result<Removed> {
        let op = Unlink { cred: cred.clone(), parent: self.real(parent), name: name.to_vec(), skip_trash };
        let removed = self.run(op).await?;
        self.after_removal(&removed).await?;
        Ok(removed)
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, cred: &Cred, parent: Ino, name: &[u8], skip_trash: bool) -> Result<Removed> {
        self.run(Rmdir { cred: cred.clone(), parent: self.real(parent), name: name.to_vec(), skip_trash }).await
    }

    /// Moves a name.
    pub async fn rename(
        &self,
        cred: &Cred,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<Renamed> {
        let renamed = self
            .run(Rename {
                cred: cred.clone(),
                parent: self.real(parent),
                name: name.to_vec(),
                new_parent: self.real(new_parent),
                new_name: new_name.to_vec(),
                mode,
            })
            .await?;
        if let Some(replaced) = &renamed.replaced {
            self.after_removal(replaced).await?;
        }
        Ok(renamed)
    }

    async fn after_removal(&self, removed: &Removed) -> Result<()> {
        match removed.fate {
            Fate::Sustained if self.opens.mark_sustained(removed.ino) => self.release_sustained(removed.ino).await,
            Fate::Deleted(file) => {
                self.request(Upkeep::DeleteFile(file));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn release_sustained(&self, ino: Ino) -> Result<()> {
        let Some(sid) = self.sid() else { return Ok(()) };
        // Opened again meanwhile, through what the kernel still holds: the next close releases it.
        let claim = self.opens.claim(ino);
        if claim.open && !self.opens.mark_sustained(ino) {
            return Ok(());
        }
        if let Some(file) = self.run(ReleaseSustained { sid, ino }).await? {
            self.request(Upkeep::DeleteFile(file));
        }
        Ok(())
    }

    /// What we kept alive until our session was taken for dead is an I/O error, not an empty file.
    fn check_alive(&self, ino: Ino) -> Result<()> {
        if self.opens.is_reaped(ino) { Err(Error::SessionLost) } else { Ok(()) }
    }

    /// Gives an inode another name.
    pub async fn link(&self, cred: &Cred, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.run(Link { cred: cred.clone(), ino, parent: self.real(parent), name: name.to_vec() }).await
    }

    /// A symlink's target.
    pub async fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.view(ReadLink(ino)).await
    }

    /// Up to `limit` entries whose names sort after `after`, in byte order.
    pub async fn readdir(&self, dir: Ino, after: &[u8], limit: usize, plus: bool) -> Result<DirPage> {
        self.view(ReadDir { dir: self.real(dir), after: after.to_vec(), limit, plus }).await
    }

    /// The directories that hold an inode, with the number of names in each.
    pub async fn parents(&self, ino: Ino) -> Result<Vec<(Ino, u32)>> {
        let found = self.view(Parents(self.real(ino))).await?;
        Ok(found.into_iter().map(|(parent, names)| (self.shown(parent), names)).collect())
    }

    // --- attributes

    /// Sets attributes other than the length.
    pub async fn setattr(&self, cred: &Cred, ino: Ino, set: SetAttr) -> Result<Attr> {
        self.check_alive(ino)?;
        self.run(Set { cred: cred.clone(), ino: self.real(ino), set }).await
    }

    /// Does the caller have these permissions? `Error::Access` if not.
    pub async fn access(&self, cred: &Cred, ino: Ino, want: Want) -> Result<()> {
        self.view(CheckAccess { cred: cred.clone(), ino: self.real(ino), want }).await
    }

    /// Records an access if the mount does so and it is due. `attr` is what the caller saw.
    pub async fn accessed(&self, ino: Ino, attr: &Attr) -> Result<()> {
        let strict = match self.config.atime_mode {
            AtimeMode::NoAtime => return Ok(()),
            AtimeMode::Relatime => false,
            AtimeMode::Strict => true,
        };
        if self.config.read_only || !atime_is_due(self.now(), attr, strict) {
            return Ok(());
        }
        self.run(Access { ino: self.real(ino), strict }).await.map(drop)
    }

    // --- open files

    /// Checks that a file may be opened so, and counts it as open.
    pub async fn open_file(&self, cred: &Cred, ino: Ino, how: OpenHow) -> Result<Attr> {
        if self.config.read_only && (how.write || how.truncate) {
            return Err(Error::ReadOnly);
        }
        self.opens.open(ino).await;
        let checked = match self.check_alive(ino) {
            Ok(()) => self.view(CheckOpen { cred: cred.clone(), ino: self.real(ino), how }).await,
            Err(lost) => Err(lost),
        };
        match checked {
            Ok(attr) => {
                self.opens.seen_version(ino, &attr);
                Ok(attr)
            }
            Err(e) => {
                self.opens.close(ino);
                Err(e)
            }
        }
    }

    /// Takes back one open. The last one of an unlinked file lets its data go.
    pub async fn close_file(&self, ino: Ino) -> Result<()> {
        if self.opens.close(ino) { self.release_sustained(ino).await } else { Ok(()) }
    }

    /// What shows in a chunk, from its start to its last record: adjoining segments, holes included.
    ///
    /// Kept while the file is open, until its content changes.
    pub async fn slices(&self, ino: Ino, index: ChunkIndex) -> Result<SliceList> {
        self.check_alive(ino)?;
        let generation = match self.opens.list(ino, index) {
            Ok(list) => return Ok(list),
            Err(generation) => generation,
        };
        let records = self.raw_slices(ino, index).await?;
        let count = records.len() as u32;
        let view = Arc::new(overlay::view(&records));
        if (count >= 5 || view.len() >= 5) && !self.config.read_only {
            self.request(Upkeep::Compact { ino, index, done: None });
        }
        self.opens.keep_list(ino, index, generation, &view);
        Ok(view)
    }

    /// A chunk's slice records as stored, oldest first.
    pub async fn raw_slices(&self, ino: Ino, index: ChunkIndex) -> Result<Vec<SliceRecord>> {
        self.view(Slices { ino, index }).await
    }

    /// Chunks of a file that have a list, ascending, from `from` on.
    pub async fn chunks(&self, ino: Ino, from: ChunkIndex, limit: usize) -> Result<Vec<ChunkIndex>> {
        self.view(Chunks { ino, from, limit }).await
    }

    /// Forgets what [`Meta::slices`] kept: a block was missing, so the list is probably old.
    pub fn forget_slices(&self, ino: Ino, index: Option<ChunkIndex>) {
        self.opens.drop_lists(ino, index);
    }

    /// Names stored slices of one file, all in one step. Waits for compaction where a list is
    /// about to burst.
    pub async fn commit(
        &self,
        ino: Ino,
        slices: Vec<NewSlice>,
        mtime: Option<Timestamp>,
        durability: Durability,
    ) -> Result<Committed> {
        self.commit_as(Commit::new(ino, slices, mtime), durability).await
    }

    /// The same with all that a commit can say.
    pub async fn commit_as(&self, commit: Commit, durability: Durability) -> Result<Committed> {
        let ino = commit.ino;
        self.check_locks(ino).await?;
        let done = self.run_durable(commit, durability).await?;
        self.committed(ino, &done).await;
        Ok(done)
    }

    /// Several files in one step: all of them or none, answered in their order.
    pub async fn commit_many(&self, commits: Vec<Commit>, durability: Durability) -> Result<Vec<Committed>> {
        let inos: Vec<Ino> = commits.iter().map(|commit| commit.ino).collect();
        let done = self.run_durable(CommitMany(commits), durability).await?;
        for (ino, done) in inos.iter().zip(&done) {
            self.committed(*ino, done).await;
        }
        Ok(done)
    }

    async fn committed(&self, ino: Ino, done: &Committed) {
        for &(index, _) in &done.counts {
            self.opens.drop_lists(ino, Some(index));
        }
        self.opens.move_version(ino, &done.before, &done.attr);
        if !done.unowned.is_empty() {
            self.request(Upkeep::DeleteSlices(done.unowned.clone()));
        }
        for &(index, count) in &done.counts {
            self.consider_compaction(ino, index, count).await;
        }
    }

    async fn consider_compaction(&self, ino: Ino, index: ChunkIndex, count: u32) {
        // Without `jobs` (administrative commands) nobody compacts: the engine's own limit will tell.
        let is_drained = self.upkeep_rx.lock().is_none();
        if count >= HARD_RECORDS && is_drained {
            let (done, wait) = oneshot::channel();
            if self.upkeep_tx.try_send(Upkeep::Compact { ino, index, done: Some(done) }).is_ok() {
                // An error means that jobs are stopping.
                wait.await.unwrap_or_default();
            }
        } else if count % 100 == 99 || count > 350 {
            self.request(Upkeep::Compact { ino, index, done: None });
        }
    }

    /// Sets a file's length.
    pub async fn truncate(&self, cred: &Cred, ino: Ino, length: u64, by_handle: bool) -> Result<Attr> {
        self.check_alive(ino)?;
        let attr = self.run(Truncate { cred: cred.clone(), ino, length, by_handle }).await?;
        self.content_changed(ino, &attr);
        Ok(attr)
    }

    /// Allocates, punches or zeroes a range.
    pub async fn fallocate(&self, cred: &Cred, ino: Ino, mode: FallocMode, offset: u64, len: u64) -> Result<Attr> {
        self.check_alive(ino)?;
        let attr = self.run(Fallocate { cred: cred.clone(), ino, mode, offset, len }).await?;
        self.content_changed(ino, &attr);
        Ok(attr)
    }

    /// Shares a range of one file with another; answers the bytes shared and the output's attributes.
    pub async fn copy_range(
        &self,
        cred: &Cred,
        (input, in_offset): (Ino, u64),
        (output, out_offset): (Ino, u64),
        len: u64,
    ) -> Result<(u64, Attr)> {
        let op = CopyRange { cred: cred.clone(), input, in_offset, output, out_offset, len };
        let (copied, attr) = self.run(op).await?;
        self.content_changed(output, &attr);
        Ok((copied, attr))
    }

    fn content_changed(&self, ino: Ino, attr: &Attr) {
        self.opens.drop_lists(ino, None);
        self.opens.move_version(ino, attr, attr);
    }

    // --- extended attributes and ACLs

    /// One extended attribute.
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.view(GetXattr { ino: self.real(ino), name: name.to_vec() }).await
    }

    /// Names of all extended attributes.
    pub async fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.view(ListXattr(self.real(ino))).await
    }

    /// Sets an extended attribute or an ACL. An ACL may change the mode: the new attributes.
    pub async fn setxattr(
        &self,
        cred: &Cred,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<Option<Attr>> {
        if let Some(kind) = AclKind::of_xattr(name) {
            self.check_acls()?;
            let rule = AclRule::from_xattr(value).map_err(|_| Error::Invalid("posix acl"))?;
            return self.set_acl(cred, ino, kind, rule).await.map(Some);
        }
        let op = SetXattr { ino: self.real(ino), name: name.to_vec(), value: value.to_vec(), mode };
        self.run(op).await.map(|()| None)
    }

    /// Removes an extended attribute or an ACL.
    pub async fn removexattr(&self, cred: &Cred, ino: Ino, name: &[u8]) -> Result<()> {
        if let Some(kind) = AclKind::of_xattr(name) {
            self.check_acls()?;
            return self.set_acl(cred, ino, kind, AclRule::empty()).await.map(drop);
        }
        self.run(RemoveXattr { ino: self.real(ino), name: name.to_vec() }).await
    }

    fn check_acls(&self) -> Result<()> {
        if self.policy.read().acl { Ok(()) } else { Err(Error::NotSupported) }
    }

    async fn set_acl(&self, cred: &Cred, ino: Ino, kind: AclKind, rule: AclRule) -> Result<Attr> {
        self.run(SetAcl { cred: cred.clone(), ino: self.real(ino), kind, rule }).await
    }

    // --- locks

    fn lock_owner(&self, owner: u64) -> LockOwner {
        // Without a session locks exclude only within this mount, for as long as it lives.
        LockOwner { sid: self.sid().unwrap_or_default(), owner }
    }

    /// Runs a lock operation and remembers who may hold locks. An owner whose locks went with our
    /// session is told so until it lets go of them all: it must not think that it held them throughout.
    async fn locking(&self, who: (Ino, u64), takes: bool, drops_all: bool, op: impl Op<Out = ()>) -> Result<()> {
        let is_new = match self.holders.lock().entry(who) {
            Entry::Occupied(held) if takes && *held.get() == Holding::Lost => return Err(Error::SessionLost),
            Entry::Vacant(slot) if takes => {
                slot.insert(Holding::Maybe);
                true
            }
            _ => false,
        };
        let outcome = self.run(op).await;
        if (outcome.is_ok() && drops_all) || (outcome.is_err() && is_new) {
            self.holders.lock().remove(&who);
        }
        outcome
    }

    /// What was written under a lock that went with our session must not cover what its next holder
    /// wrote. Whether the session still stands is asked once it is old enough to be taken for dead.
    async fn check_locks(&self, ino: Ino) -> Result<()> {
        let has = |wanted: &dyn Fn(Holding) -> bool| {
            self.holders.lock().iter().any(|((of, _), holding)| *of == ino && wanted(*holding))
        };
        if !has(&|_| true) {
            return Ok(());
        }
        let is_old = self.session.lock().as_ref().is_some_and(|s| s.expire_secs <= self.now().secs);
        if is_old {
            self.heartbeat().await?;
        }
        if has(&|holding| holding == Holding::Lost) { Err(Error::SessionLost) } else { Ok(()) }
    }

    /// Takes, changes or drops a BSD lock; `WouldBlock` if somebody else is in the way.
    pub async fn flock(&self, ino: Ino, owner: u64, kind: Option<FlockKind>) -> Result<()> {
        let op = Flock { ino: self.real(ino), owner: self.lock_owner(owner), kind };
        self.locking((ino, owner), kind.is_some(), kind.is_none(), op).await?;
        if kind != Some(FlockKind::Write) {
            self.lock_released.notify_waiters();
        }
        Ok(())
    }

    /// Takes, changes or drops a POSIX lock; `WouldBlock` if somebody else is in the way.
    pub async fn set_plock(
        &self,
        ino: Ino,
        owner: u64,
        kind: Option<FlockKind>,
        range: (u64, u64),
        pid: u32,
    ) -> Result<()> {
        let (start, end) = range;
        let op = SetPlock { ino: self.real(ino), owner: self.lock_owner(owner), kind, start, end, pid };
        let drops_all = kind.is_none() && start == 0 && end >= i64::MAX as u64;
        self.locking((ino, owner), kind.is_some(), drops_all, op).await?;
        if kind != Some(FlockKind::Write) {
            self.lock_released.notify_waiters();
        }
        Ok(())
    }

    /// The lock that would keep this one out.
    pub async fn get_plock(
        &self,
        ino: Ino,
        owner: u64,
        kind: FlockKind,
        range: (u64, u64),
    ) -> Result<Option<PlockRange>> {
        let (start, end) = range;
        self.view(GetPlock { ino: self.real(ino), owner: self.lock_owner(owner), kind, start, end }).await
    }

    /// Woken when a lock is dropped through this client: whoever waits for one tries again.
    pub fn lock_released(&self) -> &Arc<Notify> {
        &self.lock_released
    }

    // --- sessions and setting

    /// Our session, if one is registered.
    pub fn sid(&self) -> Option<SessionId> {
        self.session.lock().as_ref().map(|s| s.sid)
    }

    fn expiry(&self) -> i64 {
        let life =
            if self.config.heartbeat.is_zero() { 365 * 24 * 3600 } else { 5 * self.config.heartbeat.as_secs().max(1) };
        self.now().secs + life as i64
    }

    /// Registers this client; `info` is the JSON of the volume format, 7.2.
    pub async fn start_session(&self, info: String) -> Result<SessionId> {
        let expire_secs = self.expiry();
        let sid = self.run(StartSession { expire_secs, info: info.clone() }).await?;
        *self.session.lock() = Some(SessionRecord { sid, expire_secs, info });
        Ok(sid)
    }

    /// Says that we live. If others took us for dead we go on as a new session: what the old one
    /// held (locks, unlinked open files) answers [`Error::SessionLost`] from then on.
    pub async fn heartbeat(&self) -> Result<()> {
        // One at a time: two would each begin a new session.
        let _turn = self.beating.lock().await;
        let Some(mut session) = self.session.lock().clone() else { return Ok(()) };
        session.expire_secs = self.expiry();
        let old = session.sid;
        let reborn = self.run(Heartbeat { session: session.clone() }).await?;
        if let Some(known) = self.session.lock().as_mut().filter(|s| s.sid == old) {
            known.expire_secs = session.expire_secs;
        }
        if let Some(Reborn { sid, kept }) = reborn {
            *self.session.lock() = Some(SessionRecord { sid, ..session });
            let files = self.opens.reap(&kept.into_iter().collect());
            let locks = self.lose_locks();
            tracing::warn!(%old, %sid, files, locks, "another client took this session for dead (the machine slept, or was cut off): \
                            its locks and unlinked open files are gone, their users get I/O errors");
        }
        Ok(())
    }

    /// Answers how many owners are concerned.
    fn lose_locks(&self) -> usize {
        let mut holders = self.holders.lock();
        holders.values_mut().for_each(|h| *h = Holding::Lost);
        holders.len()
    }

    /// Ends our session: sustained files go, locks are dropped.
    pub async fn close_session(&self) -> Result<()> {
        let Some(sid) = self.sid() else { return Ok(()) };
        self.end_session(sid).await?;
        *self.session.lock() = None;
        self.holders.lock().clear();
        Ok(())
    }

    /// Cleans up after a session, ours or a dead one.
    pub async fn end_session(&self, sid: SessionId) -> Result<()> {
        for ino in self.view(SustainedOf { sid }).await? {
            if let Some(file) = self.run(ReleaseSustained { sid, ino }).await? {
                self.request(Upkeep::DeleteFile(file));
            }
        }
        self.run(EndSession { sid }).await?;
        self.lock_released.notify_waiters();
        Ok(())
    }

    /// All registered sessions.
    pub async fn sessions(&self) -> Result<Vec<SessionRecord>> {
        self.view(Sessions).await
    }

    /// Reads the setting again; answers it if it changed. A volume that is gone or was formatted
    /// anew is an error: this client must stop.
    pub async fn refresh(&self) -> Result<Option<Arc<Format>>> {
        let text = self.view(GetSetting).await?.ok_or(Error::NotFormatted)?;
        let format =
            Format::from_json(&text).map_err(|e| Error::Corrupt(format!("volume setting is not readable: {e}")))?;
        let old = self.format();
        if format.uuid != old.uuid {
            return Err(Error::Refused(format!(
                "the volume was formatted anew: UUID {} became {}",
                old.uuid, format.uuid
            )));
        }
        format.check_version(&ClientVersion::implemented()).map_err(|e| Error::Refused(e.to_string()))?;
        if format == *old {
            return Ok(None);
        }
        *self.policy.write() = Arc::new(Policy::new(&format, self.config.skip_dir_mtime));
        let format = Arc::new(format);
        *self.format.write() = format.clone();
        Ok(Some(format))
    }

    // --- totals

    /// All counters, by stored name.
    pub async fn counters(&self) -> Result<Vec<(&'static str, i64)>> {
        self.view(Counters).await
    }

    /// Space and inodes of the volume, capped by the quotas above the mount's root.
    pub async fn statfs(&self) -> Result<StatFs> {
        let (space, inodes) = self.view(UsedTotals).await?;
        let (used, used_inodes) = (space.max(0) as u64, inodes.max(0) as u64);
        let policy = self.policy.read().clone();
        let total = if policy.capacity > 0 { policy.capacity.max(used) } else { roomy(1 << 50, |t| used * 10 > t * 8) };
        let avail_inodes = match policy.inodes {
            0 => roomy(10 << 20, |t| used_inodes > 4 * t),
            limit => limit.saturating_sub(used_inodes),
        };
        let mut stat = StatFs { total_bytes: total, avail_bytes: total - used, used_inodes, avail_inodes };
        if self.config.root != Ino::ROOT {
            for quota in self.view(QuotasAbove(self.config.root)).await? {
                cap_by_quota(&mut stat, &quota);
            }
        }
        Ok(stat)
    }

    // --- upkeep

    /// The queue of what needs doing; `jobs` takes it once.
    pub fn upkeep(&self) -> Option<mpsc::Receiver<Upkeep>> {
        self.upkeep_rx.lock().take()
    }

    /// Asks for upkeep. If the queue is full the request is dropped: hourly jobs find deletions
    /// again, and the next read or write asks for compaction again.
    pub fn request(&self, upkeep: Upkeep) {
        if let Err(e) = self.upkeep_tx.try_send(upkeep) {
            tracing::debug!(error = %e, "upkeep request dropped");
        }
    }

    /// Closes the engine. The session must be closed before.
    pub async fn close(&self) {
        self.engine.close().await;
    }
}

/// Changes nothing: once it is durable, so is all that was committed before.
struct Barrier;

impl Op for Barrier {
    type Out = ();

    fn apply(&self, _: &Context, _: &mut dyn Txn) -> Result<()> {
        Ok(())
    }
}

/// `start`, doubled until it is roomy enough.
fn roomy(start: u64, too_small: impl Fn(u64) -> bool) -> u64 {
    let mut total = start;
    while too_small(total) && total < 1 << 62 {
        total *= 2;
    }
    total
}

fn cap_by_quota(stat: &mut StatFs, quota: &crate::record::Quota) {
    if quota.max_space > 0 {
        let left = (quota.max_space - quota.used_space).max(0) as u64;
        stat.total_bytes = stat.total_bytes.min(quota.max_space as u64);
        stat.avail_bytes = stat.avail_bytes.min(left);
    }
    if quota.max_inodes > 0 {
        stat.used_inodes = quota.used_inodes.max(0) as u64;
        stat.avail_inodes = stat.avail_inodes.min((quota.max_inodes - quota.used_inodes).max(0) as u64);
    }
}
