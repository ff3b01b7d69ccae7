//! How many transfers go on at the same time: uploads and downloads each have permits of their own,
//! so that a flood of one kind does not starve the other.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_env::Budget;
use futures::stream::BoxStream;

use crate::metrics::Metrics;
use crate::{ObjectInfo, ObjectStore, Payload, Result, Sink};

/// Holds puts and gets back until a permit is free. Small calls (head, delete, list) pass.
#[derive(Debug)]
pub(crate) struct Concurrent {
    inner: Arc<dyn ObjectStore>,
    uploads: Budget,
    downloads: Budget,
    metrics: Metrics,
}

impl Concurrent {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, uploads: u32, downloads: u32, metrics: &Metrics) -> Concurrent {
        Concurrent {
            inner,
            uploads: Budget::new(uploads.max(1).into()),
            downloads: Budget::new(downloads.max(1).into()),
            metrics: metrics.clone(),
        }
    }
}

#[async_trait]
impl ObjectStore for Concurrent {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let _permit = self.downloads.acquire(1).await;
        self.inner.get(key, range).await
    }

    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        let _permit = self.downloads.acquire(1).await;
        self.inner.get_into(key, range, sink).await
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        let _permit = self.uploads.acquire(1).await;
        let _counted = self.metrics.uploading();
        self.inner.put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.inner.head(key).await
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        self.inner.leftovers(prefix)
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        self.inner.list(prefix, after)
    }

    async fn create(&self) -> Result<()> {
        self.inner.create().await
    }
}
