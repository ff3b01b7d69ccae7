//! Time, chance, tasks, budgets and single-flight: everything that makes a run differ from the
//! next, behind one handle, so that a test can replay it from a seed.
//!
//! Product code never calls `SystemTime::now`, `thread::sleep`, `tokio::spawn` or a random
//! generator itself (`.clippy.toml` enforces it); it asks the [`Env`] it was given. A simulated
//! `Env` counts time only while the runtime's clock is paused and advanced, draws every random
//! number from one seed, and runs "blocking" work inline.

mod budget;
mod failpoint;
mod flight;
mod tasks;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rand::rngs::{SmallRng, SysRng};
use rand::{Rng, RngExt, SeedableRng, TryRng};

pub use budget::{Budget, Permit};
pub use failpoint::Failpoints;
pub use flight::SingleFlight;
pub use tasks::TaskSet;

/// Time, chance and tasks for one volume. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    inner: Arc<Inner>,
}

struct Inner {
    mode: Mode,
    rng: Mutex<SmallRng>,
    failpoints: Failpoints,
}

enum Mode {
    Real,
    /// Wall time = `epoch` + what the (paused) tokio clock has advanced since `start`.
    Simulated {
        epoch: SystemTime,
        start: tokio::time::Instant,
    },
}

impl Env {
    /// The real world.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks for real chance")]
    pub fn real() -> Env {
        Env::with(Mode::Real, SmallRng::from_rng(&mut rand::rng()))
    }

    /// A world fixed by `seed`. Must be called inside a tokio runtime whose clock is paused.
    pub fn simulated(seed: u64) -> Env {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Env::with(Mode::Simulated { epoch, start: tokio::time::Instant::now() }, SmallRng::seed_from_u64(seed))
    }

    fn with(mode: Mode, rng: SmallRng) -> Env {
        Env { inner: Arc::new(Inner { mode, rng: Mutex::new(rng), failpoints: Failpoints::default() }) }
    }

    /// Is this a simulated world?
    pub fn is_simulated(&self) -> bool {
        matches!(self.inner.mode, Mode::Simulated { .. })
    }

    /// Wall-clock time: what metadata records.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the real clock")]
    pub fn now(&self) -> SystemTime {
        match self.inner.mode {
            Mode::Real => SystemTime::now(),
            Mode::Simulated { epoch, start } => epoch + start.elapsed(),
        }
    }

    /// Monotonic time: for measuring how long something took.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the real clock")]
    pub fn instant(&self) -> Instant {
        match self.inner.mode {
            Mode::Real => Instant::now(),
            Mode::Simulated { .. } => tokio::time::Instant::now().into_std(),
        }
    }

    /// Waits until `duration` has passed. For rhythm (heartbeats, back-off), never instead of an event.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that sleeps")]
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Runs `future`, giving up after `limit`.
    pub async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        tokio::time::timeout(limit, future).await.map_err(|_| Elapsed)
    }

    /// A random 64-bit number.
    pub fn random(&self) -> u64 {
        self.inner.rng.lock().next_u64()
    }

    /// A random number in `0..n`; `n` must not be 0.
    pub fn random_below(&self, n: u64) -> u64 {
        self.inner.rng.lock().random_range(0..n)
    }

    /// Random bytes good enough for keys: the system's own, as few others are.
    ///
    /// # Panics
    /// If the system has none to give.
    pub fn fill_secret(&self, bytes: &mut [u8]) {
        match self.inner.mode {
            Mode::Real => SysRng.try_fill_bytes(bytes).expect("the system gives random bytes"),
            Mode::Simulated { .. } => self.inner.rng.lock().fill_bytes(bytes),
        }
    }

    /// `base` changed by up to `percent` in either direction.
    pub fn jitter(&self, base: Duration, percent: u32) -> Duration {
        let factor = 1.0 + (self.inner.rng.lock().random_range(-1.0..=1.0f64)) * f64::from(percent) / 100.0;
        base.mul_f64(factor.max(0.0))
    }

    /// Starts a task on the current runtime.
    ///
    /// For work that must be finished or stopped before the volume closes use a [`TaskSet`].
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(future)
    }

    /// Runs CPU-heavy or blocking work off the async threads; inline when simulated.
    ///
    /// # Panics
    /// Passes on a panic of `work`.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub async fn blocking<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self.inner.mode {
            Mode::Simulated { .. } => work(),
            Mode::Real => match tokio::task::spawn_blocking(work).await {
                Ok(value) => value,
                Err(e) => std::panic::resume_unwind(e.into_panic()),
            },
        }
    }

    /// Faults a test has asked for in this world.
    pub fn failpoints(&self) -> &Failpoints {
        &self.inner.failpoints
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_simulated() { "Env(simulated)" } else { "Env(real)" })
    }
}

/// The limit given to [`Env::timeout`] passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("timed out")
    }
}

impl std::error::Error for Elapsed {}
