//! In which slices a flush stores what it finds: the step from dirt to uploads.
//!
//! Small slots and the runs of patches share slices (packs, volume format 4.10); `pack_plan` decides
//! how. Where a chunk got so many runs that its list would burst, or where most of a span is dirty
//! anyway, the gaps between runs are read and stored too, so that one record can show many runs: a
//! *fill*. A fill holds bytes that others may overwrite meanwhile, so its commit demands that the list
//! is still the one that was read. If it is not, the same object is named run by run.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cairn_chunk::Loose;
use cairn_meta::overlay;
use cairn_types::{ChunkIndex, SliceId, SliceRecord, Timestamp};
use futures::{StreamExt, TryStreamExt};
use tracing::debug;

use crate::Result;
use crate::commit::Core;
use crate::file::{File, State};
use crate::pack_plan::{self as plan, Extent, Pressure};
use crate::pending::{Slot, Upload, Upto};
use crate::ranges::{self, Piece};

/// Records of a chunk that flushes leave at most.
const RECORDS_MAX: usize = 1000;

/// Gaps are read window by window, with one read for all gaps of a window.
const WINDOW_BYTES: u32 = 1 << 20;

/// Windows read at a time.
const WINDOWS_AT_ONCE: usize = 8;

/// Slots of one chunk that may show as fewer records, as long as its list is the one that was read.
pub(crate) struct Fill {
    pub(crate) index: ChunkIndex,
    pub(crate) seen: Vec<SliceRecord>,
    /// Numbers of the slots that each record shows, in order and without gaps between them.
    pub(crate) groups: Vec<Range<u64>>,
}

impl Fill {
    pub(crate) fn slots(&self) -> Range<u64> {
        match &self.groups[..] {
            [first, .., last] => first.start..last.end,
            [one] => one.clone(),
            [] => 0..0,
        }
    }
}

/// Bytes that get a place in a slice.
struct Part {
    loose: Loose,
    home: Home,
}

/// Whose bytes they are.
enum Home {
    /// A slot's that there is already.
    Slot(u64),
    /// A run's of a patch.
    Run { index: ChunkIndex, pos: u32, born: Instant, touched: Instant, mtime: Timestamp },
}

/// Runs of one chunk that lie so close that filling gaps may be worth it.
struct Dense {
    index: ChunkIndex,
    slots: Range<u64>,
    extents: Vec<Extent>,
    bytes: Vec<Loose>,
}

impl Core {
    /// Ends the writing of what is dirty up to `upto` and decides where it is stored. Answers the
    /// slices to store, and the newest slot that is meant.
    pub(crate) async fn freeze(&self, file: &File, upto: Upto) -> Result<(Vec<Arc<Upload>>, u64)> {
        let _deciding = file.packing.lock().await;
        let (dense, newest) = self.bind(file, upto).await?;
        for dense in dense {
            self.fill(file, dense).await?;
        }
        let mut state = file.state();
        state.queue.iter_mut().take_while(|s| s.seq <= newest).for_each(|s| s.leaving = true);
        Ok((crate::commit::uploads_upto(&state, newest), newest))
    }

    /// Freezes and packs. Answers what may be filled, and the newest slot that is meant: what comes
    /// later is another flush's.
    async fn bind(&self, file: &File, upto: Upto) -> Result<(Vec<Dense>, u64)> {
        loop {
            let needed = {
                let mut state = file.state();
                let needed = self.slices_needed(&state, upto);
                if let Some(mut ids) = self.ids.take_many(needed) {
                    let dense = self.pack(&mut state, upto, &mut ids);
                    self.ids.give_back(ids);
                    let newest = match upto {
                        Upto::Slot(seq) => seq,
                        _ => state.newest().unwrap_or_default(),
                    };
                    return Ok((dense, newest));
                }
                needed
            };
            self.ids.fill_to(&self.meta, needed).await?;
        }
    }

    /// Slice ids that packing may take.
    fn slices_needed(&self, state: &State, upto: Upto) -> usize {
        if self.config.pack_bytes == 0 || upto == Upto::Nothing {
            return 0;
        }
        let slots: u64 =
            state.queue.iter().filter(|s| s.is_loose(self.config.pack_bytes)).map(|s| u64::from(s.len)).sum();
        let patched: u64 = state.patches.values().map(|p| p.patch.bytes()).sum();
        // A dense chunk has objects of its own.
        let dense = state.patches.values().filter(|p| p.patch.pieces() > 1).count();
        plan::objects_max(slots + patched, self.config.pack_bytes) + 2 * dense
    }

