//! Blocks out of the store: cache, then one GET however many readers, decoded and verified.
//!
//! A reader waits for its own bytes, not for the block they lie in: see `landing`. Read-ahead and
//! whatever else nobody has asked for yields its memory to whoever waits.

use std::collections::HashMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use cairn_cache::BlockCache;
use cairn_env::{Budget, Permit};
use cairn_types::layout::block_spans;
use cairn_types::{BlockKey, SliceRef};
use futures::future::{Either, select, try_join_all};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::block_buffer::join;
use crate::chunk_store::ChunkStore;
use crate::heat::{Heat, widened};
use crate::landing::{Attempt, Landing};
use crate::pace::Pace;
use crate::parts::Parts;
use crate::stats::add;
use crate::{Config, Error, Result};

/// Blocks up to this are coded where they are: handing them to another thread costs more.
pub(crate) const INLINE_CODEC_BYTES: u32 = 16 * 1024;
/// A random read may ask the store for a part if it is at most one in this of the block.
const PART_SHARE: u32 = 4;
/// Share of the memory for blocks on their way in that read-ahead may use, in percent.
const AHEAD_PERCENT: u64 = 80;
/// What was read ahead and not read for this long is given up,
const AHEAD_AGE_MAX: Duration = Duration::from_secs(30);
/// or for this long if somebody else needs the memory.
const AHEAD_AGE_MIN: Duration = Duration::from_secs(2);

/// Blocks with the part of each that is meant; mostly one or two.
type Spans = SmallVec<[(BlockKey, Range<u32>); 2]>;

/// A range of a block, fetched as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flight {
    key: BlockKey,
    start: u32,
    end: u32,
}

impl Flight {
    fn whole(key: BlockKey) -> Flight {
        Flight { key, start: 0, end: key.len }
    }

    fn is_whole(&self) -> bool {
        *self == Flight::whole(self.key)
    }
}

/// What the read path keeps between calls.
pub(crate) struct Fetching {
    /// On their way, or read ahead and not yet passed by their reader.
    landings: Mutex<HashMap<Flight, Arc<Landing>>>,
    /// Memory for blocks on their way in or read ahead, in bytes.
    room: Budget,
    /// Bytes that may be read ahead, a share of `room`; `None`: nothing is.
    ahead: Option<Budget>,
    /// Readers that wait for room.
    short: AtomicUsize,
    heat: Heat,
    parts: Parts,
    pace: Pace,
}

impl Fetching {
    pub(crate) fn new(config: &Config, cache: &BlockCache) -> Fetching {
        let block_bytes = u64::from(config.block_bytes);
        let room = config.buffer_total_bytes() / 2;
        // Without a cache nothing that was read ahead could be found again after its reader's first look.
        let wanted =
            if cache.keeps_blocks() { config.max_readahead + u64::from(config.prefetch) * block_bytes } else { 0 };
        let ahead = wanted.min((room / 100 * AHEAD_PERCENT).max(block_bytes));
        Fetching {
            landings: Mutex::default(),
            room: Budget::new(room),
            ahead: (ahead > 0).then(|| Budget::new(ahead.max(block_bytes))),
            short: AtomicUsize::new(0),
            heat: Heat::new(),
            parts: Parts::new(),
            pace: Pace::default(),
        }
    }

    /// Blocks on their way, and blocks read ahead that wait for their reader.
    pub(crate) fn in_flight(&self) -> (u64, u64) {
        let landings = self.landings.lock();
        let waiting = landings.values().filter(|l| l.used_at().is_some()).count();
        ((landings.len() - waiting) as u64, waiting as u64)
    }

    fn landing(&self, flight: Flight) -> Option<Arc<Landing>> {
        self.landings.lock().get(&flight).cloned()
    }

    /// Gives up what was read ahead and not used for `age`.
    pub(crate) fn shed(&self, now: std::time::Instant, age: Duration) {
        let is_old = |landing: &Landing| landing.used_at().is_some_and(|at| now.saturating_duration_since(at) >= age);
        self.landings.lock().retain(|_, landing| !is_old(landing));
    }

