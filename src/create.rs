//! Making a volume: the bucket is tried and marked before the metadata names it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_crypt::{Cipher, Passphrase};
use cairn_env::Env;
use cairn_object::ObjectStore;
use cairn_types::Format;

use crate::error::{Error, refused};
use crate::storage::{check_bucket, check_supported, location};
use crate::{Result, admin, keys};

/// A SQLite database without tables is one page, or nothing.
const DATABASE_HEADER_BYTES: u64 = 4096;

/// What became of the wish for a volume.
#[derive(Debug)]
pub enum Created {
    /// A new volume.
    New(Format),
    /// One was there; its setting is now this.
    Updated(Format),
    /// One was there and was left alone.
    Kept(Format),
}

/// How to treat what is there.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Change what an existing volume must not change, and take a bucket that is not empty.
    pub force: bool,
    /// Leave an existing volume alone.
    pub no_update: bool,
    /// Do not touch the bucket.
    pub no_check: bool,
    /// What unlocks the private key of a volume that is to be encrypted.
    pub passphrase: Passphrase,
}

/// Makes the volume that `wish` asks for at `meta_url`, or changes the setting of the one that is
/// there. `wish` is told the setting that is there and answers the one there is to be: both with
/// secrets in the clear, a new one without a UUID.
///
/// # Errors
/// A sentence: the wish itself, the bucket cannot be used or is not empty, or an existing volume
/// differs in what may not change. Nothing was changed then.
pub async fn create<E: From<Error>>(
    env: &Env,
    meta_url: &str,
    wish: impl FnOnce(Option<&Format>) -> std::result::Result<Format, E>,
    options: Options,
) -> std::result::Result<Created, E> {
    let fresh = sqlite_file(meta_url).filter(|file| !file.exists());
    let open = cairn_meta::engine::Options { create: true, read_only: false };
    let engine = cairn_meta::engine::open(env.clone(), meta_url, open).await.map_err(Error::from)?;
    let made = make(env, &*engine, wish, options).await;
    engine.close().await;
    if made.is_err()
        && let Some(file) = fresh
    {
        remove_empty(&file);
    }
    made
}

async fn make<E: From<Error>>(
    env: &Env,
    engine: &dyn cairn_meta::txn::Engine,
    wish: impl FnOnce(Option<&Format>) -> std::result::Result<Format, E>,
    options: Options,
) -> std::result::Result<Created, E> {
    let stored = cairn_meta::load_format(env, engine).await.map_err(Error::from)?;
    if let Some(stored) = stored.as_ref().filter(|_| options.no_update) {
        return Ok(Created::Kept(stored.clone()));
    }
    let old = stored.as_ref().map(admin::opened_to_change).transpose()?;
    let mut wanted = wish(old.as_ref())?;
    if let Some(stored) = &stored {
        admin::given_again(stored, &wanted)?;
    }
    check_supported(&wanted)?;
    match (stored, &old) {
        (Some(stored), Some(old)) if *old == wanted => return Ok(Created::Kept(stored)),
        (_, Some(old)) => {
            check_same_encryption(old, &wanted)?;
            if !options.force {
                check_unchangeable(old, &wanted)?;
            }
        }
        (_, None) => wanted.uuid = new_uuid(env),
    }
    if old.is_none() {
        // A key that cannot be used is told before anything is made.
        let cipher = keys::cipher(env, &wanted, &options.passphrase).await?;
        if !options.no_check {
            let store = made_bucket(env, &wanted).await?;
            refuse_foreign(&*store, &wanted, options.force).await?;
            mark(env, &*store, &wanted, cipher.as_ref()).await?;
        }
    } else if !options.no_check {
        made_bucket(env, &wanted).await?;
    }
    let sealed = admin::sealed(env, &wanted)?;
    cairn_meta::format_volume(env, engine, &sealed).await.map_err(Error::from)?;
    Ok(if old.is_some() { Created::Updated(sealed) } else { Created::New(sealed) })
}

/// The file of a SQLite database.
fn sqlite_file(meta_url: &str) -> Option<PathBuf> {
    let rest = meta_url.strip_prefix("sqlite3://")?;
    Some(rest.split_once('?').map_or(rest, |(path, _)| path).into())
}

/// Removes a database that a refused format has made: no tables, and nobody else at work in it.
fn remove_empty(file: &Path) {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let is_empty = file.metadata().is_ok_and(|m| m.len() <= DATABASE_HEADER_BYTES);
    if is_empty
        && !Path::new(&log).exists()
        && let Err(e) = std::fs::remove_file(file)
    {
        tracing::warn!(file = %file.display(), error = %e, "an empty database is left behind");
    }
}

