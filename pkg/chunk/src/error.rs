//! What can go wrong between a slice and the object store.

use cairn_types::{BlockKey, SliceId, SliceRef};
use thiserror::Error;

/// Result of a call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed read or write of blocks. Cheap to clone: readers that share a fetch share its error.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// The store did not do it.
    #[error("block {key}")]
    Store {
        /// The block.
        key: BlockKey,
        /// What the store said.
        #[source]
        source: cairn_object::Error,
    },
    /// There is no such object. Mostly a stale slice list: read it again and try once more.
    #[error("block {key} is missing")]
    Missing {
        /// The block.
        key: BlockKey,
    },
    /// Twice in a row what came was not the block. Logged with its key.
    #[error("block {key} is damaged: {reason}")]
    Corrupt {
        /// The block.
        key: BlockKey,
        /// What did not fit.
        reason: String,
    },
    /// The range asked for does not lie within the slice: damaged metadata.
    #[error("range {off}+{len} is outside slice {} of {} bytes", slice.id, slice.size)]
    OutOfSlice {
        /// The slice.
        slice: SliceRef,
        /// Start of the range, in bytes.
        off: u32,
        /// Bytes asked for.
        len: u32,
    },
    /// The upload was broken off, by a shutdown or a bug.
    #[error("an upload of slice {id} was broken off")]
    Interrupted {
        /// The slice.
        id: SliceId,
    },
    /// The slice was discarded.
    #[error("slice {id} was discarded")]
    Discarded {
        /// The slice.
        id: SliceId,
    },
}

impl Error {
    /// What the store's answer means for a block.
    pub(crate) fn from_store(key: BlockKey, source: cairn_object::Error) -> Error {
        match source {
            cairn_object::Error::NotFound { .. } => Error::Missing { key },
            cairn_object::Error::Corrupt { reason, .. } => Error::Corrupt { key, reason },
            source => Error::Store { key, source },
        }
    }

    /// Does the block not exist (any more)?
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing { .. })
    }
}
