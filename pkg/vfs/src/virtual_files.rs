//! The files that only the mount's root shows: `.stats`, `.config`, `.accesslog`, `.control`, and
//! the name of the trash (volume format 6.1). Nothing about them is stored.

use std::sync::Arc;

use bytes::Bytes;
use cairn_meta::Error as MetaError;
use cairn_types::{Attr, FileType, Ino, Timestamp};

use crate::control::ControlHandle;
use crate::handle::Handle;
use crate::{Cred, Fh, OpenFlags, Opened, Parts, Result, Vfs};

/// Inode of `.accesslog`.
pub const VIRTUAL_LOG: Ino = Ino(Ino::VIRTUAL_BASE.0 + 1);
/// Inode of `.control`.
pub const VIRTUAL_CONTROL: Ino = Ino(Ino::VIRTUAL_BASE.0 + 2);
/// Inode of `.stats`.
pub const VIRTUAL_STATS: Ino = Ino(Ino::VIRTUAL_BASE.0 + 3);
/// Inode of `.config`.
pub const VIRTUAL_CONFIG: Ino = Ino(Ino::VIRTUAL_BASE.0 + 4);

/// Name without the dot, inode, mode.
const FILES: [(&str, Ino, u16); 4] = [
    ("accesslog", VIRTUAL_LOG, 0o400),
    ("control", VIRTUAL_CONTROL, 0o666),
    ("stats", VIRTUAL_STATS, 0o444),
    ("config", VIRTUAL_CONFIG, 0o400),
];
const TRASH: &str = "trash";

/// A text as it was when its file was opened.
pub(crate) struct TextHandle {
    text: Bytes,
}

impl TextHandle {
    pub(crate) fn read(&self, offset: u64, len: u32) -> Bytes {
        let start = offset.min(self.text.len() as u64) as usize;
        let end = (start + len as usize).min(self.text.len());
        self.text.slice(start..end)
    }
}

/// Which of them there are, and what is in them.
pub(crate) struct VirtualFiles {
    parts: Parts,
    prefix: &'static str,
    is_hidden: bool,
    has_trash: bool,
    born: Timestamp,
}

impl VirtualFiles {
    pub(crate) fn new(parts: Parts, config: &crate::Config, born: Timestamp) -> VirtualFiles {
        VirtualFiles {
            parts,
            prefix: if config.prefix_internal { ".jfs." } else { "." },
            is_hidden: config.hide_internal,
            has_trash: !config.subdir,
            born,
        }
    }

    /// The virtual file (or the trash) called `name` in `parent`.
    fn find(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        let bare = std::str::from_utf8(name).ok()?.strip_prefix(self.prefix)?;
        if bare == TRASH {
            return (parent == Ino::ROOT && self.has_trash).then_some(Ino::TRASH);
        }
        let (_, ino, _) = FILES.into_iter().find(|(name, ..)| *name == bare)?;
        (parent == Ino::ROOT || ino == VIRTUAL_CONTROL).then_some(ino)
    }

    /// Names in the root that cannot be made, removed or moved.
    fn reserves(&self, parent: Ino, name: &[u8]) -> bool {
        parent == Ino::ROOT && self.find(parent, name).is_some()
    }

    fn attr(&self, ino: Ino) -> Option<Attr> {
        let (_, _, mode) = FILES.into_iter().find(|(_, known, _)| *known == ino)?;
        let length = if ino == VIRTUAL_CONFIG { (self.parts.config)().len() as u64 } else { 0 };
        let t = self.born;
        Some(Attr {
            kind: FileType::File,
            mode,
            nlink: 1,
            length,
            atime: t,
            mtime: t,
            ctime: t,
            parent: Ino::ROOT,
            ..Attr::default()
        })
    }

