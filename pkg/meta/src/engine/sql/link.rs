//! Connections to a server: opened when needed, kept while whole, opened again when it comes back.
//!
//! A message is sent on a connection nobody else uses. If the server is away its sender waits, for
//! as long as it takes; a connection that broke while its message was under way is the sender's to
//! judge. Not here: what a message says.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cairn_env::Env;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use sqlx::Either;
use tokio::sync::Semaphore;

use super::rows::{Answer, Row};
use crate::{Error, Result};

/// Connections at once, unless the URL says otherwise.
pub(in crate::engine) const CONNECTIONS: usize = 32;
/// A server that has not answered a message by then is taken for gone; what became of the message is
/// found out on another connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// Between two tries to connect.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a server did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection broke: what became of the message is unknown.
    Lost(String),
    /// It takes no more connections, or is starting or stopping.
    Away(String),
    /// A check of ours stopped it.
    Stopped,
    /// A unique index said no.
    Duplicate(String),
    /// It took this transaction back in favour of another.
    Conflict(String),
    /// It lets us change nothing.
    ReadOnly(String),
    /// A value is longer than its column.
    TooBig(String),
    /// A number is larger than its column.
    OutOfRange(String),
    /// A text has characters that its column lacks.
    NotText(String),
    /// There is no such table.
    NoTable(String),
    /// Wrong password, no such database, no permission, TLS that does not come about.
    Refused(String),
    /// Anything else, in its own words.
    Other(String),
}

/// What a server says to a message: its answers up to the first trouble, and that. `cells` reads a row of
/// its, `trouble` its complaints.
pub(in crate::engine) async fn heard<Done, R>(
    mut said: impl Stream<Item = sqlx::Result<Either<Done, R>>> + Unpin,
    cells: impl Fn(&R) -> sqlx::Result<Row>,
    trouble: impl Fn(&sqlx::Error) -> Trouble,
) -> (Vec<Answer>, Option<Trouble>) {
    let (mut answers, mut rows) = (Vec::new(), Vec::new());
    while let Some(item) = said.next().await {
        match item {
            Ok(Either::Left(_)) => answers.push(Answer { rows: std::mem::take(&mut rows) }),
            Ok(Either::Right(row)) => match cells(&row) {
                Ok(row) => rows.push(row),
                Err(e) => return (answers, Some(trouble(&e))),
            },
            Err(e) => return (answers, Some(trouble(&e))),
        }
    }
    (answers, None)
}

impl Trouble {
    /// In the server's or our own words.
    pub fn words(&self) -> &str {
        match self {
            Trouble::Stopped => "a check stopped it",
            Trouble::Lost(w)
            | Trouble::Away(w)
            | Trouble::Duplicate(w)
            | Trouble::Conflict(w)
            | Trouble::ReadOnly(w)
            | Trouble::TooBig(w)
            | Trouble::OutOfRange(w)
            | Trouble::NotText(w)
            | Trouble::NoTable(w)
            | Trouble::Refused(w)
            | Trouble::Other(w) => w,
        }
    }
}

/// One kind of server: how to connect to it and to read its answers.
#[async_trait]
pub trait Wire: Send + Sync + 'static {
    /// A connection.
    type Connection: Send + 'static;

    /// Scheme, user, place and database, for people; never a secret.
    fn describe(&self) -> String;

    /// Opens a connection and sets it up.
    async fn connect(&self) -> std::result::Result<Self::Connection, Trouble>;

    /// Sends one message and reads what its statements answer, up to the first that fails.
    async fn send(connection: &mut Self::Connection, message: String) -> (Vec<Answer>, Option<Trouble>);

    /// Takes a transaction back that a failing statement left open. `false`: the connection is of no
    /// more use.
    async fn recover(connection: &mut Self::Connection) -> bool;

    /// Says goodbye.
    async fn close(connection: Self::Connection);
}

/// See the module.
pub(in crate::engine) struct Link<W: Wire> {
    pub(super) wire: W,
    pub(super) env: Env,
    idle: Mutex<Vec<W::Connection>>,
    permits: Semaphore,
    closed: AtomicBool,
    away: AtomicBool,
    generation: AtomicU64,
}

impl<W: Wire> Link<W> {
    pub(super) fn new(env: Env, wire: W, connections: usize) -> Link<W> {
        Link {
            wire,
            env,
            idle: Mutex::default(),
            permits: Semaphore::new(connections.max(1)),
            closed: AtomicBool::new(false),
            away: AtomicBool::new(false),
            generation: AtomicU64::new(0),
        }
    }

    /// Changes whenever a connection had broken.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Sends a message, waiting for a server that is away. Comes back with [`Trouble::Lost`] if the
    /// connection broke while the message was under way.
    pub(super) async fn send(&self, message: String) -> Result<(Vec<Answer>, Option<Trouble>)> {
        let _permit = self.permits.acquire().await.map_err(|_| closed())?;
        let mut connection = self.connection().await?;
        let sent = self.env.timeout(ANSWER_LIMIT, W::send(&mut connection, message)).await;
        let (answers, trouble) = sent.unwrap_or_else(|_| {
            (vec![], Some(Trouble::Lost(format!("no answer within {} s", ANSWER_LIMIT.as_secs()))))
        });
        match &trouble {
            None => self.put_back(connection),
            Some(Trouble::Lost(reason)) => self.broke(reason),
            Some(_) => {
                if W::recover(&mut connection).await {
                    self.put_back(connection);
                }
            }
        }
        Ok((answers, trouble))
    }

    /// Opens the first connection: a server that is away now is refused.
    pub(super) async fn open(&self) -> std::result::Result<(), Trouble> {
        let connection = self.connect_once().await?;
        self.put_back(connection);
        Ok(())
    }

    async fn connect_once(&self) -> std::result::Result<W::Connection, Trouble> {
        match self.env.timeout(CONNECT_LIMIT, self.wire.connect()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Trouble::Lost(format!("no connection within {} s", CONNECT_LIMIT.as_secs()))),
        }
    }

    async fn connection(&self) -> Result<W::Connection> {
        let mut pause = PAUSE_MIN;
        loop {
            if self.closed.load(Ordering::Relaxed) {
                return Err(closed());
            }
            if let Some(connection) = self.idle.lock().pop() {
                return Ok(connection);
            }
            let reason = match self.connect_once().await {
                Ok(connection) => {
                    if self.away.swap(false, Ordering::Relaxed) {
                        tracing::info!(engine = self.wire.describe(), "the metadata server is back");
                    }
                    return Ok(connection);
                }
                Err(Trouble::Lost(reason) | Trouble::Away(reason)) => reason,
                Err(trouble) => return Err(Error::engine("connect to the metadata server", trouble.words())),
            };
            if !self.away.swap(true, Ordering::Relaxed) {
                let engine = self.wire.describe();
                tracing::warn!(engine, reason, "the metadata server is away; operations wait for it");
            }
            self.env.sleep(self.env.jitter(pause, 20)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn put_back(&self, connection: W::Connection) {
        if !self.closed.load(Ordering::Relaxed) {
            self.idle.lock().push(connection);
        }
    }

    /// A connection broke; those that lie idle have most likely broken with it.
    fn broke(&self, reason: &str) {
        tracing::debug!(reason, "a connection to the metadata server broke");
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.idle.lock().clear();
    }

    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        for connection in idle {
            W::close(connection).await;
        }
    }
}

fn closed() -> Error {
    Error::engine("use the metadata engine", "it is closed")
}