    /// Forgets a block that is deleted.
    pub(crate) fn forget(&self, key: BlockKey) {
        self.parts.remove(key);
        let mut landings = self.landings.lock();
        if landings.get(&Flight::whole(key)).is_some_and(|landing| landing.is_here()) {
            landings.remove(&Flight::whole(key));
        }
    }

    /// Gives back what nobody has used lately.
    pub(crate) fn rest(&self, now: std::time::Instant) {
        self.shed(now, AHEAD_AGE_MAX);
    }

    /// Gives the parts of blocks back.
    pub(crate) fn clear_parts(&self) {
        self.parts.clear();
    }
}

impl ChunkStore {
    /// `len` bytes of a slice from `off`. Waits for disk cache or store; one block is a reference into
    /// the cached one, several are joined.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`]: mostly the slice list is stale. [`Error::Corrupt`]: the block came twice and
    /// is not what its key says; logged. [`Error::Store`]: retries are used up.
    pub async fn read(self: &Arc<Self>, slice: SliceRef, off: u32, len: u32) -> Result<Bytes> {
        let mut spans = self.spans(slice, off, len)?;
        if let [(key, range)] = spans.as_slice() {
            return self.read_block(*key, range.clone()).await;
        }
        let pieces = try_join_all(spans.drain(..).map(|(key, range)| self.read_block(key, range))).await?;
        Ok(join(&pieces))
    }

    /// The same if all of it is in memory. Never waits.
    pub fn read_now(&self, slice: SliceRef, off: u32, len: u32) -> Option<Bytes> {
        let spans = self.spans(slice, off, len).ok()?;
        if let [(key, range)] = spans.as_slice() {
            return self.block_now(*key, range);
        }
        let pieces: Option<Vec<_>> = spans.into_iter().map(|(key, range)| self.block_now(key, &range)).collect();
        pieces.map(|pieces| join(&pieces))
    }

    /// Does nobody have to ask the store for this range, as far as is known? Never waits.
    pub fn is_near(&self, slice: SliceRef, off: u32, len: u32) -> bool {
        let Ok(spans) = self.spans(slice, off, len) else { return false };
        let is_here = |key| self.fetching().landing(Flight::whole(key)).is_some_and(|landing| landing.is_here());
        spans.iter().all(|(key, _)| self.cache().contains(*key) || is_here(*key))
    }

    fn spans(&self, slice: SliceRef, off: u32, len: u32) -> Result<Spans> {
        if u64::from(off) + u64::from(len) > u64::from(slice.size) {
            return Err(Error::OutOfSlice { slice, off, len });
        }
        let spans = block_spans(slice, off, len, self.config().block_bytes).map(|span| {
            let key = BlockKey { id: slice.id, index: span.index, len: span.block_len };
            (key, span.pos..span.pos + span.len)
        });
        Ok(spans.collect())
    }

    fn block_now(&self, key: BlockKey, range: &Range<u32>) -> Option<Bytes> {
        if let Some(landing) = self.fetching().landing(Flight::whole(key))
            && let Some(Ok(bytes)) = landing.read_now(range)
        {
            self.passed(key, range, &landing);
            return Some(bytes);
        }
        self.cache().get_now(key, range.clone()).or_else(|| self.fetching().parts.get(key, range))
    }

    /// A reader has its bytes from what was read ahead: once it has given as many as it has, it goes.
    fn passed(&self, key: BlockKey, range: &Range<u32>, landing: &Landing) {
        if landing.gave(range.len() as u32, self.env().instant()) >= u64::from(key.len) && landing.is_here() {
            self.fetching().landings.lock().remove(&Flight::whole(key));
        }
    }

    /// Bytes `range` of one block.
    pub(crate) async fn read_block(self: &Arc<Self>, key: BlockKey, range: Range<u32>) -> Result<Bytes> {
        if let Some(bytes) = self.block_now(key, &range) {
            return Ok(bytes);
        }
        if let Some(bytes) = self.cache().get(key, range.clone()).await {
            return Ok(bytes);
        }
        let wanted = self.wanted(key, &range);
        let landing = self.board(Flight { key, start: wanted.start, end: wanted.end }, None);
        let bytes = landing.read(range.start - wanted.start..range.end - wanted.start).await?;
        if wanted.len() == key.len as usize {
            self.passed(key, &range, &landing);
        }
        Ok(bytes)
    }

