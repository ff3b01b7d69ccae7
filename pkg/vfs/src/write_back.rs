//! What write-back adds to closing and committing.
//!
//! A close stages what is dirty, notes in the journal what is going to be committed, and returns; the
//! commit follows at once in the background, behind a sync of the disk that it shares with every
//! other. A crash in between loses nothing: the note is found at the next mount. In direct mode all
//! of this does nothing.

use std::sync::Arc;

use cairn_env::Budget;
use cairn_meta::Durability;
use futures::future::join_all;

use crate::Result;
use crate::commit::Core;
use crate::file::File;
use crate::flusher;
use crate::pending::Upto;

/// Closes whose commit is under way; one more waits.
const CLOSES_MAX: u64 = 512;

/// Room for closes whose commit is under way.
pub(crate) struct Closes(Budget);

impl Closes {
    pub(crate) fn new() -> Closes {
        Closes(Budget::new(CLOSES_MAX))
    }
}

impl Core {
    /// close(2): waits until what is dirty is staged, and leaves the commit to the background.
    pub(crate) async fn close_behind(self: &Arc<Core>, file: &Arc<File>) -> Result<()> {
        if file.state().is_clean() {
            self.settle_releases(file).await;
            return Ok(());
        }
        let (uploads, upto) = self.freeze(file, Upto::All).await?;
        for staged in join_all(uploads.iter().map(|upload| upload.store())).await {
            staged?;
        }
        if file.state().note_covering(upto).is_none() {
            let intent = file.state().intent(file.ino, upto);
            match self.chunk.note(&intent).await {
                Some(id) => self.keep_note(file, upto, id).await,
                // Without a note a crash could lose it: then close waits as in direct mode.
                None => return self.flush_upto(file, Upto::Slot(upto), Durability::Process).await,
            }
        }
        let permit = self.closes.0.acquire(1).await;
        let (core, file) = (self.clone(), file.clone());
        self.tasks.spawn(async move {
            let done = core.flush_upto(&file, Upto::Slot(upto), Durability::Power).await;
            flusher::settle(&core, &file, done);
            drop(permit);
        });
        Ok(())
    }

    /// Remembers a note until its slots are gone; they may be already.
    async fn keep_note(&self, file: &File, upto: u64, id: cairn_chunk::IntentId) {
        file.state().notes.push((upto, id));
        self.settle_notes(file).await;
    }

    /// To be called before the `count` oldest slots, all stored, are committed: their blocks survive a
    /// power cut when this returns.
    pub(crate) async fn make_safe(&self, file: &File, count: usize) -> Result<()> {
        if !self.chunk.writes_back() {
            return Ok(());
        }
        let (upto, noted, intent) = {
            let state = file.state();
            let upto = state.queue[count - 1].seq;
            (upto, state.note_covering(upto), state.intent(file.ino, upto))
        };
        let id = self.chunk.about_to_commit(noted, || intent).await?;
        if noted.is_none()
            && let Some(id) = id
        {
            file.state().notes.push((upto, id));
        }
        Ok(())
    }

    /// Settles the notes about slots that were committed or given up.
    pub(crate) async fn settle_notes(&self, file: &File) {
        let settled = file.state().take_settled_notes();
        for id in settled {
            self.chunk.settle(id).await;
        }
    }
}
