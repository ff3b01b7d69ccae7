//! A disk in memory that forgets, at a power cut, whatever nobody had it sync.
//!
//! Of bytes written since a file's last sync, each sector comes back in any of the versions it has
//! had since (reordered, torn, dropped); of names made and removed since the last sync of the
//! folder, each change comes back or not by itself; so does the folder. What was synced is exact.
//! A run is cut after a number of calls, and what comes back is drawn from a seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::door::{Door, DoorFile};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    /// Calls until the power goes; `None`: it stays.
    calls_left: Option<u64>,
    calls: u64,
    /// After how many calls each sync came.
    syncs: Vec<u64>,
    /// The sync, by its number, that does nothing.
    idle_sync: Option<u64>,
    /// None does.
    all_idle: bool,
    /// Calls of this kind fail.
    failing: Option<(Call, io::ErrorKind)>,
    /// Bytes that files may take in all.
    capacity: u64,
    /// Powered down: calls fail until the disk is started again.
    is_off: bool,
    /// Grows with each start: files opened before are dead.
    life: u64,
    is_locked: bool,
    folder: Folder,
    files: Vec<FileState>,
}

/// A kind of call that a test makes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Writing bytes.
    Write,
    /// Reading bytes.
    Read,
    /// Syncing bytes.
    Sync,
    /// Making a file.
    Create,
}

#[derive(Default)]
struct Folder {
    exists: bool,
    is_durable: bool,
    now: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    /// Names made (`Some`) and removed since the last sync.
    pending: Vec<(String, Option<usize>)>,
}

#[derive(Clone, Default)]
struct FileState {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Versions of sectors written since the last sync, oldest first.
    pending: Vec<(usize, Vec<u8>)>,
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> SimulatedDisk {
        let state = State {
            calls_left: None,
            calls: 0,
            syncs: Vec::new(),
            idle_sync: None,
            all_idle: false,
            failing: None,
            capacity: u64::MAX,
            is_off: false,
            life: 0,
            is_locked: false,
            folder: Folder::default(),
            files: Vec::new(),
        };
        SimulatedDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk for a process that starts now.
    pub fn door(&self) -> Arc<dyn Door> {
        let life = self.state.lock().life;
        Arc::new(SimulatedDoor { state: self.state.clone(), life })
    }

    /// The power goes after this many calls more.
    pub fn cut_after(&self, calls: u64) {
        self.state.lock().calls_left = Some(calls);
    }

    /// Makes sync number `sync` (from 0) do nothing.
    pub fn idle_sync(&self, sync: u64) {
        self.state.lock().idle_sync = Some(sync);
    }

    /// A canary: no sync does anything.
    pub fn idle_all_syncs(&self) {
        self.state.lock().all_idle = true;
    }

    /// After how many calls each sync so far came.
    pub fn syncs(&self) -> Vec<u64> {
        self.state.lock().syncs.clone()
    }

    /// Has the power gone?
    pub fn is_off(&self) -> bool {
        self.state.lock().is_off
    }

    /// Makes calls of one kind fail from now on; `None`: all work again.
    pub fn fail(&self, failing: Option<(Call, io::ErrorKind)>) {
        self.state.lock().failing = failing;
    }

    /// Bytes that all files may take.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// Flips one bit of a file, on the disk itself.
    pub fn flip_bit(&self, name: &str, bit: u64) {
        let mut state = self.state.lock();
        let file = state.folder.now[name];
        let FileState { now, durable, .. } = &mut state.files[file];
        for bytes in [now, durable] {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Names and bytes of the files there are.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.state.lock();
        state.folder.now.iter().map(|(name, file)| (name.clone(), state.files[*file].now.clone())).collect()
    }

    /// Power comes back: what was not synced is as `random` (a number below its argument) draws it.
    pub fn power_cut(&self, mut random: impl FnMut(u64) -> u64) {
        let mut state = self.state.lock();
        for file in &mut state.files {
            file.forget(&mut random);
        }
        let folder = &mut state.folder;
        if folder.exists && !folder.is_durable {
            folder.exists = random(2) == 0;
            folder.is_durable = folder.exists;
        }
        for (name, change) in std::mem::take(&mut folder.pending) {
            if random(2) == 0 {
                continue;
            }
            match change {
                Some(file) => _ = folder.durable.insert(name, file),
                None => _ = folder.durable.remove(&name),
            }
        }
        if !folder.exists {
            folder.durable.clear();
        }
        folder.now = folder.durable.clone();
        state.start();
    }

    /// The process has died and nothing else: all that was written is there.
    pub fn killed(&self) {
        self.state.lock().start();
    }
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedDisk")
    }
}

impl State {
    fn start(&mut self) {
        (self.is_off, self.is_locked, self.calls_left) = (false, false, None);
        self.life += 1;
    }

