//! Attributes as this client sees them: what is uncommitted counts.

use std::sync::Arc;

use cairn_meta::{Cred, Durability, SetAttr, Want, XattrMode};
use cairn_types::{Attr, Ino};

use crate::Result;
use crate::commit::Core;

impl Core {
    pub(crate) async fn getattr(&self, ino: Ino) -> Result<Attr> {
        let generation = self.generation();
        let attr = self.meta.getattr(ino).await?;
        Ok(self.local(ino, attr, generation))
    }

    pub(crate) async fn setattr(
        self: &Arc<Core>,
        cred: &Cred,
        ino: Ino,
        by_handle: bool,
        set: SetAttr,
        length: Option<u64>,
    ) -> Result<Attr> {
        if let Some(length) = length {
            let attr = self.truncate(cred, ino, length, by_handle).await?;
            if set == SetAttr::default() {
                return Ok(attr);
            }
        }
        if set == SetAttr::default() {
            return self.getattr(ino).await;
        }
        let Some(file) = self.files.get(ino) else {
            let attr = self.meta.setattr(cred, ino, set).await?;
            self.note_change();
            return Ok(attr);
        };
        // No commit may be under way: it would set the time of its writes after ours, and its
        // answer would come with attributes older than ours.
        let _order = loop {
            let order = file.commit.lock().await;
            // The journal knows the time the file had: after a crash another one would look like
            // somebody else's change.
            if set.mtime.is_none() || file.state().notes.is_empty() {
                break order;
            }
            drop(order);
            self.flush(&file, Durability::Process).await?;
        };
        let attr = self.meta.setattr(cred, ino, set).await?;
        self.note_change();
        let mut state = file.state();
        if set.mtime.is_some() {
            state.override_mtime(attr.mtime);
        }
        self.believe(&mut state, attr);
        Ok(state.seen(attr, self.generation()))
    }

    pub(crate) async fn access(&self, cred: &Cred, ino: Ino, mask: u16) -> Result<()> {
        if mask & 7 == 0 {
            return self.meta.getattr(ino).await.map(drop).map_err(Into::into);
        }
        Ok(self.meta.access(cred, ino, Want(mask & 7)).await?)
    }

    pub(crate) async fn setxattr(
        &self,
        cred: &Cred,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.meta.setxattr(cred, ino, name, value, mode).await?;
        self.note_change();
        Ok(())
    }

    pub(crate) async fn removexattr(&self, cred: &Cred, ino: Ino, name: &[u8]) -> Result<()> {
        self.meta.removexattr(cred, ino, name).await?;
        self.note_change();
        Ok(())
    }

    /// Records a read in atime where the mount does so. Failing at it fails nothing else.
    pub(crate) async fn touched(&self, ino: Ino, attr: &Attr) {
        if let Err(error) = self.meta.accessed(ino, attr).await {
            tracing::debug!(ino = ino.0, %error, "access time not recorded");
        }
    }
}
