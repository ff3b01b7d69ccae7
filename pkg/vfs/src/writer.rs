//! write(2): into memory, now if there is room, otherwise when there is.
//!
//! Cost: one copy into pages, two plain locks, no allocation where a slice goes on; a slice id and
//! a slot where one begins.

use std::sync::Arc;
use std::time::Duration;

use cairn_chunk::Reservation;
use cairn_meta::{Durability, Error as MetaError};
use cairn_types::MAX_FILE_BYTES;
use cairn_types::layout::chunk_spans;

use crate::commit::Core;
use crate::file::{File, Placed};
use crate::flusher::flush_behind;
use crate::handle::FileHandle;
use crate::pending::Upto;
use crate::{Error, Result};

/// A write waits this long for memory that failing uploads hold before it fails itself.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// How often a waiting write looks whether uploads fail.
const STALL_LOOK: Duration = Duration::from_secs(1);

/// Slice ids one write can need: it spans at most two chunks, except beyond 64 MiB.
const IDS_PER_WRITE: usize = 2;

impl Core {
    /// Takes all of `data` without waiting, or nothing (`None`).
    pub(crate) fn write_now(&self, handle: &FileHandle, offset: u64, data: &[u8]) -> Option<Result<u32>> {
        if data.is_empty() {
            return Some(Ok(0));
        }
        if let Err(error) = check_end(offset, data.len()) {
            return Some(Err(error));
        }
        let file = &handle.file;
        if !self.ids.has(IDS_PER_WRITE) || file.state().is_full() {
            return None;
        }
        let mut room = self.chunk.try_reserve(data.len())?;
        let _shared = file.gate.try_read().ok()?;
        let offset = if handle.flags.append { None } else { Some(offset) };
        let placed = match self.place(file, offset, data, &mut room) {
            Ok(placed) => placed,
            Err(error) => return Some(Err(error)),
        };
        // Ids that others took meanwhile: nothing taken is `None`, something is a short write.
        (placed.bytes > 0).then_some(Ok(placed.bytes as u32))
    }

    /// Takes all of `data`; waits for memory. With `sync`, also until it is durable.
    pub(crate) async fn write(
        self: &Arc<Core>,
        handle: &FileHandle,
        offset: u64,
        data: &[u8],
        sync: bool,
    ) -> Result<u32> {
        check_end(offset, data.len())?;
        let file = &handle.file;
        let mut taken = 0;
        while taken < data.len() {
            self.ids.fill(&self.meta).await?;
            self.wait_for_slots(file).await?;
            let rest = &data[taken..];
            // The gate first: who waits for it must not sit on memory that a drain may need.
            let _shared = file.gate.read().await;
            let mut room = self.room(rest.len()).await?;
            let offset = if handle.flags.append { None } else { Some(offset + taken as u64) };
            let placed = self.place(file, offset, rest, &mut room)?;
            taken += placed.bytes;
        }
        if sync && taken > 0 {
            // Not up to a slot: until it is frozen, another write may move the newest into a patch.
            self.flush_upto(file, Upto::All, Durability::Power).await?;
        }
        Ok(taken as u32)
    }

    fn place(&self, file: &Arc<File>, offset: Option<u64>, data: &[u8], room: &mut Reservation) -> Result<Placed> {
        let clock = (self.env.instant(), self.now());
        let placed = {
            let mut state = file.state();
            let offset = offset.unwrap_or_else(|| state.length());
            check_end(offset, data.len())?;
            let spans = chunk_spans(offset, data.len() as u64);
            let new_writer = || self.ids.take().map(|id| self.chunk.staging_writer(id));
            state.place(spans, data, room, clock, new_writer, || self.chunk.patch())
        };
        if placed.first && placed.bytes > 0 {
            self.flusher.add(file);
        }
        Ok(placed)
    }

    /// Memory for a write. Fails if it does not come because nothing can be stored.
    async fn room(&self, bytes: usize) -> Result<Reservation> {
        if let Some(room) = self.chunk.try_reserve(bytes) {
            return Ok(room);
        }
        let mut reserve = std::pin::pin!(self.chunk.reserve(bytes));
        loop {
            if let Ok(room) = self.env.timeout(STALL_LOOK, reserve.as_mut()).await {
                return Ok(room);
            }
            if let Some(error) = self.flusher.trouble_for(self.env.instant(), STALL_LIMIT) {
                return Err(error);
            }
        }
    }

    /// A file of very many small runs is flushed before it takes more.
    async fn wait_for_slots(self: &Arc<Core>, file: &Arc<File>) -> Result<()> {
        loop {
            let drained = file.drained.notified();
            if !file.state().is_full() {
                return Ok(());
            }
            flush_behind(self, file, Upto::All);
            if self.env.timeout(STALL_LOOK, drained).await.is_err()
                && let Some(error) = self.flusher.trouble_for(self.env.instant(), STALL_LIMIT)
            {
                return Err(error);
            }
        }
    }
}

fn check_end(offset: u64, len: usize) -> Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= MAX_FILE_BYTES => Ok(()),
        _ => Err(Error::Meta(MetaError::TooLarge)),
    }
}
