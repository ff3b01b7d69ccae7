//! From the volume's setting to an object store that works.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_crypt::Cipher;
use cairn_env::Env;
use cairn_object::{Dials, Limits, Location, ObjectStore, Swappable};
use cairn_types::Format;

use crate::config::Storage;
use crate::error::refused;
use crate::{Result, keys};

/// How long the bucket may take to say whose it is.
const OWNER_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes a second of one Mbit/s.
const MBIT_BYTES: u64 = 1_000_000 / 8;

/// Where the volume's objects are. The secrets of `format` must be in the clear.
pub fn location(format: &Format) -> Location {
    let class = format.tiers.as_ref().and_then(|t| t.get("0")).map(|t| t.storage_class.clone());
    Location {
        storage: format.storage.clone(),
        bucket: format.bucket.clone(),
        access_key: format.access_key.clone(),
        secret_key: format.secret_key.clone(),
        session_token: format.session_token.clone(),
        shards: format.shards,
        prefix: format!("{}/", format.name),
        storage_class: class.filter(|c| !c.is_empty()).unwrap_or_else(|| format.storage_class.clone()),
        fsync: std::env::var_os("CAIRN_FILE_NO_FSYNC").is_none(),
    }
}

/// The volume's store with everything around it that `storage` asks for.
pub(crate) fn open(env: &Env, format: &Format, storage: &Storage, dials: &Dials) -> Result<Arc<dyn ObjectStore>> {
    let base = cairn_object::open(env, &placed(format, storage))?;
    Ok(decorated(env, base, format, storage, dials))
}

/// The same, and what is innermost, to be replaced when the setting names another place or other keys.
pub(crate) fn open_swappable(
    env: &Env,
    format: &Format,
    storage: &Storage,
    dials: &Dials,
) -> Result<(Arc<dyn ObjectStore>, Arc<Swappable>)> {
    let base = Arc::new(Swappable::new(cairn_object::open(env, &placed(format, storage))?));
    Ok((decorated(env, base.clone(), format, storage, dials), base))
}

/// The innermost store of a running client, which follows the setting.
pub(crate) struct Followed {
    pub(crate) base: Arc<Swappable>,
    pub(crate) cipher: Option<Arc<Cipher>>,
}

impl Followed {
    /// Goes from `old` to `new`, both with secrets in the clear: if it names another bucket or other
    /// keys, the store becomes that one from here on. True if it did.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] if that bucket is missing or another volume's: the store stays as
    /// it is.
    pub(crate) async fn follow(&self, env: &Env, (old, new): (&Format, &Format), storage: &Storage) -> Result<bool> {
        let place = placed(new, storage);
        if placed(old, storage) == place {
            return Ok(false);
        }
        // A bucket that is away for the moment is waited for, as any is. The volume's objects are
        // there already, or `cairn config` would not have let it in.
        check_owner(env, new, storage, self.cipher.as_ref(), Failing::Endure).await?;
        self.base.swap(cairn_object::open(env, &place)?);
        Ok(true)
    }
}

/// What to do with a bucket that answers with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// Go on: it is waited for later, as in any outage.
    Endure,
    /// Say so at once, for commands that somebody waits for.
    Refuse,
}

/// Refuses a bucket that is missing, another volume's, or encrypted with another key than ours. One
/// that does not answer in time is waited for later.
pub(crate) async fn check_owner(
    env: &Env,
    format: &Format,
    storage: &Storage,
    cipher: Option<&Arc<Cipher>>,
    failing: Failing,
) -> Result<()> {
    let place = placed(format, storage);
    let store = cairn_object::open(env, &place)?;
    let folder = place.bucket.strip_prefix("file://").unwrap_or(&place.bucket);
    if place.storage == "file" && place.shards <= 1 && !Path::new(folder).is_dir() {
        return refused(format!("the volume's bucket {folder} is missing"));
    }
    match env.timeout(OWNER_PATIENCE, store.get("juicefs_uuid", None)).await {
        Ok(Ok(mark)) => check_mark(env, format, cipher, mark, &store.describe()).await,
        // Volumes formatted without looking at the bucket carry no mark; nor does the empty folder
        // of a disk that is not mounted.
        Ok(Err(e)) if e.is_not_found() => {
            tracing::warn!(bucket = %store.describe(), "the bucket has no juicefs_uuid object: is it mounted?");
            Ok(())
        }
        Ok(Err(e)) if failing == Failing::Refuse => {
            refused(format!("the bucket {} cannot be used: {e}", store.describe()))
        }
        Ok(Err(e)) => {
            tracing::warn!(bucket = %store.describe(), error = %e, "the bucket does not say whose it is");
            Ok(())
        }
        Err(_) => {
            tracing::warn!(bucket = %store.describe(), "the bucket does not answer");
            Ok(())
        }
    }
}

