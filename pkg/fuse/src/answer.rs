//! How long the kernel may believe what it is told, and what its page cache may keep.

use std::sync::OnceLock;
use std::time::Duration;

use cairn_types::{Attr, Ino};
use cairn_vfs::{DirEntry, Opened};
use fuser::{Errno, FopenFlags, Generation, ReplyAttr, ReplyEntry};

use crate::Config;
use crate::backing::Backings;
use crate::convert::{file_attr, no_attr};
use crate::known::KnownInodes;
use crate::notify::{Notice, Notices};

const GENERATION: Generation = Generation(1);

/// Answers that carry attributes.
pub(crate) struct Answers {
    pub(crate) config: Config,
    pub(crate) known: KnownInodes,
    pub(crate) backings: Backings,
    /// Set once the session runs.
    pub(crate) notices: OnceLock<Notices>,
}

impl Answers {
    pub(crate) fn new(config: Config) -> Answers {
        Answers { config, known: KnownInodes::new(), backings: Backings::default(), notices: OnceLock::new() }
    }

    /// How long a name may be believed.
    pub(crate) fn entry_ttl(&self, attr: &Attr) -> Duration {
        if attr.is_dir() { self.config.dir_entry_timeout } else { self.config.entry_timeout }
    }

    /// The one time-out of replies that carry a name and attributes together.
    pub(crate) fn entry_and_attr(&self, ino: Ino, attr: &Attr) -> Duration {
        self.known.saw(ino, attr);
        self.entry_ttl(attr).min(self.config.attr_timeout)
    }

    /// The same for an entry of a listing; one without attributes is not to be believed at all.
    pub(crate) fn listed(&self, entry: &DirEntry, attr: &Attr) -> Duration {
        if entry.attr.is_some() { self.entry_and_attr(entry.ino, attr) } else { Duration::ZERO }
    }

    /// Answers with attributes.
    pub(crate) fn attr(&self, reply: ReplyAttr, ino: Ino, out: Result<Attr, Errno>) {
        match out {
            Ok(attr) => {
                self.known.saw(ino, &attr);
                self.known.told(ino, &attr);
                reply.attr(&self.config.attr_timeout, &file_attr(ino, &attr));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers with a name's inode and attributes.
    pub(crate) fn entry(&self, reply: ReplyEntry, out: Result<(Ino, Attr), Errno>) {
        match out {
            Ok((ino, attr)) => {
                self.known.saw(ino, &attr);
                self.known.told(ino, &attr);
                let (attr_ttl, entry_ttl) = (self.config.attr_timeout, self.entry_ttl(&attr));
                reply.entry_with_ttls(&attr_ttl, &entry_ttl, &file_attr(ino, &attr), GENERATION);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// The same for a LOOKUP, where "no such name" may be believed for a while too.
    pub(crate) fn lookup(&self, reply: ReplyEntry, out: Result<(Ino, Attr), Errno>) {
        match out {
            Err(Errno::ENOENT) if !self.config.negative_timeout.is_zero() => {
                reply.entry_with_ttls(&Duration::ZERO, &self.config.negative_timeout, &no_attr(), GENERATION);
            }
            out => self.entry(reply, out),
        }
    }

    /// How the kernel caches an opened file: not at all, afresh, or what it has.
    pub(crate) fn opened(&self, ino: Ino, opened: &Opened) -> FopenFlags {
        if opened.direct {
            return FopenFlags::FOPEN_DIRECT_IO;
        }
        // Close-to-open: both must agree that nothing changed.
        let held = self.known.opened(ino, &opened.attr, opened.fh);
        if !held.attr {
            // The kernel would go on with the length it was told, for as long as that may be believed.
            self.attr_is_old(ino);
        }
        if opened.uncached {
            return FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        }
        if held.pages && opened.keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
    }

    /// A lock was granted: what its last holder wrote must be seen.
    pub(crate) fn locked(&self, ino: Ino) {
        self.attr_is_old(ino);
    }

    /// The kernel shall ask for the attributes again before it answers from its cache. If they have
    /// changed then, it drops the pages too.
    fn attr_is_old(&self, ino: Ino) {
        if let Some(notices) = self.notices.get() {
            notices.attr_now(ino);
        }
    }

    /// Bytes were written past the kernel's pages while somebody else has the file open: pages of the
    /// range that were read meanwhile are old.
    pub(crate) fn wrote_past_pages(&self, ino: Ino, offset: u64, len: u32) {
        if len > 0
            && let Some(notices) = self.notices.get()
        {
            notices.send(Notice::Content { ino, offset, len: u64::from(len) });
        }
    }

    /// set-uid and set-gid are gone, which the kernel does not expect of the request at hand.
    pub(crate) fn privilege_dropped(&self, ino: Ino, attr: &Attr) {
        self.known.saw(ino, attr);
        if let Some(notices) = self.notices.get() {
            notices.send(Notice::Attr { ino });
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::{FileType, Timestamp};
    use cairn_vfs::Fh;

    use super::*;
    use crate::config::tests::settings;

    fn opened(nanos: u32, keep_cache: bool, direct: bool) -> Opened {
        let attr = Attr { mtime: Timestamp { secs: 1, nanos }, ..Attr::default() };
        Opened { fh: Fh(1), attr, keep_cache, direct, uncached: false, created: false, image: None }
    }

    #[test]
    fn names_of_directories_have_their_own_time_out() {
        let answers = Answers::new(settings());
        let dir = Attr { kind: FileType::Directory, ..Attr::default() };
        assert_eq!(answers.entry_ttl(&dir), Duration::from_secs(3));
        assert_eq!(answers.entry_ttl(&Attr::default()), Duration::from_secs(2));
        assert_eq!(answers.entry_and_attr(Ino(2), &dir), Duration::from_secs(1), "the shorter of both");
    }

    #[test]
    fn pages_are_kept_only_if_both_sides_saw_no_change() {
        let answers = Answers::new(settings());
        let flags = |nanos, keep, direct| {
            let flags = answers.opened(Ino(2), &opened(nanos, keep, direct));
            answers.known.heard_of(Ino(2), Fh(1));
            flags
        };
        assert_eq!(flags(1, true, false), FopenFlags::empty(), "first open");
        assert_eq!(flags(1, true, false), FopenFlags::FOPEN_KEEP_CACHE);
        assert_eq!(flags(1, false, false), FopenFlags::empty(), "the vfs knows better");
        assert_eq!(flags(2, true, false), FopenFlags::empty(), "mtime changed");
        assert_eq!(flags(2, true, true), FopenFlags::FOPEN_DIRECT_IO, "virtual files are never cached");
    }
}
