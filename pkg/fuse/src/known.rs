//! What the kernel holds about inodes, as far as our answers depend on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use cairn_types::{Attr, Ino, Timestamp};
use cairn_vfs::Fh;
use parking_lot::Mutex;

const SHARDS: usize = 16;
/// Inodes remembered per shard. One that is dropped merely loses its cached pages at its next open.
const SHARD_INODES_MAX: usize = 4 << 10;

/// Content as it was when a file was opened last. `ctime` tells a rewrite whose mtime was set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    mtime: Timestamp,
    ctime: Timestamp,
    length: u64,
}

impl Content {
    fn of(attr: &Attr) -> Content {
        Content { mtime: attr.mtime, ctime: attr.ctime, length: attr.length }
    }
}

/// The open that made the kernel drop older pages.
#[derive(Clone, Copy, Debug)]
struct LastOpen {
    content: Content,
    fh: Fh,
    /// The opener has been heard of since, so the kernel has dropped them by now.
    is_done: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    opened: Option<LastOpen>,
    /// Content as the kernel was told it last.
    told: Option<Content>,
    /// It has a setuid or setgid bit that a write by somebody else takes away.
    privileged: bool,
}

/// What the kernel holds of a file that is being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its pages are those of the last open: they may stay.
    pub(crate) pages: bool,
    /// Its attributes are those of this open: its length among them.
    pub(crate) attr: bool,
}

/// Inodes the kernel knows: content at the last open, and privilege bits.
pub(crate) struct KnownInodes {
    shards: [Mutex<HashMap<Ino, Known>>; SHARDS],
    privileged: AtomicUsize,
}

impl KnownInodes {
    pub(crate) fn new() -> KnownInodes {
        KnownInodes { shards: Default::default(), privileged: AtomicUsize::new(0) }
    }

    /// Records an open. Is the content what it was at the last one, and what the kernel was told?
    ///
    /// Pages do not stay while the last open is still on its way to the kernel: older pages would be taken for new ones.
    pub(crate) fn opened(&self, ino: Ino, attr: &Attr, fh: Fh) -> Held {
        let content = Content::of(attr);
        let mut shard = self.shard(ino).lock();
        let known = remembered(&mut shard, ino);
        let attr = known.told == Some(content);
        let pages = match known.opened {
            Some(last) if last.content == content => last.is_done,
            _ => {
                known.opened = Some(LastOpen { content, fh, is_done: false });
                false
            }
        };
        Held { pages, attr }
    }

    /// Records that the kernel is about to be told these attributes of a file.
    pub(crate) fn told(&self, ino: Ino, attr: &Attr) {
        if attr.is_file() {
            remembered(&mut self.shard(ino).lock(), ino).told = Some(Content::of(attr));
        }
    }

    /// A request came through `fh`: its open has reached the kernel.
    pub(crate) fn heard_of(&self, ino: Ino, fh: Fh) {
        if let Some(last) = self.shard(ino).lock().get_mut(&ino).and_then(|known| known.opened.as_mut())
            && last.fh == fh
        {
            last.is_done = true;
        }
    }

    /// Records the attributes the kernel is about to be told.
    pub(crate) fn saw(&self, ino: Ino, attr: &Attr) {
        let privileged = attr.is_file() && is_privileged(attr.mode);
        if !privileged && self.privileged.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut shard = self.shard(ino).lock();
        if !privileged && !shard.contains_key(&ino) {
            return;
        }
        let known = shard.entry(ino).or_default();
        match (known.privileged, privileged) {
            (false, true) => _ = self.privileged.fetch_add(1, Ordering::AcqRel),
            (true, false) => _ = self.privileged.fetch_sub(1, Ordering::AcqRel),
            _ => {}
        }
        known.privileged = privileged;
    }

    /// Does the file have bits that a write by somebody else takes away?
    pub(crate) fn is_privileged(&self, ino: Ino) -> bool {
        self.privileged.load(Ordering::Acquire) != 0 && self.shard(ino).lock().get(&ino).is_some_and(|k| k.privileged)
    }

