//! read(2): uncommitted runs over committed slices, fetched together, joined once.
//!
//! The overlay is looked at before the slice list is. A slice that commits in between is found in
//! both, and the overlay wins with the same bytes; none is found in neither. A block that is
//! missing mostly means that the list is old: it is read again before anybody hears of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cairn_types::{ChunkIndex, ChunkSpan, block_spans, chunk_spans};
use futures::FutureExt;
use futures::future::try_join_all;

use crate::commit::Core;
use crate::file::File;
use crate::handle::FileHandle;
use crate::pending::Upload;
use crate::ranges::{self, Piece, Run, RunBytes, Source};
use crate::{Error, Result};

/// A first read this near to the end of a file looks for its index,
const TAIL_READ_BYTES: u64 = 64 << 10;
/// which is mostly within so much of the end,
const TAIL_BYTES: u64 = 256 << 10;
/// and worth it in files larger than this.
const TAIL_FILE_BYTES: u64 = 4 << 20;

/// Pause before a failed read is tried again: the first, and what each further one adds.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_STEP: Duration = Duration::from_millis(300);
const RETRY_MOST: Duration = Duration::from_secs(10);

impl Core {
    /// Up to `len` bytes from `offset`, fewer only at the end of the file.
    pub(crate) async fn read(self: &Arc<Core>, handle: &FileHandle, offset: u64, len: u32) -> Result<Bytes> {
        let length = handle.file.state().length();
        let end = offset.saturating_add(u64::from(len)).min(length);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let tail = self.tail(handle, offset, length);
        self.read_ahead(handle, offset, end, length);
        let mut read = Box::pin(self.read_range(&handle.file, tail, end));
        let bytes = match (&mut read).now_or_never() {
            Some(done) => done?,
            None => {
                handle.ahead.lock().waited(offset);
                read.await?
            }
        };
        Ok(bytes.slice((offset - tail) as usize..))
    }

    /// Where to begin a read of `offset`: earlier, if it looks like the first of a format that keeps its
    /// index at the end of the file (parquet, zip), whose reader will go there next.
    fn tail(&self, handle: &FileHandle, offset: u64, length: u64) -> u64 {
        let is_last = offset + TAIL_READ_BYTES >= length && length > TAIL_FILE_BYTES;
        if !is_last || self.config.readahead_max_bytes == 0 || !handle.ahead.lock().is_fresh() {
            return offset;
        }
        let chunk = chunk_spans(offset, 1).next().expect("one byte has a chunk");
        offset.min(length - TAIL_BYTES).max(offset - u64::from(chunk.pos))
    }

    async fn read_range(&self, file: &File, offset: u64, end: u64) -> Result<Bytes> {
        let mut spans = chunk_spans(offset, end - offset);
        let first = spans.next().expect("the range is not empty");
        let bytes = self.read_span(file, first).await?;
        if u64::from(first.len) == end - offset {
            return Ok(bytes);
        }
        let rest = try_join_all(spans.map(|span| self.read_span(file, span))).await?;
        let mut whole = BytesMut::with_capacity((end - offset) as usize);
        whole.extend_from_slice(&bytes);
        rest.iter().for_each(|part| whole.extend_from_slice(part));
        Ok(whole.freeze())
    }

    /// A range of one chunk, tried again with a fresh slice list as often as configured.
    async fn read_span(&self, file: &File, span: ChunkSpan) -> Result<Bytes> {
        let mut tries = 0;
        loop {
            let error = match self.try_span(file, span).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            if tries >= self.tries_after(&error) {
                return Err(error);
            }
            self.meta.forget_slices(file.ino, Some(span.index));
            let pause = RETRY_FIRST + RETRY_STEP * tries;
            tracing::debug!(ino = file.ino.0, index = span.index.0, tries, %error, "read again");
            self.env.sleep(pause.min(RETRY_MOST)).await;
            tries += 1;
        }
    }

    /// How often a read is tried again that failed like this. The store has tried its best already;
    /// what helps is a fresh list, or, behind a write-back peer, patience.
    fn tries_after(&self, error: &Error) -> u32 {
        use cairn_chunk::Error as C;
        match error {
            Error::Chunk(C::Missing { .. } | C::Discarded { .. }) => self.config.read_retries,
            Error::Chunk(C::Store { .. } | C::Corrupt { .. } | C::Interrupted { .. }) => {
                self.config.read_retries.min(1)
            }
            _ => 0,
        }
    }

    async fn try_span(&self, file: &File, span: ChunkSpan) -> Result<Bytes> {
        let pieces = self.pieces(file, span).await?;
        if let [piece] = &pieces[..] {
            return self.fetch(piece).await;
        }
        let parts = try_join_all(pieces.iter().map(|piece| self.fetch(piece))).await?;
        let mut whole = BytesMut::with_capacity(span.len as usize);
        parts.iter().for_each(|part| whole.extend_from_slice(part));
        Ok(whole.freeze())
    }

    /// What a range of one chunk consists of at the moment, as this client sees it.
    pub(crate) async fn pieces(&self, file: &File, span: ChunkSpan) -> Result<Vec<Piece>> {
        let runs = file.state().runs(span.index, span.pos, span.len);
        let view = self.view(file, span.index, &runs, span).await?;
        Ok(ranges::pieces(view.as_deref().map_or(&[], Vec::as_slice), &runs, span.pos, span.len))
    }

    async fn view(
        &self,
        file: &File,
        index: ChunkIndex,
        runs: &[Run],
        span: ChunkSpan,
    ) -> Result<Option<Arc<Vec<cairn_types::SliceRecord>>>> {
        if ranges::covered_by(runs, span.pos, span.len) {
            return Ok(None);
        }
        Ok(Some(self.meta.slices(file.ino, index).await?))
    }

    pub(crate) async fn fetch(&self, piece: &Piece) -> Result<Bytes> {
        match &piece.source {
            Source::Hole => Ok(zeros(piece.len)),
            Source::Dirty(RunBytes::Here(bytes), off) => Ok(bytes.slice(*off as usize..(*off + piece.len) as usize)),
            Source::Dirty(RunBytes::Slice(upload, start), off) => {
                self.fetch_dirty(upload, start + off, piece.len).await
            }
            Source::Stored(slice, off) => {
                if let Some(bytes) = self.chunk.read_now(*slice, *off, piece.len) {
                    return Ok(bytes);
                }
                let in_slice = u64::from(*off) + u64::from(piece.len) <= u64::from(slice.size);
                let block = self.chunk.config().block_bytes;
                if !in_slice || off / block == (off + piece.len - 1) / block {
                    return Ok(self.chunk.read(*slice, *off, piece.len).await?);
                }
                let blocks = block_spans(*slice, *off, piece.len, block);
                let parts = try_join_all(blocks.map(|b| self.chunk.read(*slice, off + b.at, b.len))).await?;
                let mut whole = BytesMut::with_capacity(piece.len as usize);
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                Ok(whole.freeze())
            }
        }
    }

    async fn fetch_dirty(&self, upload: &Upload, off: u32, len: u32) -> Result<Bytes> {
        match upload.writer.read_now(off, len) {
            Some(bytes) => Ok(bytes),
            None => Ok(upload.writer.read_at(off, len).await?),
        }
    }
}

/// Zeros, from a shared page where they fit.
fn zeros(len: u32) -> Bytes {
    static PAGE: [u8; 128 << 10] = [0; 128 << 10];
    let len = len as usize;
    if len <= PAGE.len() { Bytes::from_static(&PAGE[..len]) } else { BytesMut::zeroed(len).freeze() }
}
