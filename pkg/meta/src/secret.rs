//! Secrets of the setting, as they lie in the database (volume format 1.3).
//!
//! `SecretKey`, `SessionToken` and `EncryptKey` are each turned into `base64(nonce ‖ ciphertext ‖ tag)`
//! with a key that comes from the volume's UUID: whoever can read the setting can read them. It keeps
//! secrets from lying about in the clear, nothing more.
//!
//! Not here: the passphrase of the data key, which is never stored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_env::Env;
use cairn_types::Format;
use md5::{Digest, Md5};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::{Error, Result};

/// What `dump` puts where a secret was.
pub const REMOVED: &str = "removed";

/// The setting with its secrets in the clear. The result is for use, never for storing or showing.
///
/// # Errors
///
/// [`Error::Refused`], naming the member: stripped by a dump, encrypted with another UUID, sm4gcm.
pub fn revealed(format: &Format) -> Result<Format> {
    let mut open = format.clone();
    if format.key_encrypted {
        for (name, secret) in members(&mut open) {
            *secret = reveal(&format.encrypt_algo, &format.uuid, name, secret)?;
        }
        open.key_encrypted = false;
    }
    for (name, secret) in members(&mut open) {
        if secret == REMOVED {
            return Err(stripped(name));
        }
    }
    Ok(open)
}

/// The setting with its secrets hidden, ready to be stored. Without secrets nothing changes.
///
/// `EncryptAlgo` and `UUID` must be final: the key comes from them.
///
/// # Errors
///
/// [`Error::Refused`] for sm4gcm.
pub fn hidden(env: &Env, format: &Format) -> Result<Format> {
    let mut closed = format.clone();
    if format.key_encrypted {
        return Ok(closed);
    }
    closed.key_encrypted = members(&mut closed).count() > 0;
    for (_, secret) in members(&mut closed) {
        *secret = hide(&format.encrypt_algo, &format.uuid, secret, nonce(env))?;
    }
    Ok(closed)
}

/// The three secret members that are set, with their names.
fn members(format: &mut Format) -> impl Iterator<Item = (&'static str, &mut String)> {
    let all = [
        ("SecretKey", &mut format.secret_key),
        ("SessionToken", &mut format.session_token),
        ("EncryptKey", &mut format.encrypt_key),
    ];
    all.into_iter().filter(|(_, secret)| !secret.is_empty())
}

fn nonce(env: &Env) -> [u8; NONCE_LEN] {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&env.random().to_be_bytes());
    bytes[8..].copy_from_slice(&env.random().to_be_bytes()[..4]);
    bytes
}

fn key(algo: &str, uuid: &str) -> Result<LessSafeKey> {
    if algo.eq_ignore_ascii_case("sm4gcm") {
        return Err(Error::Refused("this volume hides its secrets with sm4gcm, which is not supported".into()));
    }
    let digest = Md5::digest(uuid.as_bytes());
    let key = UnboundKey::new(&AES_128_GCM, &digest).expect("an MD5 digest has the 16 bytes of an AES-128 key");
    Ok(LessSafeKey::new(key))
}

fn hide(algo: &str, uuid: &str, plain: &str, nonce: [u8; NONCE_LEN]) -> Result<String> {
    let mut sealed = plain.as_bytes().to_vec();
    key(algo, uuid)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
        .expect("AES-GCM seals anything shorter than 64 GiB");
    Ok(STANDARD.encode([&nonce[..], &sealed].concat()))
}

fn reveal(algo: &str, uuid: &str, name: &str, stored: &str) -> Result<String> {
    if stored == REMOVED {
        return Err(stripped(name));
    }
    let key = key(algo, uuid)?;
    let broken = |why: &str| Error::Refused(format!("{name} of the setting cannot be decrypted: {why}"));
    let bytes = STANDARD.decode(stored).map_err(|_| broken("it is not base64"))?;
    let Some((nonce, sealed)) = bytes.split_first_chunk::<NONCE_LEN>() else { return Err(broken("it is too short")) };
    let mut sealed = sealed.to_vec();
    let plain = key
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed)
        .map_err(|_| broken("it was encrypted under another volume id, or it is damaged"))?;
    String::from_utf8(plain.to_vec()).map_err(|_| broken("it is not text"))
}

fn stripped(name: &str) -> Error {
    Error::Refused(format!("{name} was stripped from the setting by a dump: set it again with `config`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "55f8bf95-7e0b-4e3c-93df-0cfcca3bac87";
    const STORED: &str = "AAECAwQFBgcICQoLkLiyvk0Ljsj+ZzVyFI+p+2X09ayHDqVvgVg=";

    fn format() -> Format {
        Format { uuid: UUID.into(), encrypt_algo: "aes256gcm-rsa".into(), ..Format::default() }
    }

    #[test]
    fn a_secret_is_stored_as_the_format_documents() {
        let nonce = std::array::from_fn(|i| i as u8);
        assert_eq!(hide("aes256gcm-rsa", UUID, "minioadmin", nonce).unwrap(), STORED);
        let stored = Format { secret_key: STORED.into(), key_encrypted: true, ..format() };
        let open = revealed(&stored).unwrap();
        assert_eq!((open.secret_key.as_str(), open.key_encrypted), ("minioadmin", false));
    }

    #[test]
    fn hiding_and_revealing_gives_the_secrets_back() {
        let open = Format { session_token: "token".into(), encrypt_key: "-----BEGIN".into(), ..format() };
        let closed = hidden(&Env::real(), &open).unwrap();
        assert!(closed.key_encrypted && closed.session_token != "token" && closed.secret_key.is_empty());
        assert_eq!(revealed(&closed).unwrap(), open);
        assert!(hidden(&Env::real(), &format()).unwrap() == format());
    }

    #[test]
    fn what_cannot_be_revealed_says_why() {
        let with = |secret: &str, algo: &str| {
            let format = Format { key_encrypted: true, secret_key: secret.into(), ..format() };
            revealed(&Format { encrypt_algo: algo.into(), ..format }).unwrap_err().to_string()
        };
        assert!(with(REMOVED, "").contains("stripped"));
        assert!(with("AAAA", "").contains("too short"));
        assert!(with("!", "").contains("base64"));
        assert!(with(STORED, "sm4gcm").contains("sm4gcm"));
        let other = Format { uuid: "other".into(), secret_key: STORED.into(), key_encrypted: true, ..format() };
        assert!(revealed(&other).unwrap_err().to_string().contains("another volume"));
        let plain = Format { secret_key: REMOVED.into(), ..format() };
        assert!(revealed(&plain).unwrap_err().to_string().contains("SecretKey"));
    }
}
