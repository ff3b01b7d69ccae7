//! The bytes of a file: pages in a map, so that a copy for the record costs little.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE_BYTES: u64 = 4096;

type Page = [u8; PAGE_BYTES as usize];

/// What a file holds. Where there is no page there are zeros; nothing lies beyond `length`.
#[derive(Clone, Debug, Default)]
pub struct Content {
    length: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Content {
    /// Nothing.
    pub(super) const EMPTY: Content = Content { length: 0, pages: BTreeMap::new() };

    /// These bytes.
    pub fn of(bytes: &[u8]) -> Content {
        let mut content = Content::default();
        content.write(0, bytes);
        content
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Up to `len` bytes from `offset`; fewer at the end.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = offset.saturating_add(len).min(self.length);
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        let out_len = out.len() as u64;
        for piece in pieces(offset, out_len) {
            if let Some(page) = self.pages.get(&piece.page) {
                out[piece.at..piece.at + piece.len].copy_from_slice(&page[piece.from..piece.from + piece.len]);
            }
        }
        out
    }

    /// Puts `bytes` at `offset`, growing the file if need be.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for piece in pieces(offset, bytes.len() as u64) {
            let page = self.pages.entry(piece.page).or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
            Arc::make_mut(page)[piece.from..piece.from + piece.len]
                .copy_from_slice(&bytes[piece.at..piece.at + piece.len]);
        }
        if !bytes.is_empty() {
            self.length = self.length.max(offset + bytes.len() as u64);
        }
    }

    /// Makes a range zeros, as far as the file goes.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.length);
        self.wipe(offset, end);
    }

    /// Sets the length. What is cut off never comes back.
    pub fn resize(&mut self, length: u64) {
        self.wipe(length, self.length);
        self.length = length;
    }

    fn wipe(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let touched: Vec<u64> = self.pages.range(start / PAGE_BYTES..end.div_ceil(PAGE_BYTES)).map(|p| *p.0).collect();
        for number in touched {
            let first = number * PAGE_BYTES;
            let from = start.saturating_sub(first).min(PAGE_BYTES) as usize;
            let to = end.saturating_sub(first).min(PAGE_BYTES) as usize;
            let page = Arc::make_mut(self.pages.get_mut(&number).expect("it was just listed"));
            page[from..to].fill(0);
            if page.iter().all(|&b| b == 0) {
                self.pages.remove(&number);
            }
        }
    }

    /// Starts of the runs that may hold something else than zeros, for readers that want to save work.
    pub fn page_starts(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().map(|n| n * PAGE_BYTES)
    }

    /// The first byte in which the two differ, lengths included.
    pub fn first_difference(&self, other: &Content) -> Option<u64> {
        let mut numbers: Vec<u64> = self.pages.keys().chain(other.pages.keys()).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let (a, b) = (self.page(number), other.page(number));
            if let Some(i) = (0..PAGE_BYTES as usize).find(|&i| a[i] != b[i]) {
                return Some(number * PAGE_BYTES + i as u64);
            }
        }
        (self.length != other.length).then(|| self.length.min(other.length))
    }

    /// The first byte of `self` that none of `versions` had there. Beyond an end there are zeros: a
    /// file whose later slice survived and whose earlier one did not has a hole.
    pub fn first_foreign_byte(&self, versions: &[Content]) -> Option<u64> {
        let longest = versions.iter().map(Content::len).max().unwrap_or(0);
        let shortest = versions.iter().map(Content::len).min().unwrap_or(0);
        if self.length > longest || self.length < shortest {
            return Some(self.length);
        }
        for &number in self.pages.keys().chain(versions.iter().flat_map(|v| v.pages.keys())) {
            let mine = self.page(number);
            if versions.iter().any(|v| v.page(number) == mine) {
                continue;
            }
            let foreign = |i: &usize| versions.iter().all(|v| v.page(number)[*i] != mine[*i]);
            if let Some(i) = (0..PAGE_BYTES as usize).find(foreign) {
                return Some(number * PAGE_BYTES + i as u64);
            }
        }
        None
    }

    fn page(&self, number: u64) -> &Page {
        const ZEROS: Page = [0; PAGE_BYTES as usize];
        self.pages.get(&number).map_or(&ZEROS, |p| p)
    }
}

/// The part of a range that lies in one page.
struct Piece {
    page: u64,
    /// Where it starts within the page.
    from: usize,
    /// Where it starts within the range.
    at: usize,
    len: usize,
}

fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < len).then(|| {
            let (page, from) = ((offset + at) / PAGE_BYTES, (offset + at) % PAGE_BYTES);
            let take = (PAGE_BYTES - from).min(len - at);
            let piece = Piece { page, from: from as usize, at: at as usize, len: take as usize };
            at += take;
            piece
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_never_comes_back() {
        let mut c = Content::of(&[7; 10_000]);
        c.resize(4_100);
        c.resize(9_000);
        let mut expected = vec![7; 4_100];
        expected.resize(9_000, 0);
        assert_eq!(c.read(0, 20_000), expected);
    }

    #[test]
    fn writes_far_out_leave_a_hole() {
        let mut c = Content::default();
        c.write(1 << 40, b"x");
        assert_eq!((c.len(), c.read(5, 3)), ((1 << 40) + 1, vec![0; 3]));
    }

    #[test]
    fn bytes_of_different_versions_may_mix_but_no_others() {
        let versions = [Content::of(b"aaaa"), Content::of(b"abba")];
        assert_eq!(Content::of(b"abaa").first_foreign_byte(&versions), None);
        assert_eq!(Content::of(b"abca").first_foreign_byte(&versions), Some(2));
        assert_eq!(Content::of(b"aba").first_foreign_byte(&versions), Some(3));
    }
}
