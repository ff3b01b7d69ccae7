use cairn_types::{SliceId, SliceRef};
use proptest::prelude::*;

use super::*;

const MIB: u32 = 1 << 20;

fn rec(pos: u32, id: u64, size: u32, off: u32, len: u32) -> SliceRecord {
    SliceRecord { pos, id: SliceId(id), size, off, len }
}

/// Appendix B of the volume format.
fn documented() -> Vec<SliceRecord> {
    vec![
        rec(0, 11, 10 * MIB, 0, 10 * MIB),
        rec(4 * MIB, 12, MIB, 0, MIB),
        SliceRecord::hole(9 * MIB, 2 * MIB),
        rec(20 * MIB, 13, 4096, 0, 4096),
    ]
}

#[test]
fn the_documented_list_becomes_one_slice() {
    let plan = plan(&documented()).expect("there is something to compact");
    assert_eq!((plan.considered, plan.skipped, plan.pos, plan.size), (4, 0, 0, 20 * MIB + 4096));
    assert_eq!(plan.segments, overlay::view(&documented()));
}

#[test]
fn a_large_untouched_first_record_stays() {
    let mut records = documented();
    records[1].pos = 10 * MIB;
    records.remove(2);
    let plan = plan(&records).expect("two records are left");
    assert_eq!((plan.skipped, plan.pos), (1, 10 * MIB));
    assert_eq!(plan.size, 10 * MIB + 4096, "from the second record to the end of the last");
}

#[test]
fn a_small_first_record_does_not_stay() {
    let records = [rec(0, 1, MIB - 1, 0, MIB - 1), rec(MIB, 2, 10, 0, 10)];
    assert_eq!(plan(&records).map(|p| p.skipped), Some(0));
    let small_share = [rec(0, 1, MIB, 0, MIB), rec(MIB, 2, 5 * MIB, 0, 5 * MIB)];
    assert_eq!(plan(&small_share).map(|p| p.skipped), Some(0));
}

#[test]
fn a_record_repeated_later_does_not_stay() {
    let first = rec(0, 1, 2 * MIB, 0, 2 * MIB);
    let records = [first, rec(3 * MIB, 2, 10, 0, 10), first];
    assert_eq!(plan(&records).map(|p| p.skipped), Some(0));
}

#[test]
fn one_record_or_none_is_left_alone() {
    assert_eq!(plan(&[]), None);
    assert_eq!(plan(&[rec(0, 1, 10, 0, 10)]), None);
    let kept_and_one = [rec(0, 1, 2 * MIB, 0, 2 * MIB), rec(2 * MIB, 2, 10, 0, 10)];
    assert_eq!(plan(&kept_and_one), None);
}

#[test]
fn nothing_but_holes_becomes_one_zero_byte() {
    let records = [SliceRecord::hole(100, 50), SliceRecord::hole(0, 4096)];
    let plan = plan(&records).expect("two records become one");
    assert_eq!((plan.pos, plan.size), (0, 1));
}

#[test]
fn only_the_oldest_records_are_considered() {
    let records: Vec<_> = (0..1500).map(|i| rec(i * 10, u64::from(i) + 1, 10, 0, 10)).collect();
    assert_eq!(plan(&records).map(|p| (p.considered, p.size)), Some((1000, 10_000)));
}

/// Space is counted in units of 256 KiB, so that records can be large enough to stay.
const UNIT: u32 = 256 << 10;
const UNITS: usize = 256;

fn any_record() -> impl Strategy<Value = SliceRecord> {
    (0..64u32, 1..24u32, 0..4u64, 0..3u32).prop_map(|(pos, len, kind, off)| match kind {
        0 => SliceRecord::hole(pos * UNIT, len * UNIT),
        _ => {
            let id = u64::from(pos * 1000 + len * 10 + off) + 1;
            rec(pos * UNIT, id, (len + off) * UNIT, off * UNIT, len * UNIT)
        }
    })
}

/// What each unit of the chunk shows: (slice, unit of the slice); zeros as (0, 0).
fn painted(records: &[SliceRecord]) -> Vec<(u64, u32)> {
    let mut canvas = vec![(0, 0); UNITS];
    for r in records {
        for i in 0..r.len / UNIT {
            let unit = if r.is_hole() { (0, 0) } else { (r.id.0, r.off / UNIT + i) };
            canvas[(r.pos / UNIT + i) as usize] = unit;
        }
    }
    canvas
}

proptest! {
    #[test]
    fn a_compacted_chunk_shows_what_it_showed(mut records in prop::collection::vec(any_record(), 0..40)) {
        let Some(plan) = plan(&records) else { return Ok(()) };
        let before = painted(&records);
        let made = SliceRef { id: SliceId(u64::MAX), size: plan.size };
        let replaced = plan.skipped..plan.considered;
        records.splice(replaced, [SliceRecord::whole(plan.pos, made)]);
        let content: Vec<(u64, u32)> = painted(&plan.segments)[(plan.pos / UNIT) as usize..].to_vec();
        let after: Vec<(u64, u32)> = painted(&records)
            .into_iter()
            .map(|(id, unit)| if id == u64::MAX { content[unit as usize] } else { (id, unit) })
            .collect();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn compaction_comes_to_rest(mut records in prop::collection::vec(any_record(), 0..40)) {
        for round in 0..50u64 {
            let Some(plan) = plan(&records) else { return Ok(()) };
            let made = SliceRef { id: SliceId(u64::MAX - round), size: plan.size };
            records.splice(plan.skipped..plan.considered, [SliceRecord::whole(plan.pos, made)]);
        }
        prop_assert!(false, "still compacting after 50 rounds");
    }
}
