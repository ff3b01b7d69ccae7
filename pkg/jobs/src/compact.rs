//! Many short slices of a chunk become one (volume format 4.8).
//!
//! Costs one read of what the chunk shows, one write of the same, one transaction. The order that
//! must hold: the new slice is stored before the list names it; the list changes only if all that
//! was read is still in place; the replaced slices lose their owner in that same transaction and
//! their objects later. Whoever loses the race deletes only its own new objects.

use std::sync::Arc;

use cairn_chunk::{ChunkStore, SliceWriter, StoredSlice};
use cairn_meta::{Durability, Meta};
use cairn_types::{ChunkIndex, FileType, Ino, SliceRecord, SliceRef};
use futures::{StreamExt, TryStreamExt};

use crate::ops::{SliceOwners, SwapChunk};
use crate::pack_space::PackSpace;
use crate::plan::{Plan, plan, plan_from};
use crate::progress::{Phase, Progress, Tally, Watch};
use crate::{Error, Result};

/// Pieces read ahead of the one being written.
const READ_AHEAD: usize = 4;

/// Rounds for one chunk: each replaces up to a thousand records.
const ROUNDS_MAX: usize = 100;

/// Names or chunks read at a time.
const PAGE: usize = 1000;

/// Zeros written at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compacted {
    /// There was nothing to gain.
    Nothing,
    /// The list is shorter now.
    Done {
        /// Records replaced by one.
        records: usize,
        /// Bytes of the new slice.
        bytes: u64,
        /// Slices nobody owns any more; empty where the trash keeps them.
        unowned: Vec<SliceRef>,
    },
    /// Somebody else changed what was replaced. Nothing happened.
    Changed,
    /// A block of it could not be read. Nothing happened.
    Unreadable,
}

/// Compacts one chunk once.
pub async fn compact(meta: &Meta, chunks: &Arc<ChunkStore>, ino: Ino, index: ChunkIndex) -> Result<Compacted> {
    let read = meta.view(cairn_meta::ops::tree::Slices { ino, index }).await?;
    match plan(&read) {
        Some(plan) => execute(meta, chunks, ino, index, read, plan).await,
        None => Ok(Compacted::Nothing),
    }
}

async fn execute(
    meta: &Meta,
    chunks: &Arc<ChunkStore>,
    ino: Ino,
    index: ChunkIndex,
    read: Vec<SliceRecord>,
    plan: Plan,
) -> Result<Compacted> {
    let stored = match rewrite(meta, chunks, &plan).await {
        Ok(stored) => stored,
        Err(Error::Chunk(e)) => {
            tracing::debug!(%ino, index = index.0, error = %e, "compaction abandoned");
            return Ok(Compacted::Unreadable);
        }
        Err(e) => return Err(e),
    };
    swap(meta, chunks, ino, index, read, plan, stored.slice()).await
}