    /// What the listing of `dir` shows beside its entries.
    pub(crate) fn listed(&self, dir: Ino) -> Vec<(Bytes, Ino, FileType)> {
        if dir != Ino::ROOT || self.is_hidden {
            return Vec::new();
        }
        let name = |bare: &str| Bytes::from(format!("{}{bare}", self.prefix));
        let files = FILES.into_iter().filter(|(_, ino, _)| *ino != VIRTUAL_CONTROL);
        let mut all: Vec<_> = files.map(|(bare, ino, _)| (name(bare), ino, FileType::File)).collect();
        if self.has_trash {
            all.push((name(TRASH), Ino::TRASH, FileType::Directory));
        }
        all
    }

    pub(crate) fn control(&self) -> Option<&Arc<dyn crate::Control>> {
        self.parts.control.as_ref()
    }
}

impl Vfs {
    /// The virtual file of this name, if that is what it is.
    pub(crate) async fn lookup_virtual(&self, parent: Ino, name: &[u8]) -> Option<Result<(Ino, Attr)>> {
        let ino = self.virtuals.find(parent, name)?;
        Some(self.attr_virtual(ino).await.map(|attr| (ino, attr)))
    }

    /// Attributes of a virtual file or of the trash.
    pub(crate) async fn attr_virtual(&self, ino: Ino) -> Result<Attr> {
        if ino == Ino::TRASH {
            return match self.core.meta.getattr(ino).await {
                // The trash comes into being with the first removal; its name is always there.
                Err(MetaError::NoEntry) => Ok(cairn_meta::ops::trash::trash_root(self.virtuals.born)),
                attr => Ok(attr?),
            };
        }
        self.virtuals.attr(ino).ok_or(MetaError::NoEntry.into())
    }

    pub(crate) fn open_virtual(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        let attr = self.virtuals.attr(ino).ok_or(MetaError::NoEntry)?;
        if flags.write && ino != VIRTUAL_CONTROL {
            return Err(MetaError::Access.into());
        }
        let text = |text: String| Handle::Text(Arc::new(TextHandle { text: text.into() }));
        let fh = self.handles.insert(match ino {
            VIRTUAL_LOG => Handle::Log(self.log.open()),
            VIRTUAL_CONTROL => Handle::Control(ControlHandle::new()),
            VIRTUAL_STATS => text((self.virtuals.parts.stats)()),
            _ => text((self.virtuals.parts.config)()),
        })?;
        Ok(Opened { fh, attr, keep_cache: false, direct: true, uncached: false, created: false, image: None })
    }

    pub(crate) async fn read_virtual(&self, handle: &Handle, offset: u64, len: u32) -> Bytes {
        match handle {
            Handle::Text(text) => text.read(offset, len),
            Handle::Log(log) => log.read(&self.core.env, len).await,
            Handle::Control(control) => control.read(offset, len),
            Handle::File(_) | Handle::Dir(_) => Bytes::new(),
        }
    }

    /// A write to a handle that is no file's.
    pub(crate) fn write_virtual(&self, cred: &Cred, fh: Fh, handle: &Handle, data: &[u8]) -> Result<u32> {
        let Handle::Control(control) = handle else { return Err(crate::Error::BadHandle { fh }) };
        control.write(cred, data, self.virtuals.control(), &self.core.tasks);
        Ok(data.len() as u32)
    }

    /// Names of virtual files can be neither made nor reused.
    pub(crate) fn refuse_new(&self, parent: Ino, name: &[u8]) -> Result<()> {
        if self.virtuals.reserves(parent, name) { Err(MetaError::Exists.into()) } else { Ok(()) }
    }

    /// Virtual files cannot be removed or moved, nor can the trash.
    pub(crate) fn refuse_removal(&self, parent: Ino, name: &[u8]) -> Result<()> {
        if self.virtuals.reserves(parent, name) { Err(MetaError::NotPermitted.into()) } else { Ok(()) }
    }

    /// Virtual files cannot be changed.
    pub(crate) fn refuse_virtual(&self, ino: Ino) -> Result<()> {
        if ino.is_virtual() { Err(MetaError::NotPermitted.into()) } else { Ok(()) }
    }
}
