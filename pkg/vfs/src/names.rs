//! Names: what they stand for, and how they come, go and move.

use std::sync::Arc;

use cairn_meta::Durability;
use cairn_meta::{Cred, Error as MetaError, Fate, NewNode, Removed, RenameMode};
use cairn_types::{Attr, Ino};

use crate::Result;
use crate::commit::Core;
use crate::handle::OpenFlags;

/// A file just made or opened: attributes, and whether it is new.
pub(crate) struct Made {
    pub(crate) ino: Ino,
    pub(crate) attr: Attr,
    pub(crate) is_new: bool,
    /// Number of our last change before the attributes were asked for.
    pub(crate) asked_at: u64,
}

impl Core {
    pub(crate) async fn lookup(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<(Ino, Attr)> {
        let generation = self.generation();
        let (ino, attr) = self.meta.lookup(cred, parent, name).await?;
        Ok((ino, self.local(ino, attr, generation)))
    }

    pub(crate) async fn mknod(&self, cred: &Cred, parent: Ino, name: &[u8], node: NewNode) -> Result<(Ino, Attr)> {
        let made = self.meta.mknod(cred, parent, name, node).await?;
        self.note_change();
        Ok(made)
    }

    /// Makes or finds a file, and counts it as open in metadata.
    pub(crate) async fn create(
        &self,
        cred: &Cred,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        flags: OpenFlags,
        exclusive: bool,
    ) -> Result<Made> {
        let asked_at = self.generation();
        let made = self.meta.create(cred, parent, name, node, exclusive).await?;
        if made.is_new {
            self.note_change();
            return Ok(Made { ino: made.ino, attr: made.attr, is_new: true, asked_at });
        }
        self.open_existing(cred, made.ino, flags).await
    }

    /// Opens a file in metadata.
    pub(crate) async fn open_existing(&self, cred: &Cred, ino: Ino, flags: OpenFlags) -> Result<Made> {
        let asked_at = self.generation();
        let attr = self.meta.open_file(cred, ino, flags.how()).await?;
        Ok(Made { ino, attr, is_new: false, asked_at })
    }

    pub(crate) async fn unlink(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<()> {
        let removed = self.meta.unlink(cred, parent, name, false).await?;
        self.removed(&removed);
        Ok(())
    }

    pub(crate) async fn rmdir(&self, cred: &Cred, parent: Ino, name: &[u8]) -> Result<()> {
        self.meta.rmdir(cred, parent, name, false).await?;
        self.note_change();
        Ok(())
    }

    /// A file that replaces another is flushed first: whoever writes, renames and crashes expects
    /// the old content or the new.
    pub(crate) async fn rename(
        self: &Arc<Core>,
        cred: &Cred,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        if mode == RenameMode::Replace {
            self.flush_before_replacing(cred, from, to).await?;
        }
        let renamed = self.meta.rename(cred, from, to, mode).await?;
        self.note_change();
        if let Some(replaced) = &renamed.replaced {
            self.removed(replaced);
        }
        Ok(())
    }

    async fn flush_before_replacing(self: &Arc<Core>, cred: &Cred, from: (Ino, &[u8]), to: (Ino, &[u8])) -> Result<()> {
        if self.flusher.is_clean() {
            return Ok(());
        }
        // Whatever is wrong with the names the rename itself will say.
        let Ok((source, _)) = self.meta.lookup(cred, from.0, from.1).await else { return Ok(()) };
        let Some(file) = self.files.get(source).filter(|f| !f.state().is_clean()) else { return Ok(()) };
        match self.meta.lookup(cred, to.0, to.1).await {
            Ok((target, _)) if target != source => self.flush(&file, Durability::Process).await,
            Ok(_) | Err(MetaError::NoEntry) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn removed(&self, removed: &Removed) {
        self.note_change();
        if let Some(file) = self.files.get(removed.ino) {
            file.state().orphan |= removed.fate == Fate::Sustained;
        }
    }

    pub(crate) async fn link(&self, cred: &Cred, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        let generation = self.generation();
        let attr = self.meta.link(cred, ino, parent, name).await?;
        self.note_change();
        Ok(self.local(ino, attr, generation))
    }

    pub(crate) async fn readlink(&self, ino: Ino) -> Result<bytes::Bytes> {
        let target = self.meta.readlink(ino).await?;
        if self.meta.config().atime_mode != cairn_meta::AtimeMode::NoAtime {
            let attr = self.meta.getattr(ino).await?;
            self.touched(ino, &attr).await;
        }
        Ok(target.into())
    }
}
