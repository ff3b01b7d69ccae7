//! Bytes per second, up and down.
//!
//! A put pays before it is sent; a get pays for what came, before the caller sees it. Counting is in
//! cells of 1 KiB with the rest carried over: `governor` keeps whole nanoseconds per cell, and at one
//! byte per cell that rounding is larger than the limit promises.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_env::Env;
use futures::stream::BoxStream;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use crate::{ObjectInfo, ObjectStore, Payload, Result, Sink};

const CELL_BYTES: u64 = 1024;
/// What may pass at once after a pause: so much time's worth.
const BURST: Duration = Duration::from_millis(50);

/// The two limits of a mount; may be changed while it works. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Bandwidth {
    rates: Arc<Mutex<Rates>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rates {
    upload: u64,
    download: u64,
}

impl Bandwidth {
    /// Sets both limits in bytes per second; 0: unlimited. Holds from the next transfer on.
    pub fn set(&self, upload_bytes_per_sec: u64, download_bytes_per_sec: u64) {
        *self.rates.lock() = Rates { upload: upload_bytes_per_sec, download: download_bytes_per_sec };
    }

    fn rates(&self) -> Rates {
        *self.rates.lock()
    }
}

/// Governor's clock, asked through the environment.
#[derive(Clone, Debug)]
struct EnvClock(Env);

impl Clock for EnvClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.0.instant()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, EnvClock, NoOpMiddleware<Instant>>;

/// One direction: callers pay in the order in which they came.
#[derive(Debug)]
struct Gate {
    env: Env,
    // Held while waiting: order itself waits here.
    state: tokio::sync::Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    rate: u64,
    burst: u32,
    limiter: Option<Limiter>,
    /// Bytes that did not fill a cell yet.
    carried: u64,
}

impl Gate {
    fn new(env: &Env) -> Gate {
        Gate { env: env.clone(), state: tokio::sync::Mutex::default() }
    }

    /// Waits until `bytes` may pass at `rate` bytes per second.
    async fn pay(&self, bytes: u64, rate: u64) {
        if rate == 0 || bytes == 0 {
            return;
        }
        let mut state = self.state.lock().await;
        if state.rate != rate {
            *state = GateState::new(&self.env, rate);
        }
        let GateState { burst, limiter: Some(limiter), carried, .. } = &mut *state else { return };
        let owed = *carried + bytes;
        *carried = owed % CELL_BYTES;
        let mut cells = owed / CELL_BYTES;
        while let Some(part) = NonZeroU32::new(cells.min(u64::from(*burst)) as u32) {
            self.pass(limiter, part).await;
            cells -= u64::from(part.get());
        }
    }

    async fn pass(&self, limiter: &Limiter, cells: NonZeroU32) {
        loop {
            match limiter.check_n(cells).expect("a part is never larger than the burst") {
                Ok(()) => return,
                Err(early) => self.env.sleep(early.wait_time_from(self.env.instant())).await,
            }
        }
    }
}

impl GateState {
    fn new(env: &Env, rate: u64) -> GateState {
        let cell_nanos = (u128::from(CELL_BYTES) * 1_000_000_000 / u128::from(rate)).max(1);
        let burst = (BURST.as_nanos() / cell_nanos).clamp(1, u128::from(u32::MAX)) as u32;
        let quota = Quota::with_period(Duration::from_nanos(cell_nanos as u64))
            .expect("a cell takes at least a nanosecond")
            .allow_burst(NonZeroU32::new(burst).expect("clamped to at least one"));
        let limiter = RateLimiter::direct_with_clock(quota, EnvClock(env.clone()));
        GateState { rate, burst, limiter: Some(limiter), carried: 0 }
    }
}

/// Keeps transfers within a mount's bandwidth.
#[derive(Debug)]
pub(crate) struct Limited {
    inner: Arc<dyn ObjectStore>,
    bandwidth: Bandwidth,
    up: Gate,
    down: Gate,
}

impl Limited {
    pub(crate) fn new(env: &Env, inner: Arc<dyn ObjectStore>, bandwidth: &Bandwidth) -> Limited {
        Limited { inner, bandwidth: bandwidth.clone(), up: Gate::new(env), down: Gate::new(env) }
    }
}

#[async_trait]
impl ObjectStore for Limited {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let bytes = self.inner.get(key, range).await?;
        self.down.pay(bytes.len() as u64, self.bandwidth.rates().download).await;
        Ok(bytes)
    }

    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        let rate = self.bandwidth.rates().download;
        if rate == 0 {
            return self.inner.get_into(key, range, sink).await;
        }
        // It pays before its caller sees it, so it comes in one piece.
        let bytes = self.get(key, range).await?;
        sink.begin();
        sink.push(&bytes);
        Ok(bytes.len() as u64)
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        self.up.pay(body.len() as u64, self.bandwidth.rates().upload).await;
        self.inner.put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.inner.head(key).await
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        self.inner.leftovers(prefix)
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        self.inner.list(prefix, after)
    }

    async fn create(&self) -> Result<()> {
        self.inner.create().await
    }
}

#[cfg(test)]
mod tests;
