//! The system calls of the `file` store. Everything here blocks.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::store::clip;
use crate::walk::{Node, Wanted};
use crate::{ObjectInfo, Payload};

/// Where the checksum stands: decimal text, like the `Crc32c` metadata of other stores.
const CHECKSUM_ATTRIBUTE: &CStr = c"user.cairn.crc32c";
/// A temporary name holds at most this much of the object's name, so that it fits into 255 bytes.
const TEMPORARY_NAME_BYTES: usize = 200;
/// Folders remembered as durable; beyond that the memory starts anew.
const DURABLE_FOLDERS_MAX: usize = 8192;

/// The folder and what was learned about it.
pub(super) struct Disk {
    root: String,
    fsync: bool,
    /// The bucket's folder as it was when the store was first used, or made.
    bucket: OnceLock<Mutex<FolderId>>,
    /// Off after the file system refused an extended attribute.
    attributes: AtomicBool,
    /// Folders whose own names are known to be on disk, with those above them up to the root.
    durable: Mutex<HashSet<PathBuf>>,
}

/// What tells a folder from another one under the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FolderId {
    device: u64,
    inode: u64,
}

impl FolderId {
    fn of(meta: &Metadata) -> FolderId {
        FolderId { device: meta.dev(), inode: meta.ino() }
    }
}

impl Disk {
    pub(super) fn new(root: &str, fsync: bool) -> Disk {
        let (attributes, durable) = (AtomicBool::new(true), Mutex::default());
        Disk { root: root.to_owned(), fsync, bucket: OnceLock::new(), attributes, durable }
    }

    /// Does `work` for a caller: the first one has the bucket's folder remembered, and each is told
    /// what a failure means.
    pub(super) fn run<T>(&self, work: impl FnOnce(&Disk) -> io::Result<T>) -> io::Result<T> {
        if self.bucket.get().is_none()
            && let Some(meta) = self.bucket_now()
        {
            self.bucket.get_or_init(|| Mutex::new(FolderId::of(&meta)));
        }
        work(self).map_err(|e| self.explain(e))
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn path(&self, key: &str) -> PathBuf {
        PathBuf::from(format!("{}{key}", self.root))
    }

    fn folder(&self) -> &Path {
        folder_of(&self.root)
    }

    fn bucket_now(&self) -> Option<Metadata> {
        fs::metadata(self.folder()).ok().filter(Metadata::is_dir)
    }

    /// Fails if the bucket's folder is gone, or another one than at first: below a mount point there
    /// is one as well.
    fn check_bucket(&self) -> io::Result<()> {
        let folder = self.folder().display();
        let Some(meta) = self.bucket_now() else {
            return Err(io::Error::other(format!("the bucket's folder {folder} is not there")));
        };
        if self.bucket.get().is_some_and(|known| *known.lock() != FolderId::of(&meta)) {
            let reason = "is not the one this client started with: is its disk mounted?";
            return Err(io::Error::other(format!("the bucket's folder {folder} {reason}")));
        }
        Ok(())
    }

    /// "Not found" means the object only while the bucket's folder is there, and still the same.
    fn explain(&self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::NotFound => self.check_bucket().err().unwrap_or(error),
            io::ErrorKind::StorageFull => {
                let reason = format!("no space left in the bucket's folder {}", self.folder().display());
                io::Error::new(io::ErrorKind::StorageFull, reason)
            }
            _ => error,
        }
    }

    /// Makes the bucket's folder if it is missing; fails if it can't be written.
    pub(super) fn create(&self) -> io::Result<()> {
        let folder = self.folder();
        DirBuilder::new().recursive(true).mode(0o777).create(folder)?;
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
        if self.fsync {
            let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            sync_folder(parent)?;
        }
        let made = FolderId::of(&fs::metadata(folder)?);
        *self.bucket.get_or_init(|| Mutex::new(made)).lock() = made;
        Ok(())
    }

    /// The whole object, and the checksum stored with it.
    pub(super) fn read(&self, path: &Path) -> io::Result<(Bytes, Option<String>)> {
        let (file, bytes) = open_object(path)?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        // One byte more than expected, so that the end is seen without growing the buffer.
        let mut body = Vec::with_capacity(bytes + 1);
        (&file).read_to_end(&mut body)?;
        Ok((body.into(), self.stored_checksum(&file)))
    }

    pub(super) fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<Bytes> {
        let (file, bytes) = open_object(path)?;
        let range = clip(range, bytes);
        let mut body = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
        file.read_exact_at(&mut body, range.start)?;
        Ok(body.into())
    }

