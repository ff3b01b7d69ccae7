//! Which records of a chunk a compaction replaces, and by what (volume format 4.8). Pure.

use cairn_meta::overlay;
use cairn_types::SliceRecord;

/// Records looked at in one compaction; younger ones wait for the next.
pub const RECORDS_MAX: usize = 1000;

/// A first record at least this long may stay where it is.
const KEEP_BYTES_MIN: u32 = 1 << 20;

/// ... if it is also at least one part in this many of everything.
const KEEP_SHARE: u64 = 5;

/// One compaction: records `skipped..considered` of the list become one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Oldest records that must still be in place when the list is replaced.
    pub considered: usize,
    /// Of those, how many stay as they are.
    pub skipped: usize,
    /// Where the new slice starts in the chunk, in bytes.
    pub pos: u32,
    /// Bytes of the new slice.
    pub size: u32,
    /// What it is made of, in order and without gaps; holes are zeros.
    pub segments: Vec<SliceRecord>,
}

/// What to compact in a list, oldest record first; `None` if there is nothing to gain.
pub fn plan(records: &[SliceRecord]) -> Option<Plan> {
    let considered = &records[..records.len().min(RECORDS_MAX)];
    let mut skipped = 0;
    let mut trimmed = Trimmed::of(considered);
    while may_stay(&considered[skipped..], &trimmed) {
        skipped += 1;
        trimmed = Trimmed::of(&considered[skipped..]);
    }
    if considered.len() - skipped < 2 { None } else { replacing(considered, skipped, trimmed) }
}

/// Makes one slice of all records from `first` on, or of more where that would hide an older one;
/// `None` if they show nothing.
pub(crate) fn plan_from(records: &[SliceRecord], first: usize) -> Option<Plan> {
    let considered = &records[..records.len().min(RECORDS_MAX)];
    let from = |first: usize| {
        let rest = considered.get(first..)?;
        replacing(considered, first, Trimmed::of(rest))
    };
    if first < considered.len() && !hides_kept(considered, first) { from(first) } else { from(0) }
}

fn hides_kept(considered: &[SliceRecord], skipped: usize) -> bool {
    let trimmed = Trimmed::of(&considered[skipped..]);
    let (start, end) = (trimmed.pos, trimmed.pos + trimmed.size);
    considered[..skipped].iter().any(|kept| kept.pos < end && start < kept.end())
}

fn replacing(considered: &[SliceRecord], skipped: usize, trimmed: Trimmed) -> Option<Plan> {
    if trimmed.size == 0 {
        return None;
    }
    let (start, end) = (trimmed.pos, trimmed.pos + trimmed.size);
    // A kept record is older: the new slice would hide it.
    let hides = considered[..skipped].iter().any(|kept| kept.pos < end && start < kept.end());
    debug_assert!(!hides, "a record that stays overlaps what is rewritten");
    (!hides).then_some(Plan {
        considered: considered.len(),
        skipped,
        pos: start,
        size: trimmed.size,
        segments: trimmed.segments,
    })
}

/// May the first record stay, being large, whole and in front of everything else?
fn may_stay(rest: &[SliceRecord], trimmed: &Trimmed) -> bool {
    let (Some(first), Some(shown)) = (rest.first(), trimmed.segments.first()) else { return false };
    first.len >= KEEP_BYTES_MIN
        && u64::from(first.len) * KEEP_SHARE >= u64::from(trimmed.size)
        && (shown.pos, shown.id, shown.off, shown.len) == (first.pos, first.id, first.off, first.len)
        && !rest[1..].contains(first)
}

/// The view of some records without the holes at its ends.
struct Trimmed {
    pos: u32,
    size: u32,
    segments: Vec<SliceRecord>,
}

impl Trimmed {
    fn of(records: &[SliceRecord]) -> Trimmed {
        let view = overlay::view(records);
        let mut segments = &view[..];
        while let [first, rest @ ..] = segments
            && !rest.is_empty()
            && first.is_hole()
        {
            segments = rest;
        }
        while let [rest @ .., last] = segments
            && !rest.is_empty()
            && last.is_hole()
        {
            segments = rest;
        }
        let mut segments = segments.to_vec();
        if let [only] = segments.as_mut_slice()
            && only.is_hole()
        {
            only.len = 1;
        }
        let pos = segments.first().map_or(0, |s| s.pos);
        Trimmed { pos, size: segments.iter().map(|s| s.len).sum(), segments }
    }
}

#[cfg(test)]
mod tests;
