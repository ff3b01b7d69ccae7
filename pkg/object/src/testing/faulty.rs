//! A store that is slow, fails and lies, from a seed.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_env::Env;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Error, ObjectInfo, ObjectStore, Payload, Result, Sink};

/// How often a [`FaultyStore`] misbehaves. All ratios are out of 1000 calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Each call takes up to this long.
    pub delay_max: Duration,
    /// Calls that fail before anything was done.
    pub fail_per_mille: u32,
    /// Puts and deletes that are done and then reported as failed.
    pub fail_after_per_mille: u32,
    /// Gets that give one bit wrong.
    pub damage_per_mille: u32,
}

/// How the bodies of gets arrive that are taken as they come.
#[derive(Debug, Default)]
struct Body {
    /// Bytes of one piece and the pause before each; `None`: all at once.
    trickle: Option<(usize, Duration)>,
    /// So many bodies more break off in their middle.
    cuts: u32,
    /// So many gets more wait this long for their first byte.
    stragglers: (u32, Duration),
}

/// Wraps a store and misbehaves as told. Everything random comes from the [`Env`].
#[derive(Debug)]
pub struct FaultyStore {
    env: Env,
    inner: Arc<dyn ObjectStore>,
    faults: Mutex<Faults>,
    damaged: Mutex<HashSet<String>>,
    is_up: watch::Sender<bool>,
    is_held: watch::Sender<bool>,
    waiting: watch::Sender<u64>,
    body: Mutex<Body>,
    gets: AtomicU64,
    puts: AtomicU64,
    deletes: AtomicU64,
}

impl FaultyStore {
    /// A wrapper that does not misbehave yet.
    pub fn new(env: &Env, inner: Arc<dyn ObjectStore>) -> Arc<FaultyStore> {
        Arc::new(FaultyStore {
            env: env.clone(),
            inner,
            faults: Mutex::default(),
            damaged: Mutex::default(),
            is_up: watch::Sender::new(true),
            is_held: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            body: Mutex::default(),
            gets: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
        })
    }

    /// Misbehave like this from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    /// Every call fails from now on.
    pub fn down(&self) {
        self.is_up.send_replace(false);
    }

    /// Calls work again.
    pub fn up(&self) {
        self.is_up.send_replace(true);
    }

    /// Calls made from now on stand still until [`FaultyStore::release`].
    pub fn hold(&self) {
        self.is_held.send_replace(true);
    }

    /// Lets calls go on that stand still.
    pub fn release(&self) {
        self.is_held.send_replace(false);
    }

    /// Waits until `calls` calls stand still at the same time.
    pub async fn held(&self, calls: u64) {
        let mut waiting = self.waiting.subscribe();
        waiting.wait_for(|n| *n >= calls).await.expect("the sender lives in self");
    }

    /// Bodies come in pieces of `bytes` from now on, each after a pause.
    pub fn trickle(&self, bytes: usize, pause: Duration) {
        self.body.lock().trickle = Some((bytes, pause));
    }

    /// The next `times` bodies break off in their middle.
    pub fn cut(&self, times: u32) {
        self.body.lock().cuts = times;
    }

    /// The next `times` gets wait `pause` before they do anything.
    pub fn straggle(&self, times: u32, pause: Duration) {
        self.body.lock().stragglers = (times, pause);
    }

    /// What this body will be like: its trickle, and whether it breaks off.
    async fn body(&self) -> (Option<(usize, Duration)>, bool) {
        let (trickle, cut, pause) = {
            let mut body = self.body.lock();
            let cut = body.cuts > 0;
            body.cuts -= u32::from(cut);
            let late = body.stragglers.0 > 0;
            body.stragglers.0 -= u32::from(late);
            (body.trickle, cut, late.then_some(body.stragglers.1))
        };
        if let Some(pause) = pause {
            self.env.sleep(pause).await;
        }
        (trickle, cut)
    }

    /// Every get of `key` gives one bit wrong until it is put again.
    pub fn damage(&self, key: &str) {
        self.damaged.lock().insert(key.to_owned());
    }

    /// Gets so far, failed ones included.
    pub fn gets(&self) -> u64 {
        self.gets.load(Ordering::SeqCst)
    }

