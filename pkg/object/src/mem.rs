//! Objects in memory: for tests, and for a volume that may vanish with its process.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_env::Env;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use parking_lot::RwLock;

use crate::store::clip;
use crate::{Error, ObjectInfo, ObjectStore, Payload, Result};

/// A sorted map behind the trait.
#[derive(Debug)]
pub struct MemStore {
    env: Env,
    objects: RwLock<BTreeMap<String, Object>>,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    modified: SystemTime,
}

impl MemStore {
    /// An empty store.
    pub fn new(env: &Env) -> MemStore {
        MemStore { env: env.clone(), objects: RwLock::default() }
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.read().len()
    }

    /// Holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys of all objects, in order.
    pub fn keys(&self) -> Vec<String> {
        self.objects.read().keys().cloned().collect()
    }

    fn find(&self, key: &str) -> Result<Object> {
        self.objects.read().get(key).cloned().ok_or_else(|| Error::NotFound { key: key.to_owned() })
    }

    fn next(&self, after: Bound<&str>) -> Option<ObjectInfo> {
        let objects = self.objects.read();
        let (key, object) = objects.range::<str, (Bound<&str>, Bound<&str>)>((after, Bound::Unbounded)).next()?;
        Some(info(key, object))
    }
}

fn info(key: &str, object: &Object) -> ObjectInfo {
    ObjectInfo { key: key.to_owned(), bytes: object.bytes.len() as u64, modified: object.modified }
}

#[async_trait]
impl ObjectStore for MemStore {
    fn describe(&self) -> String {
        "mem://".to_owned()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let bytes = self.find(key)?.bytes;
        Ok(match range {
            None => bytes,
            Some(range) => {
                let range = clip(range, bytes.len() as u64);
                bytes.slice(range.start as usize..range.end as usize)
            }
        })
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        // A copy, so that a small object does not keep a large buffer of its writer alive.
        let object = Object { bytes: Bytes::from(body.0.concat()), modified: self.env.now() };
        self.objects.write().insert(key.to_owned(), object);
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.objects.write().remove(key);
        Ok(())
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        Ok(info(key, &self.find(key)?))
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let prefix = prefix.to_owned();
        let first = if after >= prefix.as_str() { after.to_owned() } else { prefix.clone() };
        let skip_first = after >= prefix.as_str() && !after.is_empty();
        stream::iter(std::iter::successors(
            self.next(if skip_first { Bound::Excluded(first.as_str()) } else { Bound::Included(first.as_str()) }),
            |last| self.next(Bound::Excluded(last.key.as_str())),
        ))
        .take_while(move |info| std::future::ready(info.key.starts_with(&prefix)))
        .map(Ok)
        .boxed()
    }
}
