//! Why a job could not finish.

use thiserror::Error;

/// Result of a job.
pub type Result<T> = std::result::Result<T, Error>;

/// A job that stopped. What it did before stays done; running it again goes on.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// The metadata said no.
    #[error("metadata")]
    Meta(#[from] cairn_meta::Error),
    /// Blocks could not be read, written or deleted.
    #[error("data")]
    Chunk(#[from] cairn_chunk::Error),
    /// The object store could not be listed or asked.
    #[error("object store")]
    Object(#[from] cairn_object::Error),
    /// There is nothing under this path.
    #[error("no such file or directory: {path}")]
    NoPath {
        /// As given.
        path: String,
    },
    /// The buffer is smaller than one piece of work.
    #[error("slice writer refused {bytes} bytes at {at}")]
    WriterRefused {
        /// Where in the slice, in bytes.
        at: u32,
        /// How much.
        bytes: usize,
    },
}
