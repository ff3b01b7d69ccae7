//! Which opens the kernel serves by itself, from a plain image of the file (FUSE passthrough).
//!
//! The kernel's rules bind: while one open of an inode passes through, every other must, and to the same image;
//! while one does not, none may. So each open is admitted under the lock of its file, before anything else is
//! done for it, and counted until its release. An open descriptor that passes through never sees a change, so
//! by default only what does not change is given one: immutable files, and files on a read-only mount that have
//! been left alone for a while.
//!
//! An image is made behind an open of a file whose blocks are all in the cache, and used from the next one on.

use std::sync::Arc;
use std::time::Duration;

use cairn_chunk::{Found, Image, ImageKey, Images};
use cairn_env::Budget;
use cairn_types::{Attr, Flags, Timestamp, chunk_spans};

use crate::commit::Core;
use crate::file::{File, State};
use crate::handle::{FileHandle, OpenFlags};
use crate::ranges::Source;
use crate::{Error, Fh, Result, Vfs};

/// On a read-only mount others may still be writing: who appends to a log does it more often than this.
const QUIET: Duration = Duration::from_secs(60);
/// Files up to this get an image when they are opened the second time, cached or not.
const SMALL_FILE_BYTES: u64 = 16 << 20;
/// Bytes copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// Which files may have an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passable {
    /// Immutable ones, and all on a read-only mount.
    Unchanging,
    /// All that are opened for reading while nobody has them open for writing.
    All,
}

/// The images of a mount, and who may have one.
pub(crate) struct Passing {
    images: Arc<Images>,
    passable: Passable,
    /// One image is made at a time.
    makers: Budget,
}

/// How the opens of one inode are served.
#[derive(Default)]
pub(crate) struct Passes {
    /// Opens that come to us.
    plain: usize,
    /// Opens that do not, and what they read.
    passed: usize,
    image: Option<Arc<Image>>,
}

impl Passes {
    /// Is some open of it served by the kernel alone?
    pub(crate) fn is_passed(&self) -> bool {
        self.passed > 0
    }
}

fn key_of(file: &File, attr: &Attr) -> ImageKey {
    ImageKey { ino: file.ino.0, length: attr.length, mtime: (attr.mtime.secs, attr.mtime.nanos) }
}

impl Passing {
    fn allows(&self, attr: &Attr, read_only: bool, now: Timestamp) -> bool {
        attr.length > 0
            && (self.passable == Passable::All
                || attr.flags.has(Flags::IMMUTABLE)
                || read_only && now.since(attr.mtime) >= QUIET)
    }
}

impl Vfs {
    /// From now on files may be passed through. For mounts whose kernel and user can; once.
    pub fn pass_through(&self, images: Arc<Images>, passable: Passable) {
        _ = self.core.passing.set(Passing { images, passable, makers: Budget::new(1) });
    }

    /// The kernel did not take the image of this open after all: it is served like any other.
    pub fn not_passed(&self, fh: Fh) {
        if let Ok(handle) = self.handles.file(fh)
            && handle.passed.swap(false, std::sync::atomic::Ordering::AcqRel)
        {
            let mut state = handle.file.state();
            state.passes.plain += 1;
            leave(&mut state);
        }
    }
}

fn leave(state: &mut State) {
    state.passes.passed -= 1;
    if state.passes.passed == 0 {
        state.passes.image = None;
    }
}

