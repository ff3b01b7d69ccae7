//! What changes a file's length or list at once: truncate, fallocate, copy_range.
//!
//! They hold the gate of the inodes they touch, so that no write slips in, and drain them, so that
//! no older slice commits after the change and undoes it.

use std::sync::Arc;

use cairn_meta::{Cred, Durability, Error as MetaError, FallocMode};
use cairn_types::{Attr, Ino, MAX_FILE_BYTES};

use crate::commit::Core;
use crate::file::File;
use crate::handle::FileHandle;
use crate::{Error, Fh, Result};

impl Core {
    /// Sets the length of an inode, open here or not.
    pub(crate) async fn truncate(
        self: &Arc<Core>,
        cred: &Cred,
        ino: Ino,
        length: u64,
        by_handle: bool,
    ) -> Result<Attr> {
        if length > MAX_FILE_BYTES {
            return Err(Error::Meta(MetaError::TooLarge));
        }
        let Some(file) = self.files.get(ino) else {
            let attr = self.meta.truncate(cred, ino, length, by_handle).await?;
            self.note_change();
            return Ok(attr);
        };
        let _alone = file.gate.write().await;
        self.drain(&file).await?;
        let attr = self.meta.truncate(cred, ino, length, by_handle).await?;
        self.note_change();
        self.believe(&mut file.state(), attr);
        Ok(attr)
    }

    pub(crate) async fn fallocate(
        self: &Arc<Core>,
        cred: &Cred,
        handle: &FileHandle,
        mode: FallocMode,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let file = &handle.file;
        let _alone = file.gate.write().await;
        self.drain(file).await?;
        let attr = self.meta.fallocate(cred, file.ino, mode, offset, len).await?;
        self.note_change();
        self.believe(&mut file.state(), attr);
        Ok(())
    }

    /// Both inodes are held in the order of their numbers, so that two copies cannot wait for each other.
    pub(crate) async fn copy_range(
        self: &Arc<Core>,
        cred: &Cred,
        (from, from_offset): (&FileHandle, u64),
        (to, to_offset): (&FileHandle, u64),
        len: u64,
    ) -> Result<u64> {
        let (input, output) = (&from.file, &to.file);
        let (first, second) = if input.ino <= output.ino { (input, output) } else { (output, input) };
        let _first = first.gate.write().await;
        let _second = if first.ino == second.ino { None } else { Some(second.gate.write().await) };
        self.drain(input).await?;
        self.drain(output).await?;
        let (copied, attr) = self.meta.copy_range(cred, (input.ino, from_offset), (output.ino, to_offset), len).await?;
        self.note_change();
        self.believe(&mut output.state(), attr);
        Ok(copied)
    }

    /// Nothing of the file is uncommitted afterwards. What metadata refuses for good is dropped:
    /// that is told at fsync or close, not here.
    async fn drain(self: &Arc<Core>, file: &Arc<File>) -> Result<()> {
        self.flush(file, Durability::Process).await?;
        debug_assert!(file.state().is_clean(), "nothing is written while the gate is held");
        Ok(())
    }
}

/// The handle must be open for writing.
pub(crate) fn for_writing(handle: Arc<FileHandle>, fh: Fh) -> Result<Arc<FileHandle>> {
    if handle.flags.write { Ok(handle) } else { Err(Error::BadHandle { fh }) }
}

/// The handle must be open for reading.
pub(crate) fn for_reading(handle: Arc<FileHandle>, fh: Fh) -> Result<Arc<FileHandle>> {
    if handle.flags.read { Ok(handle) } else { Err(Error::BadHandle { fh }) }
}
