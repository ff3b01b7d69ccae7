//! A limit on how long one attempt may take.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_env::Env;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::{Error, ObjectInfo, ObjectStore, Payload, Result, Sink};

/// Gives up a call that takes too long; the retry above makes a new one.
#[derive(Debug)]
pub(crate) struct TimeLimited {
    env: Env,
    inner: Arc<dyn ObjectStore>,
    get: Duration,
    put: Duration,
}

impl TimeLimited {
    pub(crate) fn new(env: &Env, inner: Arc<dyn ObjectStore>, get: Duration, put: Duration) -> TimeLimited {
        TimeLimited { env: env.clone(), inner, get, put }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        action: &'static str,
        key: &str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.env.timeout(limit, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(too_slow(limit, action, key)),
        }
    }
}

fn too_slow(limit: Duration, action: &'static str, key: &str) -> Error {
    let reason = format!("no answer within {limit:?}");
    Error::Unavailable { action, key: key.to_owned(), reason, persistent: false }
}

#[async_trait]
impl ObjectStore for TimeLimited {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.within(self.get, "get", key, self.inner.get(key, range)).await
    }

    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        self.within(self.get, "get", key, self.inner.get_into(key, range, sink)).await
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        self.within(self.put, "put", key, self.inner.put(key, body)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.within(self.put, "delete", key, self.inner.delete(key)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.within(self.get, "head", key, self.inner.head(key)).await
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        self.inner.leftovers(prefix)
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let start = Some((self.inner.list(prefix, after), prefix.to_owned()));
        stream::unfold(start, move |state| async move {
            let (mut listing, prefix) = state?;
            match self.env.timeout(self.get, listing.next()).await {
                Ok(item) => Some((item?, Some((listing, prefix)))),
                // A listing that was given up is at its end.
                Err(_) => Some((Err(too_slow(self.get, "list", &prefix)), None)),
            }
        })
        .boxed()
    }

    async fn create(&self) -> Result<()> {
        self.within(self.put, "create", "", self.inner.create()).await
    }
}
