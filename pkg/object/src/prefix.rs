//! A store seen from below one prefix: the volume's name and a slash.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::{Error, ObjectInfo, ObjectStore, Payload, Result, Sink};

/// Puts `prefix` in front of every key on the way down and takes it off on the way up.
#[derive(Debug)]
pub(crate) struct Prefixed {
    inner: Arc<dyn ObjectStore>,
    prefix: String,
}

impl Prefixed {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, prefix: &str) -> Prefixed {
        Prefixed { inner, prefix: prefix.to_owned() }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn strip(&self, mut info: ObjectInfo) -> ObjectInfo {
        if info.key.starts_with(&self.prefix) {
            info.key.drain(..self.prefix.len());
        }
        info
    }

    /// Errors name the key the caller used.
    fn strip_error(&self, mut error: Error) -> Error {
        match &mut error {
            Error::NotFound { key }
            | Error::Denied { key, .. }
            | Error::Corrupt { key, .. }
            | Error::Unavailable { key, .. } => {
                if key.starts_with(&self.prefix) {
                    key.drain(..self.prefix.len());
                }
            }
            Error::Config { .. } => {}
        }
        error
    }
}

#[async_trait]
impl ObjectStore for Prefixed {
    fn describe(&self) -> String {
        format!("{}{}", self.inner.describe(), self.prefix)
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.inner.get(&self.full(key), range).await.map_err(|e| self.strip_error(e))
    }

    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        self.inner.get_into(&self.full(key), range, sink).await.map_err(|e| self.strip_error(e))
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        self.inner.put(&self.full(key), body).await.map_err(|e| self.strip_error(e))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(&self.full(key)).await.map_err(|e| self.strip_error(e))
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        match self.inner.head(&self.full(key)).await {
            Ok(info) => Ok(self.strip(info)),
            Err(e) => Err(self.strip_error(e)),
        }
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let after = if after.is_empty() { String::new() } else { self.full(after) };
        let found = self.inner.list(&self.full(prefix), &after);
        found.map(|item| item.map(|info| self.strip(info)).map_err(|e| self.strip_error(e))).boxed()
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let found = self.inner.leftovers(&self.full(prefix));
        found.map(|item| item.map(|info| self.strip(info)).map_err(|e| self.strip_error(e))).boxed()
    }

    async fn create(&self) -> Result<()> {
        self.inner.create().await
    }
}
