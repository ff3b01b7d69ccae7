//! The bytes of one block: pages while it is written, a rope once it is on its way.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_env::Permit;

use crate::pool::{PAGE_BYTES, Page, Pool, Reservation};

/// A block being written. Pages lie one after the other; only the first may be smaller than the rest.
#[derive(Default)]
pub(crate) struct OpenBlock {
    pages: Vec<Page>,
}

impl OpenBlock {
    /// Copies `data` to `pos`; all below `pos` must be there already. `small_start`: let the first page
    /// be as small as what it holds.
    pub(crate) fn write(
        &mut self,
        pool: &Arc<Pool>,
        room: &mut Reservation,
        pos: usize,
        data: &[u8],
        small_start: bool,
    ) {
        for (at, within, part) in pieces(pos, data.len()) {
            let needed = if small_start && at == 0 { within + part.len() } else { PAGE_BYTES };
            self.ensure(pool, room, at, needed);
            self.pages[at].buf[within..within + part.len()].copy_from_slice(&data[part]);
        }
    }

    /// Makes page `at` hold `bytes`; a smaller one is replaced and its bytes are moved.
    fn ensure(&mut self, pool: &Arc<Pool>, room: &mut Reservation, at: usize, bytes: usize) {
        match self.pages.get_mut(at) {
            None => self.pages.push(pool.page(bytes, room)),
            Some(page) if page.buf.len() < bytes => {
                let mut larger = pool.page(bytes, room);
                larger.buf[..page.buf.len()].copy_from_slice(&page.buf);
                *page = larger;
            }
            Some(_) => {}
        }
        debug_assert!(at < self.pages.len(), "a block has no gaps");
    }

    /// Appends a copy of `range` to `out`.
    pub(crate) fn read(&self, range: Range<usize>, out: &mut Vec<u8>) {
        for (at, within, part) in pieces(range.start, range.len()) {
            out.extend_from_slice(&self.pages[at].buf[within..within + part.len()]);
        }
    }

    /// Bytes of buffer it holds.
    pub(crate) fn held(&self) -> u64 {
        self.pages.iter().map(|page| page.buf.len() as u64).sum()
    }

    /// Ends the writing: the first `len` bytes, as they lie.
    pub(crate) fn freeze(self, len: usize) -> Rope {
        let mut left = len;
        let mut room: Option<Permit> = None;
        let mut pieces = Vec::with_capacity(self.pages.len());
        for Page { buf, room: paid } in self.pages {
            let n = left.min(buf.len());
            left -= n;
            pieces.push(Bytes::from_owner(buf).slice(..n));
            match (&mut room, paid) {
                (Some(sum), Some(paid)) => sum.merge(paid),
                (None, paid) => room = paid,
                (Some(_), None) => {}
            }
        }
        assert_eq!(left, 0, "a block has all its bytes");
        Rope::new(pieces, room.map(Arc::new).into_iter().collect())
    }
}

/// The pages that `[pos, pos + len)` touches: page, place in it, part of the range.
fn pieces(pos: usize, len: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = pos + done;
        let within = here % PAGE_BYTES;
        let part = done..len.min(done + PAGE_BYTES - within);
        done = part.end;
        (!part.is_empty()).then_some((here / PAGE_BYTES, within, part))
    })
}

/// A block that no longer changes, in pieces. The room they were paid with goes back with the last
/// block that shares it.
pub(crate) struct Rope {
    pieces: Vec<Bytes>,
    /// Where each piece ends.
    ends: Vec<usize>,
    room: Vec<Arc<Permit>>,
}

impl Rope {
    pub(crate) fn new(pieces: Vec<Bytes>, room: Vec<Arc<Permit>>) -> Rope {
        let mut end = 0;
        let ends = pieces.iter().map(|piece| {
            end += piece.len();
            end
        });
        Rope { ends: ends.collect(), pieces, room }
    }

    /// References to its pieces, to be sent as they are.
    pub(crate) fn pieces(&self) -> Vec<Bytes> {
        self.pieces.clone()
    }

    /// What its bytes were paid with.
    pub(crate) fn room(&self) -> Vec<Arc<Permit>> {
        self.room.clone()
    }

    /// References to the pieces of `range`.
    pub(crate) fn range(&self, range: Range<usize>) -> impl Iterator<Item = Bytes> {
        let first = self.ends.partition_point(|&end| end <= range.start);
        let touched = self.pieces[first..].iter().zip(&self.ends[first..]);
        touched.map_while(move |(piece, end)| {
            let start = end - piece.len();
            let (from, to) = (range.start.max(start), range.end.min(*end));
            (from < to).then(|| piece.slice(from - start..to - start))
        })
    }

    /// Bytes of buffer it holds; what it shares with other blocks counts in each.
    pub(crate) fn held(&self) -> u64 {
        self.room.iter().map(|room| room.units()).sum()
    }
}

/// One piece; copies unless there is just one.
pub(crate) fn join(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        pieces => pieces.concat().into(),
    }
}
