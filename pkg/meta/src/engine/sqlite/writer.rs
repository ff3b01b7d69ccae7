//! The one connection that changes the database. Its thread commits whatever queued up while the
//! last commit ran; an operation that finds it idle runs at once, on the thread that asked.
//!
//! Each operation of a batch runs in a savepoint of its own, so it fails by itself. Some errors of
//! SQLite (disk full, I/O) take the whole transaction with them; then every operation of the batch
//! is run again in a transaction of its own. Nobody is told anything before the commit.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_env::Env;
use cairn_types::{SessionId, Timestamp};
use parking_lot::Mutex;
use rusqlite::Connection;

use super::checkpoint::Checkpointer;
use super::convert::fail;
use super::pending::Pending;
use super::queue::{Job, Queue, Task};
use super::records::SqliteTxn;
use super::schema;
use super::sql::Sql;
use crate::txn::{Durability, Work};
use crate::{Error, Result};

/// Operations in one commit.
const BATCH_MAX: usize = 512;
/// Longest a batch holds the lock before its commit: a JuiceFS process gives up after 5 s.
const BATCH_TIME: Duration = Duration::from_millis(5);
/// While other clients are about, the lock is left free this long once in [`SHARE_EVERY`]: a
/// JuiceFS process polls it with pauses that grow to this.
const SHARE: Duration = Duration::from_millis(100);
const SHARE_EVERY: Duration = Duration::from_millis(900);

/// The writer's own things.
pub(super) struct Writer {
    env: Env,
    conn: Connection,
    sql: Arc<Sql>,
    prefix: String,
    queue: Arc<Queue>,
    checkpointer: Arc<Checkpointer>,
    pending: Pending,
    own_sessions: Vec<SessionId>,
    /// How long a transaction waits for another process's lock.
    busy_timeout: Duration,
    /// What `PRAGMA synchronous` says.
    safest: Durability,
    /// Rows changed on this connection before the open transaction.
    changes_before: u64,
    last_commit: Instant,
    /// When the lock was last left free for others.
    shared: Instant,
}

/// The writer's thread: serves until the queue is closed and empty, then closes the connection.
pub(super) fn serve(writer: &Mutex<Option<Writer>>, queue: &Queue) {
    while let Some(mut jobs) = queue.take(BATCH_MAX) {
        if let Some(writer) = &mut *writer.lock() {
            writer.work_off(&mut jobs);
        }
    }
    *writer.lock() = None;
}

impl Writer {
    pub(super) fn new(
        env: Env,
        conn: Connection,
        sql: Arc<Sql>,
        prefix: String,
        queue: Arc<Queue>,
        checkpointer: Arc<Checkpointer>,
        busy_timeout: Duration,
    ) -> Writer {
        let now = env.instant();
        Writer {
            env,
            conn,
            sql,
            prefix,
            queue,
            checkpointer,
            pending: Pending::default(),
            own_sessions: Vec::new(),
            busy_timeout,
            safest: Durability::Process,
            changes_before: 0,
            last_commit: now,
            shared: now,
        }
    }

    /// Runs and commits jobs until there are none left.
    fn work_off(&mut self, jobs: &mut VecDeque<Job>) {
        while !jobs.is_empty() {
            self.share_the_lock();
            self.batch(jobs);
            self.checkpointer.committed(&self.conn);
            self.last_commit = self.env.instant();
        }
    }

    /// Runs and commits one operation on the caller's thread, unless that might keep it waiting: for
    /// another process's lock, for our turn to leave the lock free, for a checkpoint. Then the
    /// operation comes back untouched, for the queue.
    pub(super) fn run_now(&mut self, work: Work) -> std::result::Result<Result<()>, Work> {
        let now = self.env.instant();
        if now.duration_since(self.shared) >= SHARE_EVERY && now.duration_since(self.last_commit) < SHARE {
            return Err(work);
        }
        if !self.checkpointer.committed_unseen() || self.begin_now().is_err() {
            return Err(work);
        }
        let outcome = self.run(&mut Task::Work(work, Durability::Process)).and_then(|()| self.commit());
        if outcome.is_err() {
            self.roll_back();
        }
        self.last_commit = self.env.instant();
        Ok(outcome)
    }

    /// Begins a transaction if nobody holds the lock.
    fn begin_now(&mut self) -> Result<()> {
        let patience =
            |conn: &Connection, limit| conn.busy_timeout(limit).map_err(|e| fail("choose how long to wait", e));
        patience(&self.conn, Duration::ZERO)?;
        let begun = self.begin(Durability::Process);
        patience(&self.conn, self.busy_timeout)?;
        begun
    }

    /// Runs jobs off the front until they are done or the batch has held the lock for long enough.
    fn batch(&mut self, jobs: &mut VecDeque<Job>) {
        let durability = jobs.iter().map(Job::durability).max().unwrap_or(Durability::Process);
        if let Err(e) = self.begin(durability) {
            jobs.drain(..).for_each(|job| job.reply(Err(e.clone())));
            return;
        }
        let alone = jobs.len() == 1;
        let started = self.env.instant();
        let mut done: Vec<(Job, Result<()>)> = Vec::with_capacity(jobs.len());
        while let Some(mut job) = jobs.pop_front() {
            let outcome = if alone { self.run(&mut job.task) } else { self.run_in_savepoint(&mut job.task) };
            done.push((job, outcome));
            if self.conn.is_autocommit() {
                return self.one_by_one(done, durability);
            }
            if self.env.instant().duration_since(started) > BATCH_TIME {
                break;
            }
        }
        if alone && done[0].1.is_err() {
            self.roll_back();
        } else if let Err(e) = self.commit() {
            tracing::warn!(error = %e, works = done.len(), "a batch did not commit; its operations run one by one");
            return self.one_by_one(done, durability);
        }
        done.into_iter().for_each(|(job, outcome)| job.reply(outcome));
    }

