//! Listing directories.
//!
//! Offsets are numbers: 0 is the start, then `.`, `..`, the virtual files of the root, then the
//! entries in the order of their names. A handle remembers the name before each page it has read,
//! so that any offset handed out can be resumed, and the last pages themselves, so that removing
//! what was just listed shifts nothing. Memory for a directory of ten million names: one name a page.

use bytes::Bytes;
use cairn_meta::record::NamedEntry;
use cairn_types::{Attr, FileType, Ino};
use tokio::sync::Mutex;

use crate::Result;
use crate::commit::Core;

/// A listed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Bytes,
    /// What it stands for.
    pub ino: Ino,
    /// Its type.
    pub kind: FileType,
    /// Attributes, if `plus` was asked and they are there (never for `.` and `..`).
    pub attr: Option<Attr>,
    /// Offset to go on from after this entry.
    pub next: u64,
}

/// An open directory.
pub(crate) struct DirHandle {
    pub(crate) ino: Ino,
    /// `.`, `..` and the virtual files: what metadata does not list.
    fixed: Vec<(Bytes, Ino, FileType)>,
    cursor: Mutex<Cursor>,
}

/// What was read so far.
#[derive(Default)]
struct Cursor {
    pages: Vec<Page>,
    /// The last page ends the directory.
    complete: bool,
}

struct Page {
    /// Number of its first entry.
    first: u64,
    count: usize,
    /// The name before it; empty for the first page.
    after: Vec<u8>,
    /// Its entries, unless forgotten.
    entries: Option<Loaded>,
}

struct Loaded {
    entries: Vec<NamedEntry>,
    plus: bool,
    /// Number of our last change before they were read.
    asked_at: u64,
}

/// Pages a handle keeps whole.
const PAGES_KEPT: usize = 4;

impl DirHandle {
    pub(crate) fn new(ino: Ino, parent: Ino, extras: Vec<(Bytes, Ino, FileType)>) -> DirHandle {
        let mut fixed = vec![
            (Bytes::from_static(b"."), ino, FileType::Directory),
            (Bytes::from_static(b".."), parent, FileType::Directory),
        ];
        fixed.extend(extras);
        DirHandle { ino, fixed, cursor: Mutex::default() }
    }

    /// Up to `limit` entries from `offset` on; empty at the end.
    pub(crate) async fn read(&self, core: &Core, offset: u64, limit: usize, plus: bool) -> Result<Vec<DirEntry>> {
        let mut cursor = self.cursor.lock().await;
        if offset == 0 {
            // rewinddir(3): what has changed since shows.
            *cursor = Cursor::default();
        }
        let mut out = Vec::new();
        for (i, (name, ino, kind)) in self.fixed.iter().enumerate().skip(offset as usize).take(limit) {
            out.push(DirEntry { name: name.clone(), ino: *ino, kind: *kind, attr: None, next: i as u64 + 1 });
        }
        let base = self.fixed.len() as u64;
        let mut here = offset.max(base) - base;
        while out.len() < limit {
            let Some((skip, page)) = cursor.page(core, self.ino, here, plus).await? else { break };
            let entries = &page.entries[skip.min(page.entries.len())..];
            let room = limit - out.len();
            for (i, entry) in entries.iter().take(room).enumerate() {
                out.push(entry_of(core, entry, base + here + i as u64 + 1, plus, page.asked_at));
            }
            here += entries.len().min(room) as u64;
            if entries.is_empty() {
                break;
            }
        }
        Ok(out)
    }
}

fn entry_of(core: &Core, entry: &NamedEntry, next: u64, plus: bool, asked_at: u64) -> DirEntry {
    let ino = entry.entry.ino;
    let attr = if plus { entry.attr.map(|attr| core.local(ino, attr, asked_at)) } else { None };
    DirEntry { name: Bytes::copy_from_slice(&entry.name), ino, kind: entry.entry.kind, attr, next }
}

impl Cursor {
    /// The page that holds entry `number`, loaded, and the entry's place in it. `None` beyond the end.
    async fn page(&mut self, core: &Core, dir: Ino, number: u64, plus: bool) -> Result<Option<(usize, &Loaded)>> {
        while self.end() <= number {
            if self.complete {
                return Ok(None);
            }
            self.load_next(core, dir, plus).await?;
        }
        let at = self.pages.partition_point(|p| p.first + p.count as u64 <= number);
        self.reload(core, dir, at, plus).await?;
        let page = &self.pages[at];
        let loaded = page.entries.as_ref().expect("loaded above");
        Ok(Some(((number - page.first) as usize, loaded)))
    }

    fn end(&self) -> u64 {
        self.pages.last().map_or(0, |p| p.first + p.count as u64)
    }

    async fn load_next(&mut self, core: &Core, dir: Ino, plus: bool) -> Result<()> {
        let after = match self.pages.last() {
            // The last page is never forgotten before the next is read.
            Some(Page { entries: Some(loaded), .. }) => {
                loaded.entries.last().map(|e| e.name.clone()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let first = self.end();
        let limit = core.config.readdir_page.max(1);
        let loaded = load(core, dir, &after, limit, plus).await?;
        self.complete = loaded.entries.len() < limit;
        if !loaded.entries.is_empty() {
            let count = loaded.entries.len();
            self.pages.push(Page { first, count, after, entries: Some(loaded) });
            if let Some(old) = self.pages.len().checked_sub(PAGES_KEPT + 1) {
                self.pages[old].entries = None;
            }
        }
        Ok(())
    }

    /// Reads a page again that was forgotten, or read without the attributes wanted now.
    async fn reload(&mut self, core: &Core, dir: Ino, at: usize, plus: bool) -> Result<()> {
        let page = &self.pages[at];
        if page.entries.as_ref().is_some_and(|l| l.plus || !plus) {
            return Ok(());
        }
        let loaded = load(core, dir, &page.after, page.count, plus).await?;
        let fits = |old: &Loaded| {
            old.entries.len() == loaded.entries.len()
                && old.entries.iter().zip(&loaded.entries).all(|(a, b)| a.name == b.name)
        };
        // What was listed keeps its offsets, also when it has changed meanwhile.
        if page.entries.as_ref().is_none_or(fits) {
            self.pages[at].entries = Some(loaded);
        }
        Ok(())
    }
}

async fn load(core: &Core, dir: Ino, after: &[u8], limit: usize, plus: bool) -> Result<Loaded> {
    let asked_at = core.generation();
    let entries = core.meta.readdir(dir, after, limit, plus).await?;
    Ok(Loaded { entries, plus, asked_at })
}
