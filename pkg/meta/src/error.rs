//! What metadata can say no with. Variants are conditions; `cairn-fuse` maps each to an errno.

use std::sync::Arc;

use cairn_types::{ChunkIndex, Ino};
use thiserror::Error;

/// Result of a metadata call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a metadata call did not happen. Nothing was changed.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// No such inode or name.
    #[error("no such file or directory")]
    NoEntry,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Something other than a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The mode bits or the sticky rule say no.
    #[error("permission denied")]
    Access,
    /// Flags, ownership or a reserved name say no.
    #[error("operation not permitted")]
    NotPermitted,
    /// An argument makes no sense.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// A name above 255 bytes or a symlink target above 4095.
    #[error("name too long")]
    NameTooLong,
    /// An offset or length above 2^57 - 1.
    #[error("file too large")]
    TooLarge,
    /// A value above its limit.
    #[error("value too big")]
    TooBig,
    /// A name above its limit, where the caller can only be told "out of range".
    #[error("out of range")]
    Range,
    /// As many links as the format can count.
    #[error("too many links")]
    TooManyLinks,
    /// The volume's capacity or inode limit is reached.
    #[error("volume is full")]
    NoSpace,
    /// A directory, user or group quota is reached.
    #[error("quota exceeded")]
    Quota,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The operation does not exist here.
    #[error("not supported")]
    NotSupported,
    /// A lock is held by somebody else.
    #[error("lock is held")]
    WouldBlock,
    /// The caller got a signal while waiting.
    #[error("interrupted")]
    Interrupted,
    /// Reading or seeking a FIFO.
    #[error("illegal seek")]
    Pipe,
    /// No data or hole beyond this offset.
    #[error("no such offset")]
    NoOffset,
    /// This mount may not write.
    #[error("read-only file system")]
    ReadOnly,
    /// What is stored breaks the format.
    #[error("corrupt metadata: inode {ino}, chunk {index}: {reason}", index = .index.0)]
    CorruptChunk {
        /// The file.
        ino: Ino,
        /// The chunk.
        index: ChunkIndex,
        /// What is wrong.
        reason: String,
    },
    /// What is stored breaks the format.
    #[error("corrupt metadata: {0}")]
    Corrupt(String),
    /// Somebody changed what a compaction replaced.
    #[error("changed meanwhile")]
    Changed,
    /// The database holds no volume.
    #[error("no volume is formatted here")]
    NotFormatted,
    /// The volume keeps this client out: newer format, version gates, formatted anew.
    #[error("{0}")]
    Refused(String),
    /// A speculative engine lacks records this operation reads; it fetches them and runs it again.
    /// Never reaches a caller of `Meta`.
    #[error("records missing in the view")]
    Missing,
    /// The engine could not do it: unreachable, disk full, locked too long.
    #[error("metadata engine: {0}")]
    Engine(Arc<EngineError>),
    /// Our own session was reaped while the machine slept; what it held is gone.
    #[error("the session was reaped by another client")]
    SessionLost,
}

/// The engine's own words, and whether trying again may help.
#[derive(Debug, Error)]
#[error("{action}: {reason}")]
pub struct EngineError {
    /// What was tried.
    pub action: &'static str,
    /// The engine's words, without secrets.
    pub reason: String,
    /// Locked or busy: the same call may succeed later.
    pub retryable: bool,
}

impl Error {
    /// An engine failure that will not go away by itself.
    pub fn engine(action: &'static str, reason: impl std::fmt::Display) -> Error {
        Error::Engine(Arc::new(EngineError { action, reason: reason.to_string(), retryable: false }))
    }

    /// A conflict or lock that may be gone at the next try.
    pub fn busy(action: &'static str, reason: impl std::fmt::Display) -> Error {
        Error::Engine(Arc::new(EngineError { action, reason: reason.to_string(), retryable: true }))
    }

    /// May the same operation succeed when run again?
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Engine(e) if e.retryable)
    }
}
