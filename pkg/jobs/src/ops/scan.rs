//! Scans over the whole volume.

use cairn_meta::Result;
use cairn_meta::invariants::decode_chunk;
use cairn_meta::record::{DeletedFile, Entry};
use cairn_meta::txn::{Context, Op, Rely, Txn};
use cairn_types::{Attr, ChunkIndex, FileType, Ino, SliceId, SliceRecord, SliceRef};

use crate::pack_space::PackSpace;

/// Records read at a time.
const PAGE: usize = 1000;

/// All of them, in a form every engine can take as a limit.
const ALL: usize = i32::MAX as usize;

/// A page of slice lists in key order. Corrupt lists give the whole records at their start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkPage {
    pub(crate) after: (Ino, ChunkIndex),
    pub(crate) limit: usize,
}

impl Op for ChunkPage {
    type Out = Vec<(Ino, ChunkIndex, Vec<SliceRecord>)>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Self::Out> {
        let page = tx.scan_chunks(self.after, self.limit)?;
        Ok(page.into_iter().map(|(ino, index, raw)| (ino, index, decode_chunk(&raw).0)).collect())
    }
}

/// Every slice the metadata knows, of one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveSlices;

/// What [`LiveSlices`] finds: one item per record, unsorted.
#[derive(Debug, Default)]
pub(crate) struct SlicePage {
    /// Named by slice lists of files.
    pub(crate) listed: Vec<SliceRef>,
    /// Named by slice lists of files that wait for deletion.
    pub(crate) waiting: Vec<SliceRef>,
    /// Kept by compactions for the trash days.
    pub(crate) delayed: Vec<SliceRef>,
    /// Without owner, with their record still there.
    pub(crate) unowned: Vec<SliceRef>,
    /// What shared slices hold in vain.
    pub(crate) packs: PackSpace,
    /// Lists that do not decode: they may name slices that nothing else names.
    pub(crate) corrupt_lists: u64,
}

impl Op for LiveSlices {
    type Out = SlicePage;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<SlicePage> {
        let mut out = SlicePage::default();
        let waiting: std::collections::HashSet<Ino> =
            tx.deleted_files(i64::MAX, ALL)?.iter().map(|f: &DeletedFile| f.ino).collect();
        let mut after = (Ino(0), ChunkIndex(0));
        loop {
            let page = tx.scan_chunks(after, PAGE)?;
            for (ino, _, raw) in &page {
                let list = if waiting.contains(ino) { &mut out.waiting } else { &mut out.listed };
                let (records, fault) = decode_chunk(raw);
                list.extend(records.iter().filter_map(SliceRecord::slice));
                out.packs.add(&records);
                out.corrupt_lists += u64::from(fault.is_some());
            }
            match page.last() {
                Some((ino, index, _)) if page.len() == PAGE => after = (*ino, *index),
                _ => break,
            }
        }
        out.delayed.extend(tx.delayed(i64::MAX, ALL)?.into_iter().flat_map(|d| d.slices));
        let mut after = SliceId(0);
        loop {
            let page = tx.unowned_slices(after, PAGE)?;
            out.unowned.extend(&page);
            match page.last() {
                Some(last) if page.len() == PAGE => after = last.id,
                _ => return Ok(out),
            }
        }
    }
}

/// The slice lists of one file, a page at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunksOf {
    pub(crate) ino: Ino,
    pub(crate) from: ChunkIndex,
    pub(crate) limit: usize,
}

impl Op for ChunksOf {
    /// Corrupt lists come with the reason instead.
    type Out = Vec<(ChunkIndex, std::result::Result<Vec<SliceRecord>, String>)>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Self::Out> {
        let mut out = Vec::new();
        for index in tx.chunks(self.ino, self.from, self.limit)? {
            let list = match tx.slices(self.ino, index) {
                Ok(records) => match decode_chunk(&SliceRecord::encode_list(&records)) {
                    (records, None) => Ok(records),
                    (_, Some(reason)) => Err(reason),
                },
                Err(cairn_meta::Error::CorruptChunk { reason, .. }) => Err(reason),
                Err(e) => return Err(e),
            };
            out.push((index, list));
        }
        Ok(out)
    }
}

