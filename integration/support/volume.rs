//! A volume in a temporary folder.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::command::{Ran, cairn};
use super::mounted::{Mounted, is_mounted};
use super::servers::Engine;

/// Database, store, cache and mount point of one volume, gone when dropped.
pub(crate) struct Volume {
    folder: TempDir,
    url: String,
    bucket: Option<String>,
}

impl Volume {
    /// A folder with nothing formatted in it yet.
    pub(crate) fn unformatted() -> Volume {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new().prefix("cairn-it-").tempdir().expect("a temporary folder");
        // Other users enter the mount through it.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        for name in ["mnt", "store", "cache"] {
            std::fs::create_dir(folder.path().join(name)).expect("it is ours");
        }
        let url = format!("sqlite3://{}/meta.db", folder.path().display());
        Volume { folder, url, bucket: None }
    }

    /// Formatted on this engine, without trash unless `flags` say so.
    #[track_caller]
    pub(crate) fn on(engine: &Engine, flags: &[&str]) -> Volume {
        let volume = Volume { url: engine.url(), ..Volume::unformatted() };
        let no_trash: &[&str] = if flags.contains(&"--trash-days") { &[] } else { &["--trash-days", "0"] };
        volume.format(&[no_trash, flags].concat()).ok();
        volume
    }

    /// Reaches its metadata by another URL from now on: through a proxy, say.
    pub(crate) fn through(mut self, url: String) -> Volume {
        self.url = url;
        self
    }

    /// Formatted without trash, and whatever `flags` say.
    #[track_caller]
    pub(crate) fn new(flags: &[&str]) -> Volume {
        let volume = Volume::unformatted();
        let no_trash: &[&str] = if flags.contains(&"--trash-days") { &[] } else { &["--trash-days", "0"] };
        volume.format(&[no_trash, flags].concat()).ok();
        volume
    }

    /// What somebody else wrote: an existing database and store.
    pub(crate) fn existing(mut self, url: String, bucket: String) -> Volume {
        (self.url, self.bucket) = (url, Some(bucket));
        self
    }

    /// Runs `cairn format` here.
    pub(crate) fn format(&self, flags: &[&str]) -> Ran {
        let store = format!("{}/", self.store().display());
        let mut args = vec!["format", &self.url, "test-volume", "--storage", "file", "--bucket", &store];
        args.extend(flags);
        cairn(args)
    }

    /// Mounts it, with whatever `flags` say, and waits until it is there. Each of several mounts at a
    /// time has a mount point, a cache and a log of its own.
    #[track_caller]
    pub(crate) fn mount(&self, flags: &[&str]) -> Mounted {
        let mut places = std::iter::once("mnt".to_owned()).chain((2..).map(|n| format!("mnt-{n}")));
        let place =
            places.find(|name| !is_mounted(&self.path(name))).map(|name| self.path(&name)).expect("one is free");
        std::fs::create_dir_all(&place).expect("the folder is ours");
        Mounted::start(self, &place, flags).unwrap_or_else(|words| panic!("mount failed: {words}"))
    }

    /// The same, for mounts that must fail: what was said.
    #[track_caller]
    pub(crate) fn mount_refused(&self, flags: &[&str]) -> String {
        match Mounted::start(self, &self.path("mnt"), flags) {
            Ok(_) => panic!("should not have mounted"),
            Err(words) => words,
        }
    }

    /// URL of the metadata.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What `--bucket` must say, where it is not in the setting.
    pub(crate) fn bucket(&self) -> Option<&str> {
        self.bucket.as_deref()
    }

    /// Something in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The bucket.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The database of a volume formatted here.
    pub(crate) fn database(&self) -> PathBuf {
        self.path("meta.db")
    }

    /// Every file of the bucket that holds a block, by path.
    pub(crate) fn blocks(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        let mut todo = vec![self.store()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    todo.push(path);
                } else if is_block(&path) {
                    all.push(path);
                }
            }
        }
        all.sort();
        all
    }

    /// `cairn fsck --verify` finds nothing.
    #[track_caller]
    pub(crate) fn fsck_is_clean(&self) {
        cairn(["fsck", &self.url, "--verify"]).ok();
    }
}

/// `<slice>_<block>_<bytes>` below `chunks`; not what a killed daemon was still writing.
fn is_block(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let fields: Vec<&str> = name.split('_').collect();
    fields.len() == 3 && fields.iter().all(|f| f.parse::<u64>().is_ok()) && path.to_string_lossy().contains("/chunks/")
}
