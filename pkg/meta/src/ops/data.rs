//! What a file's bytes are: slices appended, lengths changed, ranges punched and copied
//! (volume format 4.4 to 4.7).

use std::collections::BTreeMap;

use cairn_types::layout::{chunk_at, chunk_spans, chunk_start};
use cairn_types::{
    Attr, CHUNK_BYTES, ChunkIndex, FileType, Flags, Ino, MAX_FILE_BYTES, SliceId, SliceRecord, SliceRef, Timestamp,
};

use super::setattr::drop_privilege;
use super::{account, attr, content_time};
use crate::changelog::log;
use crate::cred::{Cred, Want};
use crate::overlay;
use crate::txn::{AttrChange, Context, Op, Rely, Txn};
use crate::{Error, Result};

const WHOLE_CHUNK: u32 = CHUNK_BYTES as u32;

/// A stored slice to be named by metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSlice {
    /// The chunk.
    pub index: ChunkIndex,
    /// What is shown where: a fresh slice, or a part of one that several records share (a pack,
    /// volume format 4.10).
    pub record: SliceRecord,
    /// When its last byte was written.
    pub mtime: Timestamp,
}

/// Names stored slices of one file, in order, in one step.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The file.
    pub ino: Ino,
    /// Its new slices, in the order they were opened.
    pub slices: Vec<NewSlice>,
    /// The modification time to set instead of the slices' own, if somebody set it meanwhile.
    pub mtime: Option<Timestamp>,
    /// Slices that an earlier commit has registered: records of now add to their references.
    pub named: Vec<SliceId>,
    /// Lists that must still be as they were read, or nothing is done ([`Error::Changed`]). A slice
    /// that also repeats what a list showed would otherwise undo what others wrote since.
    pub unchanged: Vec<(ChunkIndex, Vec<SliceRecord>)>,
}

impl Commit {
    /// Fresh slices, whatever the lists hold by now.
    pub fn new(ino: Ino, slices: Vec<NewSlice>, mtime: Option<Timestamp>) -> Commit {
        Commit { ino, slices, mtime, named: vec![], unchanged: vec![] }
    }
}

/// What a commit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The file's attributes now.
    pub attr: Attr,
    /// What they were.
    pub before: Attr,
    /// Records in each written chunk's list now.
    pub counts: Vec<(ChunkIndex, u32)>,
}

impl Op for Commit {
    type Out = Committed;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Committed> {
        let old = attr(tx, self.ino, Rely::KIND.and(Rely::LENGTH).and(Rely::PARENT).and(Rely::PERMISSION))?;
        if !old.is_file() {
            return Err(Error::NotPermitted);
        }
        for (index, seen) in &self.unchanged {
            if tx.slices(self.ino, *index)? != *seen {
                return Err(Error::Changed);
            }
        }
        let end = self.slices.iter().map(|s| chunk_start(s.index) + u64::from(s.record.end())).max().unwrap_or(0);
        let length = old.length.max(end);
        if length > old.length {
            account::resized(cx, tx, self.ino, &old, length)?;
        }
        let counts = self.append(cx, tx)?;
        let newest = self.mtime.or_else(|| self.slices.iter().map(|s| s.mtime).max()).unwrap_or(cx.now);
        let mtime = if self.mtime.is_some() { newest } else { content_time(cx, newest, old.mtime) };
        let change = AttrChange {
            mtime: Some(mtime),
            ctime: Some(cx.now),
            length_at_least: (length > old.length).then_some(length),
            ..Default::default()
        };
        tx.change_attr(self.ino, &change)?;
        Ok(Committed { attr: change.applied_to(&old), before: old, counts })
    }
}

impl Commit {
    /// Appends chunk by chunk, each in order, so that a chunk's list is written once.
    fn append(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Vec<(ChunkIndex, u32)>> {
        let mut chunks: BTreeMap<ChunkIndex, Vec<SliceRecord>> = BTreeMap::new();
        for slice in &self.slices {
            chunks.entry(slice.index).or_default().push(slice.record);
        }
        let mut counts = BTreeMap::new();
        for (index, records) in &chunks {
            counts.insert(*index, tx.append_slices(self.ino, *index, records)?);
        }
        for (slice, refs) in self.references() {
            if self.named.contains(&slice.id) {
                tx.add_slice_refs(slice, i64::from(refs))?;
            } else {
                tx.insert_slice(slice, refs)?;
            }
        }
        let mut count_so_far: BTreeMap<ChunkIndex, u32> =
            counts.iter().map(|(index, count)| (*index, count - chunks[index].len() as u32)).collect();
        for s in &self.slices {
            let r = &s.record;
            let count = count_so_far.entry(s.index).or_default();
            *count += 1;
            log(
                cx,
                tx,
                "WRITE",
                &[&self.ino, &s.index, &r.pos, &r.id, &r.len, &s.mtime.secs, &s.mtime.nanos],
                Some(&*count),
            )?;
        }
        Ok(counts.into_iter().collect())
    }

    /// Each slice once, with the number of records that name it.
    fn references(&self) -> Vec<(SliceRef, u32)> {
        let mut slices: Vec<SliceRef> = self.slices.iter().filter_map(|s| s.record.slice()).collect();
        slices.sort_unstable();
        slices.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)).collect()
    }
}