/// The paths of an inode: one per name, `/`-separated bytes from the root; at most `limit`.
///
/// An inode in the trash has a path below `/.trash`. What hangs nowhere has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathsOf {
    pub(crate) ino: Ino,
    pub(crate) limit: usize,
}

impl Op for PathsOf {
    type Out = Vec<Vec<u8>>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<Vec<u8>>> {
        if let Some(fixed) = fixed_path(self.ino) {
            return Ok(vec![fixed]);
        }
        let Some(attr) = tx.attr(self.ino, Rely::PARENT)? else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for parent in parents(tx, self.ino, &attr)? {
            let Some(dir) = dir_path(tx, parent)? else { continue };
            for name in names_in(tx, parent, self.ino, self.limit - out.len())? {
                out.push(joined(&dir, &name));
            }
            if out.len() >= self.limit {
                break;
            }
        }
        Ok(out)
    }
}

/// A name of `ino` in `parent`, if it has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameOf {
    pub(crate) parent: Ino,
    pub(crate) ino: Ino,
}

impl Op for NameOf {
    type Out = Option<Vec<u8>>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Option<Vec<u8>>> {
        Ok(names_in(tx, self.parent, self.ino, 1)?.pop())
    }
}

/// Follows a path from the root by entries alone, so that it finds entries without an inode.
#[derive(Clone, Debug)]
pub(crate) struct Resolve {
    pub(crate) path: Vec<u8>,
}

impl Op for Resolve {
    /// The directory that holds the entry, and the entry.
    type Out = Option<(Ino, Entry)>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Self::Out> {
        let mut here = (Ino::ROOT, Entry { ino: Ino::ROOT, kind: FileType::Directory });
        for name in self.path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let dir = here.1.ino;
            let entry = match tx.entry(dir, name)? {
                None if dir == Ino::ROOT && name == b".trash" => Entry { ino: Ino::TRASH, kind: FileType::Directory },
                None => return Ok(None),
                Some(entry) => entry,
            };
            here = (dir, entry);
        }
        Ok(Some(here))
    }
}

fn fixed_path(ino: Ino) -> Option<Vec<u8>> {
    match ino {
        Ino::ROOT => Some(b"/".to_vec()),
        Ino::TRASH => Some(b"/.trash".to_vec()),
        _ => None,
    }
}

fn parents(tx: &mut dyn Txn, ino: Ino, attr: &Attr) -> Result<Vec<Ino>> {
    if attr.parent.0 != 0 || attr.kind == FileType::Directory {
        return Ok(vec![attr.parent]);
    }
    Ok(tx.parents(ino)?.into_iter().map(|(parent, _)| parent).collect())
}

/// Deeper than this is taken for a cycle.
const DEPTH_MAX: usize = 65_536;

fn dir_path(tx: &mut dyn Txn, dir: Ino) -> Result<Option<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut here = dir;
    for _ in 0..DEPTH_MAX {
        if let Some(mut path) = fixed_path(here) {
            for name in names.iter().rev() {
                path = joined(&path, name);
            }
            return Ok(Some(path));
        }
        let Some(attr) = tx.attr(here, Rely::PARENT)? else { return Ok(None) };
        let Some(name) = names_in(tx, attr.parent, here, 1)?.pop() else { return Ok(None) };
        names.push(name);
        here = attr.parent;
    }
    Ok(None)
}

/// Names of `ino` in `dir`, found by reading the directory.
fn names_in(tx: &mut dyn Txn, dir: Ino, ino: Ino, limit: usize) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut after = Vec::new();
    loop {
        let page = tx.entries(dir, &after, PAGE, false)?;
        found.extend(page.iter().filter(|e| e.entry.ino == ino).map(|e| e.name.clone()));
        match page.last() {
            Some(last) if page.len() == PAGE && found.len() < limit => after.clone_from(&last.name),
            _ => break,
        }
    }
    found.truncate(limit);
    Ok(found)
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend(name);
    path
}
