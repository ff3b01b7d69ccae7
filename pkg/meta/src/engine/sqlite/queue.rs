//! Works that wait for the writer thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::txn::{Durability, Work};
use crate::{Error, Result};

/// Works that may wait; callers beyond it wait at the door.
const WAITING_MAX: usize = 4096;

/// What the writer is asked to do.
pub(super) enum Task {
    /// Run and commit.
    Work(Work, Durability),
    /// Make the tables that are missing.
    CreateTables,
}

/// A task and who waits for it.
pub(super) struct Job {
    pub(super) task: Task,
    reply: oneshot::Sender<Result<()>>,
    _place: OwnedSemaphorePermit,
}

impl Job {
    /// Tells the caller. A caller that went away is no error: the commit stands.
    pub(super) fn reply(self, outcome: Result<()>) {
        let _gone = self.reply.send(outcome);
    }

    pub(super) fn durability(&self) -> Durability {
        match &self.task {
            Task::Work(_, durability) => *durability,
            Task::CreateTables => Durability::Power,
        }
    }
}

/// The queue between callers and the writer thread.
pub(super) struct Queue {
    places: Arc<Semaphore>,
    state: Mutex<State>,
    arrived: Condvar,
    closed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closing: bool,
}

fn closed() -> Error {
    Error::engine("use the metadata engine", "it is closed")
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            places: Arc::new(Semaphore::new(WAITING_MAX)),
            state: Mutex::default(),
            arrived: Condvar::new(),
            closed: Condvar::new(),
        }
    }

    /// Queues a task and waits for its outcome. Waits at the door while the queue is full.
    pub(super) async fn run(&self, task: Task) -> Result<()> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| closed())?;
        let (reply, outcome) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if state.closing {
                return Err(closed());
            }
            state.jobs.push_back(Job { task, reply, _place: place });
        }
        self.arrived.notify_one();
        outcome.await.unwrap_or_else(|_| Err(Error::engine("commit", "the writer thread died")))
    }

    /// Nobody waits, and tasks are taken.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.jobs.is_empty() && !state.closing
    }

    /// Takes up to `most` jobs, waiting for the first; `None` once closed and empty.
    pub(super) fn take(&self, most: usize) -> Option<VecDeque<Job>> {
        let mut state = self.state.lock();
        while state.jobs.is_empty() {
            if state.closing {
                return None;
            }
            self.arrived.wait(&mut state);
        }
        let rest = state.jobs.len().min(most);
        let later = state.jobs.split_off(rest);
        Some(std::mem::replace(&mut state.jobs, later))
    }

    /// Rests for `duration`, or until the queue is closed.
    pub(super) fn rest(&self, duration: Duration) {
        let mut state = self.state.lock();
        while !state.closing {
            if self.closed.wait_for(&mut state, duration).timed_out() {
                return;
            }
        }
    }

    /// The writer is gone, by its own end or by a bug: nobody must wait for it.
    pub(super) fn abandon(&self) {
        self.close();
        self.state.lock().jobs.clear();
    }

    /// Takes no more tasks; those that wait are still run.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.arrived.notify_all();
        self.closed.notify_all();
    }
}
