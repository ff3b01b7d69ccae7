//! The overlay equals painting bytes.

use cairn_meta::overlay::{view, window};
use cairn_types::{SliceId, SliceRecord};
use proptest::prelude::*;

const SPACE: u32 = 200;

fn record() -> impl Strategy<Value = SliceRecord> {
    (0..SPACE, 0..6u64, 0..40u32, 1..60u32).prop_map(|(pos, id, off, len)| {
        let len = len.min(SPACE - pos).max(1);
        match id {
            0 => SliceRecord::hole(pos, len),
            id => SliceRecord { pos, id: SliceId(id), size: off + len + 3, off, len },
        }
    })
}

/// What each byte shows: slice and offset in it; `(0, 0)` for zeros.
fn paint(records: &[SliceRecord]) -> Vec<(u64, u32)> {
    let mut bytes = vec![(0, 0); 300];
    for r in records {
        for i in 0..r.len {
            bytes[(r.pos + i) as usize] = if r.is_hole() { (0, 0) } else { (r.id.0, r.off + i) };
        }
    }
    bytes
}

proptest! {
    #[test]
    fn view_equals_painting(records in prop::collection::vec(record(), 0..30)) {
        let v = view(&records);
        prop_assert_eq!(paint(&v), paint(&records));
        let mut here = 0;
        for s in &v {
            prop_assert_eq!(s.pos, here);
            prop_assert!(s.len > 0);
            here = s.end();
        }
        prop_assert_eq!(here, records.iter().map(SliceRecord::end).max().unwrap_or(0));
    }

    #[test]
    fn windows_cover_exactly(records in prop::collection::vec(record(), 0..30), start in 0..SPACE, len in 1..100u32) {
        let w = window(&view(&records), start, start + len);
        prop_assert_eq!(w.first().unwrap().pos, start);
        prop_assert_eq!(w.iter().map(|s| s.len).sum::<u32>(), len);
        let (painted, all) = (paint(&w), paint(&records));
        prop_assert_eq!(&painted[start as usize..(start + len) as usize], &all[start as usize..(start + len) as usize]);
    }
}
