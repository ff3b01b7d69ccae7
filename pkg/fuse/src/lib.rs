//! Kernel requests to vfs calls, vfs results to replies: the FUSE door of a volume.
//!
//! Rules kept here:
//!
//! * **No kernel thread waits.** What memory can answer is answered on the thread that took the
//!   request; everything else moves to the runtime (`door`).
//! * **A write is copied once**, from the request into the write buffer; only one that finds no room
//!   is copied aside, to wait without the request's memory.
//! * **One errno table** (`errno`), and nobody below speaks errno.
//! * **The kernel's caches** keep names and attributes for the configured time; pages survive an open
//!   only if nothing changed since the last one (`answer`); what must be dropped is dropped from a
//!   thread that answers no requests (`notify`).
//!
//! Not here: what a call means (`cairn-vfs`), and permission bits, which the kernel checks.
//!
//! Known limits of fuser 0.18: interrupts do not arrive (`caller` watches who waits long), fields it
//! drops are read beside it (`raw`), times before 1970 are put right (`convert`), and a time of the
//! very first second an `i64` holds makes its thread panic. sync(2) and syncfs(2) never reach a FUSE
//! server.

mod answer;
mod backing;
mod caller;
mod config;
mod convert;
mod door;
mod errno;
mod error;
mod ioctl;
mod kernel_fs;
mod known;
mod notify;
#[cfg(feature = "bench")]
pub mod nullfs;
mod raw;
mod session;
mod xattr;

use std::path::Path;
use std::sync::Arc;

use cairn_vfs::Vfs;
use tokio::runtime::Handle;

pub use config::Config;
pub use errno::errno_number;
pub use error::{Error, Result};
pub use notify::{Notice, Notices};
pub use session::{Mounted, State, mountinfo_path};

/// Mounts `vfs` at `mountpoint`. What waits runs on `rt`, which must outlive the mount.
///
/// Unmounting, by whomever, flushes everything before [`Mounted::wait`] returns; closing the volume is the caller's.
///
/// # Errors
/// [`Error::Option`] for a `-o` option that cannot be honoured, [`Error::Mount`] if the kernel or fusermount3 refuses.
pub fn mount(vfs: Arc<Vfs>, rt: Handle, mountpoint: &Path, config: Config) -> Result<Mounted> {
    let (session, extra) = config.session()?;
    let answers = Arc::new(answer::Answers::new(config));
    let mounted = session::start(kernel_fs::KernelFs::new(vfs, rt, extra, answers.clone()), mountpoint, &session)?;
    if answers.notices.set(mounted.notices()).is_err() {
        unreachable!("only this call sets it");
    }
    Ok(mounted)
}
