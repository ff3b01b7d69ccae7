//! Where a volume's objects are, and how to get there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_env::Env;

use crate::file::{self, FileStore};
use crate::mem::MemStore;
use crate::prefix::Prefixed;
use crate::shard::{Sharded, expand_template};
use crate::{Error, ObjectStore, Result, remote};

/// The part of the volume's setting that says where objects are. Debug hides secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    /// Driver name: `file`, `s3`, `minio`, `gs`, ... (see [`known_storages`]).
    pub storage: String,
    /// Bucket URL or folder, as the volume's setting has it; with shards a template with `%d`.
    pub bucket: String,
    /// Access key, account or user; empty: what the environment offers.
    pub access_key: String,
    /// Secret key or password.
    pub secret_key: String,
    /// Token of temporary credentials; empty: none.
    pub session_token: String,
    /// Number of buckets; 0 and 1 mean one, without a template.
    pub shards: u32,
    /// In front of every key: the volume's name and a slash.
    pub prefix: String,
    /// Storage class of new objects; empty: the bucket's default.
    pub storage_class: String,
    /// `file` only: a put is on disk when it returns. Turning it off makes a power cut lose what
    /// was acknowledged in the last half minute, and saves a disk flush per object.
    pub fsync: bool,
}

impl Location {
    /// A place without credentials, prefix and shards, with fsync.
    pub fn new(storage: &str, bucket: &str) -> Location {
        Location {
            storage: storage.to_owned(),
            bucket: bucket.to_owned(),
            access_key: String::new(),
            secret_key: String::new(),
            session_token: String::new(),
            shards: 0,
            prefix: String::new(),
            storage_class: String::new(),
            fsync: true,
        }
    }

    /// Folders of this machine that hold the objects; none if they are elsewhere.
    pub fn local_folders(&self) -> Result<Vec<PathBuf>> {
        if !self.is_file() {
            return Ok(Vec::new());
        }
        self.buckets()?.iter().map(|bucket| Ok(file::folder_of(&file_root(bucket, &self.prefix)?))).collect()
    }

    fn is_file(&self) -> bool {
        self.storage.eq_ignore_ascii_case("file")
    }

    fn buckets(&self) -> Result<Vec<String>> {
        match self.shards {
            0 | 1 => Ok(vec![self.bucket.clone()]),
            shards => (0..shards).map(|shard| expand_template(&self.bucket, shard)).collect(),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Location")
            .field("storage", &self.storage)
            .field("bucket", &remote::without_secrets(&self.bucket))
            .field("shards", &self.shards)
            .field("prefix", &self.prefix)
            .field("storage_class", &self.storage_class)
            .field("fsync", &self.fsync)
            .finish_non_exhaustive()
    }
}

/// Names that [`open`] takes as `storage`.
pub fn known_storages() -> Vec<&'static str> {
    ["file", "mem"].into_iter().chain(remote::known_storages()).collect()
}

/// The store at `location`, seen from below its prefix. Touches no network and makes nothing:
/// the first call connects, [`ObjectStore::create`] makes the place.
pub fn open(env: &Env, location: &Location) -> Result<Arc<dyn ObjectStore>> {
    let buckets = location.buckets()?;
    let mut stores = Vec::with_capacity(buckets.len());
    for bucket in &buckets {
        stores.push(open_bucket(env, location, bucket)?);
    }
    let store = match stores.len() {
        1 => stores.remove(0),
        _ => Arc::new(Sharded::new(sharded_name(location), stores)),
    };
    if location.prefix.is_empty() {
        return Ok(store);
    }
    Ok(Arc::new(Prefixed::new(store, &location.prefix)))
}

fn sharded_name(location: &Location) -> String {
    let template = remote::without_secrets(&location.bucket);
    let place = template.split_once("://").map_or(template.as_str(), |(_, rest)| rest).trim_end_matches('/');
    format!("{}://{place}/", location.storage.to_lowercase())
}

fn open_bucket(env: &Env, location: &Location, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
    match location.storage.to_lowercase().as_str() {
        "file" => Ok(Arc::new(FileStore::new(env, &file_root(bucket, &location.prefix)?, location.fsync))),
        "mem" => Ok(Arc::new(MemStore::new(env))),
        storage => match remote::open(env, storage, location, bucket)? {
            Some(store) => Ok(store),
            None => Err(Error::Config { reason: unknown(storage) }),
        },
    }
}

fn unknown(storage: &str) -> String {
    if remote::OPTIONAL.contains(&storage) {
        return format!("the object storage {storage:?} is not in this build: it comes with `--features {storage}`");
    }
    format!("the object storage {storage:?} is not known here; known are {}", known_storages().join(", "))
}

/// The text in front of every path.
///
/// The format says bucket + key, and a bucket that `format` stored ends in a slash. One given by
/// hand may not: then the folder of that name is meant, unless a client that took the format by
/// its word has already put the volume beside it.
fn file_root(bucket: &str, prefix: &str) -> Result<String> {
    let path = bucket.strip_prefix("file://").unwrap_or(bucket);
    if path.is_empty() {
        return Err(Error::Config { reason: "the bucket of a file storage is a folder, and none is given".to_owned() });
    }
    let beside = !prefix.is_empty() && Path::new(&format!("{path}{prefix}")).is_dir();
    let below = Path::new(&format!("{path}/{prefix}")).is_dir();
    if path.ends_with('/') || (beside && !below) { Ok(path.to_owned()) } else { Ok(format!("{path}/")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_storage_is_answered_with_the_known_ones() {
        let error = open(&Env::real(), &Location::new("floppy", "a:")).unwrap_err().to_string();
        for storage in remote::OPTIONAL.into_iter().filter(|s| !known_storages().contains(s)) {
            let error = open(&Env::real(), &Location::new(storage, "b")).unwrap_err().to_string();
            assert!(error.contains("--features"), "{error}");
        }
        assert!(error.contains("\"floppy\"") && error.contains("file") && error.contains("s3"), "{error}");
    }

    #[test]
    fn local_folders_are_those_of_the_file_storage() {
        let folders = |location: Location| location.local_folders().unwrap();
        assert_eq!(folders(Location::new("file", "/var/jfs/")), [Path::new("/var/jfs")]);
        assert_eq!(
            folders(Location { shards: 2, ..Location::new("file", "/d%d/") }),
            [Path::new("/d0"), Path::new("/d1")]
        );
        assert_eq!(folders(Location::new("s3", "http://h/b")), Vec::<PathBuf>::new());
    }

    #[test]
    fn debug_shows_no_secret() {
        let location = Location {
            access_key: "public-part".into(),
            secret_key: "very-secret".into(),
            session_token: "also-secret".into(),
            ..Location::new("s3", "https://user:hidden@host/bucket")
        };
        let text = format!("{location:?}");
        for secret in ["very-secret", "also-secret", "hidden", "public-part"] {
            assert!(!text.contains(secret), "{text}");
        }
    }

    #[test]
    fn a_folder_without_a_slash_is_still_a_folder_unless_the_volume_stands_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = dir.path().join("store").to_str().unwrap().to_owned();
        assert_eq!(file_root(&bucket, "vol/").unwrap(), format!("{bucket}/"));
        std::fs::create_dir(format!("{bucket}vol")).unwrap();
        assert_eq!(file_root(&bucket, "vol/").unwrap(), bucket);
        assert_eq!(file_root(&format!("file://{bucket}/"), "vol/").unwrap(), format!("{bucket}/"));
    }
}
