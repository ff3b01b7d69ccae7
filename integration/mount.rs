//! Every system call through the kernel, on the real binary: one file for each family of calls.

mod acl;
mod attributes;
mod data;
mod directories;
mod flags;
mod holes;
mod limits;
mod links;
mod locks;
mod mapped;
mod nodes;
mod opening;
mod options;
mod passing;
mod quotas;
mod renames;
mod statfs;
mod trash;
mod two_mounts;
mod virtual_files;
mod warming;
mod xattrs;

use std::fs::{File, OpenOptions};
use std::ops::Deref;

use crate::support::{Mounted, Volume};

/// A fresh volume and its mount; the mount goes first.
pub(crate) struct Fs {
    mounted: Mounted,
    pub(crate) volume: Volume,
}

impl Fs {
    /// Without trash, with default options.
    #[track_caller]
    pub(crate) fn new() -> Fs {
        Fs::with(&[], &[])
    }

    /// With these flags of `format` and of `mount`.
    #[track_caller]
    pub(crate) fn with(format: &[&str], mount: &[&str]) -> Fs {
        let volume = Volume::new(format);
        Fs { mounted: volume.mount(mount), volume }
    }

    /// Unmounts in order and mounts again: what is seen now came from disk.
    #[track_caller]
    pub(crate) fn remount(self, mount: &[&str]) -> Fs {
        let Fs { mounted, volume } = self;
        mounted.unmount();
        Fs { mounted: volume.mount(mount), volume }
    }

    /// Unmounts in order; `fsck --verify` must find nothing.
    #[track_caller]
    pub(crate) fn close(self) {
        let Fs { mounted, volume } = self;
        mounted.unmount();
        volume.fsck_is_clean();
    }

    /// A new file, open for reading and writing.
    #[track_caller]
    pub(crate) fn create(&self, name: &str) -> File {
        let how = OpenOptions::new().read(true).write(true).create_new(true).clone();
        how.open(self.path(name)).unwrap_or_else(|e| panic!("create {name}: {e}"))
    }

    /// A file with this content.
    #[track_caller]
    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap_or_else(|e| panic!("write {name}: {e}"));
    }

    /// A file's content.
    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("read {name}: {e}"))
    }

    /// Names in a directory, sorted.
    #[track_caller]
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(dir)).unwrap_or_else(|e| panic!("list {dir}: {e}"));
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.retain(|n| !VIRTUAL.contains(&n.as_str()));
        names.sort();
        names
    }
}

impl Deref for Fs {
    type Target = Mounted;
    fn deref(&self) -> &Mounted {
        &self.mounted
    }
}

/// What the root shows beside what was put there.
pub(crate) const VIRTUAL: [&str; 5] = [".accesslog", ".config", ".control", ".stats", ".trash"];
