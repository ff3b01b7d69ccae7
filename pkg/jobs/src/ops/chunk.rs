//! Slice lists that are replaced, slices and files that wait for deletion.

use cairn_meta::changelog::log;
use cairn_meta::ops::data::drop_references;
use cairn_meta::record::{DelayedSlices, DeletedFile};
use cairn_meta::txn::{Context, Op, Txn};
use cairn_meta::{Error, Result};
use cairn_types::{ChunkIndex, Ino, SliceId, SliceRecord, SliceRef};

use crate::plan::Plan;

/// Puts one slice in the place of the records a plan replaces, if all the plan read is unchanged.
#[derive(Clone, Debug)]
pub(crate) struct SwapChunk {
    pub(crate) ino: Ino,
    pub(crate) index: ChunkIndex,
    /// The records the plan was made of: the start of the list.
    pub(crate) read: Vec<SliceRecord>,
    pub(crate) plan: Plan,
    pub(crate) slice: SliceRef,
}

impl Op for SwapChunk {
    /// Slices nobody owns any more.
    type Out = Vec<SliceRef>;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Vec<SliceRef>> {
        let (plan, slice) = (&self.plan, self.slice);
        let list = tx.slices(self.ino, self.index)?;
        if !list.starts_with(&self.read[..plan.considered]) {
            return Err(Error::Changed);
        }
        let replaced = &list[plan.skipped..plan.considered];
        let mut new = list[..plan.skipped].to_vec();
        new.push(SliceRecord::whole(plan.pos, slice));
        new.extend(&list[plan.considered..]);
        tx.replace_slices(self.ino, self.index, &new)?;
        tx.insert_slice(slice, 1)?;
        let unowned = if cx.policy.trash_days > 0 {
            delay(cx, tx, slice.id, replaced)?;
            Vec::new()
        } else {
            drop_references(tx, replaced)?
        };
        let args: [&dyn std::fmt::Display; 7] =
            [&self.ino, &self.index, &plan.skipped, &replaced.len(), &plan.pos, &slice.id, &slice.size];
        log(cx, tx, "COMPACTCHUNK", &args, None)?;
        Ok(unowned)
    }
}

/// Keeps the replaced slices for the trash days. A chunk of nothing but holes leaves no record.
fn delay(cx: &Context, tx: &mut dyn Txn, id: SliceId, replaced: &[SliceRecord]) -> Result<()> {
    let slices: Vec<SliceRef> = replaced.iter().filter_map(SliceRecord::slice).collect();
    if slices.is_empty() {
        return Ok(());
    }
    tx.insert_delayed(&DelayedSlices { id, deleted_secs: cx.now.secs, slices })
}

/// How many own this slice? Asked before objects go, and after a commit of unknown outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SliceOwners(pub(crate) SliceRef);

impl Op for SliceOwners {
    type Out = i64;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<i64> {
        tx.slice_refs(self.0)
    }
}

/// Gives back the references of delayed slices that have waited long enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReleaseDelayed {
    /// Made at or before this, Unix seconds.
    pub(crate) until: i64,
    /// Records in one step.
    pub(crate) limit: usize,
}

/// What a step of [`ReleaseDelayed`] did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Released {
    /// Slices nobody owns any more.
    pub(crate) unowned: Vec<SliceRef>,
    /// References given back.
    pub(crate) slices: u64,
    /// Bytes of those slices.
    pub(crate) bytes: u64,
    /// No such record is left.
    pub(crate) done: bool,
}

impl Op for ReleaseDelayed {
    type Out = Released;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Released> {
        let batch = tx.delayed(self.until, self.limit)?;
        let mut out = Released { done: batch.len() < self.limit, ..Released::default() };
        for delayed in &batch {
            tx.remove_delayed(delayed.id, delayed.deleted_secs)?;
            let records: Vec<SliceRecord> = delayed.slices.iter().map(|&s| SliceRecord::whole(0, s)).collect();
            out.unowned.extend(drop_references(tx, &records)?);
            out.slices += delayed.slices.len() as u64;
            out.bytes += delayed.slices.iter().map(|s| u64::from(s.size)).sum::<u64>();
            log(cx, tx, "CLEANUP_DELAYED_SLICES", &[&delayed.id, &delayed.deleted_secs], None)?;
        }
        Ok(out)
    }
}

/// Slices that lost their last owner and still have a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnownedSlices {
    pub(crate) after: SliceId,
    pub(crate) limit: usize,
}

impl Op for UnownedSlices {
    type Out = Vec<SliceRef>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<SliceRef>> {
        tx.unowned_slices(self.after, self.limit)
    }
}

/// Removed files whose data is still there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingFiles {
    /// Removed at or before this, Unix seconds.
    pub(crate) until: i64,
    pub(crate) limit: usize,
}

impl Op for WaitingFiles {
    type Out = Vec<DeletedFile>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<DeletedFile>> {
        tx.deleted_files(self.until, self.limit)
    }
}
