//! One volume and one client of it, with time, chance, the store and death at hand.
//!
//! A client lives on a runtime of its own, so that cutting its power stops everything it was doing
//! at once. What outlives it is its disk: the engine's records as of some moment since the last
//! promise, and every object that the store had acknowledged.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use cairn_cache::journal::{Journal, Settings, SimulatedDisk};
use cairn_cache::{BlockCache, ChecksumLevel, Eviction};
use cairn_chunk::{ChunkStore, RawStaging, Staging, StagingRules};
use cairn_env::Env;
use cairn_meta::engine::mem::{Faults as EngineFaults, MemEngine};
use cairn_meta::engine::{Options as OpenOptions, open as open_engine};
use cairn_meta::invariants::CheckVolume;
use cairn_meta::txn::Engine;
use cairn_meta::{AtimeMode, Meta};
use cairn_object::testing::{Faults, FaultyStore, MemStore};
use cairn_object::{Limits, ObjectStore, stack};
use cairn_types::{Format, Ino};
use cairn_vfs::{Parts, Vfs};
use tokio::runtime::{Builder, Runtime};

/// Where a world keeps its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// In memory, in simulated time; a power cut may take its last second.
    Mem,
    /// A file, in real time, because its threads are real.
    Sqlite,
    /// Any engine, at this URL: an empty place for one world. In real time.
    At(&'static str),
}

/// What kind of world.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its metadata is.
    pub engine: EngineKind,
    /// The store is slow, fails now and then and loses answers.
    pub faults: bool,
    /// `none`, `lz4` or `zstd`.
    pub compression: &'static str,
    /// Memory for cached blocks; little makes readers go to the store.
    pub cache_bytes: u64,
    /// Blocks are staged on a disk that forgets what was not synced.
    pub write_back: bool,
    /// A canary: that disk says that it has synced, and has not.
    pub idle_disk: bool,
    /// A canary: the store loses an object whenever the client goes.
    pub forgetful: bool,
}

impl Options {
    /// A quiet world.
    pub fn quiet(engine: EngineKind) -> Options {
        Options {
            engine,
            faults: false,
            compression: "lz4",
            cache_bytes: 1 << 20,
            write_back: false,
            idle_disk: false,
            forgetful: false,
        }
    }

    /// One whose store is slow and fails.
    pub fn stormy() -> Options {
        Options { faults: true, ..Options::quiet(EngineKind::Mem) }
    }
}

/// One volume and its client.
pub struct World {
    seed: u64,
    options: Options,
    /// Lives so far: each has chance of its own.
    lives: u64,
    /// Time that passed in earlier lives: clocks do not go back.
    lived: Duration,
    life: Option<Life>,
    /// Records in memory outlive the client that made them.
    memory: Option<Arc<MemEngine>>,
    folder: Option<tempfile::TempDir>,
    /// What blocks are staged on.
    disk: SimulatedDisk,
}

/// A client between mount and death.
struct Life {
    env: Env,
    engine: Arc<dyn Engine>,
    objects: Arc<MemStore>,
    store: Arc<FaultyStore>,
    cache: Arc<BlockCache>,
    meta: Arc<Meta>,
    chunk: Arc<ChunkStore>,
    vfs: Arc<Vfs>,
    // Last, so that tasks end after everything above was let go of.
    runtime: Runtime,
}

/// What a client leaves behind in the store.
type Objects = Vec<(String, bytes::Bytes)>;

impl World {
    /// Formats a volume and opens it.
    pub fn new(seed: u64, options: Options) -> Result<World, String> {
        let folder = (options.engine == EngineKind::Sqlite).then(tempfile::tempdir).transpose().map_err(words)?;
        let disk = SimulatedDisk::new();
        if options.idle_disk {
            disk.idle_all_syncs();
        }
        let mut world =
            World { seed, options, lives: 0, lived: Duration::ZERO, life: None, memory: None, folder, disk };
        world.live(Objects::new(), true)?;
        Ok(world)
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("a world has a client but for the moment of its death")
    }

    /// The store, to make it fail.
    pub fn store(&self) -> &FaultyStore {
        &self.life().store
    }

    /// Objects in the store.
    pub fn objects(&self) -> &MemStore {
        &self.life().objects
    }

    /// The client's metadata.
    pub fn meta(&self) -> &Arc<Meta> {
        &self.life().meta
    }

    /// Does something with the client's files.
    pub fn on<T>(&self, work: impl AsyncFnOnce(&Vfs) -> T) -> T {
        let life = self.life();
        life.runtime.block_on(work(&life.vfs))
    }

    /// Lets time pass; at once if it is simulated.
    pub fn wait(&self, millis: u64) {
        let life = self.life();
        if life.env.is_simulated() {
            life.runtime.block_on(life.env.sleep(Duration::from_millis(millis)));
        } else {
            life.runtime.block_on(tokio::task::yield_now());
        }
    }

