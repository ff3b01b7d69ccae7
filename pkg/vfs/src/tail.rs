//! Appends that are synced often: the end of a file is merged with its previous commits.
//!
//! Each sync of an appended run would leave a short slice. Instead the run is stored together with the
//! bytes of our own records before it that are no longer than itself, and the commit puts one record
//! in their place, if the list still ends with just them. Lengths of what is left then at least halve
//! from record to record, so n syncs leave O(log n) records and write each byte O(log n) times.

use cairn_meta::{Committed, NewSlice};
use cairn_types::{ChunkIndex, SliceRecord};
use tracing::debug;

use crate::Result;
use crate::commit::Core;
use crate::file::{File, State};
use crate::pending::Upload;

/// Our own newest records of a chunk: they adjoin each other, and the list ended with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    index: ChunkIndex,
    records: Vec<SliceRecord>,
}

/// A slot whose slice begins with what the end of the list shows.
#[derive(Clone)]
pub(crate) struct Merge {
    pub(crate) seq: u64,
    /// Bytes of the slice before those of the slot.
    pub(crate) lead: u32,
    /// The records they come from.
    pub(crate) replaced: Vec<SliceRecord>,
}

impl Tail {
    fn end(&self) -> u32 {
        self.records.last().map_or(0, |r| r.end())
    }

    /// How many of the newest records to store again with `len` bytes that follow them.
    fn to_merge(&self, len: u32, slice_max: u32) -> usize {
        let mut total = len;
        let fits = |record: &&SliceRecord| {
            let merged = total + record.len;
            let fits = record.len <= total && merged <= slice_max;
            total = merged;
            fits
        };
        self.records.iter().rev().take_while(fits).count()
    }
}

impl State {
    /// Notes what a commit has left at the end of a list, and how many records it replaced there.
    pub(crate) fn note_tail(&mut self, done: &Committed, shown: &[NewSlice], replaced: usize) {
        let before = self.tail.take();
        let ([_], [.., last]) = (&done.counts[..], shown) else { return };
        let mut tail = Tail { index: last.index, records: vec![] };
        if let Some(mut before) = before
            && before.index == last.index
            && shown.len() == 1
        {
            before.records.truncate(before.records.len().saturating_sub(replaced));
            if before.end() == last.record.pos {
                tail = before;
            }
        }
        tail.records.push(last.record);
        self.tail = Some(tail);
    }
}

impl State {
    /// Lists were changed by others: what relied on them stands for itself.
    pub(crate) fn forget_lists(&mut self) {
        self.fills.clear();
        (self.merge, self.tail) = (None, None);
    }
}

impl Core {
    /// Stores the only dirty run of a file together with short records before it.
    pub(crate) async fn merge_tail(&self, file: &File, newest: u64) -> Result<()> {
        let Some(replaced) = self.mergeable(file, newest) else { return Ok(()) };
        let lead: u32 = replaced.iter().map(|r| r.len).sum();
        let Some(room) = self.chunk.try_reserve(lead as usize) else { return Ok(()) };
        let id = self.ids.several(&self.meta, 1).await?.remove(0);
        let mut bytes = Vec::new();
        for record in &replaced {
            let slice = record.slice().expect("our own records are no holes");
            match self.chunk.read(slice, record.off, record.len).await {
                Ok(read) => bytes.push(read),
                Err(error) => {
                    debug!(ino = file.ino.0, %error, "the end of the file stays as it is");
                    return Ok(());
                }
            }
        }
        let mut state = file.state();
        let Some(slot) = state.slot_mut(newest) else { return Ok(()) };
        let Some(loose) = slot.upload.writer.take() else { return Ok(()) };
        let room = cairn_chunk::Loose::from(room);
        slot.upload = Upload::new(self.chunk.pack(id, [room.with(bytes), loose]));
        slot.off = lead;
        state.merge = Some(Merge { seq: newest, lead, replaced });
        Ok(())
    }

    fn mergeable(&self, file: &File, newest: u64) -> Option<Vec<SliceRecord>> {
        let state = file.state();
        let tail = state.tail.as_ref()?;
        let slot = state.queue.front().filter(|slot| slot.seq == newest && slot.is_loose(self.config.pack_bytes))?;
        if slot.index != tail.index || slot.pos != tail.end() {
            return None;
        }
        let count = tail.to_merge(slot.len, self.config.pack_bytes);
        (count > 0).then(|| tail.records[tail.records.len() - count..].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::SliceId;

    use super::*;

    /// Appends `n` runs of `len` bytes, one commit each, and answers what is left of them.
    fn appended(n: u32, len: u32, slice_max: u32) -> (Vec<u32>, u64) {
        let (mut tail, mut written) = (Tail { index: ChunkIndex(0), records: vec![] }, 0);
        for i in 0..n {
            let count = tail.to_merge(len, slice_max);
            let kept = tail.records.len() - count;
            let merged: u32 = tail.records.drain(kept..).map(|r| r.len).sum::<u32>() + len;
            let record = SliceRecord { pos: (i + 1) * len - merged, id: SliceId(1), size: merged, off: 0, len: merged };
            tail.records.push(record);
            written += u64::from(merged);
        }
        (tail.records.iter().map(|r| r.len / len).collect(), written)
    }

    #[test]
    fn a_thousand_synced_appends_leave_ten_records() {
        let (left, written) = appended(1000, 4096, 64 << 20);
        assert_eq!(left, [512, 256, 128, 64, 32, 8]);
        assert!(written <= 1000 * 4096 * 7, "each byte is written at most log n times: {written}");
    }

    #[test]
    fn no_merged_slice_is_longer_than_a_pack() {
        let (left, _) = appended(1000, 4096, 64 * 4096);
        assert!(left.iter().all(|len| *len <= 64), "{left:?}");
        assert!(left.len() <= 1000 / 64 + 7, "{left:?}");
    }
}