/// Sets a file's length.
#[derive(Clone, Debug)]
pub struct Truncate {
    /// Caller.
    pub cred: Cred,
    /// The file.
    pub ino: Ino,
    /// New length in bytes.
    pub length: u64,
    /// Through an open handle, whose permission was checked at open.
    pub by_handle: bool,
}

impl Op for Truncate {
    type Out = Attr;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Attr> {
        if self.length > MAX_FILE_BYTES {
            return Err(Error::TooLarge);
        }
        let old = writable_file(tx, self.ino, &self.cred, self.by_handle)?;
        if old.flags.has(Flags::APPEND) || (!self.by_handle && old.parent.is_trash()) {
            return Err(Error::NotPermitted);
        }
        if self.length == old.length {
            return Ok(old);
        }
        zero_between(tx, self.ino, old.length, self.length)?;
        account::resized(cx, tx, self.ino, &old, self.length)?;
        let new = finish(cx, tx, self.ino, &old, Some(self.length), &self.cred)?;
        log(cx, tx, "TRUNCATE", &[&self.ino, &old.length, &self.length, &1], None)?;
        Ok(new)
    }
}

fn writable_file(tx: &mut dyn Txn, ino: Ino, cred: &Cred, by_handle: bool) -> Result<Attr> {
    let rely = Rely::KIND.and(Rely::PERMISSION).and(Rely::FLAGS).and(Rely::PARENT).and(Rely::LENGTH);
    let old = attr(tx, ino, rely.and(Rely::NLINK))?;
    match old.kind {
        FileType::File => {}
        FileType::Directory => return Err(Error::IsDirectory),
        FileType::Fifo => return Err(Error::Pipe),
        _ => return Err(Error::NotPermitted),
    }
    if old.flags.has(Flags::IMMUTABLE) {
        return Err(Error::NotPermitted);
    }
    if !by_handle {
        cred.require(tx, &old, Want::WRITE)?;
    }
    Ok(old)
}

/// Times, length and privilege after a content change.
fn finish(cx: &Context, tx: &mut dyn Txn, ino: Ino, old: &Attr, length: Option<u64>, cred: &Cred) -> Result<Attr> {
    let mut change = AttrChange {
        mtime: Some(content_time(cx, cx.now, old.mtime)),
        ctime: Some(cx.now),
        length,
        ..Default::default()
    };
    if !cred.is_root() {
        drop_privilege(old, &mut change);
    }
    tx.change_attr(ino, &change)?;
    Ok(change.applied_to(old))
}

/// Makes `[min, max)` of the two lengths read as zeros: old bytes must not come back.
fn zero_between(tx: &mut dyn Txn, ino: Ino, old: u64, new: u64) -> Result<()> {
    let (left, right) = (old.min(new), old.max(new));
    let (first, pos) = chunk_at(left);
    let (last, last_end) = chunk_at(right);
    let here = if first == last { last_end - pos } else { WHOLE_CHUNK - pos };
    if here > 0 {
        tx.append_slices(ino, first, &[SliceRecord::hole(pos, here)])?;
    }
    let mut after = ChunkIndex(first.0.saturating_add(1));
    while after < last {
        let page = tx.chunks(ino, after, CHUNK_PAGE)?;
        for &index in page.iter().take_while(|&&i| i < last) {
            tx.append_slices(ino, index, &[SliceRecord::hole(0, WHOLE_CHUNK)])?;
        }
        match page.last() {
            Some(&i) if page.len() == CHUNK_PAGE && i < last => after = ChunkIndex(i.0 + 1),
            _ => break,
        }
    }
    if first != last && last_end > 0 {
        tx.append_slices(ino, last, &[SliceRecord::hole(0, last_end)])?;
    }
    Ok(())
}