    /// Freezes slots and patches, and puts what is loose of them into packs.
    fn pack(&self, state: &mut State, upto: Upto, ids: &mut Vec<SliceId>) -> Vec<Dense> {
        let limit = match upto {
            Upto::Nothing => return Vec::new(),
            Upto::Slot(seq) => seq,
            Upto::All => u64::MAX,
        };
        state.freeze(limit);
        let mut shared = self.loose_slots(state, limit);
        let (mut dense, mut bound) = (Vec::new(), Vec::new());
        for (index, patched) in if upto == Upto::All { state.take_patches() } else { Default::default() } {
            let home =
                |pos| Home::Run { index, pos, born: patched.born, touched: patched.touched, mtime: patched.mtime };
            let runs = patched.patch.freeze();
            let extents: Vec<Extent> = runs.iter().map(|(pos, loose)| Extent { pos: *pos, len: loose.len() }).collect();
            let parts = runs.into_iter().map(|(pos, loose)| Part { loose, home: home(pos) });
            if plan::is_dense(&extents, RECORDS_MAX) && !state.queue.iter().any(|s| s.index == index) {
                dense.push((index, extents, parts.collect::<Vec<_>>()));
            } else {
                shared.extend(parts);
            }
        }
        self.place_parts(state, shared, ids);
        for (index, extents, parts) in dense {
            let (first, bytes) = (state.next_seq, parts.iter().map(|p| p.loose.clone()).collect());
            self.place_parts(state, parts, ids);
            bound.push(Dense { index, slots: first..state.next_seq, extents, bytes });
        }
        bound
    }

    /// The bytes of slots that need not be slices of their own, if there are several, or a patch.
    fn loose_slots(&self, state: &mut State, limit: u64) -> Vec<Part> {
        let fits = |s: &&Slot| s.seq <= limit && s.is_loose(self.config.pack_bytes);
        let alone = state.patches.is_empty() && state.queue.iter().filter(fits).nth(1).is_none();
        if alone {
            return Vec::new();
        }
        let slots = state.queue.iter().filter(fits);
        slots.filter_map(|s| Some(Part { loose: s.upload.writer.take()?, home: Home::Slot(s.seq) })).collect()
    }

    fn place_parts(&self, state: &mut State, parts: Vec<Part>, ids: &mut Vec<SliceId>) {
        let lens: Vec<u32> = parts.iter().map(|p| p.loose.len()).collect();
        let mut parts = parts.into_iter();
        for object in plan::objects(&lens, self.config.pack_bytes) {
            let parts: Vec<Part> = parts.by_ref().take(object.len()).collect();
            let id = ids.pop().expect("ids were counted");
            let upload = Upload::new(self.chunk.pack(id, parts.iter().map(|p| p.loose.clone())));
            let mut off = 0;
            for (part, len) in parts.into_iter().zip(&lens[object]) {
                state.settle_part(part.home, *len, off, &upload);
                off += len;
            }
        }
    }

    /// Stores gaps with the runs of one chunk, if that is worth it and everything goes well. If not,
    /// they are packed as they are.
    async fn fill(&self, file: &File, dense: Dense) -> Result<()> {
        let seen = match self.meta.raw_slices(file.ino, dense.index).await {
            Ok(seen) => seen,
            Err(error) => {
                debug!(ino = file.ino.0, index = dense.index.0, %error, "gaps stay open");
                return Ok(());
            }
        };
        let view = overlay::view(&seen);
        let records_max = RECORDS_MAX.saturating_sub(seen.len()).max(1);
        let groups = plan::groups(&dense.extents, Pressure { records_max, gaps_at_hand: self.at_hand(&view, &dense) });
        if groups.len() == dense.extents.len() {
            return Ok(());
        }
        let windows = windows(&dense.extents, &groups);
        let wanted: Vec<Vec<Piece>> =
            windows.iter().map(|w| ranges::pieces(&view, &[], w.start, w.end - w.start)).collect();
        let to_read: u64 = wanted.iter().flatten().filter(|p| !p.is_hole()).map(|p| u64::from(p.len)).sum();
        // Memory is what flushing is to free: waiting for it here would wait for ourselves.
        let room = if to_read == 0 {
            Some(Loose::default())
        } else {
            self.chunk.try_reserve(to_read as usize).map(Loose::from)
        };
        let Some(room) = room else { return Ok(()) };
        let gaps = match self.read_windows(wanted).await {
            Ok(bytes) => Gaps { windows, bytes, room },
            Err(error) => {
                debug!(ino = file.ino.0, index = dense.index.0, %error, "gaps stay open");
                return Ok(());
            }
        };
        let bodies: Vec<Vec<Loose>> = groups.iter().map(|group| gaps.between(&dense, group.clone())).collect();
        let ids = self.ids.several(&self.meta, plan::objects_max(total(&bodies), self.config.pack_bytes)).await?;
        let fill = Fill {
            index: dense.index,
            seen,
            groups: groups
                .iter()
                .map(|g| dense.slots.start + g.start as u64..dense.slots.start + g.end as u64)
                .collect(),
        };
        self.swap(file, &dense, &groups, &bodies, ids, fill);
        Ok(())
    }

    /// Is everything between the runs in memory or on the local disk?
    fn at_hand(&self, view: &[SliceRecord], dense: &Dense) -> bool {
        let (Some(first), Some(last)) = (dense.extents.first(), dense.extents.last()) else { return true };
        let between = overlay::window(view, first.pos, last.pos + last.len);
        between.iter().all(|r| r.slice().is_none_or(|slice| self.chunk.is_near(slice, r.off, r.len)))
    }

