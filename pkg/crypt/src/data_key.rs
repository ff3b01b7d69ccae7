//! Data keys: made, wrapped, unwrapped, and used for a bounded number of things.

use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ring::aead::{Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::cipher::Chance;
use crate::{Algorithm, OpenError, PrivateKey};

/// Bytes of both algorithms' keys, and of the tag behind what they sealed.
const KEY_BYTES: usize = 32;
pub(crate) const TAG_BYTES: usize = MAX_TAG_LEN;

/// Things sealed under one data key. Nonces are drawn by chance: with 96 bits (80 for files, see
/// `local_file`) even the shorter ones meet with a probability below 2^-48.
const USES_MAX: u32 = 1 << 16;
/// Unwrapped data keys that are kept, each about a kilobyte. JuiceFS makes one for every object.
const UNWRAPPED_MAX: usize = 4096;

/// A data key ready for use.
pub(crate) struct DataKey {
    key: LessSafeKey,
}

impl DataKey {
    fn new(algorithm: Algorithm, bytes: &[u8]) -> Result<DataKey, OpenError> {
        let key = UnboundKey::new(algorithm.aead(), bytes).map_err(|_| OpenError::Key)?;
        Ok(DataKey { key: LessSafeKey::new(key) })
    }

    /// Seals `bytes` where they are; the tag to put behind them.
    pub(crate) fn seal(&self, nonce: [u8; NONCE_LEN], name: &[u8], bytes: &mut [u8]) -> impl AsRef<[u8]> + use<> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(name), bytes);
        tag.expect("a block is far shorter than what one nonce may seal")
    }

    /// Opens `bytes`, tag included, where they are; the length of the plain bytes at its start.
    pub(crate) fn open(&self, nonce: [u8; NONCE_LEN], name: &[u8], bytes: &mut [u8]) -> Result<usize, OpenError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = self.key.open_in_place(nonce, Aad::from(name), bytes);
        plain.map(|plain| plain.len()).map_err(|_| OpenError::Content)
    }
}

/// The data key new things are sealed with; a fresh one after every [`USES_MAX`] uses.
#[derive(Default)]
pub(crate) struct Current(Mutex<Option<Used>>);

struct Used {
    key: Arc<DataKey>,
    wrapped: Arc<[u8]>,
    uses: u32,
}

impl Current {
    /// The key and its wrapped form, counted as used once more.
    pub(crate) fn take(&self, make: impl FnOnce() -> (Arc<DataKey>, Arc<[u8]>)) -> (Arc<DataKey>, Arc<[u8]>) {
        let mut current = self.0.lock();
        if current.as_ref().is_none_or(|used| used.uses == USES_MAX) {
            let (key, wrapped) = make();
            *current = Some(Used { key, wrapped, uses: 0 });
        }
        let used = current.as_mut().expect("it was made just now");
        used.uses += 1;
        (used.key.clone(), used.wrapped.clone())
    }
}

/// Makes data keys and remembers those it has met.
pub(crate) struct KeyRing {
    private: PrivateKey,
    algorithm: Algorithm,
    chance: Chance,
    unwrapped: Cache<Vec<u8>, Arc<DataKey>>,
}

impl KeyRing {
    pub(crate) fn new(private: PrivateKey, algorithm: Algorithm, chance: Chance) -> KeyRing {
        KeyRing { private, algorithm, chance, unwrapped: Cache::new(UNWRAPPED_MAX) }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn wrapped_bytes(&self) -> usize {
        self.private.wrapped_bytes()
    }

    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.chance)(&mut bytes);
        bytes
    }

    /// A data key that nobody has used yet, and its wrapped form.
    pub(crate) fn make(&self) -> (Arc<DataKey>, Arc<[u8]>) {
        let bytes = Zeroizing::new(self.random::<KEY_BYTES>());
        let key = Arc::new(DataKey::new(self.algorithm, &*bytes).expect("a key of the right length"));
        let wrapped = self.private.wrap(&*bytes, &self.chance);
        // We shall read what we write.
        self.unwrapped.insert(wrapped.clone(), key.clone());
        (key, wrapped.into())
    }

    /// The data key that was wrapped. Milliseconds for one not met lately; threads that want the same
    /// one wait for the first.
    pub(crate) fn unwrap(&self, wrapped: &[u8]) -> Result<Arc<DataKey>, OpenError> {
        if wrapped.len() != self.wrapped_bytes() {
            return Err(OpenError::Key);
        }
        self.unwrapped.get_or_insert_with(wrapped, || {
            let bytes = self.private.unwrap(wrapped, &self.chance)?;
            DataKey::new(self.algorithm, &bytes).map(Arc::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_key_is_given_up_after_its_last_use() {
        let current = Current::default();
        let key = Arc::new(DataKey::new(Algorithm::Aes256Gcm, &[7; 32]).unwrap());
        let mut made = 0u8;
        let mut take = || {
            let (_, wrapped) = current.take(|| {
                made += 1;
                (key.clone(), Arc::from([made]))
            });
            wrapped[0]
        };
        assert!((0..USES_MAX).all(|_| take() == 1));
        assert_eq!(take(), 2);
    }
}