const CHUNK_PAGE: usize = 1000;

/// What fallocate(2) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FallocMode {
    /// Leave the length alone.
    pub keep_size: bool,
    /// Make the range a hole.
    pub punch_hole: bool,
    /// Make the range zeros.
    pub zero_range: bool,
}

impl FallocMode {
    /// Reads the mode bits of Linux; the errors are those of the volume format, 4.6.
    pub fn from_bits(bits: i32) -> Result<FallocMode> {
        const KEEP: i32 = 1;
        const PUNCH: i32 = 2;
        const COLLAPSE: i32 = 8;
        const ZERO: i32 = 16;
        const INSERT: i32 = 32;
        if bits == COLLAPSE || bits == INSERT {
            return Err(Error::NotSupported);
        }
        if bits & (COLLAPSE | INSERT) != 0 {
            return Err(Error::Invalid("collapse and insert exclude other modes"));
        }
        if bits & !(KEEP | PUNCH | ZERO) != 0 {
            return Err(Error::NotSupported);
        }
        if bits & PUNCH != 0 && bits & KEEP == 0 {
            return Err(Error::Invalid("punching a hole must keep the size"));
        }
        if bits & PUNCH != 0 && bits & ZERO != 0 {
            return Err(Error::Invalid("punch and zero exclude each other"));
        }
        Ok(FallocMode { keep_size: bits & KEEP != 0, punch_hole: bits & PUNCH != 0, zero_range: bits & ZERO != 0 })
    }

    /// The bits again, for the change log.
    fn bits(self) -> i32 {
        i32::from(self.keep_size) | i32::from(self.punch_hole) << 1 | i32::from(self.zero_range) << 4
    }
}

/// Allocates (in name only), punches or zeroes a range.
#[derive(Clone, Debug)]
pub struct Fallocate {
    /// Caller.
    pub cred: Cred,
    /// The file.
    pub ino: Ino,
    /// How.
    pub mode: FallocMode,
    /// Start in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Op for Fallocate {
    type Out = Attr;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Attr> {
        if self.len == 0 {
            return Err(Error::Invalid("fallocate of nothing"));
        }
        let end = self.offset.checked_add(self.len).filter(|&e| e <= MAX_FILE_BYTES).ok_or(Error::TooLarge)?;
        let old = writable_file(tx, self.ino, &self.cred, true)?;
        if old.flags.has(Flags::APPEND) && (self.mode.punch_hole || self.mode.zero_range) {
            return Err(Error::NotPermitted);
        }
        let length = if self.mode.keep_size { old.length } else { old.length.max(end) };
        if self.mode.punch_hole || self.mode.zero_range {
            let upto = end.min(old.length);
            for span in chunk_spans(self.offset, upto.saturating_sub(self.offset)) {
                tx.append_slices(self.ino, span.index, &[SliceRecord::hole(span.pos, span.len)])?;
            }
        }
        if length != old.length {
            account::resized(cx, tx, self.ino, &old, length)?;
        }
        let new = finish(cx, tx, self.ino, &old, (length != old.length).then_some(length), &self.cred)?;
        log(cx, tx, "FALLOCATE", &[&self.ino, &self.offset, &self.len, &self.mode.bits()], None)?;
        Ok(new)
    }
}

/// Shares a range of one file with another: no data moves.
#[derive(Clone, Debug)]
pub struct CopyRange {
    /// Caller.
    pub cred: Cred,
    /// Source file.
    pub input: Ino,
    /// Start in it, in bytes.
    pub in_offset: u64,
    /// Destination file.
    pub output: Ino,
    /// Start in it, in bytes.
    pub out_offset: u64,
    /// Bytes wanted.
    pub len: u64,
}

impl Op for CopyRange {
    type Out = (u64, Attr);

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<(u64, Attr)> {
        let input = attr(tx, self.input, Rely::KIND.and(Rely::LENGTH))?;
        if !input.is_file() {
            return Err(Error::Invalid("copy from something other than a file"));
        }
        let output = writable_file(tx, self.output, &self.cred, true)?;
        if output.flags.has(Flags::APPEND) {
            return Err(Error::NotPermitted);
        }
        let len = self.len.min(input.length.saturating_sub(self.in_offset));
        if len == 0 {
            return Ok((0, output));
        }
        let out_end = self.out_offset.checked_add(len).filter(|&e| e <= MAX_FILE_BYTES).ok_or(Error::TooLarge)?;
        if self.input == self.output && self.in_offset < out_end && self.out_offset < self.in_offset + len {
            return Err(Error::Invalid("copy onto itself"));
        }
        let pieces = self.pieces(tx, len)?;
        for (index, record) in pieces {
            tx.append_slices(self.output, index, &[record])?;
            if let Some(slice) = record.slice() {
                tx.add_slice_refs(slice, 1)?;
            }
        }
        let length = output.length.max(out_end);
        if length > output.length {
            account::resized(cx, tx, self.output, &output, length)?;
        }
        let new = finish(cx, tx, self.output, &output, (length > output.length).then_some(length), &self.cred)?;
        let args: [&dyn std::fmt::Display; 5] = [&self.input, &self.in_offset, &self.output, &self.out_offset, &len];
        log(cx, tx, "COPYFILERANGE", &args, Some(&length))?;
        Ok((len, new))
    }
}