/// Compacts one chunk until there is nothing to gain. Answers bytes written by each round; `take`
/// gets the slices left without owner.
pub(crate) async fn compact_fully(
    meta: &Meta,
    chunks: &Arc<ChunkStore>,
    ino: Ino,
    index: ChunkIndex,
    take: &(dyn Fn(Vec<SliceRef>) + Send + Sync),
) -> Result<Tally> {
    let mut written = Tally::default();
    for _ in 0..ROUNDS_MAX {
        match compact(meta, chunks, ino, index).await {
            Ok(Compacted::Done { bytes, unowned, .. }) => {
                written.add(bytes);
                take(unowned);
            }
            // A corrupt list is fsck's to report.
            Ok(_) | Err(Error::Meta(cairn_meta::Error::CorruptChunk { .. })) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(written)
}

/// Moves what a chunk shows of mostly dead packs out of them, into a slice of its own.
pub(crate) async fn repack(
    meta: &Meta,
    chunks: &Arc<ChunkStore>,
    ino: Ino,
    index: ChunkIndex,
    packs: &PackSpace,
) -> Result<Tally> {
    let mut written = Tally::default();
    let read = meta.view(cairn_meta::ops::tree::Slices { ino, index }).await?;
    let Some(first) = packs.first_wasteful(&read) else { return Ok(written) };
    let Some(plan) = plan_from(&read, first) else { return Ok(written) };
    match execute(meta, chunks, ino, index, read, plan).await? {
        Compacted::Done { bytes, .. } => written.add(bytes),
        // Whoever changed it has moved on; the next pass will see.
        Compacted::Nothing | Compacted::Changed | Compacted::Unreadable => {}
    }
    Ok(written)
}

/// [`compact_fully`] for every chunk of a file, or of all files below a directory.
pub(crate) async fn compact_tree(
    meta: &Meta,
    chunks: &Arc<ChunkStore>,
    ino: Ino,
    threads: usize,
    watch: Watch<'_>,
    take: &(dyn Fn(Vec<SliceRef>) + Send + Sync),
) -> Result<Tally> {
    let mut written = Tally::default();
    let (mut dirs, mut files) = (Vec::new(), Vec::new());
    if meta.getattr(ino).await?.is_dir() {
        dirs.push((ino, Vec::new()))
    } else {
        files.push(ino)
    }
    loop {
        let mut rounds = futures::stream::iter(std::mem::take(&mut files))
            .map(|file| compact_file(meta, chunks, file, take))
            .buffer_unordered(threads.max(1));
        while let Some(done) = rounds.try_next().await? {
            written.count += done.count;
            written.bytes += done.bytes;
            watch(Progress { phase: Phase::Compact, done: written.count, total: None, bytes: written.bytes });
        }
        let Some((dir, after)) = dirs.pop() else { return Ok(written) };
        let page = meta.readdir(dir, &after, PAGE, false).await?;
        if let Some(last) = page.last() {
            dirs.push((dir, last.name.clone()));
        }
        for named in page {
            match named.entry.kind {
                FileType::Directory => dirs.push((named.entry.ino, Vec::new())),
                FileType::File => files.push(named.entry.ino),
                _ => {}
            }
        }
    }
}

async fn compact_file(
    meta: &Meta,
    chunks: &Arc<ChunkStore>,
    ino: Ino,
    take: &(dyn Fn(Vec<SliceRef>) + Send + Sync),
) -> Result<Tally> {
    let (mut written, mut from) = (Tally::default(), ChunkIndex(0));
    loop {
        let page = meta.chunks(ino, from, PAGE).await?;
        for &index in &page {
            let done = compact_fully(meta, chunks, ino, index, take).await?;
            written.count += done.count;
            written.bytes += done.bytes;
        }
        match page.last() {
            Some(last) if page.len() == PAGE && last.0 < u32::MAX => from = ChunkIndex(last.0 + 1),
            _ => return Ok(written),
        }
    }
}

/// Writes what the plan shows as a new slice.
async fn rewrite(meta: &Meta, chunks: &Arc<ChunkStore>, plan: &Plan) -> Result<StoredSlice> {
    let writer = chunks.writer(meta.next_slice_id().await?);
    let outcome = match copy(chunks, &writer, plan).await {
        Ok(()) => writer.finish().await.map_err(Error::from),
        Err(e) => Err(e),
    };
    if outcome.is_err()
        && let Err(e) = writer.discard().await
    {
        // Nobody names these blocks: gc finds them.
        tracing::debug!(slice = %writer.id(), error = %e, "blocks of an abandoned compaction stay behind");
    }
    outcome
}

async fn copy(chunks: &Arc<ChunkStore>, writer: &SliceWriter, plan: &Plan) -> Result<()> {
    let block_bytes = chunks.config().block_bytes;
    let pieces: Vec<SliceRecord> = plan.segments.iter().flat_map(|s| pieces(s, block_bytes)).collect();
    let mut reads = futures::stream::iter(pieces)
        .map(|piece| async move {
            let bytes = match piece.slice() {
                Some(slice) => Some(chunks.read(slice, piece.off, piece.len).await?),
                None => None,
            };
            Ok::<_, Error>((piece, bytes))
        })
        .buffered(READ_AHEAD);
    while let Some((piece, bytes)) = reads.try_next().await? {
        let at = piece.pos - plan.pos;
        match bytes {
            Some(bytes) => write(chunks, writer, at, &bytes).await?,
            None => write_zeros(chunks, writer, at, piece.len).await?,
        }
    }
    Ok(())
}

/// A segment in parts that each lie in one block. A hole stays whole.
fn pieces(segment: &SliceRecord, block_bytes: u32) -> Vec<SliceRecord> {
    let Some(slice) = segment.slice() else { return vec![*segment] };
    if u64::from(segment.off) + u64::from(segment.len) > u64::from(slice.size) {
        // Reading it will say what is wrong.
        return vec![*segment];
    }
    cairn_types::block_spans(slice, segment.off, segment.len, block_bytes)
        .map(|span| SliceRecord { pos: segment.pos + span.at, off: segment.off + span.at, len: span.len, ..*segment })
        .collect()
}

async fn write_zeros(chunks: &Arc<ChunkStore>, writer: &SliceWriter, at: u32, len: u32) -> Result<()> {
    let mut done = 0;
    while done < len {
        let step = (len - done).min(ZEROS.len() as u32);
        write(chunks, writer, at + done, &ZEROS[..step as usize]).await?;
        done += step;
    }
    Ok(())
}

async fn write(chunks: &Arc<ChunkStore>, writer: &SliceWriter, at: u32, bytes: &[u8]) -> Result<()> {
    for (i, part) in bytes.chunks(ZEROS.len()).enumerate() {
        let at = at + (i * ZEROS.len()) as u32;
        let mut room = chunks.reserve(part.len()).await;
        if !writer.write_at(at, part, &mut room) {
            return Err(Error::WriterRefused { at, bytes: part.len() });
        }
    }
    Ok(())
}

async fn swap(
    meta: &Meta,
    chunks: &ChunkStore,
    ino: Ino,
    index: ChunkIndex,
    read: Vec<SliceRecord>,
    plan: Plan,
    slice: SliceRef,
) -> Result<Compacted> {
    let records = plan.considered - plan.skipped;
    let op = SwapChunk { ino, index, read, plan, slice };
    // Durable before an object goes: a power cut must not bring back a list that names it.
    let outcome = meta.run_durable(op, Durability::Power).await;
    meta.forget_slices(ino, Some(index));
    match outcome {
        Ok(unowned) => Ok(Compacted::Done { records, bytes: u64::from(slice.size), unowned }),
        Err(cairn_meta::Error::Changed) => {
            discard(chunks, slice).await;
            Ok(Compacted::Changed)
        }
        Err(e) => {
            // The commit may have happened: only a slice nobody owns may go.
            let known_lost = meta.view(SliceOwners(slice)).await.is_ok_and(|owners| owners <= 0);
            if known_lost {
                discard(chunks, slice).await;
            }
            Err(e.into())
        }
    }
}

async fn discard(chunks: &ChunkStore, slice: SliceRef) {
    if let Err(e) = chunks.delete(slice).await {
        tracing::debug!(slice = %slice.id, error = %e, "blocks of a lost compaction stay behind for gc");
    }
}
