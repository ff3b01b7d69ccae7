//! The trait every backend and decorator implements.

use std::fmt::Debug;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::Result;

/// What a listing or a HEAD says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Key, below the store's prefix.
    pub key: String,
    /// Stored bytes.
    pub bytes: u64,
    /// When it was put; `UNIX_EPOCH` if the store does not say.
    pub modified: SystemTime,
}

/// A body in pieces, sent as one object without being joined first. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Payload(pub Vec<Bytes>);

impl Payload {
    /// Total bytes.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One piece; copies unless there is just one.
    pub fn to_bytes(&self) -> Bytes {
        match self.0.as_slice() {
            [one] => one.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Payload {
    fn from(bytes: T) -> Self {
        Payload(vec![bytes.into()])
    }
}

/// Takes a body while it arrives, in order.
pub trait Sink: Send + Sync {
    /// An attempt begins: what is pushed next is the first byte again.
    fn begin(&self);

    /// The next bytes.
    fn push(&self, bytes: &[u8]);
}

/// A flat space of immutable objects.
///
/// Keys are `/`-separated and never start with `/`. An object is seen whole or not at all.
#[async_trait]
pub trait ObjectStore: Send + Sync + Debug + 'static {
    /// Where the objects are, for people: scheme and place, never a secret.
    fn describe(&self) -> String;

    /// The object's bytes, or those of `range` that exist (past the end: none). The whole object's
    /// checksum is verified where the store keeps one.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes>;

    /// The same, told to `sink` as the bytes arrive; how many there were. What was told before an error is
    /// no object. A whole object's checksum is verified at its end: a sink that acts before that acts on
    /// bytes that only the transport has checked.
    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        let bytes = self.get(key, range).await?;
        sink.begin();
        sink.push(&bytes);
        Ok(bytes.len() as u64)
    }

    /// Stores an object, replacing one of the same key. When it returns the store has it durably.
    async fn put(&self, key: &str, body: Payload) -> Result<()>;

    /// Removes an object; one that is not there counts as removed.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Size and time of an object.
    async fn head(&self, key: &str) -> Result<ObjectInfo>;

    /// All objects whose key starts with `prefix` and is greater than `after`, in byte order.
    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>>;

    /// What puts below `prefix` that were interrupted left behind and no listing shows, in no order; `delete` takes
    /// the keys. A put that is under way may be among them: judge by the time. Only stores that write
    /// under a temporary name have any.
    fn leftovers<'a>(&'a self, _prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        stream::empty().boxed()
    }

    /// Makes the place itself (bucket, folder) if it is missing and the backend can.
    async fn create(&self) -> Result<()> {
        Ok(())
    }
}

/// The part of `range` that an object of `bytes` bytes has.
pub(crate) fn clip(range: Range<u64>, bytes: u64) -> Range<u64> {
    let end = range.end.min(bytes);
    range.start.min(end)..end
}
