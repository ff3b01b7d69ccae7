//! What `.control` does in the mount process: commands run where the caches are.

use std::sync::Arc;

use bytes::Bytes;
use cairn_chunk::ChunkStore;
use cairn_env::TaskSet;
use cairn_jobs::tree::{self, InfoOptions, RemoveOptions, SummaryOptions, SummaryReply};
use cairn_jobs::warm::{self, Action, Warmed};
use cairn_jobs::{Progress as Step, Upkeep};
use cairn_meta::{Cred, Meta};
use cairn_vfs::{Control, ControlReply, ControlRequest, ErrnoByte, Progress};
use futures::future::BoxFuture;
use serde::Serialize;

/// The commands of one mount.
#[derive(Clone)]
pub(crate) struct Commands {
    pub(crate) meta: Arc<Meta>,
    pub(crate) chunks: Arc<ChunkStore>,
    pub(crate) upkeep: Arc<Upkeep>,
    /// What goes on behind a message that was answered.
    pub(crate) tasks: TaskSet,
}

type Outcome = Result<ControlReply, cairn_jobs::Error>;

impl Control for Commands {
    fn run(
        &self,
        cred: Cred,
        request: ControlRequest,
        progress: Arc<Progress>,
    ) -> BoxFuture<'static, Result<ControlReply, ErrnoByte>> {
        let this = self.clone();
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
            ControlRequest::Cache { paths, workers, background, action } => {
                let action = match action {
                    0 => Action::Fill,
                    1 => Action::Evict,
                    2 => Action::Check,
                    _ => return Err(cairn_meta::Error::NotSupported.into()),
                };
                if background {
                    self.warm_behind(cred, paths, action, usize::from(workers));
                    return Ok(json(&Warmed::default()));
                }
                let watch = |step: Step| both(progress, step);
                Ok(json(&warm::run(meta, &self.chunks, &cred, &paths, action, usize::from(workers), &watch).await?))
            }
            ControlRequest::Compact { ino, workers } => {
                let threads = usize::from(workers).max(1);
                self.upkeep.compact_tree(ino, threads, &|step| entries(progress, step)).await?;
                Ok(ControlReply::Done)
            }
            ControlRequest::Drain => {
                self.drain(progress).await;
                Ok(ControlReply::Done)
            }
        }
    }

    /// Tells the bytes uploaded, and those in all: what is staged meanwhile comes on top.
    async fn drain(&self, progress: &Progress) {
        self.chunks
            .drain(|left| {
                let (done, total) = progress.get();
                let now = total.max(done + left.bytes);
                progress.add(now.saturating_sub(left.bytes).saturating_sub(done), now - total);
            })
            .await;
    }

    /// Goes on when nobody waits any more; ends with the mount.
    fn warm_behind(&self, cred: Cred, paths: Vec<Vec<u8>>, action: Action, threads: usize) {
        let this = self.clone();
        self.tasks.spawn(async move {
            let work = warm::run(&this.meta, &this.chunks, &cred, &paths, action, threads, &cairn_jobs::unwatched);
            tokio::select! {
                () = this.tasks.stopping() => {}
                done = work => match done {
                    Ok(done) => tracing::info!(files = done.file_count, bytes = done.total_bytes, ?action, "warmup is done"),
                    Err(error) => tracing::warn!(%error, ?action, "warmup ended early"),
                },
            }
        });
    }
}

fn json(value: &impl Serialize) -> ControlReply {
    ControlReply::Json(Bytes::from(serde_json::to_vec(value).expect("replies have string keys")))
}

/// No kernel has checked what the message asks for, so metadata does.
fn checked(cred: Cred) -> Cred {
    Cred { check: true, ..cred }
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

/// The protocol's number for a failure: what a system call would be told.
fn errno(e: &cairn_jobs::Error) -> ErrnoByte {
    use cairn_jobs::Error as J;
    let as_told = match e {
        J::Meta(e) => e.clone().into(),
        J::Chunk(e) => e.clone().into(),
        J::NoPath { .. } => cairn_meta::Error::NoEntry.into(),
        J::Object(_) | J::WriterRefused { .. } => cairn_meta::Error::engine("run a command", e).into(),
    };
    cairn_fuse::errno_number(&as_told)
}
