//! Why a file call failed.

use cairn_types::Ino;
use thiserror::Error;

use crate::Fh;

/// Result of a file call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file call failed. `cairn-fuse` maps each condition to an errno.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// No such handle, or it was not opened for this.
    #[error("handle {fh} is not open for this")]
    BadHandle {
        /// The handle.
        fh: Fh,
    },
    /// As many handles as the table holds are open.
    #[error("too many open handles")]
    TooManyHandles,
    /// The caller was told to stop while it waited.
    #[error("interrupted")]
    Interrupted,
    /// The volume is being closed.
    #[error("the volume is closing")]
    Closing,
    /// Uncommitted data of this file could not be kept and is gone.
    #[error("unwritten data of inode {ino} is lost")]
    Lost {
        /// The file.
        ino: Ino,
    },
    /// Metadata says no.
    #[error(transparent)]
    Meta(#[from] cairn_meta::Error),
    /// The store says no.
    #[error(transparent)]
    Chunk(#[from] cairn_chunk::Error),
}

impl Error {
    /// Metadata refuses the data for good: keeping it would not help.
    pub(crate) fn is_final(&self) -> bool {
        use cairn_meta::Error as M;
        matches!(
            self,
            Error::Lost { .. }
                | Error::Meta(
                    M::NoEntry
                        | M::NoSpace
                        | M::Quota
                        | M::TooLarge
                        | M::NotPermitted
                        | M::ReadOnly
                        // Kept, it would go through once the lock it was written under is let go.
                        | M::SessionLost
                )
        )
    }
}