impl Core {
    /// Admits one more open: with the image that the kernel shall read, or without. To be told of its end by
    /// [`Core::dismiss`].
    ///
    /// # Errors
    /// [`Error::PassedThrough`] if the kernel serves the file by itself and could not serve this open too.
    pub(crate) fn admit(
        self: &Arc<Core>,
        file: &Arc<File>,
        flags: OpenFlags,
        again: bool,
    ) -> Result<Option<Arc<Image>>> {
        let mut state = file.state();
        let attr = state.now();
        let reads = flags.read && !flags.write && !flags.truncate;
        let key = key_of(file, &attr);
        if state.passes.is_passed() {
            let same = state.passes.image.clone().filter(|image| reads && image.key == key);
            let image = same.ok_or(Error::PassedThrough { ino: file.ino })?;
            state.passes.passed += 1;
            return Ok(Some(image));
        }
        let now = self.now();
        let passing = self
            .passing
            .get()
            .filter(|passing| reads && state.is_clean() && passing.allows(&attr, self.meta.config().read_only, now));
        if let Some(passing) = passing {
            match passing.images.find(key) {
                Found::Ready(image) if state.passes.plain == 0 => {
                    state.passes.passed = 1;
                    state.passes.image = Some(image.clone());
                    return Ok(Some(image));
                }
                Found::Ready(_) => {}
                found => self.make_behind(file.clone(), key, matches!(found, Found::Unverified), again),
            }
        }
        state.passes.plain += 1;
        Ok(None)
    }

    /// An open that was admitted has ended.
    pub(crate) fn dismiss(&self, handle: &FileHandle) {
        let mut state = handle.file.state();
        state.uncached -= usize::from(handle.uncached);
        if handle.passed.load(std::sync::atomic::Ordering::Acquire) {
            leave(&mut state);
        } else {
            state.passes.plain -= 1;
        }
    }

    /// Makes or verifies an image while nobody waits; leaves it if another one is being made.
    fn make_behind(self: &Arc<Core>, file: Arc<File>, key: ImageKey, verify: bool, again: bool) {
        let Some(passing) = self.passing.get() else { return };
        let Some(turn) = passing.makers.try_acquire(1) else { return };
        let core = self.clone();
        self.tasks.spawn(async move {
            let images = core.passing.get().expect("it is set").images.clone();
            if verify {
                core.env.blocking(move || images.verify(key)).await;
            } else if again && key.length <= SMALL_FILE_BYTES || core.is_near(&file, key.length).await {
                tokio::select! {
                    () = core.tasks.stopping() => {}
                    made = core.make_image(&file, key, &images) => if let Err(error) = made {
                        tracing::debug!(ino = key.ino, %error, "no image of this file");
                    }
                }
            }
            drop(turn);
        });
    }

    /// Are all blocks that a file shows in the cache?
    async fn is_near(&self, file: &File, length: u64) -> bool {
        for span in chunk_spans(0, length) {
            let Ok(pieces) = self.pieces(file, span).await else { return false };
            let is_near = |source: &Source, len| match source {
                Source::Hole => true,
                Source::Stored(slice, off) => self.chunk.is_near(*slice, *off, len),
                Source::Dirty(..) => false,
            };
            if !pieces.iter().all(|piece| is_near(&piece.source, piece.len)) {
                return false;
            }
        }
        true
    }

    async fn make_image(self: &Arc<Core>, file: &Arc<File>, key: ImageKey, images: &Arc<Images>) -> Result<()> {
        let begun = images.clone();
        let Some(mut building) = self.env.blocking(move || begun.build(key)).await else { return Ok(()) };
        let mut at = 0;
        while at < key.length {
            let end = (at + COPY_BYTES).min(key.length);
            let bytes = self.read_range(file, at, end).await?;
            let appended = self.env.blocking(move || building.append(&bytes).map(|()| building)).await;
            building = match appended {
                Ok(building) => building,
                Err(error) => {
                    tracing::warn!(ino = key.ino, %error, "an image of a file could not be written");
                    return Ok(());
                }
            };
            at = end;
        }
        // Whatever changes a file's content moves its mtime: if that is as it was, so is what was read.
        let attr = self.getattr(file.ino).await?;
        if key_of(file, &attr) == key
            && let Err(error) = self.env.blocking(move || building.finish()).await
        {
            tracing::warn!(ino = key.ino, %error, "an image of a file could not be written");
        }
        Ok(())
    }
}