    /// The kernel has dropped the inode, and its pages with it.
    pub(crate) fn forget(&self, ino: Ino) {
        if let Some(known) = self.shard(ino).lock().remove(&ino)
            && known.privileged
        {
            self.privileged.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Known>> {
        &self.shards[ino.0 as usize % SHARDS]
    }
}

/// The entry of `ino`, made if there is none; a full shard forgets what it can.
fn remembered(shard: &mut HashMap<Ino, Known>, ino: Ino) -> &mut Known {
    if shard.len() >= SHARD_INODES_MAX && !shard.contains_key(&ino) {
        shard.retain(|_, known| known.privileged);
    }
    shard.entry(ino).or_default()
}

/// setuid, or setgid together with group-execute (without it, it marks mandatory locking).
fn is_privileged(mode: u16) -> bool {
    mode & 0o4000 != 0 || mode & 0o2010 == 0o2010
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u16, length: u64, nanos: u32) -> Attr {
        let t = Timestamp { secs: 1, nanos };
        Attr { mode, length, mtime: t, ctime: t, ..Attr::default() }
    }

    #[test]
    fn pages_stay_only_if_times_and_length_are_those_of_the_last_open() {
        let known = KnownInodes::new();
        let open = |attr: &Attr| {
            let keeps = known.opened(Ino(2), attr, Fh(1)).pages;
            known.heard_of(Ino(2), Fh(1));
            keeps
        };
        assert!(!open(&file(0o644, 10, 5)), "never opened before");
        assert!(open(&file(0o644, 10, 5)));
        assert!(!open(&file(0o644, 10, 6)), "a nanosecond later");
        assert!(!open(&file(0o644, 11, 6)), "longer");
        let set_back = Attr { ctime: Timestamp { secs: 9, nanos: 0 }, ..file(0o644, 11, 6) };
        assert!(!open(&set_back), "rewritten, mtime set back");
        known.forget(Ino(2));
        assert!(!open(&set_back), "forgotten");
    }

    #[test]
    fn an_open_on_its_way_to_the_kernel_vouches_for_nothing() {
        let known = KnownInodes::new();
        let attr = file(0o644, 10, 5);
        assert!(!known.opened(Ino(2), &attr, Fh(1)).pages);
        assert!(!known.opened(Ino(2), &attr, Fh(2)).pages, "the first may not have dropped the old pages yet");
        known.heard_of(Ino(2), Fh(2));
        assert!(!known.opened(Ino(2), &attr, Fh(3)).pages);
        known.heard_of(Ino(2), Fh(1));
        assert!(known.opened(Ino(2), &attr, Fh(4)).pages);
    }

    #[test]
    fn attributes_are_those_the_kernel_was_told_last() {
        let known = KnownInodes::new();
        assert!(!known.opened(Ino(2), &file(0o644, 10, 5), Fh(1)).attr, "nothing was told");
        known.told(Ino(2), &file(0o644, 10, 5));
        assert!(known.opened(Ino(2), &file(0o644, 10, 5), Fh(2)).attr);
        assert!(!known.opened(Ino(2), &file(0o644, 11, 6), Fh(3)).attr, "somebody wrote meanwhile");
    }

    #[test]
    fn privilege_bits_are_followed() {
        let known = KnownInodes::new();
        known.saw(Ino(2), &file(0o4755, 0, 0));
        known.saw(Ino(3), &file(0o2644, 0, 0));
        assert!(known.is_privileged(Ino(2)) && !known.is_privileged(Ino(3)));
        known.saw(Ino(2), &file(0o755, 0, 0));
        assert!(!known.is_privileged(Ino(2)));
        known.saw(Ino(2), &file(0o2755, 0, 0));
        known.forget(Ino(2));
        assert!(!known.is_privileged(Ino(2)));
    }

    #[test]
    fn the_table_stays_bounded() {
        let known = KnownInodes::new();
        for n in 0..(SHARDS * SHARD_INODES_MAX * 2) as u64 {
            known.opened(Ino(n), &file(0o644, 0, 0), Fh(1));
        }
        assert!(known.shards.iter().all(|s| s.lock().len() <= SHARD_INODES_MAX));
    }
}
