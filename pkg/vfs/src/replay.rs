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

use crate::{Error, Result};

/// What became of the notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Commits done again.
    pub committed: usize,
    /// Set aside, because somebody else has changed the file.
    pub set_aside: usize,
}

/// What became of one note.
enum Fate {
    /// It had happened.
    Settled,
    /// There is nothing left to name, or no file.
    Dropped,
    Committed,
    SetAside,
}

/// Goes through the notes, oldest first. To be called before anybody sees the volume.
///
/// # Errors
/// The engine cannot be asked, or the store, where it is needed. What was not settled is found again at
/// the next mount.
pub async fn replay(meta: &Meta, chunks: &Arc<ChunkStore>, recovered: Recovered) -> Result<Replayed> {
    let mut outcome = Replayed::default();
    if recovered.open.is_empty() {
        return Ok(outcome);
    }
    let known = Known::of(meta, &recovered).await?;
    let mut past = Past::default();
    for (_, intent) in &recovered.settled {
        past.has_seen(intent);
        past.named.extend(intent.ids());
    }
    for (id, intent) in recovered.open {
        past.has_seen(&intent);
        let fate = if known.has_happened(id, &intent) {
            Fate::Settled
        } else {
            match again(meta, chunks, &intent, &mut past).await {
                // It is about this note alone: the others, and the next mount, shall not suffer.
                Err(error) if is_its_own(&error) => {
                    tracing::error!(ino = intent.ino.0, slices = ?intent.ids(), %error, "an unfinished write cannot be done again");
                    set_aside(chunks, &intent, &intent.slices).await;
                    Fate::SetAside
                }
                fate => fate?,
            }
        };
        match fate {
            Fate::Settled => past.named.extend(intent.ids()),
            Fate::Committed => {
                past.named.extend(intent.ids());
                outcome.committed += 1;
            }
            Fate::Dropped => {}
            Fate::SetAside => outcome.set_aside += 1,
        }
        chunks.settle(id).await;
    }
    if outcome != Replayed::default() {
        let Replayed { committed, set_aside } = outcome;
        tracing::info!(committed, set_aside, "commits that were cut off have been done again");
    }
    Ok(outcome)
}

/// What the notes gone through so far, and those settled, have left behind.
#[derive(Default)]
struct Past {
    /// Modification times that our own commits have given to each file.
    own: HashMap<Ino, HashSet<Timestamp>>,
    /// Slices that metadata may know, by a record of whatever file: further records only add to their
    /// references. One that it does not know is left to gc in the end; one registered twice would be
    /// deleted under its second owner.
    named: HashSet<SliceId>,
}

impl Past {
    fn has_seen(&mut self, intent: &Intent) {
        self.own.entry(intent.ino).or_default().extend(times(intent));
    }

    /// Has nobody but us changed the content since? Every change of content moves the time.
    fn is_ours(&self, attr: &Attr, intent: &Intent) -> bool {
        let is_base = attr.mtime == intent.base.0 && attr.length == intent.base.1;
        is_base || self.own.get(&intent.ino).is_some_and(|own| own.contains(&attr.mtime))
    }
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
        // Times that a file may have had before its next note.
        let mut earlier = Past::default();
        recovered.settled.iter().for_each(|(_, intent)| earlier.has_seen(intent));
        for (id, intent) in &recovered.open {
            match has_happened(meta, intent, &earlier).await {
                Ok(true) => note(intent.ino, *id),
                Ok(false) => {}
                Err(error) if is_everybodys(&error) => return Err(error.into()),
                // Going through the notes will tell.
                Err(_) => {}
            }
            earlier.has_seen(intent);
        }
        Ok(Known(newest))
    }

    fn has_happened(&self, id: IntentId, intent: &Intent) -> bool {
        self.0.get(&intent.ino).is_some_and(|newest| id <= *newest)
    }
}