    async fn read_windows(&self, wanted: Vec<Vec<Piece>>) -> Result<Vec<Vec<Bytes>>> {
        let reads = futures::stream::iter(wanted).map(|pieces| self.read_window(pieces));
        reads.buffered(WINDOWS_AT_ONCE).try_collect().await
    }

    async fn read_window(&self, pieces: Vec<Piece>) -> Result<Vec<Bytes>> {
        let mut parts = Vec::new();
        for piece in &pieces {
            if piece.is_hole() { parts.extend(zeros(piece.len)) } else { parts.push(self.fetch(piece).await?) }
        }
        Ok(parts)
    }

    /// Moves the slots of `dense` into slices that hold the gaps too.
    fn swap(
        &self,
        file: &File,
        dense: &Dense,
        groups: &[Range<usize>],
        bodies: &[Vec<Loose>],
        mut ids: Vec<SliceId>,
        fill: Fill,
    ) {
        let lens: Vec<u32> = bodies.iter().map(|body| body.iter().map(Loose::len).sum()).collect();
        let mut state = file.state();
        // Given up meanwhile: the file has no name and no handle any more.
        if state.slot_mut(dense.slots.start).is_none() {
            return;
        }
        for object in plan::objects(&lens, self.config.pack_bytes) {
            let id = ids.pop().expect("ids were counted");
            let upload = Upload::new(self.chunk.pack(id, bodies[object.clone()].iter().flatten().cloned()));
            let mut start = 0;
            for (group, len) in groups[object.clone()].iter().zip(&lens[object]) {
                let first = dense.extents[group.start].pos;
                for run in group.clone() {
                    let slot = state.slot_mut(dense.slots.start + run as u64).expect("none of them has left");
                    slot.upload = upload.clone();
                    slot.off = start + slot.pos - first;
                }
                start += len;
            }
        }
        state.fills.push(fill);
        drop(state);
        self.ids.give_back(ids);
    }
}

impl State {
    fn settle_part(&mut self, home: Home, len: u32, off: u32, upload: &Arc<Upload>) {
        match home {
            Home::Slot(seq) => {
                let slot = self.slot_mut(seq).expect("it is in the queue");
                (slot.upload, slot.off) = (upload.clone(), off);
            }
            Home::Run { index, pos, born, touched, mtime } => {
                let seq = self.next_seq;
                self.next_seq += 1;
                let upload = upload.clone();
                let slot =
                    Slot { seq, index, pos, len, off, upload, frozen: true, leaving: false, born, touched, mtime };
                self.queue.push_back(slot);
            }
        }
    }
}

/// What lies between runs, as it was read.
struct Gaps {
    windows: Vec<Range<u32>>,
    /// Of each window, in order.
    bytes: Vec<Vec<Bytes>>,
    room: Loose,
}

impl Gaps {
    /// The runs of a group and what lies between them, in order.
    fn between(&self, dense: &Dense, group: Range<usize>) -> Vec<Loose> {
        let mut body = vec![dense.bytes[group.start].clone()];
        for run in group.start + 1..group.end {
            let (before, after) = (dense.extents[run - 1], dense.extents[run]);
            body.push(self.room.with(self.read(before.pos + before.len, after.pos)));
            body.push(dense.bytes[run].clone());
        }
        body
    }

    fn read(&self, start: u32, end: u32) -> Vec<Bytes> {
        let first = self.windows.partition_point(|w| w.end <= start);
        let mut found = Vec::new();
        for (window, parts) in self.windows[first..].iter().zip(&self.bytes[first..]) {
            let mut at = window.start;
            for part in parts {
                let (from, to) = (start.max(at), end.min(at + part.len() as u32));
                if from < to {
                    found.push(part.slice((from - at) as usize..(to - at) as usize));
                }
                at += part.len() as u32;
            }
            if at >= end {
                break;
            }
        }
        found
    }
}

/// Zeros that take no memory.
fn zeros(len: u32) -> impl Iterator<Item = Bytes> {
    static PAGE: [u8; 64 << 10] = [0; 64 << 10];
    let pages = (0..len).step_by(PAGE.len());
    pages.map(move |at| Bytes::from_static(&PAGE[..PAGE.len().min((len - at) as usize)]))
}

/// What to read for the gaps within groups: at most one range a window.
fn windows(extents: &[Extent], groups: &[Range<usize>]) -> Vec<Range<u32>> {
    let mut windows: Vec<Range<u32>> = Vec::new();
    for run in groups.iter().flat_map(|g| g.start + 1..g.end) {
        let (mut from, end) = (extents[run - 1].pos + extents[run - 1].len, extents[run].pos);
        while from < end {
            let to = end.min(from - from % WINDOW_BYTES + WINDOW_BYTES);
            match windows.last_mut() {
                Some(last) if last.start / WINDOW_BYTES == from / WINDOW_BYTES => last.end = to,
                _ => windows.push(from..to),
            }
            from = to;
        }
    }
    windows
}

fn total(bodies: &[Vec<Loose>]) -> u64 {
    bodies.iter().flatten().map(|p| u64::from(p.len())).sum()
}
