//! Why a mount did not come about, or does not go away.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Result of mounting and unmounting.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a mount did not come about, or does not go away.
#[derive(Debug, Error)]
pub enum Error {
    /// A `-o` option nobody knows, or one that cannot be honoured.
    #[error("mount option {option:?}: {reason}")]
    Option {
        /// As given.
        option: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel or fusermount3 refused.
    #[error("mount at {}", mountpoint.display())]
    Mount {
        /// Where.
        mountpoint: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// Somebody has files open or stands in a directory of the mount.
    #[error("{} is busy", mountpoint.display())]
    Busy {
        /// Where.
        mountpoint: PathBuf,
    },
    /// The kernel or fusermount3 refused.
    #[error("unmount {}", mountpoint.display())]
    Unmount {
        /// Where.
        mountpoint: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// The session with the kernel ended with an error.
    #[error("fuse session: {reason}")]
    Session {
        /// What was said.
        reason: String,
    },
}
