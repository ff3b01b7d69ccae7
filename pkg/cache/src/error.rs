//! The few things the cache refuses; everything else is a miss.

use thiserror::Error;

/// Result of opening a cache.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a cache cannot be opened.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Error {
    /// The ratio is not a share.
    #[error("free space ratio {ratio} is not between 0 and 1")]
    FreeSpaceRatio {
        /// As given.
        ratio: f64,
    },
}
