//! What a range of a file consists of: committed slices below, uncommitted runs above. Pure.

use std::sync::Arc;

use bytes::Bytes;
use cairn_types::{SliceRecord, SliceRef};

use crate::pending::Upload;

/// Uncommitted bytes of a chunk.
#[derive(Clone)]
pub(crate) struct Run {
    /// Start in the chunk.
    pub(crate) pos: u32,
    /// Bytes.
    pub(crate) len: u32,
    pub(crate) bytes: RunBytes,
}

/// Where the bytes of a run are.
#[derive(Clone)]
pub(crate) enum RunBytes {
    /// In a slice of our own, from this offset.
    Slice(Arc<Upload>, u32),
    /// Copied out of a patch.
    Here(Bytes),
}

/// Where bytes come from.
#[derive(Clone)]
pub(crate) enum Source {
    /// Zeros.
    Hole,
    /// A committed slice, from this offset.
    Stored(SliceRef, u32),
    /// Uncommitted bytes: those of a run, from this offset in it.
    Dirty(RunBytes, u32),
}

/// A piece of a range that comes from one place.
#[derive(Clone)]
pub(crate) struct Piece {
    /// Start in the chunk.
    pub(crate) pos: u32,
    /// Bytes.
    pub(crate) len: u32,
    pub(crate) source: Source,
}

impl Piece {
    fn end(&self) -> u32 {
        self.pos + self.len
    }

    /// The part within `[start, end)`, if there is one.
    fn part(&self, start: u32, end: u32) -> Option<Piece> {
        let (start, end) = (start.max(self.pos), end.min(self.end()));
        (start < end).then(|| {
            let skip = start - self.pos;
            let source = match &self.source {
                Source::Hole => Source::Hole,
                Source::Stored(slice, off) => Source::Stored(*slice, off + skip),
                Source::Dirty(bytes, off) => Source::Dirty(bytes.clone(), off + skip),
            };
            Piece { pos: start, len: end - start, source }
        })
    }

    pub(crate) fn is_hole(&self) -> bool {
        matches!(self.source, Source::Hole)
    }
}

/// The pieces of `[pos, pos + len)` of a chunk, in order and without gaps: the resolved `view` with
/// `runs` (oldest first) laid over it.
pub(crate) fn pieces(view: &[SliceRecord], runs: &[Run], pos: u32, len: u32) -> Vec<Piece> {
    let (start, end) = (pos, pos + len);
    let mut pieces: Vec<Piece> = cairn_meta::overlay::window(view, start, end).iter().map(committed).collect();
    for run in runs {
        lay(&mut pieces, run, start, end);
    }
    pieces
}

fn committed(record: &SliceRecord) -> Piece {
    let source = record.slice().map_or(Source::Hole, |slice| Source::Stored(slice, record.off));
    Piece { pos: record.pos, len: record.len, source }
}

/// Puts one run over what is there.
fn lay(pieces: &mut Vec<Piece>, run: &Run, start: u32, end: u32) {
    let whole = Piece { pos: run.pos, len: run.len, source: Source::Dirty(run.bytes.clone(), 0) };
    let Some(top) = whole.part(start, end) else { return };
    let first = pieces.partition_point(|p| p.end() <= top.pos);
    let last = pieces.partition_point(|p| p.pos < top.end());
    let left = pieces[first].part(start, top.pos);
    let right = pieces[last - 1].part(top.end(), end);
    pieces.splice(first..last, left.into_iter().chain([top]).chain(right));
}

/// Do the runs alone cover `[pos, pos + len)`? Then metadata need not be asked.
pub(crate) fn covered_by(runs: &[Run], pos: u32, len: u32) -> bool {
    let mut ranges: Vec<(u32, u32)> = runs.iter().map(|r| (r.pos, r.pos + r.len)).collect();
    ranges.sort_unstable();
    let reach = ranges.iter().fold(pos, |reach, &(start, end)| if start <= reach { reach.max(end) } else { reach });
    reach >= pos + len
}
