//! Commits that a crash may have cut off, done again before anybody sees the volume.
//!
//! A note says what was about to be committed, and what the file was like. If the file shows it, it
//! happened. If the file is as it was, or as our own earlier commits left it, it is committed now. If
//! somebody else has changed the file meanwhile, their bytes stay: ours are kept in a folder, and
//! reported. The blocks are uploaded in any case: somebody may name them whom we cannot see, and gc
//! knows the others.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cairn_chunk::{ChunkStore, Intent, IntentId, IntentSlice, Recovered};
use cairn_meta::{Commit, Durability, Error as MetaError, Meta, NewSlice};
use cairn_types::{Attr, ChunkIndex, Ino, SliceId, SliceRecord, Timestamp};

use crate::Result;

/// What became of the notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Commits done again.
    pub committed: usize,
    /// Set aside, because somebody else has changed the file.
    pub set_aside: usize,
}

/// What became of one note.
#[derive(PartialEq, Eq)]
enum Fate {
    /// It had happened, or there is nothing left to name.
    Settled,
    Committed,
    SetAside,
}

/// Goes through the notes, oldest first. To be called before anybody sees the volume.
///
/// # Errors
/// The engine cannot be asked. What was not settled is found again at the next mount.
pub async fn replay(meta: &Meta, chunks: &Arc<ChunkStore>, recovered: Recovered) -> Result<Replayed> {
    let mut outcome = Replayed::default();
    let known = Known::of(meta, &recovered).await?;
    // Modification times that our own commits have given to each file.
    let mut own: HashMap<Ino, HashSet<Timestamp>> = HashMap::new();
    for (_, intent) in &recovered.settled {
        own.entry(intent.ino).or_default().extend(times(intent));
    }
    for (id, intent) in recovered.open {
        let own = own.entry(intent.ino).or_default();
        if !known.has_happened(id, &intent) {
            match again(meta, chunks, &intent, own).await? {
                Fate::Settled => {}
                Fate::Committed => outcome.committed += 1,
                Fate::SetAside => outcome.set_aside += 1,
            }
        }
        own.extend(times(&intent));
        chunks.settle(id).await;
    }
    if outcome != Replayed::default() {
        let Replayed { committed, set_aside } = outcome;
        tracing::info!(committed, set_aside, "commits that were cut off have been done again");
    }
    Ok(outcome)
}

/// The newest note about each file whose commit is known to have happened. Commits of a file happen in
/// the order of their notes, so the older ones have happened too, whatever the file shows by now:
/// compaction may have swallowed their slices, and newer writes lie on top.
struct Known(HashMap<Ino, IntentId>);

impl Known {
    async fn of(meta: &Meta, recovered: &Recovered) -> Result<Known> {
        let mut newest: HashMap<Ino, IntentId> = HashMap::new();
        let mut note = |ino: Ino, id: IntentId| {
            let known = newest.entry(ino).or_insert(id);
            *known = id.max(*known);
        };
        recovered.settled.iter().for_each(|(id, intent)| note(intent.ino, *id));
        for (id, intent) in &recovered.open {
            let final_time = intent.set_mtime.or_else(|| intent.slices.iter().map(|s| s.mtime).max());
            match meta.getattr(intent.ino).await {
                Ok(attr) if Some(attr.mtime) == final_time => note(intent.ino, *id),
                Ok(_) | Err(MetaError::NoEntry) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Known(newest))
    }

    fn has_happened(&self, id: IntentId, intent: &Intent) -> bool {
        self.0.get(&intent.ino).is_some_and(|newest| id <= *newest)
    }
}

fn times(intent: &Intent) -> impl Iterator<Item = Timestamp> {
    intent.slices.iter().map(|s| s.mtime).chain(intent.set_mtime)
}

async fn again(meta: &Meta, chunks: &Arc<ChunkStore>, intent: &Intent, own: &mut HashSet<Timestamp>) -> Result<Fate> {
    let attr = match meta.getattr(intent.ino).await {
        Err(MetaError::NoEntry) => return Ok(Fate::Settled),
        attr => attr?,
    };
    let (missing, named) = missing(meta, intent).await?;
    if missing.is_empty() {
        return Ok(Fate::Settled);
    }
    for slice in missing.iter().filter_map(|s| s.record.slice()) {
        if let Err(error) = chunks.check_staged(slice).await {
            // Written down, and never synced: its commit was never tried, nor promised.
            tracing::warn!(ino = intent.ino.0, slice = slice.id.0, %error, "an unfinished write is dropped");
            return Ok(Fate::Settled);
        }
    }
    if !is_ours(&attr, intent, own) {
        set_aside(chunks, intent, missing).await;
        return Ok(Fate::SetAside);
    }
    let slices = missing.iter().map(|s| NewSlice { index: s.index, record: s.record, mtime: s.mtime }).collect();
    let commit =
        Commit { ino: intent.ino, slices, mtime: intent.set_mtime, named, unchanged: Vec::new(), replaces: Vec::new() };
    match meta.commit_as(commit, Durability::Power).await {
        Ok(done) => _ = own.insert(done.attr.mtime),
        // Refused for good: it would have been then, too.
        Err(error @ (MetaError::NoEntry | MetaError::NoSpace | MetaError::Quota)) => {
            tracing::warn!(ino = intent.ino.0, %error, "an unfinished write is refused");
            set_aside(chunks, intent, missing).await;
            return Ok(Fate::SetAside);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Fate::Committed)
}

/// Records that the file does not show yet: those behind the last one it shows, since they are committed
/// in order; and the slices it shows, which get references only.
async fn missing<'a>(meta: &Meta, intent: &'a Intent) -> Result<(&'a [IntentSlice], Vec<SliceId>)> {
    let mut lists: HashMap<ChunkIndex, Vec<SliceRecord>> = HashMap::new();
    for slice in &intent.slices {
        if let Entry::Vacant(unread) = lists.entry(slice.index) {
            unread.insert(meta.raw_slices(intent.ino, slice.index).await?);
        }
    }
    // A record may show several runs of a pack with the gaps between them.
    let is_shown = |s: &IntentSlice| {
        let r = &s.record;
        lists[&s.index].iter().any(|l| l.id == r.id && l.pos <= r.pos && r.end() <= l.end())
    };
    let first_missing = intent.slices.iter().rposition(is_shown).map_or(0, |last| last + 1);
    let named = lists.values().flatten().map(|l| l.id).filter(|id| intent.ids().contains(id)).collect();
    Ok((&intent.slices[first_missing..], named))
}

/// Has nobody but us changed the content since? Every change of content moves the time.
fn is_ours(attr: &Attr, intent: &Intent, own: &HashSet<Timestamp>) -> bool {
    (attr.mtime == intent.base.0 && attr.length == intent.base.1) || own.contains(&attr.mtime)
}

async fn set_aside(chunks: &ChunkStore, intent: &Intent, slices: &[IntentSlice]) {
    for slice in slices {
        let r = &slice.record;
        let Some(whole) = r.slice() else { continue };
        match chunks.set_aside(whole).await {
            Ok(folder) => tracing::error!(
                ino = intent.ino.0,
                chunk = slice.index.0,
                pos = r.pos,
                len = r.len,
                slice = r.id.0,
                folder = %folder.display(),
                "the file was changed elsewhere before this write was committed: its blocks are set aside"
            ),
            Err(error) => tracing::error!(ino = intent.ino.0, slice = r.id.0, %error, "blocks could not be set aside"),
        }
    }
}
