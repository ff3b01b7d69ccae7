//! What can go wrong with an object.

use thiserror::Error;

/// Result of a call to an object store.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed call to an object store. Cheap to clone, because single-flight readers share one.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// There is no such object.
    #[error("object {key} does not exist")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// The store refuses: credentials, permissions, a read-only folder.
    #[error("permission denied: {action} {key}: {reason}")]
    Denied {
        /// "put", "get", ...
        action: &'static str,
        /// The key.
        key: String,
        /// The store's own words.
        reason: String,
    },
    /// The bytes that came are not the bytes that were put.
    #[error("object {key} is damaged: {reason}")]
    Corrupt {
        /// The key.
        key: String,
        /// What did not match.
        reason: String,
    },
    /// Configuration that can never work: unknown scheme, bad endpoint.
    #[error("{reason}")]
    Config {
        /// A sentence for the person who typed it.
        reason: String,
    },
    /// The store could not do it now; trying again may help.
    #[error("{action} {key}: {reason}")]
    Unavailable {
        /// "put", "get", ...
        action: &'static str,
        /// The key.
        key: String,
        /// The store's own words.
        reason: String,
        /// Tried again up to the limit already.
        persistent: bool,
    },
}

impl Error {
    /// May the same call succeed when made again?
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Unavailable { persistent: false, .. })
    }

    /// Is it "no such object"?
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }
}
