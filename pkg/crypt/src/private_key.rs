//! The private key of a volume: from PEM text to wrapping and unwrapping data keys.
//!
//! Read are the forms JuiceFS reads: PKCS#1 in clear or with the old encryption in the PEM itself
//! (`Proc-Type: 4,ENCRYPTED`), PKCS#8 in clear or encrypted (PBES2). A passphrase for a key that needs
//! none is ignored, as JuiceFS does.

use rsa::pkcs1::{ALGORITHM_OID, DecodeRsaPrivateKey};
use rsa::pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo};
use rsa::traits::PublicKeyParts;
use rsa::{Oaep, RsaPrivateKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::cipher::Chance;
use crate::{KeyError, OpenError, Passphrase, legacy_pem};

/// What JuiceFS binds wrapped data keys to.
const OAEP_LABEL: &str = "keys";

/// An RSA private key.
pub struct PrivateKey {
    key: RsaPrivateKey,
}

impl PrivateKey {
    /// The first private key in a PEM text.
    ///
    /// # Errors
    ///
    /// A sentence for whoever has the key; a missing passphrase and a wrong one are told apart.
    pub fn from_pem(text: &str, passphrase: &Passphrase) -> Result<PrivateKey, KeyError> {
        let blocks = pem::parse_many(text).map_err(|_| KeyError::NotAKey)?;
        let block = blocks.iter().find(|b| b.tag().ends_with("PRIVATE KEY")).ok_or(KeyError::NotAKey)?;
        let der = block.contents();
        let key = match block.tag() {
            "RSA PRIVATE KEY" if legacy_pem::is_locked(block) => {
                let plain = legacy_pem::unlock(block, passphrase.bytes().ok_or(KeyError::PassphraseMissing)?)?;
                // The old form has no check of its own: a key that does not parse was unlocked wrongly.
                RsaPrivateKey::from_pkcs1_der(&plain).map_err(|_| KeyError::PassphraseWrong)?
            }
            "RSA PRIVATE KEY" => RsaPrivateKey::from_pkcs1_der(der).map_err(unsound)?,
            "PRIVATE KEY" => from_pkcs8(der)?,
            "ENCRYPTED PRIVATE KEY" => {
                let locked =
                    EncryptedPrivateKeyInfo::try_from(der).map_err(|e| KeyError::Lock { how: e.to_string() })?;
                let passphrase = passphrase.bytes().ok_or(KeyError::PassphraseMissing)?;
                from_pkcs8(locked.decrypt(passphrase).map_err(not_unlocked)?.as_bytes())?
            }
            other => return Err(KeyError::Kind { kind: other.to_owned() }),
        };
        key.validate().map_err(unsound)?;
        Ok(PrivateKey { key })
    }

    /// Bytes of a wrapped data key.
    pub(crate) fn wrapped_bytes(&self) -> usize {
        self.key.size()
    }

    pub(crate) fn wrap(&self, data_key: &[u8], chance: &Chance) -> Vec<u8> {
        let wrapped = self.key.to_public_key().encrypt(&mut Rng(chance), oaep(), data_key);
        wrapped.expect("a data key of 32 bytes fits any RSA key of 1024 bits and more")
    }

    /// Blinded, since the time an RSA operation takes would otherwise tell of the key.
    pub(crate) fn unwrap(&self, wrapped: &[u8], chance: &Chance) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let data_key = self.key.decrypt_blinded(&mut Rng(chance), oaep(), wrapped);
        data_key.map(Zeroizing::new).map_err(|_| OpenError::Key)
    }

    /// Is a data key of 32 bytes too long for it?
    pub(crate) fn is_too_small(&self) -> bool {
        const SHA256_BYTES: usize = 32;
        self.key.size() < 32 + 2 * SHA256_BYTES + 2
    }
}

fn from_pkcs8(der: &[u8]) -> Result<RsaPrivateKey, KeyError> {
    let info = PrivateKeyInfo::try_from(der).map_err(unsound)?;
    if info.algorithm.oid != ALGORITHM_OID {
        return Err(KeyError::Kind { kind: format!("PRIVATE KEY of kind {}", info.algorithm.oid) });
    }
    RsaPrivateKey::try_from(info).map_err(unsound)
}

fn not_unlocked(e: rsa::pkcs8::Error) -> KeyError {
    use rsa::pkcs8::{Error, pkcs5};
    match e {
        Error::EncryptedPrivateKey(
            e @ (pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs5::Error::NoPbes1CryptSupport),
        ) => KeyError::Lock { how: e.to_string() },
        _ => KeyError::PassphraseWrong,
    }
}

fn unsound(e: impl std::fmt::Display) -> KeyError {
    KeyError::Unsound { reason: e.to_string() }
}

fn oaep() -> Oaep {
    Oaep::new_with_mgf_hash_and_label::<Sha256, Sha256, _>(OAEP_LABEL)
}

/// Our chance in the form the RSA crate takes it.
struct Rng<'a>(&'a Chance);

impl rsa::rand_core::RngCore for Rng<'_> {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        (self.0)(&mut bytes);
        u32::from_ne_bytes(bytes)
    }
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        (self.0)(&mut bytes);
        u64::from_ne_bytes(bytes)
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        (self.0)(dest);
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
        (self.0)(dest);
        Ok(())
    }
}

impl rsa::rand_core::CryptoRng for Rng<'_> {}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey({} bits)", self.key.size() * 8)
    }
}

#[cfg(test)]
mod tests;
