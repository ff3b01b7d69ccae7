//! Objects as files below a folder: the store of a volume on a local or mounted disk.
//!
//! A put writes a temporary name in the destination folder and renames it, so that a reader sees
//! the whole object or none. With `fsync` (the default) the file and the folders that name it are
//! on disk before the put returns. Every call is one trip to the blocking pool.
//!
//! The CRC-32C of an object stands in the extended attribute `user.cairn.crc32c` where the file
//! system takes one, and is verified when the whole object is read. Other clients ignore it; an
//! object they write has none and is not verified.
//!
//! Names: path = bucket + key, as text (volume format 2.7). The bucket's folder itself is made by
//! `create` only: a disk that is not mounted must not look like an empty store. Where the folder is
//! the mount point itself, the empty one below is told from it by device and inode.

mod disk;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_env::Env;
use futures::stream::BoxStream;

use crate::walk::{Folders, Node, Wanted, walk};
use crate::{Error, ObjectInfo, ObjectStore, Payload, Result};

use disk::Disk;

/// A folder of objects.
pub(crate) struct FileStore {
    env: Env,
    disk: Arc<Disk>,
}

/// The folder that a store with this `root` lives in.
pub(crate) fn folder_of(root: &str) -> PathBuf {
    disk::folder_of(root).to_owned()
}

impl FileStore {
    /// The store whose paths start with `root`; nothing is touched yet.
    pub(crate) fn new(env: &Env, root: &str, fsync: bool) -> FileStore {
        FileStore { env: env.clone(), disk: Arc::new(Disk::new(root, fsync)) }
    }

    /// Runs `work` on the blocking pool with the path of `key`, and names its error.
    async fn run<T, F>(&self, action: &'static str, key: &str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Disk, &Path) -> io::Result<T> + Send + 'static,
    {
        let path = self.path(action, key)?;
        let disk = self.disk.clone();
        let outcome = self.env.blocking(move || disk.run(|disk| work(disk, &path))).await;
        outcome.map_err(|e| name_error(action, key, e))
    }

    /// Where `key` is. A key that would leave the folder is refused.
    fn path(&self, action: &'static str, key: &str) -> Result<PathBuf> {
        let climbs = key.split('/').any(|part| part == ".." || part == ".");
        if climbs || key.starts_with('/') || key.contains('\0') {
            let reason = "the key does not name a file below the bucket".to_owned();
            return Err(Error::Denied { action, key: key.to_owned(), reason });
        }
        Ok(self.disk.path(key))
    }
}

/// The condition behind an I/O error.
fn name_error(action: &'static str, key: &str, error: io::Error) -> Error {
    let key = key.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { key },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::Denied { action, key, reason: error.to_string() }
        }
        _ => Error::Unavailable { action, key, reason: error.to_string(), persistent: false },
    }
}

#[async_trait]
impl ObjectStore for FileStore {
    fn describe(&self) -> String {
        format!("file://{}", self.disk.root())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        match range {
            Some(range) => self.run("get", key, move |disk, path| disk.read_range(path, range)).await,
            None => {
                let (bytes, checksum) = self.run("get", key, |disk, path| disk.read(path)).await?;
                match checksum {
                    Some(stored) => crate::checksum::verify(key, bytes, &stored),
                    None => Ok(bytes),
                }
            }
        }
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        if key.ends_with('/') {
            return self.run("put", key, |disk, path| disk.make_folder(path)).await;
        }
        let random = self.env.random();
        self.run("put", key, move |disk, path| disk.write(path, &body, random)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.run("delete", key, |disk, path| disk.remove(path)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        let owned = key.to_owned();
        self.run("head", key, move |_, path| disk::info(owned, path)).await
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        walk(self, Wanted::new(prefix, after))
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        walk(self, Wanted::leftovers(prefix))
    }

    async fn create(&self) -> Result<()> {
        let disk = self.disk.clone();
        let outcome = self.env.blocking(move || disk.create()).await;
        outcome.map_err(|e| name_error("create", self.disk.root(), e))
    }
}

#[async_trait]
impl Folders for FileStore {
    async fn entries(&self, folder: String, wanted: Wanted) -> Result<Vec<Node>> {
        let owned = folder.clone();
        let found = self.run("list", &folder, move |_, path| disk::entries(&owned, path, &wanted)).await;
        match found {
            Err(Error::NotFound { .. }) => Ok(Vec::new()),
            other => other,
        }
    }
}

impl std::fmt::Debug for FileStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}
