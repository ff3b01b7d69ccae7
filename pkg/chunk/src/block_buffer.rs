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
        Rope { pieces, room }
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

/// A block that no longer changes, in pieces. Dropping it gives its room back.
pub(crate) struct Rope {
    pieces: Vec<Bytes>,
    room: Option<Permit>,
}

impl Rope {
    /// References to its pieces, to be sent as they are.
    pub(crate) fn pieces(&self) -> Vec<Bytes> {
        self.pieces.clone()
    }

    /// References to the pieces of `range`.
    pub(crate) fn range(&self, range: Range<usize>) -> impl Iterator<Item = Bytes> {
        let mut start = 0;
        self.pieces.iter().filter_map(move |piece| {
            let (from, to) = (range.start.max(start), range.end.min(start + piece.len()));
            let part = (from < to).then(|| piece.slice(from - start..to - start));
            start += piece.len();
            part
        })
    }

    /// Bytes of buffer it holds.
    pub(crate) fn held(&self) -> u64 {
        self.room.as_ref().map_or(0, Permit::units)
    }
}

/// One piece; copies unless there is just one.
pub(crate) fn join(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        pieces => pieces.concat().into(),
    }
}
