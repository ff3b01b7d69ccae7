//! A store whose place or keys may change while calls are under way.
//!
//! Whoever rotates a volume's keys, or moves its bucket, tells the setting, and every client follows
//! within a heartbeat without a mount of its own. A call goes to the store that was there when it
//! began and ends there; the decorators above repeat what fails, and the repetition goes to the new
//! one. Who swaps has to see to it that both show the same objects.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use parking_lot::RwLock;

use crate::{ObjectInfo, ObjectStore, Payload, Result};

/// A store that can be replaced under its users.
#[derive(Debug)]
pub struct Swappable(RwLock<Arc<dyn ObjectStore>>);

impl Swappable {
    /// Starts as `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Swappable {
        Swappable(RwLock::new(store))
    }

    /// From here on calls go to `store`.
    pub fn swap(&self, store: Arc<dyn ObjectStore>) {
        *self.0.write() = store;
    }

    fn now(&self) -> Arc<dyn ObjectStore> {
        self.0.read().clone()
    }
}

#[async_trait]
impl ObjectStore for Swappable {
    fn describe(&self) -> String {
        self.now().describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.now().get(key, range).await
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        self.now().put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.now().delete(key).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.now().head(key).await
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let (store, prefix) = (self.now(), prefix.to_owned());
        let first = stream::unfold((store, prefix, Some(after.to_owned())), page);
        first.flat_map(stream::iter).boxed()
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let (store, prefix) = (self.now(), prefix.to_owned());
        let all = async move { stream::iter(store.leftovers(&prefix).collect::<Vec<_>>().await) };
        stream::once(all).flatten().boxed()
    }

    async fn create(&self) -> Result<()> {
        self.now().create().await
    }
}

/// Entries taken from a listing at a time: the stream borrows its store, which a swap may drop.
const PAGE: usize = 1000;

type Listing = (Arc<dyn ObjectStore>, String, Option<String>);

/// The next entries of a listing, and where to go on; `None` after the last.
async fn page((store, prefix, after): Listing) -> Option<(Vec<Result<ObjectInfo>>, Listing)> {
    let found: Vec<_> = store.list(&prefix, &after?).take(PAGE).collect().await;
    let next = match found.last() {
        Some(Ok(last)) if found.len() == PAGE => Some(last.key.clone()),
        _ => None,
    };
    if found.is_empty() { None } else { Some((found, (store, prefix, next))) }
}

#[cfg(test)]
mod tests {
    use cairn_env::Env;
    use futures::TryStreamExt;

    use super::*;
    use crate::MemStore;

    #[tokio::test]
    async fn a_swappable_store_passes_the_suite() {
        let env = Env::real();
        crate::testing::suite(Arc::new(Swappable::new(Arc::new(MemStore::new(&env))))).await;
    }

    #[tokio::test]
    async fn calls_after_a_swap_go_to_the_new_store_and_a_listing_ends_where_it_began() {
        let env = Env::real();
        let (old, new) = (MemStore::new(&env), MemStore::new(&env));
        for n in 0..PAGE + 5 {
            old.put(&format!("k{n:06}"), Bytes::from_static(b"old").into()).await.unwrap();
        }
        new.put("k000000", Bytes::from_static(b"new").into()).await.unwrap();
        let store = Swappable::new(Arc::new(old));
        let mut listing = store.list("k", "");
        assert!(listing.try_next().await.unwrap().is_some());
        store.swap(Arc::new(new));
        assert_eq!(store.get("k000000", None).await.unwrap(), "new");
        assert_eq!(listing.try_collect::<Vec<_>>().await.unwrap().len(), PAGE + 4);
        assert_eq!(store.list("k", "").try_collect::<Vec<_>>().await.unwrap().len(), 1);
    }
}
