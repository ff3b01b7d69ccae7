//! Stores of others, spoken to through opendal.
//!
//! Opening parses the URL and touches no network; the first call connects. On S3, OSS and COS the
//! CRC-32C of what is stored goes along as user metadata and is verified when a whole object comes
//! back (volume format 3.4); `disable-checksum=true` in the URL turns that off. Every body is one
//! PUT: blocks are small. Retries are not made here: see `retry`.

mod bucket;
mod connect;
mod http;
mod place;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_env::Env;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use opendal::options::{ListOptions, WriteOptions};
use opendal::{Buffer, Entry, ErrorKind, Metadata, Operator};
use parking_lot::Mutex;

use crate::checksum::{self, METADATA_NAME};
use crate::store::clip;
use crate::walk::{Folders, Node, Wanted, walk};
use crate::{Error, Location, ObjectInfo, ObjectStore, Payload, Result, Sink};

use connect::Recipe;
use place::Service;

pub(crate) use place::without_secrets;

/// Names of drivers that [`open`] knows.
pub(crate) fn known_storages() -> impl Iterator<Item = &'static str> {
    place::known_storages()
}

/// The store that the driver `storage` finds at `bucket`; `None` if there is no such driver.
pub(crate) fn open(
    env: &Env,
    storage: &str,
    location: &Location,
    bucket: &str,
) -> Result<Option<Arc<dyn ObjectStore>>> {
    let Some(place) = place::parse(storage, bucket, s3_path_style())? else { return Ok(None) };
    http::install_tls();
    let recipe = Recipe::new(place, location);
    if recipe.ignores_storage_class() {
        tracing::warn!(storage, class = location.storage_class, "this storage takes no storage class: ignored");
    }
    Ok(Some(Arc::new(RemoteStore::new(env, storage, recipe))))
}

/// At endpoints other than Amazon's the bucket is in the path, unless this variable says otherwise.
fn s3_path_style() -> bool {
    let value = std::env::var("JFS_S3_VHOST_STYLE").unwrap_or_default();
    matches!(value.as_str(), "" | "0" | "false")
}

/// A bucket somewhere.
struct RemoteStore {
    env: Env,
    name: String,
    recipe: Recipe,
    operator: Mutex<Option<Operator>>,
    /// Held while connecting, so that it is done once.
    connecting: tokio::sync::Mutex<()>,
}

impl RemoteStore {
    fn new(env: &Env, storage: &str, recipe: Recipe) -> RemoteStore {
        let place = &recipe.place;
        let host = place.endpoint.split_once("://").map_or("", |(_, rest)| rest).trim_start_matches("{account}.");
        let parts = [host, &place.bucket].into_iter().filter(|part| !part.is_empty());
        let name = format!("{storage}://{}/", parts.collect::<Vec<_>>().join("/"));
        let (operator, connecting) = (Mutex::default(), tokio::sync::Mutex::default());
        RemoteStore { env: env.clone(), name, recipe, operator, connecting }
    }

    fn service(&self) -> Service {
        self.recipe.place.service
    }

    fn keeps_checksum(&self) -> bool {
        let family = matches!(self.service(), Service::S3 { .. } | Service::Oss | Service::Cos);
        family && !self.recipe.place.options.no_checksum
    }

    /// The connection; made by the first who asks.
    async fn operator(&self) -> Result<Operator> {
        if let Some(operator) = self.connected() {
            return Ok(operator);
        }
        let _turn = self.connecting.lock().await;
        if let Some(operator) = self.connected() {
            return Ok(operator);
        }
        let operator = self.recipe.connect().await?;
        *self.operator.lock() = Some(operator.clone());
        Ok(operator)
    }

    fn connected(&self) -> Option<Operator> {
        self.operator.lock().clone()
    }

