//! Connections to the server: opened, lost, opened again.
//!
//! Calls wait while the server is away and go on when it is back; what they were doing is sent
//! again as it was (the commit script knows a commit it has applied). One connection carries
//! everything that is small, a second one the long replies, so that nobody waits behind a listing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cairn_env::Env;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value as Reply};
use tokio::sync::Notify;

use super::place::Place;
use crate::{Error, Result};

/// Longest pause between two tries to connect.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One connection, and how to make it anew.
pub(super) struct Link {
    env: Env,
    place: Arc<Place>,
    shared: Arc<Shared>,
    current: Mutex<Option<(u64, MultiplexedConnection)>>,
    connecting: tokio::sync::Mutex<()>,
    /// Connections made so far.
    pub(super) made: AtomicU64,
}

/// What the connections of one engine have in common.
#[derive(Default)]
pub(super) struct Shared {
    closed: AtomicBool,
    closing: Notify,
}

impl Shared {
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.notify_waiters();
    }
}

/// What to do about a failure.
enum Cure {
    /// The connection is broken, or the server is not ready: connect anew, send again.
    Reconnect,
    /// The server is busy: send again on the same connection.
    Wait,
    /// It will not go away.
    None,
}

impl Link {
    pub(super) fn new(env: Env, place: Arc<Place>, shared: Arc<Shared>) -> Link {
        Link {
            env,
            place,
            shared,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            made: AtomicU64::new(0),
        }
    }

    /// Takes a connection that is already open.
    pub(super) fn adopt(&self, connection: MultiplexedConnection) {
        let number = self.made.fetch_add(1, Ordering::SeqCst) + 1;
        *self.current.lock() = Some((number, connection));
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection)> {
        let mut pause = self.place.min_backoff;
        let _one_at_a_time = loop {
            self.check_open()?;
            if let Some(current) = self.current.lock().clone() {
                return Ok(current);
            }
            if let Ok(turn) = self.connecting.try_lock() {
                break turn;
            }
            drop(self.connecting.lock().await);
        };
        loop {
            self.check_open()?;
            if let Some(current) = self.current.lock().clone() {
                return Ok(current);
            }
            match self.place.connect().await {
                Ok(connection) => {
                    if self.made.load(Ordering::SeqCst) > 0 {
                        tracing::info!(server = self.place.describe(), "connected to the metadata engine again");
                    }
                    self.adopt(connection);
                }
                Err(error) => {
                    tracing::warn!(server = self.place.describe(), reason = %self.place.words(&error),
                                   "the metadata engine cannot be reached; operations wait for it");
                    self.rest(pause).await?;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn rest(&self, pause: Duration) -> Result<()> {
        let closing = self.shared.closing.notified();
        tokio::pin!(closing);
        closing.as_mut().enable();
        self.check_open()?;
        let pause = self.env.jitter(pause, 20);
        tokio::select! {
            () = self.env.sleep(pause) => {}
            () = closing => {}
        }
        self.check_open()
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(Error::engine("use the metadata engine", "it is closed"));
        }
        Ok(())
    }

    fn drop_connection(&self, generation: u64) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|(number, _)| *number == generation) {
            *current = None;
        }
    }

    /// Closes the connection; calls under way fail.
    pub(super) fn close(&self) {
        *self.current.lock() = None;
    }

    /// Sends a command until the server has answered it. A command may be applied more than once.
    pub(super) async fn send(&self, action: &'static str, command: &Cmd) -> Result<Reply> {
        let mut tries = 0_u32;
        loop {
            let (generation, mut connection) = self.connection().await?;
            let error = match connection.send_packed_command(command).await {
                Ok(Reply::ServerError(error)) => RedisError::from(error),
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            match cure(&error) {
                Cure::None => return Err(self.told(action, &error)),
                Cure::Wait => {}
                Cure::Reconnect => self.drop_connection(generation),
            }
            tries += 1;
            tracing::debug!(action, tries, reason = %self.place.words(&error), "the metadata engine is asked again");
            if tries > 1 || matches!(cure(&error), Cure::Wait) {
                self.rest((self.place.min_backoff * tries).min(PAUSE_MAX)).await?;
            }
        }
    }

    fn told(&self, action: &'static str, error: &RedisError) -> Error {
        if error.code() == Some("OOM") {
            tracing::warn!(
                server = self.place.describe(),
                "Redis is out of memory (maxmemory): the volume takes nothing more"
            );
            return Error::NoSpace;
        }
        if is_noscript(error) {
            return Error::engine(NOSCRIPT, "the script is not known");
        }
        Error::engine(action, self.place.words(error))
    }
}

/// The action of an error that says that the server lost its scripts.
pub(super) const NOSCRIPT: &str = "call a script";

fn is_noscript(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}

fn cure(error: &RedisError) -> Cure {
    match error.code() {
        Some("LOADING" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "MASTERDOWN" | "NOREPLICAS") => return Cure::Wait,
        // The master became a replica, or the slot moved: find the new one.
        Some("READONLY" | "MOVED" | "ASK" | "UNBLOCKED") => return Cure::Reconnect,
        Some(_) if error.to_string().contains("max number of clients") => return Cure::Reconnect,
        Some(_) => return Cure::None,
        None => {}
    }
    let broken = error.is_io_error() || error.is_connection_dropped() || error.is_timeout();
    if broken || error.is_unrecoverable_error() { Cure::Reconnect } else { Cure::None }
}
