//! Is this a place for a volume? What `format` and `mount` ask of a bucket.

use cairn_env::Env;
use futures::TryStreamExt;

use crate::{Error, ObjectStore, Result};

const TESTING: &str = "testing/";
const UUID_KEY: &str = "juicefs_uuid";
const UUID_BYTES: usize = 36;
const PROBE_BYTES: usize = 100;

/// Writes, reads and deletes `testing/<random>`; an error says what did not work.
pub async fn probe(env: &Env, store: &dyn ObjectStore) -> Result<()> {
    let key = probe_key(env);
    let body: Vec<u8> = (0..PROBE_BYTES).map(|_| env.random() as u8).collect();
    store.put(&key, body.clone().into()).await?;
    let back = store.get(&key, None).await;
    // Removed whatever the read said, so that a failing bucket is not filled with probes.
    let removed = store.delete(&key).await;
    if back? != body {
        return Err(Error::Corrupt { key, reason: "the store gave other bytes back than it was given".to_owned() });
    }
    removed
}

fn probe_key(env: &Env) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let name = (0..10).map(|_| char::from(LETTERS[env.random_below(LETTERS.len() as u64) as usize]));
    TESTING.chars().chain(name).collect()
}

/// Writes the object that says whose bucket this is: the volume's UUID as text, encrypted if the
/// volume is.
pub async fn mark(store: &dyn ObjectStore, mark: Vec<u8>) -> Result<()> {
    store.put(UUID_KEY, mark.into()).await
}

/// The UUID that [`mark`] left; `None` if nobody did, or in a form that is no UUID (encrypted).
pub async fn owner(store: &dyn ObjectStore) -> Result<Option<String>> {
    match store.get(UUID_KEY, None).await {
        Ok(body) => Ok(String::from_utf8(body.into()).ok().filter(|uuid| uuid.len() == UUID_BYTES)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Is there nothing below the store's prefix but empty objects and left-over probes?
pub async fn is_empty_prefix(store: &dyn ObjectStore) -> Result<bool> {
    let mut objects = store.list("", "");
    while let Some(info) = objects.try_next().await? {
        if info.bytes > 0 && !info.key.starts_with(TESTING) {
            return Ok(false);
        }
    }
    Ok(true)
}