    /// The condition behind an opendal error.
    fn name_error(&self, action: &'static str, key: &str, error: &opendal::Error) -> Error {
        let reason = describe(error);
        let key = key.to_owned();
        match error.kind() {
            ErrorKind::NotFound if matches!(action, "get" | "head" | "delete") => Error::NotFound { key },
            // Whatever was not found when nothing was asked for is the bucket.
            ErrorKind::NotFound | ErrorKind::ConfigInvalid | ErrorKind::Unsupported => {
                Error::Config { reason: format!("{action} in {}: {reason}", self.name) }
            }
            // A token of Swift's ends after a day: the next attempt logs in again.
            ErrorKind::PermissionDenied
                if self.service() == Service::Swift && self.operator.lock().take().is_some() =>
            {
                Error::Unavailable { action, key, reason, persistent: false }
            }
            ErrorKind::PermissionDenied => Error::Denied { action, key, reason },
            _ => Error::Unavailable { action, key, reason, persistent: false },
        }
    }

    /// The condition behind a body that ended early; opendal wraps its errors there.
    fn name_broken(&self, action: &'static str, key: &str, error: &std::io::Error) -> Error {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<opendal::Error>()) {
            Some(inner) => self.name_error(action, key, inner),
            None => {
                let reason = error.to_string();
                Error::Unavailable { action, key: key.to_owned(), reason, persistent: false }
            }
        }
    }

    fn stored_checksum(&self, metadata: Option<&Metadata>) -> Option<String> {
        let user = metadata.filter(|_| self.keeps_checksum()).and_then(Metadata::user_metadata)?;
        // Names of headers come back in lower case.
        user.get("crc32c").or_else(|| user.get(METADATA_NAME)).map(|sum| sum.to_string())
    }

    fn verify(&self, key: &str, bytes: Bytes, metadata: Option<&Metadata>) -> Result<Bytes> {
        match self.stored_checksum(metadata) {
            Some(stored) => checksum::verify(key, bytes, &stored),
            None => Ok(bytes),
        }
    }

    fn write_options(&self, body: &Payload) -> WriteOptions {
        let checksum = || HashMap::from([(METADATA_NAME.to_owned(), checksum::of_payload(body).to_string())]);
        WriteOptions { user_metadata: self.keeps_checksum().then(checksum), ..WriteOptions::default() }
    }

    /// A range that may reach past the object's end, which opendal takes for a failure.
    async fn get_clipped(&self, key: &str, range: Range<u64>, failure: &opendal::Error) -> Result<Bytes> {
        let failure = self.name_error("get", key, failure);
        if failure.is_not_found() {
            return Err(failure);
        }
        let clipped = clip(range.clone(), self.head(key).await?.bytes);
        match clipped {
            same if same == range => Err(failure),
            none if none.is_empty() => Ok(Bytes::new()),
            part => self.get(key, Some(part)).await,
        }
    }

    /// Keys in order from a service that lists a whole bucket in order.
    async fn ordered(&self, wanted: Wanted) -> Result<BoxStream<'_, Result<ObjectInfo>>> {
        let operator = self.operator().await?;
        let start_after = Some(wanted.after.clone())
            .filter(|after| !after.is_empty() && operator.info().capability().list_with_start_after);
        let options = ListOptions { recursive: true, start_after, ..ListOptions::default() };
        let prefix = wanted.prefix.clone();
        let entries = operator.lister_options(&prefix, options).await;
        let entries = entries.map_err(|e| self.name_error("list", &prefix, &e))?;
        let infos = entries
            .map_err(move |e| self.name_error("list", &prefix, &e))
            .try_filter(move |entry| std::future::ready(entry.metadata().is_file() && wanted.object(entry.path())))
            .and_then(move |entry| self.info(entry));
        Ok(infos.boxed())
    }

    /// What a listing says; asks again where it does not say when.
    async fn info(&self, entry: Entry) -> Result<ObjectInfo> {
        match entry.metadata().last_modified() {
            Some(_) => Ok(info(entry.path(), entry.metadata())),
            // Without a time an object would look ancient, and gc deletes what is old and unknown.
            None => self.head(entry.path()).await,
        }
    }

    async fn is_there(&self) -> Result<()> {
        self.list("", "").try_next().await.map(drop)
    }

    fn lists_in_order(&self) -> bool {
        self.service() != Service::Webdav
    }
}

