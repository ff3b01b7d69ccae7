//! The decorators in their order, innermost first: time limit, metrics, retry, concurrency,
//! bandwidth.
//!
//! Metrics stand below retry, so that they count what the store was asked and how long it took,
//! not our waiting. A permit is held while a call waits to be retried: in an outage at most
//! `max_uploads` and `max_downloads` calls knock.

use std::sync::Arc;
use std::time::Duration;

use cairn_env::Env;

use crate::ObjectStore;
use crate::bandwidth::{Bandwidth, Limited};
use crate::concurrency::Concurrent;
use crate::metrics::{Metered, Metrics};
use crate::retry::Retrying;
use crate::timeout::TimeLimited;

/// What one mount may ask of its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For one attempt of get, head or a step of list.
    pub get_timeout: Duration,
    /// For one attempt of put, delete or create.
    pub put_timeout: Duration,
    /// Attempts after the first one.
    pub io_retries: u32,
    /// Puts at the same time; at least 1.
    pub max_uploads: u32,
    /// Gets at the same time; at least 1.
    pub max_downloads: u32,
    /// Bytes put per second; 0: unlimited.
    pub upload_bytes_per_sec: u64,
    /// Bytes got per second; 0: unlimited.
    pub download_bytes_per_sec: u64,
}

/// What can be read off a stack, and turned, while it works. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Dials {
    /// Counters, to be registered by whoever exports them.
    pub metrics: Metrics,
    /// Limits that the volume's setting may change at run time.
    pub bandwidth: Bandwidth,
}

/// `base` with time limits, retries, concurrency and bandwidth as `limits` say.
pub fn stack(env: &Env, base: Arc<dyn ObjectStore>, limits: &Limits) -> Arc<dyn ObjectStore> {
    stack_with(env, base, limits, &Dials::default())
}

/// Like [`stack`], with dials that the caller keeps.
pub fn stack_with(env: &Env, base: Arc<dyn ObjectStore>, limits: &Limits, dials: &Dials) -> Arc<dyn ObjectStore> {
    dials.bandwidth.set(limits.upload_bytes_per_sec, limits.download_bytes_per_sec);
    let store = Arc::new(TimeLimited::new(env, base, limits.get_timeout, limits.put_timeout));
    let store = Arc::new(Metered::new(env, store, &dials.metrics));
    let store = Arc::new(Retrying::new(env, store, limits.io_retries));
    let store = Arc::new(Concurrent::new(store, limits.max_uploads, limits.max_downloads, &dials.metrics));
    Arc::new(Limited::new(env, store, &dials.bandwidth))
}