    /// What to fetch for a read of `range`: the block, or a part if it is a small random read. The start
    /// of a block is taken for the start of a sequential reader.
    fn wanted(self: &Arc<Self>, key: BlockKey, range: &Range<u32>) -> Range<u32> {
        let len = range.end - range.start;
        if !self.takes_parts() || len == key.len || self.is_staged(key) {
            return 0..key.len;
        }
        if !self.cache().keeps_blocks() {
            return range.clone();
        }
        let fetching = self.fetching();
        if range.start == 0 || len > key.len / PART_SHARE || fetching.landing(Flight::whole(key)).is_some() {
            return 0..key.len;
        }
        let part = widened(key, range);
        if fetching.heat.note(key, &part) && self.config().prefetch > 0 && fetching.heat.pay(key) {
            self.fetch_ahead(key);
        }
        part
    }

    /// Is a range of the stored object a range of the block?
    fn takes_parts(&self) -> bool {
        self.codec().is_plain()
    }

    /// The landing of a flight; it begins if it is not under way.
    fn board(self: &Arc<Self>, flight: Flight, lent: Option<Permit>) -> Arc<Landing> {
        let landing = {
            let mut landings = self.fetching().landings.lock();
            if let Some(landing) = landings.get(&flight) {
                return landing.clone();
            }
            let landing = Arc::new(Landing::new(flight.end - flight.start, self.takes_parts()));
            landings.insert(flight, landing.clone());
            landing
        };
        lent.into_iter().for_each(|lent| landing.lend(lent));
        let approach = Approach { store: self.clone(), flight, landing: landing.clone() };
        self.spawn(async move {
            let store = &approach.store;
            let bring = async {
                if flight.is_whole() {
                    store.fetch_alone(flight.key, &approach.landing).await
                } else {
                    store.fetch_part(flight).await
                }
            };
            let outcome = tokio::select! {
                biased;
                outcome = bring => outcome,
                // Nobody's loss: whoever still waits is told that we are closing.
                () = store.stopping() => Err(closing(flight.key)),
            };
            approach.land(outcome);
        });
        landing
    }

    async fn fetch_part(&self, flight: Flight) -> Result<Bytes> {
        let Flight { key, start, end } = flight;
        let wanted = u64::from(start)..u64::from(end);
        let mut outcome = self.get_part(key, wanted.clone()).await;
        if matches!(outcome, Err(Error::Corrupt { .. })) {
            add(&self.counters().refetches, 1);
            outcome = self.get_part(key, wanted).await;
        }
        if let Ok(bytes) = &outcome
            && self.cache().keeps_blocks()
        {
            self.fetching().parts.put(key, start, bytes);
        }
        self.note_failure(outcome)
    }

    async fn get_part(&self, key: BlockKey, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end - range.start;
        let into = Landing::new(wanted as u32, false);
        let corrupt = |bytes: u64| Error::Corrupt { key, reason: format!("{bytes} bytes instead of {wanted}") };
        let got = self.get_hedged(key, Some(range), &into).await?;
        let bytes = into.take().filter(|bytes| bytes.len() as u64 == wanted).ok_or_else(|| corrupt(got))?;
        add(&self.counters().range_gets, 1);
        add(&self.counters().range_get_bytes, wanted);
        Ok(bytes)
    }

    /// The whole block, fetched once for everybody who wants it now, and kept in the cache.
    pub(crate) async fn fetch(self: &Arc<Self>, key: BlockKey) -> Result<Bytes> {
        self.board(Flight::whole(key), None).read(0..key.len).await
    }

    async fn fetch_alone(&self, key: BlockKey, landing: &Landing) -> Result<Bytes> {
        // A flight may have landed between this caller's look into the cache and now.
        if let Some(block) = self.cache().get_now(key, 0..key.len) {
            return Ok(block);
        }
        let copies = if self.takes_parts() { 1 } else { 2 };
        let mut room = self.room_for(u64::from(key.len) * copies, landing.is_lent()).await;
        let mut outcome = self.bring(key, landing).await;
        if matches!(outcome, Err(Error::Corrupt { .. })) {
            add(&self.counters().refetches, 1);
            outcome = self.bring(key, landing).await;
        }
        if let Ok(block) = &outcome {
            self.cache().put(key, block.clone());
            if landing.is_lent() {
                drop(room.split(u64::from(key.len) * (copies - 1)));
                landing.lend(room);
            }
        }
        self.note_failure(outcome)
    }

