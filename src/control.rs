//! What `.control` does in the mount process: commands run where the caches are.

use std::sync::Arc;

use bytes::Bytes;
use cairn_chunk::ChunkStore;
use cairn_jobs::tree::{self, InfoOptions, RemoveOptions, SummaryOptions, SummaryReply};
use cairn_jobs::{Compacted, Progress as Step};
use cairn_meta::{Cred, Meta, Upkeep};
use cairn_types::{ChunkIndex, Ino};
use cairn_vfs::{Control, ControlReply, ControlRequest, ErrnoByte, Progress};
use futures::future::BoxFuture;
use serde::Serialize;

/// Compactions of one chunk in one command.
const ROUNDS_MAX: usize = 100;
/// Chunks of a file read at a time.
const CHUNKS_PAGE: usize = 1000;
/// Names of a directory read at a time.
const NAMES_PAGE: usize = 1000;

/// The commands of one mount.
pub(crate) struct Commands {
    pub(crate) meta: Arc<Meta>,
    pub(crate) chunks: Arc<ChunkStore>,
}

type Outcome = Result<ControlReply, cairn_jobs::Error>;

impl Control for Commands {
    fn run(
        &self,
        cred: Cred,
        request: ControlRequest,
        progress: Arc<Progress>,
    ) -> BoxFuture<'static, Result<ControlReply, ErrnoByte>> {
        let this = Commands { meta: self.meta.clone(), chunks: self.chunks.clone() };
        Box::pin(async move {
            let outcome = this.serve(checked(cred), request, &progress).await;
            outcome.map_err(|e| {
                tracing::debug!(error = %e, "control message failed");
                errno(&e)
            })
        })
    }
}

impl Commands {
    async fn serve(&self, cred: Cred, request: ControlRequest, progress: &Progress) -> Outcome {
        let meta = &self.meta;
        match request {
            ControlRequest::Remove { parent, name, skip_trash, threads } => {
                if skip_trash && !cred.is_root() {
                    return Err(cairn_meta::Error::NotPermitted.into());
                }
                let options = RemoveOptions { skip_trash, threads: usize::from(threads) };
                tree::remove(meta, &cred, parent, &name, &options, &|step| entries(progress, step)).await?;
                Ok(ControlReply::Done)
            }
            ControlRequest::Info { ino, recursive, raw, strict } => {
                let options = InfoOptions { recursive, raw, strict };
                let info = tree::info(meta, ino, &options, &|step| both(progress, step)).await?;
                Ok(json(&info))
            }
            ControlRequest::Summary { ino, depth, top, strict } => {
                let options = SummaryOptions { depth, top_n: usize::from(top), strict };
                let tree = tree::summary(meta, ino, "", &options, &|step| both(progress, step)).await?;
                Ok(json(&SummaryReply { errno: 0, tree: Some(tree) }))
            }
            ControlRequest::Compact { ino, workers: _ } => {
                self.compact_tree(ino, progress).await?;
                Ok(ControlReply::Done)
            }
        }
    }

    /// Compacts every file below `top`, one after the other: each compaction is parallel in itself.
    async fn compact_tree(&self, top: Ino, progress: &Progress) -> Result<(), cairn_jobs::Error> {
        let mut waiting = vec![top];
        while let Some(ino) = waiting.pop() {
            let attr = self.meta.getattr(ino).await?;
            if attr.is_file() {
                self.compact_file(ino, progress).await?;
            }
            if attr.is_dir() {
                let mut after = Vec::new();
                loop {
                    let page = self.meta.readdir(ino, &after, NAMES_PAGE, false).await?;
                    waiting.extend(page.iter().map(|named| named.entry.ino));
                    match page.last() {
                        Some(last) if page.len() == NAMES_PAGE => after.clone_from(&last.name),
                        _ => break,
                    }
                }
            }
        }
        Ok(())
    }

    async fn compact_file(&self, ino: Ino, progress: &Progress) -> Result<(), cairn_jobs::Error> {
        let mut from = ChunkIndex(0);
        loop {
            let page = self.meta.chunks(ino, from, CHUNKS_PAGE).await?;
            for index in &page {
                progress.add(1, 0);
                for _ in 0..ROUNDS_MAX {
                    match cairn_jobs::compact(&self.meta, &self.chunks, ino, *index).await? {
                        Compacted::Done { unowned, .. } => self.meta.request(Upkeep::DeleteSlices(unowned)),
                        _ => break,
                    }
                }
                progress.add(0, 1);
            }
            match page.last() {
                Some(last) if page.len() == CHUNKS_PAGE => from = ChunkIndex(last.0 + 1),
                _ => return Ok(()),
            }
        }
    }
}

fn json(value: &impl Serialize) -> ControlReply {
    ControlReply::Json(Bytes::from(serde_json::to_vec(value).expect("replies have string keys")))
}

/// No kernel has checked what the message asks for, so metadata does, with all groups of the caller.
fn checked(mut cred: Cred) -> Cred {
    cred.check = true;
    let status = std::fs::read_to_string(format!("/proc/{}/status", cred.pid)).unwrap_or_default();
    if let Some(groups) = status.lines().find_map(|l| l.strip_prefix("Groups:")) {
        cred.gids.extend(groups.split_whitespace().filter_map(|g| g.parse::<u32>().ok()));
    }
    cred
}

/// Brings the protocol's first number to what a step says.
fn entries(progress: &Progress, step: Step) {
    let (done, _) = progress.get();
    progress.add(step.done.saturating_sub(done), 0);
}

fn both(progress: &Progress, step: Step) {
    let (done, bytes) = progress.get();
    progress.add(step.done.saturating_sub(done), step.bytes.saturating_sub(bytes));
}

/// The protocol's number for a failure.
fn errno(e: &cairn_jobs::Error) -> ErrnoByte {
    use cairn_meta::Error as M;
    let number = match e {
        cairn_jobs::Error::NoPath { .. } | cairn_jobs::Error::Meta(M::NoEntry) => libc::ENOENT,
        cairn_jobs::Error::Meta(M::Access) => libc::EACCES,
        cairn_jobs::Error::Meta(M::NotPermitted) => libc::EPERM,
        cairn_jobs::Error::Meta(M::NotEmpty) => libc::ENOTEMPTY,
        cairn_jobs::Error::Meta(M::NotDirectory) => libc::ENOTDIR,
        cairn_jobs::Error::Meta(M::ReadOnly) => libc::EROFS,
        cairn_jobs::Error::Meta(M::Invalid(_)) => libc::EINVAL,
        cairn_jobs::Error::Meta(M::NameTooLong) => libc::ENAMETOOLONG,
        _ => libc::EIO,
    };
    number as ErrnoByte
}
