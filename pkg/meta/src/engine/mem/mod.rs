//! Records in memory: for tests, for the model, and as the plainest reading of the seam.
//!
//! All tables stand behind one mutex. Each change notes how to take itself back, so a failed
//! operation is undone without a copy of the tables; the same notes, kept since the last
//! [`Durability::Power`] commit, let a test pull the plug ([`MemEngine::power_cut`]).
//!
//! Hard-link parents are counted in records of their own here, as key-value engines do, so that
//! tests see whether operations keep those counts.

mod records;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cairn_env::Env;
use cairn_types::{ChunkIndex, Ino};
use parking_lot::Mutex;

use crate::txn::{Durability, Engine, Work};
use crate::{Error, Result};
use records::{MemTxn, Tables, Undo};

/// What goes wrong on purpose. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Each call waits up to this long before it runs, and again before its answer is told.
    pub delay: Duration,
    /// Of a hundred writes so many fail as busy, having changed nothing.
    pub busy_percent: u32,
    /// Of a hundred calls so many fail for good, having changed nothing.
    pub fail_percent: u32,
}

/// An engine whose records live and die with it.
pub struct MemEngine {
    env: Env,
    name: String,
    /// Keep notes for [`MemEngine::power_cut`].
    fragile: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tables: Tables,
    since_power: Vec<Undo>,
    faults: Faults,
    closed: bool,
}

impl MemEngine {
    /// An empty engine that [`MemEngine::power_cut`] works on.
    pub fn new(env: Env) -> Arc<MemEngine> {
        Arc::new(MemEngine { env, name: "test".into(), fragile: true, state: Mutex::default() })
    }

    /// An empty engine for `memkv://name`. It keeps no notes for a power cut, however long it lives.
    pub fn named(env: Env, name: &str) -> Arc<MemEngine> {
        Arc::new(MemEngine { env, name: name.into(), fragile: false, state: Mutex::default() })
    }

    /// Loses every commit that was only promised to survive the process, back to the last one that
    /// was promised to survive a power cut. Returns how many changes of records were lost.
    pub fn power_cut(&self) -> usize {
        let mut state = self.state.lock();
        let notes = std::mem::take(&mut state.since_power);
        let lost = notes.len();
        undo(&mut state.tables, notes);
        lost
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Takes calls again after [`Engine::close`], with the records it had: a client that restarts.
    pub fn reopen(&self) {
        self.state.lock().closed = false;
    }

    /// Stores a slice list as it is, torn or not, so that a test can damage one.
    pub fn put_raw_chunk(&self, ino: Ino, index: ChunkIndex, bytes: Vec<u8>) {
        self.state.lock().tables.put_raw_chunk(ino, index, bytes);
    }

    /// Works on the tables without a wait: checks, runs, commits or undoes.
    fn run(&self, mut work: Work, durability: Option<Durability>) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::engine("use the metadata engine", "it is closed"));
        }
        let mut tx = MemTxn::new(&mut state.tables);
        let outcome = work(&mut tx);
        let notes = tx.into_notes();
        match (&outcome, durability) {
            (Ok(()), Some(Durability::Power)) => state.since_power.clear(),
            (Ok(()), Some(Durability::Process)) if self.fragile => state.since_power.extend(notes),
            (Ok(()), Some(Durability::Process)) => {}
            (Ok(()), None) => {
                assert!(notes.is_empty(), "an operation that only reads changed {} records", notes.len());
            }
            (Err(_), _) => undo(&mut state.tables, notes),
        }
        outcome
    }

    async fn delay(&self, longest: Duration) {
        if !longest.is_zero() {
            let nanos = self.env.random_below(longest.as_nanos().clamp(1, u128::from(u64::MAX)) as u64);
            self.env.sleep(Duration::from_nanos(nanos)).await;
        }
    }

    fn dice(&self, percent: u32) -> bool {
        percent > 0 && self.env.random_below(100) < u64::from(percent)
    }
}

fn undo(tables: &mut Tables, notes: Vec<Undo>) {
    notes.into_iter().rev().for_each(|note| note(tables));
}

#[async_trait]
impl Engine for MemEngine {
    fn describe(&self) -> String {
        format!("memkv://{}", self.name)
    }

    async fn write(&self, work: Work, durability: Durability) -> Result<()> {
        let faults = self.state.lock().faults;
        self.delay(faults.delay).await;
        if self.dice(faults.busy_percent) {
            return Err(Error::busy("commit", "a fault that was asked for"));
        }
        if self.dice(faults.fail_percent) || self.env.failpoints().hit("mem.write") {
            return Err(Error::engine("commit", "a fault that was asked for"));
        }
        let outcome = self.run(work, Some(durability));
        self.delay(faults.delay).await;
        outcome
    }

    async fn read(&self, work: Work) -> Result<()> {
        let faults = self.state.lock().faults;
        self.delay(faults.delay).await;
        if self.dice(faults.fail_percent) || self.env.failpoints().hit("mem.read") {
            return Err(Error::engine("read", "a fault that was asked for"));
        }
        self.run(work, None)
    }

    async fn create_tables(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) {
        self.state.lock().closed = true;
    }
}

impl std::fmt::Debug for MemEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemEngine({})", self.name)
    }
}
