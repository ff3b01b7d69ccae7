//! Telling the kernel to drop what it caches.
//!
//! The kernel takes locks for that which the caller of a request may hold until we answer. So it
//! never happens on a thread that answers requests: notices queue for a thread of their own. The
//! one exception is [`Notices::attr_now`], for which the kernel takes no lock that a caller holds.

use std::ffi::OsString;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use cairn_types::Ino;
use fuser::{INodeNo, Notifier};

/// Notices that may wait. One that does not fit is dropped: time-outs end the staleness instead.
const QUEUE_NOTICES: usize = 4096;

/// What the kernel shall drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Attributes, and the pages of a range; `len` 0: to the end.
    Content {
        /// The file.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Attributes only.
    Attr {
        /// The inode.
        ino: Ino,
    },
    /// A name, whatever it stands for.
    Name {
        /// The directory.
        parent: Ino,
        /// The name.
        name: OsString,
    },
}

/// Where notices go. Cheap to clone; the thread behind it ends with the last clone.
#[derive(Clone, Debug)]
pub struct Notices {
    queue: SyncSender<Notice>,
    /// `None` in tests without a kernel.
    notifier: Option<Notifier>,
}

impl Notices {
    pub(crate) fn start(notifier: Notifier) -> std::io::Result<Notices> {
        let (queue, notices) = sync_channel::<Notice>(QUEUE_NOTICES);
        let direct = notifier.clone();
        thread::Builder::new().name("cairn-notify".into()).spawn(move || {
            for notice in notices {
                if let Err(err) = tell(&notifier, &notice) {
                    tracing::debug!(?notice, "kernel refused to drop: {err}");
                }
            }
        })?;
        Ok(Notices { queue, notifier: Some(direct) })
    }

    /// Asks for `notice` to be sent soon. `false`: the queue is full and the notice dropped.
    pub fn send(&self, notice: Notice) -> bool {
        self.queue.try_send(notice).is_ok()
    }

    /// Makes the kernel forget the attributes of `ino` before this returns.
    ///
    /// Only for an inode that the caller of the request at hand refers to: it touches no pages, and
    /// such an inode is not on its way out, so the kernel has nothing to wait for.
    pub(crate) fn attr_now(&self, ino: Ino) {
        let told = self.notifier.as_ref().map_or(Ok(()), |kernel| tell(kernel, &Notice::Attr { ino }));
        if let Err(err) = told {
            tracing::debug!(%ino, "kernel refused to drop attributes: {err}");
        }
    }
}

fn tell(notifier: &Notifier, notice: &Notice) -> std::io::Result<()> {
    match notice {
        Notice::Content { ino, offset, len } => notifier.inval_inode(INodeNo(ino.0), *offset as i64, *len as i64),
        Notice::Attr { ino } => notifier.inval_inode(INodeNo(ino.0), -1, 0),
        Notice::Name { parent, name } => notifier.inval_entry(INodeNo(parent.0), name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_says_so() {
        let (queue, _held) = sync_channel(1);
        let notices = Notices { queue, notifier: None };
        assert!(notices.send(Notice::Attr { ino: Ino(1) }));
        assert!(!notices.send(Notice::Attr { ino: Ino(2) }));
    }
}