    /// The transaction is gone, and with it what every operation did: each gets its own.
    fn one_by_one(&mut self, done: Vec<(Job, Result<()>)>, durability: Durability) {
        self.roll_back();
        for (mut job, _) in done {
            let outcome = self.run_alone(&mut job.task, durability);
            if outcome.is_err() {
                self.roll_back();
            }
            job.reply(outcome);
        }
    }

    fn run_alone(&mut self, task: &mut Task, durability: Durability) -> Result<()> {
        self.begin(durability)?;
        self.run(task)?;
        self.commit()
    }

    /// Runs one of several operations: what it changed goes if it fails. If not even that can be
    /// done, the whole transaction goes.
    fn run_in_savepoint(&mut self, task: &mut Task) -> Result<()> {
        self.execute("begin an operation", "SAVEPOINT work")?;
        let outcome = self.run(task);
        if self.conn.is_autocommit() {
            return outcome;
        }
        let taken_back = match outcome {
            Ok(()) => Ok(()),
            Err(_) => self.execute("take back an operation", "ROLLBACK TO work"),
        };
        if let Err(e) = taken_back.and_then(|()| self.execute("end an operation", "RELEASE work")) {
            self.roll_back();
            return Err(e);
        }
        outcome
    }

    /// Runs one operation in the open transaction. Its sums are taken back if it fails, its rows are not.
    fn run(&mut self, task: &mut Task) -> Result<()> {
        self.pending.mark();
        let outcome = match task {
            Task::CreateTables => {
                let script = schema::creation(&self.prefix);
                self.conn.execute_batch(&script).map_err(|e| fail("create the tables", e))
            }
            Task::Work(work, _) => {
                let mut tx = SqliteTxn {
                    conn: &self.conn,
                    sql: &self.sql,
                    pending: &mut self.pending,
                    own_sessions: &mut self.own_sessions,
                };
                // A panic is one operation's bug; the others of the batch need their writer.
                catch_unwind(AssertUnwindSafe(|| work(&mut tx))).unwrap_or_else(|_| {
                    tracing::error!("an operation panicked and was taken back");
                    Err(Error::engine("run an operation", "it panicked"))
                })
            }
        };
        if outcome.is_err() {
            self.pending.take_back();
        }
        outcome
    }

    fn begin(&mut self, durability: Durability) -> Result<()> {
        if durability != self.safest {
            // Outside a transaction only.
            let level = if durability == Durability::Power { "FULL" } else { "NORMAL" };
            let set = self.conn.execute_batch(&format!("PRAGMA synchronous = {level}"));
            set.map_err(|e| fail("choose how safely to commit", e))?;
            self.safest = durability;
        }
        self.pending.clear();
        self.changes_before = self.conn.total_changes();
        self.execute("begin a transaction", "BEGIN IMMEDIATE")
    }

    fn commit(&mut self) -> Result<()> {
        let mut tx = SqliteTxn {
            conn: &self.conn,
            sql: &self.sql,
            pending: &mut self.pending,
            own_sessions: &mut self.own_sessions,
        };
        tx.flush()?;
        if self.env.failpoints().hit("sqlite.commit") {
            return Err(Error::engine("commit", "a fault that was asked for"));
        }
        self.execute("commit", "COMMIT")?;
        if self.safest == Durability::Power && self.conn.total_changes() == self.changes_before {
            // SQLite syncs only what it writes, and this transaction wrote nothing. Whoever asked
            // for it wants what earlier ones wrote to be safe.
            self.checkpointer.sync_log()?;
        }
        Ok(())
    }

    fn roll_back(&mut self) {
        self.pending.clear();
        if !self.conn.is_autocommit()
            && let Err(e) = self.execute("roll back", "ROLLBACK")
        {
            tracing::error!(error = %e, "the transaction could not be rolled back");
        }
    }

    fn execute(&self, action: &'static str, statement: &str) -> Result<()> {
        let run = self.conn.prepare_cached(statement).and_then(|mut s| s.raw_execute());
        run.map(|_| ()).map_err(|e| fail(action, e))
    }

    /// Leaves the lock free for a while, if other clients are about and it was long held.
    fn share_the_lock(&mut self) {
        let now = self.env.instant();
        if now.duration_since(self.last_commit) >= SHARE {
            self.shared = now;
        }
        if now.duration_since(self.shared) < SHARE_EVERY {
            return;
        }
        if self.others_are_about() {
            self.queue.rest(SHARE);
        }
        self.shared = self.env.instant();
    }

    fn others_are_about(&self) -> bool {
        let now = Timestamp::from(self.env.now()).secs;
        let read = || -> rusqlite::Result<bool> {
            let mut live = self.conn.prepare_cached(&self.sql.live_sessions)?;
            let mut rows = live.query([now])?;
            while let Some(row) = rows.next()? {
                if !self.own_sessions.contains(&SessionId(row.get::<_, i64>(0)? as u64)) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        // Before `format` there is no such table, and nobody to share with.
        read().unwrap_or(false)
    }
}