/// A random UUID, version 4, from the volume's source of chance.
fn new_uuid(env: &Env) -> String {
    let bytes = (u128::from(env.random()) << 64 | u128::from(env.random())).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// The bucket, made if it is missing.
async fn made_bucket(env: &Env, format: &Format) -> Result<Arc<dyn ObjectStore>> {
    let store = cairn_object::open(env, &location(format))?;
    if let Err(e) = store.create().await {
        return refused(format!("the bucket {} cannot be made: {e}", store.describe()));
    }
    check_bucket(env, &*store).await?;
    Ok(store)
}

/// Says in the bucket whose it is; encrypted, if all objects are.
async fn mark(env: &Env, store: &dyn ObjectStore, format: &Format, cipher: Option<&Arc<Cipher>>) -> Result<()> {
    let body = keys::sealed(env, cipher, format.uuid.clone().into_bytes()).await;
    Ok(cairn_object::mark(store, body).await?)
}

/// A bucket with objects under the volume's name belongs to somebody.
async fn refuse_foreign(store: &dyn ObjectStore, format: &Format, force: bool) -> Result<()> {
    if force || cairn_object::is_empty_prefix(store).await? {
        return Ok(());
    }
    let owner = match store.get("juicefs_uuid", None).await {
        Ok(uuid) => format!(" (they belong to volume {})", String::from_utf8_lossy(&uuid).trim()),
        Err(_) => String::new(),
    };
    refused(format!(
        "the bucket is not empty: {} has objects under {:?}{owner}; choose another name or bucket, or pass --force if \
         nobody needs them",
        store.describe(),
        format!("{}/", format.name),
    ))
}

/// Objects stay as they were sealed: not even force makes another key or cipher fit them.
fn check_same_encryption(old: &Format, new: &Format) -> Result<()> {
    let cipher =
        |f: &Format| if f.encrypt_key.is_empty() { None } else { Some(keys::algorithm(f).map(|a| a.to_string())) };
    let same_cipher = match (cipher(old), cipher(new)) {
        (None, None) => true,
        (Some(Ok(old)), Some(Ok(new))) => old == new,
        _ => false,
    };
    if same_cipher && old.encrypt_key == new.encrypt_key {
        return Ok(());
    }
    refused(format!(
        "volume {:?} is there already, and whether and how a volume is encrypted can never change",
        old.name
    ))
}

/// What stays as it is when the volume is formatted again.
fn check_unchangeable(old: &Format, new: &Format) -> Result<()> {
    let mut differs = Vec::new();
    let mut must_equal = |what: &str, old: String, new: String| {
        if old != new {
            differs.push(format!("{what} is {old}, not {new}"));
        }
    };
    let codec = |f: &Format| f.compression().map_or_else(|e| e, |c| format!("{c:?}").to_lowercase());
    must_equal("the name", old.name.clone(), new.name.clone());
    must_equal("the block size", format!("{} KiB", old.block_size), format!("{} KiB", new.block_size));
    must_equal("compression", codec(old), codec(new));
    must_equal("the number of shards", old.shards.max(1).to_string(), new.shards.max(1).to_string());
    must_equal("hash-prefix", old.hash_prefix.to_string(), new.hash_prefix.to_string());
    if differs.is_empty() {
        return check_same_place(old, new);
    }
    refused(format!("this database holds volume {:?}, and these can never change: {}", old.name, differs.join("; ")))
}

/// Objects do not move by themselves, so another bucket is more likely a slip than a wish.
fn check_same_place(old: &Format, new: &Format) -> Result<()> {
    if (&old.storage, &old.bucket) == (&new.storage, &new.bucket) {
        return Ok(());
    }
    let place = |f: &Format| format!("{} {}", f.storage, without_secrets(&f.bucket));
    refused(format!(
        "volume {:?} keeps its objects in {}, not in {}: if they are all there already, pass --force",
        old.name,
        place(old),
        place(new)
    ))
}

/// A bucket's URL without what may be a password in it.
fn without_secrets(bucket: &str) -> String {
    match bucket.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://{rest}"),
        None => bucket.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_change_is_told_at_once() {
        let old = Format { name: "one".into(), block_size: 4096, ..Format::default() };
        let new = Format { name: "two".into(), block_size: 1024, compression: "lz4".into(), ..Format::default() };
        let said = check_unchangeable(&old, &new).unwrap_err().to_string();
        for word in ["one", "two", "4096 KiB", "lz4"] {
            assert!(said.contains(word), "{said}");
        }
        assert!(check_unchangeable(&old, &Format { compression: "none".into(), ..old.clone() }).is_ok());
    }

    #[test]
    fn another_bucket_is_told_without_its_password() {
        let old = Format { name: "one".into(), bucket: "/nowhere/a/".into(), ..Format::default() };
        let new = Format { storage: "webdav".into(), bucket: "https://me:hush@host/b".into(), ..old.clone() };
        let said = check_unchangeable(&old, &new).unwrap_err().to_string();
        assert!(said.contains("/nowhere/a/") && said.contains("https://host/b") && said.contains("--force"), "{said}");
        assert!(!said.contains("hush"), "{said}");
    }

    #[test]
    fn only_an_empty_database_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.db");
        std::fs::write(&file, vec![0; 8192]).unwrap();
        remove_empty(&file);
        assert!(file.exists());
        std::fs::write(&file, vec![0; 4096]).unwrap();
        std::fs::write(dir.path().join("x.db-wal"), "").unwrap();
        remove_empty(&file);
        assert!(file.exists());
        std::fs::remove_file(dir.path().join("x.db-wal")).unwrap();
        remove_empty(&file);
        assert!(!file.exists());
    }
}
