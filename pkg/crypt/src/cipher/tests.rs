use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::Passphrase;

/// Chance for tests: never the same twice, the same in every run.
pub(crate) fn chance() -> Chance {
    let state = AtomicU64::new(1);
    Arc::new(move |bytes: &mut [u8]| {
        for byte in bytes {
            // The constants are those of PCG; any full-period generator would do.
            let next = |s: u64| Some(s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407));
            *byte = (state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).expect("always some") >> 56) as u8;
        }
    })
}

pub(crate) fn cipher(key: &str, algorithm: Algorithm) -> Cipher {
    let path = format!("{}/tests/keys/{key}.pem", env!("CARGO_MANIFEST_DIR"));
    let pem = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Cipher::new(PrivateKey::from_pem(&pem, &Passphrase::default()).unwrap(), algorithm, chance()).unwrap()
}

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Aes256Gcm, Algorithm::ChaCha20];

#[test]
fn objects_of_juicefs_open() {
    for (volume, algorithm, uuid) in [
        ("aes", Algorithm::Aes256Gcm, "42de0ae1-a2a5-4a5a-9e4c-40b021945cbd"),
        ("chacha", Algorithm::ChaCha20, "abcc3e29-298e-40b1-951d-dc3d7ef009b1"),
    ] {
        let dir = env!("CARGO_MANIFEST_DIR");
        let pem = std::fs::read_to_string(format!("{dir}/../../integration/fixtures/sqlite-enc-{volume}/key.pem"));
        let key = PrivateKey::from_pem(&pem.unwrap(), &Passphrase::new("cairn-fixture".into())).unwrap();
        let object = std::fs::read(format!("{dir}/tests/objects/juicefs_uuid-{volume}")).unwrap();
        let cipher = Cipher::new(key, algorithm, chance()).unwrap();
        assert_eq!(cipher.open(object.clone().into()).unwrap(), uuid.as_bytes());
        assert_eq!(object.len(), uuid.len() + cipher.overhead_bytes());
    }
}

#[test]
fn any_changed_byte_is_noticed() {
    for algorithm in ALGORITHMS {
        let cipher = cipher("pkcs1", algorithm);
        let object = cipher.seal(&[&b"some"[..], b"thing"]);
        for at in 0..object.len() {
            let mut changed = object.clone();
            changed[at] ^= 0x40;
            assert!(cipher.open(changed.into()).is_err(), "{algorithm} byte {at}");
        }
        for len in 0..object.len() {
            assert!(cipher.open(object[..len].to_vec().into()).is_err(), "{algorithm} cut to {len}");
        }
    }
}

#[test]
fn another_key_or_algorithm_is_told_from_damage() {
    let object = Bytes::from(cipher("pkcs1", Algorithm::Aes256Gcm).seal(&[b"secret"]));
    assert_eq!(cipher("other", Algorithm::Aes256Gcm).open(object.clone()), Err(OpenError::Key));
    assert_eq!(cipher("pkcs1", Algorithm::ChaCha20).open(object.clone()), Err(OpenError::Content));
    assert_eq!(cipher("pkcs1", Algorithm::Aes256Gcm).open(object).unwrap(), &b"secret"[..]);
    assert_eq!(cipher("pkcs1", Algorithm::Aes256Gcm).open(vec![0, 9].into()), Err(OpenError::Form));
}

#[test]
fn one_data_key_serves_many_objects_and_no_nonce_twice() {
    let cipher = cipher("pkcs1", Algorithm::Aes256Gcm);
    let objects: Vec<_> = (0..1000).map(|_| cipher.seal(&[b"same"])).collect();
    let nonces: std::collections::HashSet<_> =
        objects.iter().map(|object| Header::parse(object).unwrap().nonce.to_vec()).collect();
    let keys: std::collections::HashSet<_> =
        objects.iter().map(|object| Header::parse(object).unwrap().wrapped.to_vec()).collect();
    assert_eq!((nonces.len(), keys.len()), (1000, 1));
}

#[test]
fn an_object_nobody_else_holds_is_opened_where_it_lies() {
    let cipher = cipher("pkcs1", Algorithm::Aes256Gcm);
    let object = Bytes::from(cipher.seal(&[vec![7; 100_000]]));
    let place = object.as_ptr() as usize;
    let held = object.clone();
    let copied = cipher.open(held.clone()).unwrap();
    assert!(!(place..place + object.len()).contains(&(copied.as_ptr() as usize)));
    drop((held, copied));
    let opened = cipher.open(object).unwrap();
    assert!((place..place + 101_000).contains(&(opened.as_ptr() as usize)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_sealed_opens(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 0..5), chacha: bool) {
        let cipher = cipher("pkcs1", ALGORITHMS[usize::from(chacha)]);
        let object = cipher.seal(&pieces);
        prop_assert_eq!(object.len(), pieces.concat().len() + cipher.overhead_bytes());
        prop_assert_eq!(&cipher.open(object.into()).unwrap()[..], &pieces.concat()[..]);
    }

    #[test]
    fn junk_never_opens(junk in proptest::collection::vec(any::<u8>(), 0..700)) {
        prop_assert!(cipher("pkcs1", Algorithm::Aes256Gcm).open(junk.into()).is_err());
    }
}
