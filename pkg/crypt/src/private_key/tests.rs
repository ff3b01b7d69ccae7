use std::sync::Arc;

use super::*;

fn read(name: &str) -> String {
    let path = format!("{}/tests/keys/{name}.pem", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn key(name: &str, passphrase: &str) -> Result<PrivateKey, KeyError> {
    PrivateKey::from_pem(&read(name), &Passphrase::new(passphrase.into()))
}

#[test]
fn every_form_of_one_key_is_the_same_key() {
    let plain = key("pkcs1", "").unwrap().key;
    assert!(key("pkcs8", "").unwrap().key == plain);
    assert!(key("pkcs8", "not needed").unwrap().key == plain);
    assert!(key("other", "").unwrap().key != plain);
    let locked =
        ["pkcs1-aes256", "pkcs1-aes192", "pkcs1-aes128", "pkcs1-des3", "pkcs1-des", "pkcs8-pbes2", "pkcs8-scrypt"];
    for form in locked {
        assert!(key(form, "cairn-test").unwrap_or_else(|e| panic!("{form}: {e}")).key == plain, "{form}");
        assert_eq!(key(form, "").unwrap_err(), KeyError::PassphraseMissing, "{form}");
        assert_eq!(key(form, "wrong").unwrap_err(), KeyError::PassphraseWrong, "{form}");
    }
}

#[test]
fn what_is_no_rsa_key_is_named() {
    assert!(matches!(key("ec", ""), Err(KeyError::Kind { kind }) if kind == "EC PRIVATE KEY"));
    assert!(matches!(key("ec-pkcs8", ""), Err(KeyError::Kind { kind }) if kind.contains("1.2.840.10045.2.1")));
    assert!(matches!(key("pkcs8-pbes1", "cairn-test"), Err(KeyError::Lock { .. })));
    let none = Passphrase::default();
    for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert_eq!(PrivateKey::from_pem(text, &none).unwrap_err(), KeyError::NotAKey, "{text}");
    }
    let cut = read("pkcs1").replacen("MII", "MIJ", 1);
    assert!(matches!(PrivateKey::from_pem(&cut, &none), Err(KeyError::Unsound { .. })));
    let unknown = read("pkcs1-aes256").replace("AES-256-CBC", "RC4");
    let passphrase = Passphrase::new("cairn-test".into());
    assert_eq!(PrivateKey::from_pem(&unknown, &passphrase).unwrap_err(), KeyError::Lock { how: "RC4".into() });
}

#[test]
fn a_key_that_cannot_wrap_a_data_key_is_refused() {
    let small = key("small", "").and_then(|key| {
        let chance: Chance = Arc::new(|bytes: &mut [u8]| bytes.fill(1));
        crate::Cipher::new(key, crate::Algorithm::Aes256Gcm, chance).map(drop)
    });
    assert!(matches!(small, Err(KeyError::Unsound { .. })), "{small:?}");
}

#[test]
fn nothing_shows_a_key_or_a_passphrase() {
    let shown = format!("{:?} {:?}", key("pkcs1", "").unwrap(), Passphrase::new("cairn-test".into()));
    assert_eq!(shown, "PrivateKey(2048 bits) Passphrase(given)");
}