fn info(key: &str, metadata: &Metadata) -> ObjectInfo {
    let modified = metadata.last_modified().map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    ObjectInfo { key: key.to_owned(), bytes: metadata.content_length(), modified }
}

/// Message and causes, without the context, which may hold signed URLs.
fn describe(error: &opendal::Error) -> String {
    let mut text = error.message().to_owned();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {}", http::with_causes(source));
    }
    if text.is_empty() { error.kind().to_string() } else { text }
}

#[async_trait]
impl ObjectStore for RemoteStore {
    fn describe(&self) -> String {
        self.name.clone()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let reader = self.operator().await?.reader(key).await.map_err(|e| self.name_error("get", key, &e))?;
        let Some(range) = range else {
            let body = reader.read(..).await.map_err(|e| self.name_error("get", key, &e))?;
            return self.verify(key, body.to_bytes(), reader.metadata());
        };
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        match reader.read(range.clone()).await {
            Ok(body) => Ok(body.to_bytes()),
            Err(e) => self.get_clipped(key, range, &e).await,
        }
    }

    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(0);
        }
        let failed = |e: opendal::Error| self.name_error("get", key, &e);
        let reader = self.operator().await?.reader(key).await.map_err(failed)?;
        let mut body = match range.clone() {
            Some(range) => reader.clone().into_bytes_stream(range).await,
            None => reader.clone().into_bytes_stream(..).await,
        }
        .map_err(failed)?;
        let failed = |e: std::io::Error| self.name_broken("get", key, &e);
        let mut crc = checksum::Running::default();
        let mut total = 0;
        sink.begin();
        while let Some(bytes) = body.try_next().await.map_err(failed)? {
            if range.is_none() {
                crc.update(&bytes);
            }
            total += bytes.len() as u64;
            sink.push(&bytes);
        }
        if range.is_none()
            && let Some(stored) = self.stored_checksum(reader.metadata())
        {
            crc.verify(key, &stored)?;
        }
        Ok(total)
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        let options = self.write_options(&body);
        let buffer = Buffer::from(body.0);
        let written = self.operator().await?.write_options(key, buffer, options).await;
        written.map(drop).map_err(|e| self.name_error("put", key, &e))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.operator().await?.delete(key).await {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.name_error("delete", key, &e)),
            _ => Ok(()),
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        let metadata = self.operator().await?.stat(key).await.map_err(|e| self.name_error("head", key, &e))?;
        if !metadata.is_file() {
            return Err(Error::NotFound { key: key.to_owned() });
        }
        Ok(info(key, &metadata))
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let wanted = Wanted::new(prefix, after);
        if !self.lists_in_order() {
            return walk(self, wanted);
        }
        stream::once(self.ordered(wanted)).try_flatten().boxed()
    }

    /// Makes a missing bucket on S3, where we hold its keys; elsewhere says whether it is there.
    async fn create(&self) -> Result<()> {
        match self.is_there().await {
            Err(Error::Config { .. }) if self.recipe.can_make_bucket() => {
                self.recipe.make_bucket(&self.env).await?;
                self.is_there().await
            }
            other => other,
        }
    }
}

#[async_trait]
impl Folders for RemoteStore {
    async fn entries(&self, folder: String, wanted: Wanted) -> Result<Vec<Node>> {
        let path = if folder.is_empty() { "/" } else { &folder };
        let entries = match self.operator().await?.list(path).await {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| self.name_error("list", &folder, &e))?,
        };
        let mut nodes = Vec::new();
        for entry in entries {
            let key = entry.path();
            if key == folder || key == "/" {
                continue;
            }
            if entry.metadata().is_dir() {
                nodes.push(Node::Folder(key.to_owned()));
            } else if wanted.object(key) {
                nodes.push(Node::Object(self.info(entry).await?));
            }
        }
        Ok(nodes)
    }
}

impl std::fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}