/// Is this object `juicefs_uuid` the one that formatting this volume left in the bucket?
async fn check_mark(env: &Env, format: &Format, cipher: Option<&Arc<Cipher>>, mark: Bytes, bucket: &str) -> Result<()> {
    let clear = is_uuid(&mark).then(|| mark.clone());
    let uuid = match (keys::opened(env, cipher, mark).await, clear) {
        (Ok(uuid), _) if is_uuid(&uuid) => uuid,
        (_, Some(uuid)) => uuid,
        (Ok(_), None) => {
            return refused(format!(
                "the bucket {bucket} belongs to another volume: its juicefs_uuid is not readable, as that of an \
                 encrypted volume, and this volume is not encrypted"
            ));
        }
        (Err(e), None) => {
            return refused(format!(
                "the bucket {bucket} cannot be read with the key of volume {:?}: juicefs_uuid: {e}",
                format.name
            ));
        }
    };
    let uuid = String::from_utf8_lossy(uuid.trim_ascii()).into_owned();
    if uuid == format.uuid {
        return Ok(());
    }
    refused(format!(
        "the bucket {bucket} belongs to another volume: its UUID is {uuid}, this volume's is {}",
        format.uuid
    ))
}

fn is_uuid(mark: &[u8]) -> bool {
    std::str::from_utf8(mark.trim_ascii()).is_ok_and(|text| uuid::Uuid::try_parse(text).is_ok())
}

/// Where the objects are, as the volume's setting and then `storage` have it.
fn placed(format: &Format, storage: &Storage) -> Location {
    let mut place = location(format);
    let given = |own: &mut String, other: &Option<String>| {
        if let Some(other) = other.as_ref().filter(|o| !o.is_empty()) {
            own.clone_from(other);
        }
    };
    given(&mut place.storage, &storage.storage);
    given(&mut place.bucket, &storage.bucket);
    given(&mut place.storage_class, &storage.storage_class);
    place
}

fn decorated(
    env: &Env,
    base: Arc<dyn ObjectStore>,
    format: &Format,
    storage: &Storage,
    dials: &Dials,
) -> Arc<dyn ObjectStore> {
    let (up, down) = bandwidth(format, storage);
    let limits = Limits {
        get_timeout: storage.get_timeout,
        put_timeout: storage.put_timeout,
        io_retries: storage.io_retries,
        max_uploads: storage.max_uploads,
        max_downloads: storage.max_downloads,
        upload_bytes_per_sec: up,
        download_bytes_per_sec: down,
    };
    cairn_object::stack_with(env, base, &limits, dials)
}

/// Bytes a second up and down: ours if given, else the volume's.
pub(crate) fn bandwidth(format: &Format, storage: &Storage) -> (u64, u64) {
    let bytes = |mbit: u64| mbit.saturating_mul(MBIT_BYTES);
    (
        bytes(storage.upload_limit.unwrap_or(format.upload_limit)),
        bytes(storage.download_limit.unwrap_or(format.download_limit)),
    )
}

/// Is this bucket one that a volume can live in? Writes, reads and deletes a probe.
///
/// # Errors
/// A sentence that names the bucket, never its secrets.
pub async fn check_bucket(env: &Env, store: &dyn ObjectStore) -> Result<()> {
    if let Err(e) = cairn_object::probe(env, store).await {
        return refused(format!("the bucket {} cannot be used: {e}", store.describe()));
    }
    Ok(())
}

/// Refuses what cannot be read yet.
pub(crate) fn check_supported(format: &Format) -> Result<()> {
    if !format.encrypt_key.is_empty() {
        keys::algorithm(format)?;
    }
    format.compression().map(|_| ()).or_else(refused)?;
    if !(64..=16384).contains(&format.block_size) || !format.block_size.is_power_of_two() {
        return refused(format!("the volume's block size of {} KiB is not one of the format", format.block_size));
    }
    Ok(())
}
