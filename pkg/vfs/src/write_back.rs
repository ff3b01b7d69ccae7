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
        if !self.note_close(file, upto).await {
            // Without a note a crash could lose it: then close waits as in direct mode.
            return self.flush_upto(file, Upto::Slot(upto), Durability::Process).await;
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

    /// Notes the stored slots up to `upto`. False if the journal does not take it.
    ///
    /// Nobody commits meanwhile: the notes about a file are in the order of its commits, and say what
    /// the file is like before them.
    async fn note_close(&self, file: &File, upto: u64) -> bool {
        let _order = file.commit.lock().await;
        let intent = {
            let state = file.state();
            let intent = state.intent(file.ino, upto);
            // Committed meanwhile, or noted.
            if intent.slices.is_empty() || state.note_covering(upto).is_some() {
                return true;
            }
            intent
        };
        let Some(id) = self.chunk.note(&intent).await else { return false };
        file.state().notes.push((upto, id));
        true
    }

    /// To be called by whoever commits, when slots have got new slices: a note of what they are now
    /// takes the place of those taken before. False: the old slices are all that a crash would leave.
    pub(crate) async fn note_anew(&self, file: &File) -> bool {
        let (upto, intent) = {
            let state = file.state();
            let Some(upto) = state.notes.iter().map(|(upto, _)| *upto).max() else { return true };
            (upto, state.intent(file.ino, upto))
        };
        let fresh = self.chunk.note(&intent).await;
        let old = std::mem::replace(&mut file.state().notes, fresh.map(|id| (upto, id)).into_iter().collect());
        if fresh.is_some() {
            for (_, note) in old {
                self.chunk.settle(note).await;
            }
        }
        fresh.is_some()
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