impl CopyRange {
    /// The input's view of the range, cut at both files' chunk borders, as records of the output.
    fn pieces(&self, tx: &mut dyn Txn, len: u64) -> Result<Vec<(ChunkIndex, SliceRecord)>> {
        let mut pieces = Vec::new();
        for span in chunk_spans(self.in_offset, len) {
            let view = overlay::view(&tx.slices(self.input, span.index)?);
            for segment in overlay::window(&view, span.pos, span.pos + span.len) {
                let out_at = self.out_offset + span.at + u64::from(segment.pos - span.pos);
                for out in chunk_spans(out_at, u64::from(segment.len)) {
                    let off = if segment.is_hole() { 0 } else { segment.off + out.at as u32 };
                    pieces.push((out.index, SliceRecord { pos: out.pos, off, len: out.len, ..segment }));
                }
            }
        }
        Ok(pieces)
    }
}

/// Deletes chunk lists of a removed file, a batch at a time.
#[derive(Clone, Debug)]
pub struct DeleteChunks {
    /// The removed inode.
    pub ino: Ino,
    /// The length it had.
    pub length: u64,
    /// Most chunks to delete in this step.
    pub limit: usize,
}

/// What a batch of [`DeleteChunks`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeletedChunks {
    /// Slices nobody owns any more: their objects may be deleted, then [`ForgetSlice`].
    pub unowned: Vec<SliceRef>,
    /// No chunk is left.
    pub done: bool,
}

impl Op for DeleteChunks {
    type Out = DeletedChunks;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<DeletedChunks> {
        if tx.attr(self.ino, Rely::KIND)?.is_some() {
            return Err(Error::Corrupt(format!("inode {} is to be deleted, but exists", self.ino)));
        }
        let chunks = tx.deleted_chunks(self.ino, self.length, self.limit)?;
        let mut unowned = Vec::new();
        for &index in &chunks {
            let records = match tx.slices(self.ino, index) {
                Ok(records) => records,
                // What a corrupt list names nobody knows: gc finds its objects.
                Err(Error::CorruptChunk { .. }) => Vec::new(),
                Err(e) => return Err(e),
            };
            tx.remove_chunk(self.ino, index)?;
            unowned.extend(drop_references(tx, &records)?);
            log(cx, tx, "DELCHUNK", &[&self.ino, &index], None)?;
        }
        Ok(DeletedChunks { unowned, done: chunks.len() < self.limit })
    }
}

/// Takes one reference for each record; answers the slices that lost their last.
pub fn drop_references(tx: &mut dyn Txn, records: &[SliceRecord]) -> Result<Vec<SliceRef>> {
    let mut unowned = Vec::new();
    for slice in records.iter().filter_map(SliceRecord::slice) {
        if tx.add_slice_refs(slice, -1)? <= 0 && !unowned.contains(&slice) {
            unowned.push(slice);
        }
    }
    Ok(unowned)
}

/// Forgets a removed file whose chunks are all deleted.
#[derive(Clone, Copy, Debug)]
pub struct ForgetFile {
    /// The inode it had.
    pub ino: Ino,
    /// The length it had.
    pub length: u64,
}

impl Op for ForgetFile {
    type Out = ();

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<()> {
        tx.remove_deleted_file(self.ino, self.length)
    }
}

/// Forgets a slice whose objects are deleted, unless somebody owns it again.
#[derive(Clone, Copy, Debug)]
pub struct ForgetSlice(pub SliceRef);

impl Op for ForgetSlice {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        if tx.slice_refs(self.0)? <= 0 {
            tx.remove_slice(self.0)?;
            log(cx, tx, "DELETESLICE", &[&self.0.id, &self.0.size], None)?;
        }
        Ok(())
    }
}
