//! What objects are sealed with, by the names of the setting's `EncryptAlgo`.

use std::fmt;
use std::str::FromStr;

/// How objects are sealed. Data keys are wrapped with RSA whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// `aes256gcm-rsa`: AES-256-GCM.
    #[default]
    Aes256Gcm,
    /// `chacha20-rsa`: ChaCha20-Poly1305.
    ChaCha20,
}

impl Algorithm {
    pub(crate) fn aead(self) -> &'static ring::aead::Algorithm {
        match self {
            Algorithm::Aes256Gcm => &ring::aead::AES_256_GCM,
            Algorithm::ChaCha20 => &ring::aead::CHACHA20_POLY1305,
        }
    }
}

impl FromStr for Algorithm {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "" | "aes256gcm-rsa" => Ok(Algorithm::Aes256Gcm),
            "chacha20-rsa" => Ok(Algorithm::ChaCha20),
            "sm4gcm" => Err("encryption with sm4gcm is not supported: known are aes256gcm-rsa and chacha20-rsa".into()),
            _ => Err(format!("unknown encryption {name:?}: known are aes256gcm-rsa and chacha20-rsa")),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Aes256Gcm => "aes256gcm-rsa",
            Algorithm::ChaCha20 => "chacha20-rsa",
        })
    }
}