/// Does the file show all that was noted, or the time that only its commit can have given it? Several
/// commits may serve one note, and each gives the file its time: what shows a part is not done.
async fn has_happened(meta: &Meta, intent: &Intent, earlier: &Past) -> cairn_meta::Result<bool> {
    let attr = match meta.getattr(intent.ino).await {
        Err(MetaError::NoEntry) => return Ok(false),
        attr => attr?,
    };
    let final_time = intent.set_mtime.or_else(|| intent.slices.iter().map(|s| s.mtime).max());
    if Some(attr.mtime) != final_time {
        return Ok(false);
    }
    let (missing, _) = missing(meta, intent).await?;
    if missing.is_empty() {
        return Ok(true);
    }
    let shows_none = missing.len() == intent.slices.len();
    let had_it_before =
        attr.mtime == intent.base.0 || earlier.own.get(&intent.ino).is_some_and(|own| own.contains(&attr.mtime));
    Ok(shows_none && !had_it_before)
}

fn times(intent: &Intent) -> impl Iterator<Item = Timestamp> {
    intent.slices.iter().map(|s| s.mtime).chain(intent.set_mtime)
}

/// Is it the volume's or the engine's trouble, and not that of one file?
fn is_everybodys(error: &MetaError) -> bool {
    use MetaError::{Engine, NotFormatted, ReadOnly, Refused, SessionLost};
    matches!(error, Engine(_) | NotFormatted | ReadOnly | Refused(_) | SessionLost)
}

/// Will it be the same at every mount, and for this note only?
fn is_its_own(error: &Error) -> bool {
    match error {
        Error::Meta(error) => !is_everybodys(error),
        Error::Chunk(error) => error.is_missing(),
        _ => false,
    }
}

async fn again(meta: &Meta, chunks: &Arc<ChunkStore>, intent: &Intent, past: &mut Past) -> Result<Fate> {
    let attr = match meta.getattr(intent.ino).await {
        Err(MetaError::NoEntry) => return Ok(Fate::Dropped),
        attr => attr?,
    };
    let (missing, shown) = missing(meta, intent).await?;
    past.named.extend(shown);
    if missing.is_empty() {
        return Ok(Fate::Settled);
    }
    for slice in missing.iter().filter_map(|s| s.record.slice()) {
        match chunks.check_staged(slice).await {
            Ok(()) => {}
            // The store may have it, and cannot be asked.
            Err(error @ cairn_chunk::Error::Store { .. }) => return Err(error.into()),
            Err(error) => {
                // Written down, and never synced: its commit was never tried, nor promised.
                tracing::warn!(ino = intent.ino.0, slice = slice.id.0, %error, "an unfinished write is dropped");
                return Ok(Fate::Dropped);
            }
        }
    }
    if !past.is_ours(&attr, intent) {
        set_aside(chunks, intent, missing).await;
        return Ok(Fate::SetAside);
    }
    // What was found may be in the kernel only.
    chunks.keep_staged(&intent.ids()).await?;
    let slices = missing.iter().map(|s| NewSlice { index: s.index, record: s.record, mtime: s.mtime }).collect();
    let named = intent.ids().into_iter().filter(|id| past.named.contains(id)).collect();
    let commit =
        Commit { ino: intent.ino, slices, mtime: intent.set_mtime, named, unchanged: Vec::new(), replaces: Vec::new() };
    match commit_again(meta, commit, intent).await {
        Ok(Some(done)) => _ = past.own.entry(intent.ino).or_default().insert(done.mtime),
        Ok(None) => {}
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

/// Commits, and answers the file's attributes; `None` if it turned out to have been done.
///
/// Who else has named its slices is not always known: notes do not outlive their segment of the
/// journal. An engine that refuses to register a slice twice says so in words of its own; then all
/// are taken for registered.
async fn commit_again(meta: &Meta, commit: Commit, intent: &Intent) -> cairn_meta::Result<Option<Attr>> {
    let mut second = commit.clone();
    match meta.commit_as(commit, Durability::Power).await {
        Err(error @ MetaError::Engine(_)) if !error.is_retryable() => {
            tracing::warn!(ino = intent.ino.0, slices = ?intent.ids(), %error, "an unfinished write is tried once more");
            // The answer may be all that got lost.
            if missing(meta, intent).await?.0.is_empty() {
                return Ok(None);
            }
            second.named = intent.ids();
            Ok(Some(meta.commit_as(second, Durability::Power).await?.attr))
        }
        done => Ok(Some(done?.attr)),
    }
}

/// Records that the file does not show yet: those behind the last one it shows, since they are committed
/// in order; and the slices it shows, which get references only.
async fn missing<'a>(meta: &Meta, intent: &'a Intent) -> cairn_meta::Result<(&'a [IntentSlice], Vec<SliceId>)> {
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
