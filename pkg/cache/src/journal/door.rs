//! The one door between the journal and a disk: what it asks of one, and what a real one answers.
//!
//! The rule behind it is the disk's: nothing is sure to outlive a power cut but the bytes of a file
//! as of its last `sync`, and the names of a folder as of its last `sync_names`. The simulated disk
//! of the tests keeps to the letter of that rule and breaks everything else.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::{Errno, pwritev};

/// Pieces handed to the kernel in one call.
const PIECES_MAX: usize = 1024;

/// One folder that holds the journal. All calls may wait for the disk.
pub trait Door: Send + Sync + std::fmt::Debug {
    /// Makes the folder, if it is not there. It outlives a power cut after [`Door::sync_folder`].
    fn make_folder(&self) -> io::Result<()>;
    /// The folder itself survives a power cut.
    fn sync_folder(&self) -> io::Result<()>;
    /// Keeps others out until the lock is dropped; `None` if somebody else has it.
    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>>;
    /// Names of its files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new file with room for `bytes`.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DoorFile>>;
    /// An existing file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DoorFile>>;
    /// Takes a file away.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Names made and removed until now survive a power cut.
    fn sync_names(&self) -> io::Result<()>;
    /// Share of the file system that would stay free after `bytes` more, 0 to 1.
    fn free_share(&self, bytes: u64) -> io::Result<f64>;
}

/// One file of the journal.
pub trait DoorFile: Send + Sync {
    /// Writes the pieces one after the other.
    fn write_at(&self, at: u64, pieces: &[Bytes]) -> io::Result<()>;
    /// Reads up to `buf.len()` bytes; fewer only at the end.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Bytes of the file.
    fn bytes(&self) -> io::Result<u64>;
    /// What was written until now survives a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of a real disk.
#[derive(Debug)]
pub struct RealDoor {
    folder: PathBuf,
    file_mode: u32,
}

impl RealDoor {
    /// The folder; [`Door::make_folder`] makes it.
    pub fn new(folder: PathBuf, file_mode: u32) -> RealDoor {
        RealDoor { folder, file_mode }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Door for RealDoor {
    fn make_folder(&self) -> io::Result<()> {
        let mode = self.file_mode | ((self.file_mode & 0o444) >> 2);
        DirBuilder::new().recursive(true).mode(mode).create(&self.folder)
    }

    /// Every folder above it may be new too: the volume's own, and that of all caches.
    fn sync_folder(&self) -> io::Result<()> {
        self.folder.ancestors().skip(1).take(3).filter(|p| !p.as_os_str().is_empty()).try_for_each(sync_dir)
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let path = self.path(LOCK_NAME);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(self.file_mode).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DoorFile>> {
        let path = self.path(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(self.file_mode).open(&path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // Some file systems cannot promise room; they take what is written.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Arc::new(RealFile { file })),
            Err(e) => {
                fs::remove_file(&path)?;
                Err(e.into())
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DoorFile>> {
        Ok(Arc::new(RealFile { file: OpenOptions::new().read(true).write(true).open(self.path(name))? }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_dir(&self.folder)
    }

    fn free_share(&self, bytes: u64) -> io::Result<f64> {
        let fs = rustix::fs::statvfs(&self.folder)?;
        let (free, total) = (fs.f_bavail * fs.f_frsize, fs.f_blocks * fs.f_frsize);
        Ok(free.saturating_sub(bytes) as f64 / total.max(1) as f64)
    }
}

/// The file whose lock says that the journal is in use.
pub(crate) const LOCK_NAME: &str = "lock";

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

struct RealFile {
    file: File,
}

impl DoorFile for RealFile {
    fn write_at(&self, mut at: u64, pieces: &[Bytes]) -> io::Result<()> {
        for some in pieces.chunks(PIECES_MAX) {
            let mut slices: Vec<IoSlice<'_>> = some.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut left = &mut slices[..];
            while left.iter().any(|slice| !slice.is_empty()) {
                let written = match pwritev(&self.file, left, at) {
                    Err(Errno::INTR) => continue,
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    written => written?,
                };
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
        }
        Ok(())
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match FileExt::read_at(&self.file, &mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
