//! What is counted about a store, and the decorator that counts it, one attempt at a time.
//!
//! The names are the reference's without its prefix, so that its dashboards keep working.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_env::Env;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::{ObjectInfo, ObjectStore, Payload, Result, Sink};

const REQUEST_DURATIONS: &str = "object_request_durations_histogram_seconds";
const REQUEST_ERRORS: &str = "object_request_errors";
const REQUEST_DATA_BYTES: &str = "object_request_data_bytes";
const REQUEST_UPLOADING: &str = "object_request_uploading";

/// A transfer that takes longer is worth a line in the log.
const SLOW: Duration = Duration::from_secs(10);

/// Counters of one store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    storage_class: String,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    errors: Counter,
    data_bytes: Family<Labels, Counter>,
    uploading: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    storage_class: String,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new("")
    }
}

impl Metrics {
    /// Counters at zero, of a store whose objects have this storage class.
    pub fn new(storage_class: &str) -> Metrics {
        Metrics {
            storage_class: storage_class.to_owned(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.01, 1.5, 25))),
            errors: Counter::default(),
            data_bytes: Family::default(),
            uploading: Gauge::default(),
        }
    }

    fn labels(&self, method: &'static str) -> Labels {
        Labels { method, storage_class: self.storage_class.clone() }
    }

    /// Adds the counters to what an exporter shows.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(REQUEST_DURATIONS, "Object request latency", self.durations.clone());
        registry.register(REQUEST_ERRORS, "Failed object requests", self.errors.clone());
        registry.register(REQUEST_DATA_BYTES, "Bytes of object requests", self.data_bytes.clone());
        registry.register(REQUEST_UPLOADING, "Uploads in flight", self.uploading.clone());
    }

    /// Failed attempts so far.
    pub fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// Bytes put and got so far.
    pub fn data_bytes(&self) -> (u64, u64) {
        let of = |method| self.data_bytes.get_or_create(&self.labels(method)).get();
        (of("PUT"), of("GET"))
    }

    /// Counts an upload as long as the answer lives.
    pub(crate) fn uploading(&self) -> impl Drop + Send + use<> {
        self.uploading.inc();
        Counted(self.uploading.clone())
    }

    fn add_bytes(&self, method: &'static str, bytes: u64) {
        self.data_bytes.get_or_create(&self.labels(method)).inc_by(bytes);
    }

    fn observe(&self, method: &'static str, key: &str, took: Duration, failed: bool) {
        self.durations.get_or_create(&self.labels(method)).observe(took.as_secs_f64());
        if failed {
            self.errors.inc();
        }
        if took >= SLOW {
            tracing::warn!(method, key, secs = took.as_secs_f64(), "a slow object request");
        }
    }
}

struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts every call that passes.
#[derive(Debug)]
pub(crate) struct Metered {
    env: Env,
    inner: Arc<dyn ObjectStore>,
    metrics: Metrics,
}

impl Metered {
    pub(crate) fn new(env: &Env, inner: Arc<dyn ObjectStore>, metrics: &Metrics) -> Metered {
        Metered { env: env.clone(), inner, metrics: metrics.clone() }
    }

    async fn count<T>(&self, method: &'static str, key: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let start = self.env.instant();
        let outcome = call.await;
        self.finish(method, key, start, &outcome);
        outcome
    }

    fn finish<T>(&self, method: &'static str, key: &str, start: Instant, outcome: &Result<T>) {
        let took = self.env.instant().duration_since(start);
        // That an object is not there is an answer, not a failure.
        let error = outcome.as_ref().err().filter(|e| !e.is_not_found());
        tracing::trace!(method, key, micros = took.as_micros() as u64, failed = error.is_some());
        self.metrics.observe(method, key, took, error.is_some());
    }
}

#[async_trait]
impl ObjectStore for Metered {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let bytes = self.count("GET", key, self.inner.get(key, range)).await?;
        self.metrics.add_bytes("GET", bytes.len() as u64);
        Ok(bytes)
    }

    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        let bytes = self.count("GET", key, self.inner.get_into(key, range, sink)).await?;
        self.metrics.add_bytes("GET", bytes);
        Ok(bytes)
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        let bytes = body.len() as u64;
        self.count("PUT", key, self.inner.put(key, body)).await?;
        self.metrics.add_bytes("PUT", bytes);
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.count("DELETE", key, self.inner.delete(key)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.count("HEAD", key, self.inner.head(key)).await
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        self.inner.leftovers(prefix)
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let prefix = prefix.to_owned();
        // The first step of a listing stands for the request; later ones come mostly from its page.
        let start = (self.inner.list(&prefix, after), Some(self.env.instant()));
        stream::unfold((start, prefix), move |((mut listing, started), prefix)| async move {
            let item = listing.next().await;
            if let Some(started) = started {
                let outcome = item.clone().transpose().map(drop);
                self.finish("LIST", &prefix, started, &outcome);
            }
            item.map(|item| (item, ((listing, None), prefix)))
        })
        .boxed()
    }

    async fn create(&self) -> Result<()> {
        self.inner.create().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemStore;

    #[tokio::test]
    async fn an_exporter_shows_the_references_names() {
        let env = Env::real();
        let metrics = Metrics::new("STANDARD_IA");
        let store = Metered::new(&env, Arc::new(MemStore::new(&env)), &metrics);
        store.put("k", vec![0; 100].into()).await.unwrap();
        store.get("k", Some(0..10)).await.unwrap();
        store.get("missing", None).await.unwrap_err();
        assert_eq!((metrics.data_bytes(), metrics.errors()), ((100, 10), 0));
        let mut registry = Registry::with_prefix("juicefs");
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"juicefs_object_request_durations_histogram_seconds_count{method="GET",storage_class="STANDARD_IA"} 2"#,
            r#"juicefs_object_request_data_bytes_total{method="PUT",storage_class="STANDARD_IA"} 100"#,
            "juicefs_object_request_errors_total 0",
            "juicefs_object_request_uploading 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