    /// Simulated time so far; 0 where time is real, since it differs from run to run.
    pub fn now_millis(&self) -> u64 {
        let life = self.life();
        if !life.env.is_simulated() {
            return 0;
        }
        let now = life.runtime.block_on(async { life.env.now() });
        now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    /// Every rule of the volume format holds, sums included.
    pub fn check_invariants(&self) -> Result<(), String> {
        let life = self.life();
        let (broken, _) = life.runtime.block_on(life.meta.view(CheckVolume { strict: true })).map_err(words)?;
        if broken.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = broken.iter().map(|v| format!("{}: {v}", v.rule())).collect();
        Err(format!("broken rules: {}", lines.join("; ")))
    }

    /// Closes in order and opens again.
    pub fn reopen(&mut self) -> Result<(), String> {
        let life = self.life();
        life.store.set_faults(Faults::default());
        life.runtime.block_on(life.close())?;
        let objects = self.die();
        self.disk.killed();
        self.live(objects, false)
    }

    /// The client is gone from one moment to the next. Sometimes only its process died (false); else
    /// the power went (true), and what it had not promised to survive that is lost.
    pub fn cut_power(&mut self) -> Result<bool, String> {
        let only_killed = self.life().env.random_below(3) == 0;
        let mut chance = self.life().env.random();
        let objects = self.die();
        if only_killed {
            self.disk.killed();
        } else {
            self.disk.power_cut(|n| {
                chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (chance >> 33) % n
            });
        }
        if let Some(memory) = self.memory.as_ref().filter(|_| !only_killed) {
            memory.power_cut();
        }
        self.live(objects, false)?;
        Ok(!only_killed)
    }

    fn die(&mut self) -> Objects {
        let life = self.life.take().expect("it lives");
        if life.env.is_simulated() {
            let now = life.runtime.block_on(async { life.env.now() });
            self.lived =
                now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(Duration::from_secs(EPOCH_SECS));
        }
        let keys = life.objects.keys();
        let objects = life.runtime.block_on(async {
            let mut objects = Vec::new();
            for key in keys {
                let bytes = life.objects.get(&key, None).await.expect("it was just listed");
                objects.push((key, bytes));
            }
            objects
        });
        let forgotten = usize::from(self.options.forgetful && !objects.is_empty());
        let objects = objects.into_iter().skip(forgotten).collect();
        let Life { runtime, .. } = life;
        // Tasks that still run never run again.
        runtime.shutdown_background();
        objects
    }

    fn live(&mut self, objects: Objects, format: bool) -> Result<(), String> {
        self.lives += 1;
        let runtime = if self.options.engine == EngineKind::Mem {
            Builder::new_current_thread().enable_all().start_paused(true).build()
        } else {
            Builder::new_current_thread().enable_all().build()
        };
        let runtime = runtime.map_err(words)?;
        let opened = runtime.block_on(self.open(objects, format));
        let (env, engine, objects, store, cache, meta, chunk, vfs) = opened?;
        self.life = Some(Life { env, engine, objects, store, cache, meta, chunk, vfs, runtime });
        Ok(())
    }

    async fn open(&mut self, left: Objects, format: bool) -> Result<Opened, String> {
        let env = match self.options.engine {
            EngineKind::Mem => Env::simulated(self.seed.wrapping_add(self.lives << 48)),
            EngineKind::Sqlite | EngineKind::At(_) => Env::real(),
        };
        if env.is_simulated() {
            tokio::time::advance(self.lived).await;
        }
        let objects = Arc::new(MemStore::new(&env));
        for (key, bytes) in left {
            objects.put(&key, bytes.into()).await.map_err(words)?;
        }
        let engine = self.open_engine(&env).await?;
        let setting = self.setting();
        if format {
            cairn_meta::format_volume(&env, &*engine, &setting).await.map_err(words)?;
        }
        let store = FaultyStore::new(&env, objects.clone());
        if self.options.faults {
            store.set_faults(storm());
        }
        let meta = Meta::open(env.clone(), engine.clone(), meta_config()).await.map_err(words)?;
        meta.start_session(r#"{"Version":"1.4.1","HostName":"world","MountPoint":"/m","ProcessID":1}"#.into())
            .await
            .map_err(words)?;
        self.bury_the_dead(&meta).await?;
        if let Some(memory) = self.memory.as_ref().filter(|_| self.options.faults) {
            memory.set_faults(EngineFaults { delay: Duration::from_millis(4), busy_percent: 3, fail_percent: 0 });
        }
        let cache = BlockCache::open(env.clone(), cache_config(&setting, self.options.cache_bytes)).map_err(words)?;
        let limited = stack(&env, store.clone(), &limits());
        let config = chunk_config(&setting);
        let chunk = if self.options.write_back {
            let (journal, recovered) =
                Journal::open(&env, self.disk.door(), journal_settings(&setting)).await.map_err(words)?;
            let staging = Staging::new(staging_rules(self.seed), Some(journal), RawStaging::default());
            let chunk = ChunkStore::with_staging(env.clone(), limited, cache.clone(), config, None, Some(staging));
            cairn_vfs::replay(&meta, &chunk, recovered).await.map_err(words)?;
            chunk
        } else {
            ChunkStore::new(env.clone(), limited, cache.clone(), config)
        };
        let vfs = Vfs::new(&env, meta.clone(), chunk.clone(), Parts::none(), vfs_config());
        Ok((env, engine, objects, store, cache, meta, chunk, vfs))
    }

    async fn open_engine(&mut self, env: &Env) -> Result<Arc<dyn Engine>, String> {
        let at = match (self.options.engine, &self.folder) {
            (EngineKind::At(url), _) => Some(url.to_owned()),
            (_, folder) => folder.as_ref().map(|f| format!("sqlite3://{}/meta.db", f.path().display())),
        };
        if let Some(url) = at {
            let options = OpenOptions { create: true, read_only: false };
            return open_engine(env.clone(), &url, options).await.map_err(words);
        }
        let memory = self.memory.get_or_insert_with(|| MemEngine::new(env.clone())).clone();
        memory.reopen();
        memory.set_faults(EngineFaults::default());
        Ok(memory)
    }

    /// What upkeep does about sessions whose time is over; here at once, for all but our own.
    async fn bury_the_dead(&self, meta: &Meta) -> Result<(), String> {
        for session in meta.sessions().await.map_err(words)? {
            if Some(session.sid) != meta.sid() {
                meta.end_session(session.sid).await.map_err(words)?;
            }
        }
        Ok(())
    }

    fn setting(&self) -> Format {
        Format {
            name: "world".into(),
            uuid: "00000000-0000-4000-8000-000000000000".into(),
            bucket: "/nowhere/".into(),
            block_size: 64,
            compression: self.options.compression.into(),
            meta_version: 1,
            dir_stats: true,
            ..Format::default()
        }
    }
}

type Opened =
    (Env, Arc<dyn Engine>, Arc<MemStore>, Arc<FaultyStore>, Arc<BlockCache>, Arc<Meta>, Arc<ChunkStore>, Arc<Vfs>);

impl Life {
    async fn close(&self) -> Result<(), String> {
        self.vfs.close().await.map_err(|e| format!("close: {e}"))?;
        self.chunk.close().await;
        self.meta.close_session().await.map_err(words)?;
        self.cache.close().await;
        self.meta.close().await;
        self.engine.close().await;
        Ok(())
    }
}

/// When simulated time begins, in seconds since 1970.
const EPOCH_SECS: u64 = 1_800_000_000;

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn storm() -> Faults {
    Faults { delay_max: Duration::from_millis(80), fail_per_mille: 60, fail_after_per_mille: 30, damage_per_mille: 0 }
}

fn limits() -> Limits {
    Limits {
        get_timeout: Duration::from_secs(5),
        put_timeout: Duration::from_secs(20),
        io_retries: 4,
        max_uploads: 8,
        max_downloads: 16,
        upload_bytes_per_sec: 0,
        download_bytes_per_sec: 0,
    }
}

fn meta_config() -> cairn_meta::Config {
    cairn_meta::Config {
        read_only: false,
        skip_dir_mtime: Duration::ZERO,
        atime_mode: AtimeMode::NoAtime,
        heartbeat: Duration::from_secs(12),
        root: Ino::ROOT,
        own_attr_age: Duration::ZERO,
        upkeep_queue: 10_000,
    }
}

fn cache_config(setting: &Format, memory_bytes: u64) -> cairn_cache::Config {
    cairn_cache::Config {
        dirs: Vec::new(),
        memory_bytes,
        disk_bytes: 0,
        disk_items: 0,
        free_space_ratio: 0.1,
        checksum: ChecksumLevel::Extend,
        eviction: Eviction::TwoRandom,
        file_mode: 0o600,
        key_layout: setting.key_layout(),
    }
}

fn chunk_config(setting: &Format) -> cairn_chunk::Config {
    cairn_chunk::Config {
        block_bytes: setting.block_bytes(),
        compression: setting.compression().expect("a known codec"),
        key_layout: setting.key_layout(),
        buffer_bytes: 64 << 20,
        prefetch: 1,
        max_readahead: 4 << 20,
        cache_full_blocks: true,
    }
}

fn journal_settings(setting: &Format) -> Settings {
    Settings { volume: setting.uuid.clone(), segment_bytes: 1 << 20, staged_bytes_max: 0, keep_free: 0.0 }
}

/// In every other world blocks stay on the disk for an hour: there it is the only one that has them.
fn staging_rules(seed: u64) -> StagingRules {
    StagingRules {
        write_back: true,
        upload_delay: Duration::from_secs(seed % 2 * 3600),
        upload_hours: None,
        threshold_bytes: 0,
        stage_writes_max: 1000,
        uploads_max: 4,
        set_aside: std::env::temp_dir().join("cairn-testkit-set-aside"),
    }
}

fn vfs_config() -> cairn_vfs::Config {
    cairn_vfs::Config {
        readahead_max_bytes: 8 * 65_536,
        readahead_total_bytes: 32 << 20,
        flush_age: Duration::from_secs(5),
        flush_idle: Duration::from_secs(1),
        reupload_age: Duration::from_secs(1800),
        pack_bytes: 65_536,
        read_retries: 3,
        readdir_page: 5,
        hide_internal: false,
        prefix_internal: false,
        subdir: false,
    }
}
