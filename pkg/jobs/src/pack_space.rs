//! What of shared slices is still shown, and which of them are mostly waste.
//!
//! A pack lives until its last record goes, so its hidden bytes stay stored (volume format 4.10). No
//! index leads from a pack to its records: only a scan of all lists tells. Slices that show whole are
//! not looked at; memory is one entry for each slice of which some record shows a part.

use std::collections::HashMap;

use cairn_meta::overlay;
use cairn_types::{SliceRecord, SliceRef};

use crate::progress::Tally;

/// A pack is rewritten once less than one part in this many of it is shown.
const SHOWN_SHARE_MIN: u64 = 2;

/// Bytes shown of each slice that is shared or shown in part.
#[derive(Clone, Debug, Default)]
pub(crate) struct PackSpace {
    shown: HashMap<SliceRef, u64>,
}

impl PackSpace {
    /// Counts one list of slice records.
    pub(crate) fn add(&mut self, records: &[SliceRecord]) {
        if !records.iter().any(is_part) {
            return;
        }
        for slice in records.iter().filter(|r| is_part(r)).filter_map(SliceRecord::slice) {
            self.shown.entry(slice).or_default();
        }
        for segment in overlay::view(records) {
            let slice = segment.slice();
            if let Some(shown) = slice.and_then(|slice| self.shown.get_mut(&slice)) {
                *shown += u64::from(segment.len);
            }
        }
    }

    /// Such slices and their bytes.
    pub(crate) fn packs(&self) -> Tally {
        self.tally(|_, size| size)
    }

    /// Those with bytes that nothing shows, and these bytes.
    pub(crate) fn dead(&self) -> Tally {
        self.tally(|shown, size| size.saturating_sub(shown))
    }

    fn tally(&self, bytes: impl Fn(u64, u64) -> u64) -> Tally {
        let mut tally = Tally::default();
        for (slice, shown) in &self.shown {
            let bytes = bytes(*shown, u64::from(slice.size));
            if bytes > 0 {
                tally.add(bytes);
            }
        }
        tally
    }

    /// Is so little of it shown that its parts are better moved out?
    pub(crate) fn is_wasteful(&self, slice: SliceRef) -> bool {
        self.shown.get(&slice).is_some_and(|shown| shown * SHOWN_SHARE_MIN < u64::from(slice.size))
    }

    /// The first record of a list that shows a part of a wasteful slice.
    pub(crate) fn first_wasteful(&self, records: &[SliceRecord]) -> Option<usize> {
        records.iter().position(|r| r.slice().is_some_and(|slice| self.is_wasteful(slice)))
    }
}

fn is_part(record: &SliceRecord) -> bool {
    !record.is_hole() && record.len < record.size
}

#[cfg(test)]
mod tests {
    use cairn_types::SliceId;

    use super::*;

    fn part(pos: u32, id: u64, size: u32, off: u32, len: u32) -> SliceRecord {
        SliceRecord { pos, id: SliceId(id), size, off, len }
    }

    #[test]
    fn hidden_and_unnamed_bytes_are_dead() {
        let mut space = PackSpace::default();
        // Of slice 1, 100 of 1000 bytes are named here, 30 of them hidden by slice 2, which is whole.
        space.add(&[part(0, 1, 1000, 0, 100), part(70, 2, 30, 0, 30)]);
        assert_eq!((space.packs(), space.dead()), (Tally { count: 1, bytes: 1000 }, Tally { count: 1, bytes: 930 }));
        let slice = SliceRef { id: SliceId(1), size: 1000 };
        assert!(space.is_wasteful(slice));
        // Another file shows the rest.
        space.add(&[part(5, 1, 1000, 100, 900)]);
        assert!(!space.is_wasteful(slice));
        assert_eq!(space.dead().bytes, 30);
    }
}
