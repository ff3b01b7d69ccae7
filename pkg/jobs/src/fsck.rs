//! Is everything there that the metadata promises, and does the metadata keep its own rules?
//!
//! The whole volume: every rule of `cairn_meta::invariants` over one consistent view, then one
//! listing of the store against every block of every slice that a file shows, and with `verify`
//! every block read and decoded. Below a path: the directories one by one and their files' blocks.
//!
//! Only what is found twice counts: a block the listing lacks is asked for by name, and its slice
//! must still be named by a file afterwards, because the volume may be in use.
//!
//! Repair mends directories as the reference does (link counts, lost attributes, statistics), and on
//! the whole volume what it adds up: usage, quotas, the next numbers. It never guesses at data.

mod data;
mod finding;
mod repair;

use std::sync::Arc;

use cairn_chunk::ChunkStore;
use cairn_meta::Meta;
use cairn_meta::invariants::{CheckVolume, Seen, Violation};
use cairn_object::ObjectStore;
use cairn_types::{FileType, Ino};
use serde::Serialize;

pub use finding::{Finding, Place, Problem};

use crate::ops::{DirCheck, PathsOf, Resolve};
use crate::progress::{Phase, Progress, Tally, Watch};
use crate::{Error, Result};

/// What to check and mend.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only what this path names; the whole volume without.
    pub path: Option<Vec<u8>>,
    /// Everything below the path too.
    pub recursive: bool,
    /// Mend directories and sums.
    pub repair: bool,
    /// Read and decode every block.
    pub verify: bool,
    /// Mode of directories whose attributes are made anew.
    pub repair_dir_mode: u16,
    /// Blocks asked for or read at the same time.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { path: None, recursive: false, repair: false, verify: false, repair_dir_mode: 0o755, threads: 10 }
    }
}

/// What fsck saw and found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Inodes looked at.
    pub inodes: u64,
    /// Blocks the store showed. Bytes are stored bytes.
    pub blocks: Tally,
    /// Slices that files show.
    pub slices: Tally,
    /// Slices read and decoded.
    pub verified: Tally,
    /// Blocks that are gone. Bytes are plain bytes.
    pub lost: Tally,
    /// What is wrong, in a fixed order.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Nothing is wrong, or everything was mended.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|f| f.repaired)
    }

    /// Something is wrong beyond sums that drifted.
    pub fn has_damage(&self) -> bool {
        self.findings.iter().any(|f| !f.repaired && !f.problem.is_drift())
    }
}

/// Runs a check.
pub async fn run(
    meta: &Arc<Meta>,
    store: &Arc<dyn ObjectStore>,
    chunks: &Arc<ChunkStore>,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Report> {
    let mut fsck = Fsck { meta, store: &**store, chunks, options, watch, report: Report::default() };
    match &options.path {
        None => fsck.volume().await?,
        Some(path) => fsck.below(path).await?,
    }
    Ok(fsck.report)
}

struct Fsck<'a> {
    meta: &'a Arc<Meta>,
    store: &'a dyn ObjectStore,
    chunks: &'a Arc<ChunkStore>,
    options: &'a Options,
    watch: Watch<'a>,
    report: Report,
}

impl Fsck<'_> {
    fn told(&self, phase: Phase, done: u64, total: Option<u64>, bytes: u64) {
        (self.watch)(Progress { phase, done, total, bytes });
    }

    async fn volume(&mut self) -> Result<()> {
        let (broken, Seen { inodes, .. }) = self.meta.view(CheckVolume { strict: false }).await?;
        self.report.inodes = inodes;
        self.told(Phase::CheckTree, inodes, Some(inodes), 0);
        for violation in broken {
            self.found_rule(violation).await?;
        }
        self.check_all_blocks().await
    }

    async fn below(&mut self, path: &[u8]) -> Result<()> {
        let found = self.meta.view(Resolve { path: path.to_vec() }).await?;
        let Some((parent, entry)) = found else {
            return Err(Error::NoPath { path: String::from_utf8_lossy(path).into_owned() });
        };
        let (mut dirs, mut files) = (Vec::new(), Vec::new());
        match entry.kind {
            FileType::Directory => dirs.push((parent, entry.ino)),
            FileType::File => files.push(entry.ino),
            _ => {}
        }
        while let Some((parent, dir)) = dirs.pop() {
            self.directory(parent, dir, &mut dirs, &mut files).await?;
            self.check_files(&std::mem::take(&mut files)).await?;
        }
        self.check_files(&files).await
    }

    async fn directory(
        &mut self,
        parent: Ino,
        dir: Ino,
        dirs: &mut Vec<(Ino, Ino)>,
        files: &mut Vec<Ino>,
    ) -> Result<()> {
        self.report.inodes += 1;
        let checked = match self.meta.view(DirCheck(dir)).await {
            Ok(checked) => checked,
            // Its parent's check has reported it, unless it is the top.
            Err(cairn_meta::Error::NoEntry) => return self.lost_directory(parent, dir).await,
            Err(e) => return Err(e.into()),
        };
        for violation in checked.broken {
            self.found_rule(violation).await?;
        }
        if self.options.recursive {
            dirs.extend(checked.dirs.iter().map(|sub| (dir, *sub)));
        }
        files.extend(checked.files);
        self.told(Phase::CheckTree, self.report.inodes, None, 0);
        Ok(())
    }

    async fn lost_directory(&mut self, parent: Ino, dir: Ino) -> Result<()> {
        let reported = self
            .report
            .findings
            .iter()
            .any(|f| matches!(&f.problem, Problem::Rule(Violation::DanglingEntry { ino, .. }) if *ino == dir));
        if reported {
            return Ok(());
        }
        let name = self.meta.view(crate::ops::NameOf { parent, ino: dir }).await?.unwrap_or_default();
        self.found_rule(Violation::DanglingEntry { dir: parent, name, ino: dir, kind: FileType::Directory }).await
    }

    async fn found_rule(&mut self, violation: Violation) -> Result<()> {
        let places = match &violation {
            Violation::DanglingEntry { dir, name, ino, .. } | Violation::EntryKind { dir, name, ino, .. } => {
                let above = self.path(*dir).await?;
                vec![Place { ino: ino.0, path: above.map(|p| finding::join(&p, name)) }]
            }
            other => match other.ino() {
                Some(ino) => vec![Place { ino: ino.0, path: self.path(ino).await? }],
                None => Vec::new(),
            },
        };
        let repaired = self.repair(&violation).await?;
        self.report.findings.push(Finding { problem: Problem::Rule(violation), files: places, repaired });
        Ok(())
    }

    async fn path(&self, ino: Ino) -> Result<Option<String>> {
        let paths = self.meta.view(PathsOf { ino, limit: 1 }).await?;
        Ok(paths.first().map(|p| String::from_utf8_lossy(p).into_owned()))
    }
}
