//! From this machine's disk into the store, oldest first, until nothing is left.
//!
//! A failed upload is tried again for as long as we live, with growing pauses: the store may be away
//! for hours. A block that an earlier process had staged may be in the store already: if it is the
//! same, nothing is put; if it is not, it is set aside, because whoever put it did so meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_object::Payload;
use cairn_types::BlockKey;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Staging, fault_words, keep_aside};
use crate::stats::add;
use crate::{ChunkStore, Error, Result};

/// Pauses of a block whose upload failed: the first, doubled up to the last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);
/// How often delays and hours are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the uploader keeps between rounds.
#[derive(Default)]
pub(crate) struct Uploader {
    /// Failed tries, and when the next is due.
    resting: Mutex<HashMap<BlockKey, (u32, Instant)>>,
    /// After a failure nothing is begun until then, unless something succeeds: the store may be away,
    /// and what waits is not gone through again and again.
    paused_until: Mutex<Option<Instant>>,
    wake: Notify,
}

/// What to do next.
enum Next {
    Upload(BlockKey),
    /// Nothing now; look again then.
    Wait(Duration),
    /// Nothing at all.
    Idle,
}

impl ChunkStore {
    /// Starts uploading; ends when the chunk store is closed.
    pub(crate) fn start_uploader(self: &Arc<Self>) {
        let Some(staging) = self.staging() else { return };
        let uploader = Arc::new(Uploader::default());
        let (store, staging) = (Arc::downgrade(self), staging.clone());
        let tasks = self.tasks().clone();
        self.spawn(async move {
            loop {
                let Some(alive) = store.upgrade() else { return };
                let room = staging.uploading.lock().len() < staging.rules.uploads_max.max(1);
                let next = if room { uploader.next(&alive, &staging) } else { Next::Idle };
                let pause = match next {
                    Next::Upload(key) => {
                        let (staging, uploader, busy) = (staging.clone(), uploader.clone(), alive.clone());
                        staging.uploading.lock().insert(key);
                        let tasks = tasks.clone();
                        alive.spawn(async move {
                            // A store that is away must not hold a shutdown up: the block stays on this disk.
                            tokio::select! {
                                biased;
                                () = tasks.stopping() => {}
                                () = uploader.upload(&busy, &staging, key) => uploader.wake.notify_one(),
                            }
                        });
                        continue;
                    }
                    Next::Wait(pause) => pause,
                    Next::Idle => Duration::from_secs(3600),
                };
                let env = alive.env().clone();
                drop(alive);
                let staged = async {
                    match &staging.journal {
                        Some(journal) => journal.changed().notified().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = tasks.stopping() => return,
                    () = uploader.wake.notified() => {}
                    () = staging.hurried.notified() => {}
                    () = staged => {}
                    () = env.sleep(pause) => {}
                }
            }
        });
    }

    /// Uploads one block now; waits for an upload of it that is under way.
    pub(super) async fn upload_now(&self, staging: &Staging, key: BlockKey) -> Result<()> {
        staging.uploads_ended(key).await;
        if !staging.contains(key) {
            return Ok(());
        }
        staging.uploading.lock().insert(key);
        let outcome = self.upload(staging, key).await;
        staging.uploading.lock().remove(&key);
        staging.ended.notify_waiters();
        outcome
    }

    async fn upload(&self, staging: &Staging, key: BlockKey) -> Result<()> {
        let Some(stored) = self.stored_form(staging, key).await? else { return Ok(()) };
        let is_earlier = staging.earlier.lock().contains(&key) || staging.raw.contains(key);
        if is_earlier && let Some(differs) = self.in_store(key, &stored).await? {
            if differs {
                self.set_block_aside(staging, key, stored).await;
                return Ok(());
            }
        } else {
            let bytes = stored.len() as u64;
            let put = self.object().put(&self.object_key(key), Payload::from(stored)).await;
            put.map_err(|source| Error::Store { key, source })?;
            add(&self.counters().put_stored_bytes, bytes);
        }
        self.uploaded(staging, key).await;
        Ok(())
    }

    async fn uploaded(&self, staging: &Staging, key: BlockKey) {
        staging.earlier.lock().remove(&key);
        add(&staging.counters.uploaded_blocks, 1);
        if let Some(journal) = &staging.journal {
            journal.done(&[key]).await;
        }
        staging.raw.remove(self.env(), key).await;
    }

    /// The bytes to put; `None` if there is nothing (more) to put.
    async fn stored_form(&self, staging: &Staging, key: BlockKey) -> Result<Option<Bytes>> {
        if let Some(journal) = &staging.journal {
            match journal.read(key).await {
                Some(Ok(stored)) => return Ok(Some(stored)),
                Some(Err(fault)) => {
                    let reason = fault_words(&fault);
                    self.only_copy_damaged(staging, key, &reason).await?;
                    return Ok(None);
                }
                None => {}
            }
        }
        if !staging.raw.contains(key) {
            return Ok(None);
        }
        let Some(plain) = staging.raw.read(self.env(), key).await else {
            staging.give_up(key, u64::from(key.len));
            return Ok(None);
        };
        let codec = self.codec().clone();
        Ok(Some(self.env().blocking(move || codec.encode(&[plain])).await))
    }

    /// The journal's copy cannot be read. If the store has the block, nothing is lost.
    async fn only_copy_damaged(&self, staging: &Staging, key: BlockKey, reason: &str) -> Result<()> {
        match self.object().head(&self.object_key(key)).await {
            Ok(_) => self.uploaded(staging, key).await,
            Err(e) if e.is_not_found() => {
                tracing::error!(%key, reason, "a staged block is damaged and the store has none: it is lost");
                staging.give_up(key, 0);
            }
            Err(source) => return Err(Error::Store { key, source }),
        }
        Ok(())
    }

    /// Does the store have an object of this name, and does it differ? `None`: it has none.
    async fn in_store(&self, key: BlockKey, stored: &Bytes) -> Result<Option<bool>> {
        let name = self.object_key(key);
        match self.object().get(&name, None).await {
            Ok(there) => Ok(Some(there != *stored && !self.same_block(key, there, stored).await)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(source) => Err(Error::Store { key, source }),
        }
    }

    /// Two forms of one plain block: another encoder may have written the one in the store.
    async fn same_block(&self, key: BlockKey, there: Bytes, ours: &Bytes) -> bool {
        let (codec, len, ours) = (self.codec().clone(), key.len as usize, ours.clone());
        let equal = move || match (codec.decode(there, len), codec.decode(ours, len)) {
            (Ok(there), Ok(ours)) => there == ours,
            _ => false,
        };
        self.env().blocking(equal).await
    }

    /// Somebody else has put other bytes under this name: ours are kept in a folder, and reported.
    async fn set_block_aside(&self, staging: &Staging, key: BlockKey, stored: Bytes) {
        let folder = staging.rules.set_aside.clone();
        let shown = folder.display().to_string();
        let bytes = stored.len() as u64;
        match self.env().blocking(move || keep_aside(&folder, key, &stored)).await {
            Ok(()) => {
                tracing::error!(%key, folder = shown, "the store has other bytes under this block's name: ours are set aside");
                self.uploaded(staging, key).await;
            }
            Err(error) => {
                tracing::error!(%key, %error, "the store has other bytes under this block's name: ours stay staged");
                staging.give_up(key, bytes);
            }
        }
    }
}

impl Uploader {
    /// The oldest block that may go now.
    fn next(&self, store: &ChunkStore, staging: &Staging) -> Next {
        let env = store.env();
        if let Some(until) = *self.paused_until.lock()
            && let Some(left) = until.checked_duration_since(env.instant()).filter(|left| !left.is_zero())
        {
            return Next::Wait(left);
        }
        let hurry = staging.hurry.load(std::sync::atomic::Ordering::Acquire);
        let is_open = hurry || staging.rules.upload_hours.is_none_or(|hours| hours.include(env.now()));
        let is_free = |key: BlockKey| {
            !staging.uploading.lock().contains(&key)
                && !staging.lost.lock().contains_key(&key)
                && self.resting.lock().get(&key).is_none_or(|(_, due)| *due <= env.instant())
        };
        let (mut after, mut waits) = (0, false);
        while let Some(staged) = staging.journal.as_ref().and_then(|journal| journal.next_staged(after)) {
            after = staged.number;
            let is_due =
                hurry || env.now().duration_since(staged.at).is_ok_and(|age| age >= staging.rules.upload_delay);
            // Whatever is younger waits at least as long.
            if !is_open || !is_due {
                waits = true;
                break;
            }
            if is_free(staged.key) {
                return Next::Upload(staged.key);
            }
            waits = true;
        }
        let mut after = None;
        while let Some(key) = staging.raw.next(after) {
            after = Some(key);
            if is_free(key) {
                return Next::Upload(key);
            }
            waits = true;
        }
        if waits { Next::Wait(LOOK) } else { Next::Idle }
    }

    async fn upload(&self, store: &ChunkStore, staging: &Staging, key: BlockKey) {
        let outcome = store.upload(staging, key).await;
        match outcome {
            Ok(()) => {
                self.resting.lock().remove(&key);
                *self.paused_until.lock() = None;
            }
            Err(error) => {
                add(&staging.counters.upload_errors, 1);
                let mut resting = self.resting.lock();
                let tries = resting.get(&key).map_or(0, |(tries, _)| *tries) + 1;
                let pause = RETRY_FIRST.saturating_mul(1 << tries.min(6)).min(RETRY_LAST);
                tracing::warn!(%key, tries, %error, "a staged block could not be uploaded: it stays on this disk");
                let due = store.env().instant() + store.env().jitter(pause, 20);
                resting.insert(key, (tries, due));
                *self.paused_until.lock() = Some(due);
            }
        }
        staging.uploading.lock().remove(&key);
        staging.ended.notify_waiters();
    }
}
