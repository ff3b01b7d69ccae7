//! The one place where a call to a store is made again.
//!
//! Waits grow from 0.1 s, doubling to 30 s, each changed by up to half at random: ten retries
//! outlast a minute's outage. All retries of a mount together draw from one budget per second,
//! so that an outage does not multiply the load on a store that struggles; who finds the budget
//! empty waits for his turn, because an application would rather wait than see EIO. After the last
//! retry the error is marked persistent, and nobody above tries again. The log hears of an outage now
//! and then (see `outage`).

mod outage;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_env::Env;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;

use crate::{Error, ObjectInfo, ObjectStore, Payload, Result, Sink};

use outage::{Outage, Waiting};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const JITTER_PERCENT: u32 = 50;
/// Retries per second that a mount makes in the long run, whatever the number of callers.
const RETRIES_PER_SEC: u32 = 20;
/// Retries that it makes at once when there were none for a while.
const RETRIES_AT_ONCE: u32 = 100;

/// Makes failed calls again, within a budget.
#[derive(Debug)]
pub(crate) struct Retrying {
    env: Env,
    inner: Arc<dyn ObjectStore>,
    retries: u32,
    budget: RetryBudget,
    outage: Outage,
}

/// What one call went through so far.
#[derive(Default)]
struct Failures<'a> {
    retries: u32,
    waiting: Option<Waiting<'a>>,
}

impl Retrying {
    pub(crate) fn new(env: &Env, inner: Arc<dyn ObjectStore>, retries: u32) -> Retrying {
        Retrying { env: env.clone(), inner, retries, budget: RetryBudget::new(env), outage: Outage::new(env) }
    }

    async fn persist<T, F>(&self, action: &'static str, key: &str, mut call: impl FnMut() -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut failures = Failures::default();
        loop {
            match call().await {
                Err(error) if error.is_retryable() => self.before_retry(action, key, &mut failures, error).await?,
                other => {
                    drop(failures);
                    if other.as_ref().map_or_else(Error::is_not_found, |_| true) {
                        self.outage.worked();
                    }
                    return other;
                }
            }
        }
    }

    /// Waits for the next attempt; gives the error back, marked, if there were enough.
    async fn before_retry<'a>(
        &'a self,
        action: &'static str,
        key: &str,
        failures: &mut Failures<'a>,
        error: Error,
    ) -> Result<()> {
        let tries = failures.retries;
        if tries >= self.retries {
            failures.waiting = None;
            self.outage.failed(&error);
            return Err(mark_persistent(error));
        }
        failures.waiting.get_or_insert_with(|| self.outage.wait());
        self.outage.failed(&error);
        let wait = self.env.jitter(wait_before(tries), JITTER_PERCENT);
        tracing::debug!(action, key, tries, wait_ms = wait.as_millis() as u64, %error, "trying again");
        self.env.sleep(wait).await;
        self.budget.take().await;
        failures.retries += 1;
        Ok(())
    }
}

fn wait_before(tries: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << tries.min(16)).min(LONGEST_WAIT)
}

fn mark_persistent(mut error: Error) -> Error {
    if let Error::Unavailable { persistent, .. } = &mut error {
        *persistent = true;
    }
    error
}

/// So many retries per second, for all callers of one store together.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    env: Env,
    /// The time, counted from `start`, at which the next retry of an endless queue is due.
    due: Mutex<Duration>,
    start: std::time::Instant,
}

impl RetryBudget {
    fn new(env: &Env) -> RetryBudget {
        RetryBudget { env: env.clone(), due: Mutex::default(), start: env.instant() }
    }

    /// Waits for a turn.
    async fn take(&self) {
        let now = self.env.instant().duration_since(self.start);
        let wait = self.reserve(now);
        if !wait.is_zero() {
            self.env.sleep(wait).await;
        }
    }

    /// Takes the next turn; how long it is from `now`.
    fn reserve(&self, now: Duration) -> Duration {
        let step = Duration::from_secs(1) / RETRIES_PER_SEC;
        let saved = step * (RETRIES_AT_ONCE - 1);
        let mut due = self.due.lock();
        // A quiet time is worth at most `saved`.
        let turn = (*due).max(now.saturating_sub(saved));
        *due = turn + step;
        turn.saturating_sub(now)
    }
}

#[async_trait]
impl ObjectStore for Retrying {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.persist("get", key, || self.inner.get(key, range.clone())).await
    }

    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        self.persist("get", key, || self.inner.get_into(key, range.clone(), sink)).await
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        self.persist("put", key, || self.inner.put(key, body.clone())).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.persist("delete", key, || self.inner.delete(key)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.persist("head", key, || self.inner.head(key)).await
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        self.inner.leftovers(prefix)
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let listing = Listing {
            store: self,
            prefix: prefix.to_owned(),
            after: after.to_owned(),
            items: None,
            failures: Failures::default(),
            ended: false,
        };
        stream::unfold(listing, |mut listing| async move { listing.next().await.map(|item| (item, listing)) }).boxed()
    }

    async fn create(&self) -> Result<()> {
        self.persist("create", "", || self.inner.create()).await
    }
}

/// A listing that goes on behind the last key it gave when the store fails in its middle.
struct Listing<'a> {
    store: &'a Retrying,
    prefix: String,
    after: String,
    items: Option<BoxStream<'a, Result<ObjectInfo>>>,
    failures: Failures<'a>,
    ended: bool,
}

impl Listing<'_> {
    async fn next(&mut self) -> Option<Result<ObjectInfo>> {
        if self.ended {
            return None;
        }
        loop {
            let store = self.store;
            let items = self.items.get_or_insert_with(|| store.inner.list(&self.prefix, &self.after));
            match items.next().await {
                Some(Ok(info)) => {
                    self.failures = Failures::default();
                    store.outage.worked();
                    self.after.clone_from(&info.key);
                    return Some(Ok(info));
                }
                Some(Err(error)) if error.is_retryable() => {
                    self.items = None;
                    if let Err(error) = store.before_retry("list", &self.prefix, &mut self.failures, error).await {
                        return self.end(Some(Err(error)));
                    }
                }
                None => {
                    self.failures = Failures::default();
                    store.outage.worked();
                    return self.end(None);
                }
                last => return self.end(last),
            }
        }
    }

    fn end(&mut self, last: Option<Result<ObjectInfo>>) -> Option<Result<ObjectInfo>> {
        self.ended = true;
        self.failures = Failures::default();
        last
    }
}

#[cfg(test)]
mod tests;
