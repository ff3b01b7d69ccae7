//! Why a key cannot be used, or sealed bytes cannot be opened.

use thiserror::Error;

/// Why a private key is no use. The text is for the person who has the key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not a PEM text, or none with a private key in it.
    #[error("it is not the PEM text of a private key")]
    NotAKey,
    /// A private key of a kind that volumes do not use.
    #[error("a {kind:?} cannot be used: an RSA key is needed, as PKCS#1 or PKCS#8")]
    Kind {
        /// What the PEM text calls it.
        kind: String,
    },
    /// The key is locked with something this client does not know.
    #[error("it is locked with {how}, which is not supported")]
    Lock {
        /// What the PEM text calls it.
        how: String,
    },
    /// The key is locked, and nothing was given to unlock it.
    #[error("it needs a passphrase, and none is given: set JFS_RSA_PASSPHRASE or JFS_RSA_PASSPHRASE_FILE")]
    PassphraseMissing,
    /// The passphrase does not unlock the key.
    #[error("the passphrase is wrong")]
    PassphraseWrong,
    /// It is an RSA key, and a damaged one.
    #[error("it is not a sound RSA key: {reason}")]
    Unsound {
        /// What is wrong with it.
        reason: String,
    },
}

/// Why sealed bytes cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// It does not have the form of sealed bytes.
    #[error("not encrypted, or cut")]
    Form,
    /// The data key in it was wrapped for another private key, or is damaged.
    #[error("its data key was wrapped for another private key, or is damaged")]
    Key,
    /// The content is not what was sealed with this data key.
    #[error("decryption failed: damaged, or encrypted with another algorithm")]
    Content,
}