    /// One call; fails if the power is gone, for good for whoever lived before it came back.
    fn call(&mut self, life: u64, kind: Option<Call>) -> io::Result<()> {
        if life != self.life {
            return Err(io::Error::other("the power was gone"));
        }
        if let Some(left) = &mut self.calls_left {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => self.is_off = true,
            }
        }
        if self.is_off {
            return Err(io::Error::other("the power is gone"));
        }
        self.calls += 1;
        match self.failing {
            Some((failing, error)) if Some(failing) == kind => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Is this sync one that does its work?
    fn sync_works(&mut self) -> bool {
        self.syncs.push(self.calls);
        !self.all_idle && self.idle_sync != Some(self.syncs.len() as u64 - 1)
    }

    fn used(&self) -> u64 {
        self.folder.now.values().map(|file| self.files[*file].now.len() as u64).sum()
    }
}

impl FileState {
    /// Each unsynced sector is one of its versions; the length is the old or the new one.
    fn forget(&mut self, random: &mut impl FnMut(u64) -> u64) {
        if random(2) == 0 {
            self.durable.resize(self.durable.len().max(self.now.len()), 0);
        }
        let mut versions: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        for (sector, bytes) in self.pending.drain(..) {
            versions.entry(sector).or_default().push(bytes);
        }
        for (sector, mut versions) in versions {
            let pick = random(versions.len() as u64 + 1) as usize;
            if pick > 0 {
                put(&mut self.durable, sector * SECTOR_BYTES, &versions.swap_remove(pick - 1));
            }
        }
        self.now = self.durable.clone();
    }

    fn sectors(&mut self, at: usize, len: usize) {
        for sector in at / SECTOR_BYTES..(at + len).div_ceil(SECTOR_BYTES) {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.now.len());
            self.pending.push((sector, self.now[start..end].to_vec()));
        }
    }
}

/// Writes as much as the file is long: a length that did not survive takes its bytes along.
fn put(bytes: &mut [u8], at: usize, data: &[u8]) {
    let end = (at + data.len()).min(bytes.len());
    if at < end {
        bytes[at..end].copy_from_slice(&data[..end - at]);
    }
}

struct Lock(Arc<Mutex<State>>, u64);

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if state.life == self.1 {
            state.is_locked = false;
        }
    }
}

/// The disk as one life of a process sees it: after a cut it sees nothing any more.
struct SimulatedDoor {
    state: Arc<Mutex<State>>,
    life: u64,
}

impl std::fmt::Debug for SimulatedDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedDoor")
    }
}

impl Door for SimulatedDoor {
    fn make_folder(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(self.life, None)?;
        state.folder.exists = true;
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(self.life, Some(Call::Sync))?;
        if state.sync_works() {
            state.folder.is_durable = true;
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = self.state.lock();
        state.call(self.life, None)?;
        if std::mem::replace(&mut state.is_locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock(self.state.clone(), self.life))))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        state.call(self.life, None)?;
        Ok(state.folder.now.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DoorFile>> {
        let mut state = self.state.lock();
        state.call(self.life, Some(Call::Create))?;
        if state.used() + bytes > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let index = state.files.len();
        state.files.push(FileState { now: vec![0; bytes as usize], ..FileState::default() });
        let taken = state.folder.now.insert(name.into(), index);
        assert!(taken.is_none(), "{name} is made anew");
        state.folder.pending.push((name.into(), Some(index)));
        Ok(Arc::new(SimulatedFile { state: self.state.clone(), index, life: self.life }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DoorFile>> {
        let mut state = self.state.lock();
        state.call(self.life, None)?;
        let index = *state.folder.now.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimulatedFile { state: self.state.clone(), index, life: self.life }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(self.life, None)?;
        state.folder.now.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.folder.pending.push((name.into(), None));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(self.life, Some(Call::Sync))?;
        if state.sync_works() {
            state.folder.pending.clear();
            state.folder.durable = state.folder.now.clone();
        }
        Ok(())
    }

    fn free_share(&self, bytes: u64) -> io::Result<f64> {
        let mut state = self.state.lock();
        state.call(self.life, None)?;
        let free = state.capacity.saturating_sub(state.used()).saturating_sub(bytes);
        Ok(free as f64 / state.capacity as f64)
    }
}

struct SimulatedFile {
    state: Arc<Mutex<State>>,
    index: usize,
    life: u64,
}

impl DoorFile for SimulatedFile {
    fn write_at(&self, at: u64, pieces: &[Bytes]) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(self.life, Some(Call::Write))?;
        let file = &mut state.files[self.index];
        let data = pieces.concat();
        let at = at as usize;
        if file.now.len() < at + data.len() {
            file.now.resize(at + data.len(), 0);
        }
        file.now[at..at + data.len()].copy_from_slice(&data);
        file.sectors(at, data.len());
        Ok(())
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.call(self.life, Some(Call::Read))?;
        let now = &state.files[self.index].now;
        let at = (at as usize).min(now.len());
        let n = buf.len().min(now.len() - at);
        buf[..n].copy_from_slice(&now[at..at + n]);
        Ok(n)
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.call(self.life, None)?;
        Ok(state.files[self.index].now.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(self.life, Some(Call::Sync))?;
        if state.sync_works() {
            let file = &mut state.files[self.index];
            file.pending.clear();
            file.durable = file.now.clone();
        }
        Ok(())
    }
}
