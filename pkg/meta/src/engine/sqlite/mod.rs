//! A volume in one SQLite file, in the very tables a JuiceFS client keeps there.
//!
//! One connection writes (`writer`): its thread commits whatever queued up while its last commit
//! ran, and a change that finds it idle is made on the thread that asked; reads run
//! on the calling thread, on read-only connections, each call over one snapshot. A commit that
//! somebody asked to survive a power cut syncs the log, others leave that to the next one that does.
//!
//! JuiceFS processes may use the same file at the same time: no table, column or index is added,
//! no lock is held between batches, and the lock is left free now and then while others are about.

mod checkpoint;
mod connection;
mod convert;
mod pending;
mod queue;
mod records;
mod schema;
mod sql;
mod url;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use cairn_env::Env;
use parking_lot::Mutex;
use rusqlite::Connection;

use super::Options;
use crate::txn::{Durability, Engine, Work};
use crate::{Error, Result};
use checkpoint::Checkpointer;
use convert::fail;
use pending::Pending;
use queue::{Queue, Task};
use records::SqliteTxn;
use sql::Sql;
use url::{Journal, Place};
use writer::Writer;

/// Read connections kept for later; more are opened while more threads read at once.
const IDLE_READERS_MAX: usize = 16;

/// Can this URL be read? Touches no file.
///
/// # Errors
///
/// [`Error::Refused`], naming what cannot.
#[cfg(feature = "testing")]
pub fn check_url(url: &str) -> Result<()> {
    Place::parse(url).map(drop)
}

/// The embedded engine.
pub struct SqliteEngine {
    place: Place,
    options: Options,
    sql: Arc<Sql>,
    queue: Arc<Queue>,
    /// `None` once closed, and for engines that only read.
    writer: Arc<Mutex<Option<Writer>>>,
    readers: Mutex<Readers>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    env: Env,
}

#[derive(Default)]
struct Readers {
    idle: Vec<Connection>,
    closed: bool,
}

impl SqliteEngine {
    /// Opens `sqlite3://path?params`, or a bare path. Blocks on the disk, and up to the busy timeout
    /// on another process's lock.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with a sentence: no such file, not SQLite, no volume in it, locked.
    pub fn open(env: Env, url_or_path: &str, options: Options) -> Result<Arc<SqliteEngine>> {
        let place = Place::parse(url_or_path)?;
        let (conn, holding) = connection::writer(&place, options)?;
        let text_names = matches!(holding, schema::Holding::Volume { text_names: true });
        let sql = Arc::new(Sql::new(&place.prefix, text_names));
        let queue = Arc::new(Queue::new());
        let engine = SqliteEngine {
            options,
            sql: sql.clone(),
            queue: queue.clone(),
            writer: Arc::default(),
            readers: Mutex::default(),
            threads: Mutex::default(),
            env: env.clone(),
            place,
        };
        if options.read_only {
            engine.readers.lock().idle.push(conn);
        } else {
            let checkpointer = Arc::new(Checkpointer::new(&engine.place.path));
            if engine.place.journal == Journal::Wal {
                let (shared, own) = (checkpointer.clone(), connection::checkpointer(&engine.place)?);
                engine.start("cairn-checkpoint", move || shared.serve(&own))?;
            }
            let prefix = engine.place.prefix.clone();
            let timeout = engine.place.busy_timeout;
            let writer = Writer::new(env, conn, sql, prefix, queue.clone(), checkpointer.clone(), timeout);
            *engine.writer.lock() = Some(writer);
            let writer = engine.writer.clone();
            engine.start("cairn-sqlite", move || {
                // The writer closes its connection first: of two that close at once neither is the
                // last, which empties the log.
                let end = catch_unwind(AssertUnwindSafe(|| writer::serve(&writer, &queue)));
                queue.abandon();
                *writer.lock() = None;
                checkpointer.stop();
                if let Err(bug) = end {
                    resume_unwind(bug);
                }
            })?;
        }
        Ok(Arc::new(engine))
    }

    fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        self.threads.lock().push(thread.map_err(|e| Error::engine("start a thread", e))?);
        Ok(())
    }

    fn reader(&self) -> Result<Connection> {
        let mut readers = self.readers.lock();
        if readers.closed {
            return Err(Error::engine("use the metadata engine", "it is closed"));
        }
        match readers.idle.pop() {
            Some(conn) => Ok(conn),
            None => {
                drop(readers);
                connection::reader(&self.place)
            }
        }
    }

    fn put_back(&self, conn: Connection) {
        let mut readers = self.readers.lock();
        // What cannot end its transaction would show the same old view forever.
        if !readers.closed && readers.idle.len() < IDLE_READERS_MAX && conn.is_autocommit() {
            readers.idle.push(conn);
        }
    }

    /// Runs an operation on this thread if the writer is idle and nothing need be waited for: two
    /// changes of thread cost more than the transaction. What must survive a power cut waits for the
    /// disk, so it goes to the writer's thread, where others share the wait.
    fn write_here(&self, work: Work, durability: Durability) -> std::result::Result<Result<()>, Work> {
        if durability == Durability::Power || self.place.journal != Journal::Wal || !self.queue.is_idle() {
            return Err(work);
        }
        match self.writer.try_lock().as_deref_mut() {
            Some(Some(writer)) => writer.run_now(work),
            _ => Err(work),
        }
    }

    /// Runs a reading operation on this thread.
    fn read_here(&self, mut work: Work) -> Result<()> {
        let conn = self.reader()?;
        let execute = |action, statement| {
            let run = conn.prepare_cached(statement).and_then(|mut s| s.raw_execute());
            run.map_err(|e| fail(action, e))
        };
        execute("begin to read", "BEGIN")?;
        let (mut pending, mut own_sessions) = (Pending::default(), Vec::new());
        let mut tx = SqliteTxn { conn: &conn, sql: &self.sql, pending: &mut pending, own_sessions: &mut own_sessions };
        let outcome = work(&mut tx);
        execute("end to read", "COMMIT")?;
        self.put_back(conn);
        outcome
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    fn describe(&self) -> String {
        format!("sqlite3://{}", self.place.path.display())
    }

    async fn write(&self, work: Work, durability: Durability) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        match self.write_here(work, durability) {
            Ok(outcome) => outcome,
            Err(work) => self.queue.run(Task::Work(work, durability)).await,
        }
    }

    async fn read(&self, work: Work) -> Result<()> {
        self.read_here(work)
    }

    async fn create_tables(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        self.queue.run(Task::CreateTables).await
    }

    async fn close(&self) {
        let readers = {
            let mut readers = self.readers.lock();
            readers.closed = true;
            std::mem::take(&mut readers.idle)
        };
        let threads = std::mem::take(&mut *self.threads.lock());
        let queue = self.queue.clone();
        // The last connection to go checkpoints and removes the log, which may take a while, and
        // which a connection that only reads cannot do.
        let ended = self.env.blocking(move || {
            drop(readers);
            queue.close();
            threads.into_iter().rev().map(JoinHandle::join).all(|end| end.is_ok())
        });
        if !ended.await {
            tracing::error!("a thread of the metadata engine had died");
        }
    }
}

impl Drop for SqliteEngine {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl std::fmt::Debug for SqliteEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SqliteEngine({})", self.place.path.display())
    }
}
