//! Memory for bytes on their way to the store: pages, lent against one budget.
//!
//! A writer reserves first (and may wait), then copies (and may not). What is reserved and not
//! used goes back at once; what is used goes back when the block it became is stored. Unless blocks
//! are stored as they are, a part of the budget is kept for the codec, so that dirt can never starve the uploads
//! that would clean it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use cairn_env::{Budget, Permit};
use crossbeam_queue::ArrayQueue;
use tokio::sync::Notify;

use crate::{Codec, Config};

/// A full page. The smaller ones serve the start of a slice, which may be all of a small file.
pub(crate) const PAGE_BYTES: usize = 64 * 1024;
const PAGE_SIZES: [usize; 3] = [4 * 1024, 16 * 1024, PAGE_BYTES];
/// Of the buffer of a compressed or encrypted volume: what dirty pages may take; the codec has the rest.
const DIRT_PERCENT: u64 = 60;
/// Free pages kept for the next write, of each size but the largest.
const FREE_SMALL_PAGES_MAX: usize = 1024;

/// Pages and the budget they are lent against.
pub(crate) struct Pool {
    dirt: Budget,
    scratch: Budget,
    free: [ArrayQueue<Box<[u8]>>; 3],
    /// Bytes of all pages, lent or free.
    held: AtomicU64,
    /// Pages ever lent: tells whether the pool is idle.
    lent: AtomicU64,
    waiting: AtomicU64,
    pressure: Notify,
}

/// Room in the buffer. What a write does not use goes back when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Reservation(Permit);

impl Reservation {
    /// Bytes left in it.
    pub fn bytes(&self) -> u64 {
        self.0.units()
    }
}

impl Reservation {
    pub(crate) fn into_permit(self) -> Permit {
        self.0
    }
}

impl Pool {
    pub(crate) fn new(config: &Config, codec: &Codec) -> Arc<Pool> {
        let total = config.buffer_total_bytes();
        let dirt = if codec.is_plain() { total } else { total / 100 * DIRT_PERCENT };
        let free_max = |size: usize| if size == PAGE_BYTES { dirt as usize / size } else { FREE_SMALL_PAGES_MAX };
        Arc::new(Pool {
            dirt: Budget::new(dirt),
            scratch: Budget::new((total - dirt).max(1)),
            free: PAGE_SIZES.map(|size| ArrayQueue::new(free_max(size))),
            held: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            pressure: Notify::new(),
        })
    }

    /// Room for a write of `bytes` anywhere in a slice; waits in line.
    pub(crate) async fn reserve(&self, bytes: usize) -> Reservation {
        if let Some(room) = self.try_reserve(bytes) {
            return room;
        }
        let waiting = Waiting::start(&self.waiting);
        self.pressure.notify_one();
        let room = self.dirt.acquire(worst_case(bytes)).await;
        drop(waiting);
        // The room may just have gone into a slice that is not full: the next in line still needs help.
        if self.waiting() > 0 {
            self.pressure.notify_one();
        }
        Reservation(room)
    }

    pub(crate) fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        self.dirt.try_acquire(worst_case(bytes)).map(Reservation)
    }

    /// Writers wait, or the last eighth of the buffer is in use.
    pub(crate) fn under_pressure(&self) -> bool {
        self.waiting() > 0 || self.dirt.free() < self.dirt.total() / 8
    }

    /// Resolves once for each time a writer began to wait since the last call.
    pub(crate) async fn pressured(&self) {
        self.pressure.notified().await;
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// Room for the codec; waits in line. More than there is waits for all of it.
    pub(crate) async fn scratch(&self, bytes: usize) -> Permit {
        self.scratch.acquire(bytes as u64).await
    }

    /// Bytes lent and bytes in all, scratch included.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.dirt.used() + self.scratch.used(), self.dirt.total() + self.scratch.total())
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// A page of at least `bytes`, paid from `room`.
    ///
    /// A write longer than the whole buffer has reserved all there is and gets the rest on top: it
    /// could never be served otherwise.
    pub(crate) fn page(self: &Arc<Self>, bytes: usize, room: &mut Reservation) -> Page {
        let size = page_size(bytes);
        let index = PAGE_SIZES.iter().position(|s| *s == size).expect("a size of the list");
        self.lent.fetch_add(1, Relaxed);
        let buf = self.free[index].pop().unwrap_or_else(|| {
            self.held.fetch_add(size as u64, Relaxed);
            vec![0; size].into_boxed_slice()
        });
        Page { buf: PageBuf { buf, pool: self.clone() }, room: room.0.split(size as u64) }
    }

    fn take_back(&self, buf: Box<[u8]>) {
        let size = buf.len();
        let index = PAGE_SIZES.iter().position(|s| *s == size).expect("a page of this pool");
        if self.free[index].push(buf).is_err() {
            self.held.fetch_sub(size as u64, Relaxed);
        }
    }

    /// Pages lent since the start.
    pub(crate) fn lent(&self) -> u64 {
        self.lent.load(Relaxed)
    }

    /// Gives free pages back to the system.
    pub(crate) fn trim(&self) {
        for free in &self.free {
            while let Some(buf) = free.pop() {
                self.held.fetch_sub(buf.len() as u64, Relaxed);
            }
        }
    }
}

/// The smallest page that holds `bytes`.
fn page_size(bytes: usize) -> usize {
    debug_assert!(bytes <= PAGE_BYTES);
    PAGE_SIZES.into_iter().find(|size| *size >= bytes).unwrap_or(PAGE_BYTES)
}

/// What a write of `bytes` takes at most: it may start and end inside a page.
fn worst_case(bytes: usize) -> u64 {
    ((bytes.div_ceil(PAGE_BYTES) + 1) * PAGE_BYTES) as u64
}

struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn start(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A page that is being written.
pub(crate) struct Page {
    pub(crate) buf: PageBuf,
    /// What it was paid with: outlives the page if readers still hold its bytes.
    pub(crate) room: Option<Permit>,
}

/// The memory of a page; goes back to the pool by itself.
pub(crate) struct PageBuf {
    buf: Box<[u8]>,
    pool: Arc<Pool>,
}

impl std::ops::Deref for PageBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buf
    }
}

impl std::ops::DerefMut for PageBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buf
    }
}

impl AsRef<[u8]> for PageBuf {
    fn as_ref(&self) -> &[u8] {
        &self.buf
    }
}

impl Drop for PageBuf {
    fn drop(&mut self) {
        self.pool.take_back(std::mem::take(&mut self.buf));
    }
}
