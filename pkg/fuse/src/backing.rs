//! Files that the kernel reads by itself, as long as somebody has them open.
//!
//! The kernel wants one and the same backing file for all opens of an inode, so it is registered at the first
//! and let go after the last. Who is refused is served as usual.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_types::Ino;
use cairn_vfs::{Fh, Image};
use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};
use parking_lot::Mutex;

/// Backing files in use.
#[derive(Default)]
pub(crate) struct Backings {
    state: Mutex<State>,
    /// The kernel has refused one: it will refuse them all.
    refused: AtomicBool,
}

#[derive(Default)]
struct State {
    of: HashMap<Ino, Backing>,
    opens: HashMap<Fh, Ino>,
}

struct Backing {
    id: Arc<BackingId>,
    opens: usize,
}

impl Backings {
    /// Answers an open with its image. Gives the reply back if the kernel does not take it.
    pub(crate) fn pass(&self, reply: ReplyOpen, ino: Ino, fh: Fh, image: &Image) -> Option<ReplyOpen> {
        let id = {
            let mut state = self.state.lock();
            let id = match state.of.get_mut(&ino) {
                Some(backing) => {
                    backing.opens += 1;
                    backing.id.clone()
                }
                None => {
                    let Some(id) = self.register(&reply, image) else { return Some(reply) };
                    state.of.insert(ino, Backing { id: id.clone(), opens: 1 });
                    id
                }
            };
            state.opens.insert(fh, ino);
            id
        };
        reply.opened_passthrough(FileHandle(fh.0), FopenFlags::empty(), &id);
        None
    }

    fn register(&self, reply: &ReplyOpen, image: &Image) -> Option<Arc<BackingId>> {
        if self.refused.load(Ordering::Acquire) {
            return None;
        }
        match reply.open_backing(&image.file) {
            Ok(id) => Some(Arc::new(id)),
            Err(error) => {
                // Not root, a kernel without it, or a cache on a file system that is stacked on another.
                self.refused.store(true, Ordering::Release);
                tracing::info!(%error, "the kernel does not read files by itself: all reads come here");
                None
            }
        }
    }

    /// An open has ended.
    pub(crate) fn released(&self, fh: Fh) {
        let mut state = self.state.lock();
        let Some(ino) = state.opens.remove(&fh) else { return };
        if let Some(backing) = state.of.get_mut(&ino) {
            backing.opens -= 1;
            if backing.opens == 0 {
                state.of.remove(&ino);
            }
        }
    }
}