    /// Writes an object under a temporary name and gives it its own; leaves nothing on failure.
    pub(super) fn write(&self, path: &Path, body: &Payload, random: u64) -> io::Result<()> {
        let temporary = temporary_path(path, random);
        let written = self.write_temporary(&temporary, body).and_then(|()| fs::rename(&temporary, path));
        if let Err(e) = written {
            if let Err(left) = fs::remove_file(&temporary)
                && left.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %temporary.display(), error = %left, "a temporary file stays behind");
            }
            return Err(e);
        }
        if self.fsync { self.sync_above(path) } else { Ok(()) }
    }

    fn write_temporary(&self, temporary: &Path, body: &Payload) -> io::Result<()> {
        let mut file = match new_file(temporary) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make_folders_for(temporary)?;
                new_file(temporary)?
            }
            other => other?,
        };
        write_pieces(&mut file, body)?;
        self.store_checksum(&file, body)?;
        if self.fsync { file.sync_all() } else { Ok(()) }
    }

    /// A key ending in `/` is a folder.
    pub(super) fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.make_folders_for(&path.join("x"))?;
        if self.fsync { self.sync_above(&path.join("x")) } else { Ok(()) }
    }

    fn make_folders_for(&self, path: &Path) -> io::Result<()> {
        self.check_bucket()?;
        let folder = path.parent().unwrap_or(self.folder());
        DirBuilder::new().recursive(true).mode(0o777).create(folder)
    }

    /// Makes the name `path` durable, and those of the folders above it that are new to us.
    fn sync_above(&self, path: &Path) -> io::Result<()> {
        let Some(folder) = path.parent() else { return Ok(()) };
        sync_folder(folder)?;
        if folder == self.folder() || !folder.starts_with(self.folder()) || self.durable.lock().contains(folder) {
            return Ok(());
        }
        self.sync_above(folder)?;
        let mut durable = self.durable.lock();
        if durable.len() >= DURABLE_FOLDERS_MAX {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(path),
            other => other,
        }
    }

    fn store_checksum(&self, file: &File, body: &Payload) -> io::Result<()> {
        if !self.attributes.load(Ordering::Relaxed) {
            return Ok(());
        }
        let text = crate::checksum::of_payload(body).to_string();
        match rustix::fs::fsetxattr(file, CHECKSUM_ATTRIBUTE, text.as_bytes(), XattrFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NOSYS) => {
                self.attributes.store(false, Ordering::Relaxed);
                tracing::info!(store = %self.root, "the file system takes no attributes: objects get no checksum");
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    fn stored_checksum(&self, file: &File) -> Option<String> {
        let mut text = [0u8; 32];
        let bytes = rustix::fs::fgetxattr(file, CHECKSUM_ATTRIBUTE, &mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..bytes]).into_owned())
    }
}

/// The bucket's own folder. A bucket without a final slash is the start of a name in it.
pub(super) fn folder_of(root: &str) -> &Path {
    let end = root.rfind('/').map_or(0, |at| at + 1);
    match &root[..end] {
        "" => Path::new("."),
        folder => Path::new(folder),
    }
}

/// `.jfs.<name>.tmp.<random>` in the same folder.
fn temporary_path(path: &Path, random: u64) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    let cut = name.floor_char_boundary(TEMPORARY_NAME_BYTES);
    path.with_file_name(format!(".jfs.{}.tmp.{random}", &name[..cut]))
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(".jfs.") && name.contains(".tmp.")
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o666).open(path)
}

/// An object's file and its bytes. A folder is no object, though it opens.
fn open_object(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() { Err(io::ErrorKind::NotFound.into()) } else { Ok((file, meta.len())) }
}

fn write_pieces(file: &mut File, body: &Payload) -> io::Result<()> {
    let mut pieces: Vec<IoSlice<'_>> = body.0.iter().filter(|p| !p.is_empty()).map(|p| IoSlice::new(p)).collect();
    let mut left = pieces.as_mut_slice();
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => IoSlice::advance_slices(&mut left, bytes),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn info(key: String, path: &Path) -> io::Result<ObjectInfo> {
    let meta = fs::metadata(path)?;
    // A folder is an object only when asked for by its own name, with the slash.
    if meta.is_dir() != key.ends_with('/') {
        return Err(io::ErrorKind::NotFound.into());
    }
    let bytes = if meta.is_dir() { 0 } else { meta.len() };
    Ok(ObjectInfo { key, bytes, modified: meta.modified()? })
}

/// The wanted files and folders of one folder. Names that are not UTF-8 are nobody's objects.
pub(super) fn entries(folder: &str, path: &Path, wanted: &Wanted) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let mut kind = entry.file_type()?;
        if kind.is_symlink() {
            let Ok(target) = fs::metadata(entry.path()) else { continue };
            kind = target.file_type();
        }
        let key = format!("{folder}{name}");
        if kind.is_dir() && !is_temporary(&name) {
            nodes.push(Node::Folder(key + "/"));
        } else if kind.is_file() && is_temporary(&name) == wanted.leftovers && wanted.object(&key) {
            match info(key, &entry.path()) {
                Ok(info) => nodes.push(Node::Object(info)),
                // Removed since its name was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(nodes)
}
