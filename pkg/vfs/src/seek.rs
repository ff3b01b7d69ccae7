//! lseek(2) for data and holes: exact, uncommitted bytes included.

use cairn_meta::Error as MetaError;
use cairn_types::layout::{chunk_at, chunk_start};
use cairn_types::{CHUNK_BYTES, ChunkIndex, chunk_spans};

use crate::commit::Core;
use crate::file::File;
use crate::{Error, Result};

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The next byte that is not in a hole.
    Data,
    /// The next byte in a hole; the end of the file counts as one.
    Hole,
}

impl Core {
    /// The first byte at or after `offset` that is data, or a hole.
    pub(crate) async fn seek(&self, file: &File, offset: u64, whence: Whence) -> Result<u64> {
        let length = file.state().length();
        if offset >= length {
            return Err(Error::Meta(MetaError::NoOffset));
        }
        let mut here = offset;
        while here < length {
            // Data is only where there is a list or dirt: a sparse file of terabytes is a few steps.
            if whence == Whence::Data {
                let next = self.next_chunk(file, chunk_at(here).0).await?;
                match next.map(chunk_start).filter(|&start| start < length) {
                    Some(start) => here = here.max(start),
                    None => break,
                }
            }
            if let Some(found) = self.seek_in_chunk(file, here, length, whence).await? {
                return Ok(found);
            }
            here = chunk_start(chunk_at(here).0) + CHUNK_BYTES;
        }
        match whence {
            Whence::Data => Err(Error::Meta(MetaError::NoOffset)),
            Whence::Hole => Ok(length),
        }
    }

    /// The first chunk from `from` on that has something in it.
    async fn next_chunk(&self, file: &File, from: ChunkIndex) -> Result<Option<ChunkIndex>> {
        let dirty = file.state().dirty_chunks().into_iter().find(|&i| i >= from);
        if dirty == Some(from) {
            return Ok(dirty);
        }
        let committed = self.meta.chunks(file.ino, from, 1).await?.first().copied();
        Ok(committed.into_iter().chain(dirty).min())
    }

    async fn seek_in_chunk(&self, file: &File, here: u64, length: u64, whence: Whence) -> Result<Option<u64>> {
        let (index, _) = chunk_at(here);
        let end = (chunk_start(index) + CHUNK_BYTES).min(length);
        let Some(span) = chunk_spans(here, end - here).next() else { return Ok(None) };
        let pieces = self.pieces(file, span).await?;
        let wanted = pieces.iter().find(|p| p.is_hole() == (whence == Whence::Hole));
        Ok(wanted.map(|p| chunk_start(index) + u64::from(p.pos)))
    }
}
