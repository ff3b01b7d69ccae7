//! Why a volume could not be opened, made or closed.

use thiserror::Error;

/// Result of opening, making and closing.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a volume could not be opened, made or closed.
#[derive(Debug, Error)]
pub enum Error {
    /// The settings contradict themselves or the volume; the text is for the person who gave them.
    #[error("{0}")]
    Refused(String),
    /// The metadata said no.
    #[error(transparent)]
    Meta(#[from] cairn_meta::Error),
    /// The object store said no.
    #[error(transparent)]
    Object(#[from] cairn_object::Error),
    /// The cache could not be opened.
    #[error(transparent)]
    Cache(#[from] cairn_cache::Error),
    /// Something is left unsaved.
    #[error(transparent)]
    Vfs(#[from] cairn_vfs::Error),
    /// A cache directory cannot be read.
    #[error("cache directory {dir}: {source}")]
    CacheDir {
        /// Which.
        dir: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A refusal with its sentence.
pub(crate) fn refused<T>(sentence: impl Into<String>) -> Result<T> {
    Err(Error::Refused(sentence.into()))
}