    /// Memory for a block that somebody waits for: what was only read ahead yields to it.
    async fn room_for(&self, bytes: u64, is_ahead: bool) -> Permit {
        let fetching = self.fetching();
        if is_ahead {
            return fetching.room.acquire(bytes).await;
        }
        for age in [AHEAD_AGE_MIN, Duration::ZERO] {
            if let Some(room) = fetching.room.try_acquire(bytes) {
                return room;
            }
            fetching.shed(self.env().instant(), age);
        }
        // What lands from now on is not kept for later either, until there is room.
        let _short = Counted::new(&fetching.short);
        fetching.room.acquire(bytes).await
    }

    /// One GET, streamed to those who wait where it may be, and what it comes to.
    async fn bring(&self, key: BlockKey, landing: &Landing) -> Result<Bytes> {
        if let Some(block) = self.staged_plain(key).await? {
            return Ok(block);
        }
        if !self.takes_parts() {
            return self.get_whole(key).await;
        }
        self.check_len(key)?;
        let got = self.get_hedged(key, None, landing).await;
        let block = landing.take();
        let got = got?;
        add(&self.counters().get_blocks, 1);
        add(&self.counters().get_bytes, u64::from(key.len));
        let corrupt = || Error::Corrupt { key, reason: format!("{got} bytes instead of {}", key.len) };
        block.filter(|block| block.len() == key.len as usize).ok_or_else(corrupt)
    }

    fn check_len(&self, key: BlockKey) -> Result<()> {
        let most = self.config().block_bytes;
        if key.len > most {
            return Err(Error::Corrupt { key, reason: format!("longer than a block of {most}") });
        }
        Ok(())
    }

    /// A GET into `landing`, and a second one beside it if the first is slower to begin than most.
    async fn get_hedged(&self, key: BlockKey, range: Option<Range<u64>>, landing: &Landing) -> Result<u64> {
        let (name, env, pace) = (self.object_key(key), self.env(), &self.fetching().pace);
        let attempt = |number| Attempt::new(landing, number, env, pace);
        let told = |outcome: cairn_object::Result<u64>| outcome.map_err(|e| Error::from_store(key, e));
        let patience = pace.begin();
        let (one, two) = (attempt(1), attempt(2));
        let mut first = pin!(self.object().get_into(&name, range.clone(), &one));
        let Some(patience) = patience else { return told(first.await) };
        if let Ok(outcome) = env.timeout(patience, &mut first).await {
            return told(outcome);
        }
        if one.has_won() || !pace.may_hedge() {
            return told(first.await);
        }
        add(&self.counters().hedged_gets, 1);
        let second = pin!(self.object().get_into(&name, range, &two));
        told(match select(first, second).await {
            Either::Left((outcome, _)) if one.has_won() => outcome,
            Either::Left((_, second)) => second.await,
            Either::Right((outcome, _)) if two.has_won() => outcome,
            Either::Right((_, first)) => first.await,
        })
    }

    /// One GET and one decode, past the cache.
    pub(crate) async fn get_whole(&self, key: BlockKey) -> Result<Bytes> {
        self.check_len(key)?;
        if let Some(block) = self.staged_plain(key).await? {
            return Ok(block);
        }
        let codec = self.codec().clone();
        let len = key.len as usize;
        let most = *codec.object_bytes(key.len).end();
        let into = Landing::new(u32::try_from(most).unwrap_or(u32::MAX), false);
        let got = self.get_hedged(key, None, &into).await?;
        let corrupt = |reason| Error::Corrupt { key, reason };
        let too_much = || corrupt(format!("object of {got} bytes for a block of {len}"));
        let stored = into.take().ok_or_else(too_much)?;
        // Opening may take an RSA operation first, however small the block is.
        let inline = codec.is_plain() || (key.len <= INLINE_CODEC_BYTES && !codec.is_encrypted());
        let block = if inline {
            codec.decode(stored, len)
        } else {
            self.env().blocking(move || codec.decode(stored, len)).await
        };
        add(&self.counters().get_blocks, 1);
        add(&self.counters().get_bytes, u64::from(key.len));
        block.map_err(corrupt)
    }