    /// Puts so far, failed ones included.
    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::SeqCst)
    }

    /// Deletes so far, failed ones included.
    pub fn deletes(&self) -> u64 {
        self.deletes.load(Ordering::SeqCst)
    }

    fn strikes(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.env.random_below(1000) < u64::from(per_mille)
    }

    async fn before(&self, action: &'static str, key: &str) -> Result<Faults> {
        self.stand_still().await;
        let faults = self.faults.lock().clone();
        if !faults.delay_max.is_zero() {
            let nanos = self.env.random_below(faults.delay_max.as_nanos() as u64 + 1);
            self.env.sleep(Duration::from_nanos(nanos)).await;
        }
        if !*self.is_up.borrow() || self.strikes(faults.fail_per_mille) {
            return Err(failed(action, key, "the store is down"));
        }
        Ok(faults)
    }

    async fn stand_still(&self) {
        let mut held = self.is_held.subscribe();
        if !*held.borrow_and_update() {
            return;
        }
        self.waiting.send_modify(|n| *n += 1);
        let _leave = Leave(&self.waiting);
        held.wait_for(|held| !held).await.expect("the sender lives in self");
    }

    fn after(&self, action: &'static str, key: &str, faults: &Faults) -> Result<()> {
        if self.strikes(faults.fail_after_per_mille) {
            return Err(failed(action, key, "the answer was lost"));
        }
        Ok(())
    }
}

/// One call less stands still, also when it was given up.
struct Leave<'a>(&'a watch::Sender<u64>);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

fn failed(action: &'static str, key: &str, reason: &str) -> Error {
    Error::Unavailable { action, key: key.to_owned(), reason: reason.to_owned(), persistent: false }
}

fn flip_a_bit(bytes: &Bytes, random: u64) -> Bytes {
    let mut copy = bytes.to_vec();
    if !copy.is_empty() {
        let bit = (random % (copy.len() as u64 * 8)) as usize;
        copy[bit / 8] ^= 1 << (bit % 8);
    }
    copy.into()
}

#[async_trait]
impl ObjectStore for FaultyStore {
    fn describe(&self) -> String {
        format!("faulty {}", self.inner.describe())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let faults = self.before("get", key).await?;
        let bytes = self.inner.get(key, range).await?;
        if self.strikes(faults.damage_per_mille) || self.damaged.lock().contains(key) {
            return Ok(flip_a_bit(&bytes, self.env.random()));
        }
        Ok(bytes)
    }

    async fn get_into(&self, key: &str, range: Option<Range<u64>>, sink: &dyn Sink) -> Result<u64> {
        let (trickle, cut) = self.body().await;
        let bytes = self.get(key, range).await?;
        let end = if cut { bytes.len() / 2 } else { bytes.len() };
        sink.begin();
        match trickle {
            None => sink.push(&bytes[..end]),
            Some((piece, pause)) => {
                for piece in bytes[..end].chunks(piece) {
                    self.env.sleep(pause).await;
                    sink.push(piece);
                }
            }
        }
        if cut { Err(failed("get", key, "the body broke off")) } else { Ok(bytes.len() as u64) }
    }

    async fn put(&self, key: &str, body: Payload) -> Result<()> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        let faults = self.before("put", key).await?;
        self.inner.put(key, body).await?;
        self.damaged.lock().remove(key);
        self.after("put", key, &faults)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.deletes.fetch_add(1, Ordering::SeqCst);
        let faults = self.before("delete", key).await?;
        self.inner.delete(key).await?;
        self.after("delete", key, &faults)
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.before("head", key).await?;
        self.inner.head(key).await
    }

    fn leftovers<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        self.inner.leftovers(prefix)
    }

    fn list<'a>(&'a self, prefix: &str, after: &str) -> BoxStream<'a, Result<ObjectInfo>> {
        let prefix = prefix.to_owned();
        let items = self.inner.list(&prefix, after);
        items
            .then(move |item| {
                let prefix = prefix.clone();
                async move {
                    self.before("list", &prefix).await?;
                    item
                }
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

    async fn run(seed: u64) -> Vec<Option<Bytes>> {
        let env = Env::simulated(seed);
        let store = FaultyStore::new(&env, Arc::new(MemStore::new(&env)));
        let delay_max = Duration::from_secs(1);
        store.set_faults(Faults { delay_max, fail_per_mille: 300, fail_after_per_mille: 100, damage_per_mille: 300 });
        let mut seen = Vec::new();
        for i in 0..100 {
            let key = format!("k{i}");
            let put = store.put(&key, vec![0; 64].into()).await;
            seen.push(put.ok().map(|()| Bytes::new()));
            seen.push(store.get(&key, None).await.ok());
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn one_seed_gives_one_run_of_faults() {
        let first = run(1).await;
        assert_eq!(first, run(1).await);
        assert_ne!(first, run(2).await);
        let damaged = first.iter().flatten().filter(|bytes| bytes.iter().any(|b| *b != 0)).count();
        assert!(damaged > 5 && first.iter().filter(|outcome| outcome.is_none()).count() > 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_damaged_object_is_whole_again_after_a_put() {
        let env = Env::simulated(1);
        let store = FaultyStore::new(&env, Arc::new(MemStore::new(&env)));
        store.put("k", vec![0; 9].into()).await.unwrap();
        store.damage("k");
        assert_ne!(store.get("k", None).await.unwrap(), vec![0; 9]);
        store.put("k", vec![0; 9].into()).await.unwrap();
        assert_eq!(store.get("k", None).await.unwrap(), vec![0; 9]);
    }
}
