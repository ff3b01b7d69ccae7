//! Blocks against slices.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cairn_chunk::{Depth, Error as ChunkError};
use cairn_meta::invariants::Violation;
use cairn_types::{BlockKey, ChunkIndex, Ino, SliceId, SliceRecord, SliceRef, layout};
use futures::{StreamExt, TryStreamExt};

use super::{Finding, Fsck, Place, Problem};
use crate::Result;
use crate::ops::{ChunkPage, ChunksOf, LiveSlices};
use crate::progress::Phase;
use crate::slice_index::{BlockSet, Class, SliceIndex};

/// Slice lists read at a time.
const PAGE: usize = 1000;

/// Files named for one bad object; the others are not looked for.
const PLACES_MAX: usize = 1000;

/// What is wrong with blocks, in the order of their names.
type Faults = BTreeMap<BlockKey, Problem>;

impl Fsck<'_> {
    /// Every block of every slice that a file shows.
    pub(super) async fn check_all_blocks(&mut self) -> Result<()> {
        let block_bytes = self.chunks.config().block_bytes;
        let index = SliceIndex::new(self.meta.view(LiveSlices).await?, block_bytes);
        self.report.slices = index.of_class(Class::Listed);
        let mut blocks = BlockSet::new(index.slices(Class::Listed).collect(), block_bytes);
        drop(index);
        self.told(Phase::ListSlices, self.report.slices.count, None, self.report.slices.bytes);
        let mut faults = Faults::new();
        self.list_objects(&mut blocks, &mut faults).await?;
        self.find_missing(&blocks, &mut faults).await?;
        if self.options.verify {
            self.verify(blocks.slices(), &mut faults).await?;
        }
        drop(blocks);
        self.place(faults).await
    }

    async fn list_objects(&mut self, blocks: &mut BlockSet, faults: &mut Faults) -> Result<()> {
        let store = self.store;
        let mut objects = store.list("chunks/", "");
        while let Some(object) = objects.try_next().await? {
            let Some(key) = BlockKey::parse_object_key(&object.key) else { continue };
            self.report.blocks.add(object.bytes);
            if self.report.blocks.count.is_multiple_of(256) {
                self.told(Phase::ScanObjects, self.report.blocks.count, None, self.report.blocks.bytes);
            }
            // A block's name in the wrong folder is not the block.
            if object.key == self.chunks.object_key(key) && blocks.mark(key) {
                faults.extend(self.wrong_length(key, object.bytes).map(|problem| (key, problem)));
            }
        }
        self.told(Phase::ScanObjects, self.report.blocks.count, None, self.report.blocks.bytes);
        Ok(())
    }

    fn wrong_length(&self, key: BlockKey, stored: u64) -> Option<Problem> {
        let possible = self.chunks.codec().object_bytes(key.len).contains(&stored);
        let bytes = u64::from(key.len);
        (!possible).then(|| Problem::WrongLength { key: self.chunks.object_key(key), stored, bytes })
    }

    /// Asks for each block the listing did not show.
    async fn find_missing(&mut self, blocks: &BlockSet, faults: &mut Faults) -> Result<()> {
        let (store, chunks) = (self.store, self.chunks);
        let mut heads = futures::stream::iter(blocks.unseen())
            .map(|key| async move { (key, store.head(&chunks.object_key(key)).await) })
            .buffer_unordered(self.options.threads.max(1));
        let mut done = 0;
        while let Some((key, head)) = heads.next().await {
            done += 1;
            self.told(Phase::FindMissing, done, None, 0);
            match head {
                Ok(object) => faults.extend(self.wrong_length(key, object.bytes).map(|problem| (key, problem))),
                Err(e) if e.is_not_found() => {
                    let problem = Problem::MissingObject { key: chunks.object_key(key), bytes: u64::from(key.len) };
                    faults.insert(key, problem);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Reads and decodes every block of `slices`.
    async fn verify(&mut self, slices: &[SliceRef], faults: &mut Faults) -> Result<()> {
        let chunks = self.chunks;
        let total = Some(slices.len() as u64);
        let mut checks = futures::stream::iter(slices.iter().copied())
            .map(|slice| async move { (slice, chunks.check(slice, Depth::Read).await) })
            .buffer_unordered(self.options.threads.max(1));
        while let Some((slice, errors)) = checks.next().await {
            self.report.verified.add(u64::from(slice.size));
            self.told(Phase::Verify, self.report.verified.count, total, self.report.verified.bytes);
            for (key, problem) in errors.into_iter().filter_map(|e| self.problem(e)) {
                faults.entry(key).or_insert(problem);
            }
        }
        Ok(())
    }

    fn problem(&self, error: ChunkError) -> Option<(BlockKey, Problem)> {
        let name = |key| self.chunks.object_key(key);
        Some(match error {
            ChunkError::Missing { key } => (key, Problem::MissingObject { key: name(key), bytes: u64::from(key.len) }),
            ChunkError::Corrupt { key, reason } => (key, Problem::Damaged { key: name(key), reason }),
            ChunkError::Store { key, source } if source.is_not_found() => {
                (key, Problem::MissingObject { key: name(key), bytes: u64::from(key.len) })
            }
            ChunkError::Store { key, source } => {
                (key, Problem::Unreadable { key: name(key), reason: source.to_string() })
            }
            // None of these can come from a check.
            ChunkError::OutOfSlice { .. } | ChunkError::Interrupted { .. } | ChunkError::Discarded { .. } => {
                return None;
            }
        })
    }

    /// Finds the files that show bytes of bad blocks. A slice that no list names any more has been
    /// let go meanwhile: its blocks may be gone.
    async fn place(&mut self, faults: Faults) -> Result<()> {
        if faults.is_empty() {
            return Ok(());
        }
        let bad: HashSet<SliceId> = faults.keys().map(|key| key.id).collect();
        let mut named: HashSet<SliceId> = HashSet::new();
        let mut files: BTreeMap<BlockKey, BTreeSet<Ino>> = BTreeMap::new();
        let mut after = (Ino(0), ChunkIndex(0));
        loop {
            let page = self.meta.view(ChunkPage { after, limit: PAGE }).await?;
            for (ino, _, records) in &page {
                for record in records.iter().filter(|r| bad.contains(&r.id)) {
                    named.insert(record.id);
                    self.blame(&faults, record, *ino, &mut files);
                }
            }
            match page.last() {
                Some((ino, index, _)) if page.len() == PAGE => after = (*ino, *index),
                _ => break,
            }
        }
        for (key, problem) in faults.into_iter().filter(|(key, _)| named.contains(&key.id)) {
            let inos = files.remove(&key).unwrap_or_default();
            self.found_object(key, problem, inos).await?;
        }
        Ok(())
    }

    /// Notes `ino` for each bad block whose bytes `record` shows.
    fn blame(&self, faults: &Faults, record: &SliceRecord, ino: Ino, files: &mut BTreeMap<BlockKey, BTreeSet<Ino>>) {
        for key in shown_blocks(record, self.chunks.config().block_bytes) {
            if faults.contains_key(&key) {
                let inos = files.entry(key).or_default();
                if inos.len() < PLACES_MAX {
                    inos.insert(ino);
                }
            }
        }
    }

    async fn found_object(&mut self, key: BlockKey, problem: Problem, inos: BTreeSet<Ino>) -> Result<()> {
        if let Problem::MissingObject { .. } = problem {
            self.report.lost.add(u64::from(key.len));
        }
        let mut files = Vec::new();
        for ino in inos {
            files.push(Place { ino: ino.0, path: self.path(ino).await? });
        }
        self.report.findings.push(Finding { problem, files, repaired: false });
        Ok(())
    }

    /// The lists and blocks of some files, each block by its name.
    pub(super) async fn check_files(&mut self, inos: &[Ino]) -> Result<()> {
        for &ino in inos {
            self.report.inodes += 1;
            let slices = self.slices_of(ino).await?;
            let depth = if self.options.verify { Depth::Read } else { Depth::Head };
            let chunks = self.chunks;
            let mut checks = futures::stream::iter(slices)
                .map(|(slice, shown)| async move { (slice, shown, chunks.check(slice, depth).await) })
                .buffer_unordered(self.options.threads.max(1));
            let mut faults = Vec::new();
            while let Some((slice, shown, errors)) = checks.next().await {
                self.report.slices.add(u64::from(slice.size));
                let found: Vec<_> = errors.into_iter().filter_map(|e| self.problem(e)).collect();
                faults.extend(found.into_iter().filter(|(key, _)| shown.contains(&key.index)));
            }
            drop(checks);
            self.told(Phase::CheckTree, self.report.inodes, None, self.report.slices.bytes);
            faults.sort_by_key(|(key, _)| *key);
            for (key, problem) in faults {
                self.found_object(key, problem, BTreeSet::from([ino])).await?;
            }
        }
        Ok(())
    }

    /// The slices a file shows, with the blocks of each that it needs. Corrupt lists are found.
    async fn slices_of(&mut self, ino: Ino) -> Result<BTreeMap<SliceRef, BTreeSet<u32>>> {
        let mut slices: BTreeMap<SliceRef, BTreeSet<u32>> = BTreeMap::new();
        let mut from = ChunkIndex(0);
        loop {
            let page = self.meta.view(ChunksOf { ino, from, limit: PAGE }).await?;
            for (index, list) in &page {
                match list {
                    Err(reason) => {
                        let reason = reason.clone();
                        self.found_rule(Violation::CorruptChunk { ino, index: *index, reason }).await?;
                    }
                    Ok(records) => {
                        for record in records {
                            let Some(slice) = record.slice() else { continue };
                            let blocks = shown_blocks(record, self.chunks.config().block_bytes).map(|key| key.index);
                            slices.entry(slice).or_default().extend(blocks);
                        }
                    }
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE && last.0 < u32::MAX => from = ChunkIndex(last.0 + 1),
                _ => return Ok(slices),
            }
        }
    }
}

/// The blocks whose bytes a record shows.
fn shown_blocks(record: &SliceRecord, block_bytes: u32) -> impl Iterator<Item = BlockKey> + use<> {
    let slice = record.slice().filter(|s| u64::from(record.off) + u64::from(record.len) <= u64::from(s.size));
    let (off, len) = (record.off, record.len);
    slice.into_iter().flat_map(move |slice| {
        layout::block_spans(slice, off, len, block_bytes).map(move |span| BlockKey {
            id: slice.id,
            index: span.index,
            len: span.block_len,
        })
    })
}
