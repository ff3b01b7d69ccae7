//! Handles: what an open file or directory is to its caller.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cairn_types::Attr;
use parking_lot::Mutex;
use sharded_slab::Slab;

use crate::control::ControlHandle;
use crate::dir::DirHandle;
use crate::file::File;
use crate::readahead::Ahead;
use crate::virtual_files::TextHandle;
use crate::{Error, Image, Result, accesslog};

/// An open file or directory. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

impl fmt::Display for Fh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// Reading is allowed.
    pub read: bool,
    /// Writing is allowed.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// Cut to nothing first.
    pub truncate: bool,
    /// O_SYNC or O_DSYNC: every write is durable when it returns.
    pub sync: bool,
    /// Whoever opens it can do without caches above, and would rather: a writer that never reads.
    pub uncached: bool,
}

impl OpenFlags {
    /// Reads the flags of open(2).
    pub fn from_bits(bits: i32) -> OpenFlags {
        let access = bits & libc::O_ACCMODE;
        OpenFlags {
            read: access == libc::O_RDONLY || access == libc::O_RDWR,
            write: access == libc::O_WRONLY || access == libc::O_RDWR,
            append: bits & libc::O_APPEND != 0,
            truncate: bits & libc::O_TRUNC != 0,
            sync: bits & (libc::O_SYNC | libc::O_DSYNC) != 0,
            uncached: false,
        }
    }

    /// For reading only.
    pub fn reading() -> OpenFlags {
        OpenFlags { read: true, ..Default::default() }
    }

    /// For reading and writing.
    pub fn writing() -> OpenFlags {
        OpenFlags { read: true, write: true, ..Default::default() }
    }

    pub(crate) fn how(self) -> cairn_meta::OpenHow {
        cairn_meta::OpenHow { read: self.read, write: self.write, append: self.append, truncate: self.truncate }
    }
}

/// An opened file.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The handle.
    pub fh: Fh,
    /// Attributes at the time.
    pub attr: Attr,
    /// Content is as it was when this client had the file open last: caches above may stay.
    pub keep_cache: bool,
    /// Content must not be cached above: virtual files.
    pub direct: bool,
    /// Content need not be cached above, and while this handle lives nobody else's may be.
    pub uncached: bool,
    /// The file is new (`create` only).
    pub created: bool,
    /// The kernel is to read this by itself; if it cannot, [`crate::Vfs::not_passed`] must be told.
    pub image: Option<Arc<Image>>,
}

/// One open of a file.
pub(crate) struct FileHandle {
    pub(crate) file: Arc<File>,
    pub(crate) flags: OpenFlags,
    /// Losses of the file that this handle has been told of, or that happened before it.
    told: AtomicU64,
    pub(crate) ahead: Mutex<Ahead>,
    /// Caches above are left out, here and in all handles that are opened while this one lives.
    pub(crate) uncached: bool,
    /// A read through it has been recorded in atime.
    pub(crate) touched: AtomicBool,
    /// The kernel serves it by itself.
    pub(crate) passed: AtomicBool,
    /// It may hold a flock.
    pub(crate) flocked: AtomicBool,
}

impl FileHandle {
    pub(crate) fn new(file: Arc<File>, flags: OpenFlags, passed: bool) -> FileHandle {
        let (told, uncached) = {
            let mut state = file.state();
            // The mode is the inode's: one who caches and one who does not would not see each other.
            let uncached = if state.opens == 1 { flags.uncached } else { state.uncached > 0 };
            state.uncached += usize::from(uncached);
            (AtomicU64::new(state.losses), uncached)
        };
        FileHandle {
            file,
            flags,
            told,
            ahead: Mutex::default(),
            uncached,
            touched: AtomicBool::new(false),
            passed: AtomicBool::new(passed),
            flocked: AtomicBool::new(false),
        }
    }

    /// The error this handle has not been told yet, if there is one. Telling it is what this does.
    pub(crate) fn take_error(&self) -> Option<Error> {
        let state = self.file.state();
        let told = self.told.swap(state.losses, Ordering::AcqRel);
        state.loss_since(told)
    }
}

/// What a handle number stands for.
#[derive(Clone)]
pub(crate) enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
    Text(Arc<TextHandle>),
    Log(Arc<accesslog::LogReader>),
    Control(Arc<ControlHandle>),
}

/// All open handles. Numbers are not reused soon.
pub(crate) struct HandleTable {
    slab: Slab<Handle>,
    count: AtomicU64,
}

impl HandleTable {
    pub(crate) fn new() -> HandleTable {
        HandleTable { slab: Slab::new(), count: AtomicU64::new(0) }
    }

    pub(crate) fn insert(&self, handle: Handle) -> Result<Fh> {
        let key = self.slab.insert(handle).ok_or(Error::TooManyHandles)?;
        self.count.fetch_add(1, Ordering::Relaxed);
        // Shifted by one, because 0 means "no handle" to some callers.
        Ok(Fh(key as u64 + 1))
    }

    pub(crate) fn get(&self, fh: Fh) -> Result<Handle> {
        let key = fh.0.checked_sub(1).ok_or(Error::BadHandle { fh })?;
        self.slab.get(key as usize).map(|h| h.clone()).ok_or(Error::BadHandle { fh })
    }

    pub(crate) fn file(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        match self.get(fh)? {
            Handle::File(handle) => Ok(handle),
            _ => Err(Error::BadHandle { fh }),
        }
    }

    pub(crate) fn dir(&self, fh: Fh) -> Result<Arc<DirHandle>> {
        match self.get(fh)? {
            Handle::Dir(handle) => Ok(handle),
            _ => Err(Error::BadHandle { fh }),
        }
    }

    pub(crate) fn take(&self, fh: Fh) -> Result<Handle> {
        let key = fh.0.checked_sub(1).ok_or(Error::BadHandle { fh })?;
        let handle = self.slab.take(key as usize).ok_or(Error::BadHandle { fh })?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Ok(handle)
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed) as usize
    }
}
