//! The old encryption inside a PEM text: headers `Proc-Type: 4,ENCRYPTED` and `DEK-Info: CIPHER,IV`
//! (RFC 1421), the key from MD5 over passphrase and IV, as OpenSSL has always made it.
//!
//! It is as weak as it is old: read because `openssl genrsa -aes256` wrote it for twenty years.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, KeyIvInit};
use md5::{Digest, Md5};
use pem::Pem;
use zeroize::Zeroizing;

use crate::KeyError;

/// Bytes of the IV that salt the key.
const SALT_BYTES: usize = 8;

pub(crate) fn is_locked(block: &Pem) -> bool {
    block.headers().get("Proc-Type").is_some_and(|v| v.replace(' ', "") == "4,ENCRYPTED")
}

/// The content in clear. A wrong passphrase is mostly seen here, and else by who reads the content.
pub(crate) fn unlock(block: &Pem, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let info = block.headers().get("DEK-Info").unwrap_or_default();
    let (cipher, iv) = info.split_once(',').ok_or(KeyError::NotAKey)?;
    let iv = from_hex(iv.trim()).ok_or(KeyError::NotAKey)?;
    let sealed = block.contents();
    match cipher.trim() {
        "AES-256-CBC" => decrypt::<cbc::Decryptor<aes::Aes256>>(32, &iv, passphrase, sealed),
        "AES-192-CBC" => decrypt::<cbc::Decryptor<aes::Aes192>>(24, &iv, passphrase, sealed),
        "AES-128-CBC" => decrypt::<cbc::Decryptor<aes::Aes128>>(16, &iv, passphrase, sealed),
        "DES-EDE3-CBC" => decrypt::<cbc::Decryptor<des::TdesEde3>>(24, &iv, passphrase, sealed),
        "DES-CBC" => decrypt::<cbc::Decryptor<des::Des>>(8, &iv, passphrase, sealed),
        other => Err(KeyError::Lock { how: other.to_owned() }),
    }
}

fn decrypt<C: KeyIvInit + BlockDecryptMut>(
    key_bytes: usize,
    iv: &[u8],
    passphrase: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let salt = iv.get(..SALT_BYTES).ok_or(KeyError::NotAKey)?;
    let key = derive(passphrase, salt, key_bytes);
    let cipher = C::new_from_slices(&key, iv).map_err(|_| KeyError::NotAKey)?;
    let plain = cipher.decrypt_padded_vec_mut::<Pkcs7>(sealed);
    plain.map(Zeroizing::new).map_err(|_| KeyError::PassphraseWrong)
}

/// OpenSSL's `EVP_BytesToKey` with MD5 and one round.
fn derive(passphrase: &[u8], salt: &[u8], bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(bytes + 16));
    let mut last = Vec::new();
    while key.len() < bytes {
        last = Md5::new().chain_update(&last).chain_update(passphrase).chain_update(salt).finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(bytes);
    key
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