    fn note_failure<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            add(&self.counters().get_errors, 1);
            if let Error::Corrupt { key, reason } = error {
                add(&self.counters().corrupt_blocks, 1);
                tracing::error!(%key, object = self.object_key(*key), reason, "block is damaged");
            }
        }
        outcome
    }

    /// Fetches the blocks of a range behind the caller's back. Blocks that are cached or on their way
    /// are left out, and so is what exceeds the read-ahead limit.
    pub fn prefetch(self: &Arc<Self>, slice: SliceRef, off: u32, len: u32) {
        for (key, _) in self.spans(slice, off, len).unwrap_or_default() {
            if !self.cache().contains(key) {
                self.fetch_ahead(key);
            }
        }
    }

    fn fetch_ahead(self: &Arc<Self>, key: BlockKey) {
        let fetching = self.fetching();
        let Some(ahead) = fetching.ahead.as_ref().filter(|_| self.cache().keeps_blocks()) else { return };
        if fetching.landing(Flight::whole(key)).is_some() {
            return;
        }
        let bytes = u64::from(key.len);
        let lent = ahead.try_acquire(bytes).or_else(|| {
            fetching.shed(self.env().instant(), AHEAD_AGE_MIN);
            ahead.try_acquire(bytes)
        });
        let Some(lent) = lent else { return add(&self.counters().prefetches_skipped, 1) };
        add(&self.counters().prefetched_blocks, 1);
        if self.cache().is_indexed() {
            self.board(Flight::whole(key), Some(lent));
            return;
        }
        // The disk may hold it all the same: one byte shows it.
        let store = self.clone();
        self.spawn(async move {
            if store.cache().get(key, 0..key.len.min(1)).await.is_none() {
                store.board(Flight::whole(key), Some(lent));
            }
        });
    }

    /// One whole block into the cache, if it is not there yet.
    ///
    /// # Errors
    ///
    /// Those of [`ChunkStore::read`].
    pub async fn warm(self: &Arc<Self>, key: BlockKey) -> Result<()> {
        let cache = self.cache();
        if cache.locate(key).await.is_some() {
            return Ok(());
        }
        let block = self.fetch(key).await?;
        cache.put_surely(key, block).await;
        Ok(())
    }

    /// Forgets what this client keeps of a block.
    pub async fn cool(&self, key: BlockKey) {
        self.fetching().forget(key);
        self.cache().evict(key).await;
    }

    /// The blocks that hold `len` bytes of a slice from `off`; none if they do not lie within it.
    pub fn blocks_of(&self, slice: SliceRef, off: u32, len: u32) -> impl Iterator<Item = BlockKey> + use<> {
        self.spans(slice, off, len).unwrap_or_default().into_iter().map(|(key, _)| key)
    }
}

fn closing(key: BlockKey) -> Error {
    let reason = "this client is closing".to_owned();
    let source = cairn_object::Error::Unavailable { action: "get", key: key.to_string(), reason, persistent: true };
    Error::Store { key, source }
}

/// A flight that lands whatever happens, so that nobody waits for ever.
struct Approach {
    store: Arc<ChunkStore>,
    flight: Flight,
    landing: Arc<Landing>,
}

impl Approach {
    fn land(&self, outcome: Result<Bytes>) {
        let fetching = self.store.fetching();
        let stays = outcome.is_ok() && self.landing.is_lent() && fetching.short.load(Relaxed) == 0;
        self.landing.land(outcome, self.store.env().instant());
        if !stays {
            fetching.landings.lock().remove(&self.flight);
        }
    }
}

/// One more, as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Counted<'a> {
        counter.fetch_add(1, Relaxed);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Drop for Approach {
    fn drop(&mut self) {
        if self.landing.used_at().is_none() {
            self.land(Err(closing(self.flight.key)));
        }
    }
}
