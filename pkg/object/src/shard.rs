//! One volume spread over several buckets (volume format 2.6).
//!
//! The bucket of a key is FNV-1a (32 bit) of the whole key, volume prefix included, modulo their
//! number: so this stands below `Prefixed`. A listing is the ordered merge of all buckets.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, Peekable};
use futures::{StreamExt, TryStreamExt};

use crate::{Error, ObjectInfo, ObjectStore, Payload, Result, Sink};

/// Several stores that look like one.
#[derive(Debug)]
pub(crate) struct Sharded {
    name: String,
    shards: Vec<Arc<dyn ObjectStore>>,
}

impl Sharded {
    /// `shards` in the order of their numbers; at least one. `name` is for people.
    pub(crate) fn new(name: String, shards: Vec<Arc<dyn ObjectStore>>) -> Sharded {
        assert!(!shards.is_empty(), "a sharded store has at least one shard");
        Sharded { name, shards }
    }

    fn of(&self, key: &str) -> &dyn ObjectStore {
        let number = fnv1a(key.as_bytes()) as usize % self.shards.len();
        &*self.shards[number]
    }
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// The bucket with number `shard`: a printf template with one integer verb.
pub(crate) fn expand_template(template: &str, shard: u32) -> Result<String> {
    let no_verb = || Error::Config {
        reason: format!("the bucket {template:?} of a sharded volume has no %d for the shard's number"),
    };
    let (before, after) = split_at_verb(template).ok_or_else(no_verb)?;
    let digits = after.find(|c: char| !c.is_ascii_digit()).ok_or_else(no_verb)?;
    let (flags, rest) = after.split_at(digits);
    let width: usize = flags.parse().unwrap_or(0);
    let number = match (rest.as_bytes()[0], flags.starts_with('0')) {
        (b'd' | b'v', true) => format!("{shard:0width$}"),
        (b'd' | b'v', false) => format!("{shard:width$}"),
        (b'x', true) => format!("{shard:0width$x}"),
        (b'x', false) => format!("{shard:width$x}"),
        (b'X', true) => format!("{shard:0width$X}"),
        (b'X', false) => format!("{shard:width$X}"),
        _ => return Err(no_verb()),
    };
    Ok(format!("{}{number}{}", before.replace("%%", "%"), rest[1..].replace("%%", "%")))
}

/// Text before and after the first `%` that is not doubled.
fn split_at_verb(template: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    while let Some(found) = template[from..].find('%') {
        let at = from + found;
        if !template[at + 1..].starts_with('%') {
            return Some((&template[..at], &template[at + 1..]));
        }
        from = at + 2;
    }
    None
}

#[async_trait]
impl ObjectStore for Sharded {
    fn describe(&self) -> String {
        self.name.clone()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.of(key).get(key, range).await
    }

    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        self.of(key).get_into(key, range, sink).await
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        self.of(key).put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.of(key).delete(key).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.of(key).head(key).await
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        merge(self.shards.iter().map(|shard| shard.list(prefix, after)).collect())
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let prefix = prefix.to_owned();
        stream::iter(&self.shards).flat_map(move |shard| shard.leftovers(&prefix)).boxed()
    }

    async fn create(&self) -> Result<()> {
        for shard in &self.shards {
            shard.create().await?;
        }
        Ok(())
    }
}

/// Merges ordered listings into one. An error of any ends it.
fn merge<'a>(listings: Vec<BoxStream<'a, Result<ObjectInfo>>>) -> BoxStream<'a, Result<ObjectInfo>> {
    type Heads<'a> = Vec<Peekable<BoxStream<'a, Result<ObjectInfo>>>>;
    let heads: Heads<'a> = listings.into_iter().map(StreamExt::peekable).collect();
    stream::try_unfold(heads, |mut heads| async move {
        let mut least: Option<(usize, String)> = None;
        for (i, listing) in heads.iter_mut().enumerate() {
            match std::pin::Pin::new(listing).peek().await {
                Some(Err(e)) => return Err(e.clone()),
                Some(Ok(info)) if least.as_ref().is_none_or(|(_, key)| info.key < *key) => {
                    least = Some((i, info.key.clone()));
                }
                Some(Ok(_)) | None => {}
            }
        }
        let Some((i, _)) = least else { return Ok(None) };
        let next = heads[i].try_next().await?;
        Ok(next.map(|info| (info, heads)))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_the_format_gives_as_example() {
        assert_eq!(fnv1a(b"myjfs/chunks/0/0/1_0_4194304"), 2_521_471_656);
        assert_eq!(fnv1a(b"myjfs/chunks/0/0/1_0_4194304") % 4, 0);
    }

    #[test]
    fn templates_take_the_shards_number_like_printf() {
        assert_eq!(expand_template("/data/%d/", 7).unwrap(), "/data/7/");
        assert_eq!(expand_template("http://h/b-%03d", 7).unwrap(), "http://h/b-007");
        assert_eq!(expand_template("b%02x", 255).unwrap(), "bff");
        assert_eq!(expand_template("100%%-%d", 1).unwrap(), "100%-1");
        for bad in ["plain", "%s", "50%%", "%"] {
            assert!(matches!(expand_template(bad, 0), Err(Error::Config { .. })), "{bad}");
        }
    }
}
