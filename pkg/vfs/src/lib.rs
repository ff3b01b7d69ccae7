//! Open files: POSIX file calls to metadata transactions and slices of data.
//!
//! [`Vfs`] is the whole file system as calls that know no protocol: names, attributes, handles,
//! readers, writers, locks and the virtual files of the root. Every call is an `async fn` that is
//! done at its first poll when memory can answer it.
//!
//! Rules kept here:
//!
//! * **A reader sees its own writes.** What is written and not yet committed lies over the committed
//!   slices; a read merges both and never flushes.
//! * **Blocks before names.** Only a `StoredSlice` is committed, and slices of a file commit in the
//!   order in which they were begun.
//! * **Changes of length wait for dirt.** Truncate, fallocate and copy_range drain the inode first
//!   and hold new writes meanwhile, so that no older slice commits after them.
//! * **An error is told, and data kept.** What could not be stored stays in memory and is tried
//!   again; what metadata refuses for good (no such inode, full, over quota) is dropped, and every
//!   open handle is told once, at its next fsync, flush or close.
//!
//! Not here: errno and kernel requests (`cairn-fuse`), what a rename means (`cairn-meta`), how a
//! slice becomes objects (`cairn-chunk`).

mod accesslog;
mod api;
mod attrs;
mod commit;
mod config;
mod control;
mod dir;
mod error;
mod file;
mod flusher;
mod gather;
mod handle;
mod locks;
mod names;
mod opening;
mod pack_plan;
mod packing;
mod passing;
mod patches;
mod pending;
mod ranges;
mod readahead;
mod reader;
mod replay;
mod resize;
mod seek;
mod tail;
#[cfg(test)]
mod tests;
mod virtual_files;
mod write_back;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use accesslog::AccessLog;
pub use cairn_chunk::{Image, Images};
pub use cairn_meta::{Cred, FallocMode, NewNode, OpenHow, RenameMode, SetAttr, XattrMode};
pub use config::{Config, Parts};
pub use control::{Control, ControlReply, ControlRequest, ErrnoByte, Progress};
pub use dir::DirEntry;
pub use error::{Error, Result};
pub use handle::{Fh, OpenFlags, Opened};
pub use locks::LockRange;
pub use passing::Passable;
pub use replay::{Replayed, replay};
pub use seek::Whence;
pub use virtual_files::{VIRTUAL_CONFIG, VIRTUAL_CONTROL, VIRTUAL_LOG, VIRTUAL_STATS};

/// The files of one mounted volume. Its calls are in `api`.
pub struct Vfs {
    core: Arc<commit::Core>,
    handles: handle::HandleTable,
    virtuals: virtual_files::VirtualFiles,
    seen: opening::SeenTable,
    log: AccessLog,
    closing: AtomicBool,
}
