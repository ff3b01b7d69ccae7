//! Which slice shows at an offset of a chunk: newer records hide older ones (volume format 4.3).
//!
//! Pure. The view keeps JuiceFS's segment borders, because compaction compares segments with
//! records; so neighbours that could be joined are not.

use cairn_types::SliceRecord;

/// Resolves records (oldest first) into adjoining segments from chunk offset 0 to the largest end
/// of any record. Gaps are segments of id 0. What lies beyond the view reads as zeros.
pub fn view(records: &[SliceRecord]) -> Vec<SliceRecord> {
    let mut segments: Vec<SliceRecord> = Vec::with_capacity(records.len() * 2 + 1);
    for record in records.iter().filter(|r| r.len > 0) {
        place(&mut segments, record);
    }
    fill_gaps(&segments)
}

/// Puts `record` over sorted, non-overlapping `segments`, cutting what it hides.
fn place(segments: &mut Vec<SliceRecord>, record: &SliceRecord) {
    let (start, end) = (record.pos, record.end());
    let first = segments.partition_point(|s| s.end() <= start);
    let last = segments.partition_point(|s| s.pos < end);
    let mut middle = Vec::with_capacity(3);
    if first < last {
        if let Some(left) = part(&segments[first], segments[first].pos, start) {
            middle.push(left);
        }
        middle.push(*record);
        if let Some(right) = part(&segments[last - 1], end, segments[last - 1].end()) {
            middle.push(right);
        }
    } else {
        middle.push(*record);
    }
    segments.splice(first..last.max(first), middle);
}

/// The part of `s` in `[start, end)` of the chunk; `None` if nothing is left.
pub fn part(s: &SliceRecord, start: u32, end: u32) -> Option<SliceRecord> {
    let (start, end) = (start.max(s.pos), end.min(s.end()));
    (start < end).then(|| {
        let skipped = start - s.pos;
        SliceRecord { pos: start, off: if s.is_hole() { 0 } else { s.off + skipped }, len: end - start, ..*s }
    })
}

fn fill_gaps(segments: &[SliceRecord]) -> Vec<SliceRecord> {
    let mut out = Vec::with_capacity(segments.len() + 1);
    let mut here = 0;
    for s in segments {
        if s.pos > here {
            out.push(SliceRecord::hole(here, s.pos - here));
        }
        out.push(*s);
        here = s.end();
    }
    out
}

/// The parts of a view in `[start, end)`, with a hole for what lies beyond it. Covers the range
/// exactly, in order.
pub fn window(view: &[SliceRecord], start: u32, end: u32) -> Vec<SliceRecord> {
    let first = view.partition_point(|s| s.end() <= start);
    let mut out: Vec<SliceRecord> =
        view[first..].iter().take_while(|s| s.pos < end).filter_map(|s| part(s, start, end)).collect();
    let covered = out.last().map_or(start, SliceRecord::end);
    if covered < end {
        out.push(SliceRecord::hole(covered, end - covered));
    }
    out
}

#[cfg(test)]
mod tests {
    use cairn_types::SliceId;

    use super::*;

    fn rec(pos: u32, id: u64, size: u32, off: u32, len: u32) -> SliceRecord {
        SliceRecord { pos, id: SliceId(id), size, off, len }
    }

    const MIB: u32 = 1 << 20;

    /// Appendix B of the volume format.
    #[test]
    fn view_equals_the_documented_example() {
        let records = [
            rec(0, 11, 10 * MIB, 0, 10 * MIB),
            rec(4 * MIB, 12, MIB, 0, MIB),
            SliceRecord::hole(9 * MIB, 2 * MIB),
            rec(20 * MIB, 13, 4096, 0, 4096),
        ];
        let expected = [
            rec(0, 11, 10 * MIB, 0, 4 * MIB),
            rec(4 * MIB, 12, MIB, 0, MIB),
            rec(5 * MIB, 11, 10 * MIB, 5 * MIB, 4 * MIB),
            SliceRecord::hole(9 * MIB, 2 * MIB),
            SliceRecord::hole(11 * MIB, 9 * MIB),
            rec(20 * MIB, 13, 4096, 0, 4096),
        ];
        assert_eq!(view(&records), expected);
    }

    #[test]
    fn a_window_beyond_the_view_is_a_hole() {
        let v = view(&[rec(10, 1, 5, 0, 5)]);
        assert_eq!(window(&v, 12, 20), [rec(12, 1, 5, 2, 3), SliceRecord::hole(15, 5)]);
        assert_eq!(window(&v, 0, 5), [SliceRecord::hole(0, 5)]);
    }
}
