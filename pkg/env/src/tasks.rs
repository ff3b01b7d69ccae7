//! Tasks that end with their owner.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Env;

/// A group of tasks that shutdown can tell to stop and wait for.
#[derive(Clone)]
pub struct TaskSet {
    env: Env,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl TaskSet {
    /// An empty group.
    pub fn new(env: Env) -> TaskSet {
        TaskSet { env, tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Starts a task of the group. It runs to its own end: see [`TaskSet::stopping`].
    pub fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.env.spawn(self.tracker.track_future(future));
    }

    /// Runs `work` every `period` (give or take 5 %) until the group stops.
    pub fn every<F, W>(&self, period: Duration, mut work: W)
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let set = self.clone();
        self.spawn(async move {
            while set.rest(set.env.jitter(period, 5)).await {
                work().await;
            }
        });
    }

    /// Waits for `duration`; `false` if the group was told to stop before or meanwhile.
    pub async fn rest(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = self.env.sleep(duration) => true,
        }
    }

    /// Resolves once the group is told to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Has the group been told to stop?
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells every task to stop and waits until all have ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Tasks still running.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// No task is running.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }
}
