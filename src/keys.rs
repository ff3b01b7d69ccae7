//! From the volume's setting to what seals and opens its objects.

use std::sync::Arc;

use bytes::Bytes;
use cairn_crypt::{Algorithm, Cipher, Passphrase, PrivateKey};
use cairn_env::Env;
use cairn_types::Format;

use crate::Result;
use crate::error::refused;

/// The cipher of a volume whose secrets are in the clear; `None` if it is not encrypted.
///
/// # Errors
/// A sentence: the key needs another passphrase, or is of a kind that cannot be used.
pub(crate) async fn cipher(env: &Env, format: &Format, passphrase: &Passphrase) -> Result<Option<Arc<Cipher>>> {
    if format.encrypt_key.is_empty() {
        return Ok(None);
    }
    let algorithm = algorithm(format)?;
    let (pem, passphrase, chance) = (format.encrypt_key.clone(), passphrase.clone(), env.clone());
    // Deriving a key from a passphrase is meant to take long.
    let made = env.blocking(move || {
        let key = PrivateKey::from_pem(&pem, &passphrase)?;
        Cipher::new(key, algorithm, Arc::new(move |bytes| chance.fill_secret(bytes)))
    });
    match made.await {
        Ok(cipher) => Ok(Some(Arc::new(cipher))),
        Err(e) => refused(format!(
            "volume {:?} is encrypted ({algorithm}), and its private key cannot be used: {e}",
            format.name
        )),
    }
}

/// What the setting says about encryption, if this client knows it.
pub(crate) fn algorithm(format: &Format) -> Result<Algorithm> {
    format.encrypt_algo.parse().or_else(|e: String| refused(format!("volume {:?}: {e}", format.name)))
}

/// What `body` is as an object of this volume.
pub(crate) async fn sealed(env: &Env, cipher: Option<&Arc<Cipher>>, body: Vec<u8>) -> Vec<u8> {
    match cipher.cloned() {
        None => body,
        Some(cipher) => env.blocking(move || cipher.seal(&[body])).await,
    }
}

/// What an object of this volume holds, or why it cannot be read with the volume's key.
pub(crate) async fn opened(
    env: &Env,
    cipher: Option<&Arc<Cipher>>,
    object: Bytes,
) -> std::result::Result<Bytes, String> {
    match cipher.cloned() {
        None => Ok(object),
        Some(cipher) => env.blocking(move || cipher.open(object)).await.map_err(|e| e.to_string()),
    }
}
